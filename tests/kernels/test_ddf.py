"""Degrees of freedom and tails against closed forms and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from flashmm.kernels import ddf


def test_satterthwaite_of_two_independent_variances():
    # Welch: v = a s_1 + b s_2 with df_i: 2v²/Σ a_i² 2 s_i²/df_i
    s, n, df = np.array([2.0, 3.0]), np.array([5.0, 8.0]), np.array([4.0, 7.0])
    theta_cov = np.diag(2 * s**2 / df)[None]
    value = np.array([[(s / n).sum()]])
    result = ddf.satterthwaite_df(value, (1 / n)[None, None], theta_cov)
    welch = (s / n).sum() ** 2 / ((s / n) ** 2 / df).sum()
    assert result[0, 0] == pytest.approx(welch, rel=1e-13)


@pytest.mark.parametrize("df", [3.0, 17.5, 400.0, 1e4])
@pytest.mark.parametrize("t", [-60.0, -2.0, 0.0, 1.3, 40.0])
@pytest.mark.parametrize("alternative", ["two-sided", "less", "greater"])
def test_t_tail(df, t, alternative):
    p, log10_p = ddf.t_tail(np.array([t]), np.array([df]), alternative)
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
    _, direct = ddf.t_tail(t, df, "two-sided")
    monkeypatch.setattr(ddf, "SMALL_P", 1.0)
    _, tail = ddf.t_tail(t, df, "two-sided")
    _, one_sided = ddf.t_tail(-t, df, "less")
    np.testing.assert_allclose(tail, direct, rtol=1e-11)
    np.testing.assert_allclose(one_sided, direct - np.log10(2), rtol=1e-11)


def test_f_tail_of_one_numerator_df_is_the_t_tail():
    t, df = np.array([2.0, 60.0, 300.0]), np.array([9.0, 1e4, 1e3])
    p_t, log_t = ddf.t_tail(t, df, "two-sided")
    p_f, log_f = ddf.f_tail(t**2, np.ones(3), df)
    np.testing.assert_allclose(p_f, p_t, rtol=1e-9)
    np.testing.assert_allclose(log_f, log_t, rtol=1e-9)
    assert (log_f[1:] < -300).all() and np.isfinite(log_f).all()


def test_information_without_a_direction_has_zero_variance_there():
    information = np.array([[[2.0, 0.0], [0.0, 0.0]], [[np.nan, 0.0], [0.0, 1.0]]])
    inverse = ddf.invert_information(information)
    np.testing.assert_allclose(inverse[0], [[0.5, 0.0], [0.0, 0.0]])
    assert np.isnan(inverse[1]).all()


def test_inverse_does_not_depend_on_the_units_of_the_components():
    rng = np.random.default_rng(3)
    A = rng.normal(size=(2, 3, 3))
    information = A @ A.swapaxes(1, 2)
    units = np.array([1e-8, 1.0, 1e8])
    scaled = ddf.invert_information(information * units[:, None] * units)
    np.testing.assert_allclose(
        scaled * units[:, None] * units, np.linalg.inv(information), rtol=1e-8
    )


def test_observed_covariance_leaves_out_components_at_zero():
    information = np.array([[[3.0, 1.0], [1.0, 2.0]]])
    cov = ddf.free_theta_cov(information, np.array([[0.0, 1.5]]))
    np.testing.assert_allclose(cov, [[[0.0, 0.0], [0.0, 0.5]]])


@pytest.mark.parametrize("k", [2, 3])
def test_inverse_information_against_pinv(k):
    rng = np.random.default_rng(k)
    factors = rng.normal(size=(50, k, k)) * np.array([1e-6, 1.0, 1e4])[:k]
    information = np.swapaxes(factors, 1, 2) @ factors
    information[0, :, 0] = information[0, 0] = 0.0  # a component without information
    information[1] = np.outer(*[np.array([1.0, 2.0, 3.0])[:k]] * 2)  # of rank one
    information[2, 1, 1] *= -1  # indefinite, as observed information may be
    information[3] = np.nan
    found = ddf.invert_information(information)
    assert np.isnan(found[3]).all()
    for matrix, inverse in zip(np.delete(information, 3, 0), np.delete(found, 3, 0), strict=True):
        scale = np.sqrt(np.abs(np.diag(matrix)))
        scale[scale == 0] = 1.0
        outer = np.outer(scale, scale)
        expected = np.linalg.pinv(matrix / outer, rcond=1e-13, hermitian=True)
        np.testing.assert_allclose(
            inverse * outer, expected, rtol=1e-7, atol=1e-7 * np.abs(expected).max()
        )
