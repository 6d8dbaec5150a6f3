"""The tests of a fit that was joined from shards."""

from __future__ import annotations

from typing import Any

from flashmm.io.fits import read_fit
from flashmm.workflow.jobs import write_measured
from flashmm.workflow.tests_of_fit import write_tests


def run(job: Any) -> None:
    """Make the outputs of the job."""
    fit = read_fit(job.input.fit, job.input.groups)
    write_tests(job, fit)
    write_measured(job.output.measured, genes=len(fit.genes))
