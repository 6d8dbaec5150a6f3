"""Read the sheets and sections of a config, and check them against their schemas."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from flashmm.names import listed, near_names
from flashmm.options import FlashmmError
from flashmm.workflow.schema_files import first_error, read_schema
from flashmm.workflow.sheet_files import ConfigError, read_sheet
from flashmm.workflow.wording import in_yaml

__all__ = ["ConfigError", "Record", "Schemas", "check_names", "one_of", "refuse"]

Record = dict[str, Any]


@dataclass(frozen=True)
class Schemas:
    """The JSON schemas of the configs and sheets.

    Attributes
    ----------
    path : callable
        Name of a schema to its file.
    """

    path: Callable[[str], str]

    @classmethod
    def in_folder(cls, folder: Path) -> Schemas:
        """Schemas that lie in a folder."""
        return cls(lambda name: str(folder / f"{name}.schema.yaml"))

    def validated(self, record: Record, schema: str, where: str) -> Record:
        """The record with the schema's defaults; a ConfigError says what is wrong where."""
        _refuse_infinite(record, where)
        error = first_error(record, self.path(schema))
        if error is not None:
            raise ConfigError(f"{where}: {_explained(error)}")
        return record

    def records(self, source: str | Mapping[str, Any], schema: str, what: str) -> dict[str, Record]:
        """Name -> validated record, from the path of a sheet or from a mapping in the config."""
        rows, where = self.rows(source, (schema,), what)
        checked: dict[str, Record] = {}
        for row in rows:
            name = row.get("name") or "a row without a name"
            if name in checked:
                raise ConfigError(f"{where}: the name {name!r} is used twice")
            checked[name] = self.validated(row, schema, f"{where}: {name}")
            checked[name].pop("name")
        return checked

    def rows(
        self, source: str | Mapping[str, Any], schemas: Sequence[str], what: str
    ) -> tuple[list[Record], str]:
        """Rows with a name, and where they stand for messages; each is of one of the schemas."""
        if isinstance(source, str):
            return self._sheet(source, schemas), source
        return _named_rows(source, f"config: {what}"), f"config: {what}"

    def _sheet(self, path: str, schemas: Sequence[str]) -> list[Record]:
        """The rows of a tab-separated sheet; an empty cell is left to its default."""
        known = {key: kind for schema in schemas for key, kind in self.columns(schema).items()}
        rows = read_sheet(path)
        if "name" not in rows[0]:
            raise ConfigError(
                f"{path}: no column is called 'name'; the first line names the columns, and has "
                f"{listed(rows[0])}"
            )
        return [
            {
                column: _typed(cell, known.get(column, {}))
                for column, cell in row.items()
                if cell or column == "name"
            }
            for row in rows
        ]

    def columns(self, schema: str) -> dict[str, Record]:
        """The properties that a schema knows, by name."""
        return dict(read_schema(self.path(schema))["properties"])


def _named_rows(source: Mapping[str, Any], where: str) -> list[Record]:
    """Rows of a mapping from names to mappings."""
    check_names(source, where)
    for name, row in source.items():
        if not isinstance(row, Mapping | None):
            raise ConfigError(
                f"{where}: {name}: {row!r} is not allowed; expected a mapping with its fields"
            )
        if "name" in (row or {}):
            raise ConfigError(f"{where}: {name}: 'name' is the key above; leave it out")
    return [{"name": name, **(row or {})} for name, row in source.items()]


def check_names(names: Collection[Any], where: str) -> None:
    """Refuse names that YAML has read as something else than text."""
    for name in names:
        if not isinstance(name, str):
            kind = "a truth value" if isinstance(name, bool) else "a number"
            kind = "nothing" if name is None else kind
            raise ConfigError(
                f"{where}: YAML reads the name {name} as {kind}; put it into quotes, '{name}'"
            )


def _refuse_infinite(value: Any, where: str) -> None:
    """Refuse numbers that are none, which pass every comparison."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}: {value} is not allowed; expected a finite number")
    pairs = enumerate(value, start=1) if isinstance(value, list) else ()
    for key, item in value.items() if isinstance(value, Mapping) else pairs:
        _refuse_infinite(item, f"{where}: {key}")


def one_of(name: str, known: Collection[str], where: str, what: str = "method") -> None:
    """Refuse a name that is not a known one, with the closest of those."""
    if name not in known:
        raise ConfigError(f"{where}: no {what} is called {name!r}; {_hint(name, known)}")


def _hint(name: str, known: Collection[str]) -> str:
    close = near_names(str(name), known, most=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"


def _explained(error: Any) -> str:
    """One line for an error of the JSON schema, with the closest names where a key is unknown."""
    place = "".join(f"{key!r}: " for key in error.absolute_path)
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        unknown = next(key for key in error.instance if key not in known)
        return f"{place}unknown key {unknown!r}; {_hint(unknown, known)}"
    if error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        return f"{place}{', '.join(map(repr, missing))} missing"
    if "description" not in error.schema:
        return f"{place}{error.message}{_misread(error)}"
    expected = error.schema["description"]
    return f"{place}{error.instance!r} is not allowed; expected {expected}{_misread(error)}"


def _misread(error: Any) -> str:
    """Say where YAML has read something else than was meant."""
    value, kind = error.instance, error.schema.get("type")
    if isinstance(value, bool) and kind != "boolean":
        return "; YAML reads yes, no, on and off as truth values: put names into quotes"
    if isinstance(value, str) and kind in ("number", "integer"):
        try:
            finite = math.isfinite(float(value))
        except ValueError:
            return ""
        if not finite:
            return ""
        return f"; YAML reads {value} as text: write {_number(value, kind)}, without quotes"
    return ""


def _number(text: str, kind: str) -> str:
    """A number as YAML 1.1 reads it: a mantissa with a point, an exponent with a sign."""
    value = float(text)
    if value == int(value) and (kind == "integer" or abs(value) < 1e15):
        return str(int(value))
    mantissa, _, exponent = f"{value!r}".partition("e")
    return (
        f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}" if exponent else mantissa
    )


def _typed(cell: str, column: Mapping[str, Any]) -> Any:
    """Text where the column holds text, else the number, list or truth value of the cell."""
    if column.get("type") == "string":
        return cell
    try:
        return json.loads(cell.lower() if cell.lower() in ("true", "false") else cell)
    except ValueError:
        return cell


def refuse(where: str, error: FlashmmError) -> NoReturn:
    """Say an error of the package as one of the config."""
    raise ConfigError(f"{where}: {in_yaml(str(error))}") from None
