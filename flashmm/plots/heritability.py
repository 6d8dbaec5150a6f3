"""Figures of heritabilities, and of correlations between cell types."""

from __future__ import annotations

from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    MaxNLocator,
)
from scipy import stats

from flashmm.options import InputError
from flashmm.plots.style import (
    BAND,
    GREY,
    INK,
    MARKERS,
    PALETTE,
    dots,
    legend_below,
    more_room,
    require_columns,
    styled,
)


@styled
def heritability_plot(
    profiles: pd.DataFrame, estimates: pd.DataFrame, *, level: float = 0.95
) -> Figure:
    """Log-likelihood over the heritability, with the maximum and its interval.

    Parameters
    ----------
    profiles : DataFrame
        From `flashmm.KinshipFit.profile_frame`; one panel per trait.
    estimates : DataFrame
        From `flashmm.KinshipFit.to_frame`, of the same `level`.
    level : float
        Coverage of the interval.

    Returns
    -------
    Figure
    """
    require_columns(profiles, ["trait", "h2", "loglik"], "profiles")
    require_columns(estimates, ["trait", "h2", "h2_lower", "h2_upper"], "estimates")
    traits = list(dict.fromkeys(profiles["trait"]))
    if not traits:
        raise InputError("profiles: no trait is there to draw.")
    rows = estimates.set_index("trait")
    columns = min(len(traits), 3)
    lines = -(-len(traits) // columns)
    fig = Figure(figsize=(1.0 + 2.9 * columns, 0.7 + 2.6 * lines))
    axes = fig.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    more_room(fig)
    cut = -0.5 * float(stats.chi2.ppf(level, 1))
    for ax, trait in zip(axes.flat, traits, strict=False):
        _heritability_panel(ax, profiles[profiles["trait"] == trait], rows.loc[trait], cut)
        ax.tick_params(labelbottom=True)
    for ax in axes.flat[len(traits) :]:
        ax.set_axis_off()
    for mark, label in zip(
        (axes[0, 0].patches[0], axes[0, 0].lines[-1]),
        (f"{100 * level:g} % interval", "maximum"),
        strict=True,
    ):
        mark.set_label(label)
    axes[0, 0].set(xlim=(-0.02, 1.02), ylim=(3.0 * cut, -0.12 * cut))
    for ax in axes.flat:
        ax.set_xlabel("Heritability h²")
    for ax in axes[:, 0]:
        ax.set_ylabel("Log-likelihood − maximum")
    legend_below(fig, axes[0, 0])
    return fig


def _heritability_panel(ax: Axes, profile: pd.DataFrame, row: pd.Series, cut: float) -> None:
    h2, loglik = profile["h2"].to_numpy(float), profile["loglik"].to_numpy(float)
    finite = np.isfinite(loglik)
    # K that is singular inside X only: ML rises without bound at h² = 1, and the maximum is inside
    top = np.interp(row["h2"], h2[finite], loglik[finite])
    low, high = row["h2_lower"], row["h2_upper"]
    ax.axvspan(low, high, color=BAND, lw=0, zorder=1)
    ax.axhline(cut, color=GREY, lw=0.9, ls="--", zorder=2)
    ax.plot(h2[finite], loglik[finite] - top, color=PALETTE[0], zorder=3)
    ax.plot(row["h2"], 0.0, "o", color=PALETTE[1], ms=5, zorder=4, clip_on=False)
    name = fill(str(row.name), 34)
    # a short name beside its estimate, a long one above it
    between = "\n" if len(name) > 16 else " "
    ax.set_title(f"{name}:{between}{row['h2']:.2f} [{low:.2f}, {high:.2f}]")


@styled
def dense_agreement_plot(dense: pd.DataFrame) -> Figure:
    """Heritabilities of a dense optimiser against ours, and what is left between them.

    Parameters
    ----------
    dense : DataFrame
        trait, true_h2, h2, dense_h2, loglik, dense_loglik, as in `heritability.Recovery`.

    Returns
    -------
    Figure
    """
    require_columns(dense, ["true_h2", "h2", "dense_h2", "loglik", "dense_loglik"], "dense")
    fig = Figure(figsize=(7.8, 3.9))
    identity, rest = fig.subplots(1, 2)
    more_room(fig)
    identity.plot([0, 1], [0, 1], color=GREY, lw=1, zorder=1)
    rest.axhline(0.0, color=GREY, lw=1, zorder=1)
    for i, (true_h2, part) in enumerate(dense.groupby("true_h2")):
        mark, colour = MARKERS[i % len(MARKERS)], PALETTE[i % len(PALETTE)]
        look: dict[str, Any] = {"marker": mark, "color": colour, "s": 20, "alpha": 0.75}
        look |= {"zorder": 3, "clip_on": False}
        dots(identity, part["dense_h2"], part["h2"], label=f"true h² = {true_h2:g}", **look)
        dots(rest, part["dense_h2"], part["loglik"] - part["dense_loglik"], **look)
    identity.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel="flashmm: h²", title="Heritability")
    rest.set(xlim=(-0.02, 1.02), ylabel="flashmm − dense", title="Log-likelihood reached")
    rest.yaxis.set_major_locator(MaxNLocator(5))
    rest.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    for ax in (identity, rest):
        ax.set_box_aspect(1)
        ax.set_xlabel("Dense optimiser: h²")
    legend_below(fig, identity)
    return fig


