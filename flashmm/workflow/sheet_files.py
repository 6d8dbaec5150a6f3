"""Tab-separated sheets: their rows as text, and what is wrong with the file where it is none."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from flashmm.names import listed
from flashmm.options import FlashmmError


class ConfigError(FlashmmError):
    """A config or a sheet that cannot be run; the message says what is wrong where."""


class Line(NamedTuple):
    """A line of a sheet: its number from 1 on, and its cells."""

    number: int
    cells: list[str]


def read_sheet(path: str) -> list[dict[str, str]]:
    """Rows of a tab-separated sheet, a column's name to the text of the cell.

    Parameters
    ----------
    path : str
        A text file in UTF-8. The first line names the columns; empty lines and those that begin
        with "#" are left out. A cell may stand in double quotes, as spreadsheets write it.

    Returns
    -------
    list of dict
        One per row; the cells that a row lacks at its end are empty.

    Raises
    ------
    ConfigError
        The file is missing, is not text in UTF-8, holds no rows, is separated by something else, or
        a line does not fit to the names of the columns.
    """
    lines = list(_lines(path, _text(path)))
    if not lines:
        raise ConfigError(f"{path}: the file is empty; its first line names the columns")
    header, *rows = lines
    columns = _without_empty_end([name.strip() for name in header.cells])
    _check_columns(path, columns)
    if not rows:
        raise ConfigError(f"{path}: no rows below the names of the columns")
    return [_row(path, columns, row) for row in rows]


def _text(path: str) -> str:
    if not Path(path).is_file():
        raise ConfigError(f"{path}: no such file")
    content = Path(path).read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}: line {line} is not text in UTF-8 (byte {content[error.start]:#04x}); save "
            "the sheet as tab-separated text in UTF-8"
        ) from None


def _lines(path: str, text: str) -> Iterator[Line]:
    """Yield the lines that hold something, cut at tabs."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            yield Line(number, _cells(path, number, line))


def _cells(path: str, number: int, line: str) -> list[str]:
    """The cells of a line; quotes are those of spreadsheets and end in the line."""
    try:
        return next(csv.reader([line], delimiter="\t", strict=True))
    except csv.Error:
        cell = next((c for c in line.split("\t") if c.startswith('"')), line)
        raise ConfigError(
            f"{path}: line {number}: a cell begins with a quote that does not close at its end: "
            f"{cell[:40]}; leave the quotes out"
        ) from None


def _without_empty_end(names: list[str]) -> list[str]:
    """Names without the empty ones at the end, which spreadsheets leave."""
    filled = [place for place, name in enumerate(names, start=1) if name]
    return names[: max(filled, default=0)]


def _check_columns(path: str, columns: list[str]) -> None:
    """Refuse names of columns that cannot be those of a tab-separated sheet."""
    if len(columns) == 1:
        for separator, word in ((",", "commas"), (";", "semicolons"), (" ", "spaces")):
            if separator in columns[0]:
                raise ConfigError(
                    f"{path}: the columns are separated by {word}; save the sheet tab-separated"
                )
    for name in filter(None, columns):
        if columns.count(name) > 1:
            raise ConfigError(
                f"{path}: {columns.count(name)} columns have the name {name!r}; each needs one of "
                "its own"
            )


def _row(path: str, columns: list[str], line: Line) -> dict[str, str]:
    cells = [cell.strip() for cell in line.cells]
    if len(cells) > len(columns) and any(cells[len(columns) :]):
        _refuse_row(path, line, f"{len(cells)} cells, and there are {len(columns)} columns")
    if len(cells) == 1 < len(columns) and " " in cells[0]:
        _refuse_row(path, line, f"no tab; the columns are {listed(columns)}")
    row = dict(zip(columns, [*cells, *[""] * len(columns)], strict=False))
    if row.pop("", ""):
        _refuse_row(path, line, "a cell in a column without a name")
    return row


def _refuse_row(path: str, line: Line, found: str) -> NoReturn:
    raise ConfigError(f"{path}: line {line.number} ({line.cells[0]!r}) has {found}")
