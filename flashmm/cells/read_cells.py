"""Cells of any container as one AnnData in memory, for programs that read nothing else."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from flashmm.cells.counts import CellMatrix, open_counts
from flashmm.cells.gene_names import GeneNames
from flashmm.cells.sheet import Sheet
from flashmm.options import checked, note
from flashmm.storage.files import PathLike


@checked
def read_cells(
    data: ad.AnnData | PathLike,
    *,
    obs: Sheet | None = None,
    layer: str | None = None,
    gene_names: str | None = None,
    duplicate_genes: str | None = None,
) -> ad.AnnData:
    """Read the cells of any container into memory, their values sparse.

    Parameters
    ----------
    data, obs, layer, gene_names, duplicate_genes
        As for one input of `summarise`.

    Returns
    -------
    anndata.AnnData
        (cells, genes) CSR, in single precision where that holds all values exactly; the columns of
        `obs` go before those of the container, and cells without a row there are left out.

    Raises
    ------
    InputError
        As of `summarise`.
    """
    named = GeneNames(gene_names, duplicate_genes)
    with open_counts(data, layer, obs=obs, genes=named) as source:
        source.check_names()
        for text in source.said(source.column_names()):
            note(text)
        table, listed = source.table(), source.has_row()
        values = _values(source)
        var = _table_of_genes(source)
    if not listed.all():
        lost = np.count_nonzero(~listed)
        note(f"{source.name}: {lost} of {len(listed)} cells have no row in obs; they are left out.")
    return ad.AnnData(values[listed], obs=table[listed], var=var)


def _values(source: CellMatrix) -> sparse.csr_matrix:
    """All values of a matrix."""
    cells, genes, values = [], [], []
    for block in source.blocks():
        stored = block.values != 0
        cells.append(block.cells[stored].astype(np.int32))
        genes.append(block.genes[stored].astype(np.int32))
        raw = block.values[stored]
        single = raw.astype(np.float32)
        values.append(single if (single == raw).all() else raw)
    entries = np.concatenate(values), (np.concatenate(cells), np.concatenate(genes))
    matrix = sparse.coo_matrix(entries, (source.n_cells, len(source.genes))).tocsr()
    matrix.sort_indices()
    return matrix


def _table_of_genes(source: CellMatrix) -> pd.DataFrame:
    """Names of the genes, and what else the container says of them where none was added up."""
    container, places = source.container, source.chosen.places
    var = pd.DataFrame(index=pd.Index(source.genes.astype(str)))
    kept = np.full(len(container.genes), True) if places is None else places >= 0
    if np.count_nonzero(kept) != len(var):
        return var
    with container.reading():
        columns = {name: container.gene_column(name)[kept] for name in container.gene_columns()}
    return var.assign(**{name: np.asarray(column) for name, column in columns.items()})
