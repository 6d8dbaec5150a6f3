"""Student's t: quantiles of many degrees of freedom at one level, and tests of a minimum effect."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.polynomial import chebyshev
from scipy import special

from flashmm.kernels.tails import t_tail

Array = np.ndarray

# Between these bounds of 1/df the quantile at one level is a polynomial to rounding.
PIECES = (0.0, 0.0625, 0.25, 0.5, 1.0)
DEGREE = 18


def t_quantile(df: Array, probability: float) -> Array:
    """Quantiles of Student's t at one probability, for many degrees of freedom.

    Parameters
    ----------
    df : array
        Degrees of freedom, positive; infinity is the normal distribution.
    probability : float
        Probability of the lower tail, in (0, 1).

    Returns
    -------
    array
        NaN where `df` is.

    Notes
    -----
    At one level the quantile is a smooth function of 1/df. It is interpolated at Chebyshev points
    of four pieces, for df of one and more, and inverted directly below. A value depends on its df
    and the level only.
    """
    df = np.asarray(df, dtype=np.float64)
    with np.errstate(divide="ignore"):
        u = 1.0 / df
    result = np.full(df.shape, np.nan)
    low = (df > 0) & (df < 1)
    result[low] = special.stdtrit(df[low], probability)
    piece = np.where((u >= 0) & (u <= 1), np.searchsorted(PIECES[1:-1], u), -1)
    for number, coefficients in enumerate(_pieces(probability)):
        here = piece == number
        left, right = PIECES[number : number + 2]
        scaled = (2 * u[here] - left - right) / (right - left)
        result[here] = chebyshev.chebval(scaled, coefficients)
    return result


@lru_cache(maxsize=32)
def _pieces(probability: float) -> tuple[Array, ...]:
    """Chebyshev coefficients of the quantile as a function of 1/df, per piece."""

    def quantile(x: Array, left: float, right: float) -> Array:
        return special.stdtrit(2.0 / (left + right + x * (right - left)), probability)

    return tuple(chebyshev.chebinterpolate(quantile, DEGREE, bounds) for bounds in pairwise(PIECES))


def confidence_limits(
    estimate: Array, std_error: Array, df: Array, level: float, alternative: str
) -> tuple[Array, Array]:
    """Limits estimate ± t · std_error; one of them infinite for a one-sided alternative.

    Parameters
    ----------
    estimate, std_error, df : arrays of one shape
        Of t tests.
    level : float
        Coverage, in (0, 1).
    alternative : {"two-sided", "less", "greater"}
        "less" has an upper limit only, "greater" a lower one, as in R.

    Returns
    -------
    low, high : arrays
        NaN where there is no test.
    """
    tail = (1 - level) / 2 if alternative == "two-sided" else 1 - level
    half = t_quantile(df, 1 - tail) * std_error
    unbounded = np.where(np.isnan(half), np.nan, np.inf)
    low = -unbounded if alternative == "less" else estimate - half
    high = unbounded if alternative == "greater" else estimate + half
    return low, high


def minimum_effect_test(
    estimate: Array, std_error: Array, df: Array, minimum: float, alternative: str
) -> tuple[Array, Array, Array]:
    """t tests of effects beyond a minimum (McCarthy & Smyth 2009).

    Parameters
    ----------
    estimate, std_error, df : arrays of one shape
        Of t tests.
    minimum : float
        τ >= 0, in units of the estimate.
    alternative : {"two-sided", "less", "greater"}
        |effect| > τ, effect < -τ, effect > τ.

    Returns
    -------
    statistic : array
        sign(b)·max(|b| - τ, 0)/s; (b + τ)/s for "less", (b - τ)/s for "greater".
    p, log10_p : arrays
        Two-sided P(T > (|b| - τ)/s) + P(T > (|b| + τ)/s), the largest over |effect| <= τ.
    """
    if alternative != "two-sided":
        shift = minimum if alternative == "less" else -minimum
        statistic = (estimate + shift) / std_error
        return statistic, *t_tail(statistic, df, alternative)
    size = np.abs(estimate)
    near, log_near = t_tail((size - minimum) / std_error, df, "greater")
    far, log_far = t_tail((size + minimum) / std_error, df, "greater")
    # log10 (p_near + p_far), the far tail being the smaller one
    log10_p = log_near + np.log1p(10.0 ** (log_far - log_near)) / np.log(10.0)
    statistic = np.sign(estimate) * np.maximum(size - minimum, 0.0) / std_error
    return statistic, near + far, log10_p
