"""Tests and intervals of variance components, and what each part of the model explains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import special
from threadpoolctl import threadpool_limits

from flashmm.design.derived import drop_component
from flashmm.design.statistics import SummaryStatistics
from flashmm.inference.table import adjust_p_values
from flashmm.kernels import variance_tests as kernels
from flashmm.kernels.engine import take
from flashmm.kernels.profile import profile_interval, ratio_interval
from flashmm.kernels.rotation import rotate_projection
from flashmm.kernels.spectral import SpectralEngine
from flashmm.lmm import MAX_DENSE_COLUMNS, LMMFit, Model, log_likelihood, prepare
from flashmm.options import InputError, Status, note

TESTS = ("lrt", "rlrt", "f", "z")
INTERVALS = ("wald", "profile", "exact")
# What needs the eigenvalues of a single component.
EXACT = ("rlrt", "f", "exact")
# Levels up to which the null is simulated unasked; with more it is slow, and the mixture is close.
FEW_LEVELS = 200
# Likelihood ratio (twice log-likelihood units) below zero that is rounding.
ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class VarianceTable:
    """Tests and intervals of variance components, one row per gene and component.

    Arrays are (genes, components), intervals (genes, components, 2); what was not asked for is
    None, and what does not exist (tests of the residual, genes without a usable fit) is NaN.

    Attributes
    ----------
    variance, std_error : arrays
        σ̂²_k and its standard error, from the expected information.
    share, share_std_error : arrays
        Share in the variance of an average cell, and its standard error by the delta method: the
        intraclass correlation of a grouping.
    status : (genes, components) array of str
        The gene's `Status`; "not_converged" also where a likelihood without the component, or a
        profile, did not converge.
    genes : pandas.Index
        Names of the genes.
    components : tuple of str
        Names of the components.
    level : float
        Of the intervals.
    lrt : array or None
        Likelihood ratio statistic of the model without the component.
    p_lrt, adj_p_lrt, p_chi2 : arrays or None
        Its p-value by the boundary mixture ½χ²₀ + ½χ²₁ (χ²₁ where the fit may be negative), that
        adjusted per component by Benjamini-Hochberg, and that of the plain χ²₁.
    p_rlrt, p_rlrt_error : arrays or None
        P-value by the simulated null of this design, and its Monte Carlo standard error.
    f, p_f : arrays or None
        F statistic of the analysis of variance and its exact p-value.
    z, p_z : arrays or None
        σ̂²_k over its standard error, and the normal tail above it.
    variance_wald, variance_profile : arrays or None
        Confidence limits of the variance.
    share_wald, share_profile, share_exact : arrays or None
        Confidence limits of the share; the latter two with one random component.
    notes : tuple of str
        What was decided for the user.
    """

    variance: np.ndarray
    std_error: np.ndarray
    share: np.ndarray
    share_std_error: np.ndarray
    status: np.ndarray
    genes: pd.Index
    components: tuple[str, ...]
    level: float
    lrt: np.ndarray | None = None
    p_lrt: np.ndarray | None = None
    adj_p_lrt: np.ndarray | None = None
    p_chi2: np.ndarray | None = None
    p_rlrt: np.ndarray | None = None
    p_rlrt_error: np.ndarray | None = None
    f: np.ndarray | None = None
    p_f: np.ndarray | None = None
    z: np.ndarray | None = None
    p_z: np.ndarray | None = None
    variance_wald: np.ndarray | None = None
    variance_profile: np.ndarray | None = None
    share_wald: np.ndarray | None = None
    share_profile: np.ndarray | None = None
    share_exact: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """One row per component and gene.

        Returns
        -------
        pandas.DataFrame
            Columns gene, component, variance, sd (NaN where the variance is negative), and what was
            asked for; an interval is two columns, such as variance_profile_low and _high.
            Components one after another, genes in their order.
        """
        G, C = self.variance.shape
        columns: dict[str, Any] = {
            "gene": np.tile(np.asarray(self.genes, dtype=object), C),
            "component": np.repeat(np.array(self.components, dtype=object), G),
        }
        for field in fields(self):
            values = getattr(self, field.name)
            if not isinstance(values, np.ndarray):
                continue
            if values.ndim == 2:
                columns[field.name] = values.T.ravel()
            else:
                for side, name in enumerate(("low", "high")):
                    columns[f"{field.name}_{name}"] = values[:, :, side].T.ravel()
            if field.name == "variance":
                columns["sd"] = np.sqrt(np.where(values >= 0, values, np.nan)).T.ravel()
        columns["status"] = columns.pop("status")
        return pd.DataFrame(columns)

    def __repr__(self) -> str:
        asked = [f.name for f in fields(self) if f.name.startswith("p_")]
        asked = [name for name in asked if getattr(self, name) is not None]
        return (
            f"VarianceTable({len(self.genes)} genes × {', '.join(self.components)}; "
            f"{', '.join(asked) or 'no tests'})"
        )


def variance_tests(
    fit: LMMFit,
    components: Sequence[str] | str | None = None,
    tests: Sequence[str] | str | None = None,
    intervals: Sequence[str] | str | None = None,
    level: float = 0.95,
    *,
    genes: Sequence[str] | None = None,
    n_simulations: int = 100_000,
    seed: int = 0,
) -> VarianceTable:
    """Test whether levels of a random term differ, and say by how much.

    Parameters
    ----------
    fit : LMMFit
        The fitted models.
    components : str or sequence of str, optional
        Components, "residual" among them; all by default.
    tests : sequence of {"lrt", "rlrt", "f", "z"}, optional
        "lrt" refits every gene without the component; "rlrt" is the same statistic with the null
        distribution of this design, simulated once for all genes, and "f" the exact F test of the
        analysis of variance, both for one random component; "z" is the estimate over its standard
        error (as FLASHMM), which few subjects make unreliable. By default all that the model
        allows, "rlrt" with up to 200 levels.
    intervals : sequence of {"wald", "profile", "exact"}, optional
        "wald": estimate ± z standard errors, cut at the ends of the scale; "profile": where the
        likelihood ratio meets the χ²₁ quantile; "exact": from the F distribution, of the share, for
        one random component. By default "exact" where the model allows it, else "wald". Profiles
        of several components cost some twenty fits per gene: see `genes`.
    level : float
        Of the intervals.
    genes : sequence of str, optional
        Genes to look at; all by default.
    n_simulations, seed : int
        Simulated genes and seed of "rlrt".

    Returns
    -------
    VarianceTable
        `to_frame()` makes it tidy.

    Raises
    ------
    InputError
        Unknown names, a level outside (0, 1), or a test that does not exist for this model.

    Notes
    -----
    Likelihood ratios compare equal X, so that REML and ML fits both serve. The mixture holds for
    many subjects and is conservative with few (Self & Liang 1987); the simulated null is exact
    (Crainiceanu & Ruppert 2004), and so are the F test and its interval (Harville & Fenech 1985).
    With ``nonnegative=False`` the null of the likelihood ratio is χ²₁, two-sided.
    """
    plan = _Plan.of(fit, components, tests, intervals, level)
    if n_simulations < 100:
        raise InputError(f"n_simulations must be at least 100; found {n_simulations}.")
    rows = _rows_of(fit, genes)
    wanted = np.isin(np.arange(fit.n_genes), rows) & fit.fitted
    with threadpool_limits(limits=1, user_api="blas"):
        values = _estimates(fit, wanted, plan.level if "wald" in plan.intervals else None)
        if "lrt" in plan.tests or "rlrt" in plan.tests:
            values |= _likelihood_ratio_tests(fit, plan, wanted, n_simulations, seed)
        if "z" in plan.tests:
            values |= _z_tests(fit, values["std_error"])
        if "f" in plan.tests or "exact" in plan.intervals:
            values |= _exact(fit, plan, wanted)
        if "profile" in plan.intervals:
            values |= _profiles(fit, plan, wanted, values["std_error"])
    values["status"] = _row_status(fit, wanted, values)
    chosen = {name: array[rows][:, plan.positions] for name, array in values.items()}
    if "p_lrt" in chosen:
        chosen["adj_p_lrt"] = np.column_stack([adjust_p_values(p) for p in chosen["p_lrt"].T])
    return VarianceTable(
        **chosen,
        genes=fit.genes[rows],
        components=tuple(fit.components[k] for k in plan.positions),
        level=level,
        notes=plan.notes,
    )


def _rows_of(fit: LMMFit, genes: Sequence[str] | None) -> np.ndarray:
    """Positions of the genes that were asked for, in the order of the fit."""
    if genes is None:
        return np.arange(fit.n_genes)
    names = [genes] if isinstance(genes, str) else list(genes)
    unknown = [name for name in names if name not in fit.genes]
    if unknown:
        raise InputError(f"genes: {len(unknown)} are not in the fit, such as {unknown[0]!r}.")
    return np.flatnonzero(fit.genes.isin(names))


@dataclass(frozen=True, eq=False)
class _Plan:
    """What was asked for, checked."""

    positions: list[int]
    tests: tuple[str, ...]
    intervals: tuple[str, ...]
    level: float
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, fit: LMMFit, components: Any, tests: Any, intervals: Any, level: float) -> _Plan:
        """Read the options of `variance_tests`."""
        if not 0 < level < 1:
            raise InputError(f"level must lie between 0 and 1, such as 0.95; found {level}.")
        reason = _no_exact(fit)
        exact = reason is None and isinstance(fit.model.engine, SpectralEngine)
        few = sum(fit.stats.component_sizes) <= FEW_LEVELS
        usual_tests = [t for t in TESTS if t not in EXACT or (exact and (few or t == "f"))]
        usual_intervals = ("exact",) if exact else ("wald",)
        names = _chosen("components", components, fit.components, fit.components)
        if not names:
            raise InputError(f"components names nothing; the components are {fit.components}.")
        plan = cls(
            [fit.components.index(name) for name in names],
            _chosen("tests", tests, TESTS, usual_tests),
            _chosen("intervals", intervals, INTERVALS, usual_intervals),
            level,
        )
        asked = [name for name in (*plan.tests, *plan.intervals) if name in EXACT]
        if asked and reason:
            raise InputError(f"{', '.join(map(repr, asked))}: {reason}")
        if "profile" in plan.intervals and not fit.options.nonnegative:
            raise InputError(
                "'profile' intervals are for components bounded below by zero; fit with "
                "nonnegative=True, or use 'wald'."
            )
        return replace(plan, notes=_notes(fit, plan))


def _chosen(
    argument: str, given: Any, allowed: Sequence[str], usual: Sequence[str]
) -> tuple[str, ...]:
    names = usual if given is None else [given] if isinstance(given, str) else list(given)
    unknown = [name for name in names if name not in allowed]
    if unknown:
        raise InputError(
            f"{argument} must be among {', '.join(allowed)}; found {', '.join(map(repr, unknown))}."
        )
    return tuple(name for name in allowed if name in names)


def _no_exact(fit: LMMFit) -> str | None:
    """Why there is no exact test or interval; None where there is."""
    K, q = len(fit.components) - 1, sum(fit.stats.component_sizes)
    if K != 1:
        return (
            f"exact with one random component only, and this model has {K}; use 'lrt', 'profile'."
        )
    if not fit.options.nonnegative:
        return "for components bounded below by zero; fit with nonnegative=True, or use 'lrt', 'z'."
    if q > MAX_DENSE_COLUMNS:
        return f"needs the eigenvalues of {q} levels, and stops at {MAX_DENSE_COLUMNS}."
    return None


def _notes(fit: LMMFit, plan: _Plan) -> tuple[str, ...]:
    if fit.options.nonnegative or "lrt" not in plan.tests:
        return ()
    return (
        note(
            "The fit allows negative components, so the likelihood ratio is compared with χ² on "
            "one degree of freedom (two-sided) and not with the boundary mixture."
        ),
    )


def _row_status(fit: LMMFit, wanted: np.ndarray, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """The genes' status; "not_converged" where a likelihood ratio or a profile failed."""
    status = np.repeat(fit.status[:, None].astype(object), len(fit.components), axis=1)
    failed = np.zeros(status.shape, dtype=bool)
    if "lrt" in values:
        failed[:, :-1] |= np.isnan(values["lrt"][:, :-1])
    if "variance_profile" in values:
        failed |= np.isnan(values["variance_profile"]).any(2)
    status[failed & wanted[:, None]] = str(Status.NOT_CONVERGED)
    return status.astype(str)


