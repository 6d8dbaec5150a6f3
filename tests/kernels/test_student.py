"""Quantiles of t against scipy's inverse, limits against scipy's intervals, minimum effects."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from scipy import stats as distributions

from flashmm.kernels import student
from flashmm.kernels.tails import t_tail


@pytest.mark.parametrize("probability", [0.6, 0.9, 0.95, 0.975, 0.995, 0.99995, 0.025])
def test_quantiles_against_the_inverse(probability):
    df = np.exp(np.random.default_rng(0).uniform(np.log(0.2), np.log(1e8), 5000))
    df = np.r_[df, 1 / np.array(student.PIECES[1:]), 1.0 - 1e-12, 1.0 + 1e-12]
    expected = special.stdtrit(df, probability)
    np.testing.assert_allclose(student.t_quantile(df, probability), expected, rtol=1e-11)


def test_quantiles_at_the_ends():
    found = student.t_quantile(np.array([np.inf, 1e300, np.nan, 0.0, -2.0]), 0.975)
    np.testing.assert_allclose(found[:2], special.ndtri(0.975), rtol=1e-12)
    assert np.isnan(found[2:]).all()
    assert student.t_quantile(np.full((3, 0), 1.0), 0.9).shape == (3, 0)


@given(df=st.floats(0.3, 1e6), probability=st.floats(0.5, 0.999))
def test_the_quantile_has_its_probability(df, probability):
    quantile = student.t_quantile(np.array([df]), probability)
    assert special.stdtr(df, quantile[0]) == pytest.approx(probability, rel=1e-11)


def test_a_quantile_depends_on_its_df_only():
    df = np.random.default_rng(1).uniform(0.5, 300, 200)
    alone = [student.t_quantile(df[i : i + 1], 0.975)[0] for i in range(len(df))]
    np.testing.assert_array_equal(student.t_quantile(df, 0.975), alone)


@pytest.mark.parametrize("level", [0.8, 0.95, 0.999])
def test_limits_against_scipy(level):
    b, s, df = np.array([0.3, -2.0]), np.array([0.2, 1.5]), np.array([3.7, 41.0])
    low, high = student.confidence_limits(b, s, df, level, "two-sided")
    np.testing.assert_allclose([low, high], distributions.t.interval(level, df, b, s), rtol=1e-11)
    low, high = student.confidence_limits(b, s, df, level, "greater")
    np.testing.assert_allclose(low, distributions.t.isf(level, df, b, s), rtol=1e-11)
    assert (high == np.inf).all()
    low, high = student.confidence_limits(b, s, df, level, "less")
    np.testing.assert_allclose(high, distributions.t.ppf(level, df, b, s), rtol=1e-11)
    assert (low == -np.inf).all()
    low, high = student.confidence_limits(b, s, np.full(2, np.nan), level, "less")
    assert np.isnan(low).all() and np.isnan(high).all()


@given(b=st.floats(-4, 4), s=st.floats(0.1, 2), df=st.floats(1, 200), minimum=st.floats(0.001, 3))
def test_minimum_effects_against_scipy(b, s, df, minimum):
    arrays = np.array([b]), np.array([s]), np.array([df])
    T = distributions.t(df)
    t, p, log10_p = student.minimum_effect_test(*arrays, minimum, "two-sided")
    expected = T.sf((abs(b) - minimum) / s) + T.sf((abs(b) + minimum) / s)
    assert p[0] == pytest.approx(expected, rel=1e-9)
    assert log10_p[0] == pytest.approx(np.log10(expected), rel=1e-9, abs=1e-12)
    assert t[0] == pytest.approx(np.sign(b) * max(abs(b) - minimum, 0) / s)
    _, p, _ = student.minimum_effect_test(*arrays, minimum, "greater")
    assert p[0] == pytest.approx(T.sf((b - minimum) / s), rel=1e-9)
    _, p, _ = student.minimum_effect_test(*arrays, minimum, "less")
    assert p[0] == pytest.approx(T.cdf((b + minimum) / s), rel=1e-9)


def test_no_minimum_is_the_usual_test_and_small_p_stay_finite():
    b, s, df = np.array([0.4, -3.0, 900.0]), np.ones(3), np.array([4.0, 60.0, 5000.0])
    _, p, log10_p = student.minimum_effect_test(b, s, df, 0.0, "two-sided")
    expected = t_tail(b / s, df, "two-sided")
    np.testing.assert_allclose(p, expected[0], rtol=1e-12)
    np.testing.assert_allclose(log10_p, expected[1], rtol=1e-9)
    assert p[2] == 0 and log10_p[2] < -300


def test_size_at_the_bound_of_the_null():
    rng = np.random.default_rng(2)
    s = np.sqrt(rng.chisquare(6, 40_000) / 6)
    for minimum in (0.0, 0.5, 3.0):
        b = minimum + rng.normal(size=len(s))
        _, p, _ = student.minimum_effect_test(b, s, np.full(len(s), 6.0), minimum, "two-sided")
        # exact at zero, conservative between, one tail far from zero
        assert (p < 0.05).mean() < 0.05 + 3 * np.sqrt(0.05 * 0.95 / len(s))
        if minimum != 0.5:
            assert (p < 0.05).mean() > 0.05 - 3 * np.sqrt(0.05 * 0.95 / len(s))
