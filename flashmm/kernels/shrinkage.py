"""Shrinkage of effects across genes by a normal mixture about zero (Stephens 2017).

    β_g ~ π_0 δ_0 + Σ_k π_k N(0, σ_k²),    (b_g - β_g)/s_g ~ t of ν_g degrees of freedom.

The sds σ_k are a fixed grid and the weights π maximise the likelihood, as in R's ashr. There the
errors of a normal mixture are normal; here they are Student's t, which matters with few subjects.
A t is a normal scale mixture, (b - β) | λ ~ N(0, s²/λ) with λ ~ χ²_ν/ν, so that given λ all is in
closed form; the integral over log λ is a sum over equal steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy
from numba import njit
from scipy import special

Array = np.ndarray

# Ratio of neighbouring sds of the grid, and how far below the least standard error it begins.
GRID_RATIO, BELOW = np.sqrt(2.0), 10.0
# Sds of the grid span at most this ratio.
WIDEST = 1e5
# Genes at zero that are added to the likelihood as prior of π_0 (ashr: a Dirichlet weight of 10).
NULL_GENES = 9.0
# Nodes of the integral over λ, and how many standard deviations of log λ they reach at least.
NODES, REACH = 32, 7.0
# ν/2 times the distance below the mode where the tail of log λ, e^(νv/2), is nothing.
TAIL = 20.0
# Degrees of freedom from which a t is normal.
NORMAL_DF = 1e10
# Weights have converged when no component would raise the mean log-likelihood per weight by more.
TOLERANCE = 1e-9
MAX_ITER = 100
# Ridge of the quadratic problems, relative to the mean of the diagonal.
RIDGE = 1e-10
# Numbers per array that a part of the genes may hold.
PART_ELEMENTS = 2**20


class Mixture(NamedTuple):
    """Sds and weights of the components, (components,) each; the first sd is zero."""

    sd: Array
    weight: Array


class Shrunken(NamedTuple):
    """Posterior of each gene, (genes,) each, and the prior, None where there was nothing to fit.

    The local false sign rate is the probability that the effect is zero or has the other sign.
    """

    mean: Array
    sd: Array
    false_sign_rate: Array
    prior: Mixture | None


def shrink(
    estimate: Array, std_error: Array, df: Array, null_genes: float = NULL_GENES
) -> Shrunken:
    """Fit the mixture to the effects of all genes, and give the posterior of each.

    Parameters
    ----------
    estimate, std_error, df : (genes,) arrays
        b, s and ν (infinity for normal errors). Genes without a finite estimate, a positive
        standard error and positive df take no part and get NaN.
    null_genes : float
        Genes without effect that are added to the likelihood; zero is maximum likelihood.

    Returns
    -------
    Shrunken
    """
    usable = np.isfinite(estimate) & np.isfinite(std_error) & (std_error > 0) & (df > 0)
    result = np.full((3, len(estimate)), np.nan)
    if not usable.any():
        return Shrunken(result[0], result[1], result[2], None)
    data = estimate[usable], std_error[usable], df[usable]
    sd = grid_of_sds(*data[:2])
    log_likelihood = component_log_likelihood(*data, sd)
    prior = Mixture(sd, mixture_weights(log_likelihood, null_genes))
    result[:, usable] = posterior(*data, prior)
    return Shrunken(result[0], result[1], result[2], prior)


def grid_of_sds(estimate: Array, std_error: Array) -> Array:
    """Zero, and sds from a tenth of the least standard error to twice the largest excess effect.

    Notes
    -----
    As ashr: steps of √2, up to 2 √max(b² - s²), or 8 times the least where no b exceeds its s.
    """
    least = float(std_error.min()) / BELOW
    excess = float((estimate**2 - std_error**2).max())
    most = 2.0 * np.sqrt(excess) if excess > 0 else 8.0 * least
    least = max(least, most / WIDEST)
    steps = max(1, int(np.ceil(np.log(most / least) / np.log(GRID_RATIO))))
    return np.concatenate([[0.0], most * GRID_RATIO ** -np.arange(steps, -1, -1.0)])


# ---- likelihood -------------------------------------------------------------------------------


def _scales(t: Array, df: Array) -> tuple[Array, Array]:
    """Nodes λ and their log weights, (genes, nodes), for the integral over χ²_ν/ν.

    The density of v = log λ is ∝ exp(ν/2 (v - eᵛ)); given a distance t its mode is at
    (ν + 1)/(ν + t²), and its standard deviation is about √(2/ν). Sums in equal steps converge
    exponentially.
    """
    df = np.minimum(df, NORMAL_DF)
    spread = np.sqrt(2.0 / df)
    low = np.log((df + 1.0) / (df + np.maximum(t**2, 1.0)))
    low -= np.maximum(REACH * spread, TAIL * 2.0 / df)
    high = np.log1p(REACH * spread)
    v = low[:, None] + (high - low)[:, None] * np.linspace(0.0, 1.0, NODES)
    half = df[:, None] / 2.0
    log_weight = half * (v - np.expm1(v))  # the same, but for a constant
    return np.exp(v), log_weight - special.logsumexp(log_weight, axis=1, keepdims=True)


def _parts(estimate: Array, components: int) -> Iterator[slice]:
    """Slices of genes that fit in a bounded amount of memory."""
    size = max(1, PART_ELEMENTS // (components * NODES))
    return (slice(first, first + size) for first in range(0, len(estimate), size))


@njit(cache=True, nogil=True)
def _log_densities(b: Array, variance: Array, log_weight: Array, sd: Array) -> Array:
    """Log of the sums over λ of w N(b; 0, s²/λ + σ_k²), (genes, components)."""
    genes, nodes = variance.shape
    result = np.empty((genes, len(sd)))
    terms = np.empty(nodes)
    for g in range(genes):
        for k in range(len(sd)):
            for j in range(nodes):
                total = variance[g, j] + sd[k] ** 2
                terms[j] = log_weight[g, j] - 0.5 * (b[g] ** 2 / total + np.log(total))
            largest = terms.max()
            result[g, k] = largest + np.log(np.exp(terms - largest).sum())
    return result - 0.5 * np.log(2.0 * np.pi)


def component_log_likelihood(estimate: Array, std_error: Array, df: Array, sd: Array) -> Array:
    """Log density of each b under each component, (genes, components).

    Parameters
    ----------
    estimate, std_error, df : (genes,) arrays
        b, s and ν.
    sd : (components,) array
        σ_k; zero is the point mass.
    """
    scale, log_weight = _scales(estimate / std_error, df)
    return _log_densities(estimate, std_error[:, None] ** 2 / scale, log_weight, sd)


# ---- weights ----------------------------------------------------------------------------------


def mixture_weights(log_likelihood: Array, null_genes: float = 0.0) -> Array:
    """Weights of the components that maximise the likelihood, (components,).

    Parameters
    ----------
    log_likelihood : (genes, components) array
        Log density of each gene under each component; the first is the point mass at zero.
    null_genes : float
        Genes that are added to the first component.

    Notes
    -----
    Minimises f(x) = -mean log(Lx) + Σx over x >= 0, which is convex and whose minimum sums to one,
    by sequential quadratic programming (Kim, Carbonetto, Stephens & Anitescu 2020): with P the rows
    of L over Lx, each step is the non-negative least squares of ½ mean (Py - 2)² + Σy. It ends
    where no component has mean P above one by the tolerance, which bounds the distance of f from
    its minimum.
    """
    L = np.exp(log_likelihood - log_likelihood.max(1, keepdims=True))
    share = np.full(len(L), 1.0)
    if null_genes > 0:
        L = np.vstack([L, np.eye(1, L.shape[1])])
        share = np.append(share, null_genes)
    share = share / share.sum()
    x = np.full(L.shape[1], 1.0 / L.shape[1])
    for _ in range(MAX_ITER):
        P = L / (L @ x)[:, None]
        gain = share @ P
        if gain.max() - 1.0 <= TOLERANCE:
            break
        x = _descend(L, share, x, _quadratic_step(P, share, gain))
    return x / x.sum()


def _quadratic_step(P: Array, share: Array, gain: Array) -> Array:
    """Minimise ½ y'Hy - (2 gain - 1)'y over y >= 0, H = mean P'P with a small ridge."""
    H = (P * share[:, None]).T @ P
    H[np.diag_indices_from(H)] += RIDGE * np.trace(H) / len(H)
    R = np.linalg.cholesky(H).T  # H = R'R
    return scipy.optimize.nnls(R, np.linalg.solve(R.T, 2.0 * gain - 1.0))[0]


