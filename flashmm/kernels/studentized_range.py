"""The upper tail of the studentized range, for p-values and limits of all pairs of k means.

Q = W/S with the range W of k standard normal values and, independent of it, S² ~ χ²_ν/ν. With the
tail T of W and u = log S,

    T(w) = k ∫ φ(z) Φ(z)^{k-1} (1 - (1 - Φ(z - w)/Φ(z))^{k-1}) dz
    P(Q > q) = c ∫ exp(νu - ν e^{2u}/2) T(q e^u) du,    c = 2 (ν/2)^{ν/2} / Γ(ν/2).

Both integrands are smooth and vanish at both ends, where the trapezoidal rule converges faster than
any power of its step. log T is tabulated once for each k. Small tails keep their relative accuracy.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import special
from scipy.interpolate import CubicSpline

Array = np.ndarray

# Table of log T: its end (T is of the order of 1e-300 there) and its step.
LARGEST_RANGE, RANGE_STEP = 52.0, 0.02
# How far places z of the integral of T reach beyond 0 and w/2, between which the integrand has its
# peak, and their step.
FURTHEST_NORMAL, NORMAL_STEP = 9.0, 0.05
# Nodes of the integral over u, and how far they reach from the largest value: in widths of the
# peak to both sides, and to the left, where the integrand falls as exp(νu), until it is e^-36.
NODES, WIDTHS, FALL = 160, 10.0, 36.0
# Newton's steps to the peak and to a quantile.
PEAK_STEPS, QUANTILE_STEPS = 26, 12
# Degrees of freedom beyond which they are as good as infinite.
MANY = 1e6
# Tests at a time.
PART = 4096


@lru_cache(maxsize=16)
def _log_range_tail(k: int) -> CubicSpline:
    """log T(w) of k means on [0, LARGEST_RANGE]."""
    w = np.arange(0.0, LARGEST_RANGE + RANGE_STEP, RANGE_STEP)
    z = np.arange(-FURTHEST_NORMAL, LARGEST_RANGE / 2 + FURTHEST_NORMAL, NORMAL_STEP)
    log_below = special.log_ndtr(z)
    log_density = -0.5 * z**2 - 0.5 * np.log(2 * np.pi) + (k - 1) * log_below
    ends = np.searchsorted(z, w / 2 + FURTHEST_NORMAL)
    result = np.zeros(len(w))
    for i in range(1, len(w)):
        some = slice(0, ends[i])
        ratio = np.exp(special.log_ndtr(z[some] - w[i]) - log_below[some])
        with np.errstate(divide="ignore"):
            log_part = np.log(-np.expm1((k - 1) * np.log1p(-np.minimum(ratio, 1.0))))
        result[i] = np.logaddexp.reduce(log_density[some] + log_part)
    result[1:] += np.log(k * NORMAL_STEP)
    return CubicSpline(w, np.minimum(result, 0.0))


def log_tail(q: Array, k: int, df: Array) -> Array:
    """log P(Q > q) of the studentized range.

    Parameters
    ----------
    q : (tests,) array
        Ranges, of pairs √2 |t|.
    k : int
        Number of means, two or more.
    df : (tests,) array
        Degrees of freedom, positive; they need not be whole.

    Returns
    -------
    (tests,) array
        NaN where `q` or `df` are NaN; within 1e-8 of the logarithm.
    """
    q, df = (np.asarray(x, dtype=np.float64) for x in np.broadcast_arrays(q, df))
    result = np.full(q.shape, np.nan)
    fine = np.flatnonzero(np.isfinite(q) & (df > 0))
    for start in range(0, len(fine), PART):
        rows = fine[start : start + PART]
        result[rows] = _log_tail(np.abs(q[rows]), k, np.minimum(df[rows], MANY))
    return result


def _log_tail(q: Array, k: int, df: Array) -> Array:
    table = _log_range_tail(k)
    slope, bend = table.derivative(1), table.derivative(2)

    def at(u: Array) -> Array:
        """Logarithm of the integrand, (tests, ...)."""
        nu, range_ = (x.reshape(-1, *[1] * (u.ndim - 1)) for x in (df, q))
        w = range_ * np.exp(u)
        log_T = np.where(w < LARGEST_RANGE, table(np.minimum(w, LARGEST_RANGE)), -np.inf)
        return nu * (u - np.exp(2 * u) / 2) + log_T

    peak, width = _peak(q, df, slope, bend)
    left = peak - np.maximum(WIDTHS * width, FALL / df)
    right = peak + WIDTHS * width
    step = (right - left) / (NODES - 1)
    u = left[:, None] + step[:, None] * np.arange(NODES)
    log_c = np.log(2.0) + df / 2 * np.log(df / 2) - special.gammaln(df / 2)
    found = special.logsumexp(at(u), axis=1) + np.log(step) + log_c
    return np.where(q > 0, np.minimum(found, 0.0), 0.0)


def _peak(q: Array, df: Array, slope: CubicSpline, bend: CubicSpline) -> tuple[Array, Array]:
    """Where the integrand is largest, by bisection of its logarithmic slope, and its width."""
    low, high = np.log(np.minimum(1.0, 1e-3 / np.maximum(q, 1e-3))) - 3.0, np.zeros(len(q))

    def slope_at(u: Array) -> tuple[Array, Array]:
        w = np.minimum(q * np.exp(u), LARGEST_RANGE)
        first = df * (1 - np.exp(2 * u)) + w * slope(w)
        return first, -2 * df * np.exp(2 * u) + w * slope(w) + w**2 * bend(w)

    for _ in range(PEAK_STEPS):
        middle = (low + high) / 2
        rising = slope_at(middle)[0] > 0
        low, high = np.where(rising, middle, low), np.where(rising, high, middle)
    peak = (low + high) / 2
    curvature = -slope_at(peak)[1]
    return peak, 1.0 / np.sqrt(np.maximum(curvature, df / 10))


def quantile(tail: float, k: int, df: Array) -> Array:
    """The q with P(Q > q) = tail, of the same shape as the degrees of freedom.

    Parameters
    ----------
    tail : float
        Between 0 and 1, such as 0.05.
    k : int
        Number of means.
    df : (tests,) array
        Degrees of freedom; NaN stay NaN.
    """
    pairs = k * (k - 1) / 2
    # Bonferroni's is never too small for the tail
    with np.errstate(invalid="ignore"):
        q = np.sqrt(2.0) * -special.stdtrit(np.minimum(df, MANY), tail / (2 * pairs))
    goal = np.log(tail)
    for _ in range(QUANTILE_STEPS):
        here, beside = log_tail(q, k, df), log_tail(q * (1 + 1e-4), k, df)
        change = (here - goal) * 1e-4 * q / (here - beside)
        q = np.maximum(q + change, q / 4)
        if not np.nanmax(np.abs(change) / q, initial=0.0) > 1e-9:
            break
    return np.asarray(q)
