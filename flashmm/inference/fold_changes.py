"""Log2 fold changes of expected counts, and what a comparison rests on.

The estimate of a mixed model is on the scale of the transform; log2(1 + y) is no logarithm of an
expected count. Fold changes come from the raw counts of the groups instead, by a log-linear model
with the group-level columns of the fixed effects (`flashmm.kernels.log_linear`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flashmm.cells.groups import N_CELLS, GroupStatistics, moment_name
from flashmm.design.columns import GroupDesign
from flashmm.design.contrasts import Contrast, resolve_contrasts
from flashmm.inference.comparison import Comparison, compared_levels
from flashmm.inference.model_fit import ModelFit
from flashmm.inference.subjects import subjects_of
from flashmm.kernels import log_linear, shrinkage, student
from flashmm.names import some_names
from flashmm.options import InputError, is_number, note

LOG2_E = 1.0 / np.log(2.0)
LIBSIZE = "libsize"
# Weights that are rounding relative to the largest.
NOTHING = 1e-8


@dataclass(frozen=True, eq=False)
class FoldChanges:
    """Log2 fold changes of contrasts for every gene, with what they rest on.

    Attributes
    ----------
    log2_fc, std_error, df : (genes, contrasts) arrays
        Log2 of the ratio of expected counts at equal library size, its standard error and degrees
        of freedom. NaN where there is none (`notes`), for joint contrasts, and for genes without
        counts.
    log2_fc_low, log2_fc_high : (genes, contrasts) arrays
        Confidence limits at `level`; NaN where one subject decides the contrast alone.
    mean_expression : (genes, contrasts) array
        Mean count of the cells that are compared; of all cells where no two levels are.
    fraction_expressing : (genes, contrasts) array
        Share of these cells with a count above zero; NaN where the groups do not know it.
    n_subjects : (contrasts,) array
        Subjects with such cells.
    fraction_by_level : dict of str to (genes, contrasts) array
        Fractions of the cells of each level; NaN for contrasts that do not compare it.
    subjects_by_level : dict of str to (contrasts,) array
        Subjects with cells of each level.
    comparisons : tuple of (Comparison or None)
        What each contrast compares; None where it is no difference of two levels of a column.
    contrasts : tuple of Contrast
        The contrasts.
    genes : pandas.Index
        Names of the genes.
    shrunken, shrunken_sd, false_sign_rate : (genes, contrasts) arrays or None
        Posterior mean and sd of log2 fold changes and the probability that their sign is another,
        from a normal mixture over the genes of a contrast; None unless asked for.
    level : float
        Coverage of the intervals.
    notes : tuple of str
        What was decided for the user.
    """

    log2_fc: np.ndarray
    std_error: np.ndarray
    df: np.ndarray
    log2_fc_low: np.ndarray
    log2_fc_high: np.ndarray
    mean_expression: np.ndarray
    fraction_expressing: np.ndarray
    n_subjects: np.ndarray
    fraction_by_level: dict[str, np.ndarray]
    subjects_by_level: dict[str, np.ndarray]
    comparisons: tuple[Comparison | None, ...]
    contrasts: tuple[Contrast, ...]
    genes: pd.Index
    shrunken: np.ndarray | None = None
    shrunken_sd: np.ndarray | None = None
    false_sign_rate: np.ndarray | None = None
    level: float = 0.95
    notes: tuple[str, ...] = ()

    def columns(self) -> dict[str, np.ndarray]:
        """Columns of a tidy table: contrasts one after another, genes in their order.

        Returns
        -------
        dict of str to (contrasts · genes,) array
            `comparison` (text, empty where no two levels are compared), `log2_fc`, its limits and,
            where asked for, `log2_fc_shrunken`, `log2_fc_sd` and `false_sign_rate`; then
            `mean_expression`, `fraction_expressing` and ``fraction_expressing[level]``,
            `n_subjects` and ``n_subjects[level]``.
        """
        n_genes = len(self.genes)
        texts = ["" if c is None else c.text for c in self.comparisons]
        shrunken = {
            "log2_fc_shrunken": self.shrunken,
            "log2_fc_sd": self.shrunken_sd,
            "false_sign_rate": self.false_sign_rate,
        }
        by_gene = {
            "log2_fc": self.log2_fc,
            "log2_fc_low": self.log2_fc_low,
            "log2_fc_high": self.log2_fc_high,
            **{name: values for name, values in shrunken.items() if values is not None},
            "mean_expression": self.mean_expression,
            "fraction_expressing": self.fraction_expressing,
            **{f"fraction_expressing[{k}]": v for k, v in self.fraction_by_level.items()},
        }
        by_contrast = {
            "n_subjects": self.n_subjects,
            **{f"n_subjects[{level}]": n for level, n in self.subjects_by_level.items()},
        }
        return {
            "comparison": np.repeat(np.array(texts, dtype=object), n_genes),
            **{name: values.T.ravel() for name, values in by_gene.items()},
            **{name: np.repeat(values, n_genes) for name, values in by_contrast.items()},
        }


def fold_changes(
    fit: ModelFit,
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
    fit : LMMFit
        The fitted models; those without raw counts behind them get NaN and a note.
    contrasts : optional
        As in `contrast_tests`, or a tuple of `Contrast` as they stand in its table.
    level : float
        Coverage of the intervals.
    shrink : bool
        Whether to shrink the fold changes of each contrast by a normal mixture fitted to all genes
        (Stephens 2017).
    exposure : (groups,) array, optional
        Sums of library sizes; by default `exposures` of the groups.
    prior_count : float, optional
        Mean number of counts that are added to a group (see `kernels.log_linear`).

    Returns
    -------
    FoldChanges

    Raises
    ------
    InputError
        A level outside (0, 1), a prior count or an exposure that is not positive.
    FormulaError
        As `contrast_tests`.

    Notes
    -----
    The model has the columns of the fixed effects that are constant in groups; what varies between
    the cells of a group (library sizes first) is left out, and the library sizes are the offset.
    Standard errors come from the differences between subjects.
    """
    _check_options(level, prior_count)
    chosen = _resolved(fit, contrasts)
    shape = len(fit.genes), len(chosen)
    source = None if fit.stats is None else fit.stats.source
    counts = None if source is None else source.groups.counts
    if source is None or counts is None:
        return _nothing(fit, chosen, level, _why_not(source is None))
    groups, design = source.groups, source.design
    subjects = subjects_of(fit.stats)
    assert subjects is not None  # there are groups
    notes: list[str] = []
    sizes = _checked_exposure(groups, exposure) if exposure is not None else exposures(groups)
    model = _model(groups, design, fit.estimable, sizes, subjects.codes)
    rows, found = _rows(fit, chosen, model, notes)
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


