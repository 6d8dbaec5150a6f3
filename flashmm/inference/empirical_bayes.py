"""Empirical-Bayes tests: the variance ratios of a gene are averaged over, not plugged in.

With few subjects a gene knows little of its variance between subjects, but thousands of genes know
how such variances are distributed. Given the ratios γ of the components to the residual variance a
contrast has an exact t distribution with n - rank(X) degrees of freedom; the test is the mixture of
these over the posterior of γ under a prior that all genes of like mean expression have made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from flashmm.design.statistics import SummaryStatistics
from flashmm.inference.model_fit import FittedBlock, ModelFit, covariance_pairs
from flashmm.inference.plan import T_TEST, Tails, TestPlan, Tests
from flashmm.inference.screening import Screened
from flashmm.inference.wald import Wald
from flashmm.kernels import empirical_bayes as kernels
from flashmm.kernels.empirical_bayes_points import Points
from flashmm.kernels.empirical_bayes_tests import joint_tests, single_tests
from flashmm.kernels.engine import take
from flashmm.options import InputError, Status, note
from flashmm.shown import Shown

# What is done where genes are too few for a prior.
FALLBACK = "kenward-roger-2"
_FALLBACK = Wald(adjusted=True, second_order=True)
# Components that a shared grid can have.
MOST_COMPONENTS = 3
# How near to one the weights of a prior sum.
SUM_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False, repr=False)
class VarianceRatioPrior(Shown):
    """Distribution of the variance ratios γ_k = σ²_k/σ² over genes of like mean expression.

    Attributes
    ----------
    components : tuple of str
        Names of the K random terms.
    points : (points, K) array
        The grid of γ.
    weights : (strata, points) array
        Probability of each point, by stratum.
    edges : (strata - 1,) array
        Bounds of mean expression (mean of the transformed values over cells) between the strata.
    genes : pandas.Index
        Genes that were tested with it.
    stratum : (genes,) int array
        Stratum of each gene, from 0; -1 for genes without a fit.
    n_genes : (strata,) int array
        Genes that each stratum was estimated from; zero for a prior that was given.
    loglik, gap : (strata,) arrays
        Marginal log-likelihood of the genes of a stratum (without constants), and how much at most
        another prior could add; NaN for a prior that was given.
    """

    components: tuple[str, ...]
    points: np.ndarray
    weights: np.ndarray
    edges: np.ndarray
    genes: pd.Index
    stratum: np.ndarray
    n_genes: np.ndarray
    loglik: np.ndarray
    gap: np.ndarray

    def to_frame(self) -> pd.DataFrame:
        """One row per stratum and point with weight: stratum, γ of each component, weight."""
        stratum, point = np.nonzero(self.weights)
        columns = {f"ratio:{c}": self.points[point, k] for k, c in enumerate(self.components)}
        frame = {"stratum": stratum, **columns, "weight": self.weights[stratum, point]}
        return pd.DataFrame(frame)

    def check(self, components: tuple[str, ...]) -> None:
        """Refuse a prior that does not belong to a model with these random terms.

        Raises
        ------
        InputError
            Another number of components, arrays that do not fit each other, negative ratios, or
            weights that are no probabilities.
        """
        points, weights = np.asarray(self.points), np.asarray(self.weights)
        if points.ndim != 2 or points.shape[1] != len(components):
            raise InputError(
                f"prior: its grid has the shape {points.shape}; the model has {len(components)} "
                f"random terms ({', '.join(components)}), so (points, {len(components)}) is needed."
            )
        if weights.ndim != 2 or weights.shape != (len(self.edges) + 1, len(points)):
            raise InputError(
                f"prior: its weights have the shape {weights.shape}; its grid has {len(points)} "
                f"points and its {len(self.edges)} edges make {len(self.edges) + 1} strata."
            )
        if not (np.isfinite(points).all() and (points >= 0).all()):
            raise InputError("prior: variance ratios are finite and not negative.")
        sums = weights.sum(axis=1)
        if not ((weights >= 0).all() and (np.abs(sums - 1) < SUM_TOLERANCE).all()):
            raise InputError(
                "prior: the weights of each stratum are probabilities and sum to one; found sums "
                f"from {sums.min():.6g} to {sums.max():.6g}."
            )


def empirical_bayes_tests(plan: TestPlan, screened: Screened) -> Tests:
    """Test all contrasts by the mixture of t (joint ones: F) over the posterior of γ.

    Parameters
    ----------
    plan : TestPlan
        Direction, level, minimum, and a prior where one is given.
    screened : Screened
        The fit and its contrasts.

    Returns
    -------
    Tests
        With p-values and limits of its own and the prior. `std_error` and `df` are those of a t
        distribution that stands for the mixture; df is NaN where none gives nearly its p-value.

    Raises
    ------
    InputError
        More than three components, components that may be negative, or a prior of another model.

    Notes
    -----
    Ignatiadis & Sen, "Empirical partially Bayes multiple testing and compound decisions" (arXiv
    2303.02887), for variance ratios. Below 50 genes there is no prior and the tests are those of
    "kenward-roger-2"; below 200 all genes have one prior. Both are said.
    """
    fit = screened.fit
    components = _components(fit)
    usable = _usable(fit)
    if plan.prior is None and usable.sum() < kernels.FEWEST_GENES:
        return _fallback(plan, screened, int(usable.sum()))
    with_prior = _prior(fit, components, usable, plan.prior)
    found = {name: np.full(screened.shape, np.nan) for name in _ARRAYS}
    for block in fit.test_blocks():
        asked = _Asked.of(block, screened)
        for rows in _same_stratum(block, with_prior.stratum):
            _test_genes(asked, rows, plan, with_prior, found)
    failures = {Status.ZERO_VARIANCE: _without_variance(found, screened, usable)}
    return Tests(
        estimate=found["estimate"],
        std_error=found["std_error"],
        statistic=found["statistic"],
        df=found["df"],
        failures=failures,
        tails=Tails(found["p_value"], found["log10_p"], found["conf_low"], found["conf_high"]),
        prior=with_prior,
        notes=_notes(with_prior),
    )


_ARRAYS = (*T_TEST, "conf_low", "conf_high", "p_value", "log10_p")


def _components(fit: ModelFit) -> tuple[str, ...]:
    """Names of the random terms, where a shared grid can have them."""
    components = tuple(map(str, fit.components[:-1]))
    pairs = covariance_pairs(fit)
    if pairs:
        raise InputError(
            "ddf='empirical-bayes' averages over variance ratios, and this model has a covariance "
            f"of random effects, {components[pairs[0].covariance]!r}: write || for independent "
            f"ones, or use ddf={FALLBACK!r}."
        )
    if len(components) > MOST_COMPONENTS:
        raise InputError(
            f"ddf='empirical-bayes' averages over a grid of variance ratios, of at most "
            f"{MOST_COMPONENTS} random terms; this model has {len(components)}. Fit each cell type "
            f"alone (fit_within), or use ddf={FALLBACK!r}."
        )
    if not fit.options.nonnegative:
        raise InputError(
            "ddf='empirical-bayes' has a prior on variance ratios from zero on, and this fit "
            f"allows negative components: fit with nonnegative=True, or use ddf={FALLBACK!r}."
        )
    return components


def _usable(fit: ModelFit) -> np.ndarray:
    """Genes with a fit and a residual variance, (genes,) bool."""
    with np.errstate(invalid="ignore"):
        return fit.fitted & (fit.theta[:, -1] > 0)


def _fallback(plan: TestPlan, screened: Screened, n_genes: int) -> Tests:
    words = note(
        f"{n_genes} genes are too few for an empirical-Bayes prior of variance ratios (at least "
        f"{kernels.FEWEST_GENES}): the tests are those of ddf={FALLBACK!r}."
    )
    tests = _FALLBACK.test(plan, screened)
    return replace(tests, notes=(*tests.notes, words))


def _prior(
    fit: ModelFit, components: tuple[str, ...], usable: np.ndarray, given: Any
) -> VarianceRatioPrior:
    """The prior of the genes of a fit, or the given one with the strata of these genes."""
    mean = mean_expression(fit)
    if given is not None:
        if not isinstance(given, VarianceRatioPrior):
            raise InputError(
                "prior is what an empirical-Bayes table keeps as `prior`; found "
                f"{type(given).__name__}."
            )
        given.check(components)
        stratum = np.where(usable, kernels.strata(mean, given.edges), -1)
        nothing = np.full(len(given.weights), np.nan)
        counts = np.zeros(len(given.weights), dtype=np.int64)
        return replace(
            given, genes=fit.genes, stratum=stratum, n_genes=counts, loglik=nothing, gap=nothing
        )
    points = _grid(fit, usable)
    loglik = _log_likelihood(fit, points)
    informed = usable & np.isfinite(loglik).all(axis=1)
    edges = kernels.stratum_edges(mean[informed])
    stratum = np.where(usable, kernels.strata(mean, edges), -1)
    found = kernels.fit_prior(loglik[informed], stratum[informed], len(edges) + 1)
    return VarianceRatioPrior(
        components=components,
        points=points,
        weights=found.weights,
        edges=edges,
        genes=fit.genes,
        stratum=stratum,
        n_genes=found.n_genes,
        loglik=found.loglik,
        gap=found.gap,
    )


@dataclass(frozen=True, eq=False)
class RatioPosterior:
    """What is known of the variance ratios of each gene, and of those of genes like it.

    Attributes
    ----------
    points : (1, points, K) or (genes, 1, K) array
        Ratios to the residual variance: a grid that genes share, or their own estimates.
    weights : (genes, points) array
        Posterior probabilities; NaN for genes without a fit.
    prior : (strata, points) array or None
        The prior of each stratum; None where genes are too few for one.
    stratum : (genes,) int array
        Stratum of each gene; -1 for genes without a fit.
    """

    points: np.ndarray
    weights: np.ndarray
    prior: np.ndarray | None
    stratum: np.ndarray


def ratio_posterior(fit: ModelFit) -> RatioPosterior:
    """Posterior of the variance ratios γ of every gene, under the prior of genes like it.

    With fewer than fifty genes there is no prior, and each gene has its own estimate alone.
    """
    components, usable = _components(fit), _usable(fit)
    if usable.sum() < kernels.FEWEST_GENES:
        with np.errstate(invalid="ignore", divide="ignore"):
            own = fit.theta[:, :-1] / fit.theta[:, -1:]
        known = np.where(usable, 1.0, np.nan)[:, None]
        return RatioPosterior(own[:, None], known, None, usable.astype(int) - 1)
    prior = _prior(fit, components, usable, None)
    loglik = _log_likelihood(fit, prior.points)
    weights = np.full(loglik.shape, np.nan)
    for stratum in np.unique(prior.stratum[usable]):
        rows = usable & (prior.stratum == stratum)
        weights[rows] = kernels.posterior(loglik[rows], prior.weights[stratum])[0]
    return RatioPosterior(prior.points[None], weights, prior.weights, prior.stratum)


def mean_expression(fit: ModelFit) -> np.ndarray:
    """Mean of the transformed values over the cells, (genes,); zero where it is not known."""
    stats = fit.stats
    if stats is None:
        return np.zeros(len(fit.genes))
    if stats.groups is not None:
        return np.asarray(stats.groups.totals().sum(axis=0, dtype=np.float64) / stats.n_cells)
    return _mean_by_intercept(stats)


def _mean_by_intercept(stats: SummaryStatistics) -> np.ndarray:
    """Y'1/n from Y'X, with the combination of the columns of X that is nearest to ones."""
    if stats.X_sum is None:
        return np.zeros(stats.n_genes)
    ones = np.linalg.lstsq(stats.XtX, stats.X_sum, rcond=None)[0]
    return stats.from_origin(stats.YtX @ ones / stats.n_cells)


def _grid(fit: ModelFit, usable: np.ndarray) -> np.ndarray:
    """Shared points of γ: as fine and as wide as the best informed block of genes needs."""
    gamma = fit.theta[usable, :-1] / fit.theta[usable, -1:]
    models = [block.shared_points() for block in fit.test_blocks()]
    scale = np.max([model.scale for model in models], axis=0)
    levels = np.max([model.levels for model in models], axis=0)
    return kernels.shared_grid(scale, levels, gamma)


def _log_likelihood(fit: ModelFit, points: np.ndarray) -> np.ndarray:
    """Restricted log-likelihood of the genes at every point, (genes, points)."""
    loglik = np.full((len(fit.genes), len(points)), np.nan)
    for block in fit.test_blocks():
        loglik[block.index] = block.shared_points().log_likelihood(points, block.data)
    return loglik


def _same_stratum(block: FittedBlock, stratum: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of a block, those of each stratum together."""
    own = stratum[block.index]
    for one in np.unique(own[own >= 0]):
        yield np.flatnonzero(own == one)


