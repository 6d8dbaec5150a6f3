"""Degrees of freedom between subjects: how many subjects stand behind a contrast.

On the groups whose kind of cells bears the contrast, with S the indicators of subjects,

    df = rank [X S] - rank X = subjects + rank (I - S S⁺) X - rank X,

the dimensions that subjects add to the fixed effects (`docs/methods.md`, between subjects).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from flashmm.contrasts import Contrast

if TYPE_CHECKING:
    from flashmm.inference import ModelFit

# Singular values below this part of the largest, and weights below this part of theirs, are zero.
NOTHING = 1e-9


@dataclass(frozen=True, eq=False)
class SubjectDesign:
    """Fixed effects over groups, and which subject and kind of cells each group is.

    Attributes
    ----------
    X : (groups, p) array
        Columns that are constant within groups; zero for aliased and for cell-level columns.
    usable : (p,) bool array
        Columns that are neither.
    subject : (groups,) int array
        Codes of the subjects.
    kind : (groups,) int array
        Codes of the values of the fixed columns that vary within subjects.
    name : str
        The column of the subjects.
    """

    X: np.ndarray
    usable: np.ndarray
    subject: np.ndarray
    kind: np.ndarray
    name: str

    @classmethod
    def of(cls, fit: ModelFit) -> SubjectDesign | None:
        """Make it from the groups of a fit; None where it has none (matrices, kinship)."""
        stats = fit.stats
        if stats is None or stats.design is None or stats.groups is None:
            return None
        design, obs = stats.design, stats.groups.obs
        name = design.random[0].columns[0]
        subject = pd.factorize(obs[name])[0]
        usable = fit.estimable & ~design.fixed[1:].any((0, 1))
        held = frozenset().union(*design.coefficient_columns) & set(obs.columns)
        varying = [c for c in sorted(held - {name}) if varies_within(subject, obs[c])]
        kind = np.zeros(len(obs), dtype=int)
        if varying:
            kind = obs.groupby(varying, observed=True, sort=False).ngroup().to_numpy()
        return cls(np.where(usable, design.fixed[0], 0.0), usable, subject, kind, name)

    def between_df(self, matrix: np.ndarray) -> float:
        """Degrees of freedom between subjects of a contrast.

        Parameters
        ----------
        matrix : (rows, p) array
            A contrast.

        Returns
        -------
        float
            Zero where no subjects are left over; NaN where (a row of) the contrast is not one
            between subjects: it can be estimated within them, or holds a cell-level column.
        """
        if matrix[:, ~self.usable].any() or self._varies_within(matrix):
            return np.nan
        rows = np.isin(self.kind, self._kinds(matrix))
        subject, X = self.subject[rows], self.X[rows]
        return float(len(np.unique(subject)) + _rank(_centred(X, subject), X) - _rank(X))

    @cached_property
    def _length(self) -> np.ndarray:
        """Lengths of the columns, one for empty ones."""
        length = np.sqrt((self.X**2).sum(0))
        return np.where(length > 0, length, 1.0)

    @cached_property
    def _within(self) -> np.ndarray:
        """Orthonormal rows that span those of (I - SS⁺)X, columns at length one."""
        return _row_space(_centred(self.X, self.subject) / self._length)

    @cached_property
    def _inverse(self) -> np.ndarray:
        """(X'X)⁺."""
        inverse = np.linalg.pinv(_triangle(self.X / self._length), rcond=NOTHING)
        return np.asarray((inverse @ inverse.T) / np.outer(self._length, self._length))

    def _varies_within(self, matrix: np.ndarray) -> bool:
        """Whether a combination of the rows has an estimate from differences within subjects."""
        # c'β can be estimated where c is in the row space of (I - SS⁺)X
        rows = _row_space(matrix / self._length)
        overlap = np.linalg.svd(rows @ self._within.T, compute_uv=False)
        return bool((overlap > 1 - NOTHING).any())

    def _kinds(self, matrix: np.ndarray) -> np.ndarray:
        """Kinds of cells that bear the contrast: those in which X_j'w_j is not zero.

        w = X(X'X)⁺c are the least-squares weights of the contrast, so that Σ_j X_j'w_j = c over
        kinds j; looked at are the columns that the contrast names.
        """
        named = (matrix != 0).any(0)
        weights = self.X @ (self._inverse @ matrix.T)
        parts = self.X[:, named, None] * weights[:, None, :]
        sums = np.zeros((self.kind.max() + 1, *parts.shape[1:]))
        np.add.at(sums, self.kind, parts)
        size = np.abs(sums).max((1, 2))
        return np.flatnonzero(size > 1e-7 * size.max())


def columns_of(fit: ModelFit, contrast: Contrast) -> frozenset[str]:
    """Data columns that the coefficients of a contrast hold."""
    columns = fit.coefficient_columns
    if not columns:
        return frozenset()
    used = np.flatnonzero((contrast.matrix != 0).any(0))
    return frozenset().union(*(columns[j] for j in used))


def varies_within(subject: np.ndarray, values: pd.Series) -> bool:
    """Whether a column of the groups has several values in one subject."""
    return bool((values.astype(object).groupby(subject).nunique() > 1).any())


def _centred(X: np.ndarray, subject: np.ndarray) -> np.ndarray:
    """X minus its mean over the groups of each subject."""
    codes = np.unique(subject, return_inverse=True)[1]
    sums = np.zeros((codes.max() + 1, X.shape[1]))
    np.add.at(sums, codes, X)
    return X - (sums / np.bincount(codes)[:, None])[codes]


def _rank(X: np.ndarray, scale: np.ndarray | None = None) -> int:
    """Rank with columns at the length that those of `scale` have."""
    length = np.sqrt(((X if scale is None else scale) ** 2).sum(0))
    values = np.linalg.svd(_triangle(X[:, length > 0] / length[length > 0]), compute_uv=False)
    return int((values > NOTHING).sum())


def _triangle(X: np.ndarray) -> np.ndarray:
    """R of X = QR, which has the rows' span and the singular values of X."""
    return np.asarray(np.linalg.qr(X, mode="r")) if len(X) > X.shape[1] else X


def _row_space(X: np.ndarray) -> np.ndarray:
    """Orthonormal rows that span the rows of X."""
    _, values, vectors = np.linalg.svd(_triangle(X), full_matrices=False)
    return vectors[values > NOTHING * max(values.max(initial=0.0), 1.0)]
