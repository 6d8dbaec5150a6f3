"""A prior of variance ratios across genes, and the posterior of each gene on a shared grid.

Ignatiadis & Sen, "Empirical partially Bayes multiple testing and compound decisions" (arXiv
2303.02887), for the variance ratios γ of a mixed model. A gene knows little of γ where subjects
are few, thousands of genes know its distribution π. On a grid of points γ_k it is estimated by
nonparametric maximum likelihood, separately for genes of like mean expression,

    maximise Σ_g log Σ_k π_k exp l_g(γ_k),    π ≥ 0,  Σ π_k = 1,

and the posterior of a gene is w_gk ∝ π_k exp l_g(γ_k). The likelihood of `empirical_bayes_points`
does not depend on the fixed effects, so that true effects do not bend the prior.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np

from flashmm.kernels.threads import in_threads

Array = np.ndarray

# Genes below which there is no test of its own, and below which they are one stratum.
FEWEST_GENES = 50
FEW_GENES = 200
# Genes per stratum, strata at most, and genes that a stratum must have.
STRATUM_GENES = 300
MOST_STRATA = 10
SMALLEST_STRATUM = 100
# Genes that a half of the highest stratum must have, for it to be halved once more.
TOP_GENES = 40
# Smallest positive γ times the size of its component, by the number of components: nothing that
# depends on γ differs from its value at zero by more than this share.
LOWEST = {1: 0.01, 2: 0.02, 3: 0.05}
# Largest γ times the size of its component, at least.
HIGHEST = 10.0
# Distance of log γ between points, at most, and points per axis, at most.
SPACING = {1: 1 / 3, 2: 0.85, 3: 1.6}
MOST_POINTS = {1: 200, 2: 20, 3: 8}
# Deficit of the log-likelihood, proven, at which a prior is found.
GAP = 1e-7
# EM steps before the search, columns that it starts with and takes up at a time, and its limits.
EM_STEPS = 30
COLUMNS = 24
# Grids up to this size are solved at once.
FEW_COLUMNS = 64
MAX_ROUNDS = 60
MAX_STEPS = 80
# Smallest likelihood of a gene relative to its largest: beyond it a point is impossible.
FLOOR = -150.0
# How far a step may go to the boundary, and by how much complementarity is to fall.
TO_BOUNDARY = 0.999
CENTRING = 0.03
# What keeps the system regular where columns are equal.
REGULAR = 1e-12
# Mean product of weights and multipliers at which the search ends.
COMPLEMENTARY = 1e-17


def shared_grid(scale: Array, levels: Array, gamma: Array) -> Array:
    """Points of γ for all genes: zero and evenly spaced logarithms, a product of axes.

    Parameters
    ----------
    scale : (K,) array
        Size of each component, as `Points.scale`.
    levels : (K,) array
        Independent values that inform each component.
    gamma : (genes, K) array
        Restricted maximum likelihood estimates of γ, at least one gene.

    Returns
    -------
    (points, K) array
        Zero is the first.

    Raises
    ------
    ValueError
        More than three components.

    Notes
    -----
    Above the largest maximiser all likelihoods fall, below the smallest they rise, and no prior of
    maximum likelihood has weight there: an axis reaches from half the smallest estimate of any
    gene, but at least `LOWEST` / scale, where γ cannot be told from zero, to the largest, but at
    least `HIGHEST` / scale. Points are two standard deviations of log γ̂, √(2/levels), apart, at
    most 1/3 with one component, 0.85 with two and 1.6 with three; their number is limited. The grid
    moves with γ when Z is scaled or cells are doubled.
    """
    K = len(scale)
    if K not in SPACING:
        raise ValueError(f"A shared grid has 1 to {max(SPACING)} components; found {K}.")
    ends = zip(scale, levels, gamma.min(0), gamma.max(0), strict=True)
    return np.array(list(product(*(_axis(K, *values) for values in ends))))


def _axis(K: int, scale: float, levels: float, smallest: float, largest: float) -> Array:
    """Zero and evenly spaced logarithms."""
    low = np.log(max(LOWEST[K] / scale, smallest / 2.0))
    high = np.log(max(HIGHEST / scale, largest))
    spacing = min(SPACING[K], 2.0 * np.sqrt(2.0 / levels))
    points = min(int(np.ceil((high - low) / spacing)) + 1, MOST_POINTS[K] - 1)
    return np.append(0.0, np.exp(np.linspace(low, high, points)))


def stratum_edges(mean: Array) -> Array:
    """Bounds of mean expression between strata of genes.

    Parameters
    ----------
    mean : (genes,) array
        Mean expression of the genes that a prior is estimated from, finite.

    Returns
    -------
    (strata - 1,) array
        Increasing; a gene at a bound belongs above it. One stratum per 300 genes, at most ten, of
        equally many genes each as far as equal means allow; none has less than a hundred. From 200
        genes on the highest of these is halved, and its higher half again, while halves have forty
        genes: expression is skewed to the right, and the variance ratios follow it.
    """
    wanted = int(np.clip(len(mean) // STRATUM_GENES, 1, MOST_STRATA))
    edges = np.unique(np.quantile(mean, np.arange(1, wanted) / wanted)) if len(mean) else mean
    while len(edges):
        counts = np.bincount(strata(mean, edges), minlength=len(edges) + 1)
        least = int(counts.argmin())
        if counts[least] >= SMALLEST_STRATUM:
            break
        edges = np.delete(edges, min(least, len(edges) - 1))
    return _halved_at_the_top(mean, edges) if len(mean) >= FEW_GENES else edges


def _halved_at_the_top(mean: Array, edges: Array) -> Array:
    """Bounds with those of halves of the highest stratum, of its higher half, and so on."""
    top = mean[mean >= edges[-1]] if len(edges) else mean
    while len(top) >= 2 * TOP_GENES:
        middle = np.median(top)
        higher = top[top >= middle]
        if not TOP_GENES <= len(higher) <= len(top) - TOP_GENES:
            break
        edges, top = np.append(edges, middle), higher
    return edges


def strata(mean: Array, edges: Array) -> Array:
    """Stratum of each gene, (genes,) int: the number of bounds at or below its mean."""
    return np.searchsorted(edges, mean, side="right")


class Maximum(NamedTuple):
    """A prior of maximum likelihood on the grid.

    Attributes
    ----------
    weights : (points,) array
        π; exactly zero where the grid is not used.
    loglik : float
        Σ_g log Σ_k π_k exp l_gk.
    gap : float
        No prior on the grid has a log-likelihood larger by more than this.
    rounds : int
        Sets of columns that were solved.
    """

    weights: Array
    loglik: float
    gap: float
    rounds: int


@dataclass(frozen=True, eq=False)
class PriorFit:
    """Priors of all strata.

    Attributes
    ----------
    weights : (strata, points) array
        π of each stratum.
    loglik, gap : (strata,) arrays
        Log-likelihood of its genes, and the proven bound of what another prior could add.
    n_genes : (strata,) int array
        Genes that it was estimated from.
    """

    weights: Array
    loglik: Array
    gap: Array
    n_genes: Array


def fit_prior(loglik: Array, stratum: Array, n_strata: int) -> PriorFit:
    """Estimate the prior of each stratum by nonparametric maximum likelihood.

    Parameters
    ----------
    loglik : (genes, points) array
        l_g(γ_k); genes with values that are not finite are left out.
    stratum : (genes,) int array
        Stratum of each gene.
    n_strata : int
        Number of strata; each must have a gene.

    Returns
    -------
    PriorFit
        Weights, log-likelihood and certificate.

    Raises
    ------
    ValueError
        A stratum without a usable gene.
    """
    usable = np.isfinite(loglik).all(1)
    counts = np.bincount(stratum[usable], minlength=n_strata)
    if not counts.all():
        raise ValueError(f"Stratum {int(counts.argmin())} has no gene with a finite likelihood.")

    def of(number: int) -> Maximum:
        return maximise_weights(loglik[usable & (stratum == number)])

    found = in_threads(of, list(range(n_strata)))
    return PriorFit(
        np.stack([one.weights for one in found]),
        np.array([one.loglik for one in found]),
        np.array([one.gap for one in found]),
        counts,
    )


def maximise_weights(loglik: Array) -> Maximum:
    """Weights of the grid that maximise Σ_g log Σ_k π_k exp l_gk.

    Parameters
    ----------
    loglik : (genes, points) array
        l_g(γ_k), finite; at least one gene.

    Returns
    -------
    Maximum
        The weights and how far from the maximum they can be at most.

    Notes
    -----
    The problem is convex (Lindsay 1983; Koenker & Mizera 2014). A few steps of EM find the columns
    that matter, a primal-dual interior point method solves for them, and columns with a positive
    gradient are taken up until there is none. With R_gk = L_gk/Σ_j π_j L_gj, the concavity of the
    logarithm bounds what any prior can add by G log max_k mean_g R_gk.
    """
    top = loglik.max(1)
    L = np.exp(np.maximum(loglik - top[:, None], FLOOR))
    columns = _first_columns(L)
    best, gap, rounds = np.full(L.shape[1], 1.0 / L.shape[1]), np.inf, 0
    while rounds < MAX_ROUNDS:
        rounds += 1
        weights = np.zeros(L.shape[1])
        weights[columns] = _interior_point(L[:, columns])
        ratio = _mean_ratio(L, weights)
        bound = len(L) * float(np.log(ratio.max()))
        if bound < gap:
            best, gap = weights, bound
        # columns in use whose ratio exceeds one do so by rounding
        new = np.setdiff1d(np.argsort(-ratio, kind="stable")[:COLUMNS], columns)
        new = new[ratio[new] > 1.0]
        if gap < GAP or not len(new):
            break
        columns = np.union1d(columns[weights[columns] > 0], new)
    total = float((np.log(L @ best) + top).sum())
    return Maximum(best, total, max(gap, 0.0), rounds)


def _first_columns(L: Array) -> Array:
    """All of a small grid; of a large one those that a few steps of EM favour."""
    points = L.shape[1]
    if points <= FEW_COLUMNS:
        return np.arange(points)
    weights = np.full(points, 1.0 / points)
    for _ in range(EM_STEPS):
        weights = weights * _mean_ratio(L, weights)
    return np.sort(np.argsort(-weights, kind="stable")[:COLUMNS])


def _mean_ratio(L: Array, weights: Array) -> Array:
    """Mean over genes of L_gk/Σ_j π_j L_gj, (points,): at the optimum at most one."""
    return np.asarray((1.0 / (L @ weights)) @ L / len(L))


def _interior_point(L: Array) -> Array:
    """Weights that minimise -mean_g log (Lπ)_g + Σ π_k, π ≥ 0, whose sum is one at the optimum.

    Multipliers z = 1 - mean_g R_g are zero where weights are not. Newton's steps on these equations
    with πz = μ, μ falling, stay inside; weights that lose against their multipliers are zero.
    """
    n, m = L.shape
    w, z = np.full(m, 1.0 / m), np.full(m, 0.5)
    for _ in range(MAX_STEPS):
        R = L / (L @ w)[:, None]
        gradient = 1.0 - R.mean(0)
        mu = float(w @ z) / m
        if mu < COMPLEMENTARY and n * np.abs(gradient - z).max() < GAP:
            break
        # (R'R/n + z/w) dw = σμ/w - gradient,  dz = σμ/w - z - (z/w) dw
        system = R.T @ R / n
        system[np.diag_indices(m)] += np.maximum(z / w, REGULAR)
        aim = CENTRING * mu / w
        dw = np.linalg.solve(system, aim - gradient)
        dz = aim - z - z / w * dw
        w = w + _longest(w, dw) * dw
        z = z + _longest(z, dz) * dz
    w = np.where(w > z, w, 0.0)
    return np.asarray(w / w.sum())


def _longest(x: Array, dx: Array) -> float:
    """Length of the step, at most one, that keeps x positive."""
    falling = dx < 0
    return min(1.0, TO_BOUNDARY * float(np.min(-x[falling] / dx[falling], initial=np.inf)))


def posterior(loglik: Array, weights: Array) -> tuple[Array, Array]:
    """Posterior weights and the marginal log-likelihood of each gene.

    Parameters
    ----------
    loglik : (genes, points) array
        l_g(γ_k).
    weights : (points,) or (genes, points) array
        The prior, of all genes or of each gene's stratum.

    Returns
    -------
    posterior : (genes, points) array
        NaN for genes whose likelihood is not finite.
    marginal : (genes,) array
        log Σ_k π_k exp l_gk.
    """
    top = np.where(np.broadcast_to(weights, loglik.shape) > 0, loglik, -np.inf).max(1)
    with np.errstate(invalid="ignore"):
        joint = weights * np.exp(loglik - top[:, None])
        total = joint.sum(1)
        return joint / total[:, None], np.log(total) + top
