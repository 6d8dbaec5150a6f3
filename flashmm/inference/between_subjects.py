"""Degrees of freedom between subjects: how many subjects stand behind a contrast.

On the groups whose kind of cells bears the contrast, with S the indicators of subjects,

    df = rank [X S] - rank X = subjects + rank (I - S S⁺) X - rank X,

the dimensions that subjects add to the fixed effects (`docs/inference.md`, between subjects).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from flashmm.cells.groups import GroupStatistics
from flashmm.design.contrasts import Contrast
from flashmm.inference.model_fit import ModelFit
from flashmm.inference.subjects import Subjects, require_groups, subjects_of

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
    subjects : Subjects
        Who they are.
    kind : (groups,) int array
        Codes of the values of the fixed columns that vary within subjects.
    """

    X: np.ndarray
    usable: np.ndarray
    subjects: Subjects
    kind: np.ndarray

    @classmethod
    def of(cls, fit: ModelFit, subjects: Subjects | None = None) -> SubjectDesign | None:
        """Make it from the groups of a fit; None where it has none (matrices, kinship)."""
        subjects = subjects or subjects_of(fit.stats)
        if subjects is None:
            return None
        groups, design = require_groups(fit.stats, "Counting subjects")
        X, constant = _constant_columns(groups, design.fixed)
        usable = fit.estimable & constant
        held = frozenset().union(*design.coefficient_columns) & set(groups.obs.columns)
        varying = [c for c in sorted(held - {subjects.column}) if subjects.vary(groups.obs[c])]
        kind = np.zeros(groups.n_groups, dtype=int)
        if varying:
            kind = groups.obs.groupby(varying, observed=True, sort=False).ngroup().to_numpy()
        return cls(np.where(usable, X, 0.0), usable, subjects, kind)

    @cached_property
    def total_df(self) -> float:
        """Subjects minus the independent fixed directions that are constant within subjects."""
        return self._count(np.ones(len(self.X), dtype=bool))

    @cached_property
    def _counts(self) -> dict[tuple[int, ...], float]:
        """What has been counted, by the kinds of cells: many contrasts share theirs."""
        return {}

    def _count(self, rows: np.ndarray) -> float:
        """Rank [X S] - rank X over some of the groups."""
        subject, X = self.subjects.codes[rows], self.X[rows]
        return float(len(np.unique(subject)) + _rank(_centred(X, subject), X) - _rank(X))

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
        kinds = tuple(self._kinds(matrix))
        if kinds not in self._counts:
            self._counts[kinds] = self._count(np.isin(self.kind, kinds))
        return self._counts[kinds]

    def needs(self, matrix: np.ndarray, groups: np.ndarray) -> bool:
        """Whether a contrast has no estimate without some groups, (groups,) bool."""
        rows = _row_space(self.X[~groups] / self._length)
        weights = matrix / self._length
        gap = weights - weights @ rows.T @ rows
        return bool((np.abs(gap) > 1e-7 * np.abs(weights).max()).any())

    def jackknife_df(self, matrix: np.ndarray) -> float:
        """Degrees of freedom of variances from leaving out subjects.

        Those between subjects of the contrast, and of all of the design where it varies within
        them; for joint contrasts the fewest of any row. Rows are reduced to echelon form, which
        depends on their span only: effects in several kinds of cells become one per row.
        """
        own = np.array([self.between_df(row[None]) for row in _echelon(matrix)])
        return float(np.where(np.isnan(own), self.total_df, own).min())

    @cached_property
    def _length(self) -> np.ndarray:
        """Lengths of the columns, one for empty ones."""
        length = np.sqrt((self.X**2).sum(0))
        return np.where(length > 0, length, 1.0)

    @cached_property
    def _within(self) -> np.ndarray:
        """Orthonormal rows that span those of (I - SS⁺)X, columns at length one."""
        return _row_space(_centred(self.X, self.subjects.codes) / self._length)

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


def _constant_columns(groups: GroupStatistics, fixed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns of X at the means of the groups, (groups, p), and which are constant in them."""
    X, constant = fixed[0].copy(), np.ones(fixed.shape[2], dtype=bool)
    n = groups.moment(0, 0)
    for k in range(1, len(fixed)):
        mean, square = groups.moment(k, 0) / n, groups.moment(k, k) / n
        X += fixed[k] * mean[:, None]
        varies = square - mean**2 > NOTHING * square
        constant &= ~(fixed[k] != 0)[varies].any(0)
    return X, constant


def _echelon(rows: np.ndarray) -> np.ndarray:
    """Reduced row echelon form, without rows of zeros."""
    rows, scale, rank = rows.astype(float), np.abs(rows).max(), 0
    for j in range(rows.shape[1]):
        pivot = rank + int(np.abs(rows[rank:, j]).argmax()) if rank < len(rows) else -1
        if pivot < 0 or abs(rows[pivot, j]) <= NOTHING * scale:
            continue
        rows[[rank, pivot]] = rows[[pivot, rank]]
        rows[rank] /= rows[rank, j]
        others = np.arange(len(rows)) != rank
        rows[others] -= rows[others, j, None] * rows[rank]
        rank += 1
    return rows[:rank]


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
