"""Fit one linear mixed model per gene, and assemble the result. No algebra here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from flashmm.design.statistics import SummaryStatistics
from flashmm.kernels.ddf import invert_information
from flashmm.kernels.empirical_bayes_points import Points, points_of
from flashmm.kernels.engine import VarianceForms, take
from flashmm.kernels.random_covariance import at_boundary
from flashmm.kernels.rotation import Projection
from flashmm.kernels.threads import single_blas_thread
from flashmm.model import FAR, note_aliased
from flashmm.model import MAX_DENSE_COLUMNS as MAX_DENSE_COLUMNS
from flashmm.model import Model as Model
from flashmm.model import factor as factor
from flashmm.model import prepare as prepare
from flashmm.options import FitOptions, InputError, Status, checked, note
from flashmm.shown import Shown

Result = TypeVar("Result")

# Sums of squares relative to that of the values below which nothing but rounding is left.
NOTHING_LEFT = 1e-12
# Variance above which its third power, or that of its inverse, may be no number.
LARGEST_VARIANCE = 1e100

FITTED = (Status.OK, Status.BOUNDARY)


@dataclass(frozen=True, eq=False)
class LMMFit(Shown):
    """Linear mixed models of all genes, y = Xβ + Σ Z_k b_k + ε, fitted by (restricted) likelihood.

    Attributes
    ----------
    coef : (genes, coefficients) array
        Fixed effects β̂; NaN for aliased coefficients and genes without a fit.
    theta : (genes, K + 1) array
        Variance components σ²_1 … σ²_K and, last, the residual σ².
    fisher_information : (genes, K + 1, K + 1) array
        Expected information of theta.
    loglik : (genes,) array
        Maximised log-likelihood with all constants, as lme4's ``logLik`` (REML or ML).
    status : (genes,) array of str
        One `Status` per gene.
    n_iter : (genes,) array of int
        Evaluations of the derivatives by the optimiser.
    decrement : (genes,) array
        Newton decrement of the log-likelihood where the optimiser stopped.
    genes : pandas.Index
        Names of the genes.
    coefficients : tuple of str
        Names of the columns of X, aliased ones included.
    components : tuple of str
        Names of the variance components; the last is "residual".
    aliased : tuple of str
        Coefficients that the design cannot estimate; they were left out of the fit.
    df_residual : int
        n minus the rank of X.
    stats : SummaryStatistics
        What was fitted.
    options : FitOptions
        How it was fitted.
    model : Model
        What genes share: the factored design and the engine.
    notes : tuple of str
        What was decided for the user.
    """

    coef: np.ndarray
    theta: np.ndarray
    fisher_information: np.ndarray
    loglik: np.ndarray
    status: np.ndarray
    n_iter: np.ndarray
    decrement: np.ndarray
    genes: pd.Index
    coefficients: tuple[str, ...]
    components: tuple[str, ...]
    aliased: tuple[str, ...]
    df_residual: int
    stats: SummaryStatistics
    options: FitOptions
    model: Model
    notes: tuple[str, ...] = ()

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return len(self.genes)

    @property
    def fitted(self) -> np.ndarray:
        """Genes whose estimates can be used for inference, (genes,) bool."""
        return np.isin(self.status, FITTED)

    @property
    def estimable(self) -> np.ndarray:
        """Coefficients that were estimated, (coefficients,) bool."""
        return ~np.isin(np.array(self.coefficients, dtype=object), self.aliased)

    @cached_property
    def cov(self) -> np.ndarray:
        """Covariance of the fixed effects (genes, coefficients, coefficients), made on demand."""
        return self.covariance(self.fitted)

    def covariance(self, wanted: np.ndarray) -> np.ndarray:
        """Covariance of the fixed effects of some genes, whatever their status.

        Parameters
        ----------
        wanted : (genes,) bool array
            Genes to evaluate; their theta must be finite and their residual variance positive.

        Returns
        -------
        (genes, coefficients, coefficients) array
            NaN for other genes and aliased coefficients.
        """
        p, kept = len(self.coefficients), self.model.kept
        full = np.empty((self.n_genes, p, p))
        full[~wanted] = np.nan
        basis = self.model.contrasts(np.eye(p))
        for index, gamma, _ in self.blocks(wanted):
            unit = self.model.engine.covariance(gamma, basis)
            unit *= self.theta[index, -1][:, None, None]
            full[index] = unit
        full[:, ~kept] = full[:, :, ~kept] = np.nan
        return full

    @property
    def std_error(self) -> np.ndarray:
        """Standard errors of the fixed effects, (genes, coefficients)."""
        with np.errstate(invalid="ignore"):
            return np.sqrt(np.einsum("gpp->gp", self.cov))

    @cached_property
    def theta_cov(self) -> np.ndarray:
        """Asymptotic covariance of `theta`: the inverse of the expected information."""
        return invert_information(self.fisher_information)

    @property
    def optimised(self) -> np.ndarray:
        """Genes that reached the optimiser, converged or not, (genes,) bool."""
        return self.n_iter > 0

    def score(self) -> np.ndarray:
        """Gradient of the log-likelihood in theta, (genes, K + 1); zero at an inner optimum."""
        full = np.full(self.theta.shape, np.nan)
        for index, gamma, (start, stop) in self.blocks(self.optimised):
            genes = take(self.model.responses(self.stats, start, stop), index - start)
            full[index] = self.model.engine.score(gamma, self.theta[index, -1], genes)
        return full

    def blup(self) -> np.ndarray:
        """Best linear unbiased predictions of the random effects.

        Returns
        -------
        (genes, q) array
            In the order of ``stats.Z_levels``; NaN for genes without a fit.
        """
        full = np.full((self.n_genes, len(self.stats.Z_levels)), np.nan)
        for index, gamma, (start, stop) in self.blocks(self.optimised):
            genes = take(self.model.responses(self.stats, start, stop), index - start)
            full[index] = self.model.engine.blup(gamma, genes)
        return full

    @property
    def coefficient_columns(self) -> tuple[frozenset[str], ...]:
        """The data columns that each coefficient holds."""
        return self.stats.coefficient_columns

    def test_blocks(self) -> Iterator[FittedGenes]:
        """Fitted genes in blocks, with what their tests need."""
        for index, gamma, bounds in self.blocks():
            yield FittedGenes(self, index, gamma, bounds)

    def over_blocks(self, function: Callable[[FittedGenes], Result]) -> list[Result]:
        """What a function gives for each of `test_blocks`, in order; small blocks in threads."""
        with single_blas_thread():
            return self.model.over_blocks(function, self.test_blocks())

    def blocks(
        self, wanted: np.ndarray | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, tuple[int, int]]]:
        """Walk over genes in blocks of bounded memory, BLAS in one thread meanwhile.

        Parameters
        ----------
        wanted : (genes,) bool array or None
            Genes to visit; None visits those with a usable fit.

        Yields
        ------
        index : (block,) int array
            Genes of the block.
        gamma : (block, K) array
            Their components relative to the residual.
        bounds : tuple of int
            First gene and one past the last, whether or not they are visited.
        """
        wanted = self.fitted if wanted is None else wanted
        with single_blas_thread():
            for start, stop in self.model.gene_blocks(self.n_genes, self.options):
                index = start + np.flatnonzero(wanted[start:stop])
                if len(index):
                    yield index, self.theta[index, :-1] / self.theta[index, -1:], (start, stop)

    def to_frame(self) -> pd.DataFrame:
        """One row per gene.

        Its columns are gene, status, loglik, n_iter, ``coef[name]`` and ``std_error[name]`` of each
        coefficient, and ``variance[name]`` of each component.
        """
        std_error = self.std_error
        columns: dict[str, Any] = {"gene": np.asarray(self.genes, dtype=object)}
        columns |= {"status": self.status, "loglik": self.loglik, "n_iter": self.n_iter}
        for j, name in enumerate(self.coefficients):
            columns |= {f"coef[{name}]": self.coef[:, j], f"std_error[{name}]": std_error[:, j]}
        columns |= {f"variance[{c}]": self.theta[:, k] for k, c in enumerate(self.components)}
        return pd.DataFrame(columns)

    def preview(self) -> None:
        """Nothing: a table needs the covariances of all genes."""

    def __repr__(self) -> str:
        counts = pd.Series(self.status).value_counts().to_dict()
        said = ", ".join(f"{n} {status}" for status, n in counts.items())
        return (
            f"LMMFit({self.options.method}, {self.n_genes} genes: {said}; "
            f"{len(self.coefficients)} coefficients, components {', '.join(self.components)})"
        )


@dataclass(frozen=True, eq=False)
class FittedGenes:
    """Some genes of a fit with what their tests need (`inference.model_fit.FittedBlock`)."""

    fit: LMMFit
    index: np.ndarray
    gamma: np.ndarray
    bounds: tuple[int, int]

    @property
    def kept(self) -> np.ndarray:
        """Coefficients that were estimated, (p,) bool."""
        return self.fit.model.kept

    @property
    def df_residual(self) -> int:
        """Residual degrees of freedom n - rank(X)."""
        return self.fit.df_residual

    @property
    def theta(self) -> np.ndarray:
        """Variance components, (block, K + 1)."""
        return self.fit.theta[self.index]

    @property
    def data(self) -> Any:
        """The genes in the engine's form."""
        whole = self.fit.model.responses(self.fit.stats, *self.bounds)
        return take(whole, self.index - self.bounds[0])

    def observed_information(self) -> np.ndarray:
        """Observed information of theta, (block, K + 1, K + 1)."""
        return self.fit.model.engine.information(self.gamma, self.theta[:, -1], self.data)[1]

    def score(self) -> np.ndarray:
        """Gradient of the log-likelihood in theta, (block, K + 1)."""
        return self.fit.model.engine.score(self.gamma, self.theta[:, -1], self.data)

    def expected_information(self, theta: np.ndarray) -> np.ndarray:
        """Expected information at other components, (block, K + 1, K + 1)."""
        gamma, variance = theta[:, :-1] / theta[:, -1:], theta[:, -1]
        return self.fit.model.engine.information(gamma, variance, self.data)[0]

    def shared_points(self) -> Points:
        """The design at ratios of components that genes share."""
        return points_of(self.fit.model.engine)

    def contrast_columns(self, rows: np.ndarray) -> np.ndarray:
        """Contrasts (C, p) in the orthonormal basis of the design, (kept, C)."""
        return self.fit.model.contrasts(rows)

    def variance_forms(self, left: np.ndarray, right: np.ndarray) -> VarianceForms:
        """Covariances of the rows of `left` and `right` (C, p) times β̂."""
        model, variance = self.fit.model, self.theta[:, -1]
        one = self.contrast_columns(left)
        other = one if right is left else self.contrast_columns(right)
        return model.engine.variance_forms(self.gamma, variance, one, other)


