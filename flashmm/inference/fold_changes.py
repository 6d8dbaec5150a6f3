"""Log2 fold changes of expected counts, and what a comparison rests on.

The estimate of a mixed model is on the scale of the transform; log2(1 + y) is no logarithm of an
expected count. Fold changes come from the raw counts of the groups instead, by a log-linear model
with the group-level columns of the fixed effects (`flashmm.kernels.log_linear`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flashmm.cells.groups import GroupStatistics
from flashmm.design.contrasts import Contrast
from flashmm.design.differences import contrasts_of
from flashmm.inference.comparison import Comparison, compared_levels
from flashmm.inference.count_model import checked_exposure, count_model, exposures, rows_of
from flashmm.inference.fold_change_table import FoldChanges, beside
from flashmm.inference.model_fit import ModelFit
from flashmm.inference.subjects import subjects_of
from flashmm.kernels import log_linear, shrinkage, student
from flashmm.options import FormulaError, InputError, is_number, note
from flashmm.within import FitsWithin, joined_notes

LOG2_E = 1.0 / np.log(2.0)


def fold_changes(
    fit: ModelFit | FitsWithin,
    contrasts: Any = None,
    *,
    level: float = 0.95,
    shrink: bool = False,
    exposure: np.ndarray | None = None,
    prior_count: float | None = None,
) -> FoldChanges:
    """Log2 fold changes of contrasts, from the raw counts of the groups behind a fit.

    Parameters
    ----------
    fit : LMMFit, KinshipFit or FitsWithin
        The fitted models; those without raw counts behind them get NaN and a note. Of `fit_within`
        the models of every level, whose contrasts stand beside each other as in the table of tests.
    contrasts : optional
        As in `contrast_tests`; of one fit also a sequence of `Contrast`, as its table of tests has
        them.
    level : float
        Coverage of the intervals.
    shrink : bool
        Whether to shrink the fold changes of each contrast by a normal mixture fitted to all genes
        (Stephens 2017).
    exposure : (groups,) array, optional
        Sums of library sizes of one fit; by default `exposures` of the groups.
    prior_count : float, optional
        Mean number of counts that are added to a group (see `kernels.log_linear`).

    Returns
    -------
    FoldChanges

    Raises
    ------
    InputError
        A level outside (0, 1), a prior count or an exposure that is not positive, an exposure or
        resolved contrasts for several fits.
    FormulaError
        As `contrast_tests`.

    Notes
    -----
    The model has the columns of the fixed effects that are constant in groups; what varies between
    the cells of a group (library sizes first) is left out, and the library sizes are the offset.
    Standard errors come from the differences between subjects.
    """
    _check_options(level, prior_count)
    if isinstance(fit, FitsWithin):
        if exposure is not None:
            raise InputError("exposure is of the groups of one fit; each level has its own.")
        if _are_resolved(contrasts):
            raise InputError(
                "The levels of these fits may have other coefficients: give contrasts as they were "
                "asked for in contrast_tests."
            )
        asked = {"level": level, "shrink": shrink, "prior_count": prior_count}
        return _within(fit, contrasts, asked)
    chosen = _resolved(fit, contrasts)
    shape = len(fit.genes), len(chosen)
    stats = fit.stats
    source = None if stats is None else stats.source
    counts = None if source is None else source.groups.counts
    if stats is None or source is None or counts is None:
        return _nothing(fit, chosen, level, shrink, _why_not(source is None))
    groups, design = source.groups, source.design
    subjects = subjects_of(stats)
    assert subjects is not None  # there are groups
    notes: list[str] = []
    sizes = checked_exposure(groups, exposure) if exposure is not None else exposures(groups)
    model = count_model(groups, design, fit.estimable, sizes, subjects.codes, stats.centring)
    rows, found = rows_of(fit, chosen, model, notes)
    values = np.full((3, *shape), np.nan)
    if len(found):
        values[:, :, found] = log_linear.log_fold_changes(
            counts[model.groups], model.design, rows, prior_count=prior_count
        )
    log2_fc, std_error, df = values[0] * LOG2_E, values[1] * LOG2_E, values[2]
    low, high = student.confidence_limits(log2_fc, std_error, df, level, "two-sided")
    compared = tuple(compared_levels(fit, contrast) for contrast in chosen)
    return FoldChanges(
        log2_fc,
        std_error,
        df,
        low,
        high,
        **_summaries(groups, subjects.codes, compared, notes),
        comparisons=compared,
        contrasts=chosen,
        genes=fit.genes,
        **(_shrunken(log2_fc, std_error, df) if shrink else {}),
        level=level,
        notes=tuple(notes),
    )


def _check_options(level: float, prior_count: float | None) -> None:
    if not (is_number(level) and 0 < level < 1):
        raise InputError(f"level is the coverage of intervals, between 0 and 1; found {level!r}.")
    if prior_count is not None and not (is_number(prior_count) and 0 < prior_count < np.inf):
        raise InputError(f"prior_count is a positive number of counts; found {prior_count!r}.")


def _are_resolved(contrasts: Any) -> bool:
    several = isinstance(contrasts, list | tuple) and len(contrasts) > 0
    return several and all(isinstance(c, Contrast) for c in contrasts)


def _resolved(fit: ModelFit, contrasts: Any) -> tuple[Contrast, ...]:
    if _are_resolved(contrasts):
        return tuple(contrasts)
    return contrasts_of(contrasts, fit.coefficients, fit.coefficient_columns, fit.stats)


def _why_not(no_groups: bool) -> str:
    reason = "a fit from groups of cells" if no_groups else "sums of raw counts"
    return note(
        f"Log2 fold changes need {reason}, which this fit does not have: they are NaN. Summarise "
        "raw counts (layer=) and fit from the groups."
    )


def _nothing(
    fit: ModelFit, contrasts: tuple[Contrast, ...], level: float, shrink: bool, why: str
) -> FoldChanges:
    """No fold changes, and no counts to describe."""
    nothing = np.full((len(fit.genes), len(contrasts)), np.nan)
    n = np.full(len(contrasts), np.nan)
    none = (None,) * len(contrasts)
    shrunken = (nothing if shrink else None,) * 3
    return FoldChanges(
        *(nothing,) * 7, n, {}, {}, none, contrasts, fit.genes, *shrunken, level, (why,)
    )


# ---- models within levels ---------------------------------------------------------------------


def _within(fits: FitsWithin, contrasts: Any, asked: dict[str, Any]) -> FoldChanges:
    """Fold changes of every level; NaN where a level has no fit or not the contrast."""
    found: dict[str, FoldChanges] = {}
    faults: dict[str, FormulaError] = {}
    for level, fit in fits.fits.items():
        try:
            found[level] = fold_changes(fit, contrasts, **asked)
        except FormulaError as error:
            faults[level] = error
    if not found:
        raise next(iter(faults.values()))
    first = next(iter(found.values()))
    parts = [found[level] if level in found else first.without_numbers() for level in fits.levels]
    notes = tuple(note(f"{fits.column} {level!r}: {error}") for level, error in faults.items())
    said = joined_notes({level: part.notes for level, part in found.items()})
    return beside(parts, said + notes)


# ---- summaries --------------------------------------------------------------------------------


def _summaries(
    groups: GroupStatistics,
    subject: np.ndarray,
    compared: tuple[Comparison | None, ...],
    notes: list[str],
) -> dict[str, Any]:
    """Mean counts, fractions of expressing cells and numbers of subjects, in all and by level."""
    assert groups.counts is not None
    if groups.expressing is None:
        notes.append(
            note(
                "The groups do not hold the numbers of expressing cells (their file was written "
                "without them): fraction_expressing is NaN. Summarise the cells anew."
            )
        )
    every = np.ones(groups.n_groups, dtype=bool)
    masks = [every if c is None else c.groups for c in compared]
    names = dict.fromkeys(str(v) for c in compared if c for v in (c.reference, c.level))
    by_level = {name: [_of_level(groups, c, name) for c in compared] for name in names}
    return {
        "mean_expression": _per_cell(groups, groups.counts, masks),
        "fraction_expressing": _per_cell(groups, groups.expressing, masks),
        "n_subjects": _n_subjects(subject, masks),
        "fraction_by_level": {
            name: _per_cell(groups, groups.expressing, of_level)
            for name, of_level in by_level.items()
        },
        "subjects_by_level": {
            name: _n_subjects(subject, of_level) for name, of_level in by_level.items()
        },
    }


def _of_level(groups: GroupStatistics, comparison: Comparison | None, level: str) -> np.ndarray:
    """Groups of a comparison that have a level; none where it does not compare the level."""
    if comparison is None:
        return np.zeros(groups.n_groups, dtype=bool)
    return comparison.groups & (groups.obs[comparison.column].astype(str) == level).to_numpy()


def _per_cell(
    groups: GroupStatistics, sums: np.ndarray | None, masks: Sequence[np.ndarray]
) -> np.ndarray:
    """Sums over groups divided by their cells, (genes, masks); NaN without cells or sums."""
    if sums is None:
        return np.full((groups.n_genes, len(masks)), np.nan)
    chosen = np.array(masks, dtype=np.float64).reshape(len(masks), groups.n_groups)
    n_cells = chosen @ groups.moment(0, 0)
    return ((chosen @ sums) / np.where(n_cells > 0, n_cells, np.nan)[:, None]).T


def _n_subjects(subject: np.ndarray, masks: Sequence[np.ndarray]) -> np.ndarray:
    """Subjects in the groups of each mask; NaN for masks without groups."""
    return np.array([len(np.unique(subject[m])) if m.any() else np.nan for m in masks])


def _shrunken(log2_fc: np.ndarray, std_error: np.ndarray, df: np.ndarray) -> dict[str, Any]:
    """Shrink each contrast across genes."""
    found = [
        shrinkage.shrink(log2_fc[:, k], std_error[:, k], df[:, k]) for k in range(log2_fc.shape[1])
    ]
    names = {"shrunken": "mean", "shrunken_sd": "sd", "false_sign_rate": "false_sign_rate"}
    return {
        name: np.column_stack([getattr(one, field) for one in found])
        for name, field in names.items()
    }
