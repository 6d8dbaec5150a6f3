"""Figures of one table of tests: means and fold changes, intervals of a gene, its subjects."""

from __future__ import annotations

from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from flashmm.plots.style import (
    DOWN,
    GREY,
    INK,
    PALE,
    PALETTE,
    UP,
    dots,
    legend_below,
    plain_log_ticks,
    require_columns,
    styled,
)

# Rows of a forest that are drawn, and panels of subjects.
MOST_ROWS, MOST_PANELS = 40, 12


@styled
def ma_plot(table: pd.DataFrame, *, fdr: float = 0.05, title: str = "") -> Figure:
    """Log2 fold changes against mean counts of one contrast.

    Parameters
    ----------
    table : DataFrame
        `TestTable.to_frame(details=True)` of one contrast: `mean_expression`, `log2_fc`,
        `adj_p_value`.
    fdr : float
        Adjusted p-values up to this are discoveries.
    title : str
        What is compared.

    Returns
    -------
    Figure
    """
    require_columns(table, ["mean_expression", "log2_fc", "adj_p_value"], "table")
    known = (table["mean_expression"] > 0) & np.isfinite(table["log2_fc"])
    table = table[known & table["adj_p_value"].notna()]
    fig = Figure(figsize=(6.2, 4.2))
    ax = fig.subplots()
    found, up = table["adj_p_value"] <= fdr, table["log2_fc"] > 0
    for rows, colour, word in (
        (~found, PALE, f"not at BH {fdr:.0%}"),
        (found & up, UP, "up"),
        (found & ~up, DOWN, "down"),
    ):
        part = table[rows]
        style = {"s": 11, "color": colour, "label": f"{len(part):,} {word}"}
        dots(ax, part["mean_expression"], part["log2_fc"], **style)
    ax.axhline(0, color=GREY, lw=0.8, zorder=0)
    ax.set_xscale("log")
    if len(table):
        plain_log_ticks(ax.xaxis)
    ax.set(xlabel="Mean count of the cells", ylabel="Log₂ fold change", title=fill(title, 64))
    legend_below(fig, ax, markerscale=1.5, handletextpad=0.1)
    return fig


@styled
def uniform_plot(table: pd.DataFrame, *, by: str = "contrast", title: str = "") -> Figure:
    """All p-values against uniform ones, a line per level.

    Parameters
    ----------
    table : DataFrame
        Tidy tests with `p_value` and the column `by`.
    by : str
        The column whose levels have lines of their own.
    title : str
        What is tested.

    Returns
    -------
    Figure
    """
    require_columns(table, ["p_value", by], "table")
    fig = Figure(figsize=(4.8, 4.6))
    ax, largest = fig.subplots(), 1.0
    for i, (name, part) in enumerate(table.groupby(by, sort=False, observed=True)):
        p = np.sort(part["p_value"].dropna().to_numpy())
        if len(p) == 0:
            continue
        expected = -np.log10((np.arange(len(p)) + 0.5) / len(p))
        observed = -np.log10(np.maximum(p, 1e-300))
        dots(ax, expected, observed, s=8, color=PALETTE[i % len(PALETTE)], label=str(name))
        largest = max(largest, float(expected[0]))
        if i == 0:
            rank = np.arange(1, len(p) + 1)
            low, high = (stats.beta.ppf(q, rank, len(p) + 1 - rank) for q in (0.025, 0.975))
            ax.fill_between(expected, -np.log10(high), -np.log10(low), color=PALE, alpha=0.5, lw=0)
    ax.plot([0, largest], [0, largest], color=INK, lw=0.9, zorder=3)
    ax.set(xlabel="Expected p-value, −log₁₀", ylabel="Observed p-value, −log₁₀")
    ax.set_title(fill(title, 48))
    legend_below(fig, ax, markerscale=1.8, handletextpad=0.1)
    return fig


@styled
def forest_plot(table: pd.DataFrame, *, label: str = "contrast", title: str = "") -> Figure:
    """Estimates of one gene with their intervals, a row per test.

    Parameters
    ----------
    table : DataFrame
        Rows of one gene: `estimate, conf_low, conf_high, adj_p_value` and the column `label`; with
        `log2_fc, log2_fc_low, log2_fc_high` these are drawn.
    label : str
        The column that names the rows.
    title : str
        The gene.

    Returns
    -------
    Figure
    """
    folds = "log2_fc" in table
    names = ("log2_fc", "log2_fc_low", "log2_fc_high")
    point, low, high = names if folds else ("estimate", "conf_low", "conf_high")
    require_columns(table, [point, low, high, "adj_p_value", label], "table")
    table = table.iloc[:MOST_ROWS][::-1]
    fig = Figure(figsize=(5.8, 1.4 + 0.3 * len(table)))
    ax = fig.subplots()
    ax.axvline(0, color=GREY, lw=0.9, zorder=1)
    for place, row in enumerate(table.to_dict(orient="records")):
        colour = INK if row["adj_p_value"] <= 0.05 else GREY
        ax.plot([row[low], row[high]], [place, place], color=colour, lw=1.4, zorder=2)
        ax.plot([row[point]], [place], "o", ms=5, color=colour, zorder=3)
    ax.set_yticks(range(len(table)), [fill(str(name), 40) for name in table[label]])
    ax.set(ylim=(-0.6, len(table) - 0.4), title=fill(title, 60))
    ax.set_xlabel("Log₂ fold change" if folds else "Estimate")
    ax.grid(axis="y", visible=False)
    return fig


@styled
def subjects_plot(table: pd.DataFrame, *, unit: str, title: str = "") -> Figure:
    """Means of one gene by subject and condition, a panel per level; lines join one subject.

    Parameters
    ----------
    table : DataFrame
        A row per panel, subject and condition: `panel, subject, condition, value, cells`.
    unit : str
        Unit of the values.
    title : str
        The gene.

    Returns
    -------
    Figure
    """
    require_columns(table, ["panel", "subject", "condition", "value", "cells"], "table")
    panels = list(dict.fromkeys(table["panel"]))[:MOST_PANELS]
    conditions = list(dict.fromkeys(table["condition"]))
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    fig = Figure(figsize=(1.2 + 2.1 * columns, 0.8 + 2.2 * rows))
    axes = fig.subplots(rows, columns, squeeze=False, sharey=True)
    rng = np.random.default_rng(0)
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    for ax, panel in zip(axes.flat, panels, strict=False):
        part = table[table["panel"] == panel]
        jitter = dict.fromkeys(part["subject"])
        jitter = {name: rng.uniform(-0.12, 0.12) for name in jitter}
        place = part["condition"].map(conditions.index) + part["subject"].map(jitter)
        part = part.assign(place=place)
        for _, own in part.groupby("subject", sort=False, observed=True):
            own = own.sort_values("place")
            ax.plot(own["place"], own["value"], color=PALE, lw=0.9, zorder=1)
        colours = [PALETTE[conditions.index(c) % len(PALETTE)] for c in part["condition"]]
        size = 12 + 60 * np.sqrt(part["cells"] / max(float(table["cells"].max()), 1.0))
        ax.scatter(part["place"], part["value"], s=size, c=colours, alpha=0.85, lw=0, zorder=2)
        ax.set_xticks(range(len(conditions)), [fill(str(c), 12) for c in conditions])
        ax.set(xlim=(-0.6, len(conditions) - 0.4), title=fill(str(panel), 22))
        ax.grid(axis="x", visible=False)
    fig.supylabel(unit, fontsize=9.5)
    fig.suptitle(fill(title, 60), fontsize=10)
    return fig
