"""Counts in blocks: one pass over cells x genes, from a file or memory, in bounded memory."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from flashmm.cells.block import Block, Matrix
from flashmm.cells.container import Container
from flashmm.cells.containers import opened
from flashmm.cells.gene_names import STORED_NAMES, ChosenGenes, GeneNames, Genes, named_genes
from flashmm.cells.looks import COUNTED, Values, looks_like, without_lost_labels
from flashmm.cells.matrices import matrix_shape, wrap_matrix
from flashmm.cells.sheet import MatchedSheet, Sheet, matched
from flashmm.cells.transforms import check_libsize, find_transform, is_counts
from flashmm.names import listed, text
from flashmm.options import InputError
from flashmm.storage.files import PathLike

PEEK = 2**16  # nonzero values that are looked at to tell what a matrix holds
CHUNK_NNZ = 2**21  # nonzero values of a block; the pass needs 40 to 100 bytes for each


@dataclass(frozen=True)
class CellRange:
    """Which cells of a matrix to read; all of them unless one of the two is given.

    Attributes
    ----------
    cells : tuple of int, optional
        First cell, and one past the last.
    shard : tuple of int, optional
        (i, n): part i, from 1 to n, of n parts of consecutive cells, equal up to one cell.
    """

    cells: tuple[int, int] | None = None
    shard: tuple[int, int] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether all cells are meant."""
        return self.cells is None and self.shard is None

    def bounds(self, n_cells: int, name: str) -> tuple[int, int]:
        """First cell and one past the last, of `n_cells`; an InputError where there are none."""
        if self.cells is not None and self.shard is not None:
            raise InputError("cells and shard both say which cells to read; give one of them.")
        if self.shard is not None:
            i, n = _pair(self.shard, "shard", "(i, n), part i of n")
            if not 1 <= i <= n <= n_cells:
                raise InputError(
                    f"shard={(i, n)} of {name}: the first number goes from 1 to the second, and "
                    f"that to the number of cells, {n_cells}."
                )
            return (i - 1) * n_cells // n, i * n_cells // n
        if self.cells is None:
            return 0, n_cells
        start, stop = _pair(self.cells, "cells", "(start, stop)")
        if not 0 <= start < stop <= n_cells:
            raise InputError(
                f"cells={(start, stop)} of {name}: start is included, stop is not, and "
                f"0 <= start < stop <= {n_cells}, the number of cells."
            )
        return start, stop


def _pair(given: Any, argument: str, meaning: str) -> tuple[int, int]:
    try:
        first, second = map(operator.index, given)
    except (TypeError, ValueError):
        raise InputError(f"{argument}={given!r} is not two whole numbers {meaning}.") from None
    return first, second


ALL_CELLS = CellRange()