@checked
def fit_lmm(
    stats: SummaryStatistics,
    method: str = "REML",
    nonnegative: bool = True,
    *,
    engine: str = "auto",
    start: Sequence[float] | None = None,
    max_iter: int = 100,
    tol: float = 1e-16,
    block_size: int | None = None,
) -> LMMFit:
    """Fit a linear mixed model to every gene from its summary statistics.

    Parameters
    ----------
    stats : SummaryStatistics
        Cross-products from `summary_statistics` or `summary_statistics_from_matrices`.
    method : {"REML", "ML"}
        Restricted or full maximum likelihood.
    nonnegative : bool
        Keep variance components at or above zero (as lme4). False lets them be negative as FLASHMM
        does; genes whose covariance is then not positive definite keep their estimates and lose
        their standard errors.
    engine : {"auto", "spectral", "eliminated", "nested", "dense"}
        "spectral" for one component. "eliminated" for any number of which one is the levels of a
        factor: it, all that no cell shares with it (a variance for each cell type), and a component
        that groups their levels (subject) cost sums over groups only, the others (a crossed batch)
        join the fixed effects. "nested" is the same for two components of which one groups the
        levels of the other, and for nothing else. "dense" for any components. "auto" takes the
        first of spectral, eliminated and dense that holds, but the dense one for up to 64 levels of
        several components, and the eliminating one for more than 5,000 levels of one; correlated
        effects of one factor are fitted level by level, by an engine that has no name here.
    start : sequence of float, optional
        Start values of the K + 1 components, residual last, instead of the global search on a grid.
    max_iter : int
        Limit of the iterations per gene.
    tol : float
        A gene has converged when its Newton decrement, in units of the log-likelihood and so
        invariant to the scale of y, is below `tol`.
    block_size : int, optional
        Genes fitted together; bounds memory, does not change results.

    Returns
    -------
    LMMFit
        Estimates, information, log-likelihood and a status for every gene.

    Raises
    ------
    InputError
        An option that is not known, or start values of the wrong number or sign.
    DesignError
        The design leaves nothing to estimate, or confounds random with fixed effects.

    Notes
    -----
    One odd gene never stops the batch: see `Status`. The likelihood is a function of cross-products
    only (Xu et al. 2026, Nat. Commun. 17:2384); the spectral form is that of Kang et al. 2008
    (EMMA), Newton steps use the observed information, the average information of Gilmour et al.
    1995 being the mean of the two.
    """
    values = None if start is None else tuple(float(v) for v in start)
    options = FitOptions(method, nonnegative, engine, values, max_iter, tol, block_size)
    _check_start(options, stats.component_sizes)
    fit = refit(stats, options)
    return replace(fit, notes=note_aliased(stats, fit.estimable) + _note_offsets(fit))


