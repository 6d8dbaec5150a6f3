"""The report of a run."""

from __future__ import annotations

from typing import Any

from flashmm.report.inputs import Inputs
from flashmm.report.run import write_report


def run(job: Any) -> None:
    """Make the outputs of the job."""
    write_report(job.output.html, Inputs.from_job(job), job.threads)