@dataclass(frozen=True, eq=False)
class CellMatrix:
    """Cells x genes that can be streamed, with what is known of the cells.

    Attributes
    ----------
    name : str
        What messages call it.
    container : Container
        Where it is: names of all cells and of the genes, and the table of all cells.
    matrix : Matrix
        The values of the cells that are read.
    rows : slice
        Which cells these are.
    chosen : Genes
        The genes as they are used.
    sheet : MatchedSheet or None
        What is known of all cells beside their container; goes before its columns.
    """

    name: str
    container: Container
    matrix: Matrix
    rows: slice
    chosen: Genes
    sheet: MatchedSheet | None = None

    @property
    def path(self) -> Path | None:
        """The file; None for an AnnData in memory."""
        return self.container.path

    @property
    def genes(self) -> pd.Index:
        """Names of the genes: (genes,)."""
        return self.chosen.names

    @property
    def n_cells(self) -> int:
        """Number of cells that are read."""
        return self.matrix.shape[0]

    def check_names(self) -> None:
        """Raise an InputError where two cells or two genes have the same name.

        Of several ranges of one matrix, the first looks at all cells, the others at their own.
        """
        rows = self.rows if self.rows.start else slice(None)
        with self.container.reading():
            cells = np.asarray(self.container.cell_names[rows])
        if len(set(cells.tolist())) < len(cells):  # a set of them is made faster than an index
            advice = "Make them unique (adata.obs_names_make_unique())."
            self._check_unique("cells", pd.Index(cells), advice)
        self.check_gene_names()

    def check_gene_names(self) -> None:
        """Raise an InputError where two genes have the same name."""
        self._check_unique("genes", self.genes, self._of_gene_names())

    def _check_unique(self, what: str, names: pd.Index, advice: str) -> None:
        if not names.is_unique:
            twice = names[names.duplicated()].unique()
            raise InputError(
                f"{self.name}: {len(twice)} names are given to more than one of the {what}: "
                f"{listed(map(text, twice), 3)}. {advice}"
            )

    def _of_gene_names(self) -> str:
        """What to do where several genes have one name."""
        columns = listed(self.container.gene_columns(), 5)
        return (
            "Add them up with duplicate_genes='sum', number them with duplicate_genes='unique', or "
            f"name genes by another column with gene_names= (there are {columns})."
        )

    def column_names(self) -> list[str]:
        """Names of the columns of the table of cells, those of a sheet first."""
        stored = self.container.column_names()
        of_sheet = [] if self.sheet is None else list(self.sheet.table.columns)
        return list(dict.fromkeys([*of_sheet, *stored]))

    def columns(self, names: Sequence[str]) -> pd.DataFrame:
        """Read some columns of the table of cells: (cells, names)."""
        there = self.column_names()
        lacking = [name for name in names if name not in there]
        if lacking:
            raise InputError(
                f"{self.name} has no column {listed(lacking)} in obs; it has {listed(there, 40)}."
                f"{'' if there else ' Give the columns of the cells with obs=.'}"
            )
        of_sheet = [] if self.sheet is None else [n for n in names if n in self.sheet.table]
        with self.container.reading():
            stored = self.container.columns([name for name in names if name not in of_sheet])
        stored = stored.iloc[self.rows].reset_index(drop=True)
        if self.sheet is not None:
            ours = self.sheet.table[of_sheet].iloc[self.rows].reset_index(drop=True)
            stored = pd.concat([ours, stored], axis=1)[list(names)]
        found = {name: stored[name] for name in names}
        mended = {name: without_lost_labels(column) for name, column in found.items()}
        return stored.assign(**{n: new for n, new in mended.items() if new is not found[n]})

    def said(self, names: Sequence[str]) -> list[str]:
        """What was decided about genes, the sheet of cells and these columns."""
        of_sheet = () if self.sheet is None else self.sheet.table.columns
        stored = [name for name in names if name not in of_sheet]
        with self.container.reading():
            coded = self.container.coded(stored)
        said = [*self.chosen.notes, *(() if self.sheet is None else self.sheet.notes)]
        if coded:
            said.append(
                f"{self.name}: {listed(coded)} in obs holds numbers of labels, which stand in uns "
                f"('{coded[0]}_categories'); the labels are used."
            )
        return said

    def has_row(self) -> np.ndarray:
        """Whether a sheet, if there is one, has a row for each cell: (cells,) bool."""
        return np.full(self.n_cells, True) if self.sheet is None else self.sheet.listed[self.rows]

    def unlisted(self) -> int:
        """Number of cells that a sheet has no row for."""
        return int(np.count_nonzero(~self.has_row()))

    def table(self) -> pd.DataFrame:
        """Read all columns of the table of cells: (cells, columns), indexed by cell name."""
        with self.container.reading():
            index = pd.Index([text(name) for name in self.container.cell_names[self.rows]])
        return self.columns(self.column_names()).set_axis(index, axis=0)

    def totals(self, chunk_nnz: int = CHUNK_NNZ) -> np.ndarray:
        """Sum of all values of each cell: (cells,); a pass over the values."""
        total = np.zeros(self.n_cells)
        for block in self.blocks(chunk_nnz):
            np.add.at(total, block.cells, block.values)
        return total

    def cell_name(self, position: int) -> str:
        """Name of one cell, for a message."""
        return text(self.container.cell_names[self.rows.start + int(position)])

    def blocks(self, chunk_nnz: int = CHUNK_NNZ) -> Iterator[Block]:
        """Yield all nonzero values, about `chunk_nnz` at a time.

        Each gene's cells come in ascending order. Values are finite; see `require_counts`.
        """
        if chunk_nnz < 1:
            raise InputError(f"chunk_nnz={chunk_nnz} must be at least 1.")
        with self.container.reading():
            for block in self.matrix.blocks(chunk_nnz):
                if block.largest_count < 0:
                    self._refuse(block, np.isnan(block.values), "not a number")
                    self._refuse(block, np.isinf(block.values), "infinite")
                yield block

    def check_looks(self, transform: str, counted: str | None) -> None:
        """Refuse what a look at the first values shows to be no counts, where counts are needed.

        Parameters
        ----------
        transform : str
            The transform.
        counted : str or None
            The column of library sizes, where these have to be counted from the values.

        Raises
        ------
        InputError
            The values are no counts, neither whole nor fractional, and the transform is one of
            counts, or library sizes would be sums of them.
        """
        block = next(self.blocks(PEEK))
        look = looks_like(block)
        if look in COUNTED:
            return
        if find_transform(transform).needs_counts:
            self.require_counts(block, transform)
        if counted is not None:
            raise InputError(
                f"{self.name}: {look.sentence} Library sizes cannot be counted from these, and obs "
                f"has no column '{counted}': leave log({counted}) out of the model, or add the "
                f"totals of the raw counts to obs as the column '{counted}'."
            )

    def has_fractions(self, block: Block, transform: str) -> bool:
        """Whether counts of a block are fractional; an InputError where one is negative."""
        if block.largest_count >= 0 or is_counts(block.values):
            return False
        if (negative := block.values < 0).any():
            self._refuse(block, negative, "negative", self._advice(block, transform))
        return True

    def require_counts(self, block: Block, transform: str) -> None:
        """Raise an InputError unless the values are integers from 0, as `transform` needs."""
        if block.largest_count >= 0:
            return
        advice = self._advice(block, transform)
        self._refuse(block, block.values < 0, "negative", advice)
        self._refuse(block, block.values != np.floor(block.values), "not an integer", advice)

    def _advice(self, block: Block, transform: str) -> str:
        return (
            f" {looks_like(block).sentence} The transform '{transform}' needs raw counts: "
            f"{self._where_counts_are()}, or use transform='none' for values that are transformed "
            "already, in a formula without log(libsize), which they do not have."
        )

    def _where_counts_are(self) -> str:
        """What to do to read counts: the layers that hold them, by name."""
        found = [name for name in self.container.others if self.looks_like(name) is Values.COUNTS]
        if not found:
            return "name the layer that holds them"
        return f"ask for layer='{found[0]}' ({listed(found)} of this input hold whole numbers)"

    def looks_like(self, other: str | None = None) -> Values:
        """What the first values of the matrix, or of another one of the same cells, look like."""
        source = self.matrix
        if other is not None:
            values, name = self.container.others[other], f"{self.name}, layer '{other}'"
            shape = matrix_shape(values, name)
            source = wrap_matrix(values, shape, 0, shape[0], name)
        with self.container.reading():
            return looks_like(next(iter(source.blocks(PEEK))))

    def _refuse(self, block: Block, bad: np.ndarray, fault: str, advice: str = "") -> None:
        if not bad.any():
            return
        first = np.argmax(bad)
        raise InputError(
            f"{self.name}: the value of cell '{self.cell_name(block.cells[first])}' and gene "
            f"'{self.genes[block.genes[first]]}' is {fault} ({block.values[first]}); "
            f"{np.count_nonzero(bad)} such values in this block of {len(bad)}.{advice}"
        )


