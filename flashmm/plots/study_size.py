"""How many subjects a study needs: power against subjects, cells and fold changes."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from flashmm.options import InputError
from flashmm.plots.style import INK, MARKERS, PALETTE, legend_below, require_columns, styled

# Fold changes that have a panel each, at most.
MOST_PANELS = 4


@styled
def study_size_plot(
    table: pd.DataFrame,
    *,
    within: str | None = None,
    level: str | None = None,
    target: float = 0.8,
    unit: str = "Subjects per condition",
) -> Figure:
    """Mean power against subjects, a panel per fold change, a line per number of cells.

    Parameters
    ----------
    table : DataFrame
        `PowerTable.to_frame()`: `log2_fc` or `effect`, `cells`, `subjects`, `power`, `power_low`,
        `power_high`.
    within, level : str, optional
        A column such as "cell_type" and the level to draw; without `level` lines are the levels,
        where each has one number of cells.
    target : float
        Power that is wanted, a dashed line.
    unit : str
        What subjects are, for the axis.

    Returns
    -------
    Figure

    Raises
    ------
    InputError
        A level that the table does not have.
    """
    size = "effect" if "effect" in table else "log2_fc"
    require_columns(table, [size, "cells", "subjects", "power", "power_low", "power_high"], "table")
    if within is not None and level is not None:
        table = table[table[within].astype(str) == level]
        if table.empty:
            raise InputError(f"level: {level!r} is not in the column {within!r} of the table.")
    by_level = within is not None and level is None
    lines = table[within].astype(str) if by_level else table["cells"].map("{:,.0f} cells".format)
    table = table.assign(line=lines)
    sizes = list(dict.fromkeys(table[size]))[:MOST_PANELS]
    fig = Figure(figsize=(1.6 + 2.9 * len(sizes), 3.9))
    axes = np.atleast_1d(fig.subplots(1, len(sizes), sharey=True))
    for ax, value in zip(axes, sizes, strict=True):
        here = table[table[size] == value]
        ax.axhline(target, color=INK, ls=(0, (4, 2)), lw=1, zorder=1)
        for i, (name, part) in enumerate(here.groupby("line", sort=False)):
            part = part.groupby("subjects")[["power", "power_low", "power_high"]].mean()
            style = {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[i % len(MARKERS)]}
            ax.plot(part.index, part["power"], ms=4.5, label=str(name), zorder=3, **style)
            if not by_level:
                band = part["power_low"], part["power_high"]
                ax.fill_between(part.index, *band, color=style["color"], alpha=0.1, lw=0, zorder=2)
        ax.set(ylim=(0, 1.01), xlabel=unit, title=_title(size, value))
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes[0].set_ylabel("Power, mean of the genes")
    legend_below(fig, axes[0])
    return fig


def _title(size: str, value: float) -> str:
    if size == "effect":
        return f"Effect {value:g}"
    return f"Fold change {2.0**value:.3g} (log₂ {value:g})"
