"""The kinds of containers that cells come in; a further format is one class more."""

from __future__ import annotations

from contextlib import AbstractContextManager
from os import PathLike
from typing import Any

import pandas as pd

from flashmm.cells.anndata_stores import H5adFile, ZarrStore
from flashmm.cells.container import Container
from flashmm.cells.in_memory import InMemory
from flashmm.cells.tenx import TenxFile, TenxFolder
from flashmm.options import InputError

# Asked in this order; the last takes every other path.
CONTAINERS: tuple[type[Container], ...] = (InMemory, ZarrStore, TenxFolder, TenxFile, H5adFile)


def opened(data: Any, layer: str | None) -> AbstractContextManager[Container]:
    """Open what cells are in; an InputError where it is of no kind that is known."""
    if isinstance(data, str | PathLike) and "\0" in str(data):
        raise InputError(f"{str(data)!r} is no path: it holds a character of the number 0.")
    for kind in CONTAINERS:
        if kind.takes(data):
            return kind.opened(data, layer)
    if isinstance(data, pd.DataFrame):
        raise InputError("data is a DataFrame; a table of bulk samples is read by read_bulk.")
    *first, last = (kind.what for kind in CONTAINERS)
    raise InputError(
        f"data is a {type(data).__name__}; give {', '.join(first)}, or {last}, or a list of them."
    )
