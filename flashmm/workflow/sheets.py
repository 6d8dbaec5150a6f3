"""Read the sheets and sections of a config, and check them against their schemas."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import yaml
from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

from flashmm.names import near_names
from flashmm.options import FlashmmError

Record = dict[str, Any]


class ConfigError(FlashmmError):
    """A config or a sheet that cannot be run; the message says what is wrong where."""


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
        try:
            validate(record, self.path(schema))
        except WorkflowError as error:
            raise ConfigError(f"{where}: {_explained(error.__context__)}") from None
        return record

    def records(self, source: str | Mapping[str, Any], schema: str, what: str) -> dict[str, Record]:
        """Name -> validated record, from the path of a sheet or from a mapping in the config."""
        if isinstance(source, str):
            rows, where = self.sheet(source, schema), source
        else:
            rows = [{"name": name, **(row or {})} for name, row in source.items()]
            where = f"config: {what}"
        checked: dict[str, Record] = {}
        for row in rows:
            name = row.get("name", "?")
            checked[name] = self.validated(row, schema, f"{where}: {name}")
            checked[name].pop("name")
        if len(checked) < len(rows):
            names = [row.get("name") for row in rows]
            raise ConfigError(f"{where}: a name is used twice; found {names}")
        return checked

    def sheet(self, path: str, schema: str) -> list[Record]:
        """The rows of a tab-separated sheet; an empty cell is left to its default."""
        if not Path(path).is_file():
            raise ConfigError(f"{path}: no such file")
        sheet = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, comment="#")
        known = self.columns(schema)
        rows = sheet.to_dict("records")
        if not rows:
            raise ConfigError(f"{path}: no rows")
        return [
            {
                str(key): _typed(cell.strip(), known.get(str(key), {}))
                for key, cell in row.items()
                if cell.strip() or key == "name"
            }
            for row in rows
        ]

    def columns(self, schema: str) -> dict[str, Record]:
        """The properties that a schema knows, by name."""
        return dict(yaml.safe_load(Path(self.path(schema)).read_text("utf-8"))["properties"])


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
    expected = error.schema.get("description", error.message)
    return f"{place}{error.instance!r} is not allowed; expected {expected}"


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
    raise ConfigError(f"{where}: {error}") from None
