"""Tests of all methods of a data set against the truth."""

from __future__ import annotations

from typing import Any

import pandas as pd

from flashmm.benchmark.evaluation import evaluate
from flashmm.io.tables import read_table, write_table
from flashmm.workflow.jobs import recipe


def evaluated(
    method: str, path: str, truth: pd.DataFrame | None, params: Any
) -> dict[str, pd.DataFrame]:
    """The tables of a method by name, led by its name; none where it has no tests."""
    table = read_table(path)
    if not len(table):
        return {}
    evaluation = evaluate(
        table,
        truth,
        cell_type=params.within[method] or "cell_type",
        levels=params.levels,
        fdr=params.fdr,
    )
    tables = {"metrics": evaluation.metrics, **evaluation.curves}
    for frame in tables.values():
        frame.insert(0, "method", method)
    return tables


def run(job: Any) -> None:
    """Make the outputs of the job."""
    path, params = job.input.get("truth"), job.params
    truth = pd.read_csv(path, sep="\t", dtype={"gene": str, "cell_type": str}) if path else None
    methods = [
        evaluated(method, table, truth, params)
        for method, table in zip(params.within, job.input.tables, strict=True)
    ]
    made = recipe(job)
    for name, output in dict(job.output.items()).items():
        parts = [tables[name] for tables in methods if name in tables]
        whole = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"method": []})
        write_table(whole, output, provenance=made)