def refit(stats: SummaryStatistics, options: FitOptions) -> LMMFit:
    """Fit as `fit_lmm` does, with options that were checked, and say nothing."""
    with single_blas_thread():
        model = prepare(stats, options)
        parts = model.over_blocks(
            lambda bounds: _fit_block(model, stats, options, *bounds),
            model.gene_blocks(stats.n_genes, options),
        )
    return _assemble(model, stats, options, parts)


def hold(fit: LMMFit, stats: SummaryStatistics, informed: bool = True) -> LMMFit:
    """Generalised least squares of other statistics with the variance components of a fit.

    Parameters
    ----------
    fit : LMMFit
        Gives θ, the status and the options.
    stats : SummaryStatistics
        The same genes and components, over other cells or with another fixed design.
    informed : bool
        Whether the information of θ is wanted, which costs as much as a step of the optimiser.

    Returns
    -------
    LMMFit
        `coef` and `fisher_information` (NaN where it is not wanted) of the new statistics; `loglik`
        and `decrement` are NaN.
    """
    model = factor(stats, fit.options)
    coef = held_coefficients(fit, stats, model)
    information = np.full_like(fit.fisher_information, np.nan)
    for index, gamma, genes in _held(fit, stats, model) if informed else ():
        information[index] = model.engine.information(gamma, fit.theta[index, -1], genes)[0]
    nothing = np.full(fit.n_genes, np.nan)
    return replace(
        fit,
        coef=coef,
        fisher_information=information,
        loglik=nothing,
        decrement=nothing,
        aliased=_aliased(model, stats),
        df_residual=model.projection.df_residual,
        stats=stats,
        model=model,
        notes=(),
    )


