"""Models between subjects from the groups of a data set, as tidy tables.

The kinship model is fitted per cell type and gene, the multi-trait model per gene with one trait
per cell type (`flashmm.subject_rows` makes the traits).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flashmm.design.columns import FixedDesign
from flashmm.design.contrasts import resolve_contrasts
from flashmm.inference.adjustment import adjust_p_values
from flashmm.inference.table import frame_columns
from flashmm.inference.testing import contrast_tests
from flashmm.kernels.tails import boundary_tail
from flashmm.kinship.data import KinshipFactor, kinship_root
from flashmm.kinship.fit import KinshipFit, fit_kinship_lmm
from flashmm.kinship.rotation import rotate_by_kinship
from flashmm.multitrait.fit import MultiTraitFit, fit_multitrait_lmm
from flashmm.names import did_you_mean, listed
from flashmm.options import (
    DesignError,
    FlashmmError,
    FlashmmWarning,
    InputError,
    Status,
    checked,
    note,
)
from flashmm.subject_level.means import SubjectMeans

# Genes and cell types whose likelihood profiles are kept for a figure.
PROFILES = 6
INTERCEPT = "Intercept"


@dataclass(frozen=True, eq=False)
class SubjectKinship:
    """Kinship models of every cell type and gene.

    Attributes
    ----------
    heritability : DataFrame
        cell_type, gene, and the columns of `KinshipFit.to_frame`, with p_value and adj_p_value of
        h² = 0 (likelihood ratio, ½χ²₀ + ½χ²₁; adjusted within the cell type).
    tests : DataFrame
        cell_type, and the columns of `TestTable.to_frame`, adjusted within cell type and contrast.
    profiles : DataFrame
        cell_type, gene, trait, h2, loglik of those with the smallest p-values.
    notes : tuple of str
        What was decided for the user.
    """

    heritability: pd.DataFrame
    tests: pd.DataFrame
    profiles: pd.DataFrame
    notes: tuple[str, ...]


@checked
def kinship_by_trait(
    means: SubjectMeans,
    K: pd.DataFrame | KinshipFactor,
    formula: str = "~ 1",
    *,
    method: str = "REML",
    contrasts: str | Sequence[str] | None = None,
    scale: bool = True,
) -> SubjectKinship:
    """Fit the kinship model to every trait (cell type) and gene.

    Parameters
    ----------
    means : SubjectMeans
        Of `subject_means`.
    K : DataFrame or KinshipFactor
        Kinship of the subjects, matched by name.
    formula : str
        Covariates of the subjects.
    method : {"REML", "ML"}
        Which likelihood.
    contrasts : str or sequence of str, optional
        Columns (each coefficient whose term holds it), coefficients or expressions to test; every
        coefficient but the intercept by default.
    scale : bool
        Divide K by its mean diagonal.

    Returns
    -------
    SubjectKinship
        Heritabilities, tests, and a few profiles.

    Raises
    ------
    FlashmmError
        A formula, kinship or contrast that does not fit the subjects.
    """
    means, lost = _in_kinship(means, K.individuals if isinstance(K, KinshipFactor) else K.index)
    design = means.design(formula)
    S, T, G = means.values.shape
    names = [f"{gene} in {trait}" for trait in means.traits for gene in means.genes]
    Y = pd.DataFrame(means.values.reshape(S, T * G), index=means.subjects, columns=names)
    fit = fit_kinship_lmm(rotate_by_kinship(K, Y, design.X, scale=scale), method)
    labels = pd.DataFrame(
        {
            "cell_type": np.repeat(np.asarray(means.traits), G),
            "gene": np.tile(np.asarray(means.genes, dtype=object), T),
        }
    )
    table = heritability_table(fit)
    table.insert(len(table.columns) - 1, "adj_p_value", _adjusted(table, labels["cell_type"]))
    profiles = _profiles(fit, table, labels)
    return SubjectKinship(
        pd.concat([labels, table.drop(columns="trait")], axis=1),
        _tests(fit, labels, design, contrasts),
        profiles,
        tuple(dict.fromkeys((*means.notes, *lost, *design.notes, *fit.notes))),
    )


def heritability_table(fit: KinshipFit, level: float = 0.95) -> pd.DataFrame:
    """`KinshipFit.to_frame` with the p-value of h² = 0.

    Half of the likelihood ratio's null distribution lies at zero, the other half is χ²₁ (Self &
    Liang 1987), which is conservative where fewer than half of the estimates are.
    """
    table = fit.to_frame(level)
    drop = 2.0 * (fit.loglik - fit.profile_loglik(0.0)[:, 0])
    p = boundary_tail(np.where(fit.h2 == 0, 0.0, np.maximum(drop, 0.0)))
    table.insert(len(table.columns) - 1, "p_value", np.where(fit.fitted, p, np.nan))
    return table


def _adjusted(table: pd.DataFrame, *by: pd.Series) -> np.ndarray:
    """Benjamini-Hochberg adjusted p-values within the groups of some columns."""
    adjusted = np.full(len(table), np.nan)
    for rows in table.groupby(list(by), sort=False).indices.values():
        adjusted[rows] = adjust_p_values(table["p_value"].to_numpy()[rows])
    return adjusted


def _profiles(fit: KinshipFit, table: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Profiles of the smallest p-values."""
    # missing ones come last
    best = np.argsort(table["p_value"].to_numpy(), kind="stable")
    chosen = [i for i in best[:PROFILES] if fit.fitted[i]]
    if not chosen:
        return pd.DataFrame({name: [] for name in ("cell_type", "gene", "trait", "h2", "loglik")})
    frame = fit.profile_frame([str(table["trait"][i]) for i in chosen])
    named = labels.set_axis(table["trait"], axis=0).loc[frame["trait"]].reset_index(drop=True)
    return pd.concat([named, frame], axis=1)


