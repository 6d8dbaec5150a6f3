"""Tails of distributions against scipy, also where they underflow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from flashmm.kernels import tails
from flashmm.kernels.tails import chi2_tail


@pytest.mark.parametrize("df", [3.0, 17.5, 400.0, 1e4])
@pytest.mark.parametrize("t", [-60.0, -2.0, 0.0, 1.3, 40.0])
@pytest.mark.parametrize("alternative", ["two-sided", "less", "greater"])
def test_t_tail(df, t, alternative):
    p, log10_p = tails.t_tail(np.array([t]), np.array([df]), alternative)
    exact = {
        "two-sided": 2 * stats.t.sf(abs(t), df),
        "less": stats.t.cdf(t, df),
        "greater": stats.t.sf(t, df),
    }[alternative]
    assert p[0] == pytest.approx(exact, rel=1e-9)
    if exact > 1e-300:
        assert log10_p[0] == pytest.approx(np.log10(exact), rel=1e-9, abs=1e-12)
    assert np.isfinite(log10_p).all()


def test_log10_p_is_continuous_where_it_changes_formula(monkeypatch):
    t, df = np.linspace(20, 45, 6), np.full(6, 50.0)
    _, direct = tails.t_tail(t, df, "two-sided")
    monkeypatch.setattr(tails, "SMALL_P", 1.0)
    _, tail = tails.t_tail(t, df, "two-sided")
    _, one_sided = tails.t_tail(-t, df, "less")
    np.testing.assert_allclose(tail, direct, rtol=1e-11)
    np.testing.assert_allclose(one_sided, direct - np.log10(2), rtol=1e-11)


def test_f_tail_of_one_numerator_df_is_the_t_tail():
    t, df = np.array([2.0, 60.0, 300.0]), np.array([9.0, 1e4, 1e3])
    p_t, log_t = tails.t_tail(t, df, "two-sided")
    p_f, log_f = tails.f_tail(t**2, np.ones(3), df)
    np.testing.assert_allclose(p_f, p_t, rtol=1e-9)
    np.testing.assert_allclose(log_f, log_t, rtol=1e-9)
    assert (log_f[1:] < -300).all() and np.isfinite(log_f).all()


def test_chi2_tail_is_finite_where_p_underflows():
    p, log10_p = chi2_tail(np.array([3.0, 1400.0, 1e5]), 3)
    np.testing.assert_allclose(p[0], 0.3916251762710877, rtol=1e-12)
    assert p[2] == 0
    x = np.array([1200.0, 1280.0])
    plain, tail = chi2_tail(x, 3)
    np.testing.assert_allclose(tail, np.log10(plain), rtol=1e-12)
    # the leading terms of the tail, x^½ e^{-x/2} √(2/π) (1 + 1/x)
    leading = 0.5 * np.log(1e5) - 5e4 + 0.5 * np.log(2 / np.pi) + np.log1p(1e-5)
    np.testing.assert_allclose(log10_p[2], leading / np.log(10), rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.floats(0, 1200))
def test_log_tail_of_chi_squared(df, x):
    p, log10_p = chi2_tail(np.array([x]), df)
    assert p[0] == pytest.approx(stats.chi2.sf(x, df), rel=1e-9)
    assert log10_p[0] == pytest.approx(np.log10(stats.chi2.sf(x, df)), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("df", [1, 2, 5, 9])
def test_log_tail_of_chi_squared_goes_on_where_it_underflows(df):
    x = np.arange(1300.0, 1800.0, 50.0)
    tail = chi2_tail(x, df)[1] * np.log(10)
    # d log sf / dx = −½ + (df/2 − 1)/x + O(x⁻²): smooth across the change of formula
    slope = -0.5 + (df / 2 - 1) / (x[1:] - 25)
    np.testing.assert_allclose(np.diff(tail) / 50, slope, atol=2e-5)


def test_normal_tail_is_that_of_t_with_many_df():
    z = np.array([-3.0, 0.0, 1.0, 60.0])
    p, log10_p = tails.normal_tail(z)
    np.testing.assert_allclose(p, 2 * stats.norm.sf(np.abs(z)), rtol=1e-14)
    np.testing.assert_allclose(log10_p, (np.log(2) + stats.norm.logsf(np.abs(z))) / np.log(10))
    assert p[3] == 0 and np.isfinite(log10_p).all()


def test_boundary_tail_is_half_of_chi_squared():
    statistic = np.array([0.0, 1e-3, 2.7, 50.0, -1.0, np.nan])
    p = tails.boundary_tail(statistic)
    np.testing.assert_allclose(p[1:4], 0.5 * stats.chi2.sf(statistic[1:4], 1), rtol=1e-13)
    assert p[0] == 1 and np.isnan(p[4:]).all()