# ---- estimates and shares ---------------------------------------------------------------------


def _mean_diagonals(stats: SummaryStatistics) -> np.ndarray:
    """Mean diagonal of Z_kZ_k' over the cells, tr(Z_k'Z_k)/n, (K,): one for groupings."""
    starts = np.cumsum((0, *stats.component_sizes[:-1]))
    return np.add.reduceat(np.asarray(stats.ZtZ.diagonal()), starts) / stats.n_cells


def _normal_quantile(level: float) -> float:
    return float(special.ndtri(0.5 * (1 + level)))


def _estimates(fit: LMMFit, wanted: np.ndarray, wald: float | None) -> dict[str, np.ndarray]:
    """Components, shares, standard errors and, where a level is given, Wald intervals."""
    blank = np.full(fit.theta.shape, np.nan)
    values = {"variance": fit.theta.copy()}
    names = ("std_error", "share", "share_std_error")
    values |= {name: blank.copy() for name in names}
    theta, cov = fit.theta[wanted], fit.theta_cov[wanted]
    shares = kernels.variance_shares(theta, cov, np.append(_mean_diagonals(fit.stats), 1.0))
    std_error = np.sqrt(np.einsum("gkk->gk", cov))
    for name, found in zip(names, (std_error, *shares), strict=True):
        values[name][wanted] = found
    if wald is None:
        return values
    for name, error, top in (("variance", "std_error", np.inf), ("share", "share_std_error", 1.0)):
        half = _normal_quantile(wald) * values[error]
        limits = np.stack([values[name] - half, values[name] + half], axis=2)
        values[f"{name}_wald"] = np.clip(limits, 0.0 if fit.options.nonnegative else -np.inf, top)
    return values


