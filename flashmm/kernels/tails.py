"""Tails of t, F, χ² and the normal with their logarithms, and of a component on its bound."""

from __future__ import annotations

import numpy as np
from scipy import special

Array = np.ndarray

# p-values below this are taken from the logarithm of the tail.
SMALL_P = 1e-280


def t_tail(statistic: Array, df: Array, alternative: str) -> tuple[Array, Array]:
    """Return p and log10 p of t statistics.

    Parameters
    ----------
    statistic, df : arrays of one shape
        Statistics and degrees of freedom.
    alternative : {"two-sided", "less", "greater"}
        Direction of the alternative.

    Returns
    -------
    p, log10_p : arrays
        `log10_p` stays finite where `p` underflows.
    """
    if alternative == "two-sided":
        p = 2.0 * special.stdtr(df, -np.abs(statistic))
        return p, _log10(p, statistic**2, 1.0, df, 0.0)
    sign = 1.0 if alternative == "less" else -1.0
    p = special.stdtr(df, sign * statistic)
    return p, _log10(p, statistic**2, 1.0, df, -np.log10(2.0))


def f_tail(statistic: Array, df_num: Array, df: Array) -> tuple[Array, Array]:
    """Return p and log10 p of F statistics (broadcast over `df_num`)."""
    p = special.fdtrc(df_num, df, statistic)
    return p, _log10(p, statistic * df_num, df_num, df, 0.0)


def chi2_tail(statistic: Array, df: float) -> tuple[Array, Array]:
    """Return p and log10 p of χ² statistics; `log10_p` stays finite where `p` underflows."""
    p = special.chdtrc(df, statistic)
    with np.errstate(divide="ignore"):
        log10_p = np.log10(p)
    small = p < SMALL_P
    if small.any():
        # Γ(a, x)/Γ(a) = x^(a-1) e^-x / Γ(a) · (1 + (a-1)/x + (a-1)(a-2)/x² + …), x large
        a, x = df / 2, np.asarray(statistic)[small] / 2
        terms = np.cumprod([(a - j) / x for j in range(1, 9)], axis=0)
        log_p = (a - 1) * np.log(x) - x - special.gammaln(a) + np.log1p(terms.sum(0))
        log10_p[small] = log_p / np.log(10.0)
    return p, log10_p


def normal_tail(statistic: Array) -> tuple[Array, Array]:
    """Return two-sided p and log10 p of normal statistics."""
    z = -np.abs(statistic)
    return 2 * special.ndtr(z), (np.log(2) + special.log_ndtr(z)) / np.log(10)


def boundary_tail(statistic: Array) -> Array:
    """P-value of a likelihood ratio for one component on its bound, ½ P(χ²₁ > x), one at zero.

    Self & Liang 1987; Stram & Lee 1994. Conservative in finite samples.
    """
    p = 0.5 * chi2_tail(statistic, 1)[0]
    return np.where(statistic > 0, p, np.where(statistic == 0, 1.0, np.nan))


def _log10(p: Array, scaled: Array, df_num: Array | float, df: Array, shift: float) -> Array:
    """log10 p, from the incomplete beta function where p is too small for a double.

    P(F > f) = I_x(df/2, df_num/2) with x = df/(df + df_num f), and for small x
    I_x(a, b) = x^a (1-x)^b / (a B(a, b)) · ₂F₁(a + b, 1; a + 1; x).
    """
    with np.errstate(divide="ignore"):
        result = np.log10(p)
    small = p < SMALL_P
    if small.any():
        d, f = df[small], scaled[small]
        a, b = d / 2, (np.broadcast_to(df_num, p.shape)[small]) / 2
        x = d / (d + f)
        log_p = (
            -a * np.log1p(f / d)
            + b * np.log1p(-x)
            - np.log(a)
            - special.betaln(a, b)
            + np.log(special.hyp2f1(a + b, 1.0, a + 1.0, x))
        )
        result[small] = log_p / np.log(10.0) + shift
    return result
