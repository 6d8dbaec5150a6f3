"""Arrays in memory or on disk, and what is said where there is room in neither."""

from __future__ import annotations

import os
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from flashmm.options import FlashmmWarning, InputError
from flashmm.simulate import SimulationSpec, simulate_counts
from flashmm.storage import workspace
from flashmm.storage.workspace import available_memory, memory_limit, require_disk, zeros

Usage = namedtuple("Usage", "total used free")


def test_small_arrays_are_in_memory() -> None:
    values = zeros((2, 3, 4), "sums")
    assert values.shape == (2, 3, 4)
    assert isinstance(values.base, np.ndarray)
    assert not values.any()
    values += 1.0
    assert (values == 1.0).all()


def test_memory_without_huge_pages_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(workspace.mmap, "MADV_HUGEPAGE", raising=False)
    assert zeros((0, 3), "sums").shape == (0, 3)
    assert not zeros((1000, 3), "sums").any()


@pytest.mark.parametrize("size", [1, 5000])
def test_bytes_begin_where_a_page_does(size: int) -> None:
    room = workspace.page_aligned(size)
    assert room.shape == (size,)
    assert room.ctypes.data % workspace.mmap.PAGESIZE == 0
    room[:] = 7


def test_large_arrays_are_on_disk_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASHMM_MEMORY_MB", "0.001")
    monkeypatch.setattr(workspace.tempfile, "tempdir", str(tmp_path))
    with pytest.warns(FlashmmWarning, match="sums take 8e-06 GB, more than the 1e-06 GB"):
        values = zeros((10, 100), "sums")
    assert type(values) is np.ndarray
    assert values.base is not None
    assert not values.any()
    values += np.arange(100)
    np.testing.assert_array_equal(values[7], np.arange(100))
    assert list(tmp_path.iterdir()) == []


def test_room_in_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASHMM_MEMORY_MB", "10")
    monkeypatch.setattr(workspace.shutil, "disk_usage", lambda _: Usage(1, 1, 1_000_000))
    message = r"sums \(4 x 1000 x 20000 numbers\) need 0\.64 GB; 0\.01 GB of memory .* TMPDIR"
    with pytest.raises(InputError, match=message):
        zeros((4, 1000, 20000), "sums")


def test_a_quota_that_is_less_than_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, begin: int, size: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setenv("FLASHMM_MEMORY_MB", "0")
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(InputError, match="need 8e-06 GB"):
        zeros((1000,), "sums")


def test_limits_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLASHMM_MEMORY_MB", raising=False)
    assert 0 < memory_limit() < available_memory()
    monkeypatch.setenv("FLASHMM_MEMORY_MB", " 1500 ")
    assert memory_limit() == 1.5e9
    for wrong in ("many", "-1", "nan"):
        monkeypatch.setenv("FLASHMM_MEMORY_MB", wrong)
        with pytest.raises(InputError, match="is not a number of megabytes"):
            memory_limit()


@pytest.mark.parametrize(
    ("names", "cache"),
    [
        (("memory.max", "memory.current"), "inactive_file"),
        (("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_inactive_file"),
    ],
)
def test_the_tightest_control_group_counts(
    names: tuple[str, str], cache: str, tmp_path: Path
) -> None:
    inner = tmp_path / "slurm" / "job"
    inner.mkdir(parents=True)
    for folder, limit in ((inner, "max"), (inner.parent, "5000"), (tmp_path, "9000")):
        (folder / names[0]).write_text(limit + "\n")
        (folder / names[1]).write_text("4000\n")
        (folder / "memory.stat").write_text(f"anon 7\n{cache} 500\n")
    left = list(workspace._left(tmp_path, "/slurm/job", *names, cache))
    assert left == [5000 - 4000 + 500, 9000 - 4000 + 500]


def test_disks_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "not" / "yet" / "file.h5ad"
    require_disk(target, 10.0, "counts")
    monkeypatch.setattr(workspace.shutil, "disk_usage", lambda _: Usage(1, 1, 1_000_000))
    with pytest.raises(InputError, match=r"counts take about 0\.002 GB .* 0\.001 GB are free"):
        require_disk(target, 2e6, "counts")
    spec = SimulationSpec(n_cells=2_000, n_genes=1_000, n_subjects=4, n_cell_types=2)
    with pytest.raises(InputError, match=r"simulated counts take about .*file\.h5ad"):
        simulate_counts(spec, 1, path=target)
    assert list(tmp_path.iterdir()) == []
