"""Figures of a table of tests, as `table.plot`."""

from __future__ import annotations

from io import BytesIO
from types import MethodType
from typing import Any

from matplotlib.figure import Figure

from flashmm import plots
from flashmm.inference.table import TestTable
from flashmm.notebook.rows import rows_of_gene, subject_means_of, tests_of
from flashmm.options import InputError
from flashmm.plots.of_tables import forest_plot, ma_plot, subjects_plot, uniform_plot


class TablePlots:
    """Figures of a table of tests; each shows itself in a notebook, without magics.

    Parameters
    ----------
    table : TestTable
        With tests of `de` or `contrast_tests`.
    """

    def __init__(self, table: TestTable) -> None:
        self._table = table

    def volcano(
        self, contrast: str | None = None, level: str | None = None, **options: Any
    ) -> Figure:
        """Estimates against p-values of one contrast; options as of `plots.volcano_plot`.

        Parameters
        ----------
        contrast : str, optional
            Needed where the table has several.
        level : str, optional
            The level (cell type) whose model is drawn; needed where there are several.
        """
        rows, title = tests_of(self._table, contrast, level)
        return _shown(plots.volcano_plot(rows.assign(contrast=title), **options))

    def ma(self, contrast: str | None = None, level: str | None = None) -> Figure:
        """Log2 fold changes against mean counts."""
        rows, title = tests_of(self._table, contrast, level, details=True)
        return _shown(ma_plot(rows, title=title))

    def qq(self, contrast: str | None = None) -> Figure:
        """All p-values against uniform ones, by level of `within`."""
        frame = self._table.to_frame()
        if contrast is not None:
            frame = frame[frame["contrast"] == contrast]
            if frame.empty:
                raise InputError(f"contrast: {contrast!r} is not in the table.")
        return _shown(uniform_plot(frame, by=self._table.within or "contrast"))

    def forest(self, gene: str) -> Figure:
        """Fold changes (or estimates) of one gene with their intervals, a row per test."""
        rows = rows_of_gene(self._table, gene)
        label = self._table.within or "contrast"
        if rows[label].duplicated().any():
            names = (
                rows["contrast"] if label == "contrast" else rows[label] + ", " + rows["contrast"]
            )
            rows, label = rows.assign(test=names), "test"
        return _shown(forest_plot(rows, label=label, title=gene))

    def expression(self, gene: str) -> Figure:
        """Mean of one gene in the cells of each subject and condition, a panel per level."""
        means, unit = subject_means_of(self._table, gene)
        return _shown(subjects_plot(means, unit=unit, title=gene))


def _shown(figure: Figure) -> Figure:
    """A figure that a notebook shows, whatever its backend."""
    figure._repr_png_ = MethodType(_png, figure)  # type: ignore[attr-defined]
    return figure


def _png(figure: Figure) -> bytes:
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    return drawn.getvalue()
