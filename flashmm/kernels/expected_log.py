"""Means of log(1 + count) under a negative binomial, and the dispersion that gives a mean."""

from __future__ import annotations

import numpy as np

Array = np.ndarray

# Nodes of the integral in u = log t: the integrand is below rounding outside for means up to 1e6.
STEP = 0.3
NODES = np.arange(-46.0, 3.8, STEP)
# Bounds of log dispersion, and halvings between them.
LOG_DISPERSION = (-14.0, 9.0)
HALVINGS = 45


def expected_log1p(mean: Array, dispersion: Array) -> Array:
    """E log(1 + y) of counts y with variance mean + dispersion · mean².

    Parameters
    ----------
    mean, dispersion : arrays of one shape
        Both positive.

    Returns
    -------
    array
        In natural logarithms.

    Notes
    -----
    log(1 + y) = ∫ (1 - exp(-ty)) exp(-t)/t dt, and E exp(-ty) = (1 + φμ(1 - exp(-t)))^(-1/φ). With
    u = log t the integrand is smooth and vanishes at both ends, where the trapezoidal rule is exact
    to rounding.
    """
    mean, dispersion = np.asarray(mean, dtype=float), np.asarray(dispersion, dtype=float)
    t = np.exp(NODES)
    # 1 - E exp(-ty) for every node
    log_generating = -np.log1p((dispersion * mean)[..., None] * -np.expm1(-t))
    beyond = -np.expm1(log_generating / dispersion[..., None])
    return np.asarray(STEP * (beyond @ np.exp(-t)))


def matching_dispersion(mean: Array, mean_log1p: Array) -> Array:
    """The dispersion of counts of these means that have these means of log(1 + y).

    Parameters
    ----------
    mean, mean_log1p : (genes,) arrays
        Mean count, positive, and mean of log(1 + count).

    Returns
    -------
    (genes,) array
        Nearly zero (Poisson) where the mean of logarithms is higher than that of a Poisson count.
    """
    low = np.full(np.shape(mean), LOG_DISPERSION[0])
    high = np.full(np.shape(mean), LOG_DISPERSION[1])
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        # the mean of logarithms falls with the dispersion
        larger = expected_log1p(mean, np.exp(middle)) > mean_log1p
        low, high = np.where(larger, middle, low), np.where(larger, high, middle)
    return np.asarray(np.exp((low + high) / 2))


def shift_of_fold_change(mean: Array, mean_log1p: Array, log2_fc: float) -> Array:
    """Difference of E log(1 + y) between counts whose means differ by a fold change.

    Parameters
    ----------
    mean, mean_log1p : (genes,) arrays
        Mean count of all cells, positive, and mean of log(1 + count).
    log2_fc : float
        Log2 of the ratio of the two means, half of it on either side of `mean`.

    Returns
    -------
    (genes,) array
        In natural logarithms.
    """
    dispersion, half = matching_dispersion(mean, mean_log1p), 2.0 ** (log2_fc / 2)
    return expected_log1p(mean * half, dispersion) - expected_log1p(mean / half, dispersion)
