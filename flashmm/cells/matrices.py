"""Matrices of cells x genes as streams of blocks.

Every layout (CSR, CSC, dense; in a file or in memory) is read as a stream of `Block`s: lines of
nonzero values (cells, or genes for CSC), each gene's cells in ascending order. Whoever adds them up
one after another gets the same sums, to the last bit, from every layout and every block size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NoReturn

import h5py
import numpy as np
import zarr
from scipy import sparse

from flashmm.cells.block import Block, Matrix, sorted_lines
from flashmm.cells.dask_arrays import DaskMatrix, is_dask
from flashmm.cells.matrix_market import MarketFile, MarketMatrix
from flashmm.kernels.group_sums import in_order, largest_count, nonzero_values, types_of_values
from flashmm.names import text
from flashmm.options import InputError
from flashmm.storage.chunks import in_advance, is_stored, read_ahead, slice_reader

# How often the values of a block of a dense matrix its blocks may hold, to be whole chunks.
HIGH_CHUNKS = 4

_COMPRESSED = (sparse.csr_array, sparse.csc_array, sparse.csr_matrix, sparse.csc_matrix)
_GROUPS = (h5py.Group, zarr.Group)


@dataclass(frozen=True, eq=False)
class StoredRows:
    """A CSR matrix of cells x genes whose three arrays lie in a file."""

    data: Any
    indices: Any
    indptr: Any
    shape: tuple[int, int]
    format: str = "csr"


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
        stored = min(self.data.shape[0], self.indices.shape[0])
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

        def ascend(start: int, stop: int, minor: np.ndarray) -> bool:
            return in_order(self._lines(start, stop)[1], minor, width, -1)

        looks = (ascend, lambda start, stop, values: int(largest_count(values)))
        parts = read_ahead(arrays, types, self._cuts(chunk_nnz), looks)
        for (start, stop), (minor, values, ordered, largest) in parts:
            first, indptr = self._lines(start, stop)
            # a gene that has been cut goes on behind its last cell
            cut = self.indptr[first] < start and len(minor) > 0
            if not ordered or (cut and minor[0] <= last):
                self._refuse(minor, width, start, stop)
                indptr, minor, values = sorted_lines(indptr, minor, values, width)
                largest = None
            last = int(minor[-1]) if len(minor) else -1
            rows = self._rows(start, stop)
            yield Block(first, indptr, minor, values, self.by_cells, rows, stop - start, largest)

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
                largest=None,
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
        step = self._step(chunk_nnz)
        ends = range(self.first - self.first % step + step, self.last, step)
        positions, kind = types_of_values(np.dtype(np.int32), self.data.dtype)
        read, minor = slice_reader(self.data, kind), np.empty(0, positions)

        def lines(start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            return nonzero_values(read(start, stop), minor)

        ranges = pairwise([self.first, *ends, self.last])
        for (start, stop), (found,) in in_advance([lines], ranges, is_stored(self.data)):
            rows = slice(start - self.first, stop - self.first)
            yield Block(rows.start, *found, True, rows, (stop - start) * self.shape[1])

    def _step(self, chunk_nnz: int) -> int:
        """Cells per block: whole chunks of the file, so that none is decompressed twice."""
        width, height = self.shape[1], (getattr(self.data, "chunks", None) or (1,))[0]
        step = max(1, chunk_nnz // width)
        # of high chunks one at a time, where that is not very much
        if step < height <= HIGH_CHUNKS * step:
            return int(height)
        return step - step % height if step > height else step


def matrix_shape(values: Any, name: str) -> tuple[int, int]:
    """Cells and genes of an array, a scipy matrix, or their forms in files."""
    if values is None:
        raise InputError(f"{name} is empty: there are no values. Name a layer.")
    stored = isinstance(values, _GROUPS)
    if stored and _encoding(values) not in ("csr_matrix", "csc_matrix"):
        raise InputError(
            f"{name} is stored as '{_encoding(values)}'; use CSR, CSC or a dense array."
        )
    shape = _stored_shape(values) if stored else getattr(values, "shape", ())
    arrays = (np.ndarray, h5py.Dataset, zarr.Array, StoredRows, MarketFile)
    known = stored or isinstance(values, (*_COMPRESSED, *arrays)) or is_dask(values)
    if not known or len(shape) != 2:
        raise InputError(f"{name} is a {type(values).__name__}; use CSR, CSC or a dense array.")
    n_cells, n_genes = map(int, shape)
    return n_cells, n_genes


def wrap_matrix(values: Any, shape: tuple[int, int], start: int, stop: int, name: str) -> Matrix:
    """Wrap the cells from start to stop of what has a known shape."""
    matrix: Any
    if isinstance(values, MarketFile):
        return MarketMatrix(values, start, stop)
    if isinstance(values, _GROUPS):
        arrays = values["data"], values["indices"], values["indptr"]
        matrix = _compressed(arrays, _encoding(values)[:3], shape, start, stop, name)
    elif isinstance(values, (*_COMPRESSED, StoredRows)):
        arrays = values.data, values.indices, values.indptr
        matrix = _compressed(arrays, values.format, shape, start, stop, name)
    else:
        kind = DaskMatrix if is_dask(values) else DenseMatrix
        matrix = kind(values, start, stop)
    if matrix.data.dtype.kind not in "biuf":
        raise InputError(f"{name} holds values of the type {matrix.data.dtype}, not numbers.")
    return matrix  # type: ignore[no-any-return]


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
    if indptr.shape[0] != shape[0 if by_cells else 1] + 1 or indptr[0] != 0:
        _refuse_arrays(name)
    lines = indptr[start : stop + 1] if by_cells else indptr[:]
    cut = (stop - start, shape[1]) if by_cells else shape
    matrix = CompressedMatrix(
        data, indices, lines.astype(np.int64, copy=False), cut, by_cells, name
    )
    if by_cells or (start, stop) == (0, shape[0]):
        return matrix
    return CellsOfGenes(matrix, start, stop)


def _encoding(group: Any) -> str:
    """How a group stores a matrix; before 0.7, anndata had another attribute for it."""
    older = group.attrs.get("h5sparse_format")
    return text(group.attrs.get("encoding-type", f"{text(older)}_matrix" if older else "unknown"))


def _stored_shape(group: Any) -> Any:
    return group.attrs.get("shape", group.attrs.get("h5sparse_shape", ()))
