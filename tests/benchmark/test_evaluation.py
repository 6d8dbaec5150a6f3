"""Metrics against closed forms and scikit-learn; invariances, missing tests."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import auc, roc_auc_score
from tables_of_tests import CONTRASTS, TYPES, random_tests, table_of, truth_of

from flashmm.benchmark import (
    average_metrics,
    contrast_cell_types,
    evaluate,
)
from flashmm.benchmark.curves import MAX_CURVE_POINTS
from flashmm.options import FlashmmWarning, InputError

# --- closed forms ------------------------------------------------------------------------------


def test_false_positive_rate_and_its_error():
    p = [0.001, 0.04, 0.05, 0.2, 0.3, 0.4, 0.5, 0.6, 1e-9]
    ev = evaluate(table_of(p), truth_of(["g8"]))
    row = ev.metrics.query("metric == 'fpr' and level == 0.05 and contrast == 'all'").iloc[0]
    assert (row.value, row.n) == (3 / 8, 8)
    # one test per gene: the usual standard error of a proportion, with n − 1
    assert row.std_error == pytest.approx(np.sqrt(3 / 8 * 5 / 8 / 7))


def test_error_does_not_shrink_when_tests_of_a_gene_repeat_each_other():
    p = np.random.default_rng(1).uniform(size=40)
    once = evaluate(table_of(p), truth_of([]))
    thrice = evaluate(pd.concat([table_of(p, c) for c in CONTRASTS]), truth_of([]))
    rows = [ev.metrics.query("metric == 'fpr' and contrast == 'all'") for ev in (once, thrice)]
    np.testing.assert_allclose(rows[0].std_error, rows[1].std_error)
    assert (rows[1].n == 3 * rows[0].n).all()


def test_clustered_error_is_the_spread_between_simulations():
    rng = np.random.default_rng(2)
    rates, errors = [], []
    for _ in range(80):
        shared = rng.standard_normal((80, 1))
        z = np.sqrt(0.7) * shared + np.sqrt(0.3) * rng.standard_normal((80, 3))
        p = 2 * stats.norm.sf(np.abs(z))
        tables = [table_of(p[:, j], c) for j, c in enumerate(CONTRASTS)]
        ev = evaluate(pd.concat(tables), truth_of([]), levels=[0.2], pooled=True)
        rates.append(ev.value("fpr", 0.2))
        errors.append(ev.metrics.query("metric == 'fpr' and contrast == 'all'").std_error.iloc[0])
    assert np.std(rates) == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=0.2)


def test_fdp_and_tpr_by_hand():
    # adjusted per contrast as given; DE: g0, g1, g2, g3 of which g3 is missed and g4, g5 are false
    adjusted = [0.001, 0.02, 0.08, 0.9, 0.03, 0.09, 0.5]
    ev = evaluate(
        table_of([0.001, 0.01, 0.02, 0.9, 0.01, 0.03, 0.5], adj_p_value=adjusted),
        truth_of(["g0", "g1", "g2", "g3"]),
    )
    assert ev.value("discoveries", 0.05) == 3
    assert ev.value("fdp", 0.05) == pytest.approx(1 / 3)
    assert ev.value("tpr", 0.05) == pytest.approx(2 / 4)
    assert ev.value("fdp", 0.10) == pytest.approx(2 / 5)
    assert ev.value("tpr", 0.10) == pytest.approx(3 / 4)


def test_local_adjustment_is_per_contrast_and_global_over_all():
    first, second = table_of([0.001, 0.5]), table_of([0.04, 0.6, 0.7], CONTRASTS[1])
    ev = evaluate(pd.concat([first, second]), truth_of(["g0"]), fdr=[0.0199, 0.11])
    p = np.array([0.001, 0.5, 0.04, 0.6, 0.7])
    together = stats.false_discovery_control(p)
    assert ev.value("discoveries_global", 0.11) == (together <= 0.11).sum()
    apart = np.r_[stats.false_discovery_control(p[:2]), stats.false_discovery_control(p[2:])]
    assert ev.value("discoveries", 0.11) == (apart <= 0.11).sum()
    assert ev.value("discoveries", 0.0199, contrast=CONTRASTS[0]) == 1
    assert ev.value("tpr", 0.0199, contrast=CONTRASTS[0]) == 1


def test_nothing_found_is_not_a_false_discovery():
    ev = evaluate(table_of([0.5, 0.6]), truth_of(["g0"]))
    row = ev.metrics.query("metric == 'fdp' and level == 0.05 and contrast == 'all'").iloc[0]
    assert (row.value, row.n) == (0, 0)
    assert np.isnan(row.std_error)
    assert ev.value("tpr", 0.05) == 0


@pytest.mark.parametrize("shift", [0.3, 0.5, 0.8])
def test_lambda_is_one_for_uniform_and_follows_the_median(shift):
    p = (np.arange(101) + 0.5) / 101
    assert evaluate(table_of(p), truth_of([])).value("lambda_gc") == pytest.approx(1)
    z2 = stats.chi2.isf(p, 1) * (1 + shift)
    ev = evaluate(table_of(stats.chi2.sf(z2, 1)), truth_of([]))
    assert ev.value("lambda_gc") == pytest.approx(1 + shift)


@cache
def null_simulations():
    """Uniform p-values of 400 genes in each of 120 contrasts."""
    rng = np.random.default_rng(3)
    table = pd.concat([table_of(rng.uniform(size=400), f"x{i}") for i in range(120)])
    return evaluate(table, truth_of([]))


def test_lambda_error_is_that_of_the_median():
    values = null_simulations().metrics.query("metric == 'lambda_gc'")
    values = values[values.contrast != "all"]
    assert len(values) == 120
    assert values.value.std() == pytest.approx(values.std_error.iloc[0], rel=0.2)


def test_untested_true_pairs_are_counted():
    truth = pd.concat([truth_of(["g0", "g9"]), truth_of(["g1"], TYPES[1])])
    with pytest.warns(FlashmmWarning, match="T cells"):
        ev = evaluate(table_of([0.01, 0.2]), truth)
    row = ev.metrics.query("metric == 'de_untested'").iloc[0]
    assert (row.value, row.n) == (2, 3)
    assert len(ev.notes) == 1


def test_two_contrasts_of_one_cell_type_do_not_hide_untested_pairs():
    contrasts = [f"cell_type[B cells]:dose[T.{d}]" for d in (1, 2)]
    table = pd.concat([table_of([0.01, 0.2], contrast) for contrast in contrasts])
    assert evaluate(table, truth_of(["g0", "g9"])).value("de_untested") == 1


def test_truth_about_other_genes_is_noticed():
    with pytest.warns(FlashmmWarning, match="None of the truth's genes"):
        ev = evaluate(table_of([0.01, 0.2]), truth_of(["x"]))
    assert ev.value("de_tests") == 0


# --- scikit-learn and DeLong as oracles --------------------------------------------------------


def test_auc_and_partial_auc_are_scikit_learns():
    table, truth = random_tests(4)
    ev = evaluate(table, truth)
    types = dict(zip(CONTRASTS, TYPES, strict=True))
    pairs = set(map(tuple, truth[["gene", "cell_type"]].to_numpy()))
    de = np.array([(g, types[c]) in pairs for g, c in zip(table.gene, table.contrast, strict=True)])
    score = -table.p_value.to_numpy()
    assert ev.value("auc") == pytest.approx(roc_auc_score(de, score))
    assert ev.value("pauc") == pytest.approx(roc_auc_score(de, score, max_fpr=0.05))
    first = (table.contrast == CONTRASTS[0]).to_numpy()
    expected = roc_auc_score(de[first], score[first])
    assert ev.value("auc", contrast=CONTRASTS[0]) == pytest.approx(expected)


def test_auc_error_is_delongs_for_independent_tests():
    rng = np.random.default_rng(5)
    de = np.arange(50) < 15
    p = stats.norm.sf(rng.standard_normal(50) + 1.2 * de)
    ev = evaluate(table_of(p), truth_of(f"g{i}" for i in range(15)))
    beats = (p[de][:, None] < p[~de]).astype(float)
    v10, v01 = beats.mean(1), beats.mean(0)
    area = beats.mean()
    squares = np.sum(((v10 - area) / 15) ** 2) + np.sum(((v01 - area) / 35) ** 2)
    row = ev.metrics.query("metric == 'auc' and contrast == 'all'").iloc[0]
    assert row.value == pytest.approx(area)
    assert row.std_error == pytest.approx(np.sqrt(50 / 49 * squares))


def test_auc_error_is_the_spread_between_simulations():
    rng, de = np.random.default_rng(5), np.arange(150) < 15
    tables, truths = [], []
    for i in range(100):
        p = 2 * stats.norm.sf(np.abs(rng.standard_normal(150) + de))
        tables.append(table_of(p, f"cell_type[t{i}]:condition[T.stim]"))
        truths.append(truth_of([f"g{j}" for j in range(15)], f"t{i}"))
    rows = evaluate(pd.concat(tables), pd.concat(truths)).metrics.query("metric == 'auc'")
    rows = rows[rows.contrast != "all"]
    assert len(rows) == 100
    assert rows.value.std() == pytest.approx(rows.std_error.mean(), rel=0.25)


def test_roc_curve_has_the_area_of_the_auc():
    table, truth = random_tests(6)
    ev = evaluate(table, truth)
    roc = ev.curves["roc"].query("contrast == 'all'")
    assert auc(roc.fpr, roc.tpr) == pytest.approx(ev.value("auc"))
    assert (roc.iloc[0].fpr, roc.iloc[0].tpr, roc.iloc[-1].fpr, roc.iloc[-1].tpr) == (0, 0, 1, 1)


def test_fdp_curve_passes_through_the_global_operating_point():
    table, truth = random_tests(7)
    ev = evaluate(table, truth)
    curve = ev.curves["fdp_tpr"].query("contrast == 'all'")
    at = ev.value("discoveries_global", 0.10)
    threshold = np.log10(np.sort(table.p_value)[int(at) - 1])
    point = curve[np.isclose(curve.log10_p, threshold)].iloc[0]
    assert point.fdp == pytest.approx(ev.value("fdp_global", 0.10))
    assert point.tpr == pytest.approx(ev.value("tpr_global", 0.10))


# --- invariances -------------------------------------------------------------------------------

p_values = st.lists(st.floats(1e-12, 1.0), min_size=8, max_size=40)


@settings(max_examples=8, deadline=None)
@given(p_values, st.floats(0.2, 5))
def test_monotone_transforms_of_p_leave_the_ranking_metrics(p, power):
    # on a grid, so that distinct values stay distinct after the transform
    p = np.round(np.array(p), 3) * 0.999 + 5e-4
    truth = truth_of(f"g{i}" for i in range(0, len(p), 3))
    one, other = evaluate(table_of(p), truth), evaluate(table_of(p**power), truth)
    for metric in ("auc", "pauc"):
        assert one.value(metric) == pytest.approx(other.value(metric), abs=1e-12)
    pd.testing.assert_frame_equal(one.curves["roc"], other.curves["roc"])


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_order_of_rows_does_not_matter(seed):
    table, truth = random_tests(seed, genes=20)
    shuffled = table.sample(frac=1, random_state=seed)
    keys = ["metric", "level", "contrast"]
    one, other = (evaluate(t, truth).metrics.sort_values(keys) for t in (table, shuffled))
    np.testing.assert_allclose(one.value, other.value)
    np.testing.assert_allclose(one.std_error, other.std_error)


@settings(max_examples=12, deadline=None)
@given(p_values)
def test_rates_lie_between_zero_and_one(p):
    ev = evaluate(table_of(p), truth_of(f"g{i}" for i in range(0, len(p), 4)))
    rates = ev.metrics[ev.metrics.metric.str.match("fpr|fdp|tpr|auc|pauc")]
    assert rates.value.between(0, 1).all()
    assert (rates.n <= len(p)).all()


# --- tests without a p-value -------------------------------------------------------------------


def test_missing_tests_are_counted_by_status():
    status = ["ok", "all_zero", "not_converged", "all_zero", "ok"]
    p = [0.01, np.nan, np.nan, np.nan, 0.6]
    ev = evaluate(table_of(p, status=status), truth_of(["g0", "g1"]))
    assert ev.value("tests") == 5
    assert ev.value("missing") == 3
    assert ev.value("missing_all_zero") == 2
    assert ev.value("missing_not_converged") == 1
    assert "missing_ok" not in set(ev.metrics.metric)
    labels = ev.metrics.set_index("metric").label
    assert "all_zero" in labels["missing_all_zero"].iloc[0]


def test_missing_tests_count_against_power_and_not_as_null_rejections():
    p = [0.001, np.nan, 0.02, np.nan, 0.6]
    ev = evaluate(table_of(p), truth_of(["g0", "g1"]))
    assert ev.value("tpr", 0.05) == 0.5
    assert ev.value("fpr", 0.05) == 0.5
    fpr = ev.metrics.query("metric == 'fpr' and contrast == 'all'")
    assert (fpr.n == 2).all()
    # g1 is ranked last with g3: it loses to two nulls, ties with one
    assert ev.value("auc") == pytest.approx((1 + (0.5 / 3)) / 2)


def test_all_tests_missing_gives_no_number_and_no_error():
    ev = evaluate(table_of([np.nan, np.nan]), truth_of(["g0"]))
    assert ev.value("missing") == 2
    assert np.isnan(ev.value("fpr", 0.05))
    assert np.isnan(ev.value("lambda_gc"))
    assert ev.value("auc") == 0.5
    assert ev.curves["qq"].empty


def test_log10_p_ranks_what_underflows():
    p, log10_p = [0.0, 0.0, 0.5], [-400.0, -900.0, np.log10(0.5)]
    ev = evaluate(table_of(p, log10_p=log10_p), truth_of(["g1"]))
    assert ev.value("auc") == 1
    assert evaluate(table_of(p), truth_of(["g1"])).value("auc") == 0.75
    assert ev.curves["qq"].observed.max() == 400


# --- without a truth, in strata ----------------------------------------------------------------


def test_unknown_truth_says_nothing_about_errors():
    table, _ = random_tests()
    ev = evaluate(table)
    assert not set(ev.metrics.metric) & {"fpr", "fdp", "tpr", "auc", "pauc", "de_tests"}
    assert set(ev.curves) == {"qq", "p_histogram"}
    assert ev.value("lambda_gc") > 0
    assert ev.curves["p_histogram"].query("contrast == 'all'").n.sum() == len(table)


def test_null_truth_has_no_power_to_speak_of():
    ev = evaluate(table_of(np.linspace(0.01, 1, 50)), truth_of([]))
    assert np.isnan(ev.value("tpr", 0.05))
    assert np.isnan(ev.value("auc"))
    assert "roc" not in ev.curves


def test_strata_split_the_tests():
    table, truth = random_tests(8)
    table["expression"] = np.where(table.gene.str[-1].isin(list("01234")), "low", "high")
    ev = evaluate(table, truth, group="expression")
    counts = ev.metrics.query("metric == 'tests' and contrast == 'all'").set_index("group").value
    assert counts["all"] == counts["low"] + counts["high"] == len(table)
    plain = evaluate(table, truth).metrics
    whole = ev.metrics[ev.metrics.group == "all"].drop(columns="group").reset_index(drop=True)
    pd.testing.assert_frame_equal(whole, plain)
    low = evaluate(table[table.expression == "low"], truth)
    rows = ev.metrics.query("group == 'low' and metric == 'fpr' and contrast == 'all'")
    assert list(rows.value) == [low.value("fpr", level) for level in (0.05, 0.01, 0.001)]
    assert ev.value("tests") == len(table)


# --- shape of the result -----------------------------------------------------------------------


def test_metrics_are_tidy():
    ev = evaluate(*random_tests())
    assert list(ev.metrics) == [
        "metric", "level", "value", "std_error", "n", "contrast", "maximise", "label",
    ]  # fmt: skip
    assert set(ev.metrics.contrast) == {"all", *CONTRASTS}
    assert not ev.metrics.duplicated(["metric", "level", "contrast"]).any()
    directions = ev.metrics.drop_duplicates("metric").set_index("metric").maximise
    assert directions["auc"] is True
    assert directions["fdp"] is False
    assert directions["fpr"] is None
    assert ev.metrics.query("metric == 'fdp' and level == 0.05").label.iloc[0].count("5%") == 1


def test_value_names_what_is_not_there():
    ev = evaluate(*random_tests())
    with pytest.raises(KeyError, match="power"):
        ev.value("power")
    with pytest.raises(KeyError, match="3 rows"):
        ev.value("fpr")


def test_qq_expects_the_order_statistics_of_uniform_p_values():
    p = np.random.default_rng(9).uniform(size=5000)
    qq = evaluate(table_of(p), truth_of([])).curves["qq"].query("contrast == 'all'")
    assert len(qq) <= MAX_CURVE_POINTS
    np.testing.assert_allclose(qq.expected.iloc[:3], -np.log10(np.arange(1, 4) / 5001))
    np.testing.assert_allclose(qq.observed.iloc[:50], -np.log10(np.sort(p)[:50]))
    assert (qq.lower < qq.expected).all() and (qq.expected < qq.upper).all()


def test_qq_band_covers_each_order_statistic_in_95_of_100_simulations():
    qq = null_simulations().curves["qq"]
    qq = qq[qq.contrast != "all"]
    inside = qq.observed.between(qq.lower, qq.upper).groupby(qq.contrast).mean()
    assert len(inside) == 120
    assert np.mean(inside) == pytest.approx(0.95, abs=3 * np.std(inside) / np.sqrt(120))


def test_histogram_is_a_density():
    p = np.random.default_rng(10).beta(0.5, 1, size=1000)
    histogram = evaluate(table_of(p), truth_of([])).curves["p_histogram"].query("contrast == 'all'")
    assert (histogram.density * (histogram.right - histogram.left)).sum() == pytest.approx(1)
    assert histogram.density.iloc[0] > 2


def test_curves_are_thinned_but_keep_their_ends():
    rng = np.random.default_rng(11)
    p = rng.uniform(size=20_000)
    ev = evaluate(table_of(p), truth_of(f"g{i}" for i in range(0, 20_000, 2)))
    for name in ("qq", "roc", "fdp_tpr"):
        curve = ev.curves[name].query("contrast == 'all'")
        assert 500 < len(curve) <= MAX_CURVE_POINTS
    assert curve.tpr.iloc[-1] == 1
    assert curve.fdp.iloc[-1] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="p_value"), "p_value"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "repeat a pair"),
        (lambda t: t.assign(p_value=[-0.1, 0.2]), r"outside \[0, 1\]"),
    ],
)
def test_bad_tables_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        evaluate(change(table_of([0.1, 0.2])), truth_of(["g0"]))


def test_bad_truth_and_levels_are_refused():
    table = table_of([0.1, 0.2])
    with pytest.raises(InputError, match="truth: columns"):
        evaluate(table, pd.DataFrame({"gene": ["g0"]}))
    with pytest.raises(InputError, match="truth: 1 rows repeat"):
        evaluate(table, truth_of(["g0", "g0"]))
    with pytest.raises(InputError, match="levels"):
        evaluate(table, truth_of([]), levels=[5])
    with pytest.raises(InputError, match="expression"):
        evaluate(table, truth_of([]), group="expression")


# --- averages over replicates ------------------------------------------------------------------


def test_average_over_replicates():
    parts = []
    for replicate in range(4):
        metrics = evaluate(*random_tests(replicate)).metrics
        parts += [metrics.assign(method=m, replicate=replicate) for m in ("a", "b")]
    together = pd.concat(parts)
    mean = average_metrics(together, ["method"])
    rows = together.query("method == 'a' and metric == 'auc' and contrast == 'all'").value
    row = mean.query("method == 'a' and metric == 'auc' and contrast == 'all'").iloc[0]
    assert row.value == pytest.approx(rows.mean())
    assert row.std_error == pytest.approx(rows.std() / 2)
    assert row.replicates == 4
    assert row.maximise is True
    assert (mean.query("metric == 'fpr' and contrast == 'all'").n > 400).all()
    assert len(mean) == 2 * len(metrics)


def test_average_of_one_replicate_keeps_its_error():
    metrics = evaluate(*random_tests()).metrics.assign(method="a")
    mean = average_metrics(metrics, ["method"])
    np.testing.assert_array_equal(mean.value, metrics.value)
    np.testing.assert_array_equal(mean.std_error, metrics.std_error)


# --- coverage ----------------------------------------------------------------------------------


def with_intervals(seed=0, genes=300):
    """Random tests whose intervals are theirs: (table, truth with effects of 2.5)."""
    table, truth = random_tests(seed, genes)
    z = -stats.norm.ppf(table["p_value"] / 2)
    return table.assign(conf_low=z - 1.96, conf_high=z + 1.96), truth.assign(log_fc=2.5)


def test_coverage_counts_intervals_that_hold_the_effect():
    table, truth = with_intervals()
    evaluation = evaluate(table, truth, same_unit=True)
    pairs = set(zip(truth["gene"], truth["cell_type"], strict=True))
    types = contrast_cell_types(table["contrast"].unique(), TYPES)
    effect = [
        2.5 * ((gene, types[contrast]) in pairs)
        for gene, contrast in zip(table["gene"], table["contrast"], strict=True)
    ]
    held = (table["conf_low"] <= effect) & (effect <= table["conf_high"])
    assert evaluation.value("coverage") == pytest.approx(held.mean())
    null = np.equal(effect, 0)
    assert evaluation.value("coverage_null") == pytest.approx(held[null].mean())
    # intervals of the null tests hold zero where the test does not reject
    fpr = evaluate(table, truth, levels=[2 * stats.norm.sf(1.96)]).value("fpr")
    assert evaluation.value("coverage_null") == pytest.approx(1 - fpr)


def test_coverage_needs_effects_in_the_unit_of_the_estimates():
    table, truth = with_intervals()
    assert "coverage" not in set(evaluate(table, truth).metrics["metric"])
    assert "coverage_null" in set(evaluate(table, truth).metrics["metric"])
    with pytest.raises(InputError, match="log_fc"):
        evaluate(table, truth.drop(columns="log_fc"), same_unit=True)
    missing = table.assign(conf_low=np.where(table.index < 5, np.nan, table["conf_low"]))
    assert evaluate(missing, truth).metrics.query("metric == 'coverage_null'").n.iloc[0] < len(
        table
    )


def test_pooled_metrics_are_those_of_all_contrasts():
    table, truth = with_intervals()
    full, pooled = evaluate(table, truth), evaluate(table, truth, pooled=True)
    expected = full.metrics[full.metrics["contrast"] == "all"].reset_index(drop=True)
    pd.testing.assert_frame_equal(pooled.metrics, expected)
    assert pooled.curves == {}


def test_contrasts_and_cell_types_come_in_the_order_of_the_table():
    order = [("z", "q"), ("a", "b"), ("z", "a"), ("b", "a")]
    tables = [table_of([0.1, 0.2], contrast, cell_type=name) for name, contrast in order]
    metrics = evaluate(pd.concat(tables), truth_of([])).metrics.query("contrast != 'all'")
    found = metrics[["cell_type", "contrast"]].drop_duplicates()
    assert list(found.itertuples(index=False, name=None)) == order
