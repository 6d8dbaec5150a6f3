"""Files that are hashed aside, in a thread of their own, while others read them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any

from flashmm.kernels.threads import thread_count
from flashmm.storage.files import PathLike, file_identity, open_bytes, range_digest


@contextmanager
def digest_aside(
    path: PathLike, part: tuple[int, int, int]
) -> Iterator[Callable[[], dict[str, Any]]]:
    """Hash a file, or a part of its bytes, while it is read.

    Where there is one thread to work in, it is hashed when it is asked for. Leaving early closes
    the file, which ends the thread.

    Parameters
    ----------
    path : path
        A file, or a folder whose files count as one.
    part : tuple of int
        (start, stop, n): the rows that are read, of n; of the bytes the same share is hashed.

    Yields
    ------
    callable
        Waits, and gives a record of `digest` (`storage.files.range_digest`), `file_id`
        (`storage.files.file_identity`), and for a part the `bytes` that were hashed.
    """
    with ThreadPoolExecutor(1) as pool, open_bytes(path) as file:
        hashed = partial(_identity, file, Path(path), part)
        yield hashed if thread_count() == 1 else pool.submit(hashed).result


def _identity(file: BufferedReader, path: Path, part: tuple[int, int, int]) -> dict[str, Any]:
    size = file.seek(0, os.SEEK_END)
    first, last, n = part
    start, stop = size * first // n, size * last // n
    digest = {"digest": range_digest(file, start, stop), "file_id": file_identity(path)}
    return digest if (start, stop) == (0, size) else digest | {"bytes": [start, stop]}
