"""Likelihood ratios, exact tests and profiles of variance components of a fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import special

from flashmm.design.derived import drop_component
from flashmm.inference.explained import mean_diagonals
from flashmm.inference.model_fit import covariance_pairs
from flashmm.inference.variance_plan import VariancePlan
from flashmm.kernels import variance_tests as kernels
from flashmm.kernels.engine import take
from flashmm.kernels.profile import profile_interval, ratio_interval
from flashmm.kernels.rotation import rotate_projection
from flashmm.kernels.spectral import SpectralEngine
from flashmm.kernels.tails import boundary_tail, chi2_tail
from flashmm.lmm import LMMFit, Model, log_likelihood, prepare

# Likelihood ratio (twice log-likelihood units) below zero that is rounding.
ROUNDING = 1e-6


def normal_quantile(level: float) -> float:
    """Normal quantile of a two-sided interval."""
    return float(special.ndtri(0.5 * (1 + level)))


def likelihood_ratio_tests(
    fit: LMMFit, plan: VariancePlan, wanted: np.ndarray, n_simulations: int, seed: int
) -> dict[str, np.ndarray]:
    """Likelihood ratio of each component that was asked for, and its p-values."""
    statistic = np.full(fit.theta.shape, np.nan)
    for k in plan.positions:
        if k < len(fit.components) - 1:
            statistic[:, k] = _likelihood_ratio(fit, k, wanted)
    plain, p = _tails(fit, statistic)
    values = {"lrt": statistic}
    if "lrt" in plan.tests:
        values |= {"p_lrt": p, "p_chi2": plain}
    if "rlrt" in plan.tests:
        null = kernels.simulated_null(_spectral(fit), n_simulations, seed)
        tail, error = kernels.simulated_tail(null, statistic)
        values |= {"p_rlrt": tail, "p_rlrt_error": error}
    return values


def _tails(fit: LMMFit, statistic: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """P-values of likelihood ratios (genes, K+1), plain and with the boundary.

    Without a variance its covariance is zero too: χ²₂, or ½χ²₁ + ½χ²₂ (Stram & Lee 1994). A
    covariance alone has no bound at zero: χ²₁.
    """
    plain = chi2_tail(statistic, 1)[0]
    p = boundary_tail(statistic) if fit.options.nonnegative else plain.copy()
    for pair in covariance_pairs(fit):
        both = list(pair[:2])
        two = chi2_tail(statistic[:, both], 2)[0]
        p[:, pair.covariance] = plain[:, pair.covariance]
        p[:, both] = (plain[:, both] + two) / 2 if fit.options.nonnegative else two
        plain[:, both] = two
    return plain, p


def _likelihood_ratio(fit: LMMFit, component: int, wanted: np.ndarray) -> np.ndarray:
    """-2 log L without a component + 2 log L with it, (genes,); NaN where one did not converge."""
    without = (
        _ordinary_loglik(fit, wanted)
        if len(_dropped(fit, component)) == len(fit.components) - 1
        else _reduced_loglik(fit, fit.components[component], wanted)
    )
    ratio = 2.0 * (fit.loglik - without)
    # a better fit without the component: the search with it has not found the optimum
    ratio[ratio < -ROUNDING] = np.nan
    at_bound = (fit.theta[:, component] == 0) & fit.options.nonnegative
    return np.where(
        wanted & ~np.isnan(ratio), np.where(at_bound, 0.0, np.maximum(ratio, 0)), np.nan
    )


def _dropped(fit: LMMFit, component: int) -> set[int]:
    """A component and the covariance that goes with it."""
    return {component} | {p.covariance for p in covariance_pairs(fit) if component in p}


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


def _spectral(fit: LMMFit) -> SpectralEngine:
    """The rotation of the model, in which the exact distributions are known."""
    engine, options = fit.model.engine, fit.options
    if isinstance(engine, SpectralEngine):
        return engine
    rotation = rotate_projection(fit.model.projection)
    return SpectralEngine.build(rotation, options.method == "REML", options.nonnegative)


def exact_tests(fit: LMMFit, plan: VariancePlan, wanted: np.ndarray) -> dict[str, np.ndarray]:
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
    part = gamma * mean_diagonals(fit.stats)[0]
    share = part / (1.0 + part)
    return np.stack([share, 1.0 - share[:, ::-1]], axis=1)


def profiles(
    fit: LMMFit, plan: VariancePlan, wanted: np.ndarray, std_error: np.ndarray
) -> dict[str, np.ndarray]:
    """Profile-likelihood intervals of the variances and, with one component, of the shares."""
    limits, shares = (np.full((*fit.theta.shape, 2), np.nan) for _ in range(2))
    quantile, m, engine = normal_quantile(plan.level), _likelihood_df(fit), fit.model.engine
    single = len(fit.components) == 2
    for index, genes in _block_genes(fit, fit.model, wanted):
        theta, errors = fit.theta[index], std_error[index]
        for k in plan.positions:
            limits[index, k] = profile_interval(engine, genes, theta, errors[:, k], m, k, quantile)
        if single:
            gamma = ratio_interval(engine, genes, theta, errors[:, 0], quantile)
            shares[index] = _share_limits(fit, gamma)
    return {"variance_profile": limits} | ({"share_profile": shares} if single else {})