def _z_tests(fit: LMMFit, std_error: np.ndarray) -> dict[str, np.ndarray]:
    """Test σ̂²_k / se by P(N > z); the residual is not tested."""
    with np.errstate(divide="ignore", invalid="ignore"):
        z = fit.theta / std_error
    z[:, -1] = np.nan
    return {"z": z, "p_z": special.ndtr(-z)}


# ---- likelihood ratios ------------------------------------------------------------------------


def _likelihood_ratio_tests(
    fit: LMMFit, plan: _Plan, wanted: np.ndarray, n_simulations: int, seed: int
) -> dict[str, np.ndarray]:
    """Likelihood ratio of each component that was asked for, and its p-values."""
    statistic = np.full(fit.theta.shape, np.nan)
    for k in plan.positions:
        if k < len(fit.components) - 1:
            statistic[:, k] = _likelihood_ratio(fit, k, wanted)
    plain = kernels.chi2_tail(statistic)
    p = kernels.boundary_tail(statistic) if fit.options.nonnegative else plain
    values = {"lrt": statistic}
    if "lrt" in plan.tests:
        values |= {"p_lrt": p, "p_chi2": plain}
    if "rlrt" in plan.tests:
        null = kernels.simulated_null(_spectral(fit), n_simulations, seed)
        tail, error = kernels.simulated_tail(null, statistic)
        values |= {"p_rlrt": tail, "p_rlrt_error": error}
    return values


