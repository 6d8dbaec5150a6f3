"""Quick figures for tests of pages; how figures look is what `tests/plots` asks."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from flashmm.plots import style

_print_png = style._print_png


def draw_coarsely(patch: pytest.MonkeyPatch) -> None:
    """Let figures not be laid out, and be drawn once, as SVG; the PNG is empty."""
    patch.setitem(style.STYLE, "figure.constrained_layout.use", False)
    patch.setitem(style.STYLE, "axes.titley", 1.0)  # otherwise titles look for free places
    patch.setitem(style.STYLE, "svg.fonttype", "none")
    patch.setattr(style, "_print_png", _print_empty)


def _print_empty(fig: Figure, path: Path) -> None:
    _print_png(Figure(figsize=(1, 1)), path)
