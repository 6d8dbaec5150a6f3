"""Whether an effect differs between the levels of a factor, such as cell types."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from flashmm.inference.adjustment import adjust_columns
from flashmm.inference.shared_subjects import error_correlation
from flashmm.inference.table import TestTable
from flashmm.inference.testing import contrast_tests
from flashmm.inference.tidy import tidy
from flashmm.kernels.heterogeneity import Heterogeneity, welch_heterogeneity
from flashmm.kernels.tails import f_tail
from flashmm.lmm import LMMFit
from flashmm.options import InputError, Status, checked
from flashmm.shown import Shown

COLUMNS = (
    *("n_levels", "statistic", "df_num", "df", "i2"),
    *("p_value", "log10_p", "adj_p_value", "status"),
)


@dataclass(frozen=True, eq=False)
class HeterogeneityTable(Shown):
    """Tests of whether effects differ, (genes, effects) arrays.

    Attributes
    ----------
    n_levels : array
        Levels of the factor that have an estimate.
    statistic, df_num, df : arrays
        F and its degrees of freedom.
    i2 : array
        Share of the variation between the estimates that is beyond their errors, from 0 to 1
        (Higgins & Thompson 2002): 1 - 1/F, zero for F below one.
    p_value, log10_p, adj_p_value : arrays
        Adjusted by Benjamini-Hochberg for each effect.
    status : array of str
        "ok", "not_estimable" with less than two levels, or that of the joint test.
    genes : pandas.Index
        Names of the genes.
    effects : tuple of str
        What is compared between the levels, such as "stim vs ctrl".
    method : str
        "joint" where one model has all levels, "separate" where each has its own.
    correlation : dict of str to DataFrame
        By effect, the mean correlation between the errors of the levels' estimates, (levels,
        levels); empty where it is not known, or not needed (one model).
    """

    n_levels: np.ndarray
    statistic: np.ndarray
    df_num: np.ndarray
    df: np.ndarray
    i2: np.ndarray
    p_value: np.ndarray
    log10_p: np.ndarray
    adj_p_value: np.ndarray
    status: np.ndarray
    genes: pd.Index
    effects: tuple[str, ...]
    method: str
    correlation: dict[str, pd.DataFrame] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """One row per effect and gene, effects one after another.

        Its columns are gene, effect, n_levels, statistic, df_num, df, i2, p_value, log10_p,
        adj_p_value and status.
        """
        columns = {name: getattr(self, name) for name in COLUMNS}
        return pd.DataFrame(tidy(self.genes, {"effect": self.effects}, columns))


@checked
def heterogeneity(table: TestTable) -> HeterogeneityTable:
    """Test whether an effect differs between the levels of a factor, such as cell types.

    Parameters
    ----------
    table : TestTable
        Two-sided tests of single contrasts at several levels: of `fit_within`, or differences
        between levels of a column (``contrast_tests(fit, "condition")``) in one model in which they
        depend on another factor (cell_type:condition).

    Returns
    -------
    HeterogeneityTable
        `to_frame()` makes it tidy.

    Raises
    ------
    InputError
        The table has no effect at two levels, or joint tests.

    Notes
    -----
    In one model ("joint") it is the F test that all differences are equal, by the table's `ddf`: it
    knows that levels share subjects. Estimates of separate models are compared by Welch's (1951)
    test, which is Cochran's Q with weights from estimated variances. Where a subject is high in all
    levels their estimates are positively correlated, and the mean of Q is lower than without:
    the test is conservative. Its spread can be larger, where one level is estimated much better
    than the others, which then differ from it together. The p-value is therefore the larger one of
    two, of independent estimates and of estimates with the correlation that the fits show on
    average over the genes; `statistic` and `df_num` belong to it. A correlation makes no p-value
    smaller, because that of single genes is not known.
    """
    if (table.df_num > 1).any():
        raise InputError("Joint tests have no effect to compare: give a table of single contrasts.")
    if table.within is not None:
        return _separate(table)
    return _joint(table)


def _separate(table: TestTable) -> HeterogeneityTable:
    """Welch's test of the estimates of separate models, effect by effect."""
    names = list(dict.fromkeys(table.contrast_names))
    positions = [[j for j, own in enumerate(table.contrast_names) if own == n] for n in names]
    _require_levels([len(columns) for columns in positions])
    known = {n: error_correlation(table, c) for n, c in zip(names, positions, strict=True)}
    found = [_welch(table, c, known[n]) for n, c in zip(names, positions, strict=True)]
    n_levels, statistic, df_num, df = (np.column_stack(part) for part in zip(*found, strict=True))
    status = np.where(n_levels > 1, str(Status.OK), str(Status.NOT_ESTIMABLE))
    result = _table(table, tuple(names), "separate", (n_levels, statistic, df_num, df), status)
    frames = {}
    for name, columns in zip(names, positions, strict=True):
        levels = pd.Index([table.levels[j] for j in columns], name=table.within)
        if known[name] is not None:
            frames[name] = pd.DataFrame(known[name], index=levels, columns=levels)
    return replace(result, correlation=frames)