def held_coefficients(fit: LMMFit, stats: SummaryStatistics, model: Model) -> np.ndarray:
    """Fixed effects of other statistics with the components of a fit, (genes, coefficients).

    NaN for aliased coefficients and for genes without a fit; `model` is `factor` of `stats`.
    """
    coef = np.full(fit.coef.shape, np.nan)
    for index, gamma, genes in _held(fit, stats, model):
        values = model.engine.coefficients(gamma, genes)
        coef[np.ix_(index, model.kept)] = model.coefficients(values)
    return coef


def _held(
    fit: LMMFit, stats: SummaryStatistics, model: Model
) -> Iterator[tuple[np.ndarray, np.ndarray, Any]]:
    """Fitted genes in blocks: their numbers, γ of the fit, and responses of `stats`."""
    with single_blas_thread():
        for start, stop in model.gene_blocks(fit.n_genes, fit.options):
            index = start + np.flatnonzero(fit.fitted[start:stop])
            if len(index):
                genes = take(model.responses(stats, start, stop), index - start)
                yield index, fit.theta[index, :-1] / fit.theta[index, -1:], genes


def _check_start(options: FitOptions, sizes: tuple[int, ...]) -> None:
    start, K = options.start, len(sizes)
    if start is None:
        return
    if len(start) != K + 1 or not np.isfinite(start).all() or start[-1] <= 0:
        raise InputError(
            f"start must be {K + 1} finite values, the components and last a positive residual "
            f"variance; found {start}."
        )
    variances = [s for s, size in zip(start, (*sizes, 1), strict=True) if size]
    if options.nonnegative and min(variances) < 0:
        raise InputError(f"start must not be negative when nonnegative=True; found {start}.")


