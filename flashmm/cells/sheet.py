"""A sheet of cells that stands beside the counts: read, and matched by the names of the cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from flashmm.names import listed, text
from flashmm.options import InputError
from flashmm.storage.files import PathLike, file_digest, reading

Sheet: TypeAlias = pd.DataFrame | PathLike

_COMMAS = (".csv",)


@dataclass(frozen=True, eq=False)
class MatchedSheet:
    """Columns of a sheet for the cells of a container.

    Attributes
    ----------
    table : pandas.DataFrame
        (cells, columns) In the order of the cells; missing where the sheet has no row.
    listed : numpy.ndarray
        (cells,) bool: whether the sheet has a row for the cell.
    name : str
        What messages call the sheet.
    notes : tuple of str
        What was found when they were matched.
    """

    table: pd.DataFrame
    listed: np.ndarray
    name: str
    notes: tuple[str, ...]


def sheets_of(obs: Sheet | Sequence[Sheet] | None, n: int) -> list[Sheet | None]:
    """A sheet for each of `n` inputs: one for all, or a list of as many.

    Raises
    ------
    InputError
        A list of another length.
    """
    if obs is None or not isinstance(obs, list | tuple):
        return [obs] * n  # type: ignore[list-item]
    if len(obs) != n:
        raise InputError(f"obs is a list of {len(obs)} sheets, and data are {n}.")
    return list(obs)


def sheet_record(sheet: Sheet | None) -> dict[str, Any]:
    """What a sheet was, for a record of what was read; nothing where there is none."""
    if sheet is None:
        return {}
    if isinstance(sheet, pd.DataFrame):
        return {"obs": {"file": None}}
    return {"obs": {"file": Path(sheet).name, "sha256": file_digest(sheet)}}


def check_one_sheet(obs: Sheet | Sequence[Sheet] | None, cell_names: Sequence[Any]) -> None:
    """Refuse one sheet for several inputs that have cells of the same name."""
    if obs is None or isinstance(obs, list | tuple) or len(cell_names) < 2:
        return
    names = pd.Index([text(name) for names in cell_names for name in names])
    if names.has_duplicates:
        n = names[names.duplicated()].nunique()
        raise InputError(
            f"obs is one sheet for several inputs, of which {n} names of cells are the same: give "
            "a list of sheets, one for each."
        )


def read_sheet(sheet: Sheet) -> pd.DataFrame:
    """A sheet as a frame; a path is that of a table of text (TSV, CSV, `.gz`) or of Parquet.

    Raises
    ------
    InputError
        There is no such file, or it is no table.
    """
    if isinstance(sheet, pd.DataFrame):
        return sheet
    path = Path(sheet)
    with reading(path):
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        endings = [ending.lower() for ending in path.suffixes if ending != ".gz"]
        comma = bool(endings) and endings[-1] in _COMMAS
        table = pd.read_csv(path, sep="," if comma else "\t", low_memory=False)
        if not table.shape[1] or (table.shape[1] == 1 and isinstance(table.index, pd.RangeIndex)):
            table = pd.read_csv(path, sep="\t" if comma else ",", low_memory=False)
    return table


def matched(sheet: Sheet, cell_names: Any, name: str, what: str = "cells") -> MatchedSheet:
    """Find the row of each cell in a sheet, by the index or the column that has most names.

    Parameters
    ----------
    sheet : DataFrame or path
        A row per cell.
    cell_names : sequence of str
        (cells,) Names of the cells, such as barcodes.
    name : str
        What messages call the counts.
    what : str
        What has a row, for messages.

    Raises
    ------
    InputError
        No cell has a row, or a cell has several.
    """
    said = "obs" if isinstance(sheet, pd.DataFrame) else f"obs='{sheet}'"
    table = read_sheet(sheet)
    if not len(table):
        raise InputError(f"{said} has no rows: give it a row for each of the {what} of {name}.")
    cells = pd.Index([text(cell) for cell in cell_names])
    names, column = _names(table, cells)
    there = cells.isin(names)
    if not there.any():
        raise InputError(
            f"{said} has no row of the {len(cells)} {what} of {name}: it names "
            f"{listed(names, 2)}, and the {what} are {listed(cells, 2)}.{_hint(names, cells)}"
        )
    twice = names[names.duplicated() & names.isin(cells)].unique()
    if len(twice):
        raise InputError(
            f"{said} has several rows of {len(twice)} {what} of {name} ({listed(twice, 3)}); each "
            "has one. Of several samples, give each with a sheet of its own, in a list."
        )
    rows = table.drop(columns=[] if column is None else [column]).set_axis(names, axis=0)
    rows = rows[rows.index.isin(cells)].reindex(cells).reset_index(drop=True)
    return MatchedSheet(
        rows.set_axis(list(map(str, rows.columns)), axis=1),
        there,
        said,
        _said(said, name, there, len(names) - int(there.sum())),
    )


def _said(sheet: str, name: str, there: np.ndarray, n_others: int) -> tuple[str, ...]:
    if not n_others:
        return ()
    return (
        f"{sheet} has {n_others} rows of cells that {name} does not have; they are not used "
        f"({np.count_nonzero(there)} of its {len(there)} cells have a row).",
    )


def _names(table: pd.DataFrame, cells: pd.Index) -> tuple[pd.Index, str | None]:
    """Names of the rows: the index, or the column of which most are names of cells."""
    found: tuple[Any, Any] = (table.index.map(text), None)
    most = int(found[0].isin(cells).sum())
    for column in table:
        if pd.api.types.is_numeric_dtype(table[column]):
            continue
        names = pd.Index(table[column].astype(str))
        if (number := int(names.isin(cells).sum())) > most:
            found, most = (names, column), number
    if not most and isinstance(table.index, pd.RangeIndex) and table.shape[1]:
        return pd.Index(table.iloc[:, 0].astype(str)), str(table.columns[0])
    return found


def _hint(names: pd.Index, cells: pd.Index) -> str:
    """What the names differ by, where it is an ending such as -1 or a beginning."""
    core = cells.str.replace(r"-\d+$", "", regex=True)
    if names.isin(core).any():
        return " They differ by the ending '-1': add it to those of the sheet."
    if core.isin(names.str.replace(r"[-_.]\d+$", "", regex=True)).any():
        return " They differ by the number at the end."
    short = names.str.extract(r"([ACGT]{8,}(?:-\d+)?)", expand=False)
    if pd.Index(short).isin(cells).any():
        return " Those of the sheet have something before or after the barcode: take it off."
    return " Their index, or a column, has to hold the same names."
