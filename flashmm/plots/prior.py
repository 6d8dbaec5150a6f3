"""Priors of variance ratios by stratum, and prior and posterior of a gene."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flashmm.inference.empirical_bayes import VarianceRatioPrior
from flashmm.inference.posterior import RATIO, priors_of
from flashmm.inference.table import TestTable
from flashmm.options import InputError
from flashmm.plots.style import (
    DOWN,
    GREY,
    PALE,
    legend_below,
    require_columns,
    styled,
)

# Area of the dot of a weight of one, in points².
LARGEST_DOT = 260.0
# Weights below this are not drawn.
SMALLEST_WEIGHT = 1e-4
# Where zero lies on the logarithmic axis, relative to the smallest positive ratio.
ZERO_AT = 1 / 4


@styled
def prior_plot(table: TestTable) -> Figure:
    """Prior of the variance ratios in each stratum of mean expression.

    Parameters
    ----------
    table : TestTable
        Of ``contrast_tests(..., ddf="empirical-bayes")``.

    Returns
    -------
    Figure
        A row of panels per level (cell type) with a model of its own, a column per random term. A
        dot is a point of the prior, its area the weight (summed over the other terms).

    Raises
    ------
    InputError
        The table has no prior.
    """
    priors = priors_of(table)
    columns = max(len(prior.components) for prior in priors.values())
    heights = [1.0 + 0.2 * len(prior.weights) for prior in priors.values()]
    fig = Figure(figsize=(4.2 * columns + 1.2, sum(heights) + 0.6))
    panels = fig.subplots(len(priors), columns, squeeze=False, height_ratios=heights)
    for row, (level, prior) in zip(panels, priors.items(), strict=True):
        for k, ax in enumerate(row):
            if k >= len(prior.components):
                ax.set_axis_off()
                continue
            _draw_strata(ax, prior, k)
            ax.set_title(", ".join(filter(None, (level, prior.components[k]))))
        row[0].set_ylabel("Mean expression")
    for ax in panels[-1]:
        ax.set_xlabel("Variance over the residual variance")
    return fig


@styled
def posterior_plot(posterior: pd.DataFrame) -> Figure:
    """Prior and posterior of the variance ratios of one gene.

    Parameters
    ----------
    posterior : DataFrame
        Of `posterior_of`.

    Returns
    -------
    Figure
        A panel per random term, the weights summed over the other terms.

    Raises
    ------
    InputError
        Columns are missing.
    """
    require_columns(posterior, ["gene", "prior", "posterior"], "posterior")
    terms = [str(name) for name in posterior if str(name).startswith(RATIO)]
    if not terms:
        raise InputError(f"posterior: no column begins with {RATIO!r}; give that of posterior_of.")
    fig = Figure(figsize=(4.2 * len(terms) + 0.8, 3.4))
    panels = fig.subplots(1, len(terms), squeeze=False, sharey=True)[0]
    for ax, term in zip(panels, terms, strict=True):
        sums = posterior.groupby(term)[["prior", "posterior"]].sum()
        x = ratio_axis(ax, sums.index.to_numpy(dtype=float))
        _stems(ax, x / 1.04, sums["prior"].to_numpy(), GREY, "prior of the stratum")
        _stems(ax, x * 1.04, sums["posterior"].to_numpy(), DOWN, "posterior of the gene")
        ax.set_title(term.removeprefix(RATIO))
        ax.set_xlabel("Variance over the residual variance")
    panels[0].set_ylabel("Probability")
    panels[0].set_ylim(bottom=0)
    named = posterior[["gene", "level"]] if "level" in posterior else posterior[["gene"]]
    fig.suptitle(", ".join(map(str, named.iloc[0])), fontweight="bold")
    legend_below(fig, panels[0])
    return fig


def _draw_strata(ax: Axes, prior: VarianceRatioPrior, k: int) -> None:
    """A row of dots per stratum, the lowest expression below."""
    ratio, place = np.unique(prior.points[:, k], return_inverse=True)
    weights = np.array([np.bincount(place, w, len(ratio)) for w in prior.weights])
    stratum, point = np.nonzero(weights > SMALLEST_WEIGHT)
    x = ratio_axis(ax, ratio)
    area = LARGEST_DOT * weights[stratum, point]
    ax.scatter(x[point], stratum, s=area, color=DOWN, alpha=0.8, lw=0)
    ax.set_yticks(range(len(weights)), _names_of_strata(prior.edges))
    ax.set_ylim(-0.7, len(weights) - 0.3)


def _names_of_strata(edges: np.ndarray) -> Sequence[str]:
    """Bounds of the strata in words."""
    words = [f"{edge:.3g}" for edge in edges]
    if not words:
        return ["all genes"]
    between = [f"{low} – {high}" for low, high in pairwise(words)]
    return [f"below {words[0]}", *between, f"from {words[-1]}"]


def ratio_axis(ax: Axes, ratio: np.ndarray) -> np.ndarray:
    """Make a logarithmic axis with a place for zero, and return where ratios lie on it."""
    positive = ratio[ratio > 0]
    least, most = (positive.min(), positive.max()) if len(positive) else (0.1, 1.0)
    zero = least * ZERO_AT
    ax.set_xscale("log")
    ax.set_xlim(zero / 1.7, most * 1.7)
    decades = 10.0 ** np.arange(np.ceil(np.log10(least)), np.floor(np.log10(most)) + 1)
    decades = decades[:: max(1, len(decades) // 5)]
    ax.set_xticks([zero, *decades], ["0", *(f"{value:g}" for value in decades)])
    ax.minorticks_off()
    ax.axvline(least / 2, color=PALE, lw=0.8, ls=(0, (1, 2)), zorder=0)
    return np.where(ratio > 0, ratio, zero)


def _stems(ax: Axes, x: np.ndarray, y: np.ndarray, colour: str, label: str) -> None:
    """Weights as lines from zero with a dot on top."""
    drawn = y > SMALLEST_WEIGHT
    ax.vlines(x[drawn], 0, y[drawn], color=colour, lw=1.4)
    ax.plot(x[drawn], y[drawn], "o", color=colour, ms=4.5, label=label)
