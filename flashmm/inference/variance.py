"""Tests and intervals of variance components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
from scipy import special

from flashmm.inference.adjustment import adjust_columns
from flashmm.inference.explained import mean_diagonals
from flashmm.inference.model_fit import covariance_pairs
from flashmm.inference.tidy import tidy
from flashmm.inference.variance_likelihood import (
    exact_tests,
    likelihood_ratio_tests,
    normal_quantile,
    profiles,
)
from flashmm.inference.variance_plan import VariancePlan
from flashmm.kernels import variance_tests as kernels
from flashmm.kernels.threads import single_blas_thread
from flashmm.lmm import LMMFit
from flashmm.options import InputError, Status, check_seed, checked
from flashmm.shown import Shown


@dataclass(frozen=True, eq=False)
class VarianceTable(Shown):
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
        Its p-value by the boundary mixture ½χ²₀ + ½χ²₁ (χ²₁ where the fit may be negative, and of
        a covariance; one degree more of a variance that goes with its covariance), that adjusted
        per component by Benjamini-Hochberg, and that of the plain χ².
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
    covariances : tuple of str
        The components that are covariances of random effects: they have no sd.
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
    covariances: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """One row per component and gene.

        Returns
        -------
        pandas.DataFrame
            Columns gene, component, variance, sd (NaN where there is none), and what was
            asked for; an interval is two columns, such as variance_profile_low and _high.
            Components one after another, genes in their order.
        """
        columns: dict[str, np.ndarray] = {}
        for field in fields(self):
            values = getattr(self, field.name)
            if not isinstance(values, np.ndarray):
                continue
            if values.ndim == 2:
                columns[field.name] = values
            else:
                for side, name in enumerate(("low", "high")):
                    columns[f"{field.name}_{name}"] = values[:, :, side]
            if field.name == "variance":
                variance = (values >= 0) & ~np.isin(self.components, self.covariances)
                columns["sd"] = np.sqrt(np.where(variance, values, np.nan))
        columns["status"] = columns.pop("status")
        return pd.DataFrame(tidy(self.genes, {"component": self.components}, columns))

    def __repr__(self) -> str:
        asked = [f.name for f in fields(self) if f.name.startswith("p_")]
        asked = [name for name in asked if getattr(self, name) is not None]
        return (
            f"VarianceTable({len(self.genes)} genes × {', '.join(self.components)}; "
            f"{', '.join(asked) or 'no tests'})"
        )


@checked
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

    Without a variance its covariance with another random effect is zero, too: the null is
    ½χ²₁ + ½χ²₂ (Stram & Lee 1994); that of the covariance alone is χ²₁.
    """
    plan = VariancePlan.of(fit, components, tests, intervals, level)
    if n_simulations < 100:
        raise InputError(f"n_simulations must be at least 100; found {n_simulations}.")
    check_seed(seed)
    rows = _rows_of(fit, genes)
    wanted = np.isin(np.arange(fit.n_genes), rows) & fit.fitted
    with single_blas_thread():
        values = _estimates(fit, wanted, plan.level if "wald" in plan.intervals else None)
        if "lrt" in plan.tests or "rlrt" in plan.tests:
            values |= likelihood_ratio_tests(fit, plan, wanted, n_simulations, seed)
        if "z" in plan.tests:
            values |= _z_tests(fit, values["std_error"])
        if "f" in plan.tests or "exact" in plan.intervals:
            values |= exact_tests(fit, plan, wanted)
        if "profile" in plan.intervals:
            values |= profiles(fit, plan, wanted, values["std_error"])
    values["status"] = _row_status(fit, wanted, values)
    chosen = {name: array[rows][:, plan.positions] for name, array in values.items()}
    if "p_lrt" in chosen:
        chosen["adj_p_lrt"] = adjust_columns(chosen["p_lrt"])
    return VarianceTable(
        **chosen,
        genes=fit.genes[rows],
        components=tuple(fit.components[k] for k in plan.positions),
        level=level,
        covariances=tuple(fit.components[k] for k in plan.positions if _covariances(fit)[k]),
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


def _estimates(fit: LMMFit, wanted: np.ndarray, wald: float | None) -> dict[str, np.ndarray]:
    """Components, shares, standard errors and, where a level is given, Wald intervals."""
    blank = np.full(fit.theta.shape, np.nan)
    values = {"variance": fit.theta.copy()}
    names = ("std_error", "share", "share_std_error")
    values |= {name: blank.copy() for name in names}
    theta, cov = fit.theta[wanted], fit.theta_cov[wanted]
    shares = kernels.variance_shares(theta, cov, np.append(mean_diagonals(fit.stats), 1.0))
    std_error = np.sqrt(np.einsum("gkk->gk", cov))
    for name, found in zip(names, (std_error, *shares), strict=True):
        values[name][wanted] = found
    if wald is None:
        return values
    for name, error, top in (("variance", "std_error", np.inf), ("share", "share_std_error", 1.0)):
        half = normal_quantile(wald) * values[error]
        limits = np.stack([values[name] - half, values[name] + half], axis=2)
        bounded = fit.options.nonnegative & ~_covariances(fit)
        values[f"{name}_wald"] = np.clip(limits, np.where(bounded, 0.0, -np.inf)[:, None], top)
    return values


def _covariances(fit: LMMFit) -> np.ndarray:
    """Components that are a covariance, (K+1,) bool."""
    return np.isin(np.arange(len(fit.components)), [p.covariance for p in covariance_pairs(fit)])


def _z_tests(fit: LMMFit, std_error: np.ndarray) -> dict[str, np.ndarray]:
    """Test σ̂²_k / se by P(N > z); the residual is not tested."""
    with np.errstate(divide="ignore", invalid="ignore"):
        z = fit.theta / std_error
    z[:, -1] = np.nan
    p = special.ndtr(-z)
    for pair in covariance_pairs(fit):
        p[:, pair.covariance] = 2 * special.ndtr(-np.abs(z[:, pair.covariance]))
    return {"z": z, "p_z": p}
