"""Figures of two methods on the same genes: their numbers, time and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    MaxNLocator,
)

from flashmm.plots.style import (
    GREY,
    MARKERS,
    PALETTE,
    Look,
    dots,
    looks_of,
    plain_log_ticks,
    require_columns,
    styled,
)


@styled
def agreement_plot(
    pairs: pd.DataFrame,
    *,
    labels: tuple[str, str] = ("flashmm", "MixedLM"),
    unit: str = "log₂(1 + count)",
) -> Figure:
    """Numbers of two methods against each other, with the identity line.

    Parameters
    ----------
    pairs : DataFrame
        From `flashmm.benchmark.pair_fits`.
    labels : tuple of str
        Names of ours and of the reference.
    unit : str
        Unit of the response.

    Returns
    -------
    Figure
    """
    require_columns(
        pairs, ["quantity", "name", "ours", "reference", "difference", "scaled"], "pairs"
    )
    fig = Figure(figsize=(7.6, 7.4))
    axes = fig.subplots(2, 2)
    panels = {
        "estimate": (f"Coefficient ({unit})", "coefficient"),
        "std_error": (f"Standard error ({unit})", "standard error"),
        "theta": (f"Standard deviation ({unit})", "variance components (as SD)"),
        "loglik": ("Log-likelihood", "log-likelihood"),
    }
    for ax, (quantity, (axis, title)) in zip(axes.flat, panels.items(), strict=True):
        part = pairs[(pairs["quantity"] == quantity)].dropna(subset=["ours", "reference"])
        _agreement_panel(ax, part, quantity == "theta")
        ax.set(xlabel=f"{labels[1]}: {axis[0].lower()}{axis[1:]}", ylabel=labels[0])
        ax.set_title(title[0].upper() + title[1:])
        _say_agreement(ax, part, quantity, labels)
    return fig


def _agreement_panel(ax: Axes, part: pd.DataFrame, is_variance: bool) -> None:
    columns = part[["reference", "ours"]].to_numpy(dtype=float)
    if is_variance:
        columns = np.sign(columns) * np.sqrt(np.abs(columns))
    if len(columns):
        low, high = columns.min(), columns.max()
        margin = 0.05 * (high - low) or 1.0
        ends = (low - margin, high + margin)
        ax.plot(ends, ends, color=GREY, lw=1, zorder=1)
        ax.set(xlim=ends, ylim=ends)
    names = list(dict.fromkeys(part["name"])) if is_variance else [None]
    for i, name in enumerate(names):
        rows = (part["name"] == name).to_numpy() if name is not None else np.full(len(part), True)
        style = {"marker": MARKERS[i % len(MARKERS)], "color": PALETTE[i % len(PALETTE)]}
        dots(ax, *columns[rows].T, s=18, alpha=0.75, label=name, zorder=3, **style)
    ax.set_box_aspect(1)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.yaxis.set_major_locator(MaxNLocator(5))
    if is_variance:
        ax.legend(loc="lower right", handletextpad=0.2)


def _say_agreement(ax: Axes, part: pd.DataFrame, quantity: str, labels: tuple[str, str]) -> None:
    """Write the largest difference into the free corner of a panel."""
    n = len(part)
    of = {"estimate": "standard errors", "theta": "of the total variance"}.get(quantity, "")
    largest = _short_number(part["scaled"].max() if of else part["difference"].abs().max())
    lines = [f"{n} pairs, differ by at most", f"{largest} {of}"] if n else ["nothing to compare"]
    if n and quantity == "loglik":
        ours, other = (part["difference"] > 1e-6).sum(), (part["difference"] < -1e-6).sum()
        lines += ["higher for", f"  {labels[0]}: {ours} genes", f"  {labels[1]}: {other} genes"]
    ax.text(0.04, 0.96, "\n".join(lines), transform=ax.transAxes, va="top", fontsize=8)


def _short_number(value: float) -> str:
    """Write a number with two digits: 0.043, 3.2, 4.3·10⁻⁷."""
    if not np.isfinite(value) or value == 0 or 1e-3 <= abs(value) < 1e3:
        return f"{value:.2g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    digits = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa}·10{digits}"


@styled
def time_memory_plot(records: pd.DataFrame, *, methods: Sequence[str] | None = None) -> Figure:
    """Fitting time per gene and peak memory, by method.

    Parameters
    ----------
    records : DataFrame
        `method, seconds, genes` (how many genes the seconds were spent on), `peak_memory_mib`; one
        row per run, or per gene with ``genes = 1``.

    methods : sequence of str, optional
        All methods of a page, so that each has one colour in every figure.

    Returns
    -------
    Figure
    """
    require_columns(records, ["method", "seconds", "genes", "peak_memory_mib"], "records")
    looks = looks_of(list(records["method"]), methods)
    fig = Figure(figsize=(7.6, 1.3 + 0.42 * len(looks)))
    left, right = fig.subplots(1, 2, sharey=True)
    per_gene = 1e3 * records["seconds"] / records["genes"]
    _strip(left, records["method"], per_gene, "Time per gene (ms)", looks)
    _strip(
        right,
        records["method"],
        records["peak_memory_mib"],
        "Peak memory of the process (MiB)",
        looks,
    )
    left.set_yticks(range(len(looks)), list(looks))
    left.set_ylim(len(looks) - 0.4, -0.6)
    return fig


def _strip(
    ax: Axes, methods: pd.Series, values: pd.Series, label: str, looks: Mapping[str, Look]
) -> None:
    """Runs as dots on a logarithmic axis, the median as a bar with its value."""
    for i, (method, look) in enumerate(looks.items()):
        colour = look.colour
        x = values[methods == method].dropna().to_numpy(dtype=float)
        if not len(x):
            continue
        jitter = np.linspace(-0.16, 0.16, len(x)) if len(x) > 1 else np.zeros(1)
        dots(ax, x, i + jitter, s=16, color=colour, alpha=0.55, zorder=3)
        median = float(np.median(x))
        ax.plot([median, median], [i - 0.28, i + 0.28], color=colour, lw=2.4, zorder=4)
        ax.annotate(
            f"{median:.3g}",
            (median, i - 0.3),
            (0, 1),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8,
        )
    ax.set_xscale("log")
    _widen_to_decade(ax)
    ax.set_xlabel(label)
    ax.grid(axis="y", visible=False)


def _widen_to_decade(ax: Axes) -> None:
    """Show at least a factor of twenty, so that small gaps stay small."""
    low, high = ax.get_xlim()
    centre, half = np.sqrt(low * high), max(np.sqrt(high / low), np.sqrt(20.0))
    ax.set_xlim(centre / half, centre * half)
    plain_log_ticks(ax.xaxis)
