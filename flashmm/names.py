"""Names in messages: lists of them, and the known ones that look like a mistyped one."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterable
from typing import Any


def listed(names: Iterable[Hashable], most: int = 8, quote: str = "'") -> str:
    """Names in quotes for a message, the first `most` of them, and how many more there are."""
    return first_of((f"'{name}'" for name in names), most)


def first_of(items: Iterable[Any], most: int = 5) -> str:
    """The first items as they are, separated by commas, and how many more there are."""
    texts = [str(item) for item in items]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return (", ".join(texts[:most]) or "none") + more


def some_names(names: Iterable[Hashable], most: int = 3) -> str:
    """The first few names in quotes, and how many more there are."""
    return listed(names, most)


def near_names(name: str, known: Iterable[str], most: int = 3, likeness: float = 0.6) -> list[str]:
    """The known names that look most like a name, nearest first; none below a `likeness` of 1."""
    return difflib.get_close_matches(name, list(known), n=most, cutoff=likeness)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" where a known name is near, else "."."""
    near = near_names(name, known)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else "."


def text(name: Any) -> str:
    """A name from a file, which may hold it as bytes."""
    return name.decode() if isinstance(name, bytes) else str(name)