def read_genes(
    data: ad.AnnData | PathLike,
    genes: Sequence[str],
    *,
    transform: str = "log2p1",
    layer: str | None = None,
    libsize: str = "libsize",
) -> tuple[pd.DataFrame, np.ndarray]:
    """Read a few genes of all cells, transformed, with the table of cells.

    Parameters
    ----------
    data : anndata.AnnData or path
        As for `open_counts`.
    genes : sequence of str
        Names of genes.
    transform, layer, libsize : str
        As for `flashmm.cells.summary.summarise`.

    Returns
    -------
    obs : pandas.DataFrame
        (cells, columns) All columns of the table of cells; the column `libsize` is added where
        there is none.
    values : numpy.ndarray
        (cells, genes) Transformed values in the order of `genes`.
    """
    rule = find_transform(transform)
    with open_counts(data, layer) as source:
        source.check_names()
        wanted = pd.Index(genes)
        if not wanted.isin(source.genes).all():
            lacking = wanted[~wanted.isin(source.genes)]
            raise InputError(f"{source.name} has no gene {listed(lacking)}.")
        obs = source.table()
        source.check_looks(transform, None if libsize in obs or not rule.needs_libsize else libsize)
        if libsize not in obs:
            obs[libsize] = source.totals()
        sizes = obs[libsize].to_numpy() if rule.needs_libsize else np.ones(len(obs))
        check_libsize(sizes, libsize, source.name)
        values = np.zeros((source.n_cells, len(wanted)))
        columns = wanted.get_indexer(source.genes)
        for block in source.blocks():
            if rule.needs_counts:
                source.has_fractions(block, transform)
            column = columns[block.genes]
            kept = (column >= 0) & (block.values != 0)
            cells, raw = block.cells[kept], block.values[kept]
            values[cells, column[kept]] = rule.apply(raw, sizes[cells])
    return obs, values


