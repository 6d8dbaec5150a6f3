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


def welch_heterogeneity(estimate: Array, std_error: Array, df: Array) -> Heterogeneity:
    """Welch's (1951) F of independent estimates.

    Parameters
    ----------
    estimate, std_error, df : (genes, estimates) arrays
        Estimates, their standard errors and degrees of freedom; those with a NaN are left out.

    Returns
    -------
    Heterogeneity
        (genes,) arrays; NaN with less than two estimates.

    Notes
    -----
    With weights w_i = 1/s_i², their sum W, the mean m = Σ w_i x_i/W and Λ = Σ (1 - w_i/W)²/ν_i,

        F = Σ w_i (x_i - m)²/(k - 1) / (1 + 2(k - 2)Λ/(k² - 1)),    df = (k² - 1)/(3Λ).

    Biometrika 38:330. The numerator is Cochran's Q over its degrees of freedom.
    """
    there = np.isfinite(estimate) & (std_error > 0) & (df > 0)
    k = there.sum(1)
    x, nu = np.where(there, estimate, 0.0), np.where(there, df, 1.0)
    w = np.where(there, 1.0 / np.where(there, std_error, 1.0) ** 2, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = w / w.sum(1, keepdims=True)
        Q = (w * (x - (share * x).sum(1, keepdims=True)) ** 2).sum(1)
        spread = np.where(there, (1 - share) ** 2 / nu, 0.0).sum(1)
        F = Q / (k - 1) / (1 + 2 * (k - 2) * spread / (k**2 - 1))
        df_den = (k**2 - 1) / (3 * spread)
    few = k < 2
    F, df_den, df_num = (np.where(few, np.nan, value) for value in (F, df_den, k - 1.0))
    return Heterogeneity(k, F, df_num, df_den)
