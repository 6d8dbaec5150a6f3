"""Which two levels of a column a contrast compares, and in which groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd

from flashmm.cells.groups import GroupStatistics
from flashmm.design.contrasts import Contrast
from flashmm.design.differences import is_factor
from flashmm.inference.model_fit import ModelFit

# Weights that are rounding relative to the largest.
NOTHING = 1e-8
# Columns with more levels are not looked at.
MOST_LEVELS = 200


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two levels of a column that a contrast compares, and the groups in which it does.

    Attributes
    ----------
    column : str
        The column of the groups.
    level, reference : object
        The contrast is the effect of `level` minus that of `reference`.
    groups : (groups,) bool array
        Groups of either level, in the strata (such as a cell type) that the contrast is about.
    """

    column: str
    level: Any
    reference: Any
    groups: np.ndarray

    @property
    def text(self) -> str:
        """In words: "stim vs ctrl"."""
        return f"{self.level} vs {self.reference}"


def compared_levels(fit: ModelFit, contrast: Contrast) -> Comparison | None:
    """Find the two levels of a column whose difference a contrast is.

    Parameters
    ----------
    fit : ModelFit
        With groups behind it.
    contrast : Contrast
        A single contrast.

    Returns
    -------
    Comparison or None
        None where no column has two levels such that going from one to the other, all else equal,
        changes the fixed effects by the contrast: slopes, averages over cell types, joint tests,
        fits without groups. A contrast that was asked for as a difference of levels is one.
    """
    source = None if fit.stats is None else fit.stats.source
    if source is None or len(contrast.basis) > 1 or not len(fit.coefficient_columns):
        return None
    X, groups, asked = source.design.fixed[0], source.groups, contrast.difference
    held = [fit.coefficient_columns[j] for j in np.flatnonzero(contrast.basis[0])]
    known = frozenset().union(*held) & set(groups.obs.columns)
    for column in sorted(known) if asked is None else [asked.column]:
        found = _difference(groups, X, fit.coefficient_columns, column, contrast.basis[0])
        if found is not None:
            return found
    if asked is None:
        return None
    either = groups.obs[asked.column].astype(str).isin([asked.level, asked.reference]).to_numpy()
    return Comparison(asked.column, asked.level, asked.reference, either)


def _difference(
    groups: GroupStatistics,
    X: np.ndarray,
    columns: tuple[frozenset[str], ...],
    column: str,
    row: np.ndarray,
) -> Comparison | None:
    """The comparison of two levels of one column, strata by the columns it goes together with."""
    obs = groups.obs
    of_column = np.array([column in held for held in columns])
    levels = _levels(obs[column])
    if (row[~of_column] != 0).any() or not 2 <= len(levels) <= MOST_LEVELS:
        return None
    together = frozenset().union(*(held for held in columns if column in held)) - {column}
    beside = [name for name in sorted(together) if name in obs.columns]
    stratum = _codes(obs, beside)
    code = pd.Categorical(obs[column], categories=levels).codes
    chosen: dict[tuple[int, int], list[int]] = {}
    for s in range(stratum.max() + 1):
        here = {int(c): X[i, of_column] for i, c in enumerate(code) if stratum[i] == s}
        for a, b in permutations(here, 2):
            if np.allclose(here[a] - here[b], row[of_column], atol=NOTHING * np.abs(row).max()):
                chosen.setdefault((a, b), []).append(s)
    if not chosen:
        return None
    (a, b), strata = next(iter(chosen.items()))
    mask = np.isin(stratum, strata) & np.isin(code, (a, b))
    return Comparison(column, levels[a], levels[b], mask)


def _levels(values: pd.Series) -> list[Any]:
    """Levels of a factor in their order; a number that is not a factor has none."""
    if not is_factor(values):
        return []
    return list(pd.Categorical(values).remove_unused_categories().categories)


def _codes(obs: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """Code of the combination of the columns of each group."""
    if not columns:
        return np.zeros(len(obs), dtype=int)
    return obs.groupby(list(columns), observed=True, sort=True).ngroup().to_numpy()
