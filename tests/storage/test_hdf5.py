"""HDF5 files that name other files, or stand for more than they hold."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from flashmm.options import InputError
from flashmm.storage import hdf5
from flashmm.storage.chunks import gzip_reader
from flashmm.storage.hdf5 import hdf5_file, inflates_beyond, require_bounded


def check(path: Path) -> None:
    with hdf5_file(path) as file:
        require_bounded(file, path)


def test_files_with_links_to_others(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["obs/x"] = np.arange(3)
        file["obs/same"] = h5py.SoftLink("/obs/x")
        file["obs/loop"] = file["obs"]
    check(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["obs/secret"] = h5py.ExternalLink("other.h5", "/x")
    with pytest.raises(InputError, match=r"a\.h5': 'obs/secret' is a link to .*'other\.h5'"):
        check(tmp_path / "a.h5")


def test_datasets_in_other_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(80))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", (10,), "f8", external=[(str(secret), 0, 80)])
    with pytest.raises(InputError, match=r"'/x' lies in other files"):
        check(tmp_path / "a.h5")
    layout = h5py.VirtualLayout((10,), "f8")
    layout[:] = h5py.VirtualSource("b.h5", "x", (10,))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_virtual_dataset("x", layout)
    with pytest.raises(InputError, match=r"'/x' lies in other files"):
        check(tmp_path / "a.h5")


def test_what_stands_for_more_than_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (10**12,), "i1", chunks=(1000,))
    with pytest.raises(InputError, match=r"stands for 1e\+03 GB, of which 0 bytes are stored"):
        check(path)
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (10,), "f8", maxshape=(None,), chunks=(2**26,))
    with pytest.raises(InputError, match=r"'/x' has chunks of 536\.9 MB, which .*h5repack"):
        check(path)


@pytest.mark.parametrize("shape", [(1000,), (10, 100)])
def test_chunks_that_inflate_beyond_their_size(
    shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hdf5, "_SMALL", 100)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        x = file.create_dataset("x", shape, "f8", chunks=shape, compression="gzip")
        x.id.write_direct_chunk((0,) * len(shape), zlib.compress(bytes(10**6)))
    with pytest.raises(InputError, match="is damaged: a chunk of 8000 bytes inflates to more"):
        check(path)
    if len(shape) == 1:  # read in another way
        with (
            h5py.File(path) as file,
            pytest.raises(OSError, match="of 8000 bytes holds more"),
        ):
            gzip_reader(file["x"]).read(0, 10, "f8")
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.random.default_rng(0).random(shape), compression="gzip")
    check(path)


def test_streams_are_measured() -> None:
    packed = zlib.compress(bytes(1000))
    assert inflates_beyond(packed, 999)
    assert not inflates_beyond(packed, 1000)
    assert not inflates_beyond(packed[:10], 1000)
    assert not inflates_beyond(b"no stream", 1000)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes")
def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.h5ad")
    for path, what in ((tmp_path / "pipe.h5ad", "a pipe"), (tmp_path, "a folder")):
        with pytest.raises(InputError, match=f"is no file but {what}"):
            check(path)
    with pytest.raises(InputError, match="There is no file"):
        check(tmp_path / "none")


def with_filter(path: Path, number: int) -> Path:
    """A file with a dataset of one chunk, by a filter that need not be there to write it."""
    recipe = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    recipe.set_chunk((10,))
    recipe.set_filter(number, h5py.h5z.FLAG_OPTIONAL, ())
    with h5py.File(path, "w") as file:
        space = h5py.h5s.create_simple((10,))
        made = h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_DOUBLE, space, recipe)
        made.write_direct_chunk((0,), b"packed", 0)
    return path


def test_filters_of_a_package_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hdf5, "_PLUGIN", "no_such_package")
    monkeypatch.setitem(hdf5._PLUGIN_FILTERS, 511, "Zstandard")
    path = with_filter(tmp_path / "a.h5", 511)
    words = r"a\.h5': '/x' is compressed by Zstandard \(HDF5 filter 511\).*pip install no_such"
    with pytest.raises(InputError, match=words):
        check(path)


def test_filters_that_nobody_has(tmp_path: Path) -> None:
    path = with_filter(tmp_path / "a.h5", 510)
    with pytest.raises(InputError, match=r"'/x' is compressed by a filter that is not known here"):
        check(path)


def test_the_package_of_filters_is_imported_when_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def available(number: int) -> bool:
        asked.append(number)
        return len(asked) > 1  # once it has been imported

    monkeypatch.setattr(hdf5, "_PLUGIN", "wave")  # any module will do
    monkeypatch.setattr(h5py.h5z, "filter_avail", available)
    check(with_filter(tmp_path / "a.h5", 511))
    assert asked == [511, 511]


@pytest.mark.parametrize("name", ["Zstd", "LZ4", "Blosc", "Bitshuffle"])
def test_files_that_are_compressed_by_the_package_of_filters(name: str, tmp_path: Path) -> None:
    plugin = pytest.importorskip("hdf5plugin")
    values = np.arange(1000) % 7
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=values, chunks=(100,), **getattr(plugin, name)())
    with hdf5_file(tmp_path / "a.h5") as file:
        require_bounded(file, tmp_path / "a.h5")
        np.testing.assert_array_equal(file["x"][:], values)