def _resolved(fit: ModelFit, contrasts: Any) -> tuple[Contrast, ...]:
    if isinstance(contrasts, Sequence) and contrasts and isinstance(contrasts[0], Contrast):
        return tuple(contrasts)
    return resolve_contrasts(contrasts, fit.coefficients, fit.coefficient_columns)


def _why_not(no_groups: bool) -> str:
    reason = "a fit from groups of cells" if no_groups else "sums of raw counts"
    return note(
        f"Log2 fold changes need {reason}, which this fit does not have: they are NaN. Summarise "
        "raw counts (layer=) and fit from the groups."
    )


def _nothing(fit: ModelFit, contrasts: tuple[Contrast, ...], level: float, why: str) -> FoldChanges:
    """No fold changes, and no counts to describe."""
    nothing = np.full((len(fit.genes), len(contrasts)), np.nan)
    n = np.full(len(contrasts), np.nan)
    none = (None,) * len(contrasts)
    several = (nothing,) * 7
    return FoldChanges(*several, n, {}, {}, none, contrasts, fit.genes, level=level, notes=(why,))


# ---- exposure ---------------------------------------------------------------------------------


def exposures(groups: GroupStatistics) -> np.ndarray:
    """Library sizes, times size factors, added over the cells of each group: (groups,).

    The sum of `libsize` where it is a stored covariate; else the total of the raw counts times the
    size factor of the group, if it has one; for groups that were read for some of their genes only,
    what a log-normal distribution of the library sizes makes of the sums of log(libsize).

    Raises
    ------
    InputError
        Some of the genes, and no sums of library sizes or their logarithms.
    """
    stored = moment_name(LIBSIZE)
    if stored in groups.obs:
        return groups.obs[stored].to_numpy(dtype=np.float64)
    if "genes_of_file" in groups.provenance:
        return _log_normal_sums(groups)
    assert groups.counts is not None  # or there is nothing to fit
    factors = groups.provenance.get("size_factors", {}).get("factors")
    total = groups.counts.sum(axis=1)
    return total if factors is None else total * groups.obs.index.map(factors).to_numpy(float)


