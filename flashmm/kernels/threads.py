"""Genes spread over threads, by parts that do not depend on how many threads there are.

NumPy's batched linear algebra runs on one core and lets go of the interpreter's lock, so that
threads of Python are enough. Parts are cut by the size of the problem alone and joined in order:
any number of threads gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cache
from threading import local
from typing import Any, TypeVar

import numba
import numpy as np
from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")

_here = local()  # of each thread: whether it works for `in_threads`


def thread_count() -> int:
    """Threads to work in: numba's, so that one setting holds for compiled and other code."""
    return int(numba.get_num_threads())


def single_blas_thread() -> AbstractContextManager[Any]:
    """Keep BLAS in one thread meanwhile; libraries are looked up once, which takes milliseconds."""
    limiter: AbstractContextManager[Any] = _libraries().limit(limits=1, user_api="blas")
    return limiter


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Results of a function for each item, in order; BLAS must be limited to one thread.

    A function that itself calls this one works in the thread that it has.
    """
    threads = min(thread_count(), len(items))
    if threads <= 1 or getattr(_here, "working", False):
        return [function(item) for item in items]
    with ThreadPoolExecutor(threads, initializer=_begin_work) as pool:
        return list(pool.map(function, items))


def _begin_work() -> None:
    _here.working = True


class InThisThread(Executor):
    """An executor that does at once, in the calling thread, what it is given: for one thread."""

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Call the function; the future has its result or its error already."""
        future: Future[Result] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def workers(threads: int) -> Executor:
    """An executor of so many threads; one is the calling thread itself, so that one core works."""
    return InThisThread() if threads == 1 else ThreadPoolExecutor(threads)


def by_parts(function: Callable[..., Any], size: int, n: int) -> Any:
    """Join what a function gives for each part of `n` genes.

    Parameters
    ----------
    function : callable
        Of a slice of genes; returns an array, genes first, or a (named) tuple of such arrays.
    size : int
        Genes per part.
    n : int
        Number of genes.
    """
    # no genes are one empty part, so that what comes back has its shape
    parts = [slice(first, min(first + size, n)) for first in range(0, max(n, 1), size)]
    return _joined(in_threads(function, parts))


def _joined(results: list[Any]) -> Any:
    first = results[0]
    if len(results) == 1:
        return first
    if isinstance(first, np.ndarray):
        return np.concatenate(results)
    arrays = (np.concatenate(values) for values in zip(*results, strict=True))
    return type(first)(*arrays) if hasattr(first, "_fields") else tuple(arrays)


def limit_threads(threads: int) -> None:
    """Let compiled code and BLAS of this process use so many threads from now on."""
    # as many as numba has begun with, at most
    numba.set_num_threads(min(threads, int(vars(numba.config)["NUMBA_NUM_THREADS"])))
    ThreadpoolController().limit(limits=threads)