def _descend(L: Array, share: Array, x: Array, y: Array) -> Array:
    """Go from x towards y as far as f falls, halving the way; one step of EM where it does not."""

    def f(point: Array) -> float:
        with np.errstate(divide="ignore"):
            return float(point.sum() - share @ np.log(L @ point))

    start, way = f(x), 1.0
    while way > 1e-6:
        there = x + way * (y - x)
        if f(there) < start:
            return there
        way /= 2.0
    return x * (share @ (L / (L @ x)[:, None]))


# ---- posterior --------------------------------------------------------------------------------


def posterior(
    estimate: Array, std_error: Array, df: Array, prior: Mixture
) -> tuple[Array, Array, Array]:
    """Posterior means, sds and local false sign rates, (genes,) each.

    Parameters
    ----------
    estimate, std_error, df : (genes,) arrays
        b, s and ν.
    prior : Mixture
        From these or other genes.
    """
    result = np.empty((3, len(estimate)))
    used = prior.weight > 0
    sd, log_prior = prior.sd[used], np.log(prior.weight[used])
    for part in _parts(estimate, len(sd)):
        b, s = estimate[part], std_error[part]
        scale, log_weight = _scales(b / s, df[part])
        variance = s[:, None] ** 2 / scale
        total = variance[:, None, :] + sd[:, None] ** 2
        joint = -0.5 * (b[:, None, None] ** 2 / total + np.log(total))
        joint += log_prior[:, None] + log_weight[:, None, :]
        weight = np.exp(joint - special.logsumexp(joint, axis=(1, 2), keepdims=True))
        result[:, part] = _moments(b, variance, sd, weight)
    return result[0], result[1], result[2]


def _moments(b: Array, variance: Array, sd: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Mean, sd and false sign rate of mixtures with weights (genes, components, nodes)."""
    # β | b, λ, k ~ N(κ b, κ s²/λ), κ = σ²/(σ² + s²/λ)
    kappa = sd[:, None] ** 2 / (sd[:, None] ** 2 + variance[:, None, :])
    means, variances = kappa * b[:, None, None], kappa * variance[:, None, :]
    mean = (weight * means).sum((1, 2))
    square = (weight * (variances + (means - mean[:, None, None]) ** 2)).sum((1, 2))
    at_zero = weight[:, sd == 0].sum((1, 2))
    wide, w = sd > 0, weight[:, sd > 0]
    z = means[:, wide] / np.sqrt(variances[:, wide])
    below, above = ((w * special.ndtr(sign * z)).sum((1, 2)) for sign in (-1.0, 1.0))
    return mean, np.sqrt(square), np.minimum(1.0, at_zero + np.minimum(below, above))
