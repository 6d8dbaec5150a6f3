"""Pseudobulk tests of other packages, by a script of R on the added counts of each cell type."""

from __future__ import annotations

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
    levels = pd.Categorical(data.groups.obs[request.factor]).remove_unused_categories().categories
    design, notes = _design(data.groups.obs, request, levels, program)
    if design.empty:
        raise InputError(f"{program}: no cell type has two subjects of each side.")
    found = run_on_tables(
        ["Rscript", "--vanilla", str(data.peers)],
        {"counts": _counts(data, design), "design": design},
        [program, str(min_counts)],
        timeout=timeout,
    )
    kind = found["cell_type"].astype(str)
    contrast = request.cell_type + "[" + kind + f"]:{request.factor}[T.{levels[-1]}]"
    return MethodResult(found.assign(contrast=contrast), notes=notes)


def _design(
    obs: pd.DataFrame, request: Request, levels: pd.Index, program: str
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """`sample, cell_type, condition` of groups by their row, sorted by condition."""
    design = pd.DataFrame(
        {
            "sample": [f"s{i}" for i in range(len(obs))],
            "cell_type": obs[request.cell_type].astype(str).to_numpy(),
            "condition": pd.Categorical(obs[request.factor], levels),
        }
    )
    sizes = pd.crosstab(design["cell_type"], design["condition"], dropna=False)
    few = sizes.index[sizes.min(axis=1) < 2]
    notes = tuple(note(f"{name}: {program} needs two subjects of each side.") for name in few)
    kept = design[~design["cell_type"].isin(few)].sort_values("condition", kind="stable")
    return kept, notes


def _counts(data: DataSet, design: pd.DataFrame) -> pd.DataFrame:
    """`gene` and a column of counts per sample."""
    counts = data.groups.counts
    assert counts is not None
    bulk = counts[design.index.to_numpy()].T.astype(np.int64)
    table = pd.DataFrame(bulk, columns=design["sample"].to_numpy())
    table.insert(0, "gene", np.asarray(data.groups.genes, dtype=object))
    return table
