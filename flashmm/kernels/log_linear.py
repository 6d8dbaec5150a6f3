"""Log-linear models of group counts: fold changes of expected counts, with subjects as replicates.

For gene and group, with the exposure N (library sizes added over the cells of the group),

    E y = μ,  log μ = log N + x'β,    r = (y - μ)/μ,  var r ≈ 1/w = 1/μ + φ,  φ = a/n + b,

where n counts the cells, a is the overdispersion of a cell's count and b that of a group. β solves
X'Wr = 0 (generalised estimating equations with a working covariance, Liang & Zeger 1986): with
φ = 0 the equations of the Poisson likelihood, with a given φ those of the negative binomial's. The
weights level off at 1/φ, so that a subject with many cells or counts does not outweigh the others.
They only weigh: genes of like expression share a and b, and the standard errors come from what
subjects differ by, however their groups are correlated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from flashmm.kernels import moderation

Array = np.ndarray

MAX_ITER = 50
# A gene has converged when its decrement δ'Aδ, δ being the last step, is below.
TOLERANCE = 1e-14
# Largest change of a log mean in one step.
LONGEST_STEP = 3.0
# Numbers per array that a part of the genes may hold.
PART_ELEMENTS = 2**21
# Genes that share a, b and the prior of the variances: at least, and number of sets at most.
GENES_PER_STRATUM, MOST_STRATA = 200, 10
# φ of the first weights: that between subjects is .05 to .5 in most genes.
FIRST_OVERDISPERSION = 0.1
# Times that a and b are estimated and the genes fitted again.
ROUNDS = 2
# Counts that are added per coefficient, spread over the groups.
PRIOR_COUNT = 0.5
# Share of its variance that a subject's score must keep beside the fit; a subject with less
# decides the contrast alone, and its residual is zero whatever its counts are.
LEAST_KEPT = 1e-6
# Ratio of a variance to the expected one that stands for zero, so that it can be moderated.
LEAST_RATIO = 1e-8


@dataclass(frozen=True, eq=False)
class GroupDesign:
    """What the counts of all genes share.

    Attributes
    ----------
    X : (groups, coefficients) array
        Design of full column rank.
    exposure : (groups,) array
        N, positive.
    n_cells : (groups,) array
        n, positive.
    subject : (groups,) array of int
        Codes from 0 of the subjects, who are the replicates.
    """

    X: Array
    exposure: Array
    n_cells: Array
    subject: Array

    @cached_property
    def _pairs(self) -> Array:
        """x_k x_l of each group for k <= l: (groups, pairs)."""
        rows, columns = np.triu_indices(self.X.shape[1])
        return self.X[:, rows] * self.X[:, columns]

    @cached_property
    def subjects(self) -> sp.csr_array:
        """Indicators of the subjects, (subjects, groups)."""
        groups = np.arange(len(self.subject))
        return sp.csr_array((np.ones(len(groups)), (self.subject, groups)))

    @cached_property
    def _rows_by_subject(self) -> sp.csr_array:
        """x_k of group i in the row (subject of i, k), (subjects · coefficients, groups)."""
        n_groups, p = self.X.shape
        rows = (self.subject[:, None] * p + np.arange(p)).ravel()
        shape = self.subjects.shape[0] * p, n_groups
        stacked = sp.csr_array((self.X.ravel(), (rows, np.repeat(np.arange(n_groups), p))), shape)
        stacked.eliminate_zeros()
        return stacked

    def information(self, w: Array) -> Array:
        """X'WX for weights (genes, groups): (genes, coefficients, coefficients)."""
        p = self.X.shape[1]
        rows, columns = np.triu_indices(p)
        A = np.empty((len(w), p, p))
        A[:, rows, columns] = A[:, columns, rows] = w @ self._pairs
        return A

    def leverage(self, w: Array, M: Array) -> Array:
        """Leverages w x'Mx of each gene and group, M being (genes, coefficients, coefficients)."""
        rows, columns = np.triu_indices(self.X.shape[1])
        twice = np.where(rows == columns, 1.0, 2.0)
        return w * ((M[:, rows, columns] * twice) @ self._pairs.T)

    def sums_by_subject(self, values: Array) -> Array:
        """Sum values (genes, groups) over the groups of each subject: (genes, subjects)."""
        return (self.subjects @ values.T).T

    def scores_by_subject(self, values: Array) -> Array:
        """Sum x times values over the groups of subjects: (genes, subjects, coefficients)."""
        return (self._rows_by_subject @ values.T).T.reshape(len(values), -1, self.X.shape[1])

    def bearing(self, contrast: Array) -> Array:
        """Columns that share groups with those of a contrast, directly or through others, as mask.

        Cell types with coefficients of their own are apart: what is not borne by a contrast
        changes nothing in its estimating equations.
        """
        shared = (self.X != 0).astype(float)
        _, component = connected_components(sp.csr_array(shared.T @ shared), directed=False)
        return np.isin(component, component[contrast != 0])

    def take(self, columns: Array) -> tuple[GroupDesign, Array]:
        """Design of some columns (mask) on the groups that have them, and which groups they are."""
        rows = np.flatnonzero((self.X[:, columns] != 0).any(1))
        codes = np.unique(self.subject[rows], return_inverse=True)[1]
        X = self.X[np.ix_(rows, columns)]
        return GroupDesign(X, self.exposure[rows], self.n_cells[rows], codes), rows

    def parts(self, n_genes: int) -> Iterator[slice]:
        """Slices of genes that fit in a bounded amount of memory."""
        p = self.X.shape[1]
        size = max(1, PART_ELEMENTS // (len(self.X) + p * p + self._rows_by_subject.shape[0]))
        return (slice(first, first + size) for first in range(0, n_genes, size))


class LogLinearFit(NamedTuple):
    """Coefficients (genes, coefficients), natural logarithms, and which genes have converged."""

    coef: Array
    converged: Array


class LogFoldChanges(NamedTuple):
    """Estimates on the natural log scale, standard errors and df, (genes, contrasts) each."""

    estimate: Array
    std_error: Array
    df: Array


# ---- estimating equations ---------------------------------------------------------------------


class _State(NamedTuple):
    """Means, weights and residuals, (genes, groups), and the information X'WX."""

    mu: Array
    w: Array
    r: Array
    A: Array


def _state(counts: Array, design: GroupDesign, overdispersion: Array, coef: Array) -> _State:
    mu = design.exposure * np.exp(coef @ design.X.T)
    w = mu / (1.0 + overdispersion * mu)
    return _State(mu, w, counts / mu - 1.0, design.information(w))


def _solve(A: Array, b: Array) -> Array:
    """Solutions of the genes' equations, (genes, coefficients)."""
    return np.linalg.solve(A, b[:, :, None])[:, :, 0]


def start_coefficients(counts: Array, design: GroupDesign) -> Array:
    """Least squares of log rates, weighted by positive counts (genes, groups)."""
    log_rate = np.log(counts / design.exposure)
    return _solve(design.information(counts), (counts * log_rate) @ design.X)


def fit_log_linear(
    counts: Array, design: GroupDesign, overdispersion: Array, start: Array | None = None
) -> LogLinearFit:
    """Solve the estimating equations of many genes by Fisher's scoring.

    Parameters
    ----------
    counts : (genes, groups) array
        Positive; see `with_prior_counts`.
    design : GroupDesign
        Shared by the genes.
    overdispersion : (groups,) array
        φ of each group.
    start : (genes, coefficients) array, optional
        Coefficients to begin with.

    Returns
    -------
    LogLinearFit
        Coefficients of a gene that has not converged are those of its last step.
    """
    coef = start_coefficients(counts, design) if start is None else start.copy()
    converged = np.zeros(len(coef), dtype=bool)
    left = np.arange(len(coef))
    for _ in range(MAX_ITER):
        at = _state(counts[left], design, overdispersion, coef[left])
        score = (at.w * at.r) @ design.X
        step = _solve(at.A, score)
        longest = np.abs(step @ design.X.T).max(1, keepdims=True)
        coef[left] += step * (LONGEST_STEP / np.maximum(longest, LONGEST_STEP))
        done = (step * score).sum(1) <= TOLERANCE  # δ'Aδ = δ'X'Wr
        converged[left[done]] = True
        left = left[~done]
        if not len(left):
            break
    return LogLinearFit(coef, converged)


def with_prior_counts(counts: Array, exposure: Array, prior_count: float) -> Array:
    """Add counts in proportion to the exposure, `prior_count` per group in the mean.

    All groups get the same rate, so that a gene without counts has the fold change one (the habit
    of edgeR's predFC).

    Parameters
    ----------
    counts : (genes, groups) array
        Sums of counts.
    exposure : (groups,) array
        N.
    prior_count : float
        Positive.
    """
    return counts + prior_count * exposure / exposure.mean()


# ---- overdispersion ---------------------------------------------------------------------------


class _Moments:
    """Sums over genes of squared residuals, of which a and b are the weighted least squares."""

    def __init__(self, n_cells: Array) -> None:
        self.basis = np.stack([1.0 / n_cells, np.ones(len(n_cells))])
        self.normal, self.right = np.zeros((2, 2)), np.zeros(2)

    def add(self, at: _State, design: GroupDesign) -> None:
        """Add genes: E r²/(1 - h) = 1/μ + a/n + b, h being the leverage, with the weight w²."""
        h = design.leverage(at.w, np.linalg.inv(at.A))
        known = h < 1.0 - LEAST_KEPT
        squared = np.where(known, at.w**2, 0.0)
        excess = at.r**2 / np.where(known, 1.0 - h, 1.0) - 1.0 / at.mu
        self.right += self.basis @ (squared * excess).sum(0)
        self.normal += (self.basis * squared.sum(0)) @ self.basis.T

    def overdispersion(self) -> Array:
        """φ = a/n + b of each group, neither of a and b negative: (groups,)."""
        return _nonnegative_pair(self.normal, self.right) @ self.basis


def _nonnegative_pair(normal: Array, right: Array) -> Array:
    """Least squares of two coefficients, neither negative, from their normal equations."""
    if np.linalg.cond(normal) < 1e12:
        both = np.linalg.solve(normal, right)
        if (both >= 0).all():
            return both
    diagonal = np.diag(normal)
    alone = np.maximum(np.where(diagonal > 0, right / np.where(diagonal > 0, diagonal, 1), 0), 0)
    return np.where(alone * right >= (alone * right).max(), alone, 0.0)


# ---- contrasts --------------------------------------------------------------------------------


def log_fold_changes(
    counts: Array,
    design: GroupDesign,
    contrasts: Array,
    *,
    prior_count: float | None = None,
    moderate: bool = True,
) -> LogFoldChanges:
    """Log fold changes of expected counts at equal exposure, and their standard errors.

    Parameters
    ----------
    counts : (groups, genes) array
        Sums of raw counts.
    design : GroupDesign
        Design, exposure and replicates.
    contrasts : (contrasts, coefficients) array
        Rows c of c'β.
    prior_count : float, optional
        Mean number of counts that are added to a group; by default half a count per coefficient,
        spread over the groups that bear a contrast.
    moderate : bool
        Whether genes of like expression inform each other's variances.

    Returns
    -------
    LogFoldChanges
        NaN for genes without counts in the groups that bear a contrast, and those that do not
        converge. Standard error and df are NaN where a subject decides a contrast alone: how
        subjects differ is then not known.

    Notes
    -----
    Contrasts are fitted on the groups that bear them (`GroupDesign.bearing`), so that cell types
    with coefficients of their own have overdispersion of their own. Genes are fitted in strata of
    like mean count. In each, a and b are estimated from the residuals and the genes fitted again.
    The variance of a contrast, relative to that under the working covariance, is moderated within
    the stratum (Smyth 2004).
    """
    result = np.full((3, counts.shape[1], len(contrasts)), np.nan)
    bearing = np.array([design.bearing(c) for c in contrasts])
    sets, which = np.unique(bearing, axis=0, return_inverse=True)
    for k, columns in enumerate(sets):
        own, (part, rows) = np.flatnonzero(which == k), design.take(columns)
        asked = contrasts[np.ix_(own, columns)]
        result[:, :, own] = _fold_changes(counts[rows], part, asked, prior_count, moderate)
    return LogFoldChanges(*result)


def _fold_changes(
    counts: Array, design: GroupDesign, contrasts: Array, prior_count: float | None, moderate: bool
) -> Array:
    """Estimates, standard errors and df of contrasts that all groups bear."""
    if prior_count is None:
        prior_count = PRIOR_COUNT * design.X.shape[1] / len(design.X)
    result = np.full((3, counts.shape[1], len(contrasts)), np.nan)
    for genes in strata(counts.mean(0)):
        y = with_prior_counts(counts[:, genes].T, design.exposure, prior_count)
        fit, overdispersion = _fit_stratum(y, design)
        variance, ratio, df = _variances(y, design, overdispersion, fit, contrasts)
        if moderate:
            ratio, df = _moderated(ratio, df)
        estimate = np.where(fit.converged[:, None], fit.coef @ contrasts.T, np.nan)
        result[:, genes] = estimate, np.sqrt(variance * ratio), df
    return result


def strata(mean: Array) -> list[Array]:
    """Positions of genes with counts in sets of like mean and about the same size."""
    expressed = np.flatnonzero(mean > 0)
    number = int(np.clip(len(expressed) // GENES_PER_STRATUM, 1, MOST_STRATA))
    order = expressed[np.argsort(mean[expressed], kind="stable")]
    return [part for part in np.array_split(order, number) if len(part)]


def _fit_stratum(y: Array, design: GroupDesign) -> tuple[LogLinearFit, Array]:
    """Fit genes (genes, groups) that share φ, estimating it on the way."""
    overdispersion = np.full(len(design.X), FIRST_OVERDISPERSION)
    fit = _fit_parts(y, design, overdispersion, None)
    for _ in range(ROUNDS):
        moments = _Moments(design.n_cells)
        for part in design.parts(len(y)):
            good = fit.converged[part]
            state = _state(y[part][good], design, overdispersion, fit.coef[part][good])
            moments.add(state, design)
        overdispersion = moments.overdispersion()
        fit = _fit_parts(y, design, overdispersion, fit.coef)
    return fit, overdispersion


def _fit_parts(
    y: Array, design: GroupDesign, overdispersion: Array, start: Array | None
) -> LogLinearFit:
    """Fit genes, few at a time."""
    fits = [
        fit_log_linear(y[part], design, overdispersion, None if start is None else start[part])
        for part in design.parts(len(y))
    ]
    return LogLinearFit(*(np.concatenate(fields) for fields in zip(*fits, strict=True)))


def _variances(
    y: Array, design: GroupDesign, overdispersion: Array, fit: LogLinearFit, contrasts: Array
) -> tuple[Array, Array, Array]:
    """Variances under W⁻¹, the subjects' ratios to them and the df, (genes, contrasts) each."""
    result = np.full((3, len(y), len(contrasts)), np.nan)
    for part in design.parts(len(y)):
        genes = np.arange(len(y))[part][fit.converged[part]]
        at = _state(y[genes], design, overdispersion, fit.coef[genes])
        M = np.linalg.inv(at.A)
        for k, c in enumerate(contrasts):
            result[:, genes, k] = _variance_of_contrast(at, design, M, c)
    return result[0], result[1], result[2]


def _variance_of_contrast(
    at: _State, design: GroupDesign, M: Array, c: Array
) -> tuple[Array, Array, Array]:
    """Variance of c'β̂ under W⁻¹, the subjects' ratio to it and its df, (genes,) each.

    With M = (X'WX)⁻¹, c'β̂ - c'β ≈ Σ_s z_s, z_s = Σ_i∈s w_i x_i'Mc r_i. Under W⁻¹ and independence
    z_s has the variance d_s = Σ_i∈s w_i (x_i'Mc)², Σ d_s = c'Mc, and with fitted residuals
    d_s - q_s'Mq_s, q_s = Σ_i∈s w_i x_i'Mc x_i. Σ_s f_s z_s², f_s = d_s/(d_s - q_s'Mq_s), is then
    unbiased, as CR2 of Bell & McCaffrey (2002) is by matrices in place of f. The df are those of
    Satterthwaite's approximation, 2 (tr G)²/(2 tr G²), G_st = √(f_s f_t) (d_s δ_st - q_s'Mq_t).
    """
    along = (M @ c) @ design.X.T
    p = at.w * along
    z = design.sums_by_subject(p * at.r)
    d = design.sums_by_subject(p * along)
    q = design.scores_by_subject(p)
    qM = q @ M
    total = d.sum(1)
    kept = d - (qM * q).sum(2)
    free = kept > LEAST_KEPT * d
    f = np.where(free, d / np.where(free, kept, 1.0), 0.0)
    ratio = (f * z**2).sum(1) / total
    # tr G² = Σ f_s² (d_s² - 2 d_s q_s'Mq_s) + Σ_st f_s f_t (q_s'Mq_t)²
    fqMq = (f[:, :, None] * qM).transpose(0, 2, 1) @ q
    squares = (f**2 * d * (2.0 * kept - d)).sum(1) + (fqMq * fqMq.transpose(0, 2, 1)).sum((1, 2))
    alone = (~free & (d > LEAST_KEPT * total[:, None])).any(1)
    ratio[alone] = np.nan
    return total, ratio, np.where(alone, np.nan, total**2 / squares)


def _moderated(ratio: Array, df: Array) -> tuple[Array, Array]:
    """Shrink the ratios of each contrast across genes; few genes are left as they are."""
    ratio, df = ratio.copy(), df.copy()
    for k in range(ratio.shape[1]):
        prior = moderation.fit_prior(ratio[:, k], df[:, k])
        if prior is not None:
            least = np.maximum(ratio[:, k], LEAST_RATIO)
            ratio[:, k], df[:, k] = moderation.posterior(least, df[:, k], prior)
    return ratio, df
