"""The columns that define groups: distinct rows, and one order of levels for several tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from flashmm.names import listed
from flashmm.options import InputError, note


def group_rows(keys: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """Give numbers to the distinct rows of `keys` in the order of their levels.

    Parameters
    ----------
    keys : pandas.DataFrame
        (rows, by) No missing values; categories count in their own order.

    Returns
    -------
    codes : numpy.ndarray
        (rows,) The group of each row.
    table : pandas.DataFrame
        (groups, by) The distinct rows, indexed by their values joined by ``|``; unused levels are
        dropped.
    """
    by = list(keys.columns)
    codes, first = _distinct_rows([keys[name] for name in by])
    table = keys.iloc[first]
    rows = table.itertuples(index=False, name=None)
    table.index = pd.Index(["|".join(map(str, row)) for row in rows])
    if not table.index.is_unique:
        twice = table.index[table.index.duplicated()]
        raise InputError(
            f"Different groups would have the same name {listed(twice)}: "
            f"values of the columns {listed(by)} hold the separator '|'; rename them."
        )
    return codes, table.assign(**{name: drop_unused_levels(table[name]) for name in by})


def _distinct_rows(columns: Sequence[pd.Series]) -> tuple[np.ndarray, np.ndarray]:
    """Number of each row among the distinct ones in order, and where each of these comes first."""
    place = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        level = _level_numbers(column)
        # distinct rows of the columns so far are numbered anew, so that numbers stay small
        place = _dense(place * (level.max(initial=0) + 1) + level)
    first = np.empty(place.max(initial=-1) + 1, np.int64)
    first[place[::-1]] = np.arange(len(place))[::-1]  # what comes last here stays
    return place, first


def _level_numbers(column: pd.Series) -> np.ndarray:
    """Numbers of the levels of a column, in their order."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return np.asarray(column.cat.codes, np.int64)
    return _dense(column.to_numpy())


def _dense(values: np.ndarray) -> np.ndarray:
    """Number of each value among the distinct ones, in ascending order."""
    number, distinct_values = pd.factorize(values)
    rank = np.empty(len(distinct_values), np.int64)
    rank[np.argsort(distinct_values)] = np.arange(len(distinct_values))
    return rank[number]


def sum_by_group(codes: np.ndarray, values: np.ndarray, n_groups: int) -> np.ndarray:
    """Sum `values` (rows,) over the rows of each group, one after another in their order."""
    total = np.zeros(n_groups, dtype=values.dtype)
    np.add.at(total, codes, values)
    return total


def merge_levels(orders: Sequence[pd.Index]) -> pd.Index:
    """Take the longest order of levels if it contains all others in their order, else sort all."""
    longest = max(orders, key=len)
    if all(_contains(longest, order) for order in orders):
        return longest
    union = set().union(*orders)
    try:
        return pd.Index(sorted(union))
    except TypeError as error:
        kinds = sorted({type(level).__name__ for level in union})
        raise InputError(f"Levels of different types cannot be merged: {listed(kinds)}.") from error


def align_tables(tables: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """Give the columns of several tables one dtype each: for categories, one order of levels.

    Raises
    ------
    InputError
        Where a column is categorical in one table and numeric or boolean in another.
    """
    if len(tables) == 1:
        return list(tables)
    dtypes = {name: _common_dtype([table[name] for table in tables]) for name in tables[0]}
    changes = {name: dtype for name, dtype in dtypes.items() if dtype is not None}
    return [table.astype(changes) for table in tables]


def note_references(
    tables: Sequence[pd.DataFrame], merged: pd.DataFrame, columns: Iterable[str]
) -> list[str]:
    """Say the reference levels of `columns` where `tables` differ in them.

    Nothing is said of a column whose levels, in the merged table, are those of the longest order
    and have the reference that all tables had.
    """
    chosen = []
    for name in columns:
        orders = [t[name].cat.categories for t in tables if kind_of(t[name]) == "categorical"]
        if any(not orders[0].equals(order) for order in orders):
            levels = merged[name].cat.categories
            same_reference = all(order[0] == levels[0] for order in orders)
            if not same_reference or max(map(len, orders)) < len(levels):
                chosen.append(f"{name} '{levels[0]}'")
    if not chosen:
        return []
    return [note(f"Levels differ between the parts; reference levels now: {', '.join(chosen)}.")]


def drop_unused_levels(column: pd.Series) -> pd.Series:
    """Return the column without the categories that no row has; other columns as they are."""
    return column.cat.remove_unused_categories() if kind_of(column) == "categorical" else column


def _contains(longer: pd.Index, shorter: pd.Index) -> bool:
    positions = longer.get_indexer(shorter)
    return bool((positions >= 0).all() and (np.diff(positions) > 0).all())


def kind_of(column: pd.Series) -> str:
    """Say what a column holds: "categorical", "boolean" or "numeric"."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return "categorical"
    return "boolean" if pd.api.types.is_bool_dtype(column.dtype) else "numeric"


def _common_dtype(columns: Sequence[pd.Series]) -> pd.CategoricalDtype | None:
    kinds = distinct(kind_of(column) for column in columns)
    if len(kinds) > 1:
        raise InputError(
            f"Column '{columns[0].name}' is {' and '.join(kinds)} in different parts; "
            "give it the same type in all of them."
        )
    if kinds != ("categorical",):
        return None
    levels = merge_levels([column.cat.categories for column in columns])
    return pd.CategoricalDtype(levels, ordered=all(column.cat.ordered for column in columns))


def distinct(items: Iterable[Any]) -> tuple[Any, ...]:
    """Distinct items in the order of their first appearance; items need not be hashable."""
    kept: list[Any] = []
    for item in items:
        if item not in kept:
            kept.append(item)
    return tuple(kept)


def unsorted_columns(tables: Sequence[pd.DataFrame]) -> list[str]:
    """Columns with levels in another order than the sorted one, so that a merge has to choose."""
    return [str(name) for name in tables[0] if not all(_is_sorted(table[name]) for table in tables)]


def _is_sorted(column: pd.Series) -> bool:
    categories = getattr(column.dtype, "categories", None)
    return categories is None or bool(categories.is_monotonic_increasing)
