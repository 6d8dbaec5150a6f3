"""Files in general: written whole or not at all, read with clear errors, named by their digest."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import platform
import re
import shutil
import stat
import uuid
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeAlias

import xxhash

from flashmm.options import FlashmmError, InputError
from flashmm.storage.workspace import page_aligned

PathLike: TypeAlias = str | os.PathLike[str]

_PIECES, _PIECE = 64, 2**16
_HASHED = 2**23  # bytes that are hashed at a time

_OTHER_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)

# Reading a damaged file, h5py and pyarrow (whose errors are ValueErrors) raise any of these.
_READ_ERRORS = (
    *(OSError, EOFError, MemoryError, RuntimeError),
    *(AttributeError, LookupError, TypeError, ValueError),
)


@cache
def package_version() -> str:
    """Version of the installed package, of a tag of git; sources alone do not know theirs."""
    try:
        return metadata.version("flashmm")
    except metadata.PackageNotFoundError:
        return "0+unknown"


@contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """Give a temporary name beside `path` to write to, and rename it to `path` at the end.

    An error on the way removes what was written and leaves an older file at `path` as it was. What
    a process of this machine that was killed has left of the same file is removed first.

    Yields
    ------
    pathlib.Path
        In the same folder and with the same ending as `path`.

    Raises
    ------
    InputError
        The disk is full, or a quota or limit of the size of files has been reached.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_unfinished(path)
    unfinished = path.with_name(f".{_origin()}{os.getpid():08x}{uuid.uuid4().hex[:8]}.{path.name}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    except (OSError, RuntimeError) as error:
        if not _is_full(error):
            raise
        raise InputError(
            f"'{path}' cannot be written: there is no room for it. {free_space(path.parent)} are "
            "free in its folder (a quota may allow less); make room, or write elsewhere."
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)


@cache
def _origin() -> str:
    """Eight digits for the machine and, in containers, the numbering of its processes."""
    try:
        numbering = os.readlink("/proc/self/ns/pid")
    except OSError:
        numbering = ""
    return hashlib.sha256(f"{platform.node()} {numbering}".encode()).hexdigest()[:8]


def _remove_unfinished(path: Path) -> None:
    """Remove what processes that have ended since began to write in place of a file."""
    name = re.compile(rf"\.{_origin()}([0-9a-f]{{8}})[0-9a-f]{{8}}\.{re.escape(path.name)}")
    for entry in os.scandir(path.parent):
        found = name.fullmatch(entry.name)
        if found and not _is_running(int(found[1], 16)):
            Path(entry.path).unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # asks, and sends nothing
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        return True
    return True


def _is_full(error: BaseException) -> bool:
    """Whether the disk was full; h5py says so in the text of its errors only."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    text = str(error)
    return getattr(error, "errno", None) in full or any(
        os.strerror(number) in text or f"errno = {number}" in text for number in full
    )


def free_space(folder: PathLike) -> str:
    """Say how much of the disk of a folder is free, for a message."""
    return f"{shutil.disk_usage(folder).free / 1e9:.3g} GB"


@contextmanager
def reading(path: PathLike) -> Iterator[None]:
    """Turn whatever fails while a file is read into an InputError that names the file."""
    try:
        yield
    except FlashmmError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"There is no file '{path}'.") from error
    except Exception as error:
        # of AnnData some are plain exceptions: an encoding that it does not know
        if not isinstance(error, _READ_ERRORS) and not type(error).__module__.startswith("anndata"):
            raise
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"'{path}' cannot be read; it is damaged, cut short or of another format ({reason[0]})."
        ) from error


@contextmanager
def unchanged(*paths: PathLike) -> Iterator[None]:
    """Raise an InputError at the end where a file is no longer the one that it was.

    For what opens a file several times: the parts that it reads are of one file.
    """
    before = [file_state(path) for path in paths]
    yield
    for path, state in zip(paths, before, strict=True):
        require_state(path, state)


def file_state(path: PathLike) -> tuple[int, ...]:
    """Return device, inode, size and time of the last change of a file; () where there is none.

    Of a folder, those of all files in it.
    """
    try:
        found = [os.stat(file) for file in _files_of(path)]
    except (OSError, TypeError):  # what is no path has no file
        return ()
    return tuple(x for s in found for x in (s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns))


def _files_of(path: PathLike) -> list[Path]:
    """A file, or the files of a folder in the order of their names."""
    folder = Path(path)
    return sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else [folder]


def require_state(path: PathLike, state: tuple[int, ...]) -> None:
    """Raise an InputError unless a file has the state that `file_state` found before."""
    if file_state(path) != state:
        raise InputError(
            f"'{path}' was replaced or changed while it was read, so that parts of two files would "
            "be mixed. Run it again when nothing writes to the file."
        )


def require_regular(path: PathLike) -> None:
    """Raise an InputError unless a path is that of a file; reading a pipe may never end."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        raise InputError(f"There is no file '{path}'.") from None
    if not stat.S_ISREG(mode):
        what = next((name for is_so, name in _OTHER_KINDS if is_so(mode)), "something else")
        raise InputError(f"'{path}' is no file but {what}; give the path of a file.")


def file_digest(path: PathLike) -> str:
    """SHA-256 of the content of a file, or of all files of a folder, in hexadecimal digits."""
    with reading(path), open_bytes(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_bytes(path: PathLike) -> io.BufferedReader:
    """Open a file for reading its bytes; of a folder, those of its files one after another."""
    if Path(path).is_dir():
        return io.BufferedReader(_Folder(_files_of(path)))
    return open(path, "rb")


class _Folder(io.RawIOBase):
    """The bytes of several files as if they were one file."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        self.ends = list(accumulate(file.stat().st_size for file in files))
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        from_where = {os.SEEK_SET: 0, os.SEEK_CUR: self.position}
        self.position = from_where.get(whence, self.ends[-1] if self.ends else 0) + offset
        return self.position

    def readinto(self, buffer: Any) -> int:
        i = bisect_right(self.ends, self.position)
        if i == len(self.files):
            return 0
        begin = self.ends[i - 1] if i else 0
        with open(self.files[i], "rb") as file:
            file.seek(self.position - begin)
            n = file.readinto(buffer)
        self.position += n
        return n


def file_identity(path: PathLike) -> str:
    """SHA-256 by which a file is recognised again, at a cost that does not grow with the file.

    Up to 4 MB it is the digest of the content. Of a larger file, it is that of the size and of 64
    pieces of 64 KB at equal distances, the first and the last bytes among them: enough to tell
    files apart that were written independently, not to find a change of a few bytes in place.
    """
    size = sum(file.stat().st_size for file in _files_of(path)) if Path(path).exists() else 0
    if size <= _PIECES * _PIECE:
        return file_digest(path)
    digest = hashlib.sha256(str(size).encode())
    with reading(path), open_bytes(path) as file:
        for i in range(_PIECES):
            file.seek(i * (size - _PIECE) // (_PIECES - 1))
            digest.update(file.read(_PIECE))
    return digest.hexdigest()


def range_digest(file: io.BufferedReader, start: int, stop: int) -> str:
    """XXH3 of 128 bits of the bytes start .. stop - 1 of an open file: "xxh3_128:<digits>".

    It tells files apart as SHA-256 does, sooner, but for those that somebody has
    made to have the same digest. `xxhsum -H2 file` prints that of a whole file.
    """
    digest = xxhash.xxh3_128()
    file.seek(start)
    # large pieces: after each the thread may have to wait for the interpreter's lock
    buffer = page_aligned(max(1, min(_HASHED, stop - start))).data
    while start < stop:
        n = file.readinto(buffer[: stop - start])
        if not n:
            break
        digest.update(buffer[:n])
        start += n
    return f"xxh3_128:{digest.hexdigest()}"
