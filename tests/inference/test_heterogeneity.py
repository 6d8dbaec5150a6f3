"""Differences of effects between cell types: by R, by contrasts and by simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from group_designs import crossed, groups_of

import flashmm as fm
from flashmm.kernels.heterogeneity import welch_heterogeneity
from flashmm.kernels.tails import f_tail

TYPED = "~ 0 + cell_type + cell_type:condition"


def test_numbers_of_welch():
    """R: oneway.test(y ~ g), the estimates being means of groups."""
    groups = [[4.1, 5.2, 6.0, 5.5], [6.8, 7.1, 5.9], [5.0, 9.0, 7.5, 8.2, 6.1]]
    mean = np.array([[np.mean(g) for g in groups]])
    error = np.array([[np.std(g, ddof=1) / np.sqrt(len(g)) for g in groups]])
    found = welch_heterogeneity(mean, error, np.array([[3.0, 2.0, 4.0]]))
    assert found.statistic[0] == pytest.approx(WELCH_F, rel=1e-9)
    assert (found.df_num[0], found.n[0]) == (2.0, 3)
    assert found.df[0] == pytest.approx(WELCH_DF, rel=1e-9)


WELCH_F, WELCH_DF = 4.08878056202, 5.95279906106


def test_two_estimates_are_compared_by_welchs_t():
    estimate, error = np.array([[1.0, 3.0]]), np.array([[0.5, 0.8]])
    found = welch_heterogeneity(estimate, error, np.array([[4.0, 9.0]]))
    variance = (error**2).sum()
    assert found.statistic[0] == pytest.approx(4.0 / variance)
    assert found.df[0] == pytest.approx(variance**2 / (0.5**4 / 4 + 0.8**4 / 9))


def test_what_has_no_estimate_is_left_out():
    estimate = np.array([[1.0, np.nan, 3.0], [1.0, np.nan, np.nan]])
    found = welch_heterogeneity(estimate, np.ones((2, 3)), np.full((2, 3), 5.0))
    pair = welch_heterogeneity(estimate[:1, [0, 2]], np.ones((1, 2)), np.full((1, 2), 5.0))
    assert found.statistic[0] == pair.statistic[0] and list(found.n) == [2, 1]
    assert np.isnan(found.statistic[1])


@pytest.fixture(scope="module")
def groups():
    """Twelve subjects in two arms, three types; a gene whose effect is in one type only."""
    obs = crossed(12, types=3)
    effect = np.zeros((len(obs), 60))
    changed = (obs["cell_type"] == "T0") & (obs["condition"] == "stim")
    effect[changed, 0] = 3.0
    return groups_of(obs, genes=60, seed=2, sd=(0.0, 0.3), effect=effect)


def test_one_model_of_all_types(groups):
    fit = fm.fit_lmm(fm.summary_statistics(groups, TYPED, ["subject", "subject:cell_type"]))
    table = fm.contrast_tests(fit, "condition", "kenward-roger")
    found = fm.heterogeneity(table)
    assert found.method == "joint" and found.effects == ("stim vs ctrl",)
    names = [f"cell_type[T{k}]:condition[T.stim]" for k in range(3)]
    by_hand = fm.contrast_tests(
        fit, {"h": [f"{n} - {names[0]}" for n in names[1:]]}, "kenward-roger"
    )
    np.testing.assert_allclose(found.p_value, by_hand.p_value, rtol=1e-9)
    np.testing.assert_allclose(found.statistic, by_hand.statistic, rtol=1e-9)
    assert found.p_value[0, 0] < 1e-4 and (found.n_levels == 3).all()
    assert 0.03 < (found.p_value[1:] < 0.2).mean() < 0.4
    frame = found.to_frame()
    assert list(frame.columns[:3]) == ["gene", "effect", "n_levels"] and len(frame) == 60


def test_a_model_per_type(groups):
    fits = fm.fit_within(
        groups, "cell_type", "~ condition", ["subject"], min_counts=None, size_factors=None
    )
    table = fm.contrast_tests(fits, ("condition", "stim", "ctrl"), "kenward-roger")
    found = fm.heterogeneity(table)
    assert found.method == "separate" and (found.df_num == 2).all()
    expected = welch_heterogeneity(table.estimate, table.std_error, table.df)
    np.testing.assert_array_equal(found.statistic[:, 0], expected.statistic)
    assert found.p_value[0, 0] < 1e-4
    assert 0.03 < (found.p_value[1:] < 0.2).mean() < 0.4
    assert found.i2[0, 0] > 0.8 and (found.i2 >= 0).all()


def test_what_is_refused(groups):
    with pytest.raises(fm.InputError, match=r"a TestTable .*found a GroupStatistics"):
        fm.heterogeneity(groups)
    fit = fm.fit_lmm(fm.summary_statistics(groups, "~ condition", ["subject"]))
    with pytest.raises(fm.InputError, match="no effect at two levels"):
        fm.heterogeneity(fm.contrast_tests(fit, ("condition", "stim", "ctrl")))
    with pytest.raises(fm.InputError, match="single contrasts"):
        fm.heterogeneity(fm.contrast_tests(fit, {"both": ["Intercept", "condition[T.stim]"]}))


def test_moments_of_correlated_estimates():
    """The mean and variance of Q are those of the quadratic form, by dense matrices."""
    rng = np.random.default_rng(1)
    error, x = rng.uniform(0.2, 2.0, (5, 4)), rng.normal(size=(5, 4))
    x[4, 2] = np.nan
    R = np.corrcoef(rng.normal(size=(4, 9)) + rng.normal(size=9))
    df = np.full((5, 4), 7.0)
    found = welch_heterogeneity(x, error, df, R)
    plain = welch_heterogeneity(x, error, df)
    for gene in range(5):
        own = np.isfinite(x[gene])
        p = 1 / error[gene, own] / np.sqrt((1 / error[gene, own] ** 2).sum())
        AR = (np.eye(own.sum()) - np.outer(p, p)) @ R[np.ix_(own, own)]
        mean, squares = np.trace(AR), np.trace(AR @ AR)
        assert found.df_num[gene] == pytest.approx(mean**2 / squares)
        expected = plain.statistic[gene] * plain.df_num[gene] / mean
        assert found.statistic[gene] == pytest.approx(expected)
    independent = welch_heterogeneity(x, error, df, np.eye(4))
    np.testing.assert_allclose(independent.statistic, plain.statistic)
    np.testing.assert_allclose(independent.df_num, plain.df_num)


def shared_subjects(names: str = "same") -> tuple[fm.TestTable, fm.HeterogeneityTable]:
    """Sixteen subjects, alike in four types but for a tenth of the spread in the first."""
    obs, n_genes = crossed(16, types=4), 200
    quiet = (obs["cell_type"] == "T0").to_numpy()
    subject = pd.factorize(obs["subject"])[0]
    rng = np.random.default_rng(3)
    common, own = rng.normal(size=(16, n_genes)), rng.normal(size=(len(obs), n_genes))
    values = 5 * (np.sqrt(0.7) * common[subject] + np.sqrt(0.3) * own)
    values[quiet] /= 10
    if names == "other":
        obs["subject"] = obs["subject"] + obs["cell_type"]
    groups = groups_of(obs, genes=n_genes, seed=4, sd=(0.0, 0.0), effect=values)
    fits = fm.fit_within(
        groups, "cell_type", "~ condition", ["subject"], min_counts=None, size_factors=None
    )
    table = fm.contrast_tests(fits, ("condition", "stim", "ctrl"), "kenward-roger")
    return table, fm.heterogeneity(table)


def test_subjects_that_types_share_make_no_test_anticonservative():
    table, found = shared_subjects()
    correlation = found.correlation[found.effects[0]]
    assert list(correlation.index) == ["T0", "T1", "T2", "T3"]
    between = correlation.to_numpy()[np.triu_indices(4, 1)]
    assert ((between > 0.55) & (between < 0.75)).all()
    independent = welch_heterogeneity(table.estimate, table.std_error, table.df)
    p = f_tail(independent.statistic, independent.df_num, independent.df)[0]
    # one type is estimated better than the others, which are off together: larger where it matters
    assert (found.p_value[:, 0] >= p).all()
    small = p < 0.01
    assert small.any() and (found.p_value[small, 0] > 1.3 * p[small]).all()


def test_types_of_other_subjects_are_independent():
    table, found = shared_subjects("other")
    np.testing.assert_array_equal(found.correlation[found.effects[0]], np.eye(4))
    independent = welch_heterogeneity(table.estimate, table.std_error, table.df)
    np.testing.assert_allclose(found.statistic[:, 0], independent.statistic)
