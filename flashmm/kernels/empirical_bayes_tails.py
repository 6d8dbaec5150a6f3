"""Mixtures of t distributions with the same degrees of freedom: tails, quantiles and summaries.

An effect β of a gene has the posterior Σ_k w_k t_ν(b_k, s_k): location b_k and scale s_k at point k
of the grid of variance ratios, ν for all genes (a flat prior of β). With the upper tail A of t_ν,

    U(x) = P(β ≤ x | y) = Σ w_k A((b_k - x)/s_k),    1 - U(x) = Σ w_k A((x - b_k)/s_k),

both without cancellation, are the p-values of effects above and below x, and limits of an interval
are where U equals a probability.

A is that of `tabulated_t`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from scipy import special

from flashmm.kernels.tabulated_t import (
    TABLE_END,
    TailTable,
    far_log_tail,
    tail,
    tail_and_density,
    tail_table,
)
from flashmm.kernels.tails import SMALL_P, f_tail

Array = np.ndarray

# Steps to a quantile, at most, and the step, in units of the smallest scale, that is the last.
STEPS = 100
LAST_STEP = 3e-4
# Share of a sum that is rounding.
ROUNDING = 1e-14
# Posterior weights below which terms have no part in the first step to a quantile, and in any.
SMALL_WEIGHT = 1e-5
NEGLIGIBLE = 1e-11
# Statistics from which effective degrees of freedom are solved for, and factor by which the p-value
# of t may differ from that of the mixture (in standard deviations of the normal distribution).
LARGE = 2.0
TOLERATED = 0.05
ROUNDS = 2
NEWTON_STEPS = 4


@njit(nogil=True, cache=True, error_model="numpy")
def _tails(
    estimate: Array,
    per_scale: Array,
    per_root: Array,
    weights: Array,
    at: float,
    table: TailTable,
) -> Array:
    """U and 1 - U, (2, genes, C), from the inverses of scales and roots."""
    G, C, P = estimate.shape
    tails = np.full((2, G, C), np.nan)
    for g in range(G):
        terms = _terms(weights[g], 0.0)
        for c in range(C):
            below, above = 0.0, 0.0
            for k in terms:
                w = weights[g, k]
                # those that are left add at most this to either sum
                if w * P <= ROUNDING * min(below, above):
                    break
                t = (estimate[g, c, k] - at) * (per_scale[g, k] * per_root[c, k])
                a = tail(abs(t), table) if t == t else np.nan
                below += w * (a if t > 0 else 1.0 - a)
                above += w * (1.0 - a if t > 0 else a)
            if len(terms):
                tails[0, g, c], tails[1, g, c] = below, above
    return tails


@njit(nogil=True, cache=True, error_model="numpy")
def _terms(weights: Array, least: float) -> Array:
    """Numbers of weights above the least, largest first; none where one is NaN."""
    order, count = np.empty(len(weights), np.int64), 0
    for k in range(len(weights)):
        if np.isnan(weights[k]):
            return order[:0]
        if not weights[k] > least:
            continue
        # few weights are large, and numba's own sort takes seconds to compile
        place = count
        while place > 0 and weights[order[place - 1]] < weights[k]:
            order[place] = order[place - 1]
            place -= 1
        order[place] = k
        count += 1
    return order[:count]


@njit(nogil=True, cache=True, error_model="numpy")
def _log_mixture(
    sign: float,
    estimate: Array,
    scale: Array,
    weights: Array,
    at: float,
    table: TailTable,
) -> float:
    """Logarithm of Σ w_k A(sign (b_k - x)/s_k), where the sum is too small for a number."""
    total, largest = 0.0, -np.inf
    for k in range(len(weights)):
        if weights[k] == 0.0:
            continue
        t = sign * (estimate[k] - at) / scale[k]
        if t >= TABLE_END:
            term = np.log(weights[k]) + far_log_tail(t, table)
        else:
            a = tail(abs(t), table)
            term = np.log(weights[k]) + np.log(a if t > 0 else 1.0 - a)
        if term > largest:
            total = total * np.exp(largest - term) + 1.0
            largest = term
        else:
            total += np.exp(term - largest)
    return largest + np.log(total)


class Goal(NamedTuple):
    """A probability, and its quantiles of the normal distribution and of t_ν."""

    probability: float
    deviate: float
    single: float


@njit(nogil=True, cache=True, error_model="numpy")
def _first_limits(b: Array, r: Array, w: Array, deviate: float, dof: float) -> tuple[float, float]:
    """Quantiles by moments and Wallace's deviate of t, at a normal deviate and at its negative."""
    mean, square, first, second = 0.0, 0.0, 0.0, 0.0
    for k in range(len(b)):
        v = 1.0 / (r[k] * r[k])
        mean += w[k] * b[k]
        square += w[k] * b[k] * b[k]
        first += w[k] * v
        second += w[k] * v * v
    # relative variance of σ², (1 + 2/ν) E[s⁴]/E[s²]² - 1, and the df of the t that has it
    excess = (1.0 + 2.0 / dof) * second / (first * first) - 1.0
    df = max(2.0 / max(excess, 1e-12), 1.0)
    z = deviate * (8.0 * df + 3.0) / (8.0 * df + 1.0)
    variance = first + max(square - mean * mean, 0.0)
    half = np.sqrt(variance * df * np.expm1(min(z * z / df, 30.0)))
    half = half if deviate < 0 else -half
    return mean - half, mean + half


