"""Counts of all cells as one sparse matrix, for methods that need the cells themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from flashmm.cells.counts import CellMatrix, open_counts
from flashmm.names import listed
from flashmm.options import InputError
from flashmm.storage.files import PathLike


@dataclass(frozen=True, eq=False)
class SparseCounts:
    """Raw counts in memory.

    Attributes
    ----------
    values : (cells, genes) csr_matrix of float32
        Counts.
    obs : DataFrame
        The columns that were asked for, by name of the cell, and `libsize`.
    genes : Index
        Names of the genes.
    complete : bool
        Whether these are all cells of one file; else some had missing values, or there are several.
    """

    values: sparse.csr_matrix
    obs: pd.DataFrame
    genes: pd.Index
    complete: bool


def read_sparse(
    data: Sequence[ad.AnnData | PathLike],
    columns: Sequence[str],
    *,
    genes: pd.Index | None = None,
    layer: str | None = None,
    libsize: str = "libsize",
) -> SparseCounts:
    """Read the counts of all cells that have values in all columns.

    Parameters
    ----------
    data : sequence of AnnData or path
        Parts with the same genes; their cells belong together.
    columns : sequence of str
        Columns of the cells.
    genes : Index, optional
        The genes to read; by default all.
    layer : str, optional
        Layer of the counts; None takes `X`.
    libsize : str
        Column of the library sizes; without it, the totals of the cells over all genes.

    Returns
    -------
    SparseCounts

    Raises
    ------
    InputError
        A file or column is missing, values are no counts, or parts have other genes.
    """
    parts = []
    for item in data:
        with open_counts(item, layer) as source:
            source.check_names()
            parts.append(_part(source, columns, genes, libsize))
    first = parts[0]
    for other in parts[1:]:
        if not first.genes.equals(other.genes):
            raise InputError(f"The files of counts have other genes: {listed(map(str, data), 3)}.")
    if len(parts) == 1:
        return first
    values = sparse.vstack([part.values for part in parts], format="csr")
    obs = pd.concat([part.obs for part in parts])
    return SparseCounts(values, obs, first.genes, complete=False)


def _part(
    source: CellMatrix, columns: Sequence[str], genes: pd.Index | None, libsize: str
) -> SparseCounts:
    """Counts of one file."""
    names = source.genes.astype(str)
    wanted = names if genes is None else genes
    place, total = wanted.get_indexer(names), np.zeros(source.n_cells)
    cells, minor, values = [], [], []
    for block in source.blocks():
        source.require_counts(block, "log2p1")
        np.add.at(total, block.cells, block.values)
        kept = (place[block.genes] >= 0) & (block.values != 0)
        cells.append(block.cells[kept])
        minor.append(place[block.genes[kept]])
        values.append(np.asarray(block.values[kept], dtype=np.float32))
    shape = source.n_cells, len(wanted)
    entries = np.concatenate(values), (np.concatenate(cells), np.concatenate(minor))
    counts = sparse.coo_matrix(entries, shape).tocsr()
    counts.sort_indices()
    obs = source.table()[list(columns)].copy() if columns else source.table()[[]].copy()
    sized = libsize in source.column_names()
    obs["libsize"] = source.columns([libsize])[libsize].to_numpy() if sized else total
    kept = obs.notna().all(axis=1).to_numpy()
    return SparseCounts(counts[kept], obs[kept], wanted, complete=bool(kept.all()))