def _likelihood_ratio(fit: LMMFit, component: int, wanted: np.ndarray) -> np.ndarray:
    """-2 log L without a component + 2 log L with it, (genes,); NaN where one did not converge."""
    without = (
        _ordinary_loglik(fit, wanted)
        if len(fit.components) == 2
        else _reduced_loglik(fit, fit.components[component], wanted)
    )
    ratio = 2.0 * (fit.loglik - without)
    # a better fit without the component: the search with it has not found the optimum
    ratio[ratio < -ROUNDING] = np.nan
    at_bound = (fit.theta[:, component] == 0) & fit.options.nonnegative
    return np.where(
        wanted & ~np.isnan(ratio), np.where(at_bound, 0.0, np.maximum(ratio, 0)), np.nan
    )


def _ordinary_loglik(fit: LMMFit, wanted: np.ndarray) -> np.ndarray:
    """Log-likelihood of ordinary least squares, (genes,)."""
    full = np.full(fit.n_genes, np.nan)
    projection, method = fit.model.projection, fit.options.method
    m = _likelihood_df(fit)
    for index, genes in _block_genes(fit, fit.model, wanted):
        full[index] = log_likelihood(m * np.log(genes.rss), projection, method)
    return full


def _reduced_loglik(fit: LMMFit, name: str, wanted: np.ndarray) -> np.ndarray:
    """Log-likelihood of the model without a component, (genes,); NaN if not converged."""
    stats = drop_component(fit.stats, name)
    engine = "dense" if fit.options.engine == "dense" else "auto"
    options = replace(fit.options, engine=engine, start=None)
    model = prepare(stats, options)
    full = np.full(fit.n_genes, np.nan)
    for start, stop in model.gene_blocks(fit.n_genes, options):
        rows = np.flatnonzero(wanted[start:stop])
        if not len(rows):
            continue
        genes = take(model.responses(stats, start, stop), rows)
        optimum = model.engine.optimise(genes, None, options.max_iter, options.tol)
        loglik = log_likelihood(optimum.objective, model.projection, options.method)
        full[start + rows] = np.where(optimum.decrement < options.tol, loglik, np.nan)
    return full