@njit(nogil=True, cache=True, error_model="numpy")
def _quantile(
    x: float,
    n: int,
    sign: float,
    b: Array,
    r: Array,
    w: Array,
    goal: Goal,
    table: TailTable,
) -> float:
    """Where U(x) of ±β is a probability; r = 1/s.

    The search begins at x, where the first n terms, those that are not small, are enough.
    """
    dof, single, probability = table.dof, goal.single, goal.probability
    per_square = (dof + 1.0) / (dof + single * single)
    # the quantile is between those of single terms
    largest, low, high = 0.0, np.inf, -np.inf
    for k in range(len(b)):
        one = sign * b[k] + single / r[k]
        largest, low, high = max(largest, r[k]), min(low, one), max(high, one)
    x = min(max(x, low), high)
    for _ in range(STEPS):
        U, u1, u2 = 0.0, 0.0, 0.0
        for k in range(n):
            t = (sign * b[k] - x) * r[k]
            a, density = tail_and_density(abs(t), table)
            U += w[k] * (a if t > 0 else 1.0 - a)
            slope = w[k] * r[k] * density
            u1 += slope
            u2 += slope * r[k] * t
        whole = n == len(b)
        if whole and probability < U:
            high = x
        elif whole:
            low = x
        moved = x + _step(U, u1, u2 * per_square, probability)
        if not (low <= moved <= high):
            moved = 0.5 * (low + high)
        if whole and abs(moved - x) * largest <= LAST_STEP:
            return moved
        x, n = moved, len(b)
    return x


@njit(nogil=True, cache=True, error_model="numpy")
def _step(U: float, u1: float, u2: float, probability: float) -> float:
    """Halley's step to the root of h = log U - log p: -h/h' / (1 - h h''/2h'²)."""
    if not (U > 0 and u1 > 0):
        return np.nan
    h, bend = np.log(U / probability), u2 * U / (u1 * u1) - 1.0
    # between half and twice Newton's step; NaN is neither
    return -h * U / u1 / min(max(1.0 - 0.5 * h * bend, 0.5), 2.0)


@njit(nogil=True, cache=True, error_model="numpy")
def _quantiles(
    estimate: Array,
    per_scale: Array,
    per_root: Array,
    weights: Array,
    goal: Goal,
    lower: bool,
    upper: bool,
    table: TailTable,
) -> Array:
    """Where U and where 1 - U is a probability, as far as wanted, (2, genes, C)."""
    G, C, P = estimate.shape
    limits = np.full((2, G, C), np.nan)
    b, r, w = np.empty(P), np.empty(P), np.empty(P)
    for g in range(G):
        terms = _terms(weights[g], NEGLIGIBLE)
        n, large = len(terms), max(1, int((weights[g] > SMALL_WEIGHT).sum()))
        for c in range(C):
            fine = n > 0
            for i in range(n):
                k = terms[i]
                b[i], w[i] = estimate[g, c, k], weights[g, k]
                r[i] = per_scale[g, k] * per_root[c, k]
                fine = fine and np.isfinite(b[i]) and r[i] < np.inf
            if not fine:
                continue
            B, R, W = b[:n], r[:n], w[:n]
            low, high = _first_limits(B, R, W, goal.deviate, table.dof)
            if lower:
                limits[0, g, c] = _quantile(low, large, 1.0, B, R, W, goal, table)
            if upper:
                limits[1, g, c] = -_quantile(-high, large, -1.0, B, R, W, goal, table)
    return limits


class Mixture(NamedTuple):
    """Posterior of contrasts of many genes.

    Attributes
    ----------
    estimate : (genes, C, points) array
        Locations b_k.
    scale : (genes, points) array
        σ̂ = √(Q/ν); the scale s_k of a contrast is this times its `root`.
    root : (C, points) array
        √ of the contrasts' variance for σ² = 1.
    weights : (genes, points) array
        w_k; NaN for genes without a posterior.
    dof : int
        ν.
    """

    estimate: Array
    scale: Array
    root: Array
    weights: Array
    dof: int


