"""Covariates: one number per cell, from the columns of a sheet of cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import reduce

import numpy as np
import pandas as pd

from flashmm.formulas import evaluate, read_covariate
from flashmm.names import did_you_mean
from flashmm.options import InputError


def covariate_columns(expr: str, columns: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the columns that a covariate is made of.

    Parameters
    ----------
    expr : str
        A covariate such as "log(libsize)", as for `evaluate_covariate`.
    columns : iterable of str
        Known column names; `expr` may be exactly one of them.

    Returns
    -------
    tuple of str
        Column names, sorted.

    Raises
    ------
    FormulaError
        Where the expression is not allowed.
    """
    if expr in set(columns):
        return (expr,)
    return tuple(sorted(frozenset().union(*(f.columns for f in read_covariate(expr)))))


def evaluate_covariate(expr: str, obs: pd.DataFrame) -> np.ndarray:
    """Evaluate a cell-level covariate: a number for every cell.

    Parameters
    ----------
    expr : str
        A column name, a call of log, log1p, log2 or sqrt on columns and numbers, such as
        "log(libsize)" or "log(libsize / 10000)", or a product of these written "a:b".
    obs : pandas.DataFrame
        (cells, columns).

    Returns
    -------
    numpy.ndarray
        (cells,) float64, all finite.

    Raises
    ------
    FormulaError
        Where the expression is not allowed.
    InputError
        Where a column is absent, holds labels or missing values, or a result is not finite.
    """
    if expr in obs.columns:
        values = numbers(obs[expr])
        require_finite(values, expr, "cells")
        return values

    def column(name: str, labels: bool = False) -> np.ndarray:
        if name not in obs.columns:
            known = list(map(str, obs.columns))
            raise InputError(
                f"covariate {expr!r}: there is no column {name!r}{did_you_mean(name, known)} "
                f"The columns are {known}."
            )
        return numbers(obs[name])

    factors = [evaluate(f, column, {}) for f in read_covariate(expr)]
    with np.errstate(all="ignore"):
        values = np.asarray(reduce(np.multiply, factors), dtype=np.float64)
    require_finite(values, expr, "cells")
    return values


def known_covariates(
    covariates: Sequence[str], obs: pd.DataFrame, kept: np.ndarray, libsize: str
) -> np.ndarray:
    """Values of the covariates that are no functions of the library size.

    Returns
    -------
    numpy.ndarray
        (covariates, kept cells) Zero for the others, and for those that cannot be evaluated.
    """
    values = np.zeros((len(covariates), np.count_nonzero(kept)))
    for row, covariate in zip(values, covariates, strict=True):
        columns = list(covariate_columns(covariate, obs.columns))
        if libsize not in columns:
            with suppress(InputError):
                row[:] = evaluate_covariate(covariate, obs.loc[kept, columns])
    return values


def require_finite(values: np.ndarray, name: str, rows: str) -> None:
    """Refuse values (rows, ...) that are not finite."""
    bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
    if len(bad):
        raise InputError(
            f"`{name}` is not finite in {len(bad)} of {len(values)} {rows} "
            f"(the first is number {bad[0]}); such as the logarithm of zero."
        )


def numbers(series: pd.Series, rows: str = "cells") -> np.ndarray:
    """Values of a complete numeric column as float64."""
    require_complete(series, rows)
    if not (pd.api.types.is_numeric_dtype(series) or pd.api.types.is_bool_dtype(series)):
        raise InputError(f"column {str(series.name)!r} holds labels ({series.dtype}), not numbers.")
    return series.to_numpy(dtype=np.float64)


def require_complete(series: pd.Series, rows: str) -> None:
    """Refuse a column with missing values."""
    missing = int(series.isna().sum())
    if missing:
        raise InputError(
            f"column {str(series.name)!r} has {missing} missing values in {len(series)} {rows}; "
            "fill them or leave these cells out."
        )
