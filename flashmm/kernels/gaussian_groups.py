"""Sums of normal values over groups of cells, and the numbers of cells in the groups."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special

from flashmm.kernels.negative_binomial import Floats, Integers, apportion, stream


def draw_group_sums(
    seed: np.random.SeedSequence,
    n_cells: Integers,
    mean: Floats,
    variance: Floats,
    level: Integers | None = None,
) -> tuple[Floats, Floats]:
    """Draw Σy and Σy² over the cells of each group, y ~ N(mean, variance).

    Each group has its own random stream.

    Parameters
    ----------
    seed : numpy.random.SeedSequence
        Root of the streams of all groups.
    n_cells : ndarray of int64, shape (groups,)
        At least one cell each.
    mean : ndarray, shape (groups, genes)
    variance : ndarray, shape (genes,), or (levels, genes)
    level : ndarray of int64, shape (groups,), optional
        Which row of `variance` is that of a group.

    Returns
    -------
    total, squares : ndarray, shape (groups, genes)
    """
    total, squares = np.empty_like(mean), np.empty_like(mean)
    for group, n in enumerate(n_cells):
        rng = stream(seed, group)
        spread = variance if level is None else variance[level[group]]
        # ȳ ~ N(μ, σ²/n);  Σ(y − ȳ)² ~ σ² χ²(n − 1), independent of ȳ
        average = mean[group] + np.sqrt(spread / n) * rng.standard_normal(len(spread))
        about = 2 * rng.standard_gamma((n - 1) / 2, size=len(spread)) if n > 1 else 0.0
        total[group] = n * average
        squares[group] = spread * about + n * average**2
    return total, squares


def spread_cells(
    rng: np.random.Generator, n_cells: int, n_units: int, n_types: int, cv: float
) -> NDArray[np.int64]:
    """Numbers of cells of each unit and type, log-normal in each type, one cell at least.

    Parameters
    ----------
    rng : numpy.random.Generator
    n_cells : int
        Their sum; at least one per unit and type.
    n_units, n_types : int
    cv : float
        Coefficient of variation of the log-normal distribution.

    Returns
    -------
    ndarray of int64, shape (units, types)
        Rounded at random, so that expectations are kept.
    """
    # CV² = exp(s²) − 1;  quantiles at (i − ½)/n, so that every design is as uneven as another
    s = np.sqrt(np.log1p(cv**2))
    quantiles = np.exp(s * special.ndtri((np.arange(n_units) + 0.5) / n_units))
    weights = np.column_stack([rng.permutation(quantiles) for _ in range(n_types)])
    weights *= n_cells / weights.sum()
    # a group below one cell takes one, from the others in proportion
    spare = np.maximum(weights - 1, 0).ravel()
    if not spare.any():
        return np.ones(weights.shape, dtype=np.int64)
    return 1 + apportion(rng, n_cells - weights.size, spare).reshape(weights.shape)
