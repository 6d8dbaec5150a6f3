"""HDF5 files of strangers: opened where they stand on their own and take a bounded memory.

An HDF5 file may name other files whose bytes are read as its own, and a few bytes of it may stand
for gigabytes. Both are refused before anything is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import h5py
from isal import isal_zlib
from isal.igzip_lib import IsalError

from flashmm.names import text
from flashmm.options import InputError
from flashmm.storage.files import PathLike, reading, require_regular

# Bytes that one chunk may stand for: HDF5 has a whole chunk in memory to give any part of it.
MOST_CHUNK = 2**28
# Bytes that a dataset may stand for where little of it is stored, and how much less that is.
MOST_PADDED, MOST_RATIO = 2**30, 100
# Inflated, a stored chunk of this size has at most a gigabyte; larger ones are measured.
_SMALL = 2**20
_PIECE = 2**20
# Filters of the package hdf5plugin by their numbers, which the HDF group registers.
_PLUGIN = "hdf5plugin"
_PLUGIN_FILTERS = {
    307: "bzip2",
    32001: "Blosc",
    32004: "LZ4",
    32008: "Bitshuffle",
    32013: "ZFP",
    32015: "Zstandard",
    32026: "Blosc2",
}


@contextmanager
def hdf5_file(path: PathLike) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading.

    Raises
    ------
    InputError
        There is no such file, it is no regular one, damaged, or it has links to other files.
    """
    require_regular(path)
    with reading(path):
        file = h5py.File(path, "r")
    with file:
        with reading(path):
            _check_links(file, path)
        yield file


def _check_links(file: h5py.File, path: PathLike) -> None:
    external: list[bytes] = []

    def look(name: bytes, link: Any) -> None:
        if link.type == h5py.h5l.TYPE_EXTERNAL:
            external.append(name)

    file.id.links.visit(look, info=True)
    if external:
        name = text(external[0])
        link = file.get(name, getlink=True)
        raise InputError(
            f"'{path}': '{name}' is a link to another file, '{link.filename}'. Give a file that "
            "holds all of its content."
        )


def require_bounded(item: object, path: PathLike) -> None:
    """Check the datasets in an item of an HDF5 file before they are read.

    Parameters
    ----------
    item : h5py.Group, h5py.Dataset or None
        What will be read.
    path : path
        The file, for messages.

    Raises
    ------
    InputError
        A dataset lies in other files, has chunks that stand for more than `MOST_CHUNK` bytes or
        inflate to more than they stand for, or stands for more than `MOST_PADDED` bytes of which
        hardly any are stored. Or it is compressed by a filter that neither HDF5 nor the package
        hdf5plugin has; this is imported, where it is installed, for the first dataset that needs
        it.
    """
    with reading(path):
        if isinstance(item, h5py.Dataset):
            _check_dataset(item, path)
        elif isinstance(item, h5py.Group):
            datasets: list[h5py.Dataset] = []
            item.visititems(lambda _, part: datasets.append(part))
            for part in datasets:
                if isinstance(part, h5py.Dataset):
                    _check_dataset(part, path)


def _check_dataset(dataset: h5py.Dataset, path: PathLike) -> None:
    where = f"'{path}': '{dataset.name}'"
    if dataset.external or dataset.is_virtual:
        raise InputError(f"{where} lies in other files. Give a file that holds all of its content.")
    size, stored = dataset.size or 0, dataset.id.get_storage_size()
    n_bytes = size * dataset.dtype.itemsize
    if n_bytes > MOST_PADDED and n_bytes > MOST_RATIO * stored:
        raise InputError(
            f"{where} stands for {n_bytes / 1e9:.3g} GB, of which {stored} bytes are stored; no "
            "such file is read."
        )
    if dataset.chunks:
        _require_filters(dataset, where)
        _check_chunks(dataset, where)


def _require_filters(dataset: h5py.Dataset, where: str) -> None:
    recipe = dataset.id.get_create_plist()
    for i in range(recipe.get_nfilters()):
        number, _, _, name = recipe.get_filter(i)
        if not h5py.h5z.filter_avail(number) and not _plugin_has(number):
            raise InputError(f"{where} is compressed by {_advice(number, text(name))}")


def _plugin_has(number: int) -> bool:
    """Whether the package of further filters is installed and, imported, has one."""
    try:
        import_module(_PLUGIN)
    except ImportError:
        return False
    return bool(h5py.h5z.filter_avail(number))


def _advice(number: int, name: str) -> str:
    """Which filter is missing, and what to do."""
    if number in _PLUGIN_FILTERS:
        return (
            f"{_PLUGIN_FILTERS[number]} (HDF5 filter {number}), which the package {_PLUGIN} reads: "
            f"pip install {_PLUGIN}. It is imported when a file needs it; nothing else is to do."
        )
    return (
        f"a filter that is not known here (HDF5 filter {number}, '{name}'). Read the file where it "
        "was written, and write it with gzip (adata.write_h5ad(path, compression='gzip'))."
    )


def _check_chunks(dataset: h5py.Dataset, where: str) -> None:
    declared = math.prod(dataset.chunks) * dataset.dtype.itemsize
    whole = min(declared, (dataset.size or 0) * dataset.dtype.itemsize)
    if declared > MOST_CHUNK:
        raise InputError(
            f"{where} has chunks of {declared / 1e6:.4g} MB, which are read as a whole; "
            f"{MOST_CHUNK / 1e6:.4g} MB are the most. Write it with smaller chunks (h5repack -l "
            "CHUNK=...), or without compression."
        )
    if dataset.compression != "gzip" or not whole:
        return
    large: list[h5py.h5d.StoreInfo] = []
    dataset.id.chunk_iter(lambda chunk: large.append(chunk) if chunk.size > _SMALL else None)
    for chunk in large:
        _, packed = dataset.id.read_direct_chunk(chunk.chunk_offset)
        if not chunk.filter_mask and inflates_beyond(packed, declared):
            raise InputError(f"{where} is damaged: a chunk of {declared} bytes inflates to more.")


def inflates_beyond(packed: bytes, size: int) -> bool:
    """Whether a zlib stream holds more bytes than it should, in a memory of a few megabytes."""
    stream = isal_zlib.decompressobj(15)
    try:
        while not stream.eof and packed and size >= 0:
            size -= len(stream.decompress(packed, _PIECE))
            packed = stream.unconsumed_tail
    except IsalError:  # type: ignore[misc]  # declared as a value
        return False  # damaged, of which the reader says more
    return size < 0