@contextmanager
def open_counts(
    data: ad.AnnData | PathLike,
    layer: str | None = None,
    part: CellRange = ALL_CELLS,
    *,
    obs: Sheet | None = None,
    genes: GeneNames = STORED_NAMES,
) -> Iterator[CellMatrix]:
    """Open a matrix of cells x genes for streaming.

    Parameters
    ----------
    data : anndata.AnnData or path
        One of the kinds of `flashmm.cells.containers`.
    layer : str, optional
        Name of the layer; None takes `X`. In files of 10x, a kind of features or a genome.
    part : CellRange
        Which cells to read.
    obs : DataFrame or path, optional
        Further columns of the cells, matched by their names.
    genes : GeneNames
        How genes are named.

    Yields
    ------
    CellMatrix
        Valid inside the `with` block. Nothing but names and index arrays has been read.

    Raises
    ------
    InputError
        Where there is no such file, layer or range of cells, the file is damaged or of no known
        format, the matrix is of an unknown kind, or there are no cells or no genes.
    """
    with opened(data, layer) as container:
        sheet = None
        if obs is not None:
            with container.reading():
                names = container.cell_names[:]
            sheet = matched(obs, names, container.name)
        yield _cells_of(container, part, named_genes(container, genes), sheet)


def _cells_of(
    container: Container, part: CellRange, chosen: Genes, sheet: MatchedSheet | None
) -> CellMatrix:
    """Put together what has been found, if tables and matrix have the same, nonzero, sizes."""
    name = container.name
    shape = matrix_shape(container.values, name)
    lengths = (len(container.cell_names), len(container.genes))
    for what, length, size in zip(("cells", "genes"), lengths, shape, strict=True):
        if length != size:
            raise InputError(f"{name} has {size} {what}, their table {length} rows.")
        if size == 0:
            raise InputError(f"{name} has no {what}.")
    start, stop = part.bounds(shape[0], name)
    with container.reading():
        matrix = wrap_matrix(container.values, shape, start, stop, name)
    if chosen.places is not None:
        matrix = ChosenGenes(matrix, chosen.places, len(chosen.names))
    if not part.is_whole:
        name = f"{name}, cells {start} to {stop - 1}"
    return CellMatrix(name, container, matrix, slice(start, stop), chosen, sheet)
