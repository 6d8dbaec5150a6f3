"""The studentized range against the t distribution, scipy and R's ptukey."""

from __future__ import annotations

import numpy as np
import pytest

from flashmm.kernels.studentized_range import log_tail, quantile
from flashmm.kernels.tails import t_tail

Q = np.array([0.3, 1.0, 2.0, 3.5, 5.0, 8.0, 12.0, 20.0, 40.0])


@pytest.mark.parametrize("df", [1.7, 4.0, 10.0, 250.0, 1e5])
def test_two_means_are_a_t_test(df):
    """Also far in the tail, where p is below the smallest number of ptukey."""
    expected = t_tail(Q / np.sqrt(2), np.full(len(Q), df), "two-sided")[1] * np.log(10)
    np.testing.assert_allclose(log_tail(Q, 2, df), expected, rtol=1e-8, atol=1e-9)


def test_numbers_of_ptukey():
    """R: ptukey(c(3.5, 5, 8), 3, 10, lower = FALSE); ptukey(3, 4, 7.3, lower = FALSE)."""
    expected = [0.077103310838660, 0.013615680916715, 0.000558858792213]
    found = np.exp(log_tail(np.array([3.5, 5.0, 8.0]), 3, np.full(3, 10.0)))
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    assert np.exp(log_tail(np.array([3.0]), 4, np.array([7.3])))[0] == pytest.approx(0.231771073385)


def test_numbers_of_scipy():
    from scipy.stats import studentized_range

    q = np.array([1.0, 4.0])
    expected = studentized_range.sf(q, 6, 12.5)
    np.testing.assert_allclose(np.exp(log_tail(q, 6, np.full(2, 12.5))), expected, rtol=1e-7)


def test_quantiles():
    """R's qtukey(0.95, 4, 7.3) is 4.63038788, to the 1e-4 at which it stops."""
    df = np.array([2.0, 7.3, 1e3, np.nan])
    found = quantile(0.05, 4, df)
    assert found[1] == pytest.approx(4.63038788, abs=1e-6)
    np.testing.assert_allclose(np.exp(log_tail(found[:3], 4, df[:3])), 0.05, rtol=1e-8)
    assert np.isnan(found[3])


def test_what_has_no_test_has_no_tail():
    found = log_tail(np.array([np.nan, 1.0, 0.0]), 3, np.array([5.0, np.nan, 5.0]))
    np.testing.assert_array_equal(found, [np.nan, np.nan, 0.0])
