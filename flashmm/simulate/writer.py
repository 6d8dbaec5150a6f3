"""Cells written to an .h5ad file while they are drawn, their counts as gzip chunks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import anndata
import h5py
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from scipy import sparse

from flashmm.kernels.negative_binomial import Integers
from flashmm.storage.files import atomic_path

T = TypeVar("T")
R = TypeVar("R")

CHUNK = 2**16  # stored numbers per compressed chunk of a file
PIECES_AHEAD = 8  # chunks that are compressed or wait to be written


def write_cells(
    sheet: anndata.AnnData, blocks: Iterator[sparse.csr_matrix], pool: Executor, path: Path
) -> anndata.AnnData:
    """Write the sheet, then the counts; return the file opened as backed AnnData."""
    with atomic_path(path) as temporary:
        sheet.write_h5ad(temporary)
        with h5py.File(temporary, "r+") as file:
            if "X" in file:
                del file["X"]
            _write_counts(file.create_group("X"), blocks, pool, sheet.shape)
    return anndata.read_h5ad(path, backed="r")


def _write_counts(
    group: h5py.Group,
    blocks: Iterator[sparse.csr_matrix],
    pool: Executor,
    shape: tuple[int, int],
) -> None:
    """Write blocks of rows as one matrix in compressed sparse rows, as AnnData stores it."""
    group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": shape})
    stored = {"compression": "gzip", "compression_opts": 1, "chunks": (CHUNK,), "maxshape": (None,)}
    for name, dtype in (("data", np.float32), ("indices", np.int32)):
        group.create_dataset(name, (0,), dtype, **stored)
    row_sizes: list[Integers] = []
    for piece, compressed in in_order(pool, _compress, _pieces(blocks, row_sizes), PIECES_AHEAD):
        group[piece.name].resize((piece.start + len(piece.values),))
        group[piece.name].id.write_direct_chunk((piece.start,), compressed)
    # row pointers of 64 bits: a file may grow beyond 2^31 stored counts
    row_ends = np.cumsum(np.concatenate([[0], *row_sizes]), dtype=np.int64)
    group.create_dataset("indptr", data=row_ends, **stored)


class _Piece(NamedTuple):
    """Numbers that make one chunk of a dataset; the last one of a dataset may be short."""

    name: str
    start: int
    values: NDArray[Any]


def _pieces(blocks: Iterable[sparse.csr_matrix], row_sizes: list[Integers]) -> Iterator[_Piece]:
    """Cut the values and the columns into chunks; adds the number of values of each row."""
    start, data, indices = 0, np.empty(0, np.float32), np.empty(0, np.int32)
    for block in blocks:
        row_sizes.append(np.diff(block.indptr))
        data = np.concatenate([data, block.data])
        indices = np.concatenate([indices, block.indices])
        whole = len(data) // CHUNK * CHUNK
        for first in range(0, whole, CHUNK):
            yield _Piece("data", start + first, data[first : first + CHUNK])
            yield _Piece("indices", start + first, indices[first : first + CHUNK])
        start, data, indices = start + whole, data[whole:], indices[whole:]
    if len(data):
        yield _Piece("data", start, data)
        yield _Piece("indices", start, indices)


def _compress(piece: _Piece) -> tuple[_Piece, bytes]:
    """Compress a chunk as the filter of HDF5 does, filled up with zeros."""
    full = np.zeros(CHUNK, piece.values.dtype)
    full[: len(piece.values)] = piece.values
    return piece, isal_zlib.compress(full.data, 1)


def in_order(pool: Executor, call: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """Results of the calls in the order of the items, at most `ahead` of them not yet taken."""
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(call, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
