"""Tests of contrasts by empirical Bayes, for genes that share a design and a prior.

The prior of a stratum has few points, and only these are evaluated: genes of one stratum belong
together.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from flashmm.kernels.empirical_bayes_points import Points
from flashmm.kernels.empirical_bayes_tails import (
    Mixture,
    effective_df,
    joint_p_values,
    limits,
    p_values,
    summarise,
)
from flashmm.kernels.engine import take
from flashmm.kernels.threads import by_parts

Array = np.ndarray

# Numbers in the estimates of a part of the genes (it stays in the cache).
PART_ELEMENTS = 2**17


class SingleTests(NamedTuple):
    """t-like tests of single contrasts, all (genes, C); NaN for genes without a posterior.

    Attributes
    ----------
    estimate : array
        Posterior mean Σ w b.
    std_error, df : arrays
        A t distribution that stands for the mixture: scale from the posterior variance, degrees of
        freedom as `effective_df`, NaN where no t gives nearly the p-value.
    statistic : array
        estimate / std_error; of a minimum effect its distance from the minimum.
    conf_low, conf_high : arrays
        Limits, from the mixture itself.
    p_value, log10_p : arrays
        From the mixture itself.
    """

    estimate: Array
    std_error: Array
    df: Array
    statistic: Array
    conf_low: Array
    conf_high: Array
    p_value: Array
    log10_p: Array


class JointTests(NamedTuple):
    """F-like tests of several contrasts at once, all (genes,).

    Attributes
    ----------
    statistic : array
        Posterior mean of F.
    p_value, log10_p : arrays
        Σ w P(F_{l,ν} > F_k).
    """

    statistic: Array
    p_value: Array
    log10_p: Array


def mixture_of(
    model: Points, genes: Any, contrasts: Array, points: Array, posterior: Array
) -> Mixture:
    """Posterior of single contrasts, at the points that some gene has weight at.

    Parameters
    ----------
    model : Points
        The design.
    genes : named tuple
        Genes in the form that the model takes.
    contrasts : (p, C) array
        In the basis of the genes.
    points : (points, K) array
        The grid.
    posterior : (genes, points) array
        Weights.

    Returns
    -------
    Mixture
        Contrasts without a variance have the scale NaN.
    """
    used = _used(posterior)
    effects = model.effects(points[used], genes, contrasts)
    variance = np.ascontiguousarray(np.einsum("kcc->ck", effects.unit))
    root = np.sqrt(np.where(variance > 0, variance, np.nan))
    weights = np.ascontiguousarray(posterior[:, used])
    scale = np.sqrt(effects.variance)
    return Mixture(np.ascontiguousarray(effects.estimate), scale, root, weights, model.dof)


def _used(posterior: Array) -> Array:
    """Points with weight, (points,) bool; one at least, so that NaN have a place."""
    used = np.asarray((posterior > 0).any(0))
    used[0] |= not used.any()
    return used


def single_tests(
    model: Points,
    genes: Any,
    contrasts: Array,
    points: Array,
    posterior: Array,
    *,
    alternative: str = "two-sided",
    level: float = 0.95,
    minimum: float = 0.0,
) -> SingleTests:
    """Test single contrasts; the first parameters as in `mixture_of`.

    Parameters
    ----------
    model, genes, contrasts, points, posterior
        As in `mixture_of`.
    alternative : {"two-sided", "less", "greater"}
        Direction.
    level : float
        Coverage of the limits.
    minimum : float
        Minimum effect, not negative.

    Returns
    -------
    SingleTests
        Estimates, limits and p-values.
    """

    def part(rows: slice) -> SingleTests:
        mixture = mixture_of(model, take(genes, rows), contrasts, points, posterior[rows])
        return _single_tests(mixture, alternative, level, minimum)

    size = max(1, PART_ELEMENTS // max(1, contrasts.shape[1] * int(_used(posterior).sum())))
    tests: SingleTests = by_parts(part, size, len(posterior))
    return tests


def _single_tests(mixture: Mixture, alternative: str, level: float, minimum: float) -> SingleTests:
    """The same for a part of the genes."""
    estimate, std_error, df = summarise(mixture)
    p, log10_p = p_values(mixture, "two-sided")
    with np.errstate(invalid="ignore"):
        df = effective_df(estimate / std_error, log10_p * np.log(10.0), df, mixture.dof)
    if alternative != "two-sided" or minimum > 0:
        p, log10_p = p_values(mixture, alternative, minimum)
    low, high = limits(mixture, level, alternative)
    beyond = _beyond(estimate, alternative, minimum)
    with np.errstate(invalid="ignore"):
        statistic = beyond / std_error
    return SingleTests(estimate, std_error, df, statistic, low, high, p, log10_p)


def _beyond(estimate: Array, alternative: str, minimum: float) -> Array:
    """Distance of the estimate from the minimum effect, signed."""
    if alternative != "two-sided":
        return estimate + (minimum if alternative == "less" else -minimum)
    return np.asarray(np.sign(estimate) * np.maximum(np.abs(estimate) - minimum, 0.0))


def joint_tests(
    model: Points, genes: Any, contrasts: Array, points: Array, posterior: Array
) -> JointTests:
    """Test contrasts jointly; parameters as in `mixture_of`, contrasts independent."""
    used = _used(posterior)

    def part(rows: slice) -> JointTests:
        effects = model.effects(points[used], take(genes, rows), contrasts)
        return JointTests(*joint_p_values(*effects, posterior[rows][:, used], model.dof))

    size = max(1, PART_ELEMENTS // max(1, contrasts.shape[1] * int(used.sum())))
    tests: JointTests = by_parts(part, size, len(posterior))
    return tests
