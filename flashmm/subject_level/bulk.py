"""Bulk expression: tests between samples, and heritability where individuals are related.

A sample is one value of a gene. Where individuals have several samples, the variance between them
is a component of its own; where they have one, it is part of the residual, and only a kinship can
tell what of it is inherited.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from flashmm.cells.inspection import USUAL_NAMES
from flashmm.de import de
from flashmm.design.columns import fixed_design
from flashmm.design.contrasts import resolve_contrasts
from flashmm.design.differences import contrasts_of
from flashmm.inference.adjustment import adjust_p_values
from flashmm.inference.table import TestTable
from flashmm.inference.testing import contrast_tests
from flashmm.kernels import moderation, student
from flashmm.kernels.tails import t_tail
from flashmm.kinship.data import KinshipFactor
from flashmm.kinship.fit import KinshipFit, fit_kinship_lmm
from flashmm.kinship.rotation import rotate_by_kinship
from flashmm.names import did_you_mean, listed
from flashmm.options import DesignError, InputError, Status, checked, note
from flashmm.subject_level.models import heritability_table

# Residual variance, relative to the mean square, below which it is rounding only.
NOTHING = 1e-20
SAMPLE = "sample"


@checked
def bulk_tests(
    bulk: ad.AnnData,
    formula: str,
    contrasts: Any = None,
    *,
    individual: str | None = None,
    kinship: pd.DataFrame | KinshipFactor | None = None,
    reference: Mapping[str, Any] | None = None,
    moderate: bool = True,
    level: float = 0.95,
) -> TestTable:
    """Test differential expression between bulk samples.

    Parameters
    ----------
    bulk : AnnData (samples, genes)
        Of `flashmm.read_bulk`.
    formula : str
        One-sided formula of columns of obs, without random terms: "~ age + condition".
    contrasts : optional
        What to test, as in `contrast_tests`; every coefficient by default.
    individual : str, optional
        Column of obs that names the individuals; without it each sample is one.
    kinship : DataFrame or KinshipFactor, optional
        How the individuals are related; samples of one individual are averaged.
    reference : mapping of str to str, optional
        Reference level of some columns, ``{"condition": "ctrl"}``; by default the first one.
    moderate : bool
        Shrink the variances across genes, as limma does; not with a kinship.
    level : float
        Coverage of the confidence intervals.

    Returns
    -------
    TestTable
        Of the kinship model; of a mixed model with a random effect of individuals, where some have
        several samples; else of least squares, each gene by itself. The notes say which.

    Raises
    ------
    InputError, FormulaError, DesignError
        A column that there is not, a formula that cannot be read, or a design that leaves no
        degrees of freedom.
    """
    individual = _individual(bulk, individual)
    bulk = _with_reference(bulk, reference)
    if kinship is not None:
        fit, coefficient_columns = _kinship_fit(bulk, kinship, formula, individual, "REML")
        others = [c for c in fit.coefficients if c != "Intercept"] or None
        asked = others if contrasts is None else contrasts
        resolved = resolve_contrasts(asked, fit.coefficients, coefficient_columns)
        return contrast_tests(fit, {c.name: c.matrix.T for c in resolved}, level=level)
    if bulk.obs[individual].duplicated().any():
        model = f"{formula} + (1 | {individual})"
        return de(
            bulk,
            model,
            contrasts,
            transform="none",
            progress=False,
            moderate=moderate,
            level=level,
        )
    one = "Samples are taken as independent" if individual == SAMPLE else None
    said = note(
        f"{one or f'Each {individual} has one sample, its variance part of the residual'}: genes "
        f"are tested by least squares.{_repeated(bulk.obs) if one else ''}"
    )
    return _least_squares(bulk, formula, contrasts, moderate, level, said)


@checked
def heritability(
    bulk: ad.AnnData,
    kinship: pd.DataFrame | KinshipFactor | None,
    formula: str = "~ 1",
    *,
    individual: str | None = None,
    method: str = "REML",
    level: float = 0.95,
) -> pd.DataFrame:
    """Heritability of every gene, from bulk samples of individuals with a known kinship.

    Parameters
    ----------
    bulk : AnnData (samples, genes)
        Of `flashmm.read_bulk`; samples of one individual are averaged.
    kinship : DataFrame or KinshipFactor
        How the individuals are related, named as they are in `individual`
        (`flashmm.read_kinship_file`, `flashmm.kinship_factor`).
    formula : str
        Covariates of the individuals.
    individual : str, optional
        Column of obs that names them; without it each sample is one.
    method : {"REML", "ML"}
        Which likelihood.
    level : float
        Coverage of the intervals.

    Returns
    -------
    DataFrame
        A row per gene: `gene`, `h2` with its standard error and interval, the variances,
        `p_value` of h² = 0 (likelihood ratio), `adj_p_value`, `status`.

    Raises
    ------
    DesignError
        No kinship is given, without which there is no heritability.
    InputError, FormulaError
        Individuals that the kinship does not have, columns or formulas that do not fit.
    """
    individual = _individual(bulk, individual)
    if kinship is None:
        raise DesignError(_without_kinship(bulk, individual))
    fit, _ = _kinship_fit(bulk, kinship, formula, individual, method)
    table = heritability_table(fit, level).rename(columns={"trait": "gene"})
    adjusted = adjust_p_values(table["p_value"].to_numpy())
    table.insert(len(table.columns) - 1, "adj_p_value", adjusted)
    return table


def _individual(bulk: ad.AnnData, given: str | None) -> str:
    """The column that names the individuals."""
    if not isinstance(bulk, ad.AnnData):
        raise InputError(f"bulk is a {type(bulk).__name__}; read the table with read_bulk.")
    column = SAMPLE if given is None else given
    if column not in bulk.obs:
        raise InputError(
            f"individual={column!r} is not a column of obs{did_you_mean(column, bulk.obs)} It has "
            f"{listed(bulk.obs.columns, 40)}."
        )
    return column


def _repeated(obs: pd.DataFrame) -> str:
    """What to do where a column looks like one of individuals that have several samples."""
    names = {str(column).lower(): str(column) for column in obs if column != SAMPLE}
    for name in USUAL_NAMES["subject"]:
        column = names.get(name)
        if column is not None and 1 < (n := obs[column].nunique()) < len(obs):
            return (
                f" Column {column!r} has {n} levels for {len(obs)} samples: if it names the "
                f"individuals, their samples are not independent; say so (individual={column!r})."
            )
    return ""


def _with_reference(bulk: ad.AnnData, reference: Mapping[str, Any] | None) -> ad.AnnData:
    """The same samples with other first levels."""
    if not reference:
        return bulk
    obs = bulk.obs.copy()
    for column, level in reference.items():
        levels = list(pd.Categorical(obs[column]).categories) if column in obs else []
        if level not in levels:
            raise InputError(
                f"reference={{{column!r}: {level!r}}}: obs has no such level; there are "
                f"{listed(levels)}."
            )
        obs[column] = pd.Categorical(obs[column], [level, *(x for x in levels if x != level)])
    return ad.AnnData(bulk.X, obs=obs, var=bulk.var, uns=bulk.uns, layers=bulk.layers)


def _without_kinship(bulk: ad.AnnData, individual: str) -> str:
    if not bulk.obs[individual].duplicated().any():
        return (
            f"Heritability cannot be estimated from these {bulk.n_obs} samples alone: each "
            f"{individual} has one, so that the variance between individuals and that of the "
            "measurement are one number. Give kinship= (a matrix of their relatedness, from "
            "genotypes or a pedigree), which tells what of it related individuals share."
        )
    return (
        f"Heritability needs kinship= (a matrix of relatedness, from genotypes or a pedigree). "
        f"Without it, several samples of a {individual} give the repeatability, which heritability "
        "cannot exceed: the share of its component in flashmm.variance_tests of the mixed model."
    )


def _kinship_fit(
    bulk: ad.AnnData,
    kinship: pd.DataFrame | KinshipFactor,
    formula: str,
    individual: str,
    method: str,
) -> tuple[KinshipFit, tuple[frozenset[str], ...]]:
    """Fit the kinship model to the means of the individuals."""
    names = bulk.obs[individual].astype(str).to_numpy()
    values = pd.DataFrame(np.asarray(bulk.X), index=names, columns=bulk.var_names)
    obs = bulk.obs.set_axis(names, axis=0)
    if values.index.has_duplicates:
        note(f"Samples of one {individual} were averaged, and count as one.")
        values = values.groupby(level=0, sort=False).mean()
        constant = obs.groupby(level=0).nunique(dropna=False).max() <= 1
        obs = obs.loc[~obs.index.duplicated(), constant.index[constant]].loc[values.index]
    design = fixed_design(obs, formula, "individuals")
    fit = fit_kinship_lmm(rotate_by_kinship(kinship, values, design.X), method)
    return fit, design.coefficient_columns


@dataclass(frozen=True, eq=False)
class _Fit:
    """Least squares of every gene."""

    coef: np.ndarray
    inverse: np.ndarray
    variance: np.ndarray
    df: int


def _fitted(X: np.ndarray, Y: np.ndarray) -> _Fit:
    df = len(X) - X.shape[1]
    if np.linalg.matrix_rank(X) < X.shape[1]:
        raise DesignError("Columns of the model follow from others; take them out of the formula.")
    if df < 1:
        raise DesignError(
            f"{len(X)} samples for {X.shape[1]} coefficients leave no degrees of freedom."
        )
    # β̂ = (X'X)⁻¹X'y,  σ̂² = ‖y - Xβ̂‖² / (n - p)
    inverse = np.linalg.inv(X.T @ X)
    coef = inverse @ (X.T @ Y)
    squares = ((Y - X @ coef) ** 2).sum(0)
    variance = np.where(squares > NOTHING * (Y**2).sum(0), squares / df, np.nan)
    return _Fit(coef, inverse, variance, df)


def _least_squares(
    bulk: ad.AnnData, formula: str, contrasts: Any, moderate: bool, level: float, said: str
) -> TestTable:
    """Tests of single contrasts by the t distribution."""
    design = fixed_design(bulk.obs, formula, "samples")
    names = tuple(map(str, design.X.columns))
    others = [name for name in names if name != "Intercept"] or None
    asked = others if contrasts is None else contrasts
    resolved = contrasts_of(asked, names, design.coefficient_columns, None)
    joint = [c.name for c in resolved if len(c.matrix) > 1]
    if joint:
        raise InputError(f"contrasts: {listed(joint)} is a joint one; give single contrasts.")
    fit = _fitted(design.X.to_numpy(), np.asarray(bulk.X, dtype=np.float64))
    variance, df = fit.variance, np.full(bulk.n_vars, float(fit.df))
    prior = moderation.fit_prior(variance, df) if moderate else None
    if prior is not None:
        variance, df = moderation.posterior(variance, df, prior)
    C = np.array([c.matrix[0] for c in resolved])
    estimate = fit.coef.T @ C.T
    std_error = np.sqrt(variance[:, None] * np.einsum("ij,jk,ik->i", C, fit.inverse, C))
    each = np.broadcast_to(df[:, None], estimate.shape)
    statistic = estimate / std_error
    p, log10_p = t_tail(statistic, each, "two-sided")
    low, high = student.confidence_limits(estimate, std_error, each, level, "two-sided")
    n = len(resolved)
    prior_variance, prior_df = prior or (np.nan, np.nan)
    return TestTable(
        estimate=estimate,
        std_error=std_error,
        statistic=statistic,
        df=each,
        df_num=np.ones(n),
        conf_low=low,
        conf_high=high,
        p_value=p,
        log10_p=log10_p,
        adj_p_value=np.column_stack([adjust_p_values(column) for column in p.T]),
        status=_status(bulk, p),
        genes=bulk.var_names,
        contrasts=resolved,
        ddf="residual",
        alternative="two-sided",
        between_df=np.full(n, float(fit.df)),
        prior_df=np.full(n, prior_df),
        prior_variance=np.full(n, prior_variance),
        notes=(*bulk.uns.get("flashmm_bulk", {}).get("notes", ()), *design.notes, said),
        level=level,
    )


def _status(bulk: ad.AnnData, p: np.ndarray) -> np.ndarray:
    """Why a gene has no test, (genes, contrasts)."""
    stored = bulk.layers.get("values", bulk.X)
    zero = ~np.asarray(stored).any(axis=0)
    without = np.where(zero, str(Status.ALL_ZERO), str(Status.ZERO_VARIANCE))
    return np.where(np.isnan(p), without[:, None], str(Status.OK))
