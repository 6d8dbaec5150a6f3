"""Figures of what is found: ROC curves, and power against false discoveries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    PercentFormatter,
)

from flashmm.options import InputError
from flashmm.plots.style import (
    GREY,
    INK,
    Look,
    legend_below,
    looks_of,
    of_contrast,
    require_columns,
    styled,
)


@styled
def roc_plot(
    curves: Mapping[str, pd.DataFrame],
    *,
    contrast: str = "all",
    auc: Mapping[str, float] | None = None,
    zoom: float = 0.1,
    methods: Sequence[str] | None = None,
) -> Figure:
    """ROC curves, whole and for few false positives.

    Parameters
    ----------
    curves : mapping
        Method to ``Evaluation.curves["roc"]``.
    contrast : str
        The contrast to draw.
    auc : mapping, optional
        Method to area under the curve, said in the legend.
    zoom : float
        Largest false positive rate of the right panel.

    methods : sequence of str, optional
        All methods of a page, so that each has one colour in every figure.

    Returns
    -------
    Figure
    """
    chosen, fig = of_contrast(curves, contrast), Figure(figsize=(7.6, 4.1))
    whole, part = fig.subplots(1, 2)
    looks = looks_of(list(chosen), methods)
    for name, curve in chosen.items():
        label = name if auc is None else f"{name} (AUC {auc[name]:.3f})"
        style = {"color": looks[name].colour, "ls": looks[name].line, "drawstyle": "steps-post"}
        for ax in (whole, part):
            ax.plot(curve["fpr"], curve["tpr"], label=label, **style)
    for ax, end in ((whole, 1.0), (part, zoom)):
        ax.plot([0, 1], [0, 1], color=GREY, ls=":", lw=1.2)
        ax.set(
            xlim=(0, end), ylim=(0, 1.01), xlabel="False positive rate", ylabel="True positive rate"
        )
    part.axvline(0.05, color=INK, ls=(0, (4, 2)), lw=1)
    part.annotate("0.05", (0.05, 0.12), (3, 0), textcoords="offset points")
    whole.set_title("All thresholds")
    part.set_title(f"False positive rate up to {zoom:g}")
    legend_below(fig, whole)
    return fig


@styled
def fdr_tpr_plot(
    metrics: pd.DataFrame,
    curves: Mapping[str, pd.DataFrame] | None = None,
    *,
    contrast: str = "all",
    adjustment: str = "local",
    methods: Sequence[str] | None = None,
) -> Figure:
    """True positive rate against the realised false discovery proportion.

    Parameters
    ----------
    metrics : DataFrame
        Rows of `Evaluation.metrics` (or of `average_metrics`) with a column `method`.
    curves : mapping, optional
        Method to ``Evaluation.curves["fdp_tpr"]``, drawn as thin lines behind the marks.
    contrast : str
        The contrast to draw.
    adjustment : {"local", "global"}
        P-values adjusted per contrast or over all contrasts.

    methods : sequence of str, optional
        All methods of a page, so that each has one colour in every figure.

    Returns
    -------
    Figure
    """
    require_columns(
        metrics, ["method", "metric", "level", "value", "std_error", "contrast"], "metrics"
    )
    points = _fdp_points(metrics[metrics["contrast"] == contrast], adjustment)
    names = list(dict.fromkeys(points["method"]))
    fig = Figure(figsize=(5.6, 4.7))
    ax = fig.subplots()
    for level in sorted(points["level"].unique()):
        ax.axvline(level, color=INK, ls=(0, (4, 2)), lw=1, zorder=1)
        ax.annotate(f"{level:.0%}", (level, 1), (2, 2), ("data", "axes fraction"), "offset points")
    lines = of_contrast(curves, contrast) if curves else {}
    for method, look in looks_of(names, methods).items():
        if method in lines:
            line = lines[method]
            ax.plot(line["fdp"], line["tpr"], color=look.colour, lw=0.9, alpha=0.5, zorder=2)
        _fdp_marks(ax, method, points[points["method"] == method], look)
    reach = np.nanmax([0.25, *(points["fdp"] + 1.96 * points["fdp_error"].fillna(0)).tolist()])
    ax.set(xlim=(0, min(1.05 * reach, 1)), ylim=(0, 1.01))
    ax.set(xlabel="Realised false discovery proportion", ylabel="True positive rate")
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    legend_below(fig, ax)
    return fig


def _fdp_points(metrics: pd.DataFrame, adjustment: str) -> pd.DataFrame:
    """One row per method and level: `fdp, fdp_error, tpr, tpr_error`."""
    if adjustment not in ("local", "global"):
        raise InputError(f"adjustment: {adjustment!r} is not known; use 'local' or 'global'.")
    suffix = "" if adjustment == "local" else "_global"
    keys, parts = ["method", "level"], []
    for name in ("fdp", "tpr"):
        rows = metrics[metrics["metric"] == f"{name}{suffix}"][[*keys, "value", "std_error"]]
        parts.append(rows.rename(columns={"value": name, "std_error": f"{name}_error"}))
    return parts[0].merge(parts[1], on=keys)


def _fdp_marks(ax: Axes, method: str, points: pd.DataFrame, look: Look) -> None:
    """Marks with 95 % intervals; filled where the proportion is not above its nominal level."""
    x, y = points["fdp"].to_numpy(), points["tpr"].to_numpy()
    xerr, yerr = 1.96 * points["fdp_error"], 1.96 * points["tpr_error"]
    colour, marker = look.colour, look.marker
    ax.errorbar(x, y, yerr, xerr, fmt="none", ecolor=colour, elinewidth=1, alpha=0.75, zorder=3)
    controlled = x - 1.96 * points["fdp_error"].fillna(0).to_numpy() <= points["level"].to_numpy()
    ax.plot([], [], marker=marker, ms=6.5, color=colour, ls="none", label=str(method))
    fills = [colour if good else "white" for good in controlled]
    size = 38 * look.scale**2
    ax.scatter(x, y, s=size, marker=marker, c=fills, ec=colour, lw=1.5, zorder=4, clip_on=False)