def _likelihood_df(fit: LMMFit) -> int:
    """The m of f = m log Q + log |W|: ν for REML, n for ML."""
    return fit.df_residual if fit.options.method == "REML" else fit.stats.n_cells


def _block_genes(fit: LMMFit, model: Model, wanted: np.ndarray) -> Iterator[tuple[np.ndarray, Any]]:
    """Wanted genes block by block, in the form of the model's engine, with their positions."""
    for start, stop in model.gene_blocks(fit.n_genes, fit.options):
        rows = np.flatnonzero(wanted[start:stop])
        if len(rows):
            yield start + rows, take(model.responses(fit.stats, start, stop), rows)


# ---- exact, for one component -----------------------------------------------------------------


def _spectral(fit: LMMFit) -> SpectralEngine:
    """The rotation of the model, in which the exact distributions are known."""
    engine, options = fit.model.engine, fit.options
    if isinstance(engine, SpectralEngine):
        return engine
    rotation = rotate_projection(fit.model.projection)
    return SpectralEngine.build(rotation, options.method == "REML", options.nonnegative)


def _exact(fit: LMMFit, plan: _Plan, wanted: np.ndarray) -> dict[str, np.ndarray]:
    """F test of the component, and its exact interval as shares."""
    engine = _spectral(fit)
    model, rotation = replace(fit.model, engine=engine), engine.rotation
    f, p = (np.full(fit.theta.shape, np.nan) for _ in range(2))
    limits = np.full((*fit.theta.shape, 2), np.nan)
    for index, genes in _block_genes(fit, model, wanted):
        f[index, 0], p[index, 0] = kernels.exact_f(rotation, genes)
        if "exact" in plan.intervals:
            gamma = kernels.exact_gamma_interval(rotation, genes, plan.level)
            limits[index] = _share_limits(fit, gamma)
    values = {"f": f, "p_f": p} if "f" in plan.tests else {}
    return values | ({"share_exact": limits} if "exact" in plan.intervals else {})


def _share_limits(fit: LMMFit, gamma: np.ndarray) -> np.ndarray:
    """Limits of γ (genes, 2) as those of the shares of component and residual, (genes, 2, 2)."""
    part = gamma * _mean_diagonals(fit.stats)[0]
    share = part / (1.0 + part)
    return np.stack([share, 1.0 - share[:, ::-1]], axis=1)