def _tests(
    fit: KinshipFit,
    labels: pd.DataFrame,
    design: FixedDesign,
    contrasts: str | Sequence[str] | None,
) -> pd.DataFrame:
    """Tests of the covariates, led by the cell type; no rows where there are none."""
    others = [name for name in fit.coefficients if name != INTERCEPT]
    chosen = others if contrasts is None else contrasts
    if not chosen:
        return pd.DataFrame({n: [] for n in ("cell_type", "gene", "contrast", *frame_columns())})
    resolved = resolve_contrasts(chosen, fit.coefficients, design.coefficient_columns)
    frame = contrast_tests(fit, {c.name: c.matrix[0] for c in resolved}).to_frame()
    repeats = len(frame) // len(labels)
    frame.insert(0, "cell_type", np.tile(labels["cell_type"], repeats))
    frame["gene"] = np.tile(labels["gene"], repeats)
    frame["adj_p_value"] = _adjusted(frame, frame["cell_type"], frame["contrast"])
    return frame


# ---- several traits --------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SubjectTraits:
    """Multi-trait models of some genes.

    Attributes
    ----------
    fits : DataFrame
        gene, loglik, n_subjects, n_traits, rank, status, and reason: why there is no fit.
    effects : DataFrame
        gene, cell_type, coefficient, estimate, std_error.
    covariances : DataFrame
        gene, cell_type, other, C0, C1 and the correlations they make; a pair of cell types (one
        with itself included) per row, and on the diagonal the heritability, the share of GG'.
    notes : tuple of str
        What was decided for the user.
    """

    fits: pd.DataFrame
    effects: pd.DataFrame
    covariances: pd.DataFrame
    notes: tuple[str, ...]


def indicators(column: pd.Series) -> KinshipFactor:
    """Factor G of subjects that share a level: GG' is one within a family, batch or site."""
    missing = int(column.isna().sum())
    if missing:
        raise InputError(f"column {column.name!r} is missing for {missing} subjects.")
    table = pd.get_dummies(column.astype(str), dtype=np.float64)
    return KinshipFactor(table.to_numpy(), pd.Index(column.index, dtype=object))


@checked
def multitrait_by_gene(
    means: SubjectMeans,
    K: pd.DataFrame | KinshipFactor,
    genes: Sequence[str],
    formula: str = "~ 1",
    *,
    rank: int = 1,
    method: str = "REML",
) -> SubjectTraits:
    """Fit the multi-trait model to some genes, one trait per cell type.

    Parameters
    ----------
    means : SubjectMeans
        Of `subject_means`; subjects without one of the traits are left out and counted.
    K : DataFrame or KinshipFactor
        Kinship of the subjects or its factor (`indicators`), matched by name.
    genes : sequence of str
        Names of the genes.
    formula : str
        Covariates of the subjects; each has an effect on every trait.
    rank : int
        Largest rank of C₀.
    method : {"REML", "ML"}
        Which likelihood.

    Returns
    -------
    SubjectTraits
        Tables of the fits, effects and covariances. A gene that cannot be fitted has a status and
        a reason.

    Raises
    ------
    FlashmmError
        Inputs that do not fit each other, or no gene can be fitted.
    """
    if not genes:
        raise InputError("genes is an empty list: give the name of at least one gene.")
    unknown = [gene for gene in genes if gene not in means.genes]
    if unknown:
        hint = did_you_mean(unknown[0], map(str, means.genes))
        raise InputError(f"genes: {listed(unknown)} not among the genes of the data set{hint}")
    factor = kinship_root(K)
    means, notes = _complete(means, factor)
    design = means.design(formula)
    assert factor.individuals is not None
    rows = pd.Index(factor.individuals).get_indexer(means.subjects)
    G = pd.DataFrame(factor.G[rows], index=means.subjects)
    tables = _Tables([], [], [])
    heard: list[str] = []
    for gene in genes:
        heard += _fit_gene(tables, gene, means.of_gene(gene), design.X, G, rank, method)
    if not any(row["status"] != Status.NOT_ESTIMABLE for row in tables.fits):
        raise DesignError(
            f"no gene can be fitted (G is what makes subjects alike); {tables.fits[0]['reason']}"
        )
    notes += [*design.notes, *(note(text) for text in dict.fromkeys(heard))]
    return SubjectTraits(
        pd.DataFrame(tables.fits),
        pd.concat(tables.effects, ignore_index=True),
        pd.concat(tables.covariances, ignore_index=True),
        tuple(dict.fromkeys((*means.notes, *factor.notes, *notes))),
    )