@dataclass(frozen=True, eq=False)
class _Block:
    """Results of a block of genes, fields as in `LMMFit`; coef of independent columns only."""

    coef: np.ndarray
    theta: np.ndarray
    fisher_information: np.ndarray
    loglik: np.ndarray
    status: np.ndarray
    n_iter: np.ndarray
    decrement: np.ndarray


def _fit_block(
    model: Model, stats: SummaryStatistics, options: FitOptions, start: int, stop: int
) -> _Block:
    """Sort out degenerate genes, optimise, and evaluate what follows from the optimum."""
    engine, K = model.engine, len(stats.component_sizes)
    genes = model.responses(stats, start, stop)
    status = _degenerate(stats, slice(start, stop), genes)
    G, p = genes.xy.shape
    coef, theta = np.full((G, p), np.nan), np.full((G, K + 1), np.nan)
    information = np.full((G, K + 1, K + 1), np.nan)
    loglik, decrement = np.full(G, np.nan), np.full(G, np.nan)
    n_iter = np.zeros(G, dtype=np.int64)

    perfect = status == Status.PERFECT_FIT
    coef[perfect], theta[perfect] = model.coefficients(genes.xy[perfect]), 0.0
    live = np.flatnonzero(status == Status.OK)
    if len(live):
        genes = take(genes, live)
        first = None if options.start is None else np.array(options.start)
        optimum = engine.optimise(genes, first, options.max_iter, options.tol)
        gamma = optimum.gamma
        variance, coefficients, information[live] = engine.estimates(gamma, genes)
        coef[live] = model.coefficients(coefficients)
        theta[live] = np.column_stack([gamma * variance[:, None], variance])
        loglik[live] = log_likelihood(optimum.objective, model.projection, options.method)
        n_iter[live], decrement[live] = optimum.n_iter, optimum.decrement
        boundary = at_boundary(gamma, stats.component_sizes)
        definite = engine.is_positive_definite(gamma)
        status[live] = _converged_status(boundary, optimum.decrement, definite, options)
    return _Block(coef, theta, information, loglik, status, n_iter, decrement)


