"""Charts of error rates and power, drawn from the same tables as their figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from flashmm.benchmark.truth import ALL
from flashmm.plots.charts import Axis, Chart, Panel, Rule, Series, rows_of, thinned
from flashmm.plots.style import Look, looks_of
from flashmm.report import page as blocks

Curves = Mapping[str, pd.DataFrame]
#: observed −log10 p is shown up to this multiple of the largest expected one
QQ_CEILING = 2.2


def _whole(curve: pd.DataFrame) -> pd.DataFrame:
    """Rows of all contrasts and cell types together."""
    rows = curve[curve["contrast"] == ALL]
    return (
        rows[rows["cell_type"].isna() | (rows["cell_type"] == ALL)] if "cell_type" in rows else rows
    )


def _by_method(curves: Curves, methods: Sequence[str]) -> list[tuple[str, pd.DataFrame, Look]]:
    looks = looks_of(list(curves), methods)
    found = ((name, _whole(curve), looks[name]) for name, curve in curves.items())
    return [(name, curve, look) for name, curve, look in found if len(curve)]


def qq_chart(curves: Curves, methods: Sequence[str]) -> Chart:
    """Observed against expected null p-values, with the 95 % band."""
    shown = _by_method(curves, methods)
    if not shown:
        return Chart(())
    widest = thinned(max((curve for _, curve, _ in shown), key=lambda c: c["upper"].max()))
    ceiling = QQ_CEILING * float(widest["expected"].max())
    series = []
    for name, curve, look in shown:
        some = thinned(curve)
        text = [
            f"{name}: p = {10**-row.observed:.2g}, expected {10**-row.expected:.2g}"
            for row in rows_of(some)
        ]
        style: dict[str, Any] = {"colour": look.colour, "mark": look.marker, "text": text}
        series.append(
            Series(name, some["expected"], some["observed"].clip(upper=ceiling), size=2.4, **style)
        )
    band = (widest["expected"], widest["lower"], widest["upper"])
    x, y = (Axis(f"{word} null p-value, −log₁₀") for word in ("Expected", "Observed"))
    return Chart((Panel("", x, y, tuple(series), (Rule("identity"),), band),), methods=True)


def histogram_chart(curves: Curves, methods: Sequence[str]) -> Chart:
    """Histograms of null p-values, a panel per method."""
    panels = []
    for name, curve, look in _by_method(curves, methods):
        width = float((curve["right"] - curve["left"]).iloc[0])
        text = [
            f"{name}: {row.n:,} p-values from {row.left:g} to {row.right:g}"
            for row in rows_of(curve)
        ]
        bars = Series(
            name, curve["left"], curve["density"], "bars", look.colour, text=text, width=width
        )
        axis = Axis("Null p-value", ends=(0.0, 1.0))
        panels.append(Panel(name, axis, Axis("Density"), (bars,), (Rule("y", 1.0),)))
    return Chart(tuple(panels), methods=True, legend=False)


def fpr_chart(metrics: pd.DataFrame, methods: Sequence[str]) -> Chart:
    """Rates of rejected true nulls over their levels."""
    rows = metrics[(metrics["metric"] == "fpr") & (metrics["contrast"] == ALL)]
    levels = sorted(rows["level"].unique(), reverse=True)
    looks = looks_of(list(dict.fromkeys(rows["method"])), methods)
    series = []
    for i, (name, look) in enumerate(looks.items()):
        own = rows[rows["method"] == name].drop_duplicates("level").set_index("level")
        own = own.reindex(levels)
        value = own["value"].to_numpy() / levels
        error = 1.96 * own["std_error"].to_numpy() / levels
        text = [
            f"{name}: {blocks.with_error(v, e)} at {level:g}"
            for level, v, e in zip(levels, own["value"], own["std_error"], strict=True)
        ]
        x = np.arange(len(levels)) + (i - (len(looks) - 1) / 2) * 0.7 / len(looks)
        style: dict[str, Any] = {"colour": look.colour, "mark": look.marker, "text": text}
        series.append(
            Series(name, x, value, low=np.maximum(value - error, 0), high=value + error, **style)
        )
    axis = Axis("Nominal level", names=tuple(f"{level:g}" for level in levels))
    ratio = Axis("True nulls rejected, over the level")
    return Chart((Panel("", axis, ratio, tuple(series), (Rule("y", 1.0),)),), methods=True)


def roc_chart(curves: Curves, methods: Sequence[str], zoom: float = 0.1) -> Chart:
    """ROC curves, whole and for few false positives."""
    panels = []
    for end, title in ((1.0, "All thresholds"), (zoom, f"False positive rate up to {zoom:g}")):
        series = []
        for name, curve, look in _by_method(curves, methods):
            some = thinned(curve[curve["fpr"] <= end])
            style: dict[str, Any] = {"colour": look.colour, "mark": look.marker}
            series.append(Series(name, some["fpr"], some["tpr"], "step", **style))
        x, y = Axis("False positive rate", ends=(0, end)), Axis("True positive rate", ends=(0, 1))
        panels.append(Panel(title, x, y, tuple(series), (Rule("identity"),)))
    return Chart(tuple(panels), methods=True)


def fdp_chart(metrics: pd.DataFrame, curves: Curves, methods: Sequence[str]) -> Chart:
    """True positive rate against false discovery proportion: curves, and marks at BH's levels."""
    rows = metrics[(metrics["contrast"] == ALL) & metrics["metric"].isin(("fdp", "tpr"))]
    wide = rows.pivot_table(index=["method", "level"], columns="metric", values="value")
    wide = wide.reset_index()
    levels = sorted(wide["level"].unique())
    reach = max(0.25, 1.1 * float(wide["fdp"].max()) if len(wide) else 0.25)
    series = []
    for name, curve, look in _by_method(curves, methods):
        some = thinned(curve[curve["fdp"] <= reach])
        series.append(Series(name, some["fdp"], some["tpr"], "line", look.colour, look.marker))
        own = wide[wide["method"] == name]
        text = [
            f"{name} at BH {row.level:.0%}: FDP {row.fdp:.3f}, TPR {row.tpr:.3f}"
            for row in rows_of(own)
        ]
        style: dict[str, Any] = {"colour": look.colour, "mark": look.marker, "text": text}
        series.append(Series(name, own["fdp"], own["tpr"], size=5.0, **style))
    x = Axis("Realised false discovery proportion", ends=(0.0, reach))
    rules = tuple(Rule("x", level, f"{level:.0%}") for level in levels)
    return Chart((Panel("", x, Axis("True positive rate"), tuple(series), rules),), methods=True)
