"""Charts: figures as records of numbers, drawn here, and by a page with names, zoom and choices.

A chart is made of panels, a panel of series on two axes. `draw_chart` makes the figure, and
`as_json` what the script of a page draws the same from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis as DrawnAxis
from matplotlib.figure import Figure

from flashmm.plots.style import BAND, GREY, PALETTE, dots, legend_below, plain_log_ticks, styled

#: points of a curve on a page, at most; its figure has them all
MOST_POINTS = 300
#: cells per axis of the raster in which one point of a crowd is kept
RASTER = 110
#: panels of a figure, at most; a page lets one choose among them all
MOST_PANELS = 12


@dataclass(frozen=True)
class Axis:
    """An axis: label, "linear" or "log", its ends (found if None), names in place of numbers."""

    label: str
    scale: str = "linear"
    ends: tuple[float, float] | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Series:
    """Points, a line, steps or bars of one name.

    Attributes
    ----------
    name : str
        What the legend says; series of one name are shown and hidden together.
    x, y : (points,) array-like
        Places; of bars, left ends and heights.
    kind : {"points", "line", "step", "bars", "both"}
        How they are drawn; "both" are points on a line.
    colour, mark : str
        Colour and mark (of matplotlib).
    low, high : (points,) array-like, optional
        Ends of an interval in y around each point.
    text : sequence of str, optional
        What is said of each point under the pointer.
    labels : sequence of str
        Names that are written beside the first points.
    width : float
        Width of bars.
    size : float
        Radius of marks, in pixels.
    """

    name: str
    x: Any
    y: Any
    kind: str = "points"
    colour: str = PALETTE[0]
    mark: str = "o"
    low: Any = None
    high: Any = None
    text: Sequence[str] | None = None
    labels: Sequence[str] = ()
    width: float = 0.0
    size: float = 3.0


@dataclass(frozen=True)
class Rule:
    """A line for the eye: across at `at` of "x" or "y", or the "identity"."""

    kind: str
    at: float = 0.0
    label: str = ""


@dataclass(frozen=True, eq=False)
class Panel:
    """Series on two axes, with lines for the eye and a grey band (`x`, `low`, `high`)."""

    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    rules: tuple[Rule, ...] = ()
    band: tuple[Any, Any, Any] | None = None


@dataclass(frozen=True, eq=False)
class Chart:
    """Panels side by side, or one at a time on a page where `choose` says what is chosen.

    `methods` says that the series are methods, which a page shows and hides everywhere at once.
    """

    panels: tuple[Panel, ...]
    choose: str = ""
    methods: bool = False
    legend: bool = True


# ----------------------------------------------------------------------------------------------
# For a page


def as_json(chart: Chart) -> dict[str, Any]:
    """Return a chart as JSON can hold it: numbers of four digits, None where there is none."""
    return {
        "choose": chart.choose,
        "methods": chart.methods,
        "legend": chart.legend,
        "panels": [_panel(panel) for panel in chart.panels],
    }


def _panel(panel: Panel) -> dict[str, Any]:
    made: dict[str, Any] = {
        "title": panel.title,
        "x": _axis(panel.x),
        "y": _axis(panel.y),
        "series": [_series(series) for series in panel.series],
        "rules": [vars(rule) for rule in panel.rules],
    }
    if panel.band is not None:
        made["band"] = dict(zip(("x", "low", "high"), map(_numbers, panel.band), strict=True))
    return made


def _axis(axis: Axis) -> dict[str, Any]:
    ends = None if axis.ends is None else _numbers(axis.ends)
    return {"label": axis.label, "scale": axis.scale, "ends": ends, "names": list(axis.names)}


def _series(series: Series) -> dict[str, Any]:
    plain = ("name", "kind", "colour", "mark", "size", "width")
    made = {name: getattr(series, name) for name in plain}
    for name in ("x", "y", "low", "high"):
        if getattr(series, name) is not None:
            made[name] = _numbers(getattr(series, name))
    if series.text is not None:
        made["text"] = list(map(str, series.text))
    if len(series.labels):
        made["labels"] = list(map(str, series.labels))
    return made


def _numbers(values: Any) -> list[float | None]:
    """Numbers to four digits, infinite or missing ones as None."""
    return [
        float(f"{value:.4g}") if np.isfinite(value) else None
        for value in np.asarray(values, dtype=float).tolist()
    ]


def rows_of(table: pd.DataFrame) -> Iterable[Any]:
    """Rows of a table, columns as attributes.

    Parameters
    ----------
    table : DataFrame
        With names of columns that can be attributes.

    Returns
    -------
    iterable of namedtuple
    """
    return table.itertuples()


def thinned(curve: pd.DataFrame, most: int = MOST_POINTS) -> pd.DataFrame:
    """Rows of a curve at even ranks, `most` at most, the first and the last among them.

    Parameters
    ----------
    curve : DataFrame
        Points in their order.
    most : int
        Rows to keep.

    Returns
    -------
    DataFrame
    """
    if len(curve) <= most:
        return curve
    return curve.iloc[np.unique(np.linspace(0, len(curve) - 1, most).round().astype(int))]


def uncrowded(points: pd.DataFrame, x: str, y: str, raster: int = RASTER) -> pd.DataFrame:
    """Points without those that others cover: the first in each cell of a raster.

    Parameters
    ----------
    points : DataFrame
        Points, those to be kept first.
    x, y : str
        Columns of their places.
    raster : int
        Cells per axis.

    Returns
    -------
    DataFrame
    """
    if points.empty:
        return points
    cells = {name: _cells(points[name].to_numpy(dtype=float), raster) for name in (x, y)}
    return points[~pd.DataFrame(cells).duplicated().to_numpy()]


def _cells(values: np.ndarray, raster: int) -> np.ndarray:
    low, high = np.nanmin(values), np.nanmax(values)
    return np.nan_to_num(np.floor((values - low) / (high - low or 1.0) * raster)).astype(int)


# ----------------------------------------------------------------------------------------------
# As a figure


@styled
def draw_chart(chart: Chart) -> Figure:
    """Draw a chart as a figure, its panels side by side.

    Parameters
    ----------
    chart : Chart
        The first `MOST_PANELS` panels are drawn.

    Returns
    -------
    Figure
    """
    panels = chart.panels[:MOST_PANELS]
    columns = len(panels) if len(panels) < 3 else 2 if len(panels) == 4 else 3
    rows = -(-len(panels) // max(columns, 1))
    width, height = {1: (6.4, 4.4), 2: (4.2, 3.9)}.get(columns, (3.3, 3.1))
    fig = Figure(figsize=(width * columns, height * rows + 0.5))
    axes = fig.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(panels) :]:
        ax.remove()
    for ax, panel in zip(axes, panels, strict=False):
        _draw_panel(ax, panel)
    if chart.legend:
        _draw_legend(fig, axes[0], panels)
    return fig


def _draw_legend(fig: Figure, ax: Axes, panels: Iterable[Panel]) -> None:
    """One legend of the series of all panels, said by marks without points in the first."""
    there = set(ax.get_legend_handles_labels()[1])
    for series in (series for panel in panels for series in panel.series):
        if series.name not in there:
            there.add(series.name)
            ax.plot([], [], series.mark, color=series.colour, label=series.name, ls="none")
    if len(there) > 1:
        legend_below(fig, ax)


def _draw_panel(ax: Axes, panel: Panel) -> None:
    for axis, drawn in ((panel.x, ax.xaxis), (panel.y, ax.yaxis)):
        _draw_axis(ax, axis, drawn)
    if panel.band is not None:
        ax.fill_between(*panel.band, color=BAND, lw=0)
    for series in panel.series:
        _draw_series(ax, series)
    for rule in panel.rules:
        _draw_rule(ax, rule)
    ax.set_title(panel.title)
    for axis, drawn in ((panel.x, ax.xaxis), (panel.y, ax.yaxis)):
        if axis.scale == "log":
            plain_log_ticks(drawn)


def _draw_axis(ax: Axes, axis: Axis, drawn: DrawnAxis) -> None:
    name = "x" if drawn is ax.xaxis else "y"
    ax.set(**{f"{name}label": axis.label, f"{name}scale": axis.scale})
    if axis.names:
        drawn.set_ticks(range(len(axis.names)), list(axis.names))
        long = name == "x" and sum(map(len, axis.names)) > 40
        if long:
            ax.tick_params(axis="x", rotation=35)
    ends = (-0.6, len(axis.names) - 0.4) if axis.names else axis.ends
    if ends is not None:
        ax.set(**{f"{name}lim": ends})


def _draw_series(ax: Axes, series: Series) -> None:
    x, y = np.asarray(series.x, dtype=float), np.asarray(series.y, dtype=float)
    if series.kind == "bars":
        ax.bar(x, y, series.width, align="edge", color=series.colour, ec="white", lw=0.6)
        return
    if series.kind in ("line", "step", "both"):
        style = "steps-post" if series.kind == "step" else "default"
        ax.plot(x, y, color=series.colour, drawstyle=style)
    if series.kind in ("points", "both"):
        if series.low is not None:
            ax.vlines(x, series.low, series.high, color=series.colour, lw=1.2)
        size = (1.7 * series.size) ** 2
        dots(ax, x, y, s=size, color=series.colour, marker=series.mark, alpha=0.85, zorder=3)
    for name, place in zip(series.labels, zip(x, y, strict=True), strict=False):
        ax.annotate(str(name), place, (4, 3), textcoords="offset points", fontsize=7)


def _draw_rule(ax: Axes, rule: Rule) -> None:
    style: dict[str, Any] = {"color": GREY, "lw": 1, "ls": (0, (4, 2)), "zorder": 1}
    if rule.kind == "x":
        ax.axvline(rule.at, **style)
        ax.annotate(rule.label, (rule.at, 1), (2, -9), ("data", "axes fraction"), "offset points")
    elif rule.kind == "y":
        ax.axhline(rule.at, **style)
    else:
        ax.axline((0, 0), slope=1, **style)