def tails(mixture: Mixture, at: float = 0.0) -> tuple[Array, Array]:
    """P(β ≤ x | y) and P(β ≥ x | y): one-sided p-values of β > x and of β < x.

    Parameters
    ----------
    mixture : Mixture
        Posterior of the effects.
    at : float
        x.

    Returns
    -------
    p, log_p : (2, genes, C) arrays
        Probabilities and natural logarithms, finite where the former underflow.
    """
    b, scale, root, w, dof = mixture
    table = tail_table(float(dof))
    per_scale, per_root = _inverses(mixture)
    p = _tails(b, per_scale, per_root, w, float(at), table)
    with np.errstate(divide="ignore"):
        log_p = np.log(p)
    for side, g, c in np.argwhere(p < SMALL_P):
        sign = 1.0 - 2.0 * side
        s = scale[g] * root[c]
        log_p[side, g, c] = _log_mixture(sign, b[g, c], s, w[g], float(at), table)
    return p, log_p


def _inverses(mixture: Mixture) -> tuple[Array, Array]:
    """1/scale and 1/root, infinite where there is no variance."""
    with np.errstate(divide="ignore"):
        return 1.0 / mixture.scale, 1.0 / mixture.root


def p_values(mixture: Mixture, alternative: str, minimum: float = 0.0) -> tuple[Array, Array]:
    """p-values of effects beyond a minimum.

    Parameters
    ----------
    mixture : Mixture
        Posterior of the effects.
    alternative : {"two-sided", "less", "greater"}
        |effect| > τ, effect < -τ, effect > τ.
    minimum : float
        τ >= 0, in units of the estimate.

    Returns
    -------
    p, log10_p : (genes, C) arrays
        Two-sided: with the posterior U(x) = P(β ≤ x | y) the smaller of U(τ) + U(-τ) and of
        (1 - U)(τ) + (1 - U)(-τ), which is 2 min(U, 1 - U) for τ = 0.
    """
    if alternative == "two-sided":
        p, log_p = tails(mixture, minimum)
        if minimum > 0:
            q, log_q = tails(mixture, -minimum)
            p, log_p = p + q, np.logaddexp(log_p, log_q)
        else:
            p, log_p = 2.0 * p, log_p + np.log(2.0)
        p, log_p = p.min(0), log_p.min(0)
    else:
        side = int(alternative == "less")
        both = tails(mixture, -minimum if side else minimum)
        p, log_p = (values[side] for values in both)
    return p, log_p / np.log(10.0)


def limits(mixture: Mixture, level: float, alternative: str = "two-sided") -> tuple[Array, Array]:
    """Credible limits of the effects, which are confidence limits over genes of the prior.

    Parameters
    ----------
    mixture : Mixture
        Posterior of the effects.
    level : float
        Coverage, in (0, 1).
    alternative : {"two-sided", "less", "greater"}
        "less" has an upper limit only, "greater" a lower one.

    Returns
    -------
    low, high : (genes, C) arrays
        Where the one-sided p-values equal (1 - level)/2, or 1 - level; NaN without a posterior.
    """
    outside = (1 - level) / 2 if alternative == "two-sided" else 1 - level
    lower, upper = alternative != "less", alternative != "greater"
    goal = Goal(
        outside,
        float(special.ndtri(outside)),
        float(special.stdtrit(mixture.dof, outside)),
    )
    per_scale, per_root = _inverses(mixture)
    b, w, table = mixture.estimate, mixture.weights, tail_table(float(mixture.dof))
    low, high = _quantiles(b, per_scale, per_root, w, goal, lower, upper, table)
    none = np.isnan(high if alternative == "less" else low)
    if alternative == "less":
        low = np.where(none, np.nan, -np.inf)
    elif alternative == "greater":
        high = np.where(none, np.nan, np.inf)
    return low, high


class Summary(NamedTuple):
    """A t distribution in the place of each mixture, all (genes, C).

    Attributes
    ----------
    estimate : array
        Posterior mean of the effect, Σ w b.
    std_error : array
        Scale s of the t distribution with the mean and variance of the posterior.
    df : array
        Its degrees of freedom.
    """

    estimate: Array
    std_error: Array
    df: Array


