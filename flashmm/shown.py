"""How records show themselves in a notebook, and what later rooms add to them.

A record that is a `Shown` has an HTML representation of its facts and the head of its table; every
text in it is escaped. `attached` gives a record a method or an accessor of a later room (figures,
files) by name: it is imported when it is used, and only there, so that rooms stay in their order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from html import escape
from importlib import import_module
from types import FunctionType, MethodType
from typing import Any

# Rows of a table and notes that are shown.
MOST_ROWS, MOST_NOTES = 5, 6
# Characters of a field.
LONGEST = 60
_CELL = "style='text-align:left;padding:1px 12px 1px 0'"


class Shown:
    """A record with a text and an HTML representation."""

    __slots__ = ()

    def facts(self) -> Mapping[str, Any]:
        """What is worth knowing of the record, by name."""
        return {}

    def preview(self) -> Any:
        """A table (pandas.DataFrame) whose head is shown below the facts, or None."""
        table = getattr(self, "to_frame", None)
        return None if table is None else table()

    def __repr__(self) -> str:
        """Name and fields; of arrays and tables the shape."""
        parts = [f"{field.name}={_short(getattr(self, field.name))}" for field in fields(self)]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(parts)})"

    def _repr_html_(self) -> str:
        head = escape(repr(self).partition("\n")[0])
        facts = "".join(
            f"<tr><td {_CELL}>{escape(str(name))}</td><td {_CELL}>{escape(str(value))}</td></tr>"
            for name, value in self.facts().items()
        )
        said = [" ".join(str(note).split()) for note in getattr(self, "notes", ())]
        notes = "".join(f"<li>{escape(note)}</li>" for note in said[:MOST_NOTES])
        more = f"<li>and {len(said) - MOST_NOTES} more: .notes</li>" * (len(said) > MOST_NOTES)
        return (
            f"<div><p><b>{head}</b></p><table>{facts}</table>{self._preview_html()}"
            + (f"<ul>{notes}{more}</ul>" if notes else "")
            + "</div>"
        )

    def _preview_html(self) -> str:
        table = self.preview()
        if table is None:
            return ""
        return str(table.head(MOST_ROWS).to_html(index=False, escape=True, float_format="%.4g"))


def _short(value: Any) -> str:
    """A value of a field in a few words."""
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"<{' × '.join(map(str, shape))}>" if shape else str(value)
    if isinstance(value, Mapping | list | tuple) and len(value) > 3:
        return f"<{len(value)}>"
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


class attached:  # noqa: N801 - a decorator-like descriptor
    """An attribute of a record that a later room provides.

    Parameters
    ----------
    place : str
        Module of the room, such as "flashmm.notebook.figures".
    name : str
        A function of the record, which becomes a method, or a class made with the record.
    """

    def __init__(self, place: str, name: str) -> None:
        self.place, self.name = place, name

    def __get__(self, record: Any, owner: type | None = None) -> Any:
        found = getattr(import_module(self.place), self.name)
        if record is None:
            return found
        return MethodType(found, record) if isinstance(found, FunctionType) else found(record)
