"""Fits of a data set beside those of MixedLM."""

from __future__ import annotations

from typing import Any

import pandas as pd

from flashmm.benchmark.agreement import compare_fits, fit_frame, pair_fits
from flashmm.inference.testing import contrast_tests
from flashmm.io.fits import read_fit
from flashmm.io.tables import read_table, write_table
from flashmm.workflow.jobs import recipe


def compared(fit: Any, tests: str, fits: str, attempts: str) -> dict[str, pd.DataFrame]:
    """The tables that a fit and MixedLM's make, by name."""
    # every coefficient; MixedLM has no degrees of freedom, residual ones are closest to its z tests
    ours = [contrast_tests(fit, ddf="residual").to_frame(), fit_frame(fit)]
    reference = [read_table(tests), read_table(fits)]
    return {
        "agreement": compare_fits(ours, reference),
        "pairs": pair_fits(ours, reference),
        "attempts": read_table(attempts),
    }


def run(job: Any) -> None:
    """Make the outputs of the job."""
    given, made = job.input, recipe(job)
    files = zip(
        job.params.methods,
        given.groups,
        given.fits,
        zip(given.reference_tests, given.reference_fits, given.attempts, strict=True),
        strict=True,
    )
    methods = {
        method: compared(read_fit(fit, groups), *reference)
        for method, groups, fit, reference in files
    }
    for name, path in dict(job.output.items()).items():
        parts = [tables[name].assign(method=method) for method, tables in methods.items()]
        whole = pd.concat(parts, ignore_index=True)
        whole.insert(0, "method", whole.pop("method"))
        write_table(whole, path, provenance=made)
