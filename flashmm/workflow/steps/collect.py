"""Tables of all data sets joined into one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from flashmm.io.tables import read_table, write_table
from flashmm.io.verdicts import cost_table, status_table, summed_costs
from flashmm.workflow.jobs import recipe

READERS = {"costs": cost_table, "status": status_table}


def named(run: Mapping[str, Any], frame: pd.DataFrame) -> pd.DataFrame:
    """The part of one data set, led by the columns that name it."""
    return pd.concat([pd.DataFrame([run] * len(frame), index=frame.index), frame], axis=1)


def run(job: Any) -> None:
    """Make the outputs of the job."""
    made = recipe(job)
    texts = {Path(path).stem: path for path in job.output.tsv}
    for path in job.output.parquet:
        table = Path(path).stem
        parts = map(READERS.get(table, read_table), job.input[table])
        runs = job.params.runs[table]
        whole = pd.concat(list(map(named, runs, parts)), ignore_index=True)
        whole = summed_costs(whole) if table == "costs" else whole
        write_table(whole, path, texts.get(table), made)
