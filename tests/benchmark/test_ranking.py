"""Verdicts on rates, ranks of methods, and paired differences."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from flashmm.benchmark.effects import effect_agreement, true_and_estimated
from flashmm.benchmark.ranking import (
    Rate,
    by_scenario,
    most_rejected,
    over_scenarios,
    paired_differences,
    ranking,
)


def metrics(**values: dict) -> pd.DataFrame:
    """Rows of two replicates; method -> (fpr, fdp, power of each)."""
    rows = []
    for method, (fpr, fdp, power) in values.items():
        for i in (0, 1):
            named = {"dataset": f"s-{i}", "scenario": "s", "replicate": i + 1, "method": method}
            for metric, level, value in (
                ("de_tests", np.nan, 10.0),
                ("fpr", 0.05, fpr[i]),
                ("fdp", 0.05, fdp[i]),
                ("tpr", 0.05, power[i]),
                ("power_at_fpr", 0.01, power[i]),
            ):
                more = {"std_error": 0.003, "n": 100, "contrast": "all", "label": metric}
                rows.append(named | {"metric": metric, "level": level, "value": value} | more)
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("value", "error", "verdict"),
    [
        (0.05, 0.01, "good"),
        (0.059, 0.001, "good"),
        (0.08, 0.02, "unsure"),
        (0.08, 0.01, "bad"),
        (0.07, np.nan, "bad"),
        (0.01, 0.002, "low"),
        (np.nan, np.nan, ""),
    ],
)
def test_verdicts(value, error, verdict):
    assert Rate(value, error, 0.05).verdict(most_rejected(0.05)) == verdict


def test_power_counts_among_methods_that_keep_their_level_only():
    table = metrics(
        loud=((0.2, 0.22), (0.4, 0.4), (0.9, 0.9)),
        good=((0.05, 0.05), (0.05, 0.05), (0.6, 0.6)),
        weak=((0.05, 0.05), (0.05, 0.05), (0.3, 0.3)),
    )
    found = ranking(over_scenarios(by_scenario(table)))
    assert [one.method for one in found] == ["good", "weak", "loud"]
    assert found[0].power.level == 0.01 and found[2].keeps is False


def test_errors_of_few_replicates_are_not_below_their_own():
    averaged = by_scenario(metrics(one=((0.05, 0.05), (0.0, 0.0), (0.5, 0.5))))
    fpr = averaged[averaged["metric"] == "fpr"].iloc[0]
    assert fpr["std_error"] == pytest.approx(0.003 / np.sqrt(2))  # replicates agree by chance
    wide = by_scenario(metrics(one=((0.0, 0.1), (0.0, 0.0), (0.5, 0.5))))
    fpr = wide[wide["metric"] == "fpr"].iloc[0]
    assert fpr["std_error"] == pytest.approx(np.std([0.0, 0.1], ddof=1) / np.sqrt(2))


def test_differences_are_of_the_same_data_sets():
    table = metrics(
        a=((0.05, 0.05), (0, 0), (0.2, 0.6)),
        b=((0.05, 0.05), (0, 0), (0.3, 0.7)),
    )
    found = paired_differences(table, "power_at_fpr", 0.01, "a").iloc[0]
    assert found["difference"] == pytest.approx(0.1)
    assert found["std_error"] == pytest.approx(0.0, abs=1e-12) and found["pairs"] == 2


def test_effects_are_paired_with_estimates():
    truth = pd.DataFrame({"gene": ["g", "h"], "cell_type": "B", "log_fc": [np.log(2), -np.log(4)]})
    table = pd.DataFrame({"gene": ["g", "h", "k"], "contrast": "cell_type[B]:condition[T.x]"})
    table["estimate"] = [0.5, -1.0, 3.0]
    pairs = true_and_estimated(table, truth)
    assert pairs["true"].tolist() == pytest.approx([1, -2])
    said = effect_agreement(pairs)
    assert said["Slope"] == pytest.approx(0.5) and said["Right sign"] == 1.0
    typed = table.assign(cell_type="B", contrast="condition[T.x]", log2_fc=[1.0, -2.0, 0.0])
    assert effect_agreement(true_and_estimated(typed, truth))["Slope"] == pytest.approx(1.0)
