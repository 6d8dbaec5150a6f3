"""Lists of names for messages."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterable
from typing import Any


def listed(names: Iterable[Hashable], most: int = 8) -> str:
    """Names in quotes for a message, the first `most` of them, and how many more there are."""
    quoted = [f"'{name}'" for name in names]
    more = f" and {len(quoted) - most} more" if len(quoted) > most else ""
    return (", ".join(quoted[:most]) or "none") + more


def some_names(names: Iterable[Hashable], most: int = 3) -> str:
    """The first few names in quotes, and how many more there are."""
    return listed(names, most)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" where a known name is near, else "."."""
    near = difflib.get_close_matches(name, list(known), n=3)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else "."


def text(name: Any) -> str:
    """A name from a file, which may hold it as bytes."""
    return name.decode() if isinstance(name, bytes) else str(name)
