"""Pseudobulk tests of other packages, by a script of R on the added counts of each cell type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from flashmm.benchmark.data import DataSet, MethodResult, Request
from flashmm.options import InputError, note
from flashmm.storage.programs import find_program, run_on_tables

PROGRAMS = ("edgeR-QL", "limma-voom", "voom-qw", "DESeq2")
#: Genes with fewer counts in a cell type are not given to a program.
MIN_COUNTS = 20


def peer(
    data: DataSet,
    request: Request,
    *,
    program: str = PROGRAMS[0],
    min_counts: float = MIN_COUNTS,
    timeout: float = 600,
) -> MethodResult:
    """Tests of another package, per cell type, through Rscript."""
    if find_program("Rscript") is None:
        raise InputError(f"{program} needs R, and there is no program Rscript.")
    parts, notes = [], []
    levels = pd.Categorical(data.groups.obs[request.factor]).remove_unused_categories().categories
    for name, rows in data.groups.obs.groupby(request.cell_type, observed=True).indices.items():
        contrast = f"{request.cell_type}[{name}]:{request.factor}[T.{levels[-1]}]"
        tables = _tables(data, request, np.asarray(rows), levels, min_counts)
        if tables["design"]["condition"].value_counts().min() < 2:
            notes.append(note(f"{name}: {program} needs two subjects of each side."))
            continue
        command = ["Rscript", "--vanilla", str(data.peers)]
        found = run_on_tables(command, tables, [program], timeout=timeout)
        parts.append(found.assign(contrast=contrast))
    if not parts:
        raise InputError(f"{program}: no cell type has two subjects of each side.")
    return MethodResult(pd.concat(parts, ignore_index=True), notes=tuple(notes))


def _tables(
    data: DataSet, request: Request, rows: np.ndarray, levels: Any, min_counts: float
) -> dict[str, pd.DataFrame]:
    """Counts (genes, samples) and design of one cell type, the samples sorted by side."""
    obs, counts = data.groups.obs, data.groups.counts
    assert counts is not None
    side = pd.Categorical(obs[request.factor].iloc[rows], levels, ordered=True)
    rows = rows[np.argsort(side.codes, kind="stable")]
    bulk = counts[rows]
    kept = bulk.sum(0) >= min_counts
    names = [f"s{i}" for i in range(len(rows))]
    table = pd.DataFrame(bulk[:, kept].T.astype(np.int64), columns=names)
    table.insert(0, "gene", np.asarray(data.groups.genes[kept], dtype=object))
    condition = pd.Categorical(obs[request.factor].iloc[rows].astype(str), levels.astype(str))
    return {"counts": table, "design": pd.DataFrame({"sample": names, "condition": condition})}
