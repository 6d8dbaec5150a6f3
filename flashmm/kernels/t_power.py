"""Power of two-sided t tests for many noncentralities at one level."""

from __future__ import annotations

import numpy as np
from scipy import interpolate, special

Array = np.ndarray

# Points at which power is tabulated, and nodes of the distribution of the standard error.
POINTS, NODES = 300, 240
# Probability beyond the nodes on either side, and where power is one to this.
NEGLIGIBLE = 1e-13


def t_power(noncentrality: Array, df: float, alpha: float) -> Array:
    """Probability that |T| exceeds its critical value, T noncentral t.

    Parameters
    ----------
    noncentrality : array
        Effect over its standard error, of either sign.
    df : float
        Degrees of freedom, positive.
    alpha : float
        Level of the two-sided test.

    Returns
    -------
    array
        NaN where the noncentrality is. Within 1e-5; within 4e-4 for one degree of freedom.

    Notes
    -----
    T = (z + λ)/s with s² ~ χ²(df)/df, so that power is E Φ(λ - c·s) + Φ(-λ - c·s): a trapezoidal
    rule in log s, tabulated in λ and interpolated by a monotone cubic.
    """
    size = np.abs(np.asarray(noncentrality, dtype=float))
    critical = special.stdtrit(df, 1 - alpha / 2)
    s, weight = _standard_errors(df)
    reach = critical * s[-1] + 8.0
    # closer where power changes: between zero and twice the critical value
    nodes = np.unique(
        np.r_[np.linspace(0, min(2 * critical + 6, reach), POINTS), np.linspace(0, reach, POINTS)]
    )[:, None]
    beyond = special.ndtr(nodes - critical * s) + special.ndtr(-nodes - critical * s)
    table = interpolate.PchipInterpolator(nodes[:, 0], beyond @ weight)
    return np.where(np.isnan(size), np.nan, table(np.minimum(size, reach)))


def _standard_errors(df: float) -> tuple[Array, Array]:
    """Nodes of s and their probabilities, s² ~ χ²(df)/df."""
    low = np.log(special.gammaincinv(df / 2, NEGLIGIBLE) * 2 / df) / 2
    high = np.log(special.gammainccinv(df / 2, NEGLIGIBLE) * 2 / df) / 2
    log_s = np.linspace(low, high, NODES)
    # density of log s, up to a constant: exp(df · (log s - s²/2))
    log_density = df * (log_s - np.exp(2 * log_s) / 2)
    weight = np.exp(log_density - log_density.max())
    return np.exp(log_s), weight / weight.sum()
