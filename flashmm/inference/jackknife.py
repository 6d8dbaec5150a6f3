"""Estimates without each subject, and tests with the variance between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashmm.design.contrasts import Contrast, without_columns
from flashmm.design.derived import leave_groups
from flashmm.design.statistics import SummaryStatistics
from flashmm.inference.between_subjects import SubjectDesign
from flashmm.inference.subjects import Subjects
from flashmm.inference.wald import NO_VARIANCE
from flashmm.lmm import FITTED, LMMFit, factor, held_coefficients, refit
from flashmm.names import some_names
from flashmm.options import DesignError, Status, note


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
        True where the weights of the dropped columns follow from those of the kept ones.
    """
    missed = without_columns(stats.XtX, kept, before & ~kept, rows)
    return np.asarray((missed == 0).all(1))


def fill_jackknife(
    table: dict[str, Any],
    fit: LMMFit,
    contrasts: tuple[Contrast, ...],
    estimable: np.ndarray,
    design: SubjectDesign,
    refits: bool,
) -> tuple[str, ...]:
    """Fill estimate, std_error, statistic, df and status of a table.

    Parameters
    ----------
    table : dict of str to array
        Arrays of a `TestTable`.
    fit : LMMFit
        A fit from groups.
    contrasts : tuple of Contrast
        What to test.
    estimable : (contrasts,) bool array
        Which of them can be tested.
    design : SubjectDesign
        Whom to leave out, and the degrees of freedom that this has.
    refits : bool
        Whether variance components are estimated anew.

    Returns
    -------
    tuple of str
        What was said of contrasts that have no jackknife.
    """
    columns = np.flatnonzero(estimable)
    blocks = [contrasts[j].basis for j in columns]
    df = np.array([design.jackknife_df(contrasts[j].matrix) for j in columns])
    spreads = _spreads(fit, design.subjects, blocks, refits)
    for j, own, spread in zip(columns, df, spreads, strict=True):
        _fill_contrast(table, int(j), spread, own)
    few = df < [len(block) for block in blocks]
    names = [contrasts[j].name for j in columns]
    lost = {n: s.lost for n, s, f in zip(names, spreads, few, strict=True) if s.lost and not f}
    spent = [name for name, is_few in zip(names, few, strict=True) if is_few]
    return _note_spent(spent, design.subjects.column) + _note_lost(lost, design.subjects.column)


@dataclass(frozen=True, eq=False)
class _Spread:
    """Estimates (genes, r) of independent rows, their jackknife covariance (genes, r, r).

    `lost` are the subjects without whom they cannot be estimated.
    """

    centre: np.ndarray
    covariance: np.ndarray
    lost: list[str]

    @classmethod
    def start(cls, centre: np.ndarray) -> _Spread:
        """No subject left out yet."""
        r = centre.shape[1]
        return cls(centre, np.zeros((len(centre), r, r)), [])


def _spreads(
    fit: LMMFit, subjects: Subjects, blocks: list[np.ndarray], refits: bool
) -> list[_Spread]:
    """Spread of every contrast, a block of rows (r, p)."""
    # an empty block first, so that there may be no contrast
    rows = np.vstack([np.zeros((0, len(fit.coefficients))), *blocks])
    ends = np.cumsum([len(block) for block in blocks])
    own = [slice(end - len(block), end) for end, block in zip(ends, blocks, strict=True)]
    kept, m = fit.model.kept, len(subjects)
    centre = fit.coef[:, kept] @ rows[:, kept].T
    result = [_Spread.start(centre[:, at]) for at in own]
    without = estimates_without(fit, subjects, rows, refits)
    for name, (estimate, possible) in zip(subjects.names, without, strict=True):
        change = estimate - centre
        for at, spread in zip(own, result, strict=True):
            outer = change[:, at, None] * change[:, None, at]
            np.add(spread.covariance, (m - 1) / m * outer, out=spread.covariance)
            spread.lost.extend([] if possible[at].all() else [str(name)])
    return result


def _fill_contrast(table: dict[str, Any], j: int, spread: _Spread, df: float) -> None:
    """Fill one contrast."""
    centre, covariance, status = spread.centre, spread.covariance, table["status"][:, j]
    r = centre.shape[1]
    fitted = np.isin(status, FITTED)
    if r == 1:
        table["estimate"][:, j] = np.where(fitted, centre[:, 0], np.nan)
    if spread.lost or df < r:
        status[fitted] = Status.TOO_FEW_SUBJECTS
        return
    finite = np.isfinite(covariance).all((1, 2))
    status[fitted & ~finite] = Status.NOT_CONVERGED
    fine = fitted & finite
    smallest = np.linalg.eigvalsh(covariance[fine])[:, 0]
    none = smallest <= NO_VARIANCE * np.einsum("gaa->g", covariance[fine])
    status[np.flatnonzero(fine)[none]] = Status.ZERO_VARIANCE
    fine[np.flatnonzero(fine)[none]] = False
    table["df"][fine, j] = df - r + 1
    if r == 1:
        table["std_error"][fine, j] = np.sqrt(covariance[fine, 0, 0])
        table["statistic"][fine, j] = centre[fine, 0] / table["std_error"][fine, j]
        return
    # Hotelling: with V ~ Wishart on df, (df - r + 1)/(df r) b'V⁻¹b ~ F(r, df - r + 1)
    wald = np.linalg.solve(covariance[fine], centre[fine][..., None])[..., 0]
    T2 = np.einsum("ga,ga->g", wald, centre[fine])
    table["statistic"][fine, j] = (df - r + 1) / (df * r) * T2


def _note_spent(names: list[str], column: str) -> tuple[str, ...]:
    """Say which contrasts leave no degrees of freedom."""
    if not names:
        return ()
    return (
        note(
            f"There are as many fixed effects between {column}s as {column}s behind "
            f"{some_names(names)}: no jackknife."
        ),
    )


def _note_lost(lost: dict[str, list[str]], column: str) -> tuple[str, ...]:
    """Say which subjects contrasts cannot do without."""
    if not lost:
        return ()
    name, who = next(iter(lost.items()))
    return (
        note(
            f"{len(lost)} contrasts have no jackknife, because they cannot be estimated when one "
            f"{column} is left out: {name!r} not without {some_names(who)}."
        ),
    )
