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
from flashmm.inference.grouped_design import GroupedDesign
from flashmm.inference.model_fit import ModelFit
from flashmm.inference.random_space import Block, RandomSpace, random_blocks
from flashmm.inference.row_space import NOTHING, overlap, rank, row_space
from flashmm.inference.subjects import Subjects, groupings, require_groups, subjects_among


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
        return overlap(matrix / self.main._length, self._left_by(blocks))

    def partition(self, obs: pd.DataFrame, columns: tuple[str, ...]) -> Block:
        """Indicators of the levels that some columns of the groups have together."""
        if columns not in self._partitions:
            codes = obs.groupby(list(columns), observed=True).ngroup().to_numpy()
            self._partitions[columns] = Block.partition(codes)
        return self._partitions[columns]

    def _left_by(self, blocks: tuple[Block, ...]) -> np.ndarray:
        """Orthonormal rows that span those of X without its part in random effects."""
        if blocks not in self._spaces:
            left = RandomSpace.of(blocks).without(self.X)[0]
            self._spaces[blocks] = row_space(left / self.main._length)
        return self._spaces[blocks]

    @cached_property
    def _spaces(self) -> dict[tuple[Block, ...], np.ndarray]:
        """What has been found, by random effects: many contrasts are asked about the same."""
        return {}

    @cached_property
    def _partitions(self) -> dict[tuple[str, ...], Block]:
        """Partitions by some columns, one record of each."""
        return {}

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
        left, dimension = RandomSpace.of(blocks).without(self.X[rows])
        return float(dimension + rank(left, self.X[rows]))


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
    rows, scale, pivots = rows.astype(float), np.abs(rows).max(), 0
    for j in range(rows.shape[1]):
        pivot = pivots + int(np.abs(rows[pivots:, j]).argmax()) if pivots < len(rows) else -1
        if pivot < 0 or abs(rows[pivot, j]) <= NOTHING * scale:
            continue
        rows[[pivots, pivot]] = rows[[pivot, pivots]]
        rows[pivots] /= rows[pivots, j]
        others = np.arange(len(rows)) != pivots
        rows[others] -= rows[others, j, None] * rows[pivots]
        pivots += 1
    return rows[:pivots]
