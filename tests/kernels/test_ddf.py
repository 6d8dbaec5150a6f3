"""Degrees of freedom against closed forms and scipy."""

from __future__ import annotations

import numpy as np
import pytest

from flashmm.kernels import ddf


def test_satterthwaite_of_two_independent_variances():
    # Welch: v = a s_1 + b s_2 with df_i: 2v²/Σ a_i² 2 s_i²/df_i
    s, n, df = np.array([2.0, 3.0]), np.array([5.0, 8.0]), np.array([4.0, 7.0])
    theta_cov = np.diag(2 * s**2 / df)[None]
    value = np.array([[(s / n).sum()]])
    result = ddf.satterthwaite_df(value, (1 / n)[None, None], theta_cov)
    welch = (s / n).sum() ** 2 / ((s / n) ** 2 / df).sum()
    assert result[0, 0] == pytest.approx(welch, rel=1e-13)


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