def _degenerate(stats: SummaryStatistics, block: slice, genes: Any) -> np.ndarray:
    """Status of genes with nothing to fit; `ok` for the others."""
    yty, rss = stats.yty[block], genes.rss
    status = np.full(len(yty), Status.OK, dtype=object)
    status[genes.e <= NOTHING_LEFT * yty] = Status.NO_WITHIN_VARIANCE
    status[rss <= NOTHING_LEFT * yty] = Status.PERFECT_FIT
    status[yty == 0] = Status.ALL_ZERO
    if stats.origin is not None:
        c = stats.origin[block]
        # what is left of a constant are the digits that y itself has not
        exact = rss <= stats.n_cells * (4 * np.finfo(float).eps * c) ** 2
        status[(c != 0) & exact] = Status.PERFECT_FIT
    # θ³ is needed, and its inverse; squares of values below 1e-162 are zero, values are not
    left = status == Status.OK
    mean_square = np.where(left, rss, yty) / stats.n_cells
    extreme = (left & (mean_square < 1 / LARGEST_VARIANCE)) | ~(mean_square < LARGEST_VARIANCE)
    status[extreme | ((yty == 0) & (stats.YtX[block] != 0).any(1))] = Status.OUT_OF_RANGE
    return status


def _converged_status(
    boundary: np.ndarray, decrement: np.ndarray, definite: np.ndarray, options: FitOptions
) -> np.ndarray:
    status = np.full(len(boundary), Status.OK, dtype=object)
    status[boundary] = Status.BOUNDARY
    status[~definite] = Status.NOT_POSITIVE_DEFINITE
    status[~(decrement < options.tol)] = Status.NOT_CONVERGED
    return status


def log_likelihood(objective: np.ndarray, projection: Projection, method: str) -> np.ndarray:
    """Log-likelihood from f(γ) = m log Q + log |W|, with every constant."""
    # -2l = m log(2π Q/m) + log|W| (+ log|X'X| for REML) + m
    m = projection.df_residual if method == "REML" else projection.n_cells
    constant = m * (np.log(2 * np.pi / m) + 1) + (
        projection.log_det_XtX if method == "REML" else 0.0
    )
    return -0.5 * (objective + constant)


def _assemble(
    model: Model, stats: SummaryStatistics, options: FitOptions, parts: list[_Block]
) -> LMMFit:
    """Join the blocks and name everything."""
    kept = model.kept
    coef = np.full((stats.n_genes, len(kept)), np.nan)
    coef[:, kept] = np.concatenate([part.coef for part in parts])
    return LMMFit(
        coef=coef,
        theta=np.concatenate([part.theta for part in parts]),
        fisher_information=np.concatenate([part.fisher_information for part in parts]),
        loglik=np.concatenate([part.loglik for part in parts]),
        status=np.concatenate([part.status for part in parts]).astype(str),
        n_iter=np.concatenate([part.n_iter for part in parts]),
        decrement=np.concatenate([part.decrement for part in parts]),
        genes=stats.genes,
        coefficients=tuple(stats.coefficients),
        components=(*stats.components, "residual"),
        aliased=_aliased(model, stats),
        df_residual=model.projection.df_residual,
        stats=stats,
        options=options,
        model=model,
    )


def _aliased(model: Model, stats: SummaryStatistics) -> tuple[str, ...]:
    """Names of the coefficients that the design cannot estimate."""
    return tuple(name for name, k in zip(stats.coefficients, model.kept, strict=True) if not k)


def _note_offsets(fit: LMMFit) -> tuple[str, ...]:
    """Say of how many genes hardly anything is left beside the fixed effects."""
    left = fit.theta[:, -1] * fit.df_residual
    n_far = int(np.count_nonzero(fit.fitted & (fit.stats.yty > FAR * left)))
    if not n_far:
        return ()
    return (
        note(
            f"Of {n_far} genes less than {1 / FAR:.0e} of the sum of squares varies beside the "
            "fixed effects, so that their variances have lost half of their digits or more. "
            "Subtract what is known of them, such as means of levels that lie far apart, from the "
            "values before they are summed."
        ),
    )
