"""Raw chunks: the same values as h5py gives, whatever the filters, the types and the slices."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from flashmm.storage import chunks
from flashmm.storage.chunks import GzipReader, gzip_reader, piece_reader, read_ahead

LENGTH = 1003
STORED = {
    "gzip": {"compression": "gzip"},
    "gzip of level 9": {"compression": "gzip", "compression_opts": 9},
    "shuffle and gzip": {"compression": "gzip", "shuffle": True},
    "resizable": {"compression": "gzip", "maxshape": (None,)},
}
BY_H5PY = {
    "lzf": {"compression": "lzf"},
    "shuffle and lzf": {"compression": "lzf", "shuffle": True},
    "gzip and a checksum": {"compression": "gzip", "fletcher32": True},
    "gzip of scaled integers": {"compression": "gzip", "scaleoffset": 0},
    "shuffle alone": {"shuffle": True},
    "chunks without a filter": {},
    "one piece": {"chunks": None},
}
TYPES = ["<f4", "<f8", "<i4", "<i8", "<u2", "<u1", ">i4", ">f4", "?"]
RANGES = [(0, LENGTH), (0, 0), (0, 1), (99, 101), (100, 200), (250, 720), (1000, LENGTH)]


@pytest.fixture
def file(tmp_path: Path) -> Iterator[h5py.File]:
    with h5py.File(tmp_path / "values.h5", "w") as file:
        yield file


def values(kind: str = "<i4") -> np.ndarray:
    return np.random.default_rng(0).poisson(0.9, LENGTH).astype(kind)


def stored(file: h5py.File, how: dict, kind: str = "<i4", name: str = "x") -> h5py.Dataset:
    return file.create_dataset(name, data=values(kind), **({"chunks": (100,)} | how))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("how", STORED)
def test_slices_are_those_of_h5py(how: str, kind: str, file: h5py.File) -> None:
    dataset = stored(file, STORED[how], kind)
    reader = gzip_reader(dataset)
    assert isinstance(reader, GzipReader)
    for start, stop in RANGES:
        part = reader.read(start, stop, np.float64)
        assert part.dtype == np.float64
        np.testing.assert_array_equal(part, dataset[start:stop].astype(np.float64))


@pytest.mark.parametrize("how", BY_H5PY)
def test_other_filters_are_left_to_h5py(how: str, file: h5py.File) -> None:
    dataset = stored(file, BY_H5PY[how])
    assert gzip_reader(dataset) is None
    for (start, stop), (part,) in read_ahead([dataset], [np.int64], RANGES):
        np.testing.assert_array_equal(part, values()[start:stop])


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("chunk", [(4, 3), (7, 11), (30, 5), (1, 1)])
def test_rows_of_a_table(chunk: tuple[int, int], shuffle: bool, file: h5py.File) -> None:
    table = np.arange(29 * 11, dtype="<f4").reshape(29, 11)
    options = {"chunks": chunk, "maxshape": (None, None), "compression": "gzip"}
    dataset = file.create_dataset("table", data=table, shuffle=shuffle, **options)
    if chunk == (4, 3):
        dataset.id.write_direct_chunk((24, 9), table[:4, :3].tobytes(), filter_mask=3)
    reader = gzip_reader(dataset)
    assert reader is not None
    for start, stop in ((0, 29), (3, 9), (28, 29), (7, 7)):
        part = reader.read(start, stop, np.float64)
        np.testing.assert_array_equal(part, dataset[start:stop])
        assert part.dtype == np.float64


def test_only_stored_chunks_are_read_raw(file: h5py.File) -> None:
    assert gzip_reader(values()) is None
    cube = file.create_dataset("cube", data=np.ones((6, 4, 2)), compression="gzip")
    assert gzip_reader(cube) is None
    holes = file.create_dataset("holes", (300,), "<f4", chunks=(100,), compression="gzip")
    holes[120:130] = 1
    assert gzip_reader(holes) is None
    ((_, (part,)),) = read_ahead([holes], [np.float64], [(0, 300)])
    np.testing.assert_array_equal(part, holes[:])


def test_a_chunk_that_skipped_the_filter(file: h5py.File) -> None:
    dataset = stored(file, STORED["gzip"])
    dataset.id.write_direct_chunk((200,), np.arange(100, dtype="<i4").tobytes(), filter_mask=1)
    reader = gzip_reader(dataset)
    assert reader is not None
    np.testing.assert_array_equal(reader.read(150, 350, np.int64), dataset[150:350])
    np.testing.assert_array_equal(reader.read(200, 300, np.int64), np.arange(100))


@pytest.mark.parametrize(
    "content", [b"\xff" * 60, zlib.compress(bytes(400))[:-6], zlib.compress(bytes(399))]
)
def test_a_damaged_chunk_is_an_error(content: bytes, file: h5py.File) -> None:
    dataset = stored(file, STORED["gzip"])
    dataset.id.write_direct_chunk((200,), content)
    reader = gzip_reader(dataset)
    assert reader is not None
    with pytest.raises((OSError, RuntimeError)):
        reader.read(150, 350, np.int64)
    with pytest.raises((OSError, RuntimeError)):
        list(read_ahead([dataset], [np.int64], [(150, 350)]))
    np.testing.assert_array_equal(reader.read(0, 200, np.int64), values()[:200])


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("how", ["gzip", "one piece"])
def test_slices_come_in_order_from_any_number_of_threads(
    threads: int, how: str, file: h5py.File, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "THREADS", threads)
    arrays = [stored(file, (STORED | BY_H5PY)[how]), stored(file, STORED["gzip"], "<f4", "y")]
    ranges = [(start, min(start + 7, LENGTH)) for start in range(0, LENGTH, 7)]
    read = list(read_ahead(arrays, [np.int64, np.float32], ranges))
    assert [at for at, _ in read] == ranges
    for column, kind in enumerate([np.int64, np.float32]):
        parts = [slices[column] for _, slices in read]
        assert {part.dtype for part in parts} == {np.dtype(kind)}
        np.testing.assert_array_equal(np.concatenate(parts), values())


def test_no_more_than_a_few_slices_are_read_ahead(file: h5py.File) -> None:
    asked = []

    def ranges() -> Iterator[tuple[int, int]]:
        for start in range(0, 1000, 100):
            asked.append(start)
            yield start, start + 100

    for used, _ in enumerate(read_ahead([stored(file, STORED["gzip"])], [np.int64], ranges())):
        assert len(asked) <= used + 3
    assert len(asked) == 10


def test_reading_may_stop_early(file: h5py.File) -> None:
    dataset = stored(file, STORED["gzip"])
    slices = read_ahead([dataset], [np.int64], [(i, i + 1) for i in range(LENGTH)])
    next(slices)
    slices.close()
    np.testing.assert_array_equal(dataset[:], values())


def test_arrays_in_memory_are_sliced_as_they_are() -> None:
    array = values("<f8")
    ((at, (part,)),) = read_ahead([array], [np.float64], [(3, 9)])
    assert at == (3, 9)
    assert part.base is array


@pytest.mark.parametrize("kind", ["<f4", "<f8", "<i4", "<i8", "<u2", "<u1"])
def test_pieces_are_those_of_h5py(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "pieces.h5"
    with h5py.File(path, "w") as file:
        file["odd"] = np.arange(3, dtype=np.uint8)
        file["line"] = values(kind)
        file["table"] = values(kind)[:1000].reshape(40, 25)
        options = {"chunks": (100,), "maxshape": (None,)}
        grown = [file.create_dataset(name, (0,), kind, **options) for name in ("one", "other")]
        for start in range(0, LENGTH, 130):  # so that chunks of both lie among each other
            part = slice(start, min(start + 130, LENGTH))
            for dataset in grown:
                dataset.resize((part.stop,))
                dataset[part] = values(kind)[part]
    with h5py.File(path) as file:
        for name in ("line", "one", "other", "table"):
            dataset = file[name]
            reader = piece_reader(dataset)
            assert reader is not None
            for start, stop in [(0, 40), (7, 9), (3, 3)] if name == "table" else RANGES:
                for dtype in (np.float64, kind):
                    part = reader.read(start, stop, dtype)
                    assert part.dtype == dtype
                    np.testing.assert_array_equal(part, dataset[start:stop].astype(dtype))


def test_what_does_not_lie_in_the_file_as_it_is_is_left_to_h5py(tmp_path: Path) -> None:
    path, other = tmp_path / "others.h5", tmp_path / "behind.h5"
    with h5py.File(path, "w") as file:
        stored(file, {"chunks": None}, ">i4", "swapped")
        stored(file, {"chunks": None}, "?", "truth")
        stored(file, {"shuffle": True}, name="shuffled")
        file.create_dataset("nothing yet", (5,), "<i4")
        file.create_dataset("no rows", (0,), "<i4")
        file.create_dataset("holes", (300,), "<i4", chunks=(100,))[:10] = 1
        file.create_dataset("tiles", data=np.ones((4, 4)), chunks=(2, 2))
        elsewhere = [(tmp_path / "other", 0, 20)]
        file.create_dataset("elsewhere", (5,), "<i4", external=elsewhere)[:] = 1
        file["in use"] = values()
        assert piece_reader(file["in use"]) is None
        layout = h5py.VirtualLayout((LENGTH,), "<i4")
        layout[:] = h5py.VirtualSource(path, "in use", (LENGTH,))
        file.create_virtual_dataset("virtual", layout)
    with h5py.File(path) as file:
        assert [name for name in file if piece_reader(file[name]) is not None] == ["in use"]
    with h5py.File(other, "w", userblock_size=512) as file:
        file["x"] = values()
    with h5py.File(other) as file:
        assert piece_reader(file["x"]) is None
    assert piece_reader(values()) is None


@pytest.mark.parametrize("how", ["one piece", "chunks without a filter"])
def test_a_piece_that_is_cut_short_is_an_error(how: str, tmp_path: Path) -> None:
    path = tmp_path / "short.h5"
    with h5py.File(path, "w") as file:
        stored(file, BY_H5PY[how])
    with h5py.File(path) as file:
        reader = piece_reader(file["x"])
        assert reader is not None
        os.truncate(path, int(reader.places[0]) + 400)
        np.testing.assert_array_equal(reader.read(0, 100, np.int32), values()[:100])
        with pytest.raises(OSError, match="ends before"):
            reader.read(0, 101, np.int32)
