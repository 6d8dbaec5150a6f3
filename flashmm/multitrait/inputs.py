"""Traits, covariates and roots of kinship from the user: checked, named, their rows matched."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from flashmm.kernels.rotation import independent_columns
from flashmm.names import first_of, listed
from flashmm.options import DesignError, InputError, note


class Table(NamedTuple):
    """A matrix with the names of its rows (None where it has none) and of its columns."""

    values: np.ndarray
    ids: pd.Index | None
    names: tuple[str, ...]


class Inputs(NamedTuple):
    """Matrices whose rows are the same subjects, complete and finite.

    Attributes
    ----------
    Y, X, G : Table
        Traits, covariates and root of the covariance between subjects.
    subjects : pandas.Index
        Names of the rows.
    used : (rows given,) bool array
        Rows that were kept.
    notes : tuple of str
        What was decided for the user.
    """

    Y: Table
    X: Table
    G: Table
    subjects: pd.Index
    used: np.ndarray
    notes: tuple[str, ...]


def read_table(argument: str, value: Any, column: str) -> Table:
    """Take an array, data frame, series or sparse matrix.

    Parameters
    ----------
    argument : str
        Name for messages.
    value : array_like
        The matrix; one dimension is one column.
    column : str
        Prefix of the names of columns that have none.

    Returns
    -------
    Table
        Values as float64.

    Raises
    ------
    InputError
        Not numbers, not a matrix, or rows that share a name.
    """
    if value is None:
        raise InputError(f"{argument} is None; a matrix with one row per subject is needed.")
    if isinstance(value, pd.Series):
        value = value.to_frame(value.name if value.name is not None else f"{column}1")
    ids, names = None, None
    if isinstance(value, pd.DataFrame):
        wrong = [str(c) for c in value.columns if not pd.api.types.is_numeric_dtype(value[c])]
        if wrong:
            raise InputError(f"{argument} holds columns that are not numbers: {', '.join(wrong)}.")
        if not isinstance(value.index, pd.RangeIndex):
            ids = value.index
        names = tuple(str(c) for c in value.columns)
    array = _numbers(argument, value)
    if ids is not None and ids.has_duplicates:
        twice = ids[ids.duplicated()][0]
        raise InputError(f"{argument} has more than one row named {twice!r}.")
    if names is None:
        names = tuple(f"{column}{j + 1}" for j in range(array.shape[1]))
    return Table(array, ids, names)


def is_sparse(value: Any) -> bool:
    """Whether a matrix is one of scipy's sparse formats."""
    return bool(sparse.issparse(value))


def _numbers(argument: str, value: Any) -> np.ndarray:
    """A matrix of float64."""
    value = value.toarray() if is_sparse(value) else value
    try:
        array = np.asarray(value)
        if np.iscomplexobj(array):
            raise TypeError("complex")
        array = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{argument} must be a matrix of numbers ({error}).") from None
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(
            f"{argument} must be a matrix with rows and columns; found shape {array.shape}."
        )
    return array


def read_inputs(Y: Any, X: Any, G: Any, missing: str) -> Inputs:
    """Match the rows of three matrices, by name where they have names, and deal with gaps.

    Parameters
    ----------
    Y, X, G : array_like
        One row per subject.
    missing : {"error", "drop"}
        Refuse missing values, or leave the subjects out that have any.

    Returns
    -------
    Inputs
        Complete rows in the order of Y.

    Raises
    ------
    InputError
        Numbers of rows or names that do not match; missing or infinite values.
    """
    if missing not in ("error", "drop"):
        raise InputError(f"missing must be one of error, drop; found {missing!r}.")
    tables = {
        "Y": read_table("Y", Y, "trait"),
        "X": read_table("X", X, "x"),
        "G": read_table("G", G, "g"),
    }
    n = len(tables["Y"].values)
    for argument, table in tables.items():
        if len(table.values) != n:
            raise InputError(
                f"{argument} has {len(table.values)} rows and Y has {n}: each needs one row per "
                "subject."
            )
    tables, subjects, notes = _matched(tables)
    used = np.ones(n, dtype=bool)
    for argument, table in tables.items():
        _refuse_infinite(argument, table)
        gaps = np.isnan(table.values)
        if gaps.any() and missing == "error":
            raise InputError(
                f"{argument} holds missing values in {_counted(table.names, gaps.sum(0))} of {n} "
                "subjects. Fill them, or use missing='drop' to leave those subjects out."
            )
        used &= ~gaps.any(1)
    if not used.any():
        raise InputError("Every subject has a missing value in Y, X or G, so that none is left.")
    if not used.all():
        notes += (note(f"{n - used.sum()} of {n} subjects have missing values and are left out."),)
        tables = {k: Table(t.values[used], t.ids, t.names) for k, t in tables.items()}
    return Inputs(**tables, subjects=subjects[used], used=used, notes=notes)


def _matched(tables: dict[str, Table]) -> tuple[dict[str, Table], pd.Index, tuple[str, ...]]:
    """Rows in the order of the first table that names them."""
    named = {argument: table for argument, table in tables.items() if table.ids is not None}
    if not named:
        return tables, pd.RangeIndex(len(tables["Y"].values)), ()
    first = next(iter(named))
    subjects = named[first].ids
    assert subjects is not None
    notes: tuple[str, ...] = ()
    for argument, table in named.items():
        assert table.ids is not None
        if table.ids.equals(subjects):
            continue
        tables[argument] = Table(
            table.values[row_order(argument, table.ids, subjects, first)], subjects, table.names
        )
        notes += (note(f"Rows of {argument} were put into the order of {first}, by name."),)
    return tables, subjects, notes


def row_order(argument: str, ids: pd.Index, subjects: pd.Index, owner: str) -> np.ndarray:
    """Positions of `subjects` in `ids`; both must hold the same names."""
    positions = ids.get_indexer(subjects)
    lacking = subjects[positions < 0]
    if len(lacking):
        raise InputError(
            f"{argument} has no row for {len(lacking)} of the {len(subjects)} subjects of {owner}, "
            f"such as {lacking[0]!r}. Give both the same row names, or arrays in one order."
        )
    return positions


def _refuse_infinite(argument: str, table: Table) -> None:
    infinite = np.isinf(table.values).sum(0)
    if infinite.any():
        raise InputError(f"{argument} holds infinite values in {_counted(table.names, infinite)}.")


def _counted(names: tuple[str, ...], counts: np.ndarray) -> str:
    """The columns with a count, in words, at most five of them."""
    found = [f"{names[j]!r} ({counts[j]})" for j in np.flatnonzero(counts)]
    return first_of(found)


def read_trait_design(
    argument: str, A: Any, traits: tuple[str, ...]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """A trait design (p, a) and the names of its columns; None is one effect per trait.

    Raises
    ------
    InputError
        Not one row per trait, or not finite.
    DesignError
        Columns that depend on each other.
    """
    if A is None:
        return np.eye(len(traits)), traits
    table = read_table(argument, A, "effect")
    values = table.values
    if len(values) != len(traits):
        raise InputError(
            f"{argument} has {len(values)} rows and Y has {len(traits)} traits: it needs one row "
            "per trait."
        )
    if table.ids is not None:
        values = values[row_order(argument, table.ids, pd.Index(traits), "Y (its traits)")]
    if not np.isfinite(values).all():
        raise InputError(f"{argument} holds values that are missing or infinite.")
    kept = independent_columns(values.T @ values)
    if not kept.all():
        lost = listed(table.names[j] for j in np.flatnonzero(~kept))
        raise DesignError(
            f"Columns of {argument} depend on the columns before them: {lost}. Leave them out."
        )
    return values, table.names