def _in_kinship(
    means: SubjectMeans, individuals: Iterable[Any] | None
) -> tuple[SubjectMeans, list[str]]:
    """Subjects that the kinship knows; who was left out is said."""
    if individuals is None:
        raise InputError("the kinship has no names of individuals.")
    names = pd.Index(individuals).astype(str)
    related = means.subjects.isin(names)
    if not related.any():
        raise InputError(
            f"no subject is in the kinship: subjects are named {listed(means.subjects, 3)}, the "
            f"individuals of the kinship {listed(names, 3)}."
        )
    if related.all():
        return means, []
    said = note(
        f"{(~related).sum()} of {len(related)} subjects are not in the kinship and were left "
        f"out: {listed(means.subjects[~related])}."
    )
    return means.take(related), [said]


def _complete(means: SubjectMeans, factor: KinshipFactor) -> tuple[SubjectMeans, list[str]]:
    """Subjects with all traits and a row in the factor; what was left out is said."""
    means, notes = _in_kinship(means, factor.individuals)
    everything = np.isfinite(means.values[:, :, 0]).all(1)
    if not everything.any():
        raise DesignError(
            f"no subject has a mean of every {means.trait}: choose fewer with traits=[...], or "
            "lower min_cells."
        )
    if not everything.all():
        said = (
            f"{(~everything).sum()} of {len(everything)} subjects lack a {means.trait} and were "
            f"left out: {listed(means.subjects[~everything])}."
        )
        notes.append(note(said))
    return means.take(everything), notes


@dataclass(frozen=True, eq=False)
class _Tables:
    fits: list[dict[str, Any]]
    effects: list[pd.DataFrame]
    covariances: list[pd.DataFrame]


def _fit_gene(
    tables: _Tables,
    gene: str,
    Y: pd.DataFrame,
    X: pd.DataFrame,
    G: pd.DataFrame,
    rank: int,
    method: str,
) -> list[str]:
    """Add a gene to the tables; what the fit said is returned, to be said once for all genes."""
    row = {"gene": gene, "loglik": np.nan, "n_subjects": len(Y), "n_traits": Y.shape[1]}
    row |= {"rank": rank, "status": str(Status.NOT_ESTIMABLE), "reason": ""}
    tables.fits.append(row)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FlashmmWarning)
            fit = fit_multitrait_lmm(Y, X, G, rank=rank, method=method)
    except FlashmmError as error:
        row["reason"] = str(error)
        return []
    row |= {"loglik": fit.loglik, "status": fit.status}
    effects = fit.to_frame().rename(
        columns={"covariate": "coefficient", "trait_effect": "cell_type"}
    )
    effects = effects[["cell_type", "coefficient", "estimate", "std_error"]]
    for frame, found in ((tables.effects, effects), (tables.covariances, covariance_table(fit))):
        found.insert(0, "gene", gene)
        frame.append(found)
    return list(fit.notes)


def covariance_table(fit: MultiTraitFit) -> pd.DataFrame:
    """C₀ and C₁ of a fit as a tidy table, a pair of traits per row.

    Returns
    -------
    DataFrame
        cell_type, other, C0, C1, correlation0, correlation1 (NaN where a trait has no variance),
        heritability (on the diagonal, NaN elsewhere).
    """
    i, j = np.triu_indices(len(fit.traits))
    names = np.array(fit.traits, dtype=object)
    columns: dict[str, Any] = {"cell_type": names[i], "other": names[j]}
    for number, C in enumerate((fit.C0, fit.C1)):
        sd = np.sqrt(np.diag(C))
        columns[f"C{number}"] = C[i, j]
        with np.errstate(divide="ignore", invalid="ignore"):
            columns[f"correlation{number}"] = C[i, j] / (sd[i] * sd[j])
    columns["heritability"] = np.where(i == j, fit.heritability[i], np.nan)
    order = ("cell_type", "other", "C0", "C1", "correlation0", "correlation1", "heritability")
    return pd.DataFrame({name: columns[name] for name in order})


def most_significant(tests: pd.DataFrame, n: int) -> list[str]:
    """Return the `n` genes with the smallest p-value of any contrast of a table of tests."""
    best = tests.groupby("gene", sort=False)["log10_p"].min().dropna()
    return [str(name) for name in best.nsmallest(n).index]
