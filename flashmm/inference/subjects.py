"""Who the subjects of groups are: the units that a contrast is between or within."""

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

    def __len__(self) -> int:
        return len(self.names)

    def vary(self, values: pd.Series) -> bool:
        """Whether a column of the groups has several values in one subject."""
        value, levels = pd.factorize(values)
        known = value >= 0
        subject = self.codes[known]
        return len(np.unique(subject * len(levels) + value[known])) > len(np.unique(subject))

    def hold(self, component: RandomComponent) -> bool:
        """Whether no level of a random term has cells of two subjects."""
        weights = [abs(w) for w in component.weights if w is not None]
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
    return Subjects.of(stats.source.groups, subject_column(stats.source.design))


def subject_column(design: GroupDesign) -> str:
    """The column that names the subjects.

    It is that of the first random term with a single column; where there is none
    ("subject:cell_type" alone), the first column of the first term.
    """
    return _columns(design)[0]


def _columns(design: GroupDesign) -> list[str]:
    """Grouping columns of the random terms, those that are a term by themselves first."""
    terms = sorted((component.columns for component in design.random), key=lambda c: len(c) > 1)
    return list(dict.fromkeys(name for columns in terms for name in columns))


def independent_subjects(stats: SummaryStatistics | None) -> Subjects:
    """The subjects, or else the first grouping column of which no random term holds two levels.

    Raises
    ------
    InputError
        There are no groups, or a random term crosses the subjects.
    """
    groups, design = require_groups(stats, "The jackknife")
    found = [Subjects.of(groups, column) for column in _columns(design)]
    crossed = [[c.name for c in design.random if not subjects.hold(c)] for subjects in found]
    for subjects, names in zip(found, crossed, strict=True):
        if not names:
            return subjects
    column = found[0].column
    raise InputError(
        f"The jackknife leaves one {column} out at a time, as if it were independent of the "
        f"others; the random term {crossed[0][0]!r} has levels with cells of several {column}s, "
        "which makes them dependent. Use ddf='kenward-roger', or make it a fixed effect."
    )
