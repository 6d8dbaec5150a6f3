"""Who the subjects of groups are: the units that a contrast is between or within.

Random terms part the groups into levels (lanes, sites, subjects, samples). A part is known by
which groups it holds; neither names nor the order of the terms matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd

from flashmm.cells.groups import GroupStatistics
from flashmm.design.columns import GroupDesign, RandomComponent
from flashmm.design.statistics import SummaryStatistics
from flashmm.options import InputError


@dataclass(frozen=True, eq=False)
class Subjects:
    """The subjects of the groups.

    Attributes
    ----------
    column : str
        The column of the groups that names them.
    names : pandas.Index
        (subjects,).
    codes : (groups,) int array
        The subject of each group.
    """

    column: str
    names: pd.Index
    codes: np.ndarray

    @classmethod
    def of(cls, groups: GroupStatistics, column: str) -> Subjects:
        """Subjects of a column, in the order of its levels."""
        codes, names = pd.factorize(groups.obs[column], sort=True)
        return cls(column, pd.Index(names), np.asarray(codes))

    @classmethod
    def by(cls, groups: GroupStatistics, columns: tuple[str, ...]) -> Subjects:
        """Levels of a random term: the combinations of one or several columns that occur."""
        if len(columns) == 1:
            return cls.of(groups, columns[0])
        codes = groups.obs.groupby(list(columns), observed=True).ngroup().to_numpy()
        rows = groups.obs[list(columns)].iloc[np.unique(codes, return_index=True)[1]]
        return cls(":".join(columns), pd.Index(rows.astype(str).agg(":".join, axis=1)), codes)

    def __len__(self) -> int:
        return len(self.names)

    def vary(self, values: pd.Series) -> bool:
        """Whether a column of the groups has several values in one subject."""
        value, levels = pd.factorize(values)
        known = value >= 0
        subject = self.codes[known]
        return len(np.unique(subject * len(levels) + value[known])) > len(np.unique(subject))

    def nested_in(self, other: Subjects) -> bool:
        """Whether each level lies in one level of a coarser grouping."""
        pairs = len(np.unique(self.codes * len(other) + other.codes))
        return len(other) < len(self) == pairs

    def hold(self, component: RandomComponent) -> bool:
        """Whether no level of a random term has cells of two subjects."""
        weights = [abs(w) for w in component.weights if w is not None]
        if not weights:  # a covariance of other terms
            return True
        group, level = cast(Any, sum(weights)).nonzero()
        pairs = np.unique(np.column_stack([level, self.codes[group]]), axis=0)
        return len(pairs) == len(np.unique(level))


def require_groups(
    stats: SummaryStatistics | None, what: str
) -> tuple[GroupStatistics, GroupDesign]:
    """The groups and the design behind statistics, or an InputError in words."""
    if stats is None or stats.source is None:
        raise InputError(
            f"{what} needs the groups of cells behind the fit, and this one was made from "
            "matrices, or without its groups. Fit from groups: summarise(...), then "
            "summary_statistics(groups, fixed, random)."
        )
    return stats.require_source()


def subjects_of(stats: SummaryStatistics | None) -> Subjects | None:
    """The subjects by the random terms, None where there are no groups."""
    if stats is None or stats.source is None:
        return None
    return subjects_among(groupings(*stats.require_source()), *stats.require_source())


def subject_column(groups: GroupStatistics, design: GroupDesign, factor: str | None = None) -> str:
    """The column that names the subjects, or the coarsest grouping in which a factor is constant.

    Where each column of the random terms has several values of the factor, it is the subjects'.
    """
    found = groupings(groups, design)
    single = [grouping for grouping in found if grouping.column in groups.obs]
    if factor in groups.obs:
        for grouping in single:
            if grouping.column != factor and not grouping.vary(groups.obs[factor]):
                return grouping.column
    return subjects_among(tuple(single), groups, design).column


def groupings(groups: GroupStatistics, design: GroupDesign) -> tuple[Subjects, ...]:
    """Random groupings of the groups of cells, the coarsest first, each once.

    Parameters
    ----------
    groups : GroupStatistics
        The groups.
    design : GroupDesign
        Whose random terms group them.

    Returns
    -------
    tuple of Subjects
        One for each partition by the columns of a random term. For terms of several columns, none
        of which is a term by itself ("subject:cell_type" alone), also the column among them that
        names the subjects: in which the fewest columns of the fixed effects vary.
    """
    terms = list(dict.fromkeys(component.columns for component in design.random))
    alone = {columns[0] for columns in terms if len(columns) == 1}
    for columns in [c for c in terms if not alone & set(c)]:
        parts = [Subjects.of(groups, column) for column in columns]
        terms.append((_most_constant(parts, groups, design).column,))
    found = [Subjects.by(groups, columns) for columns in sorted(set(terms))]
    found.sort(key=lambda grouping: (len(grouping), ":" in grouping.column, grouping.column))
    once = {pd.factorize(grouping.codes)[0].tobytes(): grouping for grouping in reversed(found)}
    return tuple(grouping for grouping in found if grouping in once.values())


def subjects_among(
    found: tuple[Subjects, ...], groups: GroupStatistics, design: GroupDesign
) -> Subjects:
    """Of the outermost groupings, the one in which the fewest fixed columns vary."""
    outer = [g for g in found if not any(g.nested_in(other) for other in found if other is not g)]
    return _most_constant(outer, groups, design)


def _most_constant(found: list[Subjects], groups: GroupStatistics, design: GroupDesign) -> Subjects:
    """The grouping in which the fewest fixed columns vary, rather none of them, of most levels."""
    fixed = frozenset().union(*design.coefficient_columns) & set(groups.obs.columns)

    def order(grouping: Subjects) -> tuple[int, bool, int, str]:
        varying = sum(grouping.vary(groups.obs[column]) for column in fixed)
        return varying, grouping.column in fixed, -len(grouping), grouping.column

    return min(found, key=order)


def independent_subjects(stats: SummaryStatistics | None) -> Subjects:
    """The coarsest grouping of which no random term holds two levels.

    Raises
    ------
    InputError
        There are no groups, or a random term crosses the subjects.
    """
    groups, design = require_groups(stats, "The jackknife")
    found = groupings(groups, design)
    crossed = {g.column: [c.name for c in design.random if not g.hold(c)] for g in found}
    whole = [grouping for grouping in found if not crossed[grouping.column]]
    if whole:
        return subjects_among(tuple(whole), groups, design)
    column = subjects_among(found, groups, design).column
    raise InputError(
        f"The jackknife leaves one {column} out at a time, as if it were independent of the "
        f"others; the random term {crossed[column][0]!r} has levels with cells of several "
        f"{column}s, which makes them dependent. Use ddf='kenward-roger', or make it a fixed "
        "effect."
    )
