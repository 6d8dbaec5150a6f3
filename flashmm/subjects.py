"""Who the independent subjects of a fit are, and its estimates without each of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd

from flashmm.crossproducts import SummaryStatistics, leave_groups
from flashmm.design import GroupDesign, RandomComponent
from flashmm.groups import GroupStatistics
from flashmm.lmm import LMMFit, factor, held_coefficients, refit
from flashmm.options import DesignError, InputError

# Share of a subject's cells that the fixed effects leave, below which it is rounding.
RANK_TOLERANCE = 1e-9
# Difference, relative to the contrast, above which dropped columns change it.
SPAN_TOLERANCE = 1e-7


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


def require_groups(
    stats: SummaryStatistics | None, what: str
) -> tuple[GroupStatistics, GroupDesign]:
    """The groups and the design behind statistics, or an InputError in words."""
    if stats is None or stats.groups is None or stats.design is None:
        raise InputError(
            f"{what} needs the groups of cells behind the fit, and this one was made from "
            "matrices, or without its groups. Fit from groups: summarise(...), then "
            "summary_statistics(groups, fixed, random)."
        )
    return stats.groups, stats.design


def independent_subjects(stats: SummaryStatistics) -> Subjects:
    """The first grouping column of the random terms whose levels share no random level.

    Raises
    ------
    InputError
        There are no groups, or a random term crosses the subjects.
    """
    groups, design = require_groups(stats, "The jackknife")
    columns = list(dict.fromkeys(name for c in design.random for name in c.columns))
    found = [Subjects.of(groups, column) for column in columns]
    crossed = [
        [c.name for c in design.random if not is_nested(c, subjects.codes)] for subjects in found
    ]
    for subjects, names in zip(found, crossed, strict=True):
        if not names:
            return subjects
    raise InputError(
        f"The jackknife leaves one {columns[0]} out at a time, as if it were independent of the "
        f"others; the random term {crossed[0][0]!r} has levels with cells of several "
        f"{columns[0]}s, which makes them dependent. Use ddf='kenward-roger', or make it a fixed "
        "effect."
    )


def is_nested(component: RandomComponent, codes: np.ndarray) -> bool:
    """Whether no level of a random term has cells of two subjects, `codes` (groups,)."""
    weights = [abs(w) for w in component.weights if w is not None]
    group, level = cast(Any, sum(weights)).nonzero()
    pairs = np.unique(np.column_stack([level, codes[group]]), axis=0)
    return len(pairs) == len(np.unique(level))


def between_df(stats: SummaryStatistics, kept: np.ndarray, subjects: Subjects) -> int:
    """Number of subjects minus the number of fixed directions that are constant within them.

    That is the rank of U'U - U'X(X'X)⁻¹X'U, U being the indicators of the subjects.
    """
    groups, design = require_groups(stats, "The jackknife")
    sums = sum(groups.moment(k, 0)[:, None] * D for k, D in enumerate(design.fixed))
    UtX = np.zeros((len(subjects), len(kept)))
    np.add.at(UtX, subjects.codes, sums)
    root = np.sqrt(np.bincount(subjects.codes, weights=groups.moment(0, 0)))
    UtX = UtX[:, kept] / root[:, None]
    scale = np.sqrt(np.diag(stats.XtX)[kept])
    XtX = stats.XtX[np.ix_(kept, kept)] / scale / scale[:, None]
    left = np.eye(len(subjects)) - (UtX / scale) @ np.linalg.solve(XtX, (UtX / scale).T)
    return int((np.linalg.eigvalsh(left) > RANK_TOLERANCE).sum())


def estimates_without(
    fit: LMMFit, subjects: Subjects, rows: np.ndarray, refits: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Contrasts without each subject in turn.

    Parameters
    ----------
    fit : LMMFit
        A fit from groups.
    subjects : Subjects
        Whom to leave out, one at a time.
    rows : (C, p) array
        Contrasts that the fit can estimate.
    refits : bool
        Whether variance components are estimated anew, else they are those of the fit.

    Yields
    ------
    estimate : (genes, C) array
        NaN where it cannot be estimated, or the gene has no fit.
    estimable : (C,) bool array
        Whether the remaining cells can estimate the contrast.
    """
    for subject in range(len(subjects)):
        stats = leave_groups(fit.stats, subjects.codes == subject)
        try:
            coef, kept = _coefficients(fit, stats, refits)
        except DesignError:  # nothing is left that could be fitted
            yield np.full((fit.n_genes, len(rows)), np.nan), np.zeros(len(rows), dtype=bool)
            continue
        estimable = stays_estimable(stats, fit.model.kept, kept, rows)
        estimate = coef[:, kept] @ rows[:, kept].T
        yield np.where(estimable, estimate, np.nan), estimable


def _coefficients(
    fit: LMMFit, stats: SummaryStatistics, refits: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (genes, p) of other statistics, and which of them were estimated."""
    if refits:
        other = refit(stats, fit.options)
        return np.where(other.fitted[:, None], other.coef, np.nan), other.model.kept
    model = factor(stats, fit.options)
    return held_coefficients(fit, stats, model), model.kept


def stays_estimable(
    stats: SummaryStatistics, before: np.ndarray, kept: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Whether contrasts keep their meaning when further columns become dependent.

    Parameters
    ----------
    stats : SummaryStatistics
        Statistics of the remaining cells.
    before, kept : (p,) bool arrays
        Independent columns of all cells, and of the remaining ones.
    rows : (C, p) array
        Contrasts of columns `before`.

    Returns
    -------
    (C,) bool array
        True where the weights of the dropped columns follow from those of the kept ones: with
        X_d = X_k B, c'β is estimable if c_d = B'c_k.
    """
    dropped = before & ~kept
    B = np.linalg.solve(stats.XtX[np.ix_(kept, kept)], stats.XtX[np.ix_(kept, dropped)])
    gap = np.abs(rows[:, dropped] - rows[:, kept] @ B).max(1, initial=0.0)
    return gap <= SPAN_TOLERANCE * np.abs(rows).max(1)
