"""Tests of gene sets: limma's camera, and the plain t test without correlation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from references import DATA
from scipy import sparse, stats

from flashmm.kernels.gene_sets import normal_scores, set_correlations, set_statistics

GENES = pd.read_csv(DATA / "camera" / "genes.tsv", sep="\t")
EXPECTED = pd.read_csv(DATA / "camera" / "expected.tsv", sep="\t", dtype={"case": str})
MEMBERS = sparse.csr_array(GENES[["first", "mixed", "tail"]].to_numpy(dtype=float).T)


def p_values(z, correlation, df):
    return 2 * stats.t.sf(np.abs(set_statistics(z, MEMBERS, correlation).statistic), df)


@pytest.mark.parametrize("correlation", [0.01, 0.1])
def test_a_given_correlation_is_that_of_camera(correlation):
    expected = EXPECTED[EXPECTED["case"] == f"{correlation:g}"]["p_value"]
    ours = p_values(GENES["z"].to_numpy(), np.full(3, correlation), len(GENES) - 2)
    np.testing.assert_allclose(ours, expected, rtol=1e-10)


def test_an_estimated_correlation_is_that_of_camera():
    samples = GENES.filter(regex="^X").to_numpy().T
    X = np.column_stack([np.ones(12), np.repeat([0.0, 1.0], 6)])
    residuals = np.linalg.svd(X)[0][:, 2:].T @ samples
    correlation = set_correlations(residuals, MEMBERS)
    expected = EXPECTED[EXPECTED["case"] == "estimated"]
    np.testing.assert_allclose(correlation, expected["correlation"].clip(lower=0), atol=1e-12)
    ours = p_values(GENES["zt"].to_numpy(), correlation, len(residuals))
    np.testing.assert_allclose(ours, expected["p_value"], rtol=1e-9)


@given(st.integers(0, 2**31), st.integers(1, 28))
def test_without_correlation_it_is_the_two_sample_t_test(seed, inside):
    z = np.random.default_rng(seed).normal(size=30)
    members = sparse.csr_array((np.arange(30) < inside).astype(float)[None])
    expected = stats.ttest_ind(z[:inside], z[inside:]).statistic
    found = set_statistics(z, members, np.zeros(1))
    np.testing.assert_allclose(found.statistic, expected, rtol=1e-8)


def test_scores_have_the_p_values():
    z = np.array([-3.0, 0.5, 39.0])
    log10_p = (np.log(2) + stats.norm.logsf(np.abs(z))) / np.log(10)
    np.testing.assert_allclose(normal_scores(log10_p, np.sign(z)), z, rtol=1e-10)
