"""Counts in blocks: one pass over cells x genes, from a file or memory, in bounded memory.

Every layout (CSR, CSC, dense; in an `.h5ad` or in memory) is read as a stream of `Block`s: lines of
nonzero values (cells, or genes for CSC), each gene's cells in ascending order. Whoever adds them up
one after another gets the same sums, to the last bit, from every layout and every block size.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from flashmm.kernels.group_sums import (
    in_order,
    largest_count,
    line_totals,
    types_of_values,
)
from flashmm.names import listed
from flashmm.options import InputError
from flashmm.storage.chunks import read_ahead
from flashmm.storage.files import PathLike, reading

CHUNK_NNZ = 2**21  # nonzero values of a block; the pass needs 40 to 100 bytes for each

Matrix: TypeAlias = "CompressedMatrix | CellsOfGenes | DenseMatrix"

_COMPRESSED = (sparse.csr_array, sparse.csc_array, sparse.csr_matrix, sparse.csc_matrix)


@dataclass(frozen=True)
class Transform:
    """A transform of counts that keeps zero at zero, so that it needs the nonzero values only.

    Attributes
    ----------
    apply : callable
        Values and the library sizes of their cells, both (values,), to transformed values.
    needs_counts : bool
        Whether it is meant for counts (integers from 0) only.
    scale : float, optional
        The sum to which the counts of a cell are scaled; None where library sizes are not used.
    """

    apply: Callable[[np.ndarray, np.ndarray], np.ndarray]
    needs_counts: bool = True
    scale: float | None = None

    @property
    def needs_libsize(self) -> bool:
        """Whether it divides by the library size."""
        return self.scale is not None

    def table(self, largest: int) -> np.ndarray:
        """Transformed values of the counts 0, 1, ..., largest; without library sizes."""
        counts = np.arange(largest + 1.0)
        return self.apply(counts, np.ones(len(counts)))


TRANSFORMS = {
    "log2p1": Transform(lambda y, _: np.log2(1.0 + y)),
    "log1p": Transform(lambda y, _: np.log1p(y)),
    "log1p_cp10k": Transform(lambda y, size: np.log1p(1e4 * y / size), scale=1e4),
    "none": Transform(lambda y, _: y, needs_counts=False),
}


def find_transform(name: str) -> Transform:
    """Look a transform up by name; an InputError lists the names there are."""
    if name not in TRANSFORMS:
        raise InputError(f"transform={name!r} is not known; use one of {listed(TRANSFORMS)}.")
    return TRANSFORMS[name]


@dataclass(frozen=True, eq=False)
class Block:
    """Some of the nonzero values of a matrix of cells x genes, by lines: cells, or genes for CSC.

    Attributes
    ----------
    first : int
        Position of the first line in the matrix.
    indptr : numpy.ndarray
        (lines + 1,) int64; where in the block the values of each line begin.
    minor, stored : numpy.ndarray
        (values,) Positions along the line, ascending: genes, or cells for CSC; and the values, of
        which some may be zero. Of the types that `types_of_values` gives.
    by_cells : bool
        Whether the lines are cells.
    rows : slice
        The cells to which the block belongs; where blocks go by cells, all their values are in it.
    n_read : int
        Stored values that were read for it, to show the progress.
    """

    first: int
    indptr: np.ndarray
    minor: np.ndarray
    stored: np.ndarray
    by_cells: bool
    rows: slice
    n_read: int

    @cached_property
    def largest_count(self) -> int:
        """Largest value, where all are counts that a table can hold; -1 elsewhere."""
        return int(largest_count(self.stored))

    @property
    def n_lines(self) -> int:
        """Number of lines."""
        return len(self.indptr) - 1

    @cached_property
    def values(self) -> np.ndarray:
        """Values as float64: (values,)."""
        return self.stored.astype(np.float64, copy=False)

    @cached_property
    def cells(self) -> np.ndarray:
        """Position of the cell of each value: (values,)."""
        return self._lines if self.by_cells else self.minor.astype(np.int64, copy=False)

    @cached_property
    def genes(self) -> np.ndarray:
        """Position of the gene of each value: (values,)."""
        return self.minor.astype(np.int64, copy=False) if self.by_cells else self._lines

    @property
    def _lines(self) -> np.ndarray:
        lines = np.arange(self.first, self.first + self.n_lines)
        return np.repeat(lines, np.diff(self.indptr))

    def totals(self) -> np.ndarray:
        """Sum of the values of each cell of `rows`, in a block by cells."""
        totals = np.zeros(self.rows.stop - self.rows.start)
        begin = self.first - self.rows.start
        totals[begin : begin + self.n_lines] = line_totals(self.indptr, self.stored)
        return totals


@dataclass(frozen=True, eq=False)
class CompressedMatrix:
    """A CSR or CSC matrix; `data` and `indices` are arrays or HDF5 datasets, read by slices.

    Attributes
    ----------
    data, indices : array_like
        (nonzero,) Values; positions along the other axis than the compressed one.
    indptr : numpy.ndarray
        (cells + 1,) for CSR and (genes + 1,) for CSC; of some cells of a CSR matrix it is a slice,
        and begins where they do.
    shape : tuple of int
        Cells, genes.
    by_cells : bool
        True for CSR.
    name : str
        What messages call it.
    """

    data: Any
    indices: Any
    indptr: np.ndarray
    shape: tuple[int, int]
    by_cells: bool
    name: str

    def __post_init__(self) -> None:
        """Check that the three arrays belong together."""
        steps = np.diff(self.indptr)
        stored = min(len(self.data), len(self.indices))
        fits = len(steps) == self.shape[0 if self.by_cells else 1] and stored >= self.indptr[-1]
        if not fits or self.indptr[0] < 0 or (steps < 0).any():
            _refuse_arrays(self.name)

    @property
    def size(self) -> int:
        """Number of stored values."""
        return int(self.indptr[-1] - self.indptr[0])

    def blocks(self, chunk_nnz: int) -> Iterator[Block]:
        """Yield whole cells (CSR), or runs of genes that may end within a gene (CSC)."""
        last = -1
        width = self.shape[1 if self.by_cells else 0]
        arrays = (self.indices, self.data)
        types = types_of_values(self.indices.dtype, self.data.dtype)
        for (start, stop), (minor, values) in read_ahead(arrays, types, self._cuts(chunk_nnz)):
            first, indptr = self._lines(start, stop)
            before = last if self.indptr[first] < start else -1  # a gene that has been cut
            if not in_order(indptr, minor, width, before):
                self._refuse(minor, width, start, stop)
                indptr, minor, values = _sorted(indptr, minor, values, width)
            last = int(minor[-1]) if len(minor) else -1
            rows = self._rows(start, stop)
            yield Block(first, indptr, minor, values, self.by_cells, rows, stop - start)

    def _cuts(self, chunk_nnz: int) -> Iterator[tuple[int, int]]:
        """Yield ranges of stored values: whole cells or genes, `chunk_nnz` or one of them.

        A gene that is longer than `chunk_nnz` is cut, so that memory does not grow with the number
        of cells; a cell is at most as long as the list of genes, and never cut.
        """
        start, end = int(self.indptr[0]), int(self.indptr[-1])
        if start == end:
            yield start, end
        while start < end:
            limit = min(start + chunk_nnz, end)
            stop = int(self.indptr[np.searchsorted(self.indptr, limit, side="right") - 1])
            if stop <= start and self.by_cells:
                stop = int(self.indptr[np.searchsorted(self.indptr, start, side="right")])
            elif stop <= start:
                stop = limit
            yield start, stop
            start = stop

    def _rows(self, start: int, stop: int) -> slice:
        if not self.by_cells:
            return slice(0, self.shape[0])
        first, last = np.searchsorted(self.indptr, [start, stop], side="left")
        return slice(int(first), self.shape[0] if stop == self.indptr[-1] else int(last))

    def _lines(self, start: int, stop: int) -> tuple[int, np.ndarray]:
        """First line of the values from start to stop, and where among them each line begins."""
        first = int(np.searchsorted(self.indptr, start, side="right")) - 1
        last = max(first, int(np.searchsorted(self.indptr, stop, side="left")))
        begins = np.clip(self.indptr[first : last + 1], start, stop) - start
        return first, begins.astype(np.int64)

    def _refuse(self, minor: np.ndarray, width: int, start: int, stop: int) -> None:
        """Raise an InputError for positions that sorting does not put in order."""
        if not 0 <= minor.min() <= minor.max() < width:
            raise InputError(f"{self.name} is damaged: it has positions outside its shape.")
        if not np.isin([start, stop], self.indptr).all():
            raise InputError(
                f"{self.name}: the cells of a gene's values are not in ascending order, and the "
                "gene is too long for one block: sort the indices, or use a larger chunk_nnz."
            )


def _sorted(
    indptr: np.ndarray, minor: np.ndarray, values: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort the values of each line by position, and add those of the same cell and gene."""
    n_lines = len(indptr) - 1
    line = np.repeat(np.arange(n_lines), np.diff(indptr))
    key, inverse = np.unique(line * width + minor, return_inverse=True)
    line, minor = np.divmod(key, width)
    begins = np.searchsorted(line, np.arange(n_lines + 1)).astype(np.int64)
    return begins, minor, np.bincount(inverse, weights=values)


