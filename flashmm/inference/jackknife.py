"""Estimates without each subject, and tests with the variance between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from flashmm.design.contrasts import without_columns
from flashmm.design.derived import leave_groups
from flashmm.design.statistics import SummaryStatistics
from flashmm.inference.plan import T_TEST, TestPlan, Tests
from flashmm.inference.screening import Screened
from flashmm.inference.subjects import Subjects
from flashmm.inference.wald import NO_VARIANCE
from flashmm.lmm import LMMFit, factor, held_coefficients, refit
from flashmm.names import some_names
from flashmm.options import DesignError, Status, note

FAILURES = {
    "few_subjects": Status.TOO_FEW_SUBJECTS,
    "not_converged": Status.NOT_CONVERGED,
    "no_variance": Status.ZERO_VARIANCE,
}


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
    missed = without_columns(stats.XtX, kept, before & ~kept, stats.of_products(rows))
    return np.asarray((missed == 0).all(1))


def jackknife_tests(plan: TestPlan, screened: Screened, refits: bool = False) -> Tests:
    """Test all contrasts with the variance from leaving out one subject at a time.

    Parameters
    ----------
    plan : TestPlan
        Direction, level, minimum; not needed, as these are tests by t and F.
    screened : Screened
        A fit of `fit_lmm` from groups, its subjects and contrasts.
    refits : bool
        Whether variance components are estimated anew without each subject.

    Returns
    -------
    Tests
        With a note on contrasts that have no jackknife.
    """
    fit, design = screened.fit, screened.design
    if not isinstance(fit, LMMFit) or design is None:
        raise TypeError("The jackknife is of fits of fit_lmm with subjects.")
    columns = np.flatnonzero(screened.testable)
    contrasts = [screened.contrasts[j] for j in columns]
    df = np.array([design.jackknife_df(contrast.matrix) for contrast in contrasts])
    spreads = _spreads(fit, design.subjects, [contrast.basis for contrast in contrasts], refits)
    found = {name: np.full(screened.shape, np.nan) for name in T_TEST}
    found |= {name: np.zeros(screened.shape, dtype=bool) for name in FAILURES}
    for j, own, spread in zip(columns, df, spreads, strict=True):
        for name, values in _test_of(spread, own, fit.fitted).items():
            found[name][:, j] = values
    few = df < [len(contrast.basis) for contrast in contrasts]
    names = [contrast.name for contrast in contrasts]
    lost = {n: s.lost for n, s, f in zip(names, spreads, few, strict=True) if s.lost and not f}
    spent = [name for name, is_few in zip(names, few, strict=True) if is_few]
    column = design.subjects.column
    return Tests.collected(found, FAILURES, _note_spent(spent, column) + _note_lost(lost, column))


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


def _test_of(spread: _Spread, df: float, fitted: np.ndarray) -> dict[str, np.ndarray]:
    """Test of one contrast, arrays (genes,); without a test there is an estimate still."""
    centre, covariance = spread.centre, spread.covariance
    r = centre.shape[1]
    nothing = np.full(len(centre), np.nan)
    found = {"estimate": np.where(fitted, centre[:, 0], np.nan) if r == 1 else nothing}
    if spread.lost or df < r:
        return found | {"few_subjects": fitted}
    finite = np.isfinite(covariance).all((1, 2))
    fine = fitted & finite
    smallest = np.linalg.eigvalsh(covariance[fine])[:, 0]
    none = np.zeros(len(centre), dtype=bool)
    none[fine] = smallest <= NO_VARIANCE * np.einsum("gaa->g", covariance[fine])
    fine &= ~none
    found |= {"df": np.where(fine, df - r + 1, np.nan)}
    found |= {"not_converged": fitted & ~finite, "no_variance": none}
    statistic, std_error = nothing.copy(), nothing.copy()
    if r == 1:
        std_error[fine] = np.sqrt(covariance[fine, 0, 0])
        statistic[fine] = centre[fine, 0] / std_error[fine]
        return found | {"statistic": statistic, "std_error": std_error}
    # Hotelling: with V ~ Wishart on df, (df - r + 1)/(df r) b'V⁻¹b ~ F(r, df - r + 1)
    wald = np.linalg.solve(covariance[fine], centre[fine][..., None])[..., 0]
    T2 = np.einsum("ga,ga->g", wald, centre[fine])
    statistic[fine] = (df - r + 1) / (df * r) * T2
    return found | {"statistic": statistic}


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
