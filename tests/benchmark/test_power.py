"""Power at a level and at a realised false positive rate, gains, and errors by bootstrap."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tables_of_tests import CONTRASTS, TYPES, random_tests, truth_of

from flashmm.benchmark import (
    contrast_cell_types,
    evaluate,
    power_gains,
)
from flashmm.options import InputError


@pytest.mark.parametrize("digits", [12, 1])
def test_power_at_a_false_positive_rate_is_the_roc_curve(digits):
    from sklearn.metrics import roc_curve

    table, truth = random_tests(3, genes=200)
    table["p_value"] = table["p_value"].round(digits)  # one digit: many ties
    evaluation = evaluate(table, truth, levels=[0.05, 0.2])
    types = contrast_cell_types(table["contrast"].unique(), TYPES)
    pairs = set(zip(truth["gene"], truth["cell_type"], strict=True))
    de = [(g, types[c]) in pairs for g, c in zip(table["gene"], table["contrast"], strict=True)]
    fpr, tpr, _ = roc_curve(de, -table["p_value"], drop_intermediate=False)
    for level in (0.05, 0.2):
        expected = np.interp(level, fpr, tpr)
        if digits == 12:  # a step at each null test: the height beside it
            expected = tpr[fpr <= level + 1e-12].max()
        assert evaluation.value("power_at_fpr", level) == pytest.approx(expected, abs=0.02)
        assert evaluation.value("power", level) == pytest.approx(
            np.mean(table["p_value"][de] <= level)
        )


def bootstrap_over_genes(table, measure, rounds=40):
    """Standard deviation of a measure when genes are drawn with replacement."""
    rng, found = np.random.default_rng(1), []
    gene, names = pd.factorize(table["gene"])
    rows_of = [np.flatnonzero(gene == j) for j in range(len(names))]
    for _ in range(rounds):
        drawn = rng.choice(len(names), len(names))
        rows = [rows_of[j] for j in drawn]
        labels = [f"{names[j]}-{i}" for i, j in enumerate(drawn)]
        sample = table.iloc[np.concatenate(rows)].reset_index(drop=True)
        found.append(measure(sample.assign(gene=np.repeat(labels, [len(r) for r in rows]))))
    return np.std(found, axis=0, ddof=1)


def correlated_tests(seed=0, genes=150):
    """Tests of a gene share much of their noise; two methods, the second with more noise."""
    rng = np.random.default_rng(seed)
    names = [f"g{i}" for i in range(genes)]
    effect = np.zeros((genes, len(TYPES)))
    effect[: genes // 3] = 2.0
    noise = np.sqrt(0.7) * rng.normal(size=(genes, 1)) + np.sqrt(0.3) * rng.normal(
        size=effect.shape
    )
    more = np.sqrt(0.8) * noise + np.sqrt(0.2) * rng.normal(size=effect.shape)
    tables = []
    for z in (effect + noise, 0.9 * effect + more):
        p = 2 * stats.norm.sf(np.abs(z))
        parts = [
            pd.DataFrame({"gene": names, "contrast": CONTRASTS[k], "p_value": p[:, k]})
            for k in range(len(TYPES))
        ]
        tables.append(pd.concat(parts, ignore_index=True))
    return tables


def truth_by_name(table):
    """The first fifty genes of `correlated_tests` in all types, also where drawn again."""
    names = [g for g in table["gene"].unique() if int(g.split("-")[0][1:]) < 50]
    return pd.concat([truth_of(names, name) for name in TYPES], ignore_index=True)


def test_errors_of_rates_and_powers_are_those_of_a_bootstrap_over_genes():
    table, _ = correlated_tests()
    names = [("fpr", 0.1), ("power", 0.05), ("power_at_fpr", 0.1)]

    def measure(sample):
        found = evaluate(sample, truth_by_name(sample), levels=[0.05, 0.1], pooled=True)
        return [found.value(*name) for name in names]

    metrics = evaluate(table, truth_by_name(table), levels=[0.05, 0.1], pooled=True).metrics
    for (metric, level), expected in zip(names, bootstrap_over_genes(table, measure), strict=True):
        rows = metrics[(metrics["metric"] == metric) & np.isclose(metrics["level"], level)]
        # 40 rounds know a standard deviation to 11 %; the slope of a ROC curve less well
        assert rows["std_error"].item() == pytest.approx(expected, rel=0.3), metric


def test_gains_are_paired():
    better, other = correlated_tests()
    truth = truth_by_name(better)
    gains = power_gains(better, other, truth, levels=[0.05])
    assert gains["metric"].tolist() == ["power_gain", "power_at_fpr_gain"]
    mine, theirs = (evaluate(t, truth, levels=[0.05], pooled=True) for t in (better, other))
    for row in gains.itertuples():
        metric = row.metric.removesuffix("_gain")
        difference = mine.value(metric, 0.05) - theirs.value(metric, 0.05)
        assert row.value == pytest.approx(difference)

    def measure(sample):
        second = sample.assign(p_value=sample["p_other"])
        return power_gains(sample, second, truth_by_name(sample), levels=[0.05])["value"].iloc[0]

    both = better.assign(p_other=other["p_value"].to_numpy())
    assert gains["std_error"].iloc[0] == pytest.approx(bootstrap_over_genes(both, measure), rel=0.2)
    again = power_gains(better, better, truth, levels=[0.05])
    assert not again["value"].any() and not again["std_error"].any()


def test_gains_are_of_the_tests_that_both_have():
    better, other = correlated_tests()
    truth = truth_by_name(better)
    few = better[better["gene"].isin([f"g{i}" for i in range(0, 150, 3)])]
    some = other[other["gene"].isin(few["gene"])]
    pd.testing.assert_frame_equal(power_gains(few, other, truth), power_gains(few, some, truth))
    with pytest.raises(InputError, match="no pair"):
        power_gains(few, other.assign(contrast="x"), truth)
    with pytest.raises(InputError, match="none of its pairs"):
        power_gains(few, other, truth.iloc[:0])


def test_gain_over_a_method_with_one_model_per_cell_type():
    table, truth = random_tests(5)
    better = table.assign(p_value=table["p_value"] ** 1.5)
    types = better["contrast"].map(dict(zip(CONTRASTS, TYPES, strict=True)))
    within = better.assign(contrast="condition[T.stim]", cell_type=types).sample(
        frac=1, random_state=1
    )
    expected = power_gains(better, table, truth)
    pd.testing.assert_frame_equal(power_gains(within, table, truth), expected)
    swapped = power_gains(table, within, truth)
    np.testing.assert_allclose(swapped["value"], -expected["value"])
