"""The design that groups would have with another value of a column."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd

from flashmm.design.coding import coded_columns
from flashmm.design.columns import group_rows
from flashmm.design.statistics import SummaryStatistics
from flashmm.formulas import read_model
from flashmm.options import FlashmmWarning, InputError


def designs_by_level(
    stats: SummaryStatistics, column: str, levels: pd.Series, which: np.ndarray | None = None
) -> np.ndarray:
    """The fixed design over groups if all of them had each of some values of a column.

    Parameters
    ----------
    stats : SummaryStatistics
        Statistics from groups, with their formula.
    column : str
        A column that defines the groups.
    levels : pandas.Series
        (levels,) The values, of the dtype of the column.
    which : (some,) int array, optional
        Groups to have the design of, all of them by default; every level of the other factors is
        among these, and no term depends on how its values are spread.

    Returns
    -------
    (levels, 1 + m, groups, coefficients) array
        As `GroupDesign.fixed`, for each level.

    Raises
    ------
    InputError
        The statistics have no groups or no formula, or coefficients would have other names.
    """
    groups, _ = stats.require_source()
    model = stats.require_model()
    own = groups.obs if which is None else groups.obs.iloc[which]
    L, n = len(levels), len(own)
    obs = pd.concat([own] * L, ignore_index=True)
    obs[column] = levels.iloc[np.repeat(np.arange(L), n)].to_numpy(copy=True)
    if isinstance(levels.dtype, pd.CategoricalDtype):
        obs[column] = obs[column].astype(levels.dtype)
    nothing = np.zeros((L * n, 0))
    stacked = replace(
        groups,
        obs=obs,
        genes=pd.Index([]),
        sum=nothing,
        sumsq=nothing,
        covariate_sums=dict.fromkeys(groups.covariates, nothing),
        counts=None,
        expressing=None,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FlashmmWarning)  # said when the statistics were made
        design = coded_columns(
            group_rows(stacked, learn_from=groups), read_model(model.fixed, model.random)[0]
        )
    if design.names != stats.coefficients:
        raise InputError(
            f"the design has other coefficients when {column!r} takes other values; code it by its "
            "plain name in the formula."
        )
    return np.moveaxis(design.values.reshape(len(design.values), L, n, -1), 0, 1)
