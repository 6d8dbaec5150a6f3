"""Hooks of all tests; where the numbers are that they compare with says `references`."""

from __future__ import annotations

import gc

import pytest
from hypothesis import settings
from skips import pytest_sessionfinish, pytest_terminal_summary

__all__ = ["pytest_sessionfinish", "pytest_terminal_summary"]

# Folders and files whose few tests take longest, longest first: a worker that took one of them last
# would keep the others waiting.
LONGEST = ("tests/workflow/test_run.py", "tests/workflow", "tests/benchmark", "tests/inference")

# Of a property that says nothing else; most are compared with an exact oracle, gene by gene.
settings.register_profile("suite", max_examples=25, deadline=None)
settings.load_profile("suite")

# Modules and tests stay until the end: the garbage collector, which would go through them again and
# again, begins where they are all there, and takes what tests leave less often.
gc.disable()


def pytest_configure(config: pytest.Config) -> None:
    """A worker among others has one thread; tests of threads ask for more."""
    if hasattr(config, "workerinput"):
        import numba

        numba.set_num_threads(1)


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the order within a file stays."""

    def place(item: pytest.Item) -> int:
        found = [i for i, start in enumerate(LONGEST) if item.nodeid.startswith(start)]
        return min(found, default=len(LONGEST))

    items.sort(key=place)
