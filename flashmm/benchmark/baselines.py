"""Tests that are not mixed models: pseudobulk, and cells taken as replicates.

They are what a mixed model is measured against (`docs/calibration.md`): the first keeps its level
with few subjects and throws away how many cells each mean has, the second is wrong on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from flashmm.cells.groups import N_CELLS, GroupStatistics
from flashmm.cells.size_factors import size_factors
from flashmm.design.differences import contrasts_of
from flashmm.design.statistics import SummaryStatistics
from flashmm.inference.adjustment import adjust_p_values
from flashmm.inference.table import frame_columns
from flashmm.kernels import moderation, student
from flashmm.kernels.tails import t_tail
from flashmm.names import listed
from flashmm.options import DesignError, InputError, Status, checked

VALUES = ("mean", "log2_cpm", "log2_cpm_tmm")
# Counts that are added before the logarithm of counts per million, as in limma-voom.
OFFSET_COUNT, OFFSET_TOTAL = 0.5, 1.0
# Variance, relative to the mean square, that is rounding.
NOTHING = 1e-12


@checked
def pseudobulk_tests(
    groups: GroupStatistics,
    factor: str = "condition",
    *,
    subject: str = "subject",
    cell_type: str = "cell_type",
    values: str = "mean",
    moderate: bool = False,
    min_counts: float = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Test a two-level factor in each cell type by the t test of one value per subject.

    Parameters
    ----------
    groups : GroupStatistics
        Grouped by subject, cell type and factor; each subject has one level of the factor, or all
        of them have both.
    factor, subject, cell_type : str
        Columns of the groups.
    values : {"mean", "log2_cpm", "log2_cpm_tmm"}
        A subject's value: the mean of its transformed cells, or log₂ of the counts per million of
        its added counts, of their total or of that times the factor of `size_factors`.
    moderate : bool
        Shrink the variances of a cell type across genes by empirical Bayes, as limma does.
    min_counts : float
        Genes with fewer counts in a cell type are not tested there; above zero this needs counts.
    level : float
        Coverage of the confidence intervals.

    Returns
    -------
    DataFrame
        As `TestTable.to_frame(intervals=True)`; contrasts are named like the coefficients of
        ``0 + cell_type + cell_type:condition``.

    Raises
    ------
    InputError
        A column is missing, the groups are finer, or there are no counts.
    DesignError
        The factor has other than two levels, or some subjects have both and others one.

    Notes
    -----
    Student's t with the variance pooled over the two sides, every subject weighing the same
    whatever its number of cells; where subjects have both levels, that of their differences.
    Subjects without cells of a type (on both sides, where they are compared with themselves) are
    left out of its test.
    """
    obs = _checked_groups(groups, (subject, cell_type, factor))
    test_of = _paired if _are_paired(obs, factor, subject) else _student
    bulk, low_high = _bulk(groups, values, cell_type), _levels(obs[factor])
    parts = []
    for name in _levels(obs[cell_type]):
        rows = (obs[cell_type] == name).to_numpy()
        rare = _rare(groups, rows, min_counts)
        low, high = (
            pd.DataFrame(np.where(rare, np.nan, bulk[side]), index=obs[subject][side].astype(str))
            for side in (rows & (obs[factor] == level).to_numpy() for level in low_high)
        )
        test = test_of(low, high, moderate)
        contrast = f"{cell_type}[{name}]:{factor}[T.{low_high[1]}]"
        frame = _frame(contrast, groups.genes, level, test)
        frame.loc[rare, "status"] = str(Status.LOW_EXPRESSION)
        parts.append(frame)
    return pd.concat(parts, ignore_index=True)


@checked
def pooled_tests(
    stats: SummaryStatistics, contrasts: Any = None, *, level: float = 0.95
) -> pd.DataFrame:
    """Test contrasts by ordinary least squares over the cells, as if there were no subjects.

    The control that must fail: for effects between subjects it rejects far too often.

    Parameters
    ----------
    stats : SummaryStatistics
        Its random terms are not used.
    contrasts : optional
        Single contrasts as in `contrast_tests`.
    level : float
        Coverage of the confidence intervals.

    Returns
    -------
    DataFrame
        As `TestTable.to_frame(intervals=True)`.

    Raises
    ------
    DesignError
        X has not full column rank.
    """
    resolved = contrasts_of(contrasts, stats.coefficients, stats.coefficient_columns, stats)
    if np.linalg.matrix_rank(stats.XtX, hermitian=True) < len(stats.XtX):
        raise DesignError("Columns of X follow from others; drop them from the formula.")
    inverse, df = np.linalg.inv(stats.XtX), stats.n_cells - len(stats.XtX)
    coef = stats.YtX @ inverse  # of the columns that the products are of
    residual = (stats.yty - (coef * stats.YtX).sum(1)) / df
    residual[residual <= NOTHING * stats.yty / df] = np.nan
    if stats.origin is not None and (constant := stats.constant()) is not None:
        coef += np.outer(stats.origin, constant)
    parts = []
    for contrast in resolved:
        if len(contrast.matrix) > 1:
            raise InputError(f"contrasts: {contrast.name!r} is a joint one; give single contrasts.")
        c = stats.of_products(contrast.matrix)[0]
        test = {"estimate": coef @ c, "std_error": np.sqrt(residual * (c @ inverse @ c)), "df": df}
        parts.append(_frame(contrast.name, stats.genes, level, test))
    return pd.concat(parts, ignore_index=True)


