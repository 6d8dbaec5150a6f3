"""Arrays that may be larger than memory, and what is left of memory and disk."""

from __future__ import annotations

import math
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from flashmm.options import InputError, note

# Memory in MB (10^6 bytes) that a large array may take, instead of a share of what is available.
MEMORY_VARIABLE = "FLASHMM_MEMORY_MB"
# The rest is for the pass over the cells, for copies, and for the other jobs of the machine.
MEMORY_SHARE = 0.5
# Bytes up to which an array is made in memory without asking how much there is.
SMALL = 16e6


def zeros(shape: tuple[int, ...], what: str) -> np.ndarray:
    """Make an array of zeros: in memory up to `memory_limit`, above it in a temporary file.

    The file is in the folder for temporary files (the environment variable TMPDIR), has no name,
    and goes with the array. Its space is taken at once, so that it cannot run out later.

    Parameters
    ----------
    shape : tuple of int
        Shape of the float64 array.
    what : str
        What messages call it, as a plural.

    Raises
    ------
    InputError
        Where neither memory nor disk has room.
    """
    size = 8 * math.prod(shape)
    limit = memory_limit() if size > SMALL or os.environ.get(MEMORY_VARIABLE) else SMALL
    if size <= limit:
        return _fresh_memory(size).view(np.float64).reshape(shape)
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(_no_room(what, shape, size, limit, free, folder))
    with tempfile.TemporaryFile(prefix="flashmm-", dir=folder) as file:
        try:
            _take_space(file.fileno(), size)
        except OSError as error:  # a quota, or somebody else has been faster
            raise InputError(_no_room(what, shape, size, limit, free, folder)) from error
        mapped = np.memmap(file, np.float64, "r+", shape=shape)
    # of the machine, not of the result: it is said, not recorded
    note(
        f"The {what} take {_gigabytes(size)}, more than the {_gigabytes(limit)} of memory that may "
        f"be used; they are kept in a temporary file in '{folder}', which is slower."
    )
    return mapped.view(np.ndarray)


def _fresh_memory(size: int) -> np.ndarray:
    """Zeros, (size,) bytes, of memory that is taken in huge pages when it is first written to.

    np.zeros leaves small pages to be taken one by one.
    """
    memory = mmap.mmap(-1, max(1, size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # of systems without
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8, count=size)


def page_aligned(size: int) -> np.ndarray:
    """Bytes without values, (size,), that begin where a page of memory does.

    Some processors copy more slowly to where a page begins and a few bytes on, which is
    where NumPy's arrays lie.
    """
    room = np.empty(size + mmap.PAGESIZE, np.uint8)
    begin = -room.ctypes.data % mmap.PAGESIZE
    return room[begin : begin + size]


def _no_room(
    what: str, shape: tuple[int, ...], size: int, limit: float, free: int, folder: str
) -> str:
    return (
        f"The {what} ({' x '.join(map(str, shape))} numbers) need {_gigabytes(size)}; "
        f"{_gigabytes(limit)} of memory may be used, {_gigabytes(free)} are free in '{folder}'. "
        "Use fewer groups (columns in 'by') or covariates, work with ranges of genes, name a "
        f"folder on a larger disk in TMPDIR, or allow more memory with {MEMORY_VARIABLE}."
    )


def _take_space(descriptor: int, size: int) -> None:
    """Give a file its size, with all its blocks where the system can do that."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)


def memory_limit() -> float:
    """Bytes that one array may take in memory.

    That is the environment variable FLASHMM_MEMORY_MB where it is set, else half of the memory that
    is available to the process.
    """
    given = os.environ.get(MEMORY_VARIABLE, "").strip()
    if not given:
        return MEMORY_SHARE * available_memory()
    try:
        megabytes = float(given)
    except ValueError:
        megabytes = math.nan
    if not megabytes >= 0:
        raise InputError(f"{MEMORY_VARIABLE}={given!r} is not a number of megabytes from 0 on.")
    return megabytes * 1e6


def available_memory() -> float:
    """Bytes that the process may still use: of the machine, and of its control groups."""
    free = [*_of_machine(), *_of_control_groups()]
    return min(free) if free else float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _of_machine() -> Iterator[float]:
    """Free memory, and what the kernel would give back."""
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            yield 1024.0 * int(line.split()[1])


def _of_control_groups(root: Path = Path("/sys/fs/cgroup")) -> Iterator[float]:
    """What is left below the limit of each control group around the process (versions 1, 2)."""
    for line in _lines(Path("/proc/self/cgroup")):
        _, controllers, inner = line.split(":", 2)
        if controllers == "":
            yield from _left(root, inner, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            files = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
            yield from _left(root / "memory", inner, *files)


def _left(root: Path, inner: str, limit: str, usage: str, cache: str) -> Iterator[float]:
    place = root / inner.strip("/")
    for folder in (place, *place.parents):
        most, used = (next(iter(_lines(folder / name)), "") for name in (limit, usage))
        if most.isdigit() and used.isdigit():
            stat = dict(line.split() for line in _lines(folder / "memory.stat"))
            # pages of files that nobody has used for long are given back
            yield max(0.0, float(most) - float(used) + float(stat.get(cache, 0)))
        if folder == root:
            return


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def require_disk(path: str | os.PathLike[str], size: float, what: str) -> None:
    """Raise an InputError unless the disk of a file to be written has room for it.

    Parameters
    ----------
    path : path
        The file; its folder need not exist yet.
    size : float
        Bytes, as far as they are known.
    what : str
        What messages call it, as a plural.
    """
    folder = next(place for place in Path(path).resolve().parents if place.exists())
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(
            f"The {what} take about {_gigabytes(size)} on disk, and {_gigabytes(free)} are free in "
            f"'{folder}', where '{path}' is to be written. Make room there, or write elsewhere."
        )


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.3g} GB"
