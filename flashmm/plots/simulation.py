"""Figures of the counts themselves, simulated or real: cells, library sizes, variances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import sparse

from flashmm.plots.style import (
    INK,
    PALETTE,
    dots,
    plain_log_ticks,
    require_columns,
    styled,
)


def gene_moments(counts: Any) -> pd.DataFrame:
    """Mean and variance of every gene over cells.

    Parameters
    ----------
    counts : (cells, genes) array or sparse matrix
        Raw counts; a sparse matrix stays sparse.

    Returns
    -------
    DataFrame
        `mean, variance` (denominator cells − 1), one row per gene.
    """
    n, stored = counts.shape[0], sparse.issparse(counts)
    values: Any = sparse.csr_array(counts, dtype=float) if stored else np.asarray(counts, float)
    mean, mean_square = values.mean(axis=0), (values**2).mean(axis=0)
    return pd.DataFrame({"mean": mean, "variance": (mean_square - mean**2) * n / max(n - 1, 1)})


@styled
def simulation_plot(
    obs: pd.DataFrame,
    moments: pd.DataFrame,
    *,
    reference: pd.DataFrame | None = None,
    subject: str = "subject",
    cell_type: str = "cell_type",
    condition: str = "condition",
    libsize: str = "libsize",
) -> Figure:
    """Show the design and the counts: cells, library sizes, and variance against mean.

    Parameters
    ----------
    obs : DataFrame
        One row per cell with the named columns (`cell_type` and `condition` may be absent).
    moments : DataFrame
        `mean, variance` per gene, from `gene_moments`.
    reference : DataFrame, optional
        The same of the counts that a simulation was made from.
    subject, cell_type, condition, libsize : str
        Names of the columns.

    Returns
    -------
    Figure
    """
    require_columns(obs, [subject, libsize], "obs")
    require_columns(moments, ["mean", "variance"], "moments")
    cells = _cell_table(obs, subject, cell_type, condition)
    fig = Figure(figsize=(9.6, 3.4 + 0.11 * max(len(cells) - 12, 0)))
    heat, size, trend = fig.subplots(1, 3, width_ratios=(1.15, 1, 1))
    _cell_heatmap(fig, heat, cells)
    _libsize_histogram(size, obs, libsize, condition)
    _mean_variance(trend, moments, reference)
    return fig


def _cell_table(obs: pd.DataFrame, subject: str, cell_type: str, condition: str) -> pd.DataFrame:
    """Cells per subject (rows, by condition) and cell type (columns)."""
    rows = [obs[column].astype(str) for column in (condition, subject) if column in obs]
    types = obs[cell_type].astype(str) if cell_type in obs else pd.Series("all cells", obs.index)
    table = pd.crosstab(rows if len(rows) > 1 else rows[0], types)
    if len(rows) > 1:
        table.index = pd.Index([f"{name} · {group}" for group, name in table.index])
    return table


def _cell_heatmap(fig: Figure, ax: Axes, cells: pd.DataFrame) -> None:
    values = cells.to_numpy()
    image = ax.imshow(values, aspect="auto", cmap="Blues", vmin=0)
    ax.set_xticks(range(cells.shape[1]), list(cells.columns), rotation=40, ha="right")
    ax.set_yticks(range(cells.shape[0]), list(cells.index))
    ax.tick_params(length=0, labelsize=7 if len(cells) <= 30 else 5)
    ax.grid(False)
    ax.set_title("Cells per subject and type")
    if values.size <= 120:
        dark = values > 0.55 * values.max()
        for (i, j), count in np.ndenumerate(values):
            ink = "white" if dark[i, j] else INK
            ax.text(j, i, f"{count:,}", ha="center", va="center", fontsize=6.5, color=ink)
    else:
        fig.colorbar(image, ax=ax, label="Cells", shrink=0.8)


def _libsize_histogram(ax: Axes, obs: pd.DataFrame, libsize: str, condition: str) -> None:
    positive = obs[libsize][obs[libsize] > 0].to_numpy(dtype=float)
    low, high = (positive.min(), positive.max()) if len(positive) else (1.0, 10.0)
    bins = np.geomspace(float(low), 1.0001 * float(high), 41)
    group = obs[condition].astype(str) if condition in obs else pd.Series("cells", obs.index)
    for i, (name, cells) in enumerate(obs[libsize].astype(float).groupby(group.to_numpy())):
        percent = 100 * np.histogram(cells, bins)[0] / len(cells)
        ax.stairs(percent, bins, fill=True, color=PALETTE[i % len(PALETTE)], alpha=0.18)
        ax.stairs(percent, bins, color=PALETTE[i % len(PALETTE)], lw=1.5, label=str(name))
    ax.set_xscale("log")
    ax.set(xlabel="Library size (counts per cell)", ylabel="Cells of the condition (%)")
    plain_log_ticks(ax.xaxis)
    ax.set_title("Library size")
    ax.legend(loc="upper left")


def _mean_variance(ax: Axes, moments: pd.DataFrame, reference: pd.DataFrame | None) -> None:
    shown = [(moments, PALETTE[0], "genes", 3)]
    if reference is not None:
        shown.append((reference, PALETTE[4], "reference", 2))
    for frame, colour, label, order in shown:
        some = frame[(frame["mean"] > 0) & (frame["variance"] > 0)]
        style = {"color": colour, "label": label, "zorder": order}
        dots(ax, some["mean"], some["variance"], s=9, alpha=0.5, **style)
    ends = moments.loc[moments["mean"] > 0, "mean"].agg(["min", "max"]).to_numpy()
    ax.plot(ends, ends, color=INK, ls=(0, (4, 2)), lw=1, label="Poisson", zorder=4)
    ax.set(xscale="log", yscale="log", xlabel="Mean (counts)")
    ax.set_ylabel("Variance (counts²)")
    for axis in (ax.xaxis, ax.yaxis):
        plain_log_ticks(axis)
    ax.set_title("Genes")
    ax.legend(loc="upper left", markerscale=1.5, handletextpad=0.3)
