"""Slices of HDF5 datasets, read ahead of their use; gzip chunks are inflated side by side.

HDF5 inflates the chunks of a file one after another. Here they are taken from the file as they are
and inflated by libdeflate, which lets go of the interpreter's lock, in threads that work while the
caller computes. Datasets without filters are read from the open file without HDF5, which keeps
other threads waiting. Those with other filters than gzip and shuffle are read by h5py, in the same
way as arrays in memory. Tables are read by rows.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain, pairwise, product
from typing import Any, TypeAlias, TypeVar

import deflate
import h5py
import numpy as np
from isal import isal_zlib

from flashmm.kernels.threads import thread_count
from flashmm.storage.hdf5 import inflates_beyond
from flashmm.storage.workspace import page_aligned

THREADS = 2
_AHEAD = 2  # slices of each dataset that wait to be used
_TILE = (1024, 64)  # rows, columns of a chunk of a matrix

_GZIP = (h5py.h5z.FILTER_DEFLATE,)
_SHUFFLE_GZIP = (h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE)

Range: TypeAlias = tuple[int, int]
Result = TypeVar("Result")


def read_ahead(
    arrays: Sequence[Any],
    types: Sequence[Any],
    ranges: Iterable[Range],
    looks: Sequence[Callable[[int, int, np.ndarray], Any]] = (),
) -> Iterator[tuple[Range, list[Any]]]:
    """Yield the slices of several arrays for each range, in order.

    Parameters
    ----------
    arrays : sequence of array_like
        One-dimensional arrays, HDF5 datasets or arrays of zarr; only these are read in threads.
    types : sequence of dtype
        The type to which each array is turned.
    ranges : iterable of (start, stop)
        The slices; a few more than the one in use are held in memory, unless there is but one
        thread to work in (`flashmm.kernels.threads.thread_count`).
    looks : sequence of callable, optional
        For each array a function of (start, stop, slice), called in the thread that has read the
        slice; what they give comes behind the slices.
    """
    readers = [slice_reader(array, kind) for array, kind in zip(arrays, types, strict=True)]
    worth = any(map(is_stored, arrays))
    if not looks:
        return in_advance(readers, ranges, worth)
    seen = [partial(_seen, *pair) for pair in zip(readers, looks, strict=True)]
    return (
        (at, [*chain(*zip(*pairs, strict=True))]) for at, pairs in in_advance(seen, ranges, worth)
    )


def _seen(
    read: Callable[[int, int], np.ndarray],
    look: Callable[[int, int, np.ndarray], Any],
    start: int,
    stop: int,
) -> tuple[np.ndarray, Any]:
    found = read(start, stop)
    return found, look(start, stop, found)


def is_stored(array: Any) -> bool:
    """Whether slices are read from a file: HDF5 and zarr have chunks, arrays in memory none."""
    return hasattr(array, "chunks")


def in_advance(
    functions: Sequence[Callable[[int, int], Result]], ranges: Iterable[Range], worth: bool
) -> Iterator[tuple[Range, list[Result]]]:
    """Yield what functions of (start, stop) give for each range, in order.

    Where it is `worth` it they are called in threads, a few ranges before the one in use.
    """
    threads = min(THREADS, thread_count())
    if threads == 1 or not worth:
        for at in ranges:
            yield at, [function(*at) for function in functions]
        return
    waiting: deque[tuple[Range, list[Future[Result]]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for at in ranges:
                waiting.append((at, [pool.submit(function, *at) for function in functions]))
                if len(waiting) > _AHEAD:
                    yield _first(waiting)
            while waiting:
                yield _first(waiting)
        finally:  # the caller has stopped early, or a slice could not be read
            pool.shutdown(cancel_futures=True)


def _first(
    waiting: deque[tuple[Range, list[Future[Result]]]],
) -> tuple[Range, list[Result]]:
    at, slices = waiting.popleft()
    return at, [future.result() for future in slices]


def slice_reader(array: Any, kind: Any) -> Callable[[int, int], np.ndarray]:
    """Function of (start, stop) that reads a slice of an array or dataset as a type."""
    reader = gzip_reader(array) or piece_reader(array)
    if reader is not None:
        return partial(reader.read, dtype=kind)
    return partial(_slice, array, kind)


def _slice(array: Any, kind: Any, start: int, stop: int) -> np.ndarray:
    return np.ascontiguousarray(array[start:stop], dtype=kind)


def gzip_reader(dataset: Any) -> GzipReader | None:
    """Make a reader of raw chunks for a dataset, or None where it has to be read by h5py."""
    if not isinstance(dataset, h5py.Dataset) or not dataset.chunks or dataset.ndim > 2:
        return None
    recipe = dataset.id.get_create_plist()
    filters = tuple(recipe.get_filter(i)[0] for i in range(recipe.get_nfilters()))
    n_chunks = math.prod(
        -(-size // step) for size, step in zip(dataset.shape, dataset.chunks, strict=True)
    )
    if filters not in (_GZIP, _SHUFFLE_GZIP) or dataset.id.get_num_chunks() != n_chunks:
        return None
    kind = GzipReader if dataset.ndim == 1 else GzipTableReader
    return kind(dataset, shuffled=filters == _SHUFFLE_GZIP)


class GzipReader:
    """Slices of a one-dimensional dataset of gzip chunks; several threads may read at a time.

    Parameters
    ----------
    dataset : h5py.Dataset
        All its chunks are stored, by the filters gzip or shuffle and gzip.
    shuffled : bool
        Whether there is the shuffle filter.
    """

    def __init__(self, dataset: h5py.Dataset, shuffled: bool) -> None:
        self.dataset = dataset
        self.shuffled = shuffled
        # asking HDF5 for each chunk would take longer than to copy it
        self.dtype, self.chunks, self._id = dataset.dtype, dataset.chunks, dataset.id
        self.size = math.prod(self.chunks) * self.dtype.itemsize
        self.step = self.chunks[0]
        self._latest: tuple[int, np.ndarray] = (-1, np.empty(0))

    def read(self, start: int, stop: int, dtype: Any) -> np.ndarray:
        """Read dataset[start:stop] as an array of the given type."""
        out = _room((stop - start,), dtype)
        for begin in range(start - start % self.step, stop, self.step):
            a, b = max(begin, start), min(begin + self.step, stop)
            out[a - start : b - start] = self._chunk(begin)[a - begin : b - begin]
        return out

    def _chunk(self, begin: int) -> np.ndarray:
        """Values of the chunk that begins at a position; slices often meet inside a chunk."""
        latest, values = self._latest
        if latest != begin:
            values = self._inflated((begin,))
            self._latest = (begin, values)
        return values

    def _inflated(self, corner: tuple[int, ...]) -> np.ndarray:
        """Values of the chunk that begins at a corner; none beyond the dataset where h5py reads."""
        size = self.size
        skipped, packed = self._id.read_direct_chunk(corner)
        try:
            plain = b"" if skipped else deflate.zlib_decompress(packed, size)
        except deflate.DeflateError:
            if inflates_beyond(packed, size):
                raise OSError(f"a chunk of {size} bytes holds more") from None
            skipped = True
        if skipped:  # stored without the filter; or damaged, of which h5py says more
            return self.dataset[tuple(map(slice, corner, np.add(corner, self.chunks)))]
        if len(plain) != size:
            raise OSError(f"a chunk of {size} bytes holds {len(plain)}")
        if self.shuffled:  # all first bytes, all second bytes ...
            plain = np.frombuffer(plain, np.uint8).reshape(self.dtype.itemsize, -1).T.tobytes()
        return np.frombuffer(plain, self.dtype).reshape(self.chunks)


class GzipTableReader(GzipReader):
    """Rows of a two-dimensional dataset of gzip chunks, as `GzipReader`."""

    def read(self, start: int, stop: int, dtype: Any) -> np.ndarray:
        """Read dataset[start:stop] as an array of the given type."""
        n_columns, (height, width) = self.dataset.shape[1], self.chunks
        out = _room((stop - start, n_columns), dtype)
        for top in range(start - start % height, stop, height):
            a, b = max(top, start), min(top + height, stop)
            for left in range(0, n_columns, width):
                n = min(width, n_columns - left)
                tile = self._inflated((top, left))[a - top : b - top, :n]
                out[a - start : b - start, left : left + n] = tile
        return out


def _room(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array without values, to which memory is copied fast."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return page_aligned(size).view(dtype).reshape(shape)


def piece_reader(dataset: Any) -> PieceReader | None:
    """Make a reader of values that lie in the file as they are, or None where h5py has to read."""
    ours = isinstance(dataset, h5py.Dataset) and hasattr(os, "preadv")
    if not ours or dataset.ndim not in (1, 2) or dataset.external or dataset.is_virtual:
        return None
    file, dtype = dataset.file, dataset.dtype
    # what another mode has written may still be on its way to the file
    plain = file.driver == "sec2" and file.mode == "r" and file.userblock_size == 0
    if not plain or dtype.kind not in "iuf" or not dtype.isnative:
        return None
    step, places = _pieces(dataset)
    return None if places is None else PieceReader(dataset, step, places)


def _pieces(dataset: h5py.Dataset) -> tuple[int, np.ndarray | None]:
    """Rows of a piece of the file, and where each piece begins; None where some are not there."""
    rows = dataset.shape[0]
    if not dataset.chunks:
        size = math.prod(dataset.shape) * dataset.dtype.itemsize
        whole = size > 0 and dataset.id.get_storage_size() == size
        return rows, np.array([dataset.id.get_offset()]) if whole else None
    step, n_filters = dataset.chunks[0], dataset.id.get_create_plist().get_nfilters()
    found: list[h5py.h5d.StoreInfo] = []
    if dataset.ndim == 1 and n_filters == 0 and hasattr(dataset.id, "chunk_iter"):
        dataset.id.chunk_iter(found.append)
    if not found or len(found) != -(-rows // step):
        return step, None
    places = np.empty(len(found), np.int64)
    places[[chunk.chunk_offset[0] // step for chunk in found]] = [c.byte_offset for c in found]
    return step, places


class PieceReader:
    """Slices of the first axis of a dataset without filters; several threads may read at a time.

    Parameters
    ----------
    dataset : h5py.Dataset
        Numbers of this machine's kind.
    step : int
        Rows of a piece, in which they lie one after another.
    places : numpy.ndarray
        (pieces,) Where in the file each begins.
    """

    def __init__(self, dataset: h5py.Dataset, step: int, places: np.ndarray) -> None:
        self.shape, self.dtype, self.step, self.places = (
            dataset.shape[1:],
            dataset.dtype,
            step,
            places,
        )
        self._file = dataset.file  # stays open as long as its number is in use
        self._number = self._file.id.get_vfd_handle()

    def read(self, start: int, stop: int, dtype: Any) -> np.ndarray:
        """Read dataset[start:stop] as an array of the given type."""
        width = math.prod(self.shape) * self.dtype.itemsize
        stored = page_aligned((stop - start) * width)
        for first, last in self._runs(start, stop):
            piece, row = divmod(first, self.step)
            place = int(self.places[piece]) + row * width
            self._fill(stored.data[(first - start) * width : (last - start) * width], place)
        values = stored.view(self.dtype).reshape(stop - start, *self.shape)
        return values.astype(dtype, copy=False)

    def _runs(self, start: int, stop: int) -> Iterator[Range]:
        """Cut a slice where its rows do not lie one after another in the file."""
        if start == stop:
            return
        first, last = start // self.step, (stop - 1) // self.step
        size = self.step * math.prod(self.shape) * self.dtype.itemsize
        apart = np.flatnonzero(np.diff(self.places[first : last + 1]) != size)
        cuts = (first + 1 + apart) * self.step
        yield from pairwise([start, *map(int, cuts), stop])

    def _fill(self, left: memoryview, place: int) -> None:
        """Fill memory with the bytes from a place of the file on."""
        while left:
            n = os.preadv(self._number, [left], place)
            if not n:
                raise OSError("the file ends before its values do")
            place, left = place + n, left[n:]


def write_gzip(group: h5py.Group, name: str, values: np.ndarray) -> None:
    """Write a matrix as a gzip dataset, as AnnData stores arrays, without a copy of the whole.

    Parameters
    ----------
    group : h5py.Group
        Where to make the dataset.
    name : str
        Its name.
    values : numpy.ndarray
        (rows, columns); its chunks are tall, so that a range of columns is cheap to read.
    """
    chunks = tuple(max(1, min(sizes)) for sizes in zip(values.shape, _TILE, strict=True))
    dataset = group.create_dataset(
        name, values.shape, values.dtype, chunks=chunks, compression="gzip", compression_opts=1
    )
    dataset.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    for corner in product(*map(range, (0, 0), values.shape, chunks)):
        tile = values[tuple(slice(i, i + size) for i, size in zip(corner, chunks, strict=True))]
        full = np.zeros(chunks, values.dtype)  # chunks at the edges are stored full
        full[tuple(map(slice, tile.shape))] = tile
        dataset.id.write_direct_chunk(corner, isal_zlib.compress(full.data, 1))
