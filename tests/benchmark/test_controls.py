"""Uniform p-values and the controls score what they must."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tables_of_tests import CONTRASTS, TYPES, random_tests, table_of, truth_of

from flashmm.benchmark import (
    control_table,
    evaluate,
)
from flashmm.options import InputError


def test_uniform_p_values_are_rejected_at_the_nominal_rate():
    p = np.random.default_rng(12).uniform(size=20_000)
    ev = evaluate(table_of(p), truth_of([]))
    for level in (0.05, 0.01, 0.001):
        rows = ev.metrics.query("metric == 'fpr' and contrast == 'all'").set_index("level")
        assert abs(rows.value[level] - level) < 4 * rows.std_error[level]


def test_controls_score_one_and_a_half():
    _, truth = random_tests(genes=400)
    genes = [f"g{i}" for i in range(400)]
    known = evaluate(control_table(truth, genes, CONTRASTS, "truth", seed=1), truth)
    guess = evaluate(control_table(truth, genes, CONTRASTS, "random", seed=1), truth)
    assert known.value("auc") == known.value("pauc") == known.value("tpr", 0.05) == 1
    assert known.value("fpr", 0.05) == pytest.approx(0.05, abs=0.025)
    assert known.value("fdp", 0.10) < 0.2
    error = guess.metrics.query("metric == 'auc' and contrast == 'all'").std_error.iloc[0]
    assert abs(guess.value("auc") - 0.5) < 4 * error
    assert guess.value("tpr", 0.05) < 0.1


def test_controls_are_tidy_seeded_and_consistent():
    _, truth = random_tests()
    genes = [f"g{i}" for i in range(60)]
    make = [control_table(truth, genes, CONTRASTS, "truth", seed) for seed in (1, 1, 2)]
    pd.testing.assert_frame_equal(make[0], make[1])
    assert not make[0].p_value.equals(make[2].p_value)
    assert list(make[0]) == [
        "gene", "contrast", "estimate", "std_error", "statistic", "df", "p_value", "log10_p",
        "adj_p_value", "status",
    ]  # fmt: skip
    np.testing.assert_allclose(make[0].statistic, make[0].estimate / make[0].std_error)
    np.testing.assert_allclose(10 ** make[0].log10_p, make[0].p_value, rtol=1e-9)


def test_control_takes_a_map_and_refuses_other_kinds():
    mapped = control_table(truth_of(["g0"]), ["g0", "g1"], {"effect": TYPES[0]}, "truth")
    assert mapped.set_index("gene").p_value["g0"] < 1e-100
    with pytest.raises(InputError, match="oracle"):
        control_table(truth_of([]), ["g0"], CONTRASTS, "oracle")
    with pytest.raises(InputError, match="'effect'"):
        control_table(truth_of(["g0"]), ["g0"], ["effect"])
    null = control_table(truth_of([]), ["g0", "g1"], ["effect"])
    assert null.p_value.between(0.001, 1).all()
