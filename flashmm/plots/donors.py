"""Pictures of a study on real donors: rejections of true nulls, and discoveries."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flashmm.options import InputError
from flashmm.plots.style import (
    GREY,
    INK,
    legend_below,
    looks_of,
    plain_log_ticks,
    require_columns,
    styled,
)

# Ratios below are drawn at the edge: the axis has no zero.
LOWEST = 0.05


@styled
def donor_plot(metrics: pd.DataFrame) -> Figure:
    """Draw rejections over their level, and TPR against FDP.

    Parameters
    ----------
    metrics : DataFrame
        Rows of `judge` of one number of subjects.

    Returns
    -------
    Figure
    """
    columns = ["method", "kind", "cell_type", "quarter", "metric", "level", "value", "std_error"]
    require_columns(metrics, columns, "metrics")
    whole = metrics[(metrics["cell_type"] == "all") & (metrics["quarter"] == "all")]
    if whole.empty:
        raise InputError("metrics: no rows of all cell types and quarters; nothing to draw.")
    methods = list(whole["method"].unique())
    fig = Figure(figsize=(9.5, 4.8))
    left, right = fig.subplots(1, 2)
    _rejections(left, whole, methods)
    _discoveries(right, whole, methods)
    legend_below(fig, left)
    return fig


def _rejections(ax: Axes, whole: pd.DataFrame, methods: list[str]) -> None:
    rows = whole[(whole["metric"] == "fpr") & (whole["kind"] == "permuted")]
    levels = sorted(rows["level"].unique(), reverse=True)
    ax.axhline(1, color=INK, lw=1, ls=(0, (4, 2)), zorder=1)
    for i, (name, look) in enumerate(looks_of(methods).items()):
        own = rows[rows["method"] == name].set_index("level").reindex(levels)
        ratio = np.maximum(own["value"] / levels, LOWEST)
        error = (2 * own["std_error"].fillna(0) / levels).clip(upper=0.95 * ratio)
        x = np.arange(len(levels)) + (i - (len(methods) - 1) / 2) * 0.8 / len(methods)
        ax.errorbar(x, ratio, error, fmt=look.marker, color=look.colour, ms=5, lw=1, label=name)
    ax.set_yscale("log")
    plain_log_ticks(ax.yaxis)
    ax.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
    ax.set(xlabel="Level", ylabel="Rejected true nulls over the level", title="Nothing differs")


def _discoveries(ax: Axes, whole: pd.DataFrame, methods: list[str]) -> None:
    rows = whole[whole["kind"] == "thinned"]
    ax.axvline(0.05, color=INK, lw=1, ls=(0, (4, 2)), zorder=1)
    for name, look in looks_of(methods).items():
        own = rows[rows["method"] == name].set_index("metric")
        if not {"fdp", "tpr"} <= set(own.index):
            continue
        value, error = own["value"].astype(float), 2 * own["std_error"].astype(float)
        ax.errorbar(
            [value["fdp"]],
            [value["tpr"]],
            [error["tpr"]],
            [error["fdp"]],
            fmt=look.marker,
            color=look.colour,
            ms=6,
            lw=0.8,
            ecolor=GREY,
        )
    ax.set(
        xlabel="False discovery proportion at BH 5 %",
        ylabel="True positive rate",
        title="True fold changes put in",
    )
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