def summarise(mixture: Mixture) -> Summary:
    """Mean, scale and degrees of freedom of each mixture.

    Returns
    -------
    Summary
        With variances s_k² χ-distributed, V = E[s²] and κ its squared coefficient of variation,
        df = 4 + 2/κ is that of the single t whose variance varies as much, and std_error² is
        (V + Var b) (df - 2)/df, so that its variance is the posterior's. One term gives its own
        scale and ν. NaN where ν ≤ 4, which has no such moments.
    """
    b, scale, root, w, dof = mixture
    estimate = np.einsum("gk,gck->gc", w, b)
    spread = np.einsum("gk,gck->gc", w, (b - estimate[:, :, None]) ** 2)
    if dof <= 4:
        return Summary(estimate, *np.full((2, *estimate.shape), np.nan))
    # E[s²] of term k is s_k² ν/(ν - 2), E[s⁴] is that squared times (ν - 2)/(ν - 4)
    square = scale**2 * (dof / (dof - 2))
    first = (w * square) @ root.T**2
    second = (w * square**2) @ root.T**4 * ((dof - 2) / (dof - 4))
    with np.errstate(invalid="ignore", divide="ignore"):
        df = 4.0 + 2.0 / (second / first**2 - 1.0)
        return Summary(estimate, np.sqrt((first + spread) * (df - 2) / df), df)


def effective_df(statistic: Array, log_p: Array, df: Array, dof: int) -> Array:
    """Degrees of freedom that give a t statistic its two-sided p-value.

    Parameters
    ----------
    statistic, log_p, df : arrays of one shape
        estimate / std_error, log p (natural, two-sided, of no effect), and df of `Summary`.
    dof : int
        ν, the most that there can be.

    Returns
    -------
    array
        Solved from p where |t| is at least 2, else those of `Summary`; NaN where the p-value of t
        would differ from p by more than a twentieth of a normal deviate.

    Notes
    -----
    By Wallace's (1959) normal deviate of t, (8d + 1)/(8d + 3) √(d log(1 + t²/d)), which increases
    with d and is within .02/√d of the exact one.
    """
    z = -special.ndtri_exp(np.minimum(log_p, -1e-300) - np.log(2.0))
    flat = (np.abs(statistic).ravel(), z.ravel(), df.ravel())
    return np.asarray(_effective_df(*flat, float(dof))).reshape(statistic.shape)


@njit(nogil=True, cache=True, error_model="numpy")
def _deviate(t: float, df: float) -> float:
    """Normal deviate with the tail of t (Wallace 1959)."""
    return (8 * df + 1) / (8 * df + 3) * np.sqrt(df * np.log1p(t * t / df))


@njit(nogil=True, cache=True, error_model="numpy")
def _df_of_deviate(t: float, z: float, d: float, dof: float) -> float:
    """Degrees of freedom, from one to ν, whose deviate of t is z; d is a first guess."""
    for _ in range(ROUNDS):
        # r = t²/d solves log(1 + r)/r = y; y ≤ 1/√(1 + r) bounds it, and Newton falls to it
        y = (z / t * (8 * d + 3) / (8 * d + 1)) ** 2
        if not y < 1.0:
            return dof
        r = 1.0 / y**2 - 1.0
        for _ in range(NEWTON_STEPS):
            r -= (r * y - np.log1p(r)) / (y - 1.0 / (1.0 + r))
        d = min(max(t * t / r, 1.0), dof)
    return d


@njit(nogil=True, cache=True, error_model="numpy")
def _effective_df(t: Array, z: Array, df: Array, dof: float) -> Array:
    """The degrees of freedom of `effective_df`, from |t| and the normal deviate of p."""
    found = np.full(len(t), np.nan)
    for i in range(len(t)):
        d = _df_of_deviate(t[i], z[i], df[i], dof) if t[i] >= LARGE else df[i]
        if np.abs(_deviate(t[i], d) - z[i]) <= TOLERATED * max(z[i], 1.0):
            found[i] = d
    return found


def joint_p_values(
    estimate: Array, variance: Array, unit: Array, weights: Array, dof: int
) -> tuple[Array, Array, Array]:
    """p-values of several contrasts jointly, Σ w_k P(F_{l,ν} > F_k).

    Parameters
    ----------
    estimate : (genes, l, points) array
        b_k.
    variance : (genes, points) array
        σ̂² at each point.
    unit : (points, l, l) array
        Covariance of the contrasts for σ² = 1.
    weights : (genes, points) array
        Posterior.
    dof : int
        ν.

    Returns
    -------
    statistic, p, log10_p : (genes,) arrays
        The statistic is the posterior mean of F; `log10_p` is finite where p underflows.
    """
    rows = len(unit[0])
    inverse = np.linalg.inv(unit)
    F = np.einsum("gak,kab,gbk->gk", estimate, inverse, estimate, optimize=True)
    F = np.maximum(F, 0.0) / (rows * variance)
    p_k, log10_p_k = f_tail(F, np.full(F.shape, float(rows)), np.full(F.shape, float(dof)))
    with np.errstate(divide="ignore", invalid="ignore"):
        log_terms = np.log(weights) + log10_p_k * np.log(10.0)
        log10_p = special.logsumexp(log_terms, axis=1) / np.log(10.0)
    return (weights * F).sum(1), (weights * p_k).sum(1), log10_p
