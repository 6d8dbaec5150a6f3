"""Gene-free sums over the cells of groups: their names, and how they move with covariates.

Of a covariate x with a spread s about a mean m, Σx² holds what varies in the digits beyond
(m / s)². Such a covariate is summed as its difference from a constant (`origin_of_covariates`), of
which groups keep a record, so that designs have x itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd

from flashmm.cells.levels import sum_by_group

N_CELLS = "n_cells"
# Squared mean over variance of a covariate above which it is summed as a difference.
FAR = 1e4


def moment_name(*factors: str) -> str:
    """Name of the obs column that holds the sum of the product of `factors` over the cells."""
    return "sum:" + "*".join(factors) if factors else N_CELLS


def moment_names(covariates: Sequence[str]) -> list[str]:
    """Names of all gene-free sums: n_cells, each covariate, then each pair (squares included)."""
    pairs = combinations_with_replacement(covariates, 2)
    return [N_CELLS, *map(moment_name, covariates), *(moment_name(*pair) for pair in pairs)]


def moments_of(
    codes: np.ndarray, x: np.ndarray, covariates: Sequence[str], n_groups: int
) -> dict[str, np.ndarray]:
    """Gene-free sums of each group: n, Σ x_j, Σ x_j x_k, by their column names."""
    named = dict(zip(covariates, x, strict=True))
    moments = {N_CELLS: np.bincount(codes, minlength=n_groups)}
    for name, values in named.items():
        moments[moment_name(name)] = sum_by_group(codes, values, n_groups)
    for j, k in combinations_with_replacement(named, 2):
        moments[moment_name(j, k)] = sum_by_group(codes, named[j] * named[k], n_groups)
    return moments


def origin_of_covariates(x: np.ndarray) -> np.ndarray | None:
    """Means of the covariates that vary little beside them, zero of others.

    Parameters
    ----------
    x : numpy.ndarray
        (covariates, cells) Their values.

    Returns
    -------
    numpy.ndarray or None
        (covariates,) None where all are zero.
    """
    if not x.size:
        return None
    mean, variance = x.mean(axis=1), x.var(axis=1)
    far = is_far(mean, variance)
    return np.where(far, mean, 0.0) if far.any() else None


def is_far(mean: np.ndarray, variance: np.ndarray, far: float = FAR) -> np.ndarray:
    """Whether numbers vary, by more than rounding, but little beside their mean."""
    rounding = (8 * np.finfo(float).eps * mean) ** 2
    return (mean**2 > far * variance) & (variance > rounding)


def moved_moments(
    obs: pd.DataFrame, covariates: Sequence[str], step: np.ndarray
) -> dict[str, np.ndarray]:
    """Gene-free sums (groups,) by name, of covariates to which a constant each is added."""
    sums = {name: obs[name].to_numpy(dtype=np.float64) for name in moment_names(covariates)}
    steps, n = dict(zip(covariates, step, strict=True)), sums[N_CELLS]
    moved = {}
    for x, d in steps.items():
        moved[moment_name(x)] = sums[moment_name(x)] + d * n
    for x, z in combinations_with_replacement(covariates, 2):
        a, b, name = steps[x], steps[z], moment_name(x, z)
        # Σ (x + a)(z + b)
        first = a * sums[moment_name(z)] + b * sums[moment_name(x)]
        moved[name] = sums[name] + first + a * b * n
    return moved


def moved_sums(
    sums: Mapping[str, np.ndarray], covariates: Sequence[str], step: np.ndarray
) -> dict[str, np.ndarray]:
    """Sums (groups, genes) by name, of covariates to which a constant each is added."""
    moved = dict(sums)
    for x, d in zip(covariates, step, strict=True):
        if d:
            moved[moment_name(x)] = sums[moment_name(x)] + d * sums["sum"]
    return moved