def _log_normal_sums(groups: GroupStatistics) -> np.ndarray:
    """Sums over cells of exp(x) from those of x and x²: n exp(m + s²/2)."""
    x = f"log({LIBSIZE})"
    if x not in groups.covariates:
        raise InputError(
            f"The library sizes of groups with some of the genes of a file need the covariate {x} "
            "or 'libsize'; give their sums as exposure."
        )
    k = groups.covariates.index(x) + 1
    n = groups.moment(0, 0)
    mean, square = groups.moment(k, 0) / n, groups.moment(k, k) / n
    return n * np.exp(mean + np.maximum(square - mean**2, 0.0) / 2)


def _checked_exposure(groups: GroupStatistics, exposure: Any) -> np.ndarray:
    values = np.asarray(exposure, dtype=np.float64)
    if values.shape != (groups.n_groups,):
        raise InputError(
            f"exposure has one number per group, {groups.n_groups}; found the shape {values.shape}."
        )
    if not (np.isfinite(values) & (values > 0)).all():
        raise InputError(
            f"exposure is the positive sum of library sizes of each group; "
            f"{int((~(values > 0)).sum())} of {len(values)} are not positive."
        )
    return values


# ---- the model of counts ----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _CountModel:
    """The log-linear model: its groups, and where its columns come from.

    `basis` (coefficients, coefficients of the fit) has the fit's columns that are used, and zeros
    for a constant that had to be added.
    """

    design: log_linear.GroupDesign
    groups: np.ndarray
    kept: np.ndarray
    constant: np.ndarray


def _model(
    groups: GroupStatistics,
    design: GroupDesign,
    estimable: np.ndarray,
    sizes: np.ndarray,
    subject: np.ndarray,
) -> _CountModel:
    """Take the columns of X that are constant in groups, on the groups with counts."""
    kept = estimable & ~(design.fixed[1:] != 0).any((0, 1))
    used = np.flatnonzero(sizes > 0)
    X = design.fixed[0][np.ix_(used, kept)]
    ones = np.ones((len(used), 1))
    constant = np.linalg.lstsq(X, ones[:, 0], rcond=None)[0] if X.shape[1] else np.zeros(0)
    if not np.allclose(X @ constant, 1.0, atol=NOTHING):
        X, constant = np.hstack([X, ones]), np.zeros(X.shape[1])
    counted = groups.obs[N_CELLS].to_numpy(dtype=np.float64)[used]
    codes = np.unique(subject[used], return_inverse=True)[1]
    return _CountModel(log_linear.GroupDesign(X, sizes[used], counted, codes), used, kept, constant)


def _rows(
    fit: ModelFit, contrasts: tuple[Contrast, ...], model: _CountModel, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Contrasts of the columns of the count model, and which contrasts they are."""
    rows, found = [], []
    left_out: dict[str, list[str]] = {}
    for k, contrast in enumerate(contrasts):
        row = contrast.basis[0]
        why = _no_fold_change(contrast, row, fit, model)
        if why is None:
            extra = model.design.X.shape[1] - int(model.kept.sum())
            rows.append(np.append(row[model.kept], np.zeros(extra)))
            found.append(k)
        elif why:
            left_out.setdefault(why, []).append(contrast.name)
    notes += [
        note(f"There is no fold change of {some_names(names)}: {why}.")
        for why, names in left_out.items()
    ]
    return np.array(rows), np.array(found, dtype=int)


def _no_fold_change(
    contrast: Contrast, row: np.ndarray, fit: ModelFit, model: _CountModel
) -> str | None:
    """Why a contrast is no fold change; None where it is one, empty where its test says it."""
    X = model.design.X
    if len(contrast.basis) > 1:
        return "a joint test has no single one"
    if (row[~fit.estimable] != 0).any():
        return ""
    if (row[~model.kept] != 0).any():
        return "it holds a covariate that varies between cells"
    if np.linalg.matrix_rank(X / np.linalg.norm(X, axis=0)) < X.shape[1]:
        return "without groups that have no counts, the columns of the design are not independent"
    if len(model.constant) and abs(row[model.kept] @ model.constant) > NOTHING * np.abs(row).max():
        return "it is a mean, not a difference"
    return None


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
