"""The design that groups would have with another value of a column."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd

from flashmm.design.columns import group_design
from flashmm.design.statistics import SummaryStatistics
from flashmm.options import FlashmmWarning, InputError


def designs_by_level(stats: SummaryStatistics, column: str, levels: pd.Series) -> np.ndarray:
    """The fixed design over groups if all of them had each of some values of a column.

    Parameters
    ----------
    stats : SummaryStatistics
        Statistics from groups, with their formula.
    column : str
        A column that defines the groups.
    levels : pandas.Series
        (levels,) The values, of the dtype of the column.

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
    L, n = len(levels), groups.n_groups
    obs = pd.concat([groups.obs] * L, ignore_index=True)
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
        design = group_design(stacked, model.fixed, model.random, learn_from=groups)
    if design.coefficients != stats.coefficients:
        raise InputError(
            f"the design has other coefficients when {column!r} takes other values; code it by its "
            "plain name in the formula."
        )
    return np.moveaxis(design.fixed.reshape(len(design.fixed), L, n, -1), 0, 1)