def _checked_groups(groups: GroupStatistics, columns: tuple[str, ...]) -> pd.DataFrame:
    if set(groups.by) != set(columns):
        raise InputError(
            f"Groups of {listed(columns)} are needed; these are of {listed(groups.by)}. Summarise "
            "by these columns."
        )
    return groups.obs


def _are_paired(obs: pd.DataFrame, factor: str, subject: str) -> bool:
    """Whether all subjects have both levels of the factor; refused where only some have."""
    if obs[factor].nunique() != 2:
        raise DesignError(
            f"Pseudobulk compares two levels; {factor!r} has {obs[factor].nunique()}."
        )
    both = obs.groupby(subject, observed=True)[factor].nunique() > 1
    if both.any() and not both.all():
        raise DesignError(
            f"{subject} {listed(both.index[both][:3])} has both levels of {factor!r}, so that its "
            f"two values are no replicates, and {listed(both.index[~both][:3])} has one, so that "
            "it has no difference."
        )
    return bool(both.all())


def _levels(values: pd.Series) -> list[Any]:
    """Levels in their order: that of the categories, else sorted."""
    return list(pd.Categorical(values).remove_unused_categories().categories)


def _rare(groups: GroupStatistics, rows: np.ndarray, min_counts: float) -> np.ndarray:
    """Genes with fewer counts in some groups, (genes,)."""
    if not min_counts:
        return np.zeros(groups.n_genes, dtype=bool)
    if groups.counts is None:
        raise InputError("min_counts needs counts, and these groups hold none.")
    return np.asarray(groups.counts[rows].sum(0) < min_counts)


def _bulk(groups: GroupStatistics, values: str, cell_type: str) -> np.ndarray:
    """One value per group, (groups, genes)."""
    if values not in VALUES:
        raise InputError(f"values: one of {listed(VALUES)} expected, found {values!r}.")
    if values == "mean":
        return groups.totals() / groups.obs[N_CELLS].to_numpy(dtype=float)[:, None]
    if groups.counts is None:
        raise InputError(f"values: {values!r} needs counts, and these groups hold none.")
    total = groups.counts.sum(1, keepdims=True)
    if values == "log2_cpm_tmm":
        total = total * size_factors(groups, cell_type).to_numpy()[:, None]
    return np.log2((groups.counts + OFFSET_COUNT) / (total + OFFSET_TOTAL) * 1e6)


def _student(low: pd.DataFrame, high: pd.DataFrame, moderate: bool) -> dict[str, Any]:
    """Difference of the means of two sides (subjects, genes), its standard error and df."""
    return _t_test([low.to_numpy(), high.to_numpy()], moderate)


def _paired(low: pd.DataFrame, high: pd.DataFrame, moderate: bool) -> dict[str, Any]:
    """Mean of the differences of subjects that have both sides, its standard error and df."""
    both = low.index.intersection(high.index)
    return _t_test([high.loc[both].to_numpy() - low.loc[both].to_numpy()], moderate)


def _t_test(sides: list[np.ndarray], moderate: bool) -> dict[str, Any]:
    """The last mean less the one before it, if any; the variance is pooled over the sides."""
    sizes = [len(side) for side in sides]
    df = sum(sizes) - len(sizes)
    nothing = np.full(sides[0].shape[1], np.nan)
    if min(sizes) == 0 or df < 1:
        return {"estimate": nothing, "std_error": nothing, "df": nothing}
    means = [side.mean(0) for side in sides]
    squares = sum(((side - m) ** 2).sum(0) for side, m in zip(sides, means, strict=True))
    scale = np.max([(side**2).sum(0) for side in sides], axis=0)
    variance = np.where(squares > NOTHING * scale, squares / df, np.nan)
    each = np.full(len(variance), float(df))
    prior = moderation.fit_prior(variance, each) if moderate else None
    if prior is not None:
        variance, each = moderation.posterior(variance, each, prior)
    std_error = np.sqrt(variance * sum(1 / size for size in sizes))
    estimate = means[-1] - means[0] if len(means) == 2 else means[0]
    return {"estimate": estimate, "std_error": std_error, "df": each}


def _frame(contrast: str, genes: pd.Index, level: float, test: Mapping[str, Any]) -> pd.DataFrame:
    """Tests of one contrast as `TestTable.to_frame` has them."""
    estimate, std_error = test["estimate"], test["std_error"]
    df = np.broadcast_to(np.asarray(test["df"], dtype=float), estimate.shape)
    statistic = estimate / std_error
    p, log10_p = t_tail(statistic, df, "two-sided")
    low, high = student.confidence_limits(estimate, std_error, df, level, "two-sided")
    missing = np.where(np.isnan(estimate), str(Status.NOT_ESTIMABLE), str(Status.ZERO_VARIANCE))
    status = np.where(np.isnan(p), missing, str(Status.OK))
    t_test = (estimate, std_error, low, high, statistic, df)
    values = (*t_test, p, log10_p, adjust_p_values(p), status)
    columns = dict(zip(frame_columns(intervals=True), values, strict=True))
    return pd.DataFrame({"gene": np.asarray(genes, dtype=object), "contrast": contrast} | columns)
