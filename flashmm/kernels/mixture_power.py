"""Power of empirical-Bayes tests: the variance of a difference is averaged over its posterior."""

from __future__ import annotations

import numpy as np
from scipy import special

Array = np.ndarray

# Nodes of the sum of squares between units, tabulated effects, halvings for critical values.
NODES, EFFECTS, HALVINGS = 80, 240, 40
# Prior probability of a point that is left out.
NEGLIGIBLE = 1e-6


def mixture_power(
    effect: Array, truth: Array, prior: Array, variance: Array, df: float, alpha: float
) -> Array:
    """Probability that the test of each gene rejects.

    Parameters
    ----------
    effect : (genes,) array
        True differences, of either sign, in the unit of √variance.
    truth : (genes, points) array
        Probability of each variance for a gene.
    prior : (points,) array
        The prior that tests have.
    variance : (points,) array
        Variances of the estimated difference.
    df : float
        Degrees of freedom of the sum of squares between units.
    alpha : float
        Level of the two-sided test.

    Returns
    -------
    (genes,) array

    Notes
    -----
    Units are subjects, or pairs. Their sum of squares B ~ V χ²(df) gives the posterior of V, and
    the test rejects where |d| > c(B) with Σ_k posterior_k(B) · 2Φ(-c/√V_k) = α. Given V the
    difference d ~ N(effect, V) is independent of B.
    """
    used = prior > NEGLIGIBLE
    V, log_prior = variance[used], np.log(prior[used])
    probability = (np.arange(NODES) + 0.5) / NODES
    B = V[:, None] * 2 * special.gammaincinv(df / 2, probability)  # (true points, nodes)
    # log posterior of V given B, up to a constant: log prior - df/2 log V - B/(2V)
    score = log_prior - df / 2 * np.log(V) - B[..., None] / (2 * V)
    posterior = special.softmax(score, axis=-1)
    critical = _critical_values(posterior, np.sqrt(V), alpha)
    size, sd = np.abs(effect), np.sqrt(V)[:, None]
    grid = np.linspace(0.0, critical.max() + 6 * sd.max(), EFFECTS)
    at = grid[:, None, None]
    beyond = special.ndtr((at - critical) / sd) + special.ndtr((-at - critical) / sd)
    table = beyond.mean(-1)  # (effects, true points)
    each = [np.interp(size, grid, table[:, k]) for k in range(len(V))]
    shares = truth[:, used] / truth[:, used].sum(1, keepdims=True)
    return np.asarray((np.stack(each, axis=1) * shares).sum(1))


def _critical_values(posterior: Array, sd: Array, alpha: float) -> Array:
    """Values c with Σ_k posterior_k · 2Φ(-c/sd_k) = α, for the last axis of the posterior."""
    z = -special.ndtri(alpha / 2)
    low = np.full(posterior.shape[:-1], z * sd.min())
    high = np.full(posterior.shape[:-1], z * sd.max())
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        p = (posterior * 2 * special.ndtr(-middle[..., None] / sd)).sum(-1)
        low, high = np.where(p > alpha, middle, low), np.where(p > alpha, high, middle)
    return np.asarray((low + high) / 2)
