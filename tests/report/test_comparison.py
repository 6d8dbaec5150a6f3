"""Methods side by side: ranks, verdicts, failures, costs, and what they say on the page."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from pages import METHODS, benchmark_inputs

from flashmm.io.tables import write_table
from flashmm.report import Run, comparison, costs
from flashmm.report.costs import method_costs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return benchmark_inputs(tmp_path_factory.mktemp("benchmark"))


@pytest.fixture(scope="module")
def ranked(inputs) -> list:
    return list(comparison.ranked(inputs))


@pytest.fixture(scope="module")
def scenarios(inputs) -> list:
    return list(comparison.scenarios(inputs))


def tables(blocks) -> dict:
    return {block["title"]: block for block in blocks if block["kind"] == "table"}


def test_methods_that_keep_their_level_come_first_and_failures_last(ranked):
    table = tables(ranked)["Ranked over 2 scenarios"]
    assert table["methods"] == list(METHODS)
    careful, bold, lost = (dict(zip(table["columns"], row, strict=True)) for row in table["rows"])
    assert careful["Nulls at 0.05"].tone == "good"
    assert bold["Nulls at 0.05"].tone == "bad" and "±" in bold["Nulls at 0.05"].text
    assert lost["Method"].tone == "bad"
    assert "exit code 1 <b>" in lost["Failed"].title and lost["Nulls at 0.05"].text == "–"


def test_controls_have_no_rank_and_are_not_compared_with(inputs):
    model = {"run": {"function": {"function": "truth"}}}
    run = Run("d", "null", 1, [], METHODS[0], model, "", None, "", "", "")
    controlled = replace(inputs, runs=(run,))
    table = tables(comparison.ranked(controlled))["Ranked over 2 scenarios"]
    assert table["methods"][:2] == [METHODS[1], METHODS[0]]
    assert table["rows"][1][1].text == "control"
    assert list(comparison.differences(controlled)) == []  # one method is left


def test_failures_are_listed_with_the_last_lines_of_their_logs(ranked):
    row = tables(ranked)["Failures"]["rows"][0]
    assert [cell.text for cell in row[:3]] == [METHODS[2], "failed", "exit code 1 <b>"]
    log = next(block for block in ranked if block["kind"] == "details")["text"]
    assert "Error: <b>no</b> such package" in log
    assert "line 29" in log and "line 5\n" not in log


def test_buttons_have_the_colours_of_all_methods(ranked, scenarios):
    chips = next(b for b in ranked if b["kind"] == "chips")
    assert list(chips["methods"]) == list(METHODS)
    (chart,) = [b["chart"] for b in scenarios if b["kind"] == "figure"]
    drawn = {s["name"]: s["colour"] for p in chart["panels"] for s in p["series"]}
    assert drawn == {name: chips["methods"][name] for name in METHODS[:2]}


def test_scenarios_have_a_panel_for_each_rate_and_no_power_without_effects(scenarios):
    figure, table = scenarios
    titles = [panel["title"] for panel in figure["chart"]["panels"]]
    assert len(titles) == 4 and titles[0] == "True nulls with p ≤ 0.05"
    power = figure["chart"]["panels"][3]["series"][0]
    assert power["y"][0] is None and power["y"][1] is not None
    assert "null: true nulls with p ≤ 0.05" in table["columns"]
    assert not any(name.startswith("null: power") for name in table["columns"])


def test_differences_are_paired(inputs):
    figure, table = comparison.differences(inputs)
    assert table["rows"][0][0].text == METHODS[1]
    assert table["rows"][0][-1].text == "3"  # data sets with effects
    assert figure["chart"]["panels"][0]["title"] == "Difference in power"


def test_costs_have_the_shared_step_and_are_extrapolated_visibly(inputs, ranked):
    found = method_costs(inputs).drop_duplicates("method").set_index("method")
    assert found.loc[METHODS[0], "seconds"] == pytest.approx(1 + 2 + 1)
    assert found.loc[METHODS[0], "memory_mib"] == pytest.approx(200)
    assert found.loc[METHODS[1], "seconds"] == pytest.approx(5 * 6)
    assert found.loc[METHODS[1], "extrapolated"] and not found.loc[METHODS[0], "extrapolated"]
    table = tables(ranked)["Ranked over 2 scenarios"]
    seconds = table["columns"].index("Seconds")
    assert [row[seconds].text for row in table["rows"]] == ["4", "≈ 30", "–"]


def test_jobs_of_a_step_are_added_and_mixedlm_is_a_method(inputs, tmp_path):
    row = {"dataset": "d", "scenario": "d", "replicate": 1, "method": "m"}
    row |= {"peak_memory_mib": 300.0, "baseline_memory_mib": 100.0}
    rows = [
        row | {"step": "fit", "seconds": 2.0, "genes": 50, "genes_total": 100},
        row | {"step": "fit", "seconds": 3.0, "genes": 50, "genes_total": 100},
        row | {"step": "summarise", "seconds": 1.0, "genes": 100, "genes_total": 100},
        row | {"step": "summarise", "seconds": 1.0, "genes": 100, "genes_total": 100},
        row | {"step": "reference", "seconds": 4.0, "genes": 10, "genes_total": 100},
    ]
    write_table(pd.DataFrame(rows), tmp_path / "costs.parquet")
    found = method_costs(replace(inputs, tables={"costs": str(tmp_path / "costs.parquet")}))
    assert found[["method", "seconds", "extrapolated"]].to_numpy().tolist() == [
        ["m", 7.0, False],
        ["MixedLM (m)", 40.0, True],
    ]


def test_steps_are_listed_and_drawn(inputs, monkeypatch):
    sizes = pd.DataFrame({"dataset": [f"{s}-{i}" for s in ("null", "effects") for i in (1, 2, 3)]})
    sizes = sizes.assign(cells=[100, 200, 400] * 2, genes=600, subjects=np.nan)
    monkeypatch.setattr(costs, "_sizes", lambda inputs: sizes)
    strips, growth, table = costs.performance(inputs)
    assert [p["title"] for p in growth["chart"]["panels"]] == [
        "Seconds by cells",
        "Memory (MiB) by cells",
    ]
    assert growth["chart"]["panels"][0]["x"]["scale"] == "log"
    steps = {(row[0].text, row[2].text) for row in table["rows"]}
    assert (METHODS[0], "summarise") in steps and (METHODS[1], "method") in steps
    assert "Time per gene" in strips["caption"]
