"""Rotate traits and covariates by a kinship matrix, each pattern of missing values once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flashmm.design.centring import centred, centring_of_cells, independent, of_centred
from flashmm.kernels.kinship import (
    KinshipDesign,
    KinshipTraits,
    rotate_factor,
    rotate_matrix,
    rotate_traits,
)
from flashmm.kernels.threads import single_blas_thread
from flashmm.kinship.data import (
    Matching,
    Table,
    match_individuals,
    nonnegative_kinship,
    read_kinship,
    scale_of,
)
from flashmm.names import first_of
from flashmm.options import DesignError, InputError, Status, checked, note
from flashmm.shown import Shown

# Patterns of missing values above which the cost of rotating each is said.
MANY_PATTERNS = 50


@dataclass(frozen=True, eq=False)
class KinshipBlock:
    """Traits that have values for the same individuals.

    Attributes
    ----------
    traits : (block,) int array
        Which traits.
    rows : (n,) int array
        Which individuals.
    kept : (p,) bool array
        Coefficients that can be estimated from these individuals.
    design : KinshipDesign
        K and X of the individuals, rotated.
    data : KinshipTraits
        The traits, rotated.
    centring : (p, p) array or None
        C: the design is that of X - XC (`flashmm.design.centring`).
    """

    traits: np.ndarray
    rows: np.ndarray
    kept: np.ndarray
    design: KinshipDesign
    data: KinshipTraits
    centring: np.ndarray | None = None

    def coefficients(self, values: np.ndarray) -> np.ndarray:
        """Coefficients of the kept columns of X, (traits, kept), from those of the design."""
        if self.centring is None:
            return values
        return values @ self.contrasts(np.eye(len(self.kept))[self.kept])

    def covariance(self, values: np.ndarray) -> np.ndarray:
        """The same of covariances, (traits, kept, kept)."""
        if self.centring is None:
            return values
        rows = self.contrasts(np.eye(len(self.kept))[self.kept])
        return rows.T @ values @ rows

    def contrasts(self, rows: np.ndarray) -> np.ndarray:
        """Contrasts (C, p) of X as those of the columns of the design, (kept, C)."""
        return of_centred(rows, self.centring)[:, self.kept].T


@dataclass(frozen=True, eq=False)
class KinshipRotation(Shown):
    """Traits and covariates in the eigenvectors of the kinship; what `fit_kinship_lmm` takes.

    Attributes
    ----------
    blocks : tuple of KinshipBlock
        One per pattern of missing values that leaves something to fit.
    individuals : pandas.Index
        Individuals in use.
    traits : pandas.Index
        Names of the traits.
    coefficients : tuple of str
        Names of the columns of X.
    aliased : tuple of str
        Columns of X that are linear combinations of others.
    status : (traits,) array of str
        "ok", or why a trait cannot be fitted.
    n_values : (traits,) int array
        Individuals with a value.
    diagonal_scale : float
        What K was divided by.
    notes : tuple of str
        What was decided for the user.
    """

    blocks: tuple[KinshipBlock, ...]
    individuals: pd.Index
    traits: pd.Index
    coefficients: tuple[str, ...]
    aliased: tuple[str, ...]
    status: np.ndarray
    n_values: np.ndarray
    diagonal_scale: float
    notes: tuple[str, ...]

    @property
    def n_traits(self) -> int:
        """Number of traits."""
        return len(self.traits)

    def __repr__(self) -> str:
        return (
            f"KinshipRotation({self.n_traits} traits × {len(self.individuals)} individuals, "
            f"{len(self.coefficients)} coefficients, {len(self.blocks)} patterns of missing values)"
        )


@dataclass(frozen=True, eq=False)
class KinshipSource:
    """The kinship of the individuals in use.

    Attributes
    ----------
    values : (n, n) or (n, r) array
        K, or its factor G.
    is_factor : bool
        Which of the two.
    """

    values: np.ndarray
    is_factor: bool

    def rotate(self, rows: np.ndarray, X: np.ndarray) -> KinshipDesign:
        """Design of some of the individuals."""
        everyone = len(rows) == len(self.values)
        if self.is_factor:
            return rotate_factor(self.values if everyone else self.values[rows], X)
        return rotate_matrix(self.values if everyone else self.values[np.ix_(rows, rows)], X)


@checked
def rotate_by_kinship(
    K: Any, Y: Any, X: Any = None, *, G: Any = None, scale: bool = False
) -> KinshipRotation:
    """Rotate traits and covariates by the eigenvectors of a kinship matrix, once for all traits.

    Parameters
    ----------
    K : (individuals, individuals) array, DataFrame or KinshipFactor
        Kinship, or any other covariance between individuals; None where `G` is given. The names
        of a DataFrame are matched with those of Y and X.
    Y : (individuals, traits) array or DataFrame
        Traits such as expression of genes; NaN is a missing value.
    X : (individuals, p) array or DataFrame, optional
        Covariates, the intercept among them (nothing is added); None is an intercept alone.
        Individuals with a missing covariate are left out and counted.
    G : (individuals, r) array or DataFrame, optional
        Factor of K = GG' in place of K; costs individuals × r² instead of individuals³.
    scale : bool
        Divide K by its mean diagonal, so that h² is a share of the variance of an average
        individual.

    Returns
    -------
    KinshipRotation
        Traits grouped by the individuals that have a value, each group rotated once.

    Raises
    ------
    InputError
        Shapes or names that do not fit, values that are no finite numbers, or a K that is not a
        covariance matrix.
    DesignError
        Covariates that leave nothing, or a K that cannot be told apart from the identity.

    Notes
    -----
    The rotation is that of EMMA (Kang et al. 2008, Genetics 178:1709) and FaST-LMM (Lippert et al.
    2011, Nat. Methods 8:833): the eigenvectors of K after the covariates are projected out.
    """
    kinship, is_factor = read_kinship(K, G)
    traits = Table.of(Y, "Y")
    _check_traits(traits)
    covariates = None if X is None else Table.of(X, "X")
    tables = [t for t in (traits, covariates, kinship) if t is not None]
    matching, notes = _without_missing_covariates(match_individuals(tables), covariates)
    X_values = np.ones((len(matching.individuals), 1))
    if covariates is not None:
        X_values = covariates.values[matching.rows["X"]]
    source, divisor, said = _kinship_of(kinship, is_factor, matching, scale)
    y = traits.values[matching.rows["Y"]]
    return rotate_values(
        source,
        y,
        X_values,
        traits=traits.columns or tuple(f"trait{i + 1}" for i in range(y.shape[1])),
        coefficients=_coefficient_names(covariates),
        individuals=matching.individuals,
        divisor=divisor,
        notes=matching.notes + notes + said + _about_intercept(X_values),
    )


def rotate_values(
    source: KinshipSource,
    Y: np.ndarray,
    X: np.ndarray,
    *,
    traits: Sequence[str],
    coefficients: tuple[str, ...],
    individuals: pd.Index,
    divisor: float = 1.0,
    notes: tuple[str, ...] = (),
) -> KinshipRotation:
    """Rotate what is checked and matched.

    Parameters
    ----------
    source : KinshipSource
        Kinship of the individuals.
    Y : (individuals, traits) array
        Traits; NaN is a missing value.
    X : (individuals, p) array
        Covariates without missing values.
    traits, coefficients, individuals
        Names.
    divisor : float
        What K was divided by.
    notes : tuple of str
        What was said before.

    Returns
    -------
    KinshipRotation
        As of `rotate_by_kinship`.

    Raises
    ------
    DesignError
        Covariates that leave nothing, or a K that cannot be told apart from the identity.
    """
    centring = centring_of_cells(X)
    X = centred(X, centring.matrix)
    aliased = _aliased(X, coefficients, centring.matrix)
    notes += (*centring.notes(coefficients), *_about_aliased(coefficients, aliased))
    with single_blas_thread():
        blocks, status, more = _rotate_patterns(source, Y, X, coefficients, centring.matrix)
    return KinshipRotation(
        blocks=blocks,
        individuals=individuals,
        traits=pd.Index(traits, dtype=object),
        coefficients=coefficients,
        aliased=aliased,
        status=status,
        n_values=np.isfinite(Y).sum(0),
        diagonal_scale=divisor,
        notes=notes + more,
    )


def _check_traits(traits: Table) -> None:
    infinite = np.isinf(traits.values)
    if infinite.any():
        column = int(np.flatnonzero(infinite.any(0))[0])
        name = traits.columns[column] if traits.columns else f"column {column}"
        raise InputError(
            f"Y has {infinite.sum()} infinite values, the first in trait {name}: log of zero? "
            "Write missing values as NaN."
        )


def _without_missing_covariates(
    matching: Matching, covariates: Table | None
) -> tuple[Matching, tuple[str, ...]]:
    """Leave out individuals with a missing covariate."""
    if covariates is None:
        return matching, ()
    values = covariates.values[matching.rows["X"]]
    if np.isinf(values).any():
        raise InputError(f"X has {np.isinf(values).sum()} infinite values.")
    fine = ~np.isnan(values).any(1)
    if fine.all():
        return matching, ()
    if not fine.any():
        raise InputError("X: every individual has a missing covariate.")
    text = note(
        f"{(~fine).sum()} of {len(fine)} individuals have a missing covariate and were left out: "
        f"{first_of(matching.individuals[~fine])}."
    )
    rows = {name: index[fine] for name, index in matching.rows.items()}
    return Matching(rows, matching.individuals[fine], matching.notes), (text,)


def _kinship_of(
    kinship: Table, is_factor: bool, matching: Matching, scale: bool
) -> tuple[KinshipSource, float, tuple[str, ...]]:
    """Kinship of the individuals in use, its divisor, and what is to be said."""
    rows = matching.rows[kinship.name]
    notes: tuple[str, ...] = ()
    if is_factor:
        G = kinship.values[rows]
        divisor, said = scale_of((G**2).sum(1), scale)
        G = G / np.sqrt(divisor)
        # a factor wider than K costs more than K
        wide = G.shape[1] >= len(G)
        return KinshipSource(G @ G.T if wide else G, not wide), divisor, said
    K, notes = nonnegative_kinship(kinship.values[np.ix_(rows, rows)])
    divisor, said = scale_of(np.diag(K), scale)
    return KinshipSource(K / divisor, False), divisor, notes + said


def _coefficient_names(covariates: Table | None) -> tuple[str, ...]:
    if covariates is None:
        return ("Intercept",)
    return covariates.columns or tuple(f"x{j + 1}" for j in range(covariates.values.shape[1]))


def _aliased(X: np.ndarray, names: tuple[str, ...], centring: np.ndarray | None) -> tuple[str, ...]:
    kept = independent(X.T @ X, centring)
    if not kept.any() or len(X) - kept.sum() < 2:
        raise DesignError(
            f"{len(X)} individuals and {kept.sum()} independent covariates leave nothing to "
            "estimate two variances from."
        )
    return tuple(name for name, k in zip(names, kept, strict=True) if not k)


def _about_aliased(names: tuple[str, ...], aliased: tuple[str, ...]) -> tuple[str, ...]:
    if not aliased:
        return ()
    return (
        note(
            f"{len(aliased)} of {len(names)} covariates are linear combinations of others and "
            f"were dropped: {first_of(aliased)}. Contrasts that need them are NaN."
        ),
    )


def _about_intercept(X: np.ndarray) -> tuple[str, ...]:
    ones = np.ones(len(X))
    left = ones - X @ np.linalg.lstsq(X, ones, rcond=None)[0]
    if left @ left <= 1e-8 * len(X):
        return ()
    return (note("X holds no intercept, and none is added: traits need mean zero."),)


def _rotate_patterns(
    source: KinshipSource,
    y: np.ndarray,
    X: np.ndarray,
    names: tuple[str, ...],
    centring: np.ndarray | None,
) -> tuple[tuple[KinshipBlock, ...], np.ndarray, tuple[str, ...]]:
    """Rotate every pattern of missing values once; a pattern that leaves nothing has a status."""
    present = ~np.isnan(y)
    patterns, which = _patterns(present)
    notes: tuple[str, ...] = ()
    if len(patterns) > MANY_PATTERNS:
        notes = (
            note(
                f"{y.shape[1]} traits have {len(patterns)} patterns of missing values, and each is "
                "rotated by itself, which takes its time; fewer patterns are faster."
            ),
        )
    status, blocks = np.full(y.shape[1], Status.OK, dtype=object), []
    for i, pattern in enumerate(patterns):
        traits, rows = np.flatnonzero(which == i), np.flatnonzero(pattern)
        kept = independent(X[rows].T @ X[rows], centring)
        if len(rows) - kept.sum() < 2 or not kept.any():
            status[traits] = Status.TOO_FEW_VALUES
            continue
        design = source.rotate(rows, X[np.ix_(rows, np.flatnonzero(kept))])
        if not design.identifiable:
            _refuse_whole(design, len(rows) == len(y))
            status[traits] = Status.NOT_IDENTIFIABLE
            continue
        part = y if len(traits) == y.shape[1] else y[:, traits]
        data = rotate_traits(design, part if len(rows) == len(y) else part[rows])
        blocks.append(KinshipBlock(traits, rows, kept, design, data, centring))
    said = _newly_aliased(blocks, independent(X.T @ X, centring), names)
    return tuple(blocks), status.astype(str), notes + said


def _patterns(present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct columns of `present` (individuals, traits) as rows, and which of them each is."""
    if present.all():
        return np.ones((1, len(present)), dtype=bool), np.zeros(present.shape[1], dtype=int)
    packed = np.packbits(present, axis=0).T
    _, first, which = np.unique(packed, axis=0, return_index=True, return_inverse=True)
    return present.T[first], which.reshape(-1)


def _refuse_whole(design: KinshipDesign, everyone: bool) -> None:
    if everyone:
        raise DesignError(
            "After the covariates K is a multiple of the identity (nobody is more related to one "
            "than to another), so genetic and residual variance cannot be told apart."
        )


def _newly_aliased(
    blocks: Sequence[KinshipBlock], whole: np.ndarray, names: tuple[str, ...]
) -> tuple[str, ...]:
    """Say which covariates do not vary among the individuals that have a value."""
    lost = {
        name: sum(len(block.traits) for block in blocks if whole[j] and not block.kept[j])
        for j, name in enumerate(names)
    }
    return tuple(
        note(
            f"Covariate {name!r} cannot be estimated for {count} traits: it does not vary freely "
            "among the individuals that have a value. Its coefficient is NaN there."
        )
        for name, count in lost.items()
        if count
    )