# ---- profiles ---------------------------------------------------------------------------------


def _profiles(
    fit: LMMFit, plan: _Plan, wanted: np.ndarray, std_error: np.ndarray
) -> dict[str, np.ndarray]:
    """Profile-likelihood intervals of the variances and, with one component, of the shares."""
    limits, shares = (np.full((*fit.theta.shape, 2), np.nan) for _ in range(2))
    quantile, m, engine = _normal_quantile(plan.level), _likelihood_df(fit), fit.model.engine
    single = len(fit.components) == 2
    for index, genes in _block_genes(fit, fit.model, wanted):
        theta, errors = fit.theta[index], std_error[index]
        for k in plan.positions:
            limits[index, k] = profile_interval(engine, genes, theta, errors[:, k], m, k, quantile)
        if single:
            gamma = ratio_interval(engine, genes, theta, errors[:, 0], quantile)
            shares[index] = _share_limits(fit, gamma)
    return {"variance_profile": limits} | ({"share_profile": shares} if single else {})


# ---- variance explained -----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class VarianceExplained:
    """What each part of the model explains of the variance of the cells, per gene.

    Attributes
    ----------
    fixed : (genes, terms) array
        Variance over the cells of the columns of a fixed term times their estimates.
    fixed_total : (genes,) array
        Variance over the cells of Xβ̂; terms that are correlated do not add up to it.
    random : (genes, K) array
        Expected variance over the cells of Z_k b_k; negative components count as zero.
    residual : (genes,) array
        σ̂².
    r2_marginal, r2_conditional : (genes,) arrays
        R² of Nakagawa & Schielzeth (2013): of the fixed effects, and of fixed and random effects.
    status : (genes,) array of str
        One `Status` per gene; numbers are NaN where the fit cannot be used.
    genes : pandas.Index
        Names of the genes.
    terms, components : tuple of str
        Names of the fixed terms, and of the components without the residual.
    """

    fixed: np.ndarray
    fixed_total: np.ndarray
    random: np.ndarray
    residual: np.ndarray
    r2_marginal: np.ndarray
    r2_conditional: np.ndarray
    status: np.ndarray
    genes: pd.Index
    terms: tuple[str, ...]
    components: tuple[str, ...]

    @property
    def total(self) -> np.ndarray:
        """Variance of all parts together, (genes,)."""
        return self.fixed_total + self.random.sum(1) + self.residual

    def to_frame(self) -> pd.DataFrame:
        """One row per part and gene.

        Returns
        -------
        pandas.DataFrame
            Columns gene, part ("fixed", "fixed total", "random", "residual"), term, variance,
            fraction (of the sum of fixed total, random and residual), status; parts one after
            another, genes in their order.
        """
        G = len(self.genes)
        parts = (
            [("fixed", term) for term in self.terms]
            + [("fixed total", "fixed")]
            + [("random", name) for name in self.components]
            + [("residual", "residual")]
        )
        variance = np.column_stack([self.fixed, self.fixed_total, self.random, self.residual])
        return pd.DataFrame(
            {
                "gene": np.tile(np.asarray(self.genes, dtype=object), len(parts)),
                "part": np.repeat(np.array([part for part, _ in parts], dtype=object), G),
                "term": np.repeat(np.array([term for _, term in parts], dtype=object), G),
                "variance": variance.T.ravel(),
                "fraction": (variance / self.total[:, None]).T.ravel(),
                "status": np.tile(self.status, len(parts)),
            }
        )

    def r2_to_frame(self) -> pd.DataFrame:
        """One row per gene: gene, r2_marginal, r2_conditional, status."""
        names = ("r2_marginal", "r2_conditional", "status")
        return pd.DataFrame(
            {"gene": np.asarray(self.genes, dtype=object)} | {n: getattr(self, n) for n in names}
        )

    def __repr__(self) -> str:
        return (
            f"VarianceExplained({len(self.genes)} genes: fixed {', '.join(self.terms)}; random "
            f"{', '.join(self.components)})"
        )


