"""Blocks of a page: text, tables, figures, and the page that holds them.

A page is made of sections, a section of blocks, and the template draws each kind of block.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from flashmm import plots
from flashmm.plots.charts import Chart, as_json, draw_chart
from flashmm.storage.files import atomic_path, package_version
from flashmm.storage.provenance import source_digest

# Larger drawings are shown as PNG, so that the page stays light; the SVG is kept as a file.
MAX_INLINE_SVG = 400_000
# The same of drawings that are the base of a chart.
MAX_BASE_SVG = 120_000
# Verdicts on a number: colours of the cells of a table, and the signs that say the same in print.
TONES = {"good": "✓", "unsure": "?", "bad": "✗", "low": "↓", "": ""} | {"up": "↑", "down": "↓"}


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, a tone of `TONES`, what sorting goes by, what hovering says."""

    text: str
    tone: str = ""
    value: float | str | None = None
    title: str = ""

    @property
    def sign(self) -> str:
        """The sign of the tone."""
        return TONES[self.tone]


NOTHING = Cell("–")


def render_page(path: str | Path, page: Mapping[str, Any]) -> None:
    """Write a page: `title, lead, cards` and `sections` of `id, title, blocks`."""
    environment = Environment(
        loader=PackageLoader("flashmm.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made = {
        "version": package_version(),
        "source": source_digest(),
        "made": datetime.now().strftime("%Y-%m-%d %H:%M"),
    }
    with atomic_path(path) as unfinished:
        html = environment.get_template("report.html.j2").render({**page, **made})
        unfinished.write_text(html, "utf-8")


def text(words: str) -> dict[str, Any]:
    """A paragraph."""
    return {"kind": "text", "text": words}


def caution(words: str) -> dict[str, Any]:
    """A paragraph in a frame, of what a reader should know before the results."""
    return {"kind": "caution", "text": words}


def heading(words: str) -> dict[str, Any]:
    """A heading within a section."""
    return {"kind": "heading", "text": words}


def table(
    frame: pd.DataFrame,
    title: str,
    caption: str,
    *,
    methods: Sequence[str] | None = None,
    sortable: bool = False,
) -> dict[str, Any]:
    """A table; columns of numbers are set flush right.

    Parameters
    ----------
    frame : DataFrame
        Values, or `Cell`s.
    title, caption : str
        What stands above it.
    methods : sequence of str, optional
        The method of each row, which is hidden with the method.
    sortable : bool
        Whether a click on a heading sorts it.

    Returns
    -------
    dict
        The block.
    """
    numeric = [i for i, name in enumerate(frame) if _is_numeric(frame[name])]
    return {
        "kind": "table",
        "title": title,
        "caption": caption,
        "columns": list(frame.columns),
        "numeric": numeric,
        "sortable": sortable,
        "methods": None if methods is None else list(methods),
        "rows": [[_as_cell(value) for value in line] for line in frame.astype(object).to_numpy()],
    }


def filled(frame: pd.DataFrame) -> pd.DataFrame:
    """Cells and names of a table, with a dash where there is nothing."""
    return frame.astype(object).map(lambda value: NOTHING if pd.isna(value) else value)


def _is_numeric(column: pd.Series) -> bool:
    cells = [value for value in column if isinstance(value, Cell)]
    if cells:
        return any(isinstance(value.value, int | float) for value in cells)
    return pd.api.types.is_numeric_dtype(column)


def _as_cell(value: Any) -> Cell:
    if isinstance(value, Cell):
        return value
    numbers = isinstance(value, int | float | np.integer | np.floating) and value == value
    return Cell(cell(value), value=float(value) if numbers else None)


def figure(
    folder: Path,
    fig: Figure,
    name: str,
    title: str,
    caption: str,
    good: str | None = None,
    chart: Chart | None = None,
) -> dict[str, Any]:
    """A figure, kept as SVG and PNG in a folder, and the chart that a browser shows instead."""
    svg, png = plots.save_figure(fig, folder / name)
    most = MAX_INLINE_SVG if chart is None else MAX_BASE_SVG
    shown, kind = (svg, "svg+xml") if svg.stat().st_size <= most else (png, "png")
    data = base64.b64encode(shown.read_bytes()).decode()
    return {
        "kind": "figure",
        "src": f"data:image/{kind};base64,{data}",
        "title": title,
        "caption": caption,
        "good": good,
        "chart": None if chart is None else as_json(chart),
    }


def chart(
    folder: Path, drawn: Chart, name: str, title: str, caption: str, good: str | None = None
) -> dict[str, Any]:
    """A chart, and the figure of the same numbers that stands in for it."""
    return figure(folder, draw_chart(drawn), name, title, caption, good, drawn)


def chips(methods: Mapping[str, str]) -> dict[str, Any]:
    """Buttons that show and hide methods on the whole page; method to colour."""
    return {"kind": "chips", "methods": dict(methods)}


def expression(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Means of groups that tables of genes show on a click; `name` is what they ask for."""
    return {"kind": "expression", "id": name, "data": dict(data)}


def row(*figures: dict[str, Any], good: str | None = None) -> dict[str, Any]:
    """Figures side by side where the page is wide enough; `good` is said once for all of them."""
    return {"kind": "row", "figures": figures, "good": good}


def details(summary: str, lines: Iterable[str]) -> dict[str, Any]:
    """Lines that are shown when asked for."""
    return {"kind": "details", "summary": summary, "text": "\n".join(lines)}


def cell(value: Any) -> str:
    """Text of a number or anything else in a table."""
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        return number(float(value))
    return str(value)


def number(value: float) -> str:
    """Three significant digits, in powers of ten where a number is very small or large."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.3g}" if abs(value) < 1e3 else f"{value:,.0f}"
    return f"{value:.2e}"


def with_error(value: float, error: float) -> str:
    """A number with its standard error, both to the error's second digit."""
    if np.isnan(error):
        return number(value)
    digits = 3 if error == 0 else int(np.clip(1 - np.floor(np.log10(error)), 0, 6))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def slug(words: str) -> str:
    """Words as part of a file name or an address."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", words).strip("_")