def _welch(table: TestTable, columns: list[int], correlation: np.ndarray | None) -> Heterogeneity:
    """The test with the larger p-value: of independent estimates, or of correlated ones."""
    numbers = table.estimate[:, columns], table.std_error[:, columns], table.df[:, columns]
    independent = welch_heterogeneity(*numbers)
    if correlation is None:
        return independent
    correlated = welch_heterogeneity(*numbers, correlation)
    tails = (f_tail(test.statistic, test.df_num, test.df)[1] for test in (independent, correlated))
    larger = np.less(*tails)
    chosen = (np.where(larger, c, i) for c, i in zip(correlated, independent, strict=True))
    return Heterogeneity(*chosen)


def _joint(table: TestTable) -> HeterogeneityTable:
    """F tests that the differences of two levels are equal in all places, from the joint model."""
    places: dict[str, list[int]] = {}
    for j, contrast in enumerate(table.contrasts):
        if contrast.difference is not None:
            places.setdefault(contrast.difference.comparison, []).append(j)
    places = {name: columns for name, columns in places.items() if len(columns) > 1}
    _require_levels([len(columns) for columns in places.values()])
    if not isinstance(table.tested, LMMFit):
        raise InputError("heterogeneity needs the fit behind the tests, of fit_lmm.")
    rows = {}
    for name, columns in places.items():
        # what cannot be tested is no part of the comparison
        tested = [j for j in columns if np.isfinite(table.p_value[:, j]).any()] or columns
        matrix = np.concatenate([table.contrasts[j].matrix for j in tested])
        rows[name] = (matrix[1:] - matrix[0]).T if len(tested) > 1 else matrix.T
    joint = contrast_tests(table.tested, rows, table.ddf)
    shape = joint.p_value.shape
    n_levels = np.broadcast_to(joint.df_num + 1, shape)
    df_num = np.broadcast_to(joint.df_num, shape)
    # one difference is a t test
    statistic = np.where(joint.df_num > 1, joint.statistic, joint.statistic**2)
    numbers = (n_levels, statistic, df_num, joint.df)
    result = _table(table, tuple(rows), "joint", numbers, joint.status)
    return replace(
        result,
        p_value=joint.p_value,
        log10_p=joint.log10_p,
        adj_p_value=joint.adj_p_value,
    )


def _require_levels(sizes: list[int]) -> None:
    if not sizes or max(sizes) < 2:
        raise InputError(
            "The table has no effect at two levels or more: test each cell type by fit_within, or "
            "the differences of a column whose effect depends on another factor, such as "
            "contrast_tests(fit, 'condition') of '~ 0 + cell_type + cell_type:condition'."
        )


def _table(
    table: TestTable,
    effects: tuple[str, ...],
    method: str,
    numbers: tuple[np.ndarray, ...],
    status: np.ndarray,
) -> HeterogeneityTable:
    n_levels, statistic, df_num, df = numbers
    p, log10_p = f_tail(statistic, df_num, df)
    with np.errstate(divide="ignore", invalid="ignore"):
        i2 = np.maximum(1.0 - 1.0 / statistic, 0.0)
    return HeterogeneityTable(
        n_levels=n_levels,
        statistic=statistic,
        df_num=df_num,
        df=df,
        i2=i2,
        p_value=p,
        log10_p=log10_p,
        adj_p_value=adjust_columns(p),
        status=status,
        genes=table.genes,
        effects=effects,
        method=method,
    )
