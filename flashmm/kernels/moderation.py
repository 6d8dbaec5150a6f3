"""Empirical Bayes of variances across genes: a scaled-F prior and the posterior (Smyth 2004).

v_g | σ²_g ~ σ²_g χ²(d_g)/d_g and 1/σ²_g ~ χ²(d₀)/(d₀ s₀²), so that v_g ~ s₀² F(d_g, d₀).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy
from scipy import special

Array = np.ndarray

# Variances below this number say too little of a prior.
MIN_GENES = 10
# Prior degrees of freedom above this are infinity.
MOST = 1e10


class Prior(NamedTuple):
    """Variance s₀² and degrees of freedom d₀ (up to infinity) of the prior."""

    variance: float
    df: float


def usable(variance: Array, df: Array) -> Array:
    """Variances that can inform a prior and be moderated, as bool array."""
    return np.isfinite(variance) & (variance > 0) & np.isfinite(df) & (df > 0)


def fit_prior(variance: Array, df: Array) -> Prior | None:
    """Fit the prior by moments of log v.

    Parameters
    ----------
    variance, df : (genes,) arrays
        Variances v_g and their degrees of freedom d_g; those that are not `usable` are left out.

    Returns
    -------
    Prior or None
        None for fewer than ten usable genes. The df are infinite where the variances differ no
        more than their own degrees of freedom explain.

    Notes
    -----
    e_g = log v_g - ψ(d_g/2) + log(d_g/2) has the mean μ = log s₀² - ψ(d₀/2) + log(d₀/2) and the
    variance τ + ψ'(d_g/2), τ = ψ'(d₀/2). With weights w_g = 1/(τ + ψ'(d_g/2)), τ solves
    Σ w_g (e_g - μ_w)² = G - 1 (Paule & Mandel 1982); with equal df this is the estimate of Smyth
    (2004), with unequal ones it keeps genes of few df from ruling (Phipson et al. 2016).
    """
    fine = usable(variance, df)
    if fine.sum() < MIN_GENES:
        return None
    half = df[fine] / 2
    e = np.log(variance[fine]) - special.digamma(half) + np.log(half)
    own = special.polygamma(1, half)

    def mean(tau: float) -> float:
        return float(np.average(e, weights=1 / (tau + own)))

    def excess(tau: float) -> float:
        return float((((e - mean(tau)) ** 2) / (tau + own)).sum() / (len(e) - 1) - 1)

    if excess(0.0) <= 0:
        return Prior(float(np.exp(mean(0.0))), np.inf)
    tau = scipy.optimize.brentq(excess, 0.0, _above(excess), xtol=1e-14, rtol=1e-12)
    prior_half = inverse_trigamma(tau)
    if 2 * prior_half > MOST:
        return Prior(float(np.exp(mean(tau))), np.inf)
    log_variance = mean(tau) + special.digamma(prior_half) - np.log(prior_half)
    return Prior(float(np.exp(log_variance)), 2 * prior_half)


def _above(excess: Callable[[float], float]) -> float:
    """Return a τ at which the excess, which falls with τ, is not positive."""
    tau = 1.0
    while excess(tau) > 0:
        tau *= 4
    return tau


def inverse_trigamma(value: float) -> float:
    """Return x with ψ'(x) = value > 0, by Newton's method on 1/ψ', which is convex (Smyth 2004)."""
    # from below the root, 1/2 + 1/value, steps are monotone
    x = 0.5 + 1.0 / value
    for _ in range(50):
        slope = float(special.polygamma(1, x))
        step = slope * (1 - slope / value) / float(special.polygamma(2, x))
        x += step
        if abs(step) <= 1e-14 * x:
            break
    return x


def posterior(variance: Array, df: Array, prior: Prior) -> tuple[Array, Array]:
    """Moderated variances and their degrees of freedom.

    Parameters
    ----------
    variance, df : (genes,) arrays
        v_g and d_g; values that are not `usable` are returned as they are.
    prior : Prior
        From `fit_prior`.

    Returns
    -------
    variance, df : (genes,) arrays
        (d₀ s₀² + d_g v_g)/(d₀ + d_g) and d₀ + d_g, the latter at most Σ d_g: the genes
        together know no more.
    """
    fine = usable(variance, df)
    v, d = variance.copy(), df.copy()
    total = df[fine].sum()
    share = 1.0 if np.isinf(prior.df) else prior.df / (prior.df + df[fine])
    v[fine] = share * prior.variance + (1 - share) * variance[fine]
    d[fine] = np.minimum(prior.df + df[fine], total)
    return v, d
