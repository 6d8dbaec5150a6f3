"""All pairs of levels of a column, adjusted together within a gene."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from flashmm.design.contrasts import AllPairs
from flashmm.inference.adjustment import adjust_columns, holm
from flashmm.inference.model_fit import ModelFit
from flashmm.inference.table import TestTable
from flashmm.inference.testing import contrast_tests
from flashmm.kernels import studentized_range
from flashmm.options import InputError, checked
from flashmm.within import FitsWithin

ADJUSTMENTS = ("tukey", "holm", "none")


@checked
def pairwise(
    fit: ModelFit | FitsWithin,
    column: str,
    ddf: str | None = None,
    *,
    adjust: str | None = None,
    level: float = 0.95,
    moderate: bool = False,
    prior: Any = None,
) -> TestTable:
    """Test the differences between all pairs of levels of a column.

    Parameters
    ----------
    fit : LMMFit or FitsWithin
        The fitted models, from groups and a formula.
    column : str
        A column of the fixed effects, such as "condition", or "time" of ``C(time)``. Where its
        effect depends on another factor (cell_type:condition), the pairs within each level of this
        are a family.
    ddf, level, moderate, prior
        As in `contrast_tests`.
    adjust : {"tukey", "holm", "none"}, optional
        How the p-values of a gene are adjusted for the pairs of a family, before they are adjusted
        over genes: "tukey" by the studentized range of the levels with the df of each pair, with
        simultaneous confidence limits; "holm" by Holm's steps, the limits are those of single
        pairs; "none" leaves both as they are. By default "tukey", but "holm" where the tests are
        not t tests (ddf="empirical-bayes").

    Returns
    -------
    TestTable
        A contrast for each pair, "condition[b vs a]": estimate b - a, the t statistic of the pair,
        `p_value` adjusted within the gene, and `adj_p_value` of these by Benjamini-Hochberg over
        the genes.

    Raises
    ------
    InputError
        An adjustment that is not known, "tukey" for tests that are not t tests, or as
        `contrast_tests`.
    FormulaError
        There is no such column, or the pairs have no single difference.

    Notes
    -----
    Tukey and Kramer's procedure, as emmeans applies it to mixed models: exact for means with equal
    variances and covariances, conservative for unequal ones in one-way layouts (Hayter 1984, Ann.
    Stat. 12:61). With two levels all adjustments leave the p-value as it is. Holm 1979, Scand. J.
    Stat. 6:65, is valid for any tests.
    """
    if adjust is not None and adjust not in ADJUSTMENTS:
        raise InputError(f"adjust must be one of {', '.join(ADJUSTMENTS)}; found {adjust!r}.")
    table = contrast_tests(fit, AllPairs(column), ddf, level=level, moderate=moderate, prior=prior)
    by_t = table.ddf != "empirical-bayes"
    adjust = adjust or ("tukey" if by_t else "holm")
    if adjust == "none":
        return table
    if adjust == "tukey" and not by_t:
        raise InputError(
            "adjust='tukey' is for t tests, and those of ddf='empirical-bayes' are mixtures of "
            "them: use adjust='holm', or another ddf such as 'kenward-roger-2'."
        )
    for pairs in _families(table):
        table = (_tukey if adjust == "tukey" else _holm)(table, pairs)
    return replace(table, adj_p_value=adjust_columns(table.p_value))


def _families(table: TestTable) -> list[np.ndarray]:
    """Positions of the contrasts of each family that have a test, those of two or more."""
    levels = table.levels or ("",) * len(table.contrasts)
    keys = [(level, c.family) for level, c in zip(levels, table.contrasts, strict=True)]
    tested = np.isfinite(table.p_value).any(0)
    found = (
        np.array([j for j, own in enumerate(keys) if own == key and tested[j]], dtype=int)
        for key in dict.fromkeys(keys)
    )
    return [pairs for pairs in found if len(pairs) > 1]


def _n_levels(table: TestTable, pairs: np.ndarray) -> int:
    """Number of levels that some pairs are of."""
    differences = [table.contrasts[j].difference for j in pairs]
    return len({name for d in differences if d is not None for name in (d.level, d.reference)})


def _tukey(table: TestTable, pairs: np.ndarray) -> TestTable:
    """P-values and limits of the pairs of a family by the studentized range."""
    k, shape = _n_levels(table, pairs), (len(table.genes), len(pairs))
    q, df = np.sqrt(2.0) * np.abs(table.statistic[:, pairs]).ravel(), table.df[:, pairs].ravel()
    log_p = studentized_range.log_tail(q, k, df).reshape(shape)
    q_limit = studentized_range.quantile(1.0 - table.level, k, df).reshape(shape)
    half = q_limit / np.sqrt(2.0) * table.std_error[:, pairs]
    return _with(table, pairs, np.exp(log_p), log_p / np.log(10.0), half)


def _holm(table: TestTable, pairs: np.ndarray) -> TestTable:
    """P-values of the pairs of a family by Holm's steps; the limits of a table stay."""
    log10_p = holm(table.log10_p[:, pairs])
    return _with(table, pairs, 10.0**log10_p, log10_p, None)


def _with(
    table: TestTable,
    pairs: np.ndarray,
    p: np.ndarray,
    log10_p: np.ndarray,
    half: np.ndarray | None,
) -> TestTable:
    """The table with other p-values and limits of some contrasts."""
    changes = {"p_value": p, "log10_p": log10_p}
    if half is not None:
        estimate = table.estimate[:, pairs]
        changes |= {"conf_low": estimate - half, "conf_high": estimate + half}
    columns: dict[str, Any] = {}
    for name, values in changes.items():
        columns[name] = getattr(table, name).copy()
        columns[name][:, pairs] = values
    return replace(table, **columns)
