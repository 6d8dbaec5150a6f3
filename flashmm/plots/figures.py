"""Figures of the report: every function takes tidy frames and returns a matplotlib `Figure`.

No pyplot state and no backend is touched, so figures can be drawn anywhere, and `save_figure`
writes the same bytes for the same data. Colours are those of Okabe & Ito (2008), told apart with
any common colour vision; marks differ in shape as well. `CAPTIONS` says for each figure what good
looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from textwrap import fill
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
)
from scipy import sparse, stats

from flashmm.options import InputError
from flashmm.storage.files import atomic_path

__all__ = [
    "CAPTIONS",
    "agreement_plot",
    "dense_agreement_plot",
    "fdr_tpr_plot",
    "fpr_plot",
    "gene_moments",
    "heritability_plot",
    "heritability_strips",
    "method_colours",
    "p_histogram",
    "qq_plot",
    "roc_plot",
    "save_figure",
    "simulation_plot",
    "time_memory_plot",
    "trait_correlation_plot",
    "volcano_plot",
]

#: what good looks like, per figure
CAPTIONS: dict[str, str] = {
    "qq_plot": "Good: the null p-values of a method follow the diagonal inside the grey 95 % "
    "band; points above it are false confidence, points below it lost power.",
    "p_histogram": "Good: null p-values are flat at density 1, within the grey 95 % band; a peak "
    "at zero means too many false positives.",
    "fpr_plot": "Good: intervals cover the dashed nominal levels; above them a method rejects "
    "true null hypotheses too often, below them it is conservative.",
    "roc_plot": "Good: curves rise steeply at the left edge, far above the dotted line of chance; "
    "the right panel shows the part that matters, few false positives.",
    "fdr_tpr_plot": "Good: filled marks (the realised false discovery proportion does not exceed "
    "its nominal level, the dashed line, by more than its error), as high as possible.",
    "agreement_plot": "Good: points lie on the identity line; where log-likelihoods differ, the "
    "method with the higher one has the better fit of the same model.",
    "heritability_plot": "Good: one clear peak, with a shaded interval that is short next to the "
    "range from 0 to 1; a flat curve says that these individuals cannot tell the heritability.",
    "heritability_strips": "Good: dots gather around the black triangles of the truth (where it is "
    "known), and a narrow box (the middle half) says that the estimates are precise.",
    "dense_agreement_plot": "Good: every mark on the line, and differences of the log-likelihood "
    "around 1e-10 or less (either sign), which is rounding; far above zero the dense search "
    "stopped early, far below it ours did.",
    "trait_correlation_plot": "Good: positive correlations between cell types of one lineage; at "
    "rank 1 those that go with GG′ are one or minus one by construction.",
    "time_memory_plot": "Good: far to the left; both axes are logarithmic.",
    "volcano_plot": "Good: a broad base of grey genes around zero, with discoveries of both signs "
    "standing out above it; a lopsided cloud asks for a look at the covariates.",
    "simulation_plot": "Good: every subject has cells of every type, library sizes of the "
    "conditions overlap, and the variance of most genes lies above the Poisson line, as in real "
    "counts.",
}

# Okabe & Ito 2008, in the order in which methods take them
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#B8A800")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", (0, (5, 1.5)), (0, (4, 1.2, 1, 1.2)), (0, (1, 1)), (0, (8, 1.5, 1, 1.5, 1, 1.5)))
INK, GREY, PALE, BAND = "#222222", "#8A8A8A", "#C9C9C9", "#E3E3E3"
UP, DOWN = PALETTE[1], PALETTE[0]
MAX_VECTOR_POINTS = 800  # more points than this are drawn as pixels inside the SVG

STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.8,
    "axes.prop_cycle": cycler(color=PALETTE),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "grid.color": "#EDEDED",
    "grid.linewidth": 0.7,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "lines.linewidth": 1.7,
    "lines.solid_capstyle": "round",
    "savefig.dpi": 200,
    "svg.fonttype": "path",
    "svg.hashsalt": "flashmm",
    "text.color": INK,
    "xtick.color": "#555555",
    "xtick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.color": "#555555",
    "ytick.labelcolor": INK,
    "ytick.labelsize": 8.5,
}

_P = ParamSpec("_P")


def _styled(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Draw under the package's style, and leave the caller's settings as they were."""

    @wraps(draw)
    def styled(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(STYLE)
            return draw(*args, **kwargs)

    return styled


def save_figure(fig: Figure, stem: str | Path) -> tuple[Path, Path]:
    """Write a figure as SVG and PNG, whole or not at all, the same bytes every time.

    Parameters
    ----------
    fig : Figure
        A figure of this module.
    stem : str or Path
        Path without ending; its folder is made.

    Returns
    -------
    tuple of Path
        The SVG and the PNG.
    """
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = stem.with_name(f"{stem.name}.svg"), stem.with_name(f"{stem.name}.png")
    # without date and version the bytes depend on the data alone
    for path, metadata in zip(
        paths, ({"Date": None, "Creator": None}, {"Software": None}), strict=True
    ):
        with mpl.rc_context(), atomic_path(path) as temporary:
            mpl.rcdefaults()
            mpl.rcParams.update(STYLE)
            fig.savefig(temporary, format=path.suffix[1:], metadata=metadata)
    return paths


def method_colours(methods: Sequence[str]) -> dict[str, str]:
    """Give each method its colour, in the order of the methods, the same in every figure."""
    return {method: PALETTE[i % len(PALETTE)] for i, method in enumerate(dict.fromkeys(methods))}


@dataclass(frozen=True)
class _Look:
    """How one method is drawn; earlier ones are larger by `scale`, to be seen under later ones."""

    colour: str
    marker: str
    line: Any
    scale: float


def _looks(methods: Sequence[str]) -> dict[str, _Look]:
    colours = method_colours(methods)
    return {
        name: _Look(
            colour,
            MARKERS[i % len(MARKERS)],
            LINES[i % len(LINES)],
            1 + 0.3 * (len(colours) - 1 - i),
        )
        for i, (name, colour) in enumerate(colours.items())
    }


def _check(frame: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    missing = [column for column in columns if column not in frame]
    if missing:
        raise InputError(f"{what}: columns {missing} are missing; found {list(frame.columns)}.")


def _of_contrast(curves: Mapping[str, pd.DataFrame], contrast: str) -> dict[str, pd.DataFrame]:
    """Rows of one contrast for every method."""
    if not curves:
        raise InputError("curves: no method was given; give {method: curve}.")
    return {str(name): curve[curve["contrast"] == contrast] for name, curve in curves.items()}


def _dots(ax: Axes, x: Any, y: Any, **style: Any) -> None:
    """Scatter points without rims; as pixels where an SVG would grow large."""
    ax.scatter(x, y, lw=0, rasterized=len(x) > MAX_VECTOR_POINTS, **style)


def _legend_below(fig: Figure, ax: Axes, **options: Any) -> None:
    """Put the legend under the axes, where it covers no data, in as many columns as fit."""
    handles, labels = ax.get_legend_handles_labels()
    # inches per entry: about 0.075 a letter, and the handle
    width = 0.075 * max(map(len, labels), default=0) + 0.65
    columns = max(1, min(len(labels), int(fig.get_figwidth() / width)))
    fig.legend(handles, labels, loc="outside lower center", ncols=columns, **options)


# ----------------------------------------------------------------------------------------------
# Calibration


@_styled
def qq_plot(curves: Mapping[str, pd.DataFrame], *, contrast: str = "all") -> Figure:
    """Quantiles of null p-values against uniform ones, by method.

    Parameters
    ----------
    curves : mapping
        Method to ``Evaluation.curves["qq"]``.
    contrast : str
        The contrast to draw.

    Returns
    -------
    Figure
    """
    chosen, fig = _of_contrast(curves, contrast), Figure(figsize=(5.2, 4.9))
    ax, looks = fig.subplots(), _looks(list(chosen))
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
    _legend_below(fig, ax, markerscale=1.4)
    return fig


def _qq_points(ax: Axes, name: str, curve: pd.DataFrame, ceiling: float, look: _Look) -> None:
    """Points of one method; those above the ceiling sit on it as open arrowheads."""
    x, y = curve["expected"].to_numpy(), curve["observed"].to_numpy()
    beyond = y > ceiling
    style: dict[str, Any] = {"color": look.colour, "ls": "none", "zorder": 3}
    style["rasterized"] = len(x) > MAX_VECTOR_POINTS
    ax.plot(x[~beyond], y[~beyond], look.marker, ms=3 * look.scale, mew=0, label=name, **style)
    if beyond.any():
        ax.plot(x[beyond], np.full(beyond.sum(), ceiling), marker="^", ms=5, mfc="none", **style)


@_styled
def p_histogram(curves: Mapping[str, pd.DataFrame], *, contrast: str = "all") -> Figure:
    """Histograms of null p-values, one panel per method.

    Parameters
    ----------
    curves : mapping
        Method to ``Evaluation.curves["p_histogram"]``.
    contrast : str
        The contrast to draw.

    Returns
    -------
    Figure
    """
    chosen = _of_contrast(curves, contrast)
    columns = 2 if len(chosen) == 4 else min(len(chosen), 3)
    rows = -(-len(chosen) // columns)
    fig = Figure(figsize=(2.7 * columns + 0.6, 2.3 * rows + 0.4))
    axes = fig.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for ax in axes.flat[len(chosen) :]:
        ax.remove()
    for ax, (name, curve) in zip(axes.flat, chosen.items(), strict=False):
        _p_bars(ax, curve, method_colours(list(chosen))[name])
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


@_styled
def fpr_plot(metrics: pd.DataFrame, *, contrast: str = "all") -> Figure:
    """False positive rates with 95 % Monte Carlo intervals, against their nominal levels.

    Parameters
    ----------
    metrics : DataFrame
        Rows of `Evaluation.metrics` (or of `average_metrics`) with a column `method`.
    contrast : str
        The contrast to draw.

    Returns
    -------
    Figure
    """
    _check(metrics, ["method", "metric", "level", "value", "std_error", "contrast"], "metrics")
    rows = metrics[(metrics["metric"] == "fpr") & (metrics["contrast"] == contrast)]
    methods, levels = list(dict.fromkeys(rows["method"])), sorted(rows["level"].unique())[::-1]
    fig = Figure(figsize=(max(5.2, 1.5 + len(levels) * (0.5 + 0.2 * len(methods))), 4.9))
    ax, floor = fig.subplots(), _fpr_floor(rows)
    for place, level in enumerate(levels):
        ax.plot([place - 0.45, place + 0.45], [level, level], color=INK, ls=(0, (4, 2)), lw=1)
    for i, (method, look) in enumerate(_looks(methods).items()):
        part = rows[rows["method"] == method].set_index("level").reindex(levels)
        offset = (i - (len(methods) - 1) / 2) * min(0.8 / max(len(methods), 1), 0.22)
        _fpr_marks(ax, method, part, np.arange(len(levels)) + offset, floor, look)
    ax.set_yscale("log")
    ax.set(xlim=(-0.5, len(levels) - 0.5), ylim=(floor / 1.3, None))
    ax.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
    ax.set(xlabel="Nominal level", ylabel="False positive rate (share of null tests)")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.grid(axis="x", visible=False)
    _legend_below(fig, ax)
    return fig


def _fpr_floor(rows: pd.DataFrame) -> float:
    """Lowest rate that is drawn; a rate of zero is put there."""
    positive = rows.loc[rows["value"] > 0, "value"]
    lowest = min([*rows["level"], *positive]) if len(rows) else 1e-3
    return lowest / 3


def _fpr_marks(
    ax: Axes, method: str, part: pd.DataFrame, x: np.ndarray, floor: float, look: _Look
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


# ----------------------------------------------------------------------------------------------
# Power


@_styled
def roc_plot(
    curves: Mapping[str, pd.DataFrame],
    *,
    contrast: str = "all",
    auc: Mapping[str, float] | None = None,
    zoom: float = 0.1,
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

    Returns
    -------
    Figure
    """
    chosen, fig = _of_contrast(curves, contrast), Figure(figsize=(7.6, 4.1))
    whole, part = fig.subplots(1, 2)
    looks = _looks(list(chosen))
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
    _legend_below(fig, whole)
    return fig


@_styled
def fdr_tpr_plot(
    metrics: pd.DataFrame,
    curves: Mapping[str, pd.DataFrame] | None = None,
    *,
    contrast: str = "all",
    adjustment: str = "local",
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

    Returns
    -------
    Figure
    """
    _check(metrics, ["method", "metric", "level", "value", "std_error", "contrast"], "metrics")
    points = _fdp_points(metrics[metrics["contrast"] == contrast], adjustment)
    methods = list(dict.fromkeys(points["method"]))
    fig = Figure(figsize=(5.6, 4.7))
    ax = fig.subplots()
    for level in sorted(points["level"].unique()):
        ax.axvline(level, color=INK, ls=(0, (4, 2)), lw=1, zorder=1)
        ax.annotate(f"{level:.0%}", (level, 1), (2, 2), ("data", "axes fraction"), "offset points")
    lines = _of_contrast(curves, contrast) if curves else {}
    for method, look in _looks(methods).items():
        if method in lines:
            line = lines[method]
            ax.plot(line["fdp"], line["tpr"], color=look.colour, lw=0.9, alpha=0.5, zorder=2)
        _fdp_marks(ax, method, points[points["method"] == method], look)
    reach = np.nanmax([0.25, *(points["fdp"] + 1.96 * points["fdp_error"].fillna(0)).tolist()])
    ax.set(xlim=(0, min(1.05 * reach, 1)), ylim=(0, 1.01))
    ax.set(xlabel="Realised false discovery proportion", ylabel="True positive rate")
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _legend_below(fig, ax)
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


def _fdp_marks(ax: Axes, method: str, points: pd.DataFrame, look: _Look) -> None:
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


# ----------------------------------------------------------------------------------------------
# Agreement and cost


@_styled
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
        From `flashmm.benchmark.evaluation.pair_fits`.
    labels : tuple of str
        Names of ours and of the reference.
    unit : str
        Unit of the response.

    Returns
    -------
    Figure
    """
    _check(pairs, ["quantity", "name", "ours", "reference", "difference", "scaled"], "pairs")
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
        _dots(ax, *columns[rows].T, s=18, alpha=0.75, label=name, zorder=3, **style)
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


@_styled
def time_memory_plot(records: pd.DataFrame) -> Figure:
    """Fitting time per gene and peak memory, by method.

    Parameters
    ----------
    records : DataFrame
        `method, seconds, genes` (how many genes the seconds were spent on), `peak_memory_mib`; one
        row per run, or per gene with ``genes = 1``.

    Returns
    -------
    Figure
    """
    _check(records, ["method", "seconds", "genes", "peak_memory_mib"], "records")
    methods = list(dict.fromkeys(records["method"]))
    fig = Figure(figsize=(7.6, 1.3 + 0.42 * len(methods)))
    left, right = fig.subplots(1, 2, sharey=True)
    per_gene = 1e3 * records["seconds"] / records["genes"]
    _strip(left, records["method"], per_gene, "Time per gene (ms)")
    _strip(right, records["method"], records["peak_memory_mib"], "Peak memory of the process (MiB)")
    left.set_yticks(range(len(methods)), methods)
    left.set_ylim(len(methods) - 0.4, -0.6)
    return fig


def _strip(ax: Axes, methods: pd.Series, values: pd.Series, label: str) -> None:
    """Runs as dots on a logarithmic axis, the median as a bar with its value."""
    colours = method_colours(list(methods))
    for i, (method, colour) in enumerate(colours.items()):
        x = values[methods == method].dropna().to_numpy(dtype=float)
        if not len(x):
            continue
        jitter = np.linspace(-0.16, 0.16, len(x)) if len(x) > 1 else np.zeros(1)
        _dots(ax, x, i + jitter, s=16, color=colour, alpha=0.55, zorder=3)
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
    _plain_log_ticks(ax.xaxis)


def _plain_log_ticks(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers, a handful whatever its range."""
    low, high = axis.get_view_interval()
    decades = np.log10(high / low)
    subs = (1, 2, 5) if decades < 1.5 else (1, 3) if decades < 3 else (1,)
    axis.set_major_locator(LogLocator(10, subs=subs, numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    axis.set_minor_formatter(NullFormatter())


# ----------------------------------------------------------------------------------------------
# Results


@_styled
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
    _check(profiles, ["trait", "h2", "loglik"], "profiles")
    _check(estimates, ["trait", "h2", "h2_lower", "h2_upper"], "estimates")
    traits = list(dict.fromkeys(profiles["trait"]))
    if not traits:
        raise InputError("profiles: no trait is there to draw.")
    rows = estimates.set_index("trait")
    columns = min(len(traits), 3)
    lines = -(-len(traits) // columns)
    fig = Figure(figsize=(1.0 + 2.9 * columns, 0.7 + 2.6 * lines))
    axes = fig.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    _more_room(fig)
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
    _legend_below(fig, axes[0, 0])
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


def _more_room(fig: Figure) -> None:
    """Set panels apart, so that the last tick of one does not run into the first of the next."""
    engine = fig.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(w_pad=0.1, h_pad=0.08)


@_styled
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
    _check(dense, ["true_h2", "h2", "dense_h2", "loglik", "dense_loglik"], "dense")
    fig = Figure(figsize=(7.8, 3.9))
    identity, rest = fig.subplots(1, 2)
    _more_room(fig)
    identity.plot([0, 1], [0, 1], color=GREY, lw=1, zorder=1)
    rest.axhline(0.0, color=GREY, lw=1, zorder=1)
    for i, (true_h2, part) in enumerate(dense.groupby("true_h2")):
        mark, colour = MARKERS[i % len(MARKERS)], PALETTE[i % len(PALETTE)]
        look: dict[str, Any] = {"marker": mark, "color": colour, "s": 20, "alpha": 0.75}
        look |= {"zorder": 3, "clip_on": False}
        _dots(identity, part["dense_h2"], part["h2"], label=f"true h² = {true_h2:g}", **look)
        _dots(rest, part["dense_h2"], part["loglik"] - part["dense_loglik"], **look)
    identity.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel="flashmm: h²", title="Heritability")
    rest.set(xlim=(-0.02, 1.02), ylabel="flashmm − dense", title="Log-likelihood reached")
    rest.yaxis.set_major_locator(MaxNLocator(5))
    rest.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    for ax in (identity, rest):
        ax.set_box_aspect(1)
        ax.set_xlabel("Dense optimiser: h²")
    _legend_below(fig, identity)
    return fig


@_styled
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
    _check(table, ["h2", group, *([truth] if truth else [])], "table")
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
        _dots(ax, x, i + shift, s=9, color=PALETTE[0], alpha=0.35, zorder=2)
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


@_styled
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
    _check(covariances, ["cell_type", "other", *columns], "covariances")
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


@_styled
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
        _dots(ax, tests["estimate"][rows], tests["score"][rows], alpha=0.85, zorder=2, **style)
    reach = 1.35 * float(tests["estimate"].abs().max()) if len(tests) else 1.0
    ceiling = 1.1 * float(tests["score"].max()) if len(tests) else 1.0
    ax.set(xlim=(-reach, reach), ylim=(0, ceiling))
    ax.set(xlabel=f"Estimate (difference in {unit})", ylabel="p-value, −log₁₀")
    ax.set_title(fill(str(tests["contrast"].iloc[0]), 64) if len(tests) else "")
    _name_genes(ax, tests[found].nlargest(top, "score"))
    _legend_below(fig, ax, markerscale=1.5, handletextpad=0.1)
    return fig


def _volcano_tests(table: pd.DataFrame, contrast: str | None) -> pd.DataFrame:
    """Tests of one contrast that have a p-value, with `score` = −log10 p."""
    _check(table, ["gene", "contrast", "estimate", "p_value", "adj_p_value"], "table")
    names = list(table["contrast"].unique())
    if contrast is None and len(names) > 1:
        raise InputError(f"contrast: the table has {len(names)}, choose one of {names[:5]}.")
    if contrast is not None and contrast not in names:
        raise InputError(f"contrast: {contrast!r} is not in the table; it has {names[:5]}.")
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


# ----------------------------------------------------------------------------------------------
# The simulated (or real) counts themselves


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


@_styled
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
    _check(obs, [subject, libsize], "obs")
    _check(moments, ["mean", "variance"], "moments")
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
    _plain_log_ticks(ax.xaxis)
    ax.set_title("Library size")
    ax.legend(loc="upper left")


def _mean_variance(ax: Axes, moments: pd.DataFrame, reference: pd.DataFrame | None) -> None:
    shown = [(moments, PALETTE[0], "genes", 3)]
    if reference is not None:
        shown.append((reference, PALETTE[4], "reference", 2))
    for frame, colour, label, order in shown:
        some = frame[(frame["mean"] > 0) & (frame["variance"] > 0)]
        style = {"color": colour, "label": label, "zorder": order}
        _dots(ax, some["mean"], some["variance"], s=9, alpha=0.5, **style)
    ends = moments.loc[moments["mean"] > 0, "mean"].agg(["min", "max"]).to_numpy()
    ax.plot(ends, ends, color=INK, ls=(0, (4, 2)), lw=1, label="Poisson", zorder=4)
    ax.set(xscale="log", yscale="log", xlabel="Mean (counts)")
    ax.set_ylabel("Variance (counts²)")
    for axis in (ax.xaxis, ax.yaxis):
        _plain_log_ticks(axis)
    ax.set_title("Genes")
    ax.legend(loc="upper left", markerscale=1.5, handletextpad=0.3)