def variance_explained(
    fit: LMMFit, terms: Mapping[str, Sequence[str]] | None = None
) -> VarianceExplained:
    """Divide the variance of the cells among the parts of the model.

    Parameters
    ----------
    fit : LMMFit
        The fitted models.
    terms : mapping of str to sequence of str, optional
        Names of fixed parts and the coefficients that each holds; by default the terms of the
        formula, or each coefficient where the design is a matrix. The intercept explains nothing
        and is left out.

    Returns
    -------
    VarianceExplained
        `to_frame()` makes it tidy.

    Raises
    ------
    InputError
        A coefficient that is not in the fit, or statistics without the sums of X and Z.

    Notes
    -----
    With centred cross-products G = X'X - X'11'X/n, a term j explains β_j'G_jj β_j/(n - 1), all
    fixed effects β'Gβ/(n - 1), and component k σ²_k (tr Z_k'Z_k - |Z_k'1|²/n)/(n - 1). Nakagawa's
    R² takes σ²_k tr(Z_k'Z_k)/n for it, as Johnson (2014) does for slopes. All are plug-in values:
    the variance of Xβ̂ holds the estimation error of β̂ too, which few subjects make large.
    """
    stats = fit.stats
    if stats.X_sum is None or stats.Z_sum is None:
        raise InputError(
            "variance_explained needs the column sums of X and Z (X_sum, Z_sum), which these "
            "statistics do not have; make them with summary_statistics_from_matrices."
        )
    groups = _term_positions(fit, terms)
    n = stats.n_cells
    beta = np.where(fit.estimable, fit.coef, 0.0)
    beta[~fit.fitted] = np.nan
    gram = stats.XtX - np.outer(stats.X_sum, stats.X_sum) / n

    def explained(columns: list[int]) -> np.ndarray:
        part = beta[:, columns]
        return np.einsum("gp,pq,gq->g", part, gram[np.ix_(columns, columns)], part) / (n - 1)

    theta = np.where(fit.fitted[:, None], np.maximum(fit.theta, 0.0), np.nan)
    starts = np.cumsum((0, *stats.component_sizes[:-1]))
    diagonals = _mean_diagonals(stats)
    centred = diagonals * n - np.add.reduceat(stats.Z_sum**2, starts) / n
    total = explained(list(range(beta.shape[1])))
    random = theta[:, :-1] @ diagonals
    whole = total + random + theta[:, -1]
    return VarianceExplained(
        fixed=np.column_stack([explained(columns) for columns in groups.values()])
        if groups
        else np.empty((fit.n_genes, 0)),
        fixed_total=total,
        random=theta[:, :-1] * centred / (n - 1),
        residual=theta[:, -1],
        r2_marginal=total / whole,
        r2_conditional=(total + random) / whole,
        status=fit.status,
        genes=fit.genes,
        terms=tuple(groups),
        components=fit.components[:-1],
    )


def _term_positions(fit: LMMFit, terms: Mapping[str, Sequence[str]] | None) -> dict[str, list[int]]:
    """Columns of X of each fixed term, in the order of the design."""
    if terms is not None:
        return {name: _coefficient_positions(fit, name, held) for name, held in terms.items()}
    found: dict[str, list[int]] = {}
    for j, term in enumerate(fit.stats.coefficient_terms or fit.coefficients):
        if term not in ("1", "Intercept", "(Intercept)"):
            found.setdefault(term, []).append(j)
    return found


def _coefficient_positions(fit: LMMFit, term: str, held: Sequence[str]) -> list[int]:
    names = [held] if isinstance(held, str) else list(held)
    unknown = [name for name in names if name not in fit.coefficients]
    if unknown or not names:
        raise InputError(
            f"terms: {term!r} names {', '.join(map(repr, unknown)) or 'no coefficient'}; the "
            f"coefficients are {list(fit.coefficients)}."
        )
    return [fit.coefficients.index(name) for name in names]
