"""Figures of a calibration study: rates of rejection, coverage and power, scenario by scenario."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from flashmm.names import listed
from flashmm.options import InputError
from flashmm.plots.style import (
    GREY,
    INK,
    MARKERS,
    PALE,
    PALETTE,
    legend_below,
    require_columns,
    styled,
)

__all__ = ["coverage_plot", "gain_plot", "rejection_plot"]

# Colour and mark of each approach; the control and FLASHMM's test are grey.
LOOKS = {
    "pooled": ("#000000", "x"),
    "per type, empirical-bayes": ("#C1272D", "*"),
    "per type, kenward-roger-2": ("#F28E8C", "p"),
    "residual": (GREY, "P"),
    "satterthwaite": (PALETTE[5], MARKERS[4]),
    "kenward-roger": (PALETTE[0], MARKERS[0]),
    "kenward-roger-2": ("#003A66", "p"),
    "kenward-roger-floor": (PALETTE[3], MARKERS[3]),
    "between-within": (PALETTE[4], MARKERS[1]),
    "jackknife": (PALETTE[2], MARKERS[2]),
    "kenward-roger, moderated": (PALETTE[1], MARKERS[5]),
    "permutation": (PALETTE[7], MARKERS[7]),
    "pseudobulk": ("#7A3E9D", "h"),
    "pseudobulk, moderated": ("#B08BC7", "h"),
    "pseudobulk_cpm": ("#4D4D4D", "H"),
    "pseudobulk_tmm, moderated": ("#5E3C99", "H"),
}
OTHER_LOOK = ("#4D4D4D", "8")
LOWEST, HIGHEST = 0.1, 20.0  # of the ratio to the nominal level; beyond, marks sit on the edge
POSITIONS = ("paired", "markers", "depth", "types", "own_types", "balanced", "subjects")


@styled
def rejection_plot(
    matched: pd.DataFrame, approaches: Sequence[str], levels: Sequence[float] = (0.05, 0.01, 0.001)
) -> Figure:
    """Rejection of true nulls over the nominal level, a panel per level, scenarios side by side.

    Parameters
    ----------
    matched : DataFrame
        Of `matched_methods`, of scenarios that differ in cell types, balance and subjects only.
    approaches : sequence of str
        Those to draw.
    levels : sequence of float
        Nominal levels.

    Returns
    -------
    Figure
    """
    rows = _rows(matched, "fpr", approaches)
    places = _places(rows)
    fig = Figure(figsize=(_width(places), 2.5 * len(levels) + 1.3))
    axes = list(fig.subplots(len(levels), 1, sharex=True, squeeze=False)[:, 0])
    for ax, level in zip(axes, levels, strict=True):
        ax.axhline(1, color=INK, lw=1, ls=(0, (4, 2)), zorder=1)
        part = rows[np.isclose(rows["level"], level)]
        for name, x, own in _series(part, places, approaches):
            _ratio_marks(ax, x, own["value"] / level, own["std_error"] / level, name)
        ax.set_yscale("log")
        ax.set(ylim=(LOWEST / 1.25, HIGHEST * 1.25), ylabel=f"Rejected at {level:g} / {level:g}")
        ax.set_yticks([0.1, 0.2, 0.5, 1, 2, 5, 10, 20])
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
    _name_places(axes[-1], axes, places)
    legend_below(fig, axes[0])
    return fig


@styled
def coverage_plot(matched: pd.DataFrame, approaches: Sequence[str]) -> Figure:
    """Coverage of 95 % intervals, scenarios side by side.

    Parameters
    ----------
    matched : DataFrame
        As for `rejection_plot`.
    approaches : sequence of str
        Those to draw.

    Returns
    -------
    Figure
    """
    rows = _rows(matched, "coverage", approaches)
    places = _places(rows)
    fig = Figure(figsize=(_width(places), 3.8))
    ax = fig.subplots()
    ax.axhspan(0.94, 0.96, color=PALE, alpha=0.4, lw=0, zorder=0)
    ax.axhline(0.95, color=INK, lw=1, ls=(0, (4, 2)), zorder=1)
    lowest = 0.85
    for name, x, own in _series(rows, places, approaches):
        value = own["value"].clip(lower=lowest)
        _marks(ax, x, value, own["std_error"], name)
    ax.set(ylim=(lowest - 0.005, 1.002), ylabel="Coverage of 95 % intervals")
    _name_places(ax, [ax], places)
    legend_below(fig, ax)
    return fig


@styled
def gain_plot(matched: pd.DataFrame, approaches: Sequence[str], level: float = 0.05) -> Figure:
    """Power less that of pseudobulk, at the nominal level and where as many nulls are rejected.

    Parameters
    ----------
    matched : DataFrame
        As for `rejection_plot`.
    approaches : sequence of str
        Those to draw.
    level : float
        Nominal level, and the rate of false positives.

    Returns
    -------
    Figure
    """
    names = {
        "power_gain": f"Power at p ≤ {level:g},\nless pseudobulk's",
        "power_at_fpr_gain": f"Power with {level:.0%} of nulls\nrejected, less pseudobulk's",
    }
    found = [_rows(matched[matched["other"] == "pseudobulk"], m, approaches) for m in names]
    places = _places(found[0])
    fig = Figure(figsize=(_width(places), 6.2))
    axes = list(fig.subplots(2, 1, sharex=True))
    for ax, rows, label in zip(axes, found, names.values(), strict=True):
        ax.axhline(0, color=INK, lw=1, ls=(0, (4, 2)), zorder=1)
        part = rows[np.isclose(rows["level"], level)]
        for name, x, own in _series(part, places, approaches):
            _marks(ax, x, own["value"], own["std_error"], name)
        ax.set(ylabel=label)
    _name_places(axes[-1], axes, places)
    legend_below(fig, axes[0])
    return fig


def _rows(matched: pd.DataFrame, metric: str, approaches: Sequence[str]) -> pd.DataFrame:
    columns = ["metric", "level", "approach", "value", "std_error", "scenario", *POSITIONS]
    require_columns(matched, columns, "matched")
    rows = matched[(matched["metric"] == metric) & matched["approach"].isin(approaches)]
    if rows.empty:
        raise InputError(f"matched: no {metric!r} of {listed(approaches)}; nothing to draw.")
    return rows


def _places(rows: pd.DataFrame) -> pd.DataFrame:
    """A place on the x axis for each scenario, with gaps between blocks of designs."""
    places = rows[["scenario", *POSITIONS]].drop_duplicates()
    places = places.sort_values(
        list(POSITIONS), ascending=[True] * 5 + [False, True], kind="stable"
    ).reset_index(drop=True)
    block = places.groupby(list(POSITIONS[:-1]), sort=False).ngroup()
    return places.assign(block=block, x=np.arange(len(places)) + 0.6 * block)


def _width(places: pd.DataFrame) -> float:
    return max(6.0, 1.4 + 0.38 * (len(places) + 0.6 * places["block"].max()))


def _series(
    rows: pd.DataFrame, places: pd.DataFrame, approaches: Sequence[str]
) -> list[tuple[str, pd.Series, pd.DataFrame]]:
    """Name, places and rows of each approach that has any, shifted so that marks stay apart."""
    there = [name for name in approaches if (rows["approach"] == name).any()]
    where = places.set_index("scenario")["x"]
    found = []
    for i, name in enumerate(there):
        own = rows[rows["approach"] == name]
        shift = (i - (len(there) - 1) / 2) * 0.8 / max(len(there), 2)
        found.append((name, own["scenario"].map(where) + shift, own))
    return found


def _marks(ax: Axes, x: pd.Series, y: pd.Series, error: pd.Series, name: str) -> None:
    """Marks with 95 % intervals."""
    colour, marker = LOOKS.get(name, OTHER_LOOK)
    spread = 1.96 * error.to_numpy()
    ax.errorbar(
        x.to_numpy(), y.to_numpy(), spread, fmt=marker, color=colour, ms=4.5, lw=1, label=name
    )


def _ratio_marks(ax: Axes, x: pd.Series, ratio: pd.Series, error: pd.Series, name: str) -> None:
    """Marks of ratios; those beyond the axis sit on its edge, open and without an interval."""
    inside = ((ratio >= LOWEST) & (ratio <= HIGHEST)).to_numpy()
    # an interval does not reach zero, which the axis has not
    _marks(ax, x[inside], ratio[inside], error[inside].clip(upper=0.9 * ratio[inside] / 1.96), name)
    colour, marker = LOOKS.get(name, OTHER_LOOK)
    edge = np.where(ratio[~inside] > 1, HIGHEST, LOWEST)
    ax.plot(x[~inside], edge, marker, mfc="none", ls="none", color=colour, ms=4.5, lw=1)


def _name_places(bottom: Axes, axes: Sequence[Axes], places: pd.DataFrame) -> None:
    """Subjects below each place, and what sets a block apart below that."""
    bottom.set_xticks(places["x"], [str(n) for n in places["subjects"]])
    bottom.tick_params(axis="x", length=0)
    for _, block in places.groupby("block"):
        first = block.iloc[0]
        types = "one type" if first["types"] == 1 else f"{first['types']} types"
        differ = ", pairs" if first["paired"] else ", markers" if first["markers"] else ""
        cells = "equal cells" if first["balanced"] else "unequal cells"
        cells += f"\ndepth × {first['depth']:g}" if first["depth"] != 1 else ""
        bottom.annotate(
            f"{types}{differ}\n{cells}",
            (block["x"].mean(), 0),
            (0, -18),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=8,
        )
        for ax in axes:
            ax.axvline(block["x"].max() + 0.8, color=PALE, lw=0.7, zorder=0)
    for ax in axes:
        ax.set_xlim(places["x"].min() - 0.8, places["x"].max() + 0.8)
        ax.grid(axis="x", visible=False)
    bottom.set_xlabel("Subjects per condition; design of the scenario", labelpad=30)