def _refuse_arrays(name: str) -> NoReturn:
    raise InputError(f"{name} is damaged: its index arrays do not fit each other.")


@dataclass(frozen=True, eq=False)
class CellsOfGenes:
    """Cells `first` to `last` - 1 of a CSC matrix: all values are read, others are dropped."""

    whole: CompressedMatrix
    first: int
    last: int
    by_cells: bool = False

    @property
    def data(self) -> Any:
        """Values of all cells."""
        return self.whole.data

    @property
    def shape(self) -> tuple[int, int]:
        """Cells, genes."""
        return self.last - self.first, self.whole.shape[1]

    @property
    def size(self) -> int:
        """Number of stored values that are read."""
        return self.whole.size

    def blocks(self, chunk_nnz: int) -> Iterator[Block]:
        """Yield the blocks of the whole matrix, without the values of other cells."""
        for block in self.whole.blocks(chunk_nnz):
            kept = (block.minor >= self.first) & (block.minor < self.last)
            before = np.concatenate([[0], np.cumsum(kept, dtype=np.int64)])
            yield replace(
                block,
                indptr=before[block.indptr],
                minor=block.minor[kept] - block.minor.dtype.type(self.first),
                stored=block.stored[kept],
                rows=slice(0, self.shape[0]),
            )


