"""The look of every figure: colours, marks, settings, what figures share, and how they are saved.

No pyplot state and no backend is touched, so figures can be drawn anywhere, and `save_figure`
writes the same bytes for the same data. Colours are those of Okabe & Ito (2008), told apart with
any common colour vision; marks differ in shape as well.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    NullFormatter,
)

from flashmm.names import listed
from flashmm.options import InputError
from flashmm.storage.files import atomic_path

# Okabe & Ito 2008, in the order in which methods take them
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#B8A800")
# for more methods than that
MORE_COLOURS = (
    "#882255", "#6A51A3", "#8C564B", "#3B6E8F", "#117733", "#A50F15", "#E7969C", "#7F7F7F",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", (0, (5, 1.5)), (0, (4, 1.2, 1, 1.2)), (0, (1, 1)), (0, (8, 1.5, 1, 1.5, 1, 1.5)))
INK, GREY, PALE, BAND = "#222222", "#8A8A8A", "#C9C9C9", "#E3E3E3"
UP, DOWN = PALETTE[1], PALETTE[0]
PNG_DPI = 200
MOST_LARGER = 4  # steps by which a mark is larger than the last one's
# Scripts of names of genes and cell types that DejaVu Sans has no letters for.
OTHER_FONTS = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "Noto Sans",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Noto Emoji",
    "Unifont",
)
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
    "font.size": 9,
    "grid.color": "#EDEDED",
    "grid.linewidth": 0.7,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "lines.linewidth": 1.7,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "path",
    "svg.hashsalt": "flashmm",
    "text.color": INK,
    # names of others are no formulas: a dollar sign is a dollar sign
    "text.parse_math": False,
    "xtick.color": "#555555",
    "xtick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.color": "#555555",
    "ytick.labelcolor": INK,
    "ytick.labelsize": 8.5,
}
_P = ParamSpec("_P")


def styled(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Draw under the package's style, and leave the caller's settings as they were."""

    @wraps(draw)
    def styled(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(STYLE | {"font.family": font_families()})
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
    layout, canvas, dpi = fig.get_layout_engine(), fig.canvas, fig.get_dpi()
    # Through the canvas: `fig.savefig` would lay out and draw each file twice.
    # Without date and version the bytes depend on the data alone.
    for path, printed in zip(paths, (_print_svg, _print_png), strict=True):
        with mpl.rc_context(), atomic_path(path) as temporary, warnings.catch_warnings():
            # letters that no font of this machine has are boxes; the charts of pages have them
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            mpl.rcdefaults()
            mpl.rcParams.update(STYLE | {"font.family": font_families()})
            printed(fig, temporary)
        fig.set_layout_engine("none")  # laid out once; the second file has the same places
    fig.set_canvas(canvas)
    fig.set_dpi(dpi)
    fig.set_layout_engine(layout)
    return paths


def _print_svg(fig: Figure, path: Path) -> None:
    FigureCanvasSVG(fig).print_svg(path, metadata={"Date": None, "Creator": None})


def _print_png(fig: Figure, path: Path) -> None:
    fig.set_dpi(PNG_DPI)
    FigureCanvasAgg(fig).print_png(path, metadata={"Software": None})


@cache
def font_families() -> list[str]:
    """DejaVu Sans, and fonts of this machine for letters that it lacks."""
    installed = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in OTHER_FONTS if name in installed)]


def method_colours(methods: Sequence[str]) -> dict[str, str]:
    """Give each method its colour, in the order of the methods, the same in every figure."""
    colours = (*PALETTE, *MORE_COLOURS)
    return {method: colours[i % len(colours)] for i, method in enumerate(dict.fromkeys(methods))}


@dataclass(frozen=True)
class Look:
    """How one method is drawn; earlier ones are larger by `scale`, to be seen under later ones."""

    colour: str
    marker: str
    line: Any
    scale: float


def looks_of(methods: Sequence[str], every: Sequence[str] | None = None) -> dict[str, Look]:
    """Colour, mark and line of each method, in the order of the methods.

    Where a page shows more methods than a figure, `every` has all of them, and a method looks the
    same in each figure.
    """
    if every is not None:
        looks = looks_of([*every, *methods])
        return {name: looks[name] for name in dict.fromkeys(methods)}
    colours = method_colours(methods)
    return {
        name: Look(
            colour,
            MARKERS[i % len(MARKERS)],
            LINES[i % len(LINES)],
            1 + 0.3 * min(len(colours) - 1 - i, MOST_LARGER),
        )
        for i, (name, colour) in enumerate(colours.items())
    }


# ----------------------------------------------------------------------------------------------
# Parts that figures share


def require_columns(frame: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    """Raise an InputError where a frame lacks columns."""
    missing = [column for column in columns if column not in frame]
    if missing:
        raise InputError(
            f"{what}: columns {listed(missing)} are missing; found {listed(frame.columns, 20)}."
        )


def of_contrast(curves: Mapping[str, pd.DataFrame], contrast: str) -> dict[str, pd.DataFrame]:
    """Rows of one contrast for every method."""
    if not curves:
        raise InputError("curves: no method was given; give {method: curve}.")
    return {str(name): curve[curve["contrast"] == contrast] for name, curve in curves.items()}


def dots(ax: Axes, x: Any, y: Any, **style: Any) -> None:
    """Scatter points without rims; as pixels where an SVG would grow large."""
    ax.scatter(x, y, lw=0, rasterized=len(x) > MAX_VECTOR_POINTS, **style)


def legend_below(fig: Figure, ax: Axes, **options: Any) -> None:
    """Put the legend under the axes, where it covers no data, in as many columns as fit."""
    handles, labels = ax.get_legend_handles_labels()
    # inches per entry: about 0.075 a letter, and the handle
    width = 0.075 * max(map(len, labels), default=0) + 0.65
    columns = max(1, min(len(labels), int(fig.get_figwidth() / width)))
    fig.legend(handles, labels, loc="outside lower center", ncols=columns, **options)


def more_room(fig: Figure) -> None:
    """Set panels apart, so that the last tick of one does not run into the first of the next."""
    engine = fig.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(w_pad=0.1, h_pad=0.08)


def plain_log_ticks(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers, a handful whatever its range."""
    low, high = axis.get_view_interval()
    decades = np.log10(high / low)
    subs = (1, 2, 5) if decades < 1.5 else (1, 3) if decades < 3 else (1,)
    axis.set_major_locator(LogLocator(10, subs=subs, numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    axis.set_minor_formatter(NullFormatter())
