"""Mixtures of t distributions against scipy, and limits against p-values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats

from flashmm.kernels import empirical_bayes_tails as tails_module
from flashmm.kernels.empirical_bayes_tails import (
    Mixture,
    effective_df,
    joint_p_values,
    limits,
    p_values,
    summarise,
    tail_table,
    tails,
)
from flashmm.kernels.tails import t_tail

DOF = [1, 2, 3, 7, 30, 299, 300, 678, 20_000, 10**6]


def mixture(seed=0, genes=40, C=3, points=6, dof=678, location=1.0):
    rng = np.random.default_rng(seed)
    estimate = location * rng.normal(size=(genes, C, 1)) + 0.1 * rng.normal(size=(genes, C, points))
    weights = rng.dirichlet(np.full(points, 0.3), genes)
    weights[:, 0] = 0.0
    weights /= weights.sum(1, keepdims=True)
    scale, root = rng.uniform(0.5, 1.5, (genes, points)), rng.uniform(0.1, 2.0, (C, points))
    return Mixture(estimate, scale, root, weights, dof)


def scales(mix):
    return mix.scale[:, None] * mix.root


def reference_tails(mix, at=0.0):
    """Both sides by scipy."""
    z = (mix.estimate - at) / scales(mix)
    w = mix.weights[:, None]
    return np.stack([(w * special.stdtr(mix.dof, side)).sum(2) for side in (-z, z)])


def single(t, dof):
    """One term at t with scale one."""
    t = np.asarray(t, dtype=float)
    ones = np.ones((len(t), 1))
    return Mixture(t[:, None, None], ones, np.ones((1, 1)), ones, dof)


@pytest.mark.parametrize("dof", DOF)
def test_the_tail_of_one_t(dof):
    rng = np.random.default_rng(0)
    t = np.r_[rng.uniform(0, 8, 3000), rng.uniform(8, 35, 500), 0.0, 8.0, np.arange(16) / 2]
    p, log_p = tails(single(t, dof))
    expected = special.stdtr(dof, -t)
    fine = expected > 1e-280
    tolerance = 1e-12 if dof < 10**5 else 2e-11
    np.testing.assert_allclose(p[0, fine, 0], expected[fine], rtol=tolerance)
    np.testing.assert_allclose(p[1, :, 0], 1 - expected, rtol=1e-12)
    np.testing.assert_allclose(log_p[0, fine, 0], np.log(expected[fine]), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dof", [1, 5, 300, 20_000])
def test_symmetry_and_closed_forms(dof):
    t = np.linspace(-30, 30, 301)
    p, _ = tails(single(t, dof))
    np.testing.assert_allclose(p[0], p[1][::-1], rtol=1e-12)
    if dof == 1:
        t, p = np.append(t, 1e-9), tails(single(np.append(t, 1e-9), 1))[0]
        np.testing.assert_allclose(p[0, :, 0], 0.5 - np.arctan(t) / np.pi, rtol=1e-12, atol=1e-15)


def test_logarithms_where_p_underflows():
    mix = single([45.0, 80.0, -90.0], 20_000)
    p, log_p = tails(mix)
    assert p[0, 0, 0] == 0.0 and np.isfinite(log_p).all()
    _, expected = t_tail(np.array([45.0, 80.0]), np.full(2, 20_000.0), "greater")
    np.testing.assert_allclose(log_p[0, :2, 0] / np.log(10), expected, rtol=1e-11)
    # one term cannot matter, the other has a weight that a p-value of it does not reach
    two = Mixture(
        np.array([[[60.0, 0.5]]]), np.ones((1, 2)), np.ones((1, 2)), np.array([[1, 1e-300]]), 20_000
    )
    _, log_p = tails(two)
    expected = np.log(1e-300) + np.log(special.stdtr(20_000, -0.5))
    assert log_p[0, 0, 0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dof", [3, 40, 678, 5000])
def test_p_values_against_scipy(dof):
    mix = mixture(dof, dof=dof)
    below, above = reference_tails(mix)
    for alternative, expected in (
        ("greater", below),
        ("less", above),
        ("two-sided", 2 * np.minimum(below, above)),
    ):
        p, log10_p = p_values(mix, alternative)
        np.testing.assert_allclose(p, expected, rtol=1e-11)
        np.testing.assert_allclose(log10_p, np.log10(expected), rtol=1e-10, atol=1e-11)


def test_minimum_effects_against_scipy():
    mix, tau = mixture(1), 0.4
    (at_plus, over_plus), (at_minus, over_minus) = (reference_tails(mix, x) for x in (tau, -tau))
    expected = np.minimum(at_plus + at_minus, over_plus + over_minus)
    np.testing.assert_allclose(p_values(mix, "two-sided", tau)[0], expected, rtol=1e-11)
    np.testing.assert_allclose(p_values(mix, "greater", tau)[0], at_plus, rtol=1e-11)
    np.testing.assert_allclose(p_values(mix, "less", tau)[0], over_minus, rtol=1e-11)
    # a single t: the test of McCarthy & Smyth
    one = single([0.2, -1.7, 3.0], 50)
    t = np.abs(one.estimate[:, 0])
    both = special.stdtr(50, tau - t) + special.stdtr(50, -t - tau)
    expected = np.minimum(both, 2 - both)
    np.testing.assert_allclose(p_values(one, "two-sided", tau)[0], expected, rtol=1e-11)
    # in the tails, where U is convex, a minimum only makes p larger
    p = p_values(mix, "two-sided")[0]
    assert (p_values(mix, "two-sided", tau)[0] > p)[p < 0.1].all()


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    dof=st.sampled_from([1, 2, 5, 60, 3000]),
    level=st.sampled_from([0.1, 0.5, 0.9, 0.95, 0.999, 1 - 1e-8]),
)
def test_limits_have_their_p_values(seed, dof, level):
    mix = mixture(seed, dof=dof, genes=15)
    low, high = limits(mix, level)
    tail = (1 - level) / 2
    for limit, side in ((low, 0), (high, 1)):
        for g, c in np.ndindex(limit.shape):
            p = reference_tails(mix, limit[g, c])[side, g, c]
            assert p == pytest.approx(tail, rel=1e-8)


def test_limits_against_a_root_finder():
    mix = mixture(4, genes=5, location=3.0)
    low, high = limits(mix, 0.95)
    s = scales(mix)
    for g, c in np.ndindex(low.shape):

        def excess(x, g=g, c=c):
            return mix.weights[g] @ stats.t.cdf((x - mix.estimate[g, c]) / s[g, c], mix.dof)

        for limit, p in ((low[g, c], 0.025), (high[g, c], 0.975)):
            root = optimize.brentq(lambda x, p=p: excess(x) - p, -50, 50, xtol=1e-13, rtol=1e-14)
            assert limit == pytest.approx(root, abs=1e-9)


def test_one_sided_limits_and_one_term():
    mix = mixture(2)
    low, high = limits(mix, 0.9)
    upper = limits(mix, 0.95, "less")
    lower = limits(mix, 0.95, "greater")
    assert (upper[0] == -np.inf).all() and (lower[1] == np.inf).all()
    np.testing.assert_allclose(upper[1], high, atol=1e-10)
    np.testing.assert_allclose(lower[0], low, atol=1e-10)
    one = single([0.3, -2.0], 9)
    expected = stats.t.interval(0.95, 9, one.estimate[:, 0, 0])
    np.testing.assert_allclose(limits(one, 0.95), np.array(expected)[:, :, None], rtol=1e-10)


def test_modes_far_apart():
    weights = np.array([[0.5, 0.5], [0.03, 0.97]])
    estimate = np.array([[[-40.0, 40.0]], [[-1e4, 3.0]]])
    mix = Mixture(estimate, np.ones((2, 2)), np.array([[0.01, 5.0]]), weights, 100)
    low, high = limits(mix, 0.95)
    for limit, side in ((low, 0), (high, 1)):
        for g in range(2):
            p = reference_tails(mix, limit[g, 0])[side, g, 0]
            assert p == pytest.approx(0.025, rel=1e-7)


def test_genes_without_a_posterior_touch_no_other():
    mix = mixture(3)
    broken = mix._replace(weights=mix.weights.copy(), estimate=mix.estimate.copy())
    broken.weights[4] = np.nan
    broken.estimate[7, 1] = np.nan
    others = np.ones((40, 3), dtype=bool)
    others[4], others[7, 1] = False, False
    for result, whole in (
        (p_values(broken, "two-sided"), p_values(mix, "two-sided")),
        (limits(broken, 0.9), limits(mix, 0.9)),
        (summarise(broken), summarise(mix)),
    ):
        for mine, its in zip(result, whole, strict=True):
            np.testing.assert_array_equal(mine[others], its[others])
            assert np.isnan(mine[4]).all()
    assert np.isnan(p_values(broken, "two-sided")[0][7, 1])
    assert np.isnan(limits(broken, 0.9)[0][7, 1])


class TestSummary:
    def test_one_term_is_itself(self):
        mix = single([0.5, -3.0], 60)
        found = summarise(mix)
        np.testing.assert_allclose(found.estimate, mix.estimate[:, 0])
        np.testing.assert_allclose(found.std_error, 1.0)
        np.testing.assert_allclose(found.df, 60.0, rtol=1e-9)

    def test_moments_against_draws(self):
        mix = mixture(6, genes=1, C=1, dof=12)
        rng, n = np.random.default_rng(0), 10**6
        k = rng.choice(6, n, p=mix.weights[0])
        draws = mix.estimate[0, 0, k] + scales(mix)[0, 0, k] * rng.standard_t(12, n)
        found = summarise(mix)
        assert found.estimate[0, 0] == pytest.approx(draws.mean(), abs=0.01)
        s, df = found.std_error[0, 0], found.df[0, 0]
        assert s**2 * df / (df - 2) == pytest.approx(draws.var(), rel=0.02)

    @pytest.mark.parametrize("dof", [4, 3])
    def test_too_few_degrees_of_freedom(self, dof):
        found = summarise(mixture(1, dof=dof))
        assert np.isfinite(found.estimate).all()
        assert np.isnan(found.std_error).all() and np.isnan(found.df).all()

    def test_t_gives_nearly_the_p_value_or_has_no_df(self):
        mix = mixture(8, genes=2000, location=3.0)
        estimate, std_error, df = summarise(mix)
        t = estimate / std_error
        p, log10_p = p_values(mix, "two-sided")
        df = effective_df(t, log10_p * np.log(10), df, mix.dof)
        fine = ~np.isnan(df)
        assert fine.mean() > 0.8
        _, found = t_tail(t[fine], df[fine], "two-sided")
        z, z_t = (-special.ndtri_exp(x * np.log(10) - np.log(2)) for x in (log10_p[fine], found))
        assert np.abs(z - z_t).max() < 0.12 * max(z.max(), 1)
        assert np.median(np.abs(z - z_t)) < 0.01
        assert (df[fine] >= 1).all() and (df[fine] <= mix.dof * (1 + 1e-9)).all()
        assert p.shape == df.shape


def test_joint_against_scipy():
    rng = np.random.default_rng(0)
    genes, rows, points, dof = 30, 3, 5, 90
    estimate = 0.4 * rng.normal(size=(genes, rows, points))
    roots = rng.normal(size=(points, rows, rows))
    unit = roots @ roots.swapaxes(1, 2) + np.eye(rows)
    variance = rng.uniform(0.01, 1.0, (genes, points))
    weights = rng.dirichlet(np.ones(points), genes)
    F = np.empty((genes, points))
    for g, k in np.ndindex(F.shape):
        b = estimate[g, :, k]
        F[g, k] = b @ np.linalg.solve(unit[k], b) / rows / variance[g, k]
    expected = (weights * stats.f.sf(F, rows, dof)).sum(1)
    statistic, p, log10_p = joint_p_values(estimate, variance, unit, weights, dof)
    np.testing.assert_allclose(p, expected, rtol=1e-10)
    np.testing.assert_allclose(log10_p, np.log10(expected), rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(statistic, (weights * F).sum(1), rtol=1e-10)
    # one row is the square of a t
    _, p, _ = joint_p_values(estimate[:, :1], variance, unit[:, :1, :1], weights, dof)
    t = estimate[:, :1] / np.sqrt(variance[:, None] * unit[:, 0, 0])
    expected = (weights * 2 * stats.t.sf(np.abs(t[:, 0]), dof)).sum(1)
    np.testing.assert_allclose(p, expected, rtol=1e-10)


def test_the_table_is_made_once():
    assert tail_table(77.0) is tail_table(77.0)
    table = tail_table(77.0)
    assert table.coefficients.shape == (
        tails_module.PER_UNIT * tails_module.TABLE_END,
        tails_module.DEGREE + 1,
    )
