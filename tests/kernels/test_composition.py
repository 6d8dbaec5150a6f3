"""Trimmed means of M-values: edgeR's numbers, slow ranks, and what they are for."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from references import DATA
from scipy.stats import rankdata

from flashmm.kernels.composition import (
    expected_genes,
    pooled_share,
    reference_sample,
    tmm_factors,
    within_ranks,
)

EDGER = DATA / "edger"
FACTORS = pd.read_csv(EDGER / "factors.tsv", sep="\t")


def counts_of(case):
    return pd.read_csv(EDGER / f"{case}.tsv", sep="\t", index_col=0).to_numpy(dtype=float).T


def genes(rng, n=2_000):
    share = rng.lognormal(0, 1.5, n)
    return share / share.sum()


@pytest.mark.parametrize("case", FACTORS["case"].unique())
def test_factors_are_those_of_edger(case):
    table = FACTORS[FACTORS["case"] == case]
    counts, sizes = counts_of(case), table["library_size"].to_numpy(dtype=float)
    np.testing.assert_allclose(tmm_factors(counts), table["factor"], rtol=1e-10)
    ours = tmm_factors(counts, sizes)
    np.testing.assert_allclose(ours, table["factor_of_library_size"], rtol=1e-10)


def test_cases_reach_the_fallback_of_the_reference_and_both_ends():
    sparse = counts_of("sparse")
    assert np.median(np.quantile(sparse, 0.75, axis=1)) == 0
    assert reference_sample(sparse, sparse.sum(axis=1)) == np.argmax(np.sqrt(sparse).sum(axis=1))
    assert FACTORS.loc[FACTORS["case"] == "equal_samples", "factor"].eq(1).all()
    assert FACTORS["factor"].max() > 1.3


@given(
    values=st.lists(st.integers(0, 9), min_size=1, max_size=40),
    share=st.floats(0, 0.49),
)
def test_ranks_are_those_of_a_sort_with_mean_ranks(values, share):
    values = np.array(values, dtype=float)
    k, rank = np.floor(len(values) * share) + 1, rankdata(values)
    kept = (rank >= k) & (rank <= len(values) + 1 - k)
    np.testing.assert_array_equal(within_ranks(values, share), kept)


@given(seed=st.integers(0, 10**6), expected=st.sampled_from([0.0, 3.0]))
def test_factors_do_not_depend_on_order_or_rare_additions(seed, expected):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.lognormal(2, 1, 80), (6, 80)).astype(float)
    # of two samples that are as near to the mean the first is the reference, as edgeR has it
    quartiles = np.quantile(counts, 0.75, axis=1) / counts.sum(1)
    assume(np.diff(np.sort(np.abs(quartiles - quartiles.mean()))[:2]) > 1e-12)
    factors = tmm_factors(counts, expected=expected)
    assert np.log(factors).mean() == pytest.approx(0, abs=1e-12)
    rows, columns = rng.permutation(6), rng.permutation(80)
    other = tmm_factors(counts[rows][:, columns], expected=expected)
    np.testing.assert_allclose(other, factors[rows], rtol=1e-12)
    empty = np.c_[counts, np.zeros((6, 5))]
    np.testing.assert_allclose(tmm_factors(empty, expected=expected), factors, rtol=1e-12)


def test_one_sample_and_no_counts_have_factor_one():
    assert tmm_factors(np.array([[3.0, 0.0, 5.0]])).tolist() == [1.0]
    assert tmm_factors(np.zeros((3, 4)), np.ones(3)).tolist() == [1.0, 1.0, 1.0]


def test_changed_genes_do_not_move_the_others():
    """A tenth of the genes are ten times up: the effective library size stays with the others."""
    rng = np.random.default_rng(1)
    mean = np.tile(genes(rng) * 5e5, (6, 1))
    # the strongest changes are cut off, whatever they add to the totals
    mean[3:, :200] *= 10
    counts = rng.poisson(mean).astype(float)
    for expected in (0.0, 3.0):
        effective = counts.sum(axis=1) * tmm_factors(counts, expected=expected)
        ratio = effective[3:].mean() / effective[:3].mean()
        assert ratio == pytest.approx(1, abs=0.04)
    assert counts[3:].sum() / counts[:3].sum() > 1.5


def test_factors_of_small_samples_have_no_bias_without_rare_genes():
    """Equal samples but for depth: the plain mean is 40 % off, that of expected genes is not."""
    rng = np.random.default_rng(2)
    share, depth = genes(rng), np.r_[np.full(10, 2_000), np.full(10, 60_000)]
    counts = np.array([rng.multinomial(n, share) for n in depth]).astype(float)
    ratio = {}
    for expected in (0.0, 3.0):
        log = np.log(tmm_factors(counts, expected=expected))
        ratio[expected] = log[:10].mean() - log[10:].mean()
    assert ratio[0.0] > 0.3
    assert abs(ratio[3.0]) < 0.03


def test_expected_genes_are_counted_as_by_hand():
    counts = np.array([[6.0, 3.0, 1.0, 0.0], [60.0, 30.0, 10.0, 0.0]])
    sizes = counts.sum(axis=1)
    share = pooled_share(counts, sizes)
    np.testing.assert_allclose(share, [0.6, 0.3, 0.1, 0.0])
    for least in (0.5, 3.0, 7.0, 61.0):
        by_hand = [(share * size >= least).sum() for size in sizes]
        np.testing.assert_array_equal(expected_genes(counts, sizes, least), by_hand)