@styled
def heritability_strips(table: pd.DataFrame, group: str, truth: str | None = None) -> Figure:
    """Estimated heritabilities, a line of dots with a box per group.

    Parameters
    ----------
    table : DataFrame
        With the columns `h2` and `group`; NaN are left out.
    group : str
        Column of the groups, such as cell_type or true_h2.
    truth : str, optional
        Column of the true heritability, one value per group.

    Returns
    -------
    Figure
    """
    require_columns(table, ["h2", group, *([truth] if truth else [])], "table")
    table = table[table["h2"].notna()]
    names = list(dict.fromkeys(table[group]))
    if not names:
        raise InputError("table: no heritability is there to draw.")
    fig = Figure(figsize=(7.6, 1.1 + 0.55 * len(names)))
    ax = fig.subplots()
    for i, name in enumerate(names):
        part = table[table[group] == name]
        x = part["h2"].to_numpy(float)
        # dots between the lines, in a fixed order that looks like chance
        shift = 0.26 * (2.0 * np.modf(np.arange(len(x)) * 0.61803398875)[0] - 1.0)
        dots(ax, x, i + shift, s=9, color=PALETTE[0], alpha=0.35, zorder=2)
        ax.boxplot(
            x,
            positions=[i],
            orientation="horizontal",
            widths=0.36,
            showfliers=False,
            zorder=3,
            boxprops={"color": INK},
            medianprops={"color": PALETTE[1], "lw": 2.2},
            whiskerprops={"color": INK},
            capprops={"color": INK},
            manage_ticks=False,
        )
        if truth:
            known = float(part[truth].iloc[0])
            ax.plot(known, i - 0.36, "v", color="black", ms=6, zorder=4, clip_on=False)
    ax.set_yticks(range(len(names)), [fill(_short_group(name), 32) for name in names])
    ax.set(xlim=(-0.02, 1.02), ylim=(len(names) - 0.5, -0.55), xlabel="Estimated heritability h²")
    if truth:
        ax.set_ylabel("True h²")
    ax.grid(axis="y", visible=False)
    return fig


def _short_group(name: Any) -> str:
    return f"{name:g}" if isinstance(name, float) else str(name)


@styled
def trait_correlation_plot(covariances: pd.DataFrame) -> Figure:
    """Correlations between cell types, the median over genes.

    Parameters
    ----------
    covariances : DataFrame
        From `flashmm.subject_models`: cell_type, other, correlation0, correlation1.

    Returns
    -------
    Figure
    """
    columns = ["correlation0", "correlation1"]
    require_columns(covariances, ["cell_type", "other", *columns], "covariances")
    names = list(dict.fromkeys(covariances["cell_type"]))
    pairs = covariances.groupby(["cell_type", "other"], sort=False, as_index=False)
    median = pairs[columns].median()
    i, j = (median[column].map(names.index).to_numpy() for column in ("cell_type", "other"))
    labels = [fill(str(name), 18) for name in names]
    side = 1.6 + 0.45 * len(names)
    fig = Figure(figsize=(min(9.6, 2.0 + 2 * side), side + 0.4))
    axes = fig.subplots(1, 2, sharey=True)
    titles = ("With the relatedness (C₀)", "Without (C₁)")
    for ax, column, title in zip(axes, columns, titles, strict=True):
        matrix = np.full((len(names), len(names)), np.nan)
        matrix[i, j] = matrix[j, i] = median[column]
        image = ax.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
        ax.set_xticks(range(len(names)), labels, rotation=45, ha="right")
        ax.set_yticks(range(len(names)), labels)
        ax.set_title(title)
        ax.set_xlabel("Cell type")
        ax.grid(visible=False)
        _write_numbers(ax, matrix)
    axes[0].set_ylabel("Cell type")
    fig.colorbar(image, ax=axes, label="Correlation, median over genes", shrink=0.8)
    return fig


def _write_numbers(ax: Axes, matrix: np.ndarray) -> None:
    """Numbers in the cells of a heatmap of correlations."""
    for (i, j), value in np.ndenumerate(matrix):
        if np.isfinite(value):
            colour = "white" if abs(value) > 0.7 else INK
            ax.text(j, i, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)
