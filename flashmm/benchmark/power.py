"""How many true effects are found: at a level, and where as many null tests are rejected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from flashmm.benchmark.metrics import (
    clustered_sum_error,
    mean,
    metric_row,
    metrics_frame,
    valid_levels,
)
from flashmm.benchmark.truth import (
    ALL,
    contrast_cell_types,
    keys_of_tests,
    prepare_tests,
    refuse_unassigned,
    require_columns,
)
from flashmm.options import InputError, checked


def power_metrics(tests: pd.DataFrame, levels: Sequence[float]) -> Iterator[dict[str, Any]]:
    """Yield the rows of power at each level; none where no test is of a true effect."""
    de, gene = tests["de"].to_numpy(), tests["gene"].to_numpy()
    if not de.any():
        return
    for level in levels:
        for metric, (value, influence) in powers(tests, level).items():
            se = clustered_sum_error(influence, gene)
            yield metric_row(metric, value, level=level, se=se, n=de.sum())


def powers(tests: pd.DataFrame, level: float) -> dict[str, tuple[float, np.ndarray]]:
    """Power at a level and at a realised false positive rate, with the influence of every test."""
    de, found = tests["de"].to_numpy(), (tests["p"] <= level).to_numpy()
    power = mean(found[de])
    nominal = np.where(de, found - power, 0.0) / de.sum()
    return {"power": (power, nominal), "power_at_fpr": _power_at_fpr(tests, level)}


def _power_at_fpr(tests: pd.DataFrame, fpr: float) -> tuple[float, np.ndarray]:
    """The ROC curve at a false positive rate, and the influence of every test on it.

    With R(x) the share of true effects above the threshold c that a share x of the nulls exceeds,
    an effect contributes (1[s ≥ c] − R)/n₁ and a null, by moving c, −R'(x)(1[s ≥ c] − x)/n₀.
    """
    de, rank = tests["de"].to_numpy(), tests["rank"].to_numpy()
    null = np.sort(rank[~de])[::-1]
    if not len(null):
        return np.nan, np.full(len(de), np.nan)
    value, step = _roc_at(rank[de], null, fpr), fpr / 4
    rise = _roc_at(rank[de], null, fpr + step) - _roc_at(rank[de], null, fpr - step)
    slope = rise / (2 * step)
    above = rank >= null[max(int(np.ceil(fpr * len(null))) - 1, 0)]
    influence = np.where(
        de, (above - value) / de.sum(), -slope * (above - above[~de].mean()) / len(null)
    )
    return value, influence


def _roc_at(effects: np.ndarray, null: np.ndarray, fpr: float) -> float:
    """Height of the ROC curve; straight between its points, so that ties are broken at random."""
    # points of the curve at the distinct null scores that enclose the rate; `null` falls
    score = null[min(int(fpr * len(null)), len(null) - 1)]
    above, with_ties = (null > score).sum(), (null >= score).sum()
    low, high = (effects > score).mean(), (effects >= score).mean()
    share = (fpr * len(null) - above) / (with_ties - above)
    return float(low + (high - low) * share)


@checked
def power_gains(
    table: pd.DataFrame,
    other: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    contrast_map: Mapping[str, str] | None = None,
    cell_type: str = "cell_type",
    levels: Sequence[float] = (0.05, 0.01, 0.001),
) -> pd.DataFrame:
    """Compare the power of two methods on the same tests.

    Parameters
    ----------
    table, other : DataFrame
        Tests of both, as for `evaluate`; the tests that both have are used. Where one of them has
        a column with the cell type, and the contrasts of the other say it, tests are the same that
        are of the same gene and cell type.
    truth : DataFrame
        `gene, cell_type` of the differentially expressed pairs.
    contrast_map, cell_type, levels
        As for `evaluate`.

    Returns
    -------
    DataFrame
        Rows like `Evaluation.metrics`: ``power_gain`` and ``power_at_fpr_gain`` at every level, of
        `table` over `other`. The standard error is that of the paired difference, genes as
        clusters.

    Raises
    ------
    InputError
        As for `evaluate`; or no test is in both.
    """
    levels = valid_levels(levels, "levels")
    for part, name in ((table, "table"), (other, "other")):
        require_columns(part, ["gene", "contrast"], name)
    if (cell_type in table) != (cell_type in other):
        table, other = (
            _by_cell_type(part, truth, contrast_map, cell_type) for part in (table, other)
        )
    keys = ["gene", *keys_of_tests(table, cell_type)]
    alike = table[keys].equals(other[keys])  # merging is slow where there are very many tests
    shared = table[keys] if alike else table[keys].merge(other[keys])
    if shared.empty:
        raise InputError("table, other: no pair of gene and contrast is in both.")
    both = [
        prepare_tests(part, truth, None if cell_type in part else contrast_map, cell_type, None, [])
        for part in (_in_order(table, shared), _in_order(other, shared))
    ]
    gene, n = both[0]["gene"].to_numpy(), int(both[0]["de"].sum())
    rows = []
    for level in levels if n else ():
        mine, theirs = (powers(part, level) for part in both)
        for metric in mine:
            gain = mine[metric][0] - theirs[metric][0]
            se = clustered_sum_error(mine[metric][1] - theirs[metric][1], gene)
            row = metric_row(f"{metric}_gain", gain, level=level, se=se, n=n)
            rows.append(row | {"contrast": ALL})
    if not rows:
        raise InputError("truth: none of its pairs is tested; there is no power to compare.")
    return metrics_frame(rows, None)


def _by_cell_type(
    table: pd.DataFrame,
    truth: pd.DataFrame,
    contrast_map: Mapping[str, str] | None,
    cell_type: str,
) -> pd.DataFrame:
    """The table with a column of cell types in place of the names of its contrasts."""
    if cell_type not in table:
        names, known = table["contrast"].unique(), truth["cell_type"].astype(str).unique()
        types = contrast_cell_types(names, known, contrast_map=contrast_map, cell_type=cell_type)
        refuse_unassigned(types, cell_type)
        table = table.assign(**{cell_type: table["contrast"].map(types)})
    return table.assign(contrast=ALL)


def _in_order(table: pd.DataFrame, keys: pd.DataFrame) -> pd.DataFrame:
    """Rows of the table for the pairs in `keys`, in their order."""
    names = list(keys.columns)
    return table if table[names].equals(keys) else keys.merge(table, on=names)
