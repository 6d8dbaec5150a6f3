"""Welch's test that several estimates with variances of their own are equal."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Array = np.ndarray


class Heterogeneity(NamedTuple):
    """Number of estimates, F statistic and its degrees of freedom, per gene."""

    n: Array
    statistic: Array
    df_num: Array
    df: Array


def welch_heterogeneity(
    estimate: Array, std_error: Array, df: Array, correlation: Array | None = None
) -> Heterogeneity:
    """Welch's (1951) F of estimates that are independent, or have a known correlation.

    Parameters
    ----------
    estimate, std_error, df : (genes, estimates) arrays
        Estimates, their standard errors and degrees of freedom; those with a NaN are left out.
    correlation : (estimates, estimates) array, optional
        Of the errors of the estimates, the same for all genes; without it they are independent.

    Returns
    -------
    Heterogeneity
        (genes,) arrays; NaN with less than two estimates.

    Notes
    -----
    With weights w_i = 1/s_i², their sum W, the mean m = Σ w_i x_i/W and Λ = Σ (1 - w_i/W)²/ν_i,

        F = Σ w_i (x_i - m)²/(k - 1) / (1 + 2(k - 2)Λ/(k² - 1)),    df = (k² - 1)/(3Λ).

    Biometrika 38:330. The numerator is Cochran's Q over its degrees of freedom. With p_i² = w_i/W,
    A = I - pp' and a correlation R, Q = Σ w_i (x_i - m)² has the mean tr(AR) and the variance
    2 tr(ARAR) of normal estimates, so that it is divided by tr(AR) instead of k - 1 and has
    tr(AR)²/tr(ARAR) degrees of freedom (Satterthwaite).
    """
    there = np.isfinite(estimate) & (std_error > 0) & (df > 0)
    k = there.sum(1)
    x, nu = np.where(there, estimate, 0.0), np.where(there, df, 1.0)
    w = np.where(there, 1.0 / np.where(there, std_error, 1.0) ** 2, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = w / w.sum(1, keepdims=True)
        Q = (w * (x - (share * x).sum(1, keepdims=True)) ** 2).sum(1)
        spread = np.where(there, (1 - share) ** 2 / nu, 0.0).sum(1)
        mean, df_num = _moments(share, there, correlation)
        F = Q / mean / (1 + 2 * (k - 2) * spread / (k**2 - 1))
        df_den = (k**2 - 1) / (3 * spread)
    few = k < 2
    F, df_den, df_num = (np.where(few, np.nan, value) for value in (F, df_den, df_num))
    return Heterogeneity(k, F, df_num, df_den)


def _moments(share: Array, there: Array, correlation: Array | None) -> tuple[Array, Array]:
    """Mean of Q, and its degrees of freedom, tr(AR) and tr(AR)²/tr(ARAR), per gene."""
    if correlation is None:
        return there.sum(1) - 1.0, there.sum(1) - 1.0
    p = np.sqrt(share)
    Rp = p @ correlation * there
    pRp = (p * Rp).sum(1)
    # A = D - pp', D being one where there is an estimate
    trace = there @ np.diag(correlation) - pRp
    squares = np.einsum("gi,ij,gj->g", there, correlation**2, there)
    return trace, trace**2 / (squares - 2 * (Rp**2).sum(1) + pRp**2)
