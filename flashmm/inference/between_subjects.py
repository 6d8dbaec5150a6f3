"""Degrees of freedom between subjects: how many subjects stand behind a contrast.

The unit of replication of a contrast is the coarsest random grouping within which it cannot be
estimated: its columns are constant there. On the groups whose kind of cells bears the contrast,
with S the indicators of the units,

    df = rank [X S] - rank X = units + rank (I - S S⁺) X - rank X,

the dimensions that units add to the fixed effects (`docs/inference.md`, between subjects).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from flashmm.cells.groups import GroupStatistics
from flashmm.design.contrasts import Contrast
from flashmm.inference.model_fit import ModelFit
from flashmm.inference.random_space import NOTHING, Block, RandomSpace, random_blocks
from flashmm.inference.subjects import Subjects, groupings, require_groups, subjects_among


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
        return float(len(np.unique(subject)) + _rank(_centred(X, subject), X) - _rank(X))

    def df(self, matrix: np.ndarray) -> float:
        """Degrees of freedom of a contrast that does not vary within the grouping."""
        kinds = tuple(self.kinds(matrix))
        if kinds not in self._counts:
            self._counts[kinds] = self._count(np.isin(self.kind, kinds))
        return self._counts[kinds]

    def varies_within(self, matrix: np.ndarray) -> bool:
        """Whether a combination of the rows has an estimate from differences within subjects."""
        # c'β can be estimated where c is in the row space of (I - SS⁺)X
        return _overlap(matrix / self._length, self._within)

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
    def _within(self) -> np.ndarray:
        """Orthonormal rows that span those of (I - SS⁺)X, columns at length one."""
        return _row_space(_centred(self.X, self.subjects.codes) / self._length)

    @cached_property
    def _inverse(self) -> np.ndarray:
        """(X'X)⁺."""
        inverse = np.linalg.pinv(_triangle(self.X / self._length), rcond=NOTHING)
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
        rows = _row_space(self.X[~groups] / self._length)
        weights = matrix / self._length
        gap = weights - weights @ rows.T @ rows
        return bool((np.abs(gap) > 1e-7 * np.abs(weights).max()).any())

    def _bearing(self, matrix: np.ndarray, kind: np.ndarray) -> np.ndarray:
        named = (matrix != 0).any(0)
        weights = self.X @ (self._inverse @ matrix.T)
        parts = self.X[:, named, None] * weights[:, None, :]
        sums = np.zeros((kind.max() + 1, *parts.shape[1:]))
        np.add.at(sums, kind, parts)
        size = np.abs(sums).max((1, 2))
        return np.flatnonzero(size > 1e-7 * size.max())


@dataclass(frozen=True, eq=False)
class SubjectDesign:
    """Fixed effects over groups, and the units that may replicate a contrast.

    Attributes
    ----------
    usable : (p,) bool array
        Columns of X that are neither aliased nor cell-level.
    views : tuple of GroupedDesign
        The design seen from each random grouping, the coarsest first.
    main : GroupedDesign
        That of the subjects.
    blocks : tuple of Block
        The random terms.
    """

    usable: np.ndarray
    views: tuple[GroupedDesign, ...]
    main: GroupedDesign
    blocks: tuple[Block, ...]

    @classmethod
    def of(cls, fit: ModelFit, subjects: Subjects | None = None) -> SubjectDesign | None:
        """Make it from the groups of a fit; None where it has none (matrices, kinship).

        `subjects`, where given, are the unit of all contrasts.
        """
        if fit.stats is None or fit.stats.source is None:
            return None
        groups, design = require_groups(fit.stats, "Counting subjects")
        X, constant = _constant_columns(groups, design.fixed)
        usable = fit.estimable & constant
        X = np.where(usable, X, 0.0)
        fixed = frozenset().union(*design.coefficient_columns) & set(groups.obs.columns)
        found = groupings(groups, design) if subjects is None else (subjects,)
        views = tuple(GroupedDesign.of(X, grouping, groups, fixed) for grouping in found)
        main = views[found.index(subjects_among(found, groups, design))]
        return cls(usable, views, main, random_blocks(design))

    @property
    def X(self) -> np.ndarray:
        """Fixed effects over groups, (groups, p)."""
        return self.main.X

    @property
    def subjects(self) -> Subjects:
        """The subjects of the design."""
        return self.main.subjects

    @property
    def total_df(self) -> float:
        """Subjects minus the independent fixed directions that are constant within subjects."""
        return self.main.total_df

    def of_groups(self, matrix: np.ndarray) -> bool:
        """Whether a contrast holds no column that varies between the cells of a group."""
        return not matrix[:, ~self.usable].any()

    def unit(self, matrix: np.ndarray) -> GroupedDesign | None:
        """The coarsest grouping within which a contrast cannot be estimated; None without one."""
        if not self.of_groups(matrix):
            return None
        return next((view for view in self.views if not view.varies_within(matrix)), None)

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
            between subjects: it can be estimated within them (or within sites, where subjects are
            of sites), or holds a cell-level column.
        """
        unit = self.unit(matrix)
        if unit is None or self._coarser(unit):
            return np.nan
        return unit.df(matrix)

    def within_df(self, matrix: np.ndarray) -> float:
        """Degrees of freedom of a contrast that varies within subjects.

        Rank [X C U] - rank [X C] on the groups that bear it, with U the coarsest random term in
        which it cannot be estimated and C those in which it can: pairs minus one.

        Returns
        -------
        float
            NaN where no random term holds the contrast, or it does not vary within subjects.
        """
        if not self.of_groups(matrix) or not self.main.varies_within(matrix):
            return np.nan
        inner = [self.varies_within(matrix, (block,)) for block in self.blocks]
        if all(inner):
            return np.nan
        rows = self.main.support(matrix)
        coarse = tuple(b.rows(rows) for b, inside in zip(self.blocks, inner, strict=True) if inside)
        unit = self.blocks[inner.index(False)].rows(rows)
        return self._rank_beside(rows, (*coarse, unit)) - self._rank_beside(rows, coarse)

    def cells_replicate(self, matrix: np.ndarray, beside: tuple[Block, ...] = ()) -> bool:
        """Whether a contrast can be estimated with all random effects (and `beside`) held."""
        return self.of_groups(matrix) and self.varies_within(matrix, (*self.blocks, *beside))

    def varies_within(self, matrix: np.ndarray, blocks: tuple[Block, ...]) -> bool:
        """Whether a combination of the rows can be estimated with some random effects held."""
        left = RandomSpace.of(blocks).without(self.X)[0]
        return _overlap(matrix / self.main._length, _row_space(left / self.main._length))

    def jackknife_df(self, matrix: np.ndarray) -> float:
        """Degrees of freedom of variances from leaving out subjects.

        Those between subjects of the contrast, and of all of the design where it varies within
        them; for joint contrasts the fewest of any row. Rows are reduced to echelon form, which
        depends on their span only: effects in several kinds of cells become one per row.
        """
        own = np.array([self.between_df(row[None]) for row in _echelon(matrix)])
        return float(np.where(np.isnan(own), self.total_df, own).min())

    def needed(self, matrix: np.ndarray) -> tuple[GroupedDesign, np.ndarray]:
        """The units of a contrast, or else the subjects, and those it has no estimate without."""
        view = self.unit(matrix) or self.main
        return view, view.needed(matrix) if self.of_groups(matrix) else np.empty(0, dtype=int)

    def _coarser(self, unit: GroupedDesign) -> bool:
        """Whether the levels of a random grouping hold several units each."""
        return any(unit.subjects.nested_in(view.subjects) for view in self.views)

    def _rank_beside(self, rows: np.ndarray, blocks: tuple[Block, ...]) -> float:
        """Rank [X Z] over some of the groups."""
        left, rank = RandomSpace.of(blocks).without(self.X[rows])
        return float(rank + _rank(left, self.X[rows]))


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


def _overlap(rows: np.ndarray, space: np.ndarray) -> bool:
    """Whether a combination of rows lies in the span of orthonormal rows."""
    cosines = np.linalg.svd(_row_space(rows) @ space.T, compute_uv=False)
    return bool((cosines > 1 - NOTHING).any())


def _row_space(X: np.ndarray) -> np.ndarray:
    """Orthonormal rows that span the rows of X."""
    _, values, vectors = np.linalg.svd(_triangle(X), full_matrices=False)
    return vectors[values > NOTHING * max(values.max(initial=0.0), 1.0)]
