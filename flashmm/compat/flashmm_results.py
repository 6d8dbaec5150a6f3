"""Fits without bounds on the components, and their results in FLASHMM's words and orientation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from flashmm.compat.rlist import RList
from flashmm.design.statistics import SummaryStatistics
from flashmm.kernels.tails import t_tail
from flashmm.lmm import LMMFit, fit_lmm
from flashmm.options import FlashmmWarning, InputError, Status

METHODS = {"REML": "REML", "ML": "ML", "REML-FS": "REML", "ML-FS": "ML"}


# FLASHMM stops on a score below epsilon, our engine on a Newton decrement; epsilon = 1e-5, the
# default there, is tol = 1e-16, the default here.
TOL_PER_EPSILON_SQUARED = 1e-6


def fit_unbounded(
    stats: SummaryStatistics,
    theta0: Sequence[float] | None,
    method: str,
    max_iter: int,
    epsilon: float,
    output_cov: bool,
    output_FIM: bool,
    output_RE: bool,
    verbose: bool,
) -> RList:
    """Fit without bounds and put the results in FLASHMM's words."""
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}; found {method!r}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FlashmmWarning)
        fit = fit_lmm(
            stats,
            method=METHODS[method],
            nonnegative=False,
            start=theta0,
            max_iter=max_iter,
            tol=TOL_PER_EPSILON_SQUARED * epsilon**2,
        )
    _warn_zeros(fit)
    cov = fit.covariance(fit.optimised)
    result = RList(method=METHODS[method], epsilon=epsilon, status=pd.Series(fit.status, fit.genes))
    result |= _estimates(fit, cov) | _components(fit, METHODS[method])
    if output_cov:
        result["cov"] = np.moveaxis(cov, 0, -1)
    if output_FIM:
        result["FIM_beta"] = np.moveaxis(_inverse(cov), 0, -1)
        result["FIM_theta"] = np.moveaxis(fit.fisher_information, 0, -1)
    if output_RE:
        result["RE"] = pd.DataFrame(fit.blup().T, list(stats.Z_levels), fit.genes)
    if verbose:
        print(f"{(fit.status == Status.NOT_CONVERGED).sum()} feature(s) did not converge.")
    return result


def _warn_zeros(fit: LMMFit) -> None:
    zeros = int((fit.status == Status.ALL_ZERO).sum())
    if zeros:
        warnings.warn(f"{zeros} feature(s) with only zero counts!", FlashmmWarning, stacklevel=4)


def _estimates(fit: LMMFit, cov: np.ndarray) -> dict[str, Any]:
    """Coefficients, standard errors, t and p, each coefficients × genes."""
    with np.errstate(invalid="ignore", divide="ignore"):
        se = np.sqrt(np.einsum("gpp->gp", cov))
        t = fit.coef / se
    p, _ = t_tail(t, np.full(t.shape, float(fit.df_residual)), "two-sided")
    names = list(fit.coefficients)
    table = {"coef": fit.coef, "se": se, "t": t, "p": p}
    frames = {key: pd.DataFrame(value.T, names, fit.genes) for key, value in table.items()}
    return frames | {"df": fit.df_residual}


def _components(fit: LMMFit, method: str) -> dict[str, Any]:
    """Variance components and how the optimiser ended, each components × genes."""
    rows = [*fit.components[:-1], "var0"]
    with np.errstate(invalid="ignore"):
        se = np.sqrt(np.einsum("gkk->gk", fit.theta_cov))
    # FLASHMM's REML criterion has no log|X'X|
    shift = 0.5 * fit.model.projection.log_det_XtX if method == "REML" else 0.0
    return {
        "theta": pd.DataFrame(fit.theta.T, rows, fit.genes),
        "se_theta": pd.DataFrame(se.T, rows, fit.genes),
        "dlogL": pd.DataFrame(fit.score().T, rows, fit.genes),
        "logLik": pd.Series(fit.loglik + shift, fit.genes),
        "niter": pd.Series(fit.n_iter, fit.genes),
    }


def _inverse(cov: np.ndarray) -> np.ndarray:
    """Information of the fixed effects; NaN rows and columns of aliased ones stay NaN."""
    information = np.full(cov.shape, np.nan)
    for g, matrix in enumerate(cov):
        kept = np.flatnonzero(np.isfinite(np.diag(matrix)))
        if len(kept):
            information[g][np.ix_(kept, kept)] = np.linalg.inv(matrix[np.ix_(kept, kept)])
    return information
