"""Names of the metrics, rows of one each, their standard errors, and averages of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from flashmm.benchmark.truth import require_columns
from flashmm.options import InputError

#: metric -> label, and whether a larger value is better (None where a target is)
METRICS: dict[str, tuple[str, bool | None]] = {
    "tests": ("Tests", None),
    "missing": ("Tests without a p-value", False),
    "de_tests": ("Tests of differentially expressed pairs", None),
    "de_untested": ("Differentially expressed pairs that were not tested", False),
    "lambda_gc": ("Genomic inflation λ of the null tests (target 1)", None),
    "discoveries": ("Discoveries at BH {level:.0%} per contrast", None),
    "discoveries_global": ("Discoveries at BH {level:.0%} over all contrasts", None),
    "fpr": ("False positive rate at p ≤ {level:g}", None),
    "fdp": ("False discovery proportion at BH {level:.0%} per contrast", False),
    "fdp_global": ("False discovery proportion at BH {level:.0%} over all contrasts", False),
    "tpr": ("True positive rate at BH {level:.0%} per contrast", True),
    "tpr_global": ("True positive rate at BH {level:.0%} over all contrasts", True),
    "power": ("Power at p ≤ {level:g}", True),
    "power_at_fpr": ("Power where {level:.2g} of the null tests are rejected", True),
    "power_gain": ("Power at p ≤ {level:g}, less that of the other method", True),
    "power_at_fpr_gain": (
        "Power where {level:.2g} of the null tests are rejected, less that of the other method",
        True,
    ),
    "coverage": ("Coverage of the intervals", None),
    "coverage_null": ("Coverage of the intervals of null tests", None),
    "auc": ("Area under the ROC curve", True),
    "pauc": ("Standardised partial area under the ROC curve, FPR ≤ {level:g}", True),
}


def metric_row(
    metric: str, value: float, *, level: float = np.nan, se: float = np.nan, n: int
) -> dict[str, Any]:
    """One number as a row of `Evaluation.metrics`."""
    return {"metric": metric, "level": level, "value": float(value), "std_error": se, "n": int(n)}


def metrics_frame(
    rows: list[dict[str, Any]], group: str | None, typed: bool = False
) -> pd.DataFrame:
    """Rows as `Evaluation.metrics`, with labels and whether larger values are better."""
    frame = pd.DataFrame(rows)
    frame["maximise"] = _maximise(frame["metric"])
    frame["label"] = [
        _describe(metric)[0].format(level=level)
        for metric, level in zip(frame["metric"], frame["level"], strict=True)
    ]
    labels = [*(["cell_type"] if typed else []), "contrast", *(["group"] if group else [])]
    return frame[["metric", "level", "value", "std_error", "n", *labels, "maximise", "label"]]


def _maximise(metrics: pd.Series) -> pd.Series:
    values = [_describe(metric)[1] for metric in metrics]
    return pd.Series(values, index=metrics.index, dtype=object)


def _describe(metric: str) -> tuple[str, bool | None]:
    if metric.startswith("missing_"):
        return f"Tests without a p-value, status {metric.removeprefix('missing_')}", False
    return METRICS[metric]


def average_metrics(metrics: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Average metrics over replicates.

    Parameters
    ----------
    metrics : DataFrame
        Rows of `Evaluation.metrics` of several runs, with columns that tell them apart.
    by : sequence of str
        The columns to keep, ``["scenario", "method"]`` for instance; the rest is averaged over.

    Returns
    -------
    DataFrame
        `by`, then the columns of `metrics` with the mean `value`, and `replicates`. With two or
        more replicates `std_error` is that of the mean between replicates, else the replicate's
        own; `n` is the total.
    """
    require_columns(metrics, [*by, "metric", "level", "value", "std_error", "n"], "metrics")
    extra = [column for column in ("cell_type", "contrast", "group") if column in metrics]
    grouped = metrics.groupby([*by, "metric", "level", *extra], dropna=False, sort=False)
    frame = grouped.agg(
        value=("value", "mean"),
        own=("std_error", "first"),
        between=("value", "sem"),
        n=("n", "sum"),
        replicates=("value", "count"),
        label=("label", "first"),
    ).reset_index()
    frame["std_error"] = frame["between"].where(frame["replicates"] > 1, frame["own"])
    frame["maximise"] = _maximise(frame["metric"])
    order = [*by, "metric", "level", "value", "std_error", "n", "replicates", *extra]
    return frame[[*order, "maximise", "label"]]


def valid_levels(levels: Sequence[float], name: str) -> tuple[float, ...]:
    """Levels as numbers between 0 and 1, or an InputError."""
    values = tuple(float(level) for level in levels)
    if any(not 0 < level < 1 for level in values):
        raise InputError(f"{name}: {values} must lie between 0 and 1.")
    return values


# ----------------------------------------------------------------------------------------------
# Means of tests, and errors that take the tests of a gene together


def mean(x: np.ndarray) -> float:
    """Mean, NaN of nothing."""
    return float(np.mean(x)) if len(x) else np.nan


def clustered_error(x: np.ndarray, cluster: np.ndarray) -> float:
    """Standard error of the mean of `x` when values of one cluster may depend on each other."""
    if len(x) < 2:
        return np.nan
    return clustered_sum_error((x - np.mean(x)) / len(x), cluster)


def clustered_sum_error(influence: np.ndarray, cluster: np.ndarray) -> float:
    """Standard error of a sum of influences; those of one cluster may depend on each other."""
    # se² = G/(G − 1) Σ_g (Σ_{i in g} influence_i)²
    _, code = np.unique(cluster, return_inverse=True)
    sums = np.bincount(code, influence)
    if len(sums) < 2:
        return np.nan
    return float(np.sqrt(len(sums) / (len(sums) - 1) * np.sum(sums**2)))
