"""Blocks of a page: text, tables, figures, and the page that holds them.

A page is made of sections, a section of blocks, and the template draws each kind of block.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from flashmm import plots
from flashmm.storage.files import atomic_path, package_version
from flashmm.storage.provenance import source_digest

# Larger drawings are shown as PNG, so that the page stays light; the SVG is kept as a file.
MAX_INLINE_SVG = 400_000


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


def heading(words: str) -> dict[str, Any]:
    """A heading within a section."""
    return {"kind": "heading", "text": words}


def table(frame: pd.DataFrame, title: str, caption: str) -> dict[str, Any]:
    """A table; columns of numbers are set flush right."""
    numeric = [i for i, name in enumerate(frame) if pd.api.types.is_numeric_dtype(frame[name])]
    return {
        "kind": "table",
        "title": title,
        "caption": caption,
        "columns": list(frame.columns),
        "numeric": numeric,
        "rows": [[cell(value) for value in line] for line in frame.astype(object).to_numpy()],
    }


def figure(
    folder: Path, fig: Figure, name: str, title: str, caption: str, good: str | None = None
) -> dict[str, Any]:
    """A figure, kept as SVG and PNG in a folder."""
    svg, png = plots.save_figure(fig, folder / name)
    shown, kind = (svg, "svg+xml") if svg.stat().st_size <= MAX_INLINE_SVG else (png, "png")
    data = base64.b64encode(shown.read_bytes()).decode()
    return {
        "kind": "figure",
        "src": f"data:image/{kind};base64,{data}",
        "title": title,
        "caption": caption,
        "good": good,
    }


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
