"""Fixed effects over groups of cells, seen from one grouping: what it replicates, and who it needs.

On the groups whose kind of cells bears a contrast, with S the indicators of the levels,

    df = rank [X S] - rank X = levels + rank (I - S S⁺) X - rank X.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy import sparse

from flashmm.cells.groups import GroupStatistics
from flashmm.inference.row_space import NOTHING, centred, overlap, rank, row_space, triangle
from flashmm.inference.subjects import Subjects


@dataclass(frozen=True, eq=False)
class GroupedDesign:
    """Fixed effects over groups, seen from one grouping of them.

    Attributes
    ----------
    X : (groups, p) array
        Columns that are constant within groups; zero for aliased and for cell-level columns.
    subjects : Subjects
        The levels of the grouping.
    fixed : tuple of str
        The columns of the groups that the fixed effects hold, the grouping's own left out.
    varying : dict of str to (groups,) int array
        Those of them that vary within its levels, with the codes of their values.
    kind : (groups,) int array
        Codes of the values of these columns.
    """

    X: np.ndarray
    subjects: Subjects
    fixed: tuple[str, ...]
    varying: dict[str, np.ndarray]
    kind: np.ndarray

    @classmethod
    def of(
        cls, X: np.ndarray, subjects: Subjects, groups: GroupStatistics, fixed: frozenset[str]
    ) -> GroupedDesign:
        """Find the kinds of cells that the levels of a grouping have several of."""
        held = tuple(sorted(fixed - {subjects.column}))
        varying = {
            column: pd.factorize(groups.obs[column])[0]
            for column in held
            if subjects.vary(groups.obs[column])
        }
        kind = np.zeros(groups.n_groups, dtype=int)
        if varying:
            kind = groups.obs.groupby(list(varying), observed=True, sort=False).ngroup().to_numpy()
        return cls(X, subjects, held, varying, kind)

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
        return float(len(np.unique(subject)) + rank(centred(X, subject), X) - rank(X))

    def df(self, matrix: np.ndarray) -> float:
        """Degrees of freedom of a contrast that does not vary within the grouping."""
        kinds = tuple(self.kinds(matrix))
        if kinds not in self._counts:
            self._counts[kinds] = self._count(np.isin(self.kind, kinds))
        return self._counts[kinds]

    def varies_within(self, matrix: np.ndarray) -> bool:
        """Whether a combination of the rows has an estimate from differences within subjects."""
        # c'β can be estimated where c is in the row space of (I - SS⁺)X
        return overlap(matrix / self._length, self._within)

    def needed(self, matrix: np.ndarray) -> np.ndarray:
        """Levels, (some,) int, without any one of which a row of a contrast has no estimate."""
        directions = self._leaving
        if not directions:
            return np.empty(0, dtype=int)
        levels, null = (np.array(part) for part in zip(*directions, strict=True))
        weights = matrix / self._length
        lost = np.abs(weights @ null.T) > 1e-7 * np.abs(weights).max() * np.linalg.norm(
            null, axis=1
        )
        return np.unique(levels[lost.any(0)])

    @cached_property
    def _length(self) -> np.ndarray:
        """Lengths of the columns, one for empty ones."""
        length = np.sqrt((self.X**2).sum(0))
        return np.where(length > 0, length, 1.0)

    @cached_property
    def _sparse(self) -> sparse.csr_array:
        """X, of whose many levels a group has one."""
        return sparse.csr_array(self.X)

    @cached_property
    def _within(self) -> np.ndarray:
        """Orthonormal rows that span those of (I - SS⁺)X, columns at length one."""
        return row_space(centred(self.X, self.subjects.codes) / self._length)

    @cached_property
    def _inverse(self) -> np.ndarray:
        """(X'X)⁺."""
        inverse = np.linalg.pinv(triangle(self.X / self._length), rcond=NOTHING)
        return np.asarray((inverse @ inverse.T) / np.outer(self._length, self._length))

    @cached_property
    def _leaving(self) -> list[tuple[int, np.ndarray]]:
        """Levels, and directions v of coefficients that only their groups show: X₋ᵤv = 0 ≠ Xv.

        With X = QDV' they are VD⁻¹g, g the right singular vectors of Q's rows of the level with
        the singular value one.
        """
        Q, D, Vt = np.linalg.svd(self.X / self._length, full_matrices=False)
        kept = NOTHING * D.max(initial=0.0) < D
        Q, back = Q[:, kept], Vt[kept].T / D[kept]
        leverage = np.bincount(self.subjects.codes, (Q**2).sum(1))
        found = []
        for level in np.flatnonzero(leverage > 1 - NOTHING):
            _, values, vectors = np.linalg.svd(Q[self.subjects.codes == level], full_matrices=False)
            found += [(int(level), back @ g) for g in vectors[values > 1 - NOTHING]]
        return found

    def kinds(self, matrix: np.ndarray) -> np.ndarray:
        """Kinds of cells that bear the contrast: those in which X_j'w_j is not zero.

        w = X(X'X)⁺c are the least-squares weights of the contrast, so that Σ_j X_j'w_j = c over
        kinds j; looked at are the columns that the contrast names.
        """
        return self._bearing(matrix, self.kind)

    def support(self, matrix: np.ndarray) -> np.ndarray:
        """Groups whose cells bear a contrast and from which it can be estimated, (groups,) bool.

        Of each column that varies within subjects the levels that bear the contrast, where these
        are enough for an estimate: the T cells for an effect in T cells, and not its one arm.
        """
        rows = np.ones(len(self.X), dtype=bool)
        for codes in self.varying.values():
            fewer = rows & np.isin(codes, self._bearing(matrix, codes))
            if not self.needs(matrix, ~fewer):
                rows = fewer
        return rows

    def needs(self, matrix: np.ndarray, groups: np.ndarray) -> bool:
        """Whether a contrast has no estimate without some groups, (groups,) bool."""
        rows = row_space(self.X[~groups] / self._length)
        weights = matrix / self._length
        gap = weights - weights @ rows.T @ rows
        return bool((np.abs(gap) > 1e-7 * np.abs(weights).max()).any())

    def _bearing(self, matrix: np.ndarray, kind: np.ndarray) -> np.ndarray:
        named = (matrix != 0).any(0)
        weights = self._sparse @ (self._inverse @ matrix.T)
        parts = self.X[:, named, None] * weights[:, None, :]
        sums = np.zeros((kind.max() + 1, *parts.shape[1:]))
        np.add.at(sums, kind, parts)
        size = np.abs(sums).max((1, 2))
        return np.flatnonzero(size > 1e-7 * size.max())
