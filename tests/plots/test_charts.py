"""Charts: what a page's script reads, and the figure of the same numbers."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from flashmm import plots
from flashmm.plots.charts import (
    Axis,
    Chart,
    Panel,
    Rule,
    Series,
    as_json,
    draw_chart,
    thinned,
    uncrowded,
)
from flashmm.plots.style import MORE_COLOURS, PALETTE, looks_of, method_colours, save_figure

HOSTILE = (r"$\foo$", "<b>", "</script>", "$", "a_b^{c}$x$", "βγ 遺伝子")


def chart(*names: str) -> Chart:
    series = tuple(
        Series(name, [1, 2, np.nan], [1, np.inf, 3], low=[0, 1, 2], high=[2, 3, 4], labels=[name])
        for name in names
    )
    panel = Panel(names[0], Axis("x", "log"), Axis("y"), series, (Rule("y", 1.0, names[0]),))
    return Chart((panel,), methods=True)


def test_numbers_that_are_none_of_json_are_left_out():
    made = as_json(chart("one"))
    series = json.loads(json.dumps(made, allow_nan=False))["panels"][0]["series"][0]
    assert series["x"] == [1.0, 2.0, None] and series["y"] == [1.0, None, 3.0]
    assert "text" not in series and series["labels"] == ["one"]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_drawn_as_they_are(tmp_path, name):
    fig = draw_chart(chart(name, "other"))
    (svg, png) = save_figure(fig, tmp_path / "figure")
    ET.parse(svg)
    assert png.stat().st_size > 0
    assert fig.axes[0].get_title(loc="left") == name


def test_names_of_genes_and_methods_are_no_formulas(tmp_path):
    name = HOSTILE[0]
    genes = pd.DataFrame({"gene": [name], "contrast": [name], "estimate": [1.0]})
    genes = genes.assign(p_value=1e-9, adj_p_value=1e-9)
    volcano = plots.volcano_plot(genes)
    assert name in {text.get_text() for text in volcano.findobj(mpl.text.Text)}
    save_figure(volcano, tmp_path / "volcano")
    costs = pd.DataFrame({"method": [name], "seconds": [1.0], "genes": [1]})
    save_figure(plots.time_memory_plot(costs.assign(peak_memory_mib=9.0)), tmp_path / "costs")


def test_both_files_of_a_figure_have_one_layout(tmp_path):
    fig = draw_chart(chart("one", "two"))
    save_figure(fig, tmp_path / "figure")
    places = fig.axes[0].get_position().bounds
    assert fig.get_layout_engine() is not None
    fig.draw_without_rendering()
    np.testing.assert_allclose(fig.axes[0].get_position().bounds, places, atol=0.02)


def test_methods_keep_their_looks_in_every_figure():
    every = [f"m{i}" for i in range(12)]
    assert len(set(method_colours(every).values())) == 12
    assert set(PALETTE).isdisjoint(MORE_COLOURS)
    some = looks_of(["m3", "m1"], every)
    assert list(some) == ["m3", "m1"] and some["m3"] == looks_of(every)["m3"]


def test_curves_and_crowds_are_thinned():
    curve = pd.DataFrame({"x": np.arange(1000.0), "y": 1.0})
    few = thinned(curve, 100)
    assert len(few) == 100 and few["x"].iloc[[0, -1]].tolist() == [0, 999]
    crowd = pd.DataFrame({"x": [0, 0.001, 1], "y": [0, 0.001, 1], "gene": list("abc")})
    assert uncrowded(crowd, "x", "y")["gene"].tolist() == ["a", "c"]
    assert uncrowded(crowd[:0], "x", "y").empty
