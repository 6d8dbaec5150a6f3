"""Tests and shares of variance components: arrays in, arrays out.

With one component everything exact rests on the rotation (`kernels.rotation`): t_i has variance
σ²(1 + γλ_i), i = 1 … r, and e ~ σ² χ²_{ν-r} is independent of it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import special

from flashmm.kernels.rotation import Rotated, Rotation
from flashmm.kernels.spectral import SpectralEngine

Array = np.ndarray

# Limit of Newton's steps for the exact interval; they converge from one side.
MAX_STEPS = 200


class Shares(NamedTuple):
    """Shares of variance components in their sum and the standard errors, (genes, K+1) each."""

    value: Array
    std_error: Array


def variance_shares(theta: Array, theta_cov: Array, weights: Array) -> Shares:
    """Shares θ_k w_k / Σ θ_l w_l, with standard errors by the delta method.

    Parameters
    ----------
    theta : (genes, K+1) array
        Variance components, residual last.
    theta_cov : (genes, K+1, K+1) array
        Covariance of θ̂.
    weights : (K+1,) array
        Mean variance of an observation that a component of one makes, mean diag(Z_kZ_k'): one for
        groupings and for the residual, so that the share is the intraclass correlation; with a
        kinship of mean diagonal one it is the heritability.

    Returns
    -------
    Shares
        Values and standard errors.
    """
    parts = theta * weights
    total = parts.sum(1, keepdims=True)
    share = parts / total
    # ∂(x_k/Σx)/∂θ_l = w_l (δ_kl - x_k/Σx)/Σx
    slope = (np.eye(theta.shape[1]) - share[:, :, None]) * weights / total[:, :, None]
    variance = np.einsum("gkl,glm,gkm->gk", slope, theta_cov, slope, optimize=True)
    return Shares(share, np.sqrt(variance))


# ---- exact for one component ------------------------------------------------------------------


def simulated_null(engine: SpectralEngine, n: int, seed: int) -> Array:
    """Likelihood ratios of n genes without the component, simulated from the eigenvalues.

    Parameters
    ----------
    engine : SpectralEngine
        The engine of the full model, bounded below by zero.
    n : int
        Number of simulated genes.
    seed : int
        Of NumPy's generator.

    Returns
    -------
    (n,) array
        Likelihood ratios, ascending; exact zeros where the estimate is zero.

    Notes
    -----
    The distribution depends on the design only through the eigenvalues of S (for ML also of Z'Z)
    and on no parameter, so that it serves all genes (Crainiceanu & Ruppert 2004).
    """
    rng = np.random.default_rng(seed)
    r, nu = engine.rank, engine.rotation.df_residual
    size = engine.genes_per_block()
    parts = []
    for start in range(0, n, size):
        count = min(size, n - start)
        t = rng.standard_normal((count, r))
        e = rng.chisquare(nu - r, count)
        genes = Rotated(np.zeros((count, 0)), t, e, e + (t**2).sum(1))
        parts.append(likelihood_ratio_at_zero(engine, genes))
    return np.sort(np.concatenate(parts))


def likelihood_ratio_at_zero(engine: SpectralEngine, genes: Rotated) -> Array:
    """Likelihood ratio of γ = 0 against the optimum, (genes,)."""
    optimum = engine.optimise(genes, None, 100, 1e-12)
    zero = engine.objective(np.zeros_like(optimum.gamma), genes)
    return np.where(optimum.gamma[:, 0] > 0, np.maximum(zero - optimum.objective, 0.0), 0.0)


def simulated_tail(null: Array, statistic: Array) -> tuple[Array, Array]:
    """P-values from a simulated null, never zero, and their Monte Carlo standard errors.

    Parameters
    ----------
    null : (n,) array
        Ascending.
    statistic : array
        NaN gives NaN.

    Returns
    -------
    p, error : arrays
        p = (1 + #{null ≥ statistic}) / (n + 1).
    """
    n = len(null)
    p = (1.0 + n - np.searchsorted(null, statistic, side="left")) / (n + 1.0)
    p = np.where(np.isnan(statistic), np.nan, p)
    return p, np.sqrt(p * (1.0 - p) / n)


def exact_f(rotation: Rotation, genes: Rotated) -> tuple[Array, Array]:
    """F statistic of γ = 0 and its exact p-value, each (genes,).

    F = (Σ t_i²/r) / (e/(ν - r)) ~ F(r, ν - r): the analysis of variance of the levels.
    """
    r, rest = rotation.rank, rotation.df_residual - rotation.rank
    statistic = ((genes.t**2).sum(1) / r) / (genes.e / rest)
    return statistic, special.fdtrc(r, rest, statistic)


def exact_gamma_interval(rotation: Rotation, genes: Rotated, level: float) -> Array:
    """Exact confidence limits of γ, (genes, 2), zero where they are below zero.

    F(γ) = (Σ t_i²/(1 + γλ_i)/r) / (e/(ν - r)) follows F(r, ν - r) at the true γ and falls in γ, so
    that the limits are where it meets the quantiles (Harville & Fenech 1985).
    """
    r, rest = rotation.rank, rotation.df_residual - rotation.rank
    tails = (0.5 * (1 + level), 0.5 * (1 - level))
    return np.column_stack(
        [
            _where_equal(rotation, genes, special.fdtri(r, rest, p) * r * genes.e / rest)
            for p in tails
        ]
    )


def _where_equal(rotation: Rotation, genes: Rotated, value: Array) -> Array:
    """γ ≥ 0 at which Σ t_i²/(1 + γλ_i) = value; zero where the sum is smaller from the start."""
    lam, t2 = rotation.eigenvalues, genes.t**2
    gamma = np.zeros(len(t2))
    active = np.flatnonzero(t2.sum(1) > value)
    # 1/Σ t²ρ is concave and increasing in γ: Newton's steps from zero never overshoot.
    for _ in range(MAX_STEPS):
        if not len(active):
            break
        rho = 1.0 / (1.0 + gamma[active, None] * lam)
        weighted = rho * t2[active]
        g, slope = weighted.sum(1), (weighted * rho * lam).sum(1)
        step = (g / value[active] - 1.0) * g / slope
        gamma[active] += step
        active = active[step > 1e-13 * gamma[active]]
    return gamma
