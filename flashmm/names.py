"""Names in messages, near ones of a mistyped one, and the names that a room offers."""

from __future__ import annotations

import ast
import difflib
import sys
from collections.abc import Hashable, Iterable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
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
    texts = list(known)
    same = [found for found in texts if found.lower() == name.lower() and found != name]
    near = difflib.get_close_matches(name, texts, n=most, cutoff=likeness)
    return list(dict.fromkeys([*same, *near]))[:most]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" where a known name is near, else "."."""
    near = near_names(name, known)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else "."


def text(name: Any) -> str:
    """A name from a file, which may hold it as bytes."""
    return name.decode() if isinstance(name, bytes) else str(name)


def texts(names: Iterable[Any]) -> list[str]:
    """Names from a file, as `text` gives each of them."""
    found = list(names)
    try:
        return list(map(bytes.decode, found))  # without a call of Python for each
    except TypeError:  # some are not bytes
        return [text(name) for name in found]


def on_demand(face: str) -> None:
    """Import what a room offers when it is used, not when the room is entered (PEP 562).

    The names are those that the face imports under ``if TYPE_CHECKING:``, where type checkers and
    editors see them; a module of the room is there without an import of its own, too.

    Parameters
    ----------
    face : str
        Name of the face, ``__name__``, at whose end this is called.
    """
    module = sys.modules[face]
    module._places = _imported_for_types(module)  # type: ignore[attr-defined]
    module.__class__ = _Face


def _imported_for_types(module: ModuleType) -> dict[str, str]:
    """Name to the module that it is imported from, of the imports under ``if TYPE_CHECKING:``."""
    spec = module.__spec__
    source = spec.loader.get_source(module.__name__)  # type: ignore[union-attr]
    return {
        alias.name: statement.module
        for block in ast.parse(source).body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for statement in block.body
        if isinstance(statement, ast.ImportFrom) and statement.module
        for alias in statement.names
    }


class _Face(ModuleType):
    """The face of a room, which imports its names when they are first asked for."""

    _places: dict[str, str]

    def __getattr__(self, name: str) -> Any:
        if name in self._places:
            value = getattr(import_module(self._places[name]), name)
            vars(self)[name] = value
            return value
        if not name.startswith("_") and find_spec(f"{self.__name__}.{name}"):
            return import_module(f"{self.__name__}.{name}")
        text = f"module '{self.__name__}' has no attribute '{name}'"
        raise AttributeError(text, name=name, obj=self)

    def __setattr__(self, name: str, value: Any) -> None:
        # importing flashmm.de would put the module in the place of the function de
        if not (name in self._places and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*vars(self), *self._places})
