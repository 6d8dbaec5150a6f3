"""Figures of null tests: quantiles, histograms, and how often they are rejected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FuncFormatter,
    NullFormatter,
)
from scipy import stats

from flashmm.plots.style import (
    BAND,
    GREY,
    INK,
    MAX_VECTOR_POINTS,
    Look,
    legend_below,
    looks_of,
    of_contrast,
    require_columns,
    styled,
)


@styled
def qq_plot(
    curves: Mapping[str, pd.DataFrame],
    *,
    contrast: str = "all",
    methods: Sequence[str] | None = None,
) -> Figure:
    """Quantiles of null p-values against uniform ones, by method.

    Parameters
    ----------
    curves : mapping
        Method to ``Evaluation.curves["qq"]``.
    contrast : str
        The contrast to draw.

    methods : sequence of str, optional
        All methods of a page, so that each has one colour in every figure.

    Returns
    -------
    Figure
    """
    chosen, fig = of_contrast(curves, contrast), Figure(figsize=(5.2, 4.9))
    ax, looks = fig.subplots(), looks_of(list(chosen), methods)
    widest = max(chosen.values(), key=lambda c: c["upper"].max() if len(c) else 0.0)
    top = max(1.15 * float(widest["upper"].max()), 1.0) if len(widest) else 1.0
    ceiling = max(top, 2.2 * float(widest["expected"].max())) if len(widest) else 1.0
    end = 1.04 * float(widest["expected"].max()) if len(widest) else 1.0
    ax.plot([0, end], [0, end], color=INK, lw=0.9, zorder=2)
    for name, curve in chosen.items():
        _qq_points(ax, name, curve, ceiling, looks[name])
    ax.fill_between(
        widest["expected"], widest["lower"], widest["upper"], color=BAND, lw=0, label="95 % band"
    )
    ax.set(xlim=(0, end), ylim=(0, None), xlabel="Expected null p-value, −log₁₀")
    ax.set_ylabel("Observed null p-value, −log₁₀")
    legend_below(fig, ax, markerscale=1.4)
    return fig


def _qq_points(ax: Axes, name: str, curve: pd.DataFrame, ceiling: float, look: Look) -> None:
    """Points of one method; those above the ceiling sit on it as open arrowheads."""
    x, y = curve["expected"].to_numpy(), curve["observed"].to_numpy()
    beyond = y > ceiling
    style: dict[str, Any] = {"color": look.colour, "ls": "none", "zorder": 3}
    style["rasterized"] = len(x) > MAX_VECTOR_POINTS
    ax.plot(x[~beyond], y[~beyond], look.marker, ms=3 * look.scale, mew=0, label=name, **style)
    if beyond.any():
        ax.plot(x[beyond], np.full(beyond.sum(), ceiling), marker="^", ms=5, mfc="none", **style)


@styled
def p_histogram(
    curves: Mapping[str, pd.DataFrame],
    *,
    contrast: str = "all",
    methods: Sequence[str] | None = None,
) -> Figure:
    """Histograms of null p-values, one panel per method.

    Parameters
    ----------
    curves : mapping
        Method to ``Evaluation.curves["p_histogram"]``.
    contrast : str
        The contrast to draw.

    methods : sequence of str, optional
        All methods of a page, so that each has one colour in every figure.

    Returns
    -------
    Figure
    """
    chosen = of_contrast(curves, contrast)
    looks = looks_of(list(chosen), methods)
    columns = 2 if len(chosen) == 4 else min(len(chosen), 3)
    rows = -(-len(chosen) // columns)
    fig = Figure(figsize=(2.7 * columns + 0.6, 2.3 * rows + 0.4))
    axes = fig.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for ax in axes.flat[len(chosen) :]:
        ax.remove()
    for ax, (name, curve) in zip(axes.flat, chosen.items(), strict=False):
        _p_bars(ax, curve, looks[name].colour)
        ax.set(title=name, xlim=(0, 1))
        ax.tick_params(labelbottom=True)
    fig.supxlabel("Null p-value", fontsize=9.5)
    fig.supylabel("Density", fontsize=9.5)
    return fig


def _p_bars(ax: Axes, curve: pd.DataFrame, colour: str) -> None:
    """Bars of one histogram over the band of its counts under uniform p-values."""
    n, bins = int(curve["n"].sum()), len(curve)
    # counts of a bin are binomial(n, 1/bins); density is count · bins / n
    low, high = (float(stats.binom.ppf(q, n, 1 / bins)) * bins / max(n, 1) for q in (0.025, 0.975))
    width = curve["right"] - curve["left"]
    ax.bar(curve["left"], curve["density"], width, align="edge", color=colour, ec="white", lw=0.6)
    ax.axhspan(low, high, color=GREY, alpha=0.28, lw=0, zorder=2)
    ax.axhline(1, color=INK, lw=0.9, zorder=3)
    ax.grid(False)


@styled
def fpr_plot(
    metrics: pd.DataFrame, *, contrast: str = "all", methods: Sequence[str] | None = None
) -> Figure:
    """False positive rates with 95 % Monte Carlo intervals, against their nominal levels.

    Parameters
    ----------
    metrics : DataFrame
        Rows of `Evaluation.metrics` (or of `average_metrics`) with a column `method`.
    contrast : str
        The contrast to draw.

    methods : sequence of str, optional
        All methods of a page, so that each has one colour in every figure.

    Returns
    -------
    Figure
    """
    require_columns(
        metrics, ["method", "metric", "level", "value", "std_error", "contrast"], "metrics"
    )
    rows = metrics[(metrics["metric"] == "fpr") & (metrics["contrast"] == contrast)]
    names, levels = list(dict.fromkeys(rows["method"])), sorted(rows["level"].unique())[::-1]
    fig = Figure(figsize=(max(5.2, 1.5 + len(levels) * (0.5 + 0.2 * len(names))), 4.9))
    ax, floor = fig.subplots(), _fpr_floor(rows)
    for place, level in enumerate(levels):
        ax.plot([place - 0.45, place + 0.45], [level, level], color=INK, ls=(0, (4, 2)), lw=1)
    for i, (method, look) in enumerate(looks_of(names, methods).items()):
        part = rows[rows["method"] == method].set_index("level").reindex(levels)
        offset = (i - (len(names) - 1) / 2) * min(0.8 / max(len(names), 1), 0.22)
        _fpr_marks(ax, method, part, np.arange(len(levels)) + offset, floor, look)
    ax.set_yscale("log")
    ax.set(xlim=(-0.5, len(levels) - 0.5), ylim=(floor / 1.3, None))
    ax.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
    ax.set(xlabel="Nominal level", ylabel="False positive rate (share of null tests)")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.grid(axis="x", visible=False)
    legend_below(fig, ax)
    return fig


def _fpr_floor(rows: pd.DataFrame) -> float:
    """Lowest rate that is drawn; a rate of zero is put there."""
    positive = rows.loc[rows["value"] > 0, "value"]
    lowest = min([*rows["level"], *positive]) if len(rows) else 1e-3
    return lowest / 3


def _fpr_marks(
    ax: Axes, method: str, part: pd.DataFrame, x: np.ndarray, floor: float, look: Look
) -> None:
    value, se = part["value"].to_numpy(dtype=float), part["std_error"].to_numpy(dtype=float)
    colour, marker = look.colour, look.marker
    some = value > 0
    # the interval is symmetric in log(rate): se(log v) = se / v
    spread = np.exp(1.96 * np.nan_to_num(se[some] / value[some]))
    errors = [value[some] - value[some] / spread, value[some] * spread - value[some]]
    ax.errorbar(
        x[some], value[some], errors, fmt=marker, ms=5.5, color=colour, lw=1.3, label=str(method)
    )
    none = value == 0
    if none.any():
        ax.plot(x[none], np.full(none.sum(), floor), "v", ms=5.5, mfc="white", color=colour)
        for place in x[none]:
            ax.annotate("0", (place, floor), (0, 5), textcoords="offset points", ha="center")
