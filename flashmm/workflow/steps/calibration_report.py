"""The report of a calibration study."""

from __future__ import annotations

from typing import Any

import pandas as pd

from flashmm.benchmark.calibration import CalibrationMethod
from flashmm.benchmark.criteria import average_replicates
from flashmm.io.tables import read_table, write_table
from flashmm.report.calibration import write_calibration_report
from flashmm.workflow.jobs import recipe


def run(job: Any) -> None:
    """Make the outputs of the job."""
    params, out = job.params, job.output
    parts = [
        read_table(path).assign(scenario=scenario, replicate=replicate)
        for path, (scenario, replicate) in zip(job.input.metrics, params.runs, strict=True)
    ]
    metrics = average_replicates(pd.concat(parts, ignore_index=True))
    write_table(metrics, out.metrics, out.tsv, recipe(job))
    write_calibration_report(
        out.html,
        out.figures,
        metrics=metrics,
        scenarios=params.scenarios,
        methods=[CalibrationMethod.of(method) for method in params.methods],
        config=params.config,
    )
