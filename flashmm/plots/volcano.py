"""The volcano plot of a contrast."""

from __future__ import annotations

from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flashmm.names import listed
from flashmm.options import InputError
from flashmm.plots.style import (
    DOWN,
    GREY,
    PALE,
    UP,
    dots,
    legend_below,
    require_columns,
    styled,
)


@styled
def volcano_plot(
    table: pd.DataFrame,
    contrast: str | None = None,
    *,
    fdr: float = 0.05,
    top: int = 10,
    unit: str = "log₂(1 + count)",
) -> Figure:
    """Estimates against p-values of one contrast, with the names of the top genes.

    Parameters
    ----------
    table : DataFrame
        Tidy tests with `gene, contrast, estimate, p_value, adj_p_value` (and `log10_p`).
    contrast : str, optional
        The contrast to draw; needed when the table has several.
    fdr : float
        Adjusted p-values up to this are discoveries.
    top : int
        Number of genes to name, smallest p first.
    unit : str
        Unit of the estimate.

    Returns
    -------
    Figure

    Raises
    ------
    InputError
        Several contrasts and none chosen, or a joint test, which has no direction.
    """
    tests = _volcano_tests(table, contrast)
    fig = Figure(figsize=(6.4, 4.9))
    ax = fig.subplots()
    ax.axvline(0, color=GREY, lw=0.8, zorder=1)
    found, up = (tests["adj_p_value"] <= fdr).to_numpy(), (tests["estimate"] > 0).to_numpy()
    for rows, colour, size, word in (
        (~found, PALE, 9, f"not at BH {fdr:.0%}"),
        (found & up, UP, 17, "up"),
        (found & ~up, DOWN, 17, "down"),
    ):
        style = {"s": size, "color": colour, "label": f"{rows.sum():,} {word}"}
        dots(ax, tests["estimate"][rows], tests["score"][rows], alpha=0.85, zorder=2, **style)
    reach = 1.35 * float(tests["estimate"].abs().max()) if len(tests) else 1.0
    ceiling = 1.1 * float(tests["score"].max()) if len(tests) else 1.0
    ax.set(xlim=(-reach, reach), ylim=(0, ceiling))
    ax.set(xlabel=f"Estimate (difference in {unit})", ylabel="p-value, −log₁₀")
    ax.set_title(fill(str(tests["contrast"].iloc[0]), 64) if len(tests) else "")
    _name_genes(ax, tests[found].nlargest(top, "score"))
    legend_below(fig, ax, markerscale=1.5, handletextpad=0.1)
    return fig


def _volcano_tests(table: pd.DataFrame, contrast: str | None) -> pd.DataFrame:
    """Tests of one contrast that have a p-value, with `score` = −log10 p."""
    require_columns(table, ["gene", "contrast", "estimate", "p_value", "adj_p_value"], "table")
    names = list(table["contrast"].unique())
    if contrast is None and len(names) > 1:
        raise InputError(f"contrast: the table has {len(names)}, choose one of {listed(names, 5)}.")
    if contrast is not None and contrast not in names:
        raise InputError(f"contrast: {contrast!r} is not in the table; it has {listed(names, 5)}.")
    tests = table[table["contrast"] == contrast] if contrast is not None else table
    tests = tests[tests["p_value"].notna()]
    if len(tests) and tests["estimate"].isna().all():
        raise InputError(
            f"contrast: {names[0] if contrast is None else contrast!r} is a joint test "
            "without a direction; a volcano needs single contrasts."
        )
    with np.errstate(divide="ignore"):
        log10_p = tests["log10_p"] if "log10_p" in tests else np.log10(tests["p_value"])
    tests = tests.assign(score=-log10_p)
    return tests[np.isfinite(tests["score"])].reset_index(drop=True)


def _name_genes(ax: Axes, genes: pd.DataFrame) -> None:
    """Write names beside their points, up on the right and down on the left, none over another."""
    gap, edge = 0.048 * ax.get_ylim()[1], 0.97 * ax.get_xlim()[1]
    leader = {"arrowstyle": "-", "color": PALE, "lw": 0.6, "shrinkA": 1, "shrinkB": 2}
    for side, align in ((1, "right"), (-1, "left")):
        part = genes[np.where(genes["estimate"] > 0, 1, -1) == side]
        part = part.sort_values("score", ascending=False, kind="stable")
        points = part[["estimate", "score"]].to_numpy()
        places = [(side * edge, y) for y in _spread(points[:, 1], gap, gap)]
        for name, point, place in zip(part["gene"], points, places, strict=True):
            text = ax.annotate(str(name), point, place, ha=align, va="center", arrowprops=leader)
            text.set(fontsize=8, style="italic")


def _spread(heights: np.ndarray, gap: float, bottom: float) -> np.ndarray:
    """Push descending heights at least `gap` apart, downwards, and not below `bottom`."""
    placed = heights.astype(float)
    for i in range(1, len(placed)):
        placed[i] = min(placed[i], placed[i - 1] - gap)
    lowest = bottom + gap * np.arange(len(placed))[::-1]
    return np.maximum(placed, lowest)