class _Asked(NamedTuple):
    """What is tested of the genes of a block, which share a design.

    Attributes
    ----------
    model, genes : Points and the genes that it takes
        `FittedBlock.shared_points` and `data`.
    number : (block,) int array
        Numbers of the genes.
    single : (tests,) int array
        Numbers of the contrasts of one row.
    columns : (kept, tests) array
        These contrasts in the orthonormal basis of the design.
    joint : dict
        Number of each contrast of several rows to its (kept, rows) columns.
    """

    model: Points
    genes: Any
    number: np.ndarray
    single: np.ndarray
    columns: np.ndarray
    joint: dict[int, np.ndarray]

    @classmethod
    def of(cls, block: FittedBlock, screened: Screened) -> _Asked:
        here = screened.testable & _estimable(block, screened)
        bases = [contrast.basis for contrast in screened.contrasts]
        single = np.flatnonzero(here & (screened.df_num <= 1))
        rows = np.vstack([bases[j] for j in single]) if len(single) else bases[0][:0]
        joint = np.flatnonzero(here & (screened.df_num > 1))
        return cls(
            block.shared_points(),
            block.data,
            block.index,
            single,
            block.contrast_columns(rows),
            {int(j): block.contrast_columns(bases[j]) for j in joint},
        )


def _test_genes(
    asked: _Asked,
    rows: np.ndarray,
    plan: TestPlan,
    prior: VarianceRatioPrior,
    found: dict[str, np.ndarray],
) -> None:
    """Write the tests of some genes of one stratum."""
    model, genes, index = asked.model, take(asked.genes, rows), asked.number[rows]
    weights = prior.weights[prior.stratum[index[0]]]
    used = weights > 0
    points = prior.points[used]
    posterior, _ = kernels.posterior(model.log_likelihood(points, genes), weights[used])
    if len(asked.single):
        tests = single_tests(
            model,
            genes,
            asked.columns,
            points,
            posterior,
            alternative=plan.alternative,
            level=plan.level,
            minimum=plan.lfc,
        )
        for name in _ARRAYS:
            found[name][np.ix_(index, asked.single)] = getattr(tests, name)
    for j, columns in asked.joint.items():
        joint = joint_tests(model, genes, columns, points, posterior)
        for name in ("statistic", "p_value", "log10_p"):
            found[name][index, j] = getattr(joint, name)


def _estimable(block: FittedBlock, screened: Screened) -> np.ndarray:
    """Contrasts that these genes can estimate, (contrasts,) bool."""
    return np.array([not (c.matrix[:, ~block.kept] != 0).any() for c in screened.contrasts])


def _without_variance(
    found: dict[str, np.ndarray], screened: Screened, usable: np.ndarray
) -> np.ndarray:
    """Tests that came out as NaN although gene and contrast could be tested."""
    asked = screened.fit.fitted[:, None] & screened.testable
    return np.asarray(asked & (~np.isfinite(found["p_value"]) | ~usable[:, None]))


def _notes(prior: VarianceRatioPrior) -> tuple[str, ...]:
    if len(prior.weights) > 1 or not 0 < prior.n_genes.sum() < kernels.FEW_GENES:
        return ()
    return (
        note(
            f"The prior of the variance ratios is estimated from {int(prior.n_genes.sum())} genes: "
            "it is one for all of them, and tests are slightly anti-conservative with so few."
        ),
    )
