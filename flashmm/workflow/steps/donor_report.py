"""The report of a study on real donors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from flashmm.benchmark.donor_metrics import judge
from flashmm.io.tables import read_table, write_table
from flashmm.report.donors import write_donor_report
from flashmm.workflow.jobs import recipe


def run(job: Any) -> None:
    """Make the outputs of the job."""
    params, out = job.params, job.output
    tests = pd.concat(map(read_table, job.input.tests), ignore_index=True)
    metrics = judge(tests)
    write_table(metrics, out.metrics, out.tsv, recipe(job))
    notes = [line for path in job.input.notes for line in Path(path).read_text().splitlines()]
    write_donor_report(
        out.html,
        out.figures,
        metrics=metrics,
        methods=params.methods,
        notes=list(dict.fromkeys(notes)),
        config=params.config,
    )
