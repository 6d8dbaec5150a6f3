"""All methods of a calibration study on one data set."""

from __future__ import annotations

from typing import Any

import pandas as pd

from flashmm.benchmark.calibration import CalibrationMethod, calibrate
from flashmm.io.groups import read_groups
from flashmm.io.tables import write_table
from flashmm.workflow.jobs import measured, recipe


def run(job: Any) -> None:
    """Make the outputs of the job."""
    params = job.params
    groups = read_groups(job.input.groups)
    truth = pd.read_csv(job.input.truth, sep="\t", dtype={"gene": str, "cell_type": str})
    methods = [CalibrationMethod.of(method) for method in params.methods]
    with measured(job.output.measured, genes=groups.n_genes, cells=groups.n_cells):
        metrics = calibrate(
            groups,
            truth,
            methods,
            params.fixed,
            same_unit=params.same_unit,
            matching=params.matching,
            seed=params.seed,
        )
    write_table(metrics, job.output.metrics, provenance=recipe(job))
