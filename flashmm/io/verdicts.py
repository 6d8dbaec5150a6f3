"""How methods ended and what they took, as JSON beside their tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from flashmm.storage.files import PathLike, atomic_path, reading


def write_status(
    path: PathLike,
    status: str = "ok",
    message: str = "",
    log: Sequence[str] = (),
    *,
    genes: int,
    genes_total: int | None = None,
) -> None:
    """Write how a method ended.

    Parameters
    ----------
    path : path
        The JSON file.
    status : str
        One of `flashmm.benchmark.external.STATUSES`.
    message : str
        Why there are no tests.
    log : sequence of str
        Its last lines.
    genes, genes_total : int
        Genes that were tested, and genes of the data set (by default as many).
    """
    record = {
        "status": status,
        "message": message,
        "log": list(log),
        "genes": genes,
        "genes_total": genes if genes_total is None else genes_total,
    }
    with atomic_path(path) as unfinished:
        unfinished.write_text(json.dumps(record, ensure_ascii=False) + "\n", "utf-8")


def read_status(path: PathLike) -> dict[str, Any]:
    """Read what `write_status` wrote."""
    with reading(path):
        return dict(json.loads(Path(path).read_text("utf-8")))


#: What is known of the costs of a step.
COSTS = (
    *("seconds", "cpu_seconds", "peak_memory_mib", "baseline_memory_mib"),
    *("genes", "genes_total"),
)


def status_table(path: PathLike) -> pd.DataFrame:
    """One row: `status, message, log` (lines)."""
    found = read_status(path)
    row = {"status": found["status"], "message": found["message"], "log": "\n".join(found["log"])}
    return pd.DataFrame([row])


def cost_table(path: PathLike) -> pd.DataFrame:
    """One row of `COSTS`: of the whole job, from the file to the table, where that was measured."""
    found = read_status(path)
    row = {**found, **found.get("job", {})}
    row["genes_total"] = row.get("genes_total", row.get("genes"))
    return pd.DataFrame([{name: row.get(name) for name in COSTS}]).astype(float)


def summed_costs(costs: pd.DataFrame) -> pd.DataFrame:
    """Add up the jobs of a step.

    Parameters
    ----------
    costs : DataFrame
        Columns that name the step, and `COSTS`; a row per job.

    Returns
    -------
    DataFrame
        A row per step, in the order of the first jobs: seconds and genes added up, of memory that
        of the largest job.
    """
    names = [column for column in costs if column not in COSTS]
    how = dict.fromkeys(COSTS, "max") | {"seconds": "sum", "cpu_seconds": "sum"}
    return costs.groupby(names, sort=False, dropna=False, as_index=False).agg(how)