@dataclass(frozen=True, eq=False)
class DenseMatrix:
    """Cells `first` to `last` - 1 of a dense array or HDF5 dataset, read by slices of cells."""

    data: Any
    first: int
    last: int
    by_cells: bool = True

    @property
    def shape(self) -> tuple[int, int]:
        """Cells, genes."""
        return self.last - self.first, self.data.shape[1]

    @property
    def size(self) -> int:
        """Number of stored values."""
        return self.shape[0] * self.shape[1]

    def blocks(self, chunk_nnz: int) -> Iterator[Block]:
        """Yield the nonzero values of runs of whole cells."""
        step = self._step(max(1, chunk_nnz // self.shape[1]))
        ends = range(self.first - self.first % step + step, self.last, step)
        for start, stop in pairwise([self.first, *ends, self.last]):
            values = np.asarray(self.data[start:stop], dtype=np.float64)
            cells, genes = np.nonzero(values)
            begins = np.searchsorted(cells, np.arange(len(values) + 1)).astype(np.int64)
            rows = slice(start - self.first, stop - self.first)
            lines = (rows.start, begins, genes.astype(np.int64), values[cells, genes])
            yield Block(*lines, True, rows, values.size)

    def _step(self, step: int) -> int:
        """Cells per block: whole chunks of the file, so that none is decompressed twice."""
        height = (getattr(self.data, "chunks", None) or (1,))[0]
        return step - step % height if step > height else step


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
    path : pathlib.Path or None
        The file; None for an AnnData in memory.
    obs : pandas.DataFrame or h5py.Group
        The table of all cells; columns are read when they are asked for.
    cell_names, genes : sequence of str
        Names of all cells; (genes,) names of the genes.
    matrix : CompressedMatrix, CellsOfGenes or DenseMatrix
        The values of the cells that are read.
    rows : slice
        Which cells these are.
    """

    name: str
    path: Path | None
    obs: pd.DataFrame | h5py.Group
    cell_names: Sequence[str] | h5py.Dataset
    genes: pd.Index
    matrix: Matrix
    rows: slice

    @property
    def n_cells(self) -> int:
        """Number of cells that are read."""
        return self.matrix.shape[0]

    def check_names(self) -> None:
        """Raise an InputError where two cells or two genes have the same name.

        Of several ranges of one matrix, the first looks at all cells, the others at their own.
        """
        rows = self.rows if self.rows.start else slice(None)
        with self._reading():
            cells = pd.Index(np.asarray(self.cell_names[rows]))
        for what, names in (("cells", cells), ("genes", self.genes)):
            if not names.is_unique:
                twice = names[names.duplicated()].unique()
                raise InputError(
                    f"{self.name}: {len(twice)} names are given to more than one of the {what}: "
                    f"{listed(map(_text, twice), 3)}. Make them unique."
                )

    def column_names(self) -> list[str]:
        """Names of the columns of the table of cells."""
        if isinstance(self.obs, pd.DataFrame):
            return list(map(str, self.obs.columns))
        return [_text(name) for name in self.obs.attrs["column-order"]]

    def columns(self, names: Sequence[str]) -> pd.DataFrame:
        """Read some columns of the table of cells: (cells, names)."""
        there = self.column_names()
        lacking = [name for name in names if name not in there]
        if lacking:
            raise InputError(
                f"{self.name} has no column {listed(lacking)} in obs; it has {listed(there, 40)}."
            )
        if isinstance(self.obs, pd.DataFrame):
            return self.obs[list(names)].iloc[self.rows].reset_index(drop=True)
        with self._reading():
            table = pd.DataFrame(_read_columns(self.obs, names), index=range(len(self.cell_names)))
        return table.iloc[self.rows].reset_index(drop=True)

    def table(self) -> pd.DataFrame:
        """Read all columns of the table of cells: (cells, columns), indexed by cell name."""
        with self._reading():
            index = pd.Index([_text(name) for name in self.cell_names[self.rows]])
        return self.columns(self.column_names()).set_axis(index, axis=0)

    def totals(self, chunk_nnz: int = CHUNK_NNZ) -> np.ndarray:
        """Sum of all values of each cell: (cells,); a pass over the values."""
        total = np.zeros(self.n_cells)
        for block in self.blocks(chunk_nnz):
            np.add.at(total, block.cells, block.values)
        return total

    def cell_name(self, position: int) -> str:
        """Name of one cell, for a message."""
        return _text(self.cell_names[self.rows.start + int(position)])

    def blocks(self, chunk_nnz: int = CHUNK_NNZ) -> Iterator[Block]:
        """Yield all nonzero values, about `chunk_nnz` at a time.

        Each gene's cells come in ascending order. Values are finite; see `require_counts`.
        """
        if chunk_nnz < 1:
            raise InputError(f"chunk_nnz={chunk_nnz} must be at least 1.")
        with self._reading():
            for block in self.matrix.blocks(chunk_nnz):
                if block.largest_count < 0:
                    self._refuse(block, np.isnan(block.values), "not a number")
                    self._refuse(block, np.isinf(block.values), "infinite")
                yield block

    def require_counts(self, block: Block, transform: str) -> None:
        """Raise an InputError unless the values are integers from 0, as `transform` needs."""
        if block.largest_count >= 0:
            return
        advice = (
            f" The transform '{transform}' needs raw counts: name the layer that holds them, "
            "or use transform='none' for values that are transformed already."
        )
        self._refuse(block, block.values < 0, "negative", advice)
        self._refuse(block, block.values != np.floor(block.values), "not an integer", advice)

    def _refuse(self, block: Block, bad: np.ndarray, fault: str, advice: str = "") -> None:
        if not bad.any():
            return
        first = np.argmax(bad)
        raise InputError(
            f"{self.name}: the value of cell '{self.cell_name(block.cells[first])}' and gene "
            f"'{self.genes[block.genes[first]]}' is {fault} ({block.values[first]}); "
            f"{np.count_nonzero(bad)} such values in this block of {len(bad)}.{advice}"
        )

    def _reading(self) -> Any:
        return nullcontext() if self.path is None else reading(self.path)


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
        if libsize not in obs:
            obs[libsize] = source.totals()
        sizes = obs[libsize].to_numpy() if rule.needs_libsize else np.ones(len(obs))
        check_libsize(sizes, libsize, source.name)
        values = np.zeros((source.n_cells, len(wanted)))
        columns = wanted.get_indexer(source.genes)
        for block in source.blocks():
            if rule.needs_counts:
                source.require_counts(block, transform)
            column = columns[block.genes]
            kept = (column >= 0) & (block.values != 0)
            cells, raw = block.cells[kept], block.values[kept]
            values[cells, column[kept]] = rule.apply(raw, sizes[cells])
    return obs, values


def check_libsize(sizes: np.ndarray, column: str, name: str) -> None:
    """Raise an InputError unless library sizes, by which counts are divided, are positive."""
    bad = ~(np.isfinite(sizes) & (sizes > 0))
    if bad.any():
        raise InputError(
            f"{name}: '{column}' is not a positive number in {np.count_nonzero(bad)} of {len(bad)} "
            "cells, and the transform divides by it; leave these cells out."
        )


def is_counts(values: np.ndarray) -> bool:
    """Whether all values are integers from 0."""
    return bool((values >= 0).all() and (values == np.floor(values)).all())


@contextmanager
def open_counts(
    data: ad.AnnData | PathLike, layer: str | None = None, part: CellRange = ALL_CELLS
) -> Iterator[CellMatrix]:
    """Open a matrix of cells x genes for streaming.

    Parameters
    ----------
    data : anndata.AnnData or path
        In memory, backed, or an `.h5ad` file.
    layer : str, optional
        Name of the layer; None takes `X`.
    part : CellRange
        Which cells to read.

    Yields
    ------
    CellMatrix
        Valid inside the `with` block. Nothing but names and index arrays has been read.

    Raises
    ------
    InputError
        Where there is no such file, layer or range of cells, the file is damaged or no `.h5ad`, the
        matrix is of an unknown kind, or there are no cells or no genes.
    """
    if isinstance(data, ad.AnnData):
        yield _from_memory(data, layer, part)
    elif isinstance(data, str | Path) or hasattr(data, "__fspath__"):
        path = Path(data)
        with reading(path):
            file = h5py.File(path, "r")
        with file:
            with reading(path):
                source = _from_file(file, path, layer, part)
            yield source
    else:
        raise InputError(
            f"data is a {type(data).__name__}; give an AnnData, the path of an .h5ad file, "
            "or a list of them."
        )


def _from_memory(adata: ad.AnnData, layer: str | None, part: CellRange) -> CellMatrix:
    name = "the AnnData"
    if layer is not None:
        _check_layer(layer, adata.layers, name)
    if adata.isbacked and layer is None:
        if adata.is_view:
            raise InputError("A view of a backed AnnData cannot be streamed; use .to_memory().")
        values = adata.file["X"]
    else:
        values = adata.X if layer is None else adata.layers[layer]
    tables = (adata.obs, adata.obs_names, adata.var_names)
    return _source(f"{name}, {_place(layer)}", None, *tables, values, part)


def _from_file(file: h5py.File, path: Path, layer: str | None, part: CellRange) -> CellMatrix:
    tables = [file.get("obs"), file.get("var")]
    if not all(isinstance(t, h5py.Group) and "_index" in t.attrs for t in tables):
        raise InputError(
            f"'{path}' is no .h5ad file of a present-day format: it has no tables 'obs' and 'var'."
        )
    if layer is not None:
        _check_layer(layer, file.get("layers", ()), f"'{path}'")
    values = file.get("X") if layer is None else file["layers"][layer]
    cell_names, stored = map(_stored_names, tables)
    genes = pd.Index([_text(gene) for gene in stored[:]])
    name = f"'{path}', {_place(layer)}"
    return _source(name, path, tables[0], cell_names, genes, values, part)


def _source(
    name: str,
    path: Path | None,
    obs: pd.DataFrame | h5py.Group,
    cell_names: Sequence[str] | h5py.Dataset,
    genes: pd.Index,
    values: Any,
    part: CellRange,
) -> CellMatrix:
    """Put together what has been found, if tables and matrix have the same, nonzero, sizes."""
    shape = _shape(values, name)
    for what, length, size in zip(
        ("cells", "genes"), (len(cell_names), len(genes)), shape, strict=True
    ):
        if length != size:
            raise InputError(f"{name} has {size} {what}, their table {length} rows.")
        if size == 0:
            raise InputError(f"{name} has no {what}.")
    start, stop = part.bounds(shape[0], name)
    matrix = _matrix(values, shape, start, stop, name)
    if not part.is_whole:
        name = f"{name}, cells {start} to {stop - 1}"
    return CellMatrix(name, path, obs, cell_names, genes, matrix, slice(start, stop))


def _shape(values: Any, name: str) -> tuple[int, int]:
    """Cells and genes of an array, a scipy matrix, or their HDF5 forms."""
    if values is None:
        raise InputError(f"{name} is empty: there are no values. Name a layer.")
    stored = isinstance(values, h5py.Group)
    if stored and _encoding(values) not in ("csr_matrix", "csc_matrix"):
        raise InputError(
            f"{name} is stored as '{_encoding(values)}'; use CSR, CSC or a dense array."
        )
    shape = values.attrs["shape"] if stored else getattr(values, "shape", ())
    known = stored or isinstance(values, (*_COMPRESSED, np.ndarray, h5py.Dataset))
    if not known or len(shape) != 2:
        raise InputError(f"{name} is a {type(values).__name__}; use CSR, CSC or a dense array.")
    n_cells, n_genes = map(int, shape)
    return n_cells, n_genes


def _matrix(values: Any, shape: tuple[int, int], start: int, stop: int, name: str) -> Matrix:
    """Wrap the cells from start to stop of what has a known shape."""
    if isinstance(values, h5py.Group):
        arrays = values["data"], values["indices"], values["indptr"]
        matrix = _compressed(arrays, _encoding(values)[:3], shape, start, stop, name)
    elif isinstance(values, _COMPRESSED):
        arrays = values.data, values.indices, values.indptr
        matrix = _compressed(arrays, values.format, shape, start, stop, name)
    else:
        matrix = DenseMatrix(values, start, stop)
    if matrix.data.dtype.kind not in "biuf":
        raise InputError(f"{name} holds values of the type {matrix.data.dtype}, not numbers.")
    return matrix


def _compressed(
    arrays: tuple[Any, Any, Any],
    layout: str,
    shape: tuple[int, int],
    start: int,
    stop: int,
    name: str,
) -> Matrix:
    """Cut the cells from start to stop out of a CSR matrix; of a CSC matrix, remember them."""
    data, indices, indptr = arrays
    by_cells = layout == "csr"
    if len(indptr) != shape[0 if by_cells else 1] + 1 or indptr[0] != 0:
        _refuse_arrays(name)
    lines = indptr[start : stop + 1] if by_cells else indptr[:]
    cut = (stop - start, shape[1]) if by_cells else shape
    matrix = CompressedMatrix(
        data, indices, lines.astype(np.int64, copy=False), cut, by_cells, name
    )
    if by_cells or (start, stop) == (0, shape[0]):
        return matrix
    return CellsOfGenes(matrix, start, stop)


def _encoding(group: h5py.Group) -> str:
    return _text(group.attrs.get("encoding-type", "unknown"))


def _stored_names(table: h5py.Group) -> h5py.Dataset:
    """Find the names of the rows of a table; newer files keep them with a mask of missing ones."""
    names = table[table.attrs["_index"]]
    return names["values"] if isinstance(names, h5py.Group) else names


def _read_columns(table: h5py.Group, names: Sequence[str]) -> dict[str, Any]:
    if _text(table.attrs.get("encoding-version", "")) == "0.1.0":
        # columns of this older form do not hold their categories themselves
        whole = ad.io.read_elem(table)
        return {name: whole[name].array for name in names}
    return {name: ad.io.read_elem(table[name]) for name in names}


def _check_layer(layer: str, layers: Any, name: str) -> None:
    if layer not in layers:
        named = [other for other in layers if other is not None]  # None is X, in anndata >= 0.13
        raise InputError(f"{name} has no layer '{layer}'; it has {listed(named)}.")


def _place(layer: str | None) -> str:
    return "X" if layer is None else f"layer '{layer}'"


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
