"""The prior of variances across genes: recovered, at its limits, and what it does to tests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from scipy import stats as distributions

from flashmm.kernels import moderation


def variances(rng, genes, df, prior_variance=0.3, prior_df=5.0):
    true = prior_variance * prior_df / rng.chisquare(prior_df, genes)
    return true, true * rng.chisquare(df) / df


@pytest.mark.parametrize("unequal", [False, True])
def test_prior_is_recovered(unequal):
    rng = np.random.default_rng(0)
    df = rng.uniform(1.5, 40, 20_000) if unequal else np.full(20_000, 6.0)
    _, v = variances(rng, len(df), df)
    prior = moderation.fit_prior(v, df)
    assert prior.df == pytest.approx(5.0, rel=0.05)
    assert prior.variance == pytest.approx(0.3, rel=0.03)


def test_equal_df_are_the_moments_in_closed_form():
    rng = np.random.default_rng(1)
    df = np.full(500, 4.0)
    _, v = variances(rng, 500, df)
    prior = moderation.fit_prior(v, df)
    e = np.log(v) - special.digamma(2.0) + np.log(2.0)
    tau = e.var(ddof=1) - special.polygamma(1, 2.0)
    assert special.polygamma(1, prior.df / 2) == pytest.approx(tau, rel=1e-9)
    mean = np.log(prior.variance) - special.digamma(prior.df / 2) + np.log(prior.df / 2)
    assert mean == pytest.approx(e.mean(), rel=1e-9)


def test_genes_of_one_variance_give_an_infinite_prior():
    rng = np.random.default_rng(2)
    df = np.full(50, 8.0)
    v = 2.0 * np.exp(rng.normal(0, 0.01, 50))  # vary less than 8 degrees of freedom allow
    prior = moderation.fit_prior(v, df)
    assert np.isinf(prior.df)
    moderated, total = moderation.posterior(v, df, prior)
    np.testing.assert_allclose(moderated, prior.variance)
    np.testing.assert_allclose(total, df.sum())


def test_no_prior_leaves_everything():
    v, df = np.array([0.5, 2.0, 1.0]), np.array([3.0, 4.0, 9.0])
    moderated, total = moderation.posterior(v, df, moderation.Prior(1.0, 0.0))
    np.testing.assert_allclose(moderated, v)
    np.testing.assert_allclose(total, df)


def test_few_genes_and_genes_without_a_variance():
    rng = np.random.default_rng(3)
    df = np.full(40, 5.0)
    _, v = variances(rng, 40, df)
    assert moderation.fit_prior(v[:9], df[:9]) is None
    holes = np.r_[v, np.nan, 0.0, 1.0, 1.0], np.r_[df, 3.0, 3.0, np.nan, 0.0]
    prior = moderation.fit_prior(*holes)
    assert prior == moderation.fit_prior(v, df)
    moderated, total = moderation.posterior(*holes, prior)
    np.testing.assert_array_equal(moderated[40:], holes[0][40:])
    np.testing.assert_array_equal(total[40:], holes[1][40:])


@given(value=st.floats(1e-8, 1e8))
def test_inverse_trigamma(value):
    assert special.polygamma(1, moderation.inverse_trigamma(value)) == pytest.approx(
        value, rel=1e-9
    )


@given(seed=st.integers(0, 10**6), scale=st.floats(1e-6, 1e6))
def test_scale_and_order_do_not_count(seed, scale):
    rng = np.random.default_rng(seed)
    df = rng.uniform(2, 30, 60)
    _, v = variances(rng, 60, df)
    prior, order = moderation.fit_prior(v, df), rng.permutation(60)
    other = moderation.fit_prior(v[order] * scale, df[order])
    # an almost flat likelihood of a large d₀ magnifies rounding
    assert other.df == pytest.approx(prior.df, rel=1e-4) or min(other.df, prior.df) > 1e4
    assert other.variance == pytest.approx(scale * prior.variance, rel=1e-4)


def test_moderated_tests_have_size_and_power():
    """Where the prior is true, t on d₀ + d is exact and finds more."""
    rng = np.random.default_rng(4)
    df = np.full(30_000, 4.0)
    true, v = variances(rng, 30_000, df, prior_df=8.0)
    b = rng.normal(size=30_000) * np.sqrt(true)
    moderated, total = moderation.posterior(v, df, moderation.fit_prior(v, df))
    for level in (0.05, 0.01):
        error = np.sqrt(level * (1 - level) / 30_000)
        size = (2 * distributions.t.sf(np.abs(b) / np.sqrt(moderated), total) < level).mean()
        assert abs(size - level) < 4 * error
        shifted = b + 3 * np.sqrt(true)
        plain = (2 * distributions.t.sf(np.abs(shifted) / np.sqrt(v), df) < level).mean()
        power = (2 * distributions.t.sf(np.abs(shifted) / np.sqrt(moderated), total) < level).mean()
        assert power > plain + 0.05
