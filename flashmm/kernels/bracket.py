"""Roots in a bracket by safeguarded Newton steps, vectorised over genes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Array = np.ndarray

# Value and derivative, of x and of the genes that it belongs to.
Slope = Callable[[Array, Array], tuple[Array, Array]]


class Root(NamedTuple):
    """Where the search stopped, per gene.

    Attributes
    ----------
    x : (genes,) array
        The root.
    decrement : (genes,) array
        Half of value²/derivative at the last evaluated point; infinite where the derivative is
        not positive, zero at a held bound.
    n_iter : (genes,) int array
        Evaluations of the slope.
    """

    x: Array
    decrement: Array
    n_iter: Array


def increasing_root(
    slope: Slope,
    low: Array,
    start: Array,
    high: Array,
    *,
    floor: float,
    held: bool,
    max_iter: int,
    tol: float,
) -> Root:
    """Root at which the slope rises: Newton where it stays inside and rises, else bisection.

    Parameters
    ----------
    slope : callable
        Of x (genes,) and the genes (int array) it belongs to; with the derivative f' of an
        objective, the root is a minimum.
    low, start, high : (genes,) arrays
        The bracket; `high` may be infinite.
    floor : float
        Smallest x looked at.
    held : bool
        Whether x = 0 is a bound, where a slope that is not negative ends the search.
    max_iter : int
        Limit of the evaluations per gene.
    tol : float
        Decrement at which a gene has converged.

    Returns
    -------
    Root
        Where each gene stopped.
    """
    x, low, high = start.copy(), low.copy(), high.copy()
    decrement, n_iter = np.full(len(x), np.inf), np.zeros(len(x), dtype=np.int64)
    active = np.arange(len(x))
    for _ in range(max_iter):
        if not len(active):
            break
        at = x[active]
        value, rise = slope(at, active)
        n_iter[active] += 1
        ended = held & (at == 0.0) & (value >= 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = -value / rise
            decrement[active] = np.where(rise > 0, 0.5 * np.abs(value * step), np.inf)
        decrement[active[ended]] = 0.0
        high[active] = np.where(value > 0, at, high[active])
        low[active] = np.where(value < 0, at, low[active])
        a, b = low[active], high[active]
        newton = at + step
        middle = np.where(np.isfinite(b), 0.5 * (a + b), 2.0 * np.abs(at) + 1.0)
        inside = (rise > 0) & (newton > a) & (newton < b)
        candidate = np.maximum(np.where(inside, newton, middle), floor)
        settled = (decrement[active] < tol) & (rise > 0)
        # The last step is taken before stopping, unless rounding carries it out of the bracket.
        x[active] = np.where(ended | (settled & ~inside), at, candidate)
        active = active[~(ended | settled)]
    return Root(x, decrement, n_iter)
