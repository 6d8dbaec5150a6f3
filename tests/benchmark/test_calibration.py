"""The calibration study: its methods, its tables and criteria, its figures and its page."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from flashmm.benchmark.baselines import pseudobulk_tests
from flashmm.benchmark.calibration import CalibrationMethod, calibrate, scenario_table
from flashmm.benchmark.criteria import (
    average_replicates,
    check_criteria,
    comparison,
    matched_methods,
    overview,
    scenario_results,
    wider_methods,
)
from flashmm.benchmark.evaluation import evaluate
from flashmm.benchmark.power import power_gains
from flashmm.design.from_groups import summary_statistics
from flashmm.inference.permutation import permutation_tests
from flashmm.inference.testing import contrast_tests
from flashmm.lmm import fit_lmm
from flashmm.options import FlashmmWarning, InputError
from flashmm.plots import coverage_plot, gain_plot, rejection_plot
from flashmm.report.calibration import (
    approaches,
    criteria_frame,
    scenario_frame,
    write_calibration_report,
)
from flashmm.simulate import SimulationSpec, simulate_gaussian_groups

FORMULA = "~ 0 + cell_type + cell_type:condition"
NESTED = ("subject", "subject:cell_type")
METHODS = (
    CalibrationMethod("subject_kr", random=("subject",), ddf="kenward-roger"),
    CalibrationMethod("nested_kr", random=NESTED, ddf="kenward-roger"),
    CalibrationMethod("nested_moderated", random=NESTED, moderate=True),
    CalibrationMethod("few", random=("subject",), ddf="residual", genes=20),
    CalibrationMethod(
        "permuted", test="permutation", random=("subject",), genes=12, n_permutations=19
    ),
    CalibrationMethod("pseudobulk", test="pseudobulk"),
    CalibrationMethod("counts", test="pseudobulk_cpm"),
    CalibrationMethod("pooled", test="pooled"),
)
SPEC = dict(
    distribution="gaussian",
    n_genes=60,
    n_cells=400,
    n_subjects=8,
    n_cell_types=2,
    n_de_genes=12,
    subject_cell_type_variance=0.1,
    cells_cv=1,
)


@pytest.fixture(scope="module")
def simulation():
    return simulate_gaussian_groups(SimulationSpec(**SPEC), 1)


@pytest.fixture(scope="module")
def metrics(simulation):
    return calibrate(simulation.groups, simulation.truth, METHODS, FORMULA, same_unit=True)


def value(metrics, method, metric, level=None, other=""):
    rows = metrics[
        (metrics["method"] == method) & (metrics["metric"] == metric) & (metrics["other"] == other)
    ]
    rows = rows if level is None else rows[rows["level"] == level]
    return rows["value"].item()


# --- running the methods -----------------------------------------------------------------------


def test_metrics_are_those_of_the_tests(simulation, metrics):
    fit = fit_lmm(summary_statistics(simulation.groups, FORMULA, list(NESTED)))
    table = contrast_tests(fit, "condition", moderate=True).to_frame(intervals=True)
    expected = evaluate(table, simulation.truth, same_unit=True)
    for metric, level in (("fpr", 0.05), ("coverage", None), ("fdp", 0.05), ("power", 0.01)):
        found = value(metrics, "nested_moderated", metric, level)
        assert found == pytest.approx(expected.value(metric, level))
    gains = power_gains(table, pseudobulk_tests(simulation.groups), simulation.truth)
    found = value(metrics, "nested_moderated", "power_gain", 0.05, "pseudobulk")
    assert found == pytest.approx(gains["value"].iloc[0])


def test_methods_of_few_genes(simulation, metrics):
    tests = metrics[metrics["metric"] == "tests"].set_index("method")["value"]
    assert tests["nested_kr"] == 120 and tests["few"] == 40 and tests["permuted"] == 24
    kept = simulation.groups.genes[np.linspace(0, 59, 12).round().astype(int)]
    fit = fit_lmm(summary_statistics(simulation.groups, FORMULA, ["subject"]))
    with pytest.warns(FlashmmWarning):
        whole = permutation_tests(fit, "condition", n_permutations=19, seed=0, progress=False)
    table = whole.to_frame()
    expected = evaluate(table[table["gene"].isin(kept)], simulation.truth, fdr=[0.1])
    assert value(metrics, "permuted", "fpr", 0.05) == pytest.approx(expected.value("fpr", 0.05))
    # no intervals
    assert not (metrics.query("method == 'permuted'")["metric"] == "coverage").any()


def test_methods_that_do_not_apply_are_left_out(metrics):
    assert "counts" not in set(metrics["method"])
    one = simulate_gaussian_groups(SimulationSpec(**SPEC | {"n_cell_types": 1}), 1)
    found = calibrate(one.groups, one.truth, METHODS, FORMULA, same_unit=True)
    assert set(found["method"]) == {"subject_kr", "few", "permuted", "pseudobulk", "pooled"}


def test_a_method_of_its_own_model_only(simulation):
    methods = [
        CalibrationMethod("s", random=("subject",), only_matching=True),
        CalibrationMethod("n", random=NESTED, only_matching=True),
        CalibrationMethod("both", random=("subject",)),
    ]
    given = (simulation.groups, simulation.truth, methods, FORMULA)
    assert set(calibrate(*given, matching=NESTED)["method"]) == {"n", "both"}
    assert set(calibrate(*given, matching=["subject"])["method"]) == {"s", "both"}
    assert set(calibrate(*given)["method"]) == {"s", "n", "both"}


def test_without_effects_there_is_no_power():
    null = simulate_gaussian_groups(SimulationSpec(**SPEC | {"n_de_genes": 0}), 1)
    found = calibrate(null.groups, null.truth, METHODS[-3:], FORMULA, same_unit=True)
    assert not found["metric"].str.startswith("power").any()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"test": "sign"}, "test 'sign' is none of"),
        ({"random": ()}, "needs 'random' or 'fixed'"),
        ({"test": "pooled", "random": ("subject",)}, "has no setting 'random'"),
        ({"ddf": "kr"}, "ddf 'kr' is none of"),
        ({"test": "permutation", "ddf": "residual"}, "has no setting 'ddf'"),
        ({"test": "permutation", "moderate": True}, "has no setting 'moderate'"),
    ],
)
def test_a_method_that_makes_no_sense(fields, said):
    with pytest.raises(InputError, match=said):
        CalibrationMethod("m", **{"random": ("subject",), **fields})


# --- what was found ----------------------------------------------------------------------------


def test_scenarios_are_described():
    scenarios = {
        "a": SPEC | {"subject_variance": 0.2},
        "b": SPEC | {"cells_cv": 0, "subject_cell_type_variance": 0},
        "c": {"n_cells": 800, "n_subjects": 20, "n_cell_types": 4, "cells_cv": 1},
    }
    table = scenario_table(scenarios).set_index("scenario")
    assert table.loc["a", "ratio"] == pytest.approx((0.2 + 0.1) * 25)
    assert table.loc["a", "matching"] == NESTED and table.loc["b", "matching"] == ("subject",)
    assert table["balanced"].tolist() == [False, True, False]
    assert table["subjects"].tolist() == [4, 4, 10]
    assert np.isnan(table.loc["c", "ratio"])
    with pytest.raises(InputError, match="residual_variance"):
        scenario_table({"bad": {"residual_variance": 2.0}})


def test_pairs_markers_and_depth_are_described():
    pairs = SPEC | {"nested": False, "subject_condition_variance": 0.3}
    counts = {"n_cells": 800, "n_subjects": 8, "n_cell_types": 2, "libsize_ratio": 2}
    table = scenario_table(
        {
            "pairs": pairs | {"subject_cell_type_variance": 0},
            "markers": SPEC | {"marker_fraction": 0.2, "marker_variance_ratio": 4},
            "depth": counts | {"marker_fraction": 0.2},
        }
    ).set_index("scenario")
    assert table["paired"].tolist() == [True, False, False]
    assert table["markers"].tolist() == [False, True, True]
    assert table["depth"].tolist() == [1, 1, 2]
    # 400 cells of 8 pairs in 2 types: 12.5 in a group
    assert table.loc["pairs", ["subjects", "ratio"]].tolist() == [8, 0.3 * 12.5]
    assert table.loc["pairs", "matching"] == ("subject", "subject:condition")
    assert table.loc["markers", "matching"] == ("subject", "0 + cell_type || subject")


def test_a_model_of_each_type_belongs_to_every_scenario():
    metrics, table, _ = study()
    methods = [*METHODS, CalibrationMethod("types", "within", ("subject", "subject:condition"))]
    own = metrics[metrics["method"] == "subject_kr"].assign(method="types")
    matched = matched_methods(pd.concat([metrics, own]), table, methods)
    found = matched[matched["approach"] == "per type, empirical-bayes"]
    assert set(found["scenario"]) == set(table["scenario"])
    other = CalibrationMethod("types", "within", ddf="kenward-roger-2")
    assert other.approach == "per type, kenward-roger-2"


def test_replicates_are_averaged(metrics):
    one = metrics.assign(scenario="s", replicate=1)
    two = one.assign(replicate=2, value=one["value"] + 0.2)
    both = average_replicates(pd.concat([one, two], ignore_index=True))
    assert len(both) == len(one)
    np.testing.assert_allclose(both["value"], one["value"] + 0.1)
    np.testing.assert_allclose(both["std_error"], one["std_error"] / np.sqrt(2))
    np.testing.assert_array_equal(both["n"], 2 * one["n"])


def study(**values):
    """Metrics of made-up scenarios, one method with the model and pseudobulk."""
    fields = SPEC | {"subject_variance": 1.0, "subject_cell_type_variance": 0}
    scenarios = {
        "strong": fields | {"cells_cv": 0},
        "small": fields | {"n_subjects": 4},
        "weak": fields | {"subject_variance": 0.01},
        "counts": {"n_cells": 400, "n_subjects": 8, "n_cell_types": 2, "cells_cv": 1},
    }
    numbers = {
        ("fpr", 0.05, ""): (0.05, 0.001, 100_000),
        ("fpr", 0.01, ""): (0.01, 0.0003, 100_000),
        ("fpr", 0.001, ""): (0.001, 0.0001, 100_000),
        ("coverage", np.nan, ""): (0.95, 0.001, 110_000),
        ("coverage_null", np.nan, ""): (0.95, 0.001, 100_000),
        ("lambda_gc", np.nan, ""): (1.0, 0.01, 100_000),
        ("fdp", 0.05, ""): (0.05, 0.004, 500),
        ("tpr", 0.05, ""): (0.5, 0.01, 500),
        ("power", 0.05, ""): (0.6, 0.01, 500),
        ("power_gain", 0.05, "pseudobulk"): (0.01, 0.004, 500),
        ("power_at_fpr_gain", 0.05, "pseudobulk"): (0.0, 0.004, 500),
    }
    rows = []
    for scenario in scenarios:
        for key, (number, error, n) in numbers.items():
            number = values.get(scenario, {}).get(key[:2] if key[1] == key[1] else key[0], number)
            row = dict(zip(("metric", "level", "other"), key, strict=True))
            row |= {"scenario": scenario, "value": number, "std_error": error, "n": n}
            rows += [row | {"method": name} for name in ("subject_kr", "few", "pseudobulk")]
            rows += [row | {"method": "nested_kr", "value": number + 0.2}]
    metrics = pd.DataFrame(rows)
    return metrics, scenario_table(scenarios), scenarios


def criteria_of(**values):
    metrics, table, _ = study(**values)
    return check_criteria(matched_methods(metrics, table, METHODS), "kenward-roger")


def test_a_study_without_a_fault():
    found = criteria_of()
    assert found["met"].all() and not found["failed"].any()
    # of four scenarios one is of counts, one of two against two subjects
    assert found["evaluated"].tolist() == [4, 2, 2, 2, 1, 1, 1, 3, 4, 4, 3]


@pytest.mark.parametrize(
    ("place", "scenario", "key", "number"),
    [
        (0, "strong", ("fpr", 0.05), 0.0531),
        (0, "weak", ("fpr", 0.01), 0.0110),
        (1, "weak", ("fpr", 0.001), 0.00151),
        (2, "counts", ("fpr", 0.01), 0.0126),
        (3, "strong", ("fpr", 0.05), 0.0469),
        (4, "strong", "coverage", 0.9399),
        (5, "strong", "coverage", 0.9601),
        (6, "weak", "coverage", 0.9399),
        (7, "counts", ("fdp", 0.05), 0.0581),
        (8, "small", ("power_gain", 0.05), -0.0121),
        (9, "strong", ("power_at_fpr_gain", 0.05), -0.0121),
    ],
)
def test_each_fault_is_found_once_and_named(place, scenario, key, number):
    found = criteria_of(**{scenario: {key: number}})
    assert found["met"].tolist() == [i != place for i in range(len(found))]
    row = found.iloc[place]
    assert (row["failed"], row["worst"], row["value"]) == (1, scenario, number)


def test_what_is_not_asked_is_not_a_fault():
    # two against two subjects, and a cautious test where subjects differ little
    assert criteria_of(small={("fpr", 0.05): 0.08, ("fdp", 0.05): 0.2, "coverage": 0.9})[
        "met"
    ].all()
    assert criteria_of(weak={("fpr", 0.05): 0.02, "coverage": 0.98})["met"].all()


def test_a_study_that_is_too_small():
    metrics, table, _ = study()
    matched = matched_methods(metrics.assign(n=1000), table, METHODS)
    last = check_criteria(matched, "kenward-roger").iloc[-1]
    assert not last["met"] and last["failed"] == 3
    nothing = check_criteria(matched, "jackknife")
    assert nothing["met"].isna().all() and not nothing["evaluated"].any()


def test_approaches_side_by_side():
    metrics, table, _ = study(strong={("fpr", 0.05): 0.06})
    matched = matched_methods(metrics, table, METHODS)
    found = comparison(matched, ["kenward-roger", "jackknife"])
    assert found["kenward-roger"].tolist() == ["1 of 4", *["met"] * 10]
    assert set(found["jackknife"]) == {"–"}
    wider = wider_methods(metrics, table, METHODS)
    assert set(wider["method"]) == {"nested_kr"}
    assert set(wider["approach"]) == {"subject; subject:cell_type: kenward-roger"}
    assert set(matched["method"]) == {"subject_kr", "few", "pseudobulk"}


def test_tables_of_results():
    metrics, table, _ = study(weak={("fpr", 0.05): 0.02})
    matched = matched_methods(metrics, table, METHODS)
    means = overview(matched, ["kenward-roger", "pseudobulk"])
    assert means["kind"].tolist() == [
        *["Gaussian, subjects differ much"] * 2,
        *["Gaussian, subjects differ little"] * 2,
        *["Counts"] * 2,
    ]
    assert means["at .05"].tolist() == [0.05, 0.05, 0.02, 0.02, 0.05, 0.05]
    rows = scenario_results(matched, "kenward-roger").set_index("scenario")
    assert rows.loc["weak", ["null tests", "at .05", "at .05 se"]].tolist() == [
        100_000,
        0.02,
        0.001,
    ]
    text = scenario_frame(matched, "kenward-roger")
    assert text.loc[text["Scenario"] == "weak", "Rejected at .05"].tolist() == ["0.0200 ± 0.0010"]
    words = criteria_frame(matched, "kenward-roger")
    assert set(words["Result"]) == {"met"}


# --- figures and page --------------------------------------------------------------------------


def test_figures_hold_a_mark_for_every_rate():
    metrics, table, _ = study(strong={("fpr", 0.01): 0.9, ("fpr", 0.001): 0.0})
    matched = matched_methods(metrics, table, METHODS)
    names = approaches(matched)
    assert names == ["residual", "kenward-roger", "pseudobulk"]
    for level, ax in zip((0.05, 0.01, 0.001), rejection_plot(matched, names).axes, strict=True):
        marks = [line for line in ax.lines if line.get_marker() in "PohH"]
        heights = np.concatenate([line.get_ydata() for line in marks])
        assert len(heights) == 3 * 4
        # beyond the axis: on its edge
        assert heights.max() == (20.0 if level == 0.01 else pytest.approx(1.0))
        assert heights.min() == (0.1 if level == 0.001 else pytest.approx(1.0))
    assert len(coverage_plot(matched, names).axes) == 1
    assert len(gain_plot(matched, names).axes) == 2
    with pytest.raises(InputError, match="nothing to draw"):
        coverage_plot(matched, ["permutation"])


def test_the_page(tmp_path, metrics):
    config = {
        "seed": 1,
        "calibration": {"default": "kenward-roger"},
        "report": {"title": "<Honest?>"},
    }
    write_calibration_report(
        tmp_path / "report.html",
        tmp_path / "figures",
        metrics=average_replicates(metrics.assign(scenario="s")),
        scenarios={"s": SPEC},
        methods=METHODS,
        config=config,
    )
    page = (tmp_path / "report.html").read_text()
    assert "&lt;Honest?&gt;" in page and "NOT MET" in page
    assert page.count("<figure>") == page.count('src="data:image/') == 3
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert (tmp_path / "provenance.json").is_file()
