"""Shrinkage by a normal mixture: against integrals, closed forms, and known effects."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, optimize
from scipy import stats as distributions

from flashmm.kernels import shrinkage
from flashmm.kernels.shrinkage import Mixture

PRIOR = Mixture(np.array([0.0, 0.1, 0.8]), np.array([0.6, 0.3, 0.1]))


def integrals(b, s, df, prior):
    """Moments and signs of one posterior by Simpson's rule over the effect."""
    x = np.linspace(-10.0, 10.0, 40_001)
    error = distributions.t.pdf((b - x) / s, df) / s
    parts = zip(prior.sd[1:], prior.weight[1:], strict=True)
    slab = error * sum(w * distributions.norm.pdf(x, 0, sd) for sd, w in parts)

    def integral(values, where=slice(None)):
        return integrate.simpson(values[where], x=x[where])

    zero = prior.weight[0] * distributions.t.pdf(b / s, df) / s
    below, above = integral(slab, slice(20_001)), integral(slab, slice(20_000, None))
    total = zero + below + above
    mean = integral(x * slab) / total
    square = integral(x**2 * slab) / total
    return mean, np.sqrt(square - mean**2), (zero + min(below, above)) / total


@pytest.mark.parametrize("df", [3.0, 8.0, 30.0, 1000.0])
@pytest.mark.parametrize("b", [0.0, -0.15, 0.6, 2.5])
def test_posterior_is_that_of_integrals(b, df):
    values = shrinkage.posterior(np.array([b]), np.array([0.2]), np.array([df]), PRIOR)
    expected = integrals(b, 0.2, df, PRIOR)
    np.testing.assert_allclose([v[0] for v in values], expected, rtol=2e-5, atol=1e-7)


def test_normal_errors_have_the_closed_form():
    b, s = np.array([-1.2, 0.05, 0.7]), np.array([0.3, 0.2, 0.25])
    result = shrinkage.posterior(b, s, np.full(3, np.inf), Mixture(np.array([0.5]), np.ones(1)))
    kappa = 0.25 / (0.25 + s**2)
    np.testing.assert_allclose(result[0], kappa * b, rtol=1e-9)
    np.testing.assert_allclose(result[1], np.sqrt(kappa) * s, rtol=1e-6)
    tail = distributions.norm.sf(np.abs(result[0]) / result[1])
    np.testing.assert_allclose(result[2], tail, rtol=1e-5)


@pytest.mark.parametrize("df", [2.0, 5.0, 40.0])
def test_density_at_the_point_mass_is_that_of_t(df):
    b, s = np.array([0.0, 0.3, -2.0, 8.0]), np.array([0.2, 0.1, 0.4, 0.5])
    log_density = shrinkage.component_log_likelihood(b, s, np.full(4, df), np.zeros(1))[:, 0]
    expected = distributions.t.logpdf(b / s, df) - np.log(s)
    np.testing.assert_allclose(log_density, expected, rtol=0, atol=3e-4)


def test_weights_are_those_of_a_general_optimiser():
    rng = np.random.default_rng(0)
    L = np.exp(rng.normal(0, 1.5, (300, 5)))
    weights = shrinkage.mixture_weights(np.log(L))

    def f(x):
        return -np.log(L @ x).mean()

    found = optimize.minimize(
        f,
        np.full(5, 0.2),
        bounds=[(0, 1)] * 5,
        constraints={"type": "eq", "fun": lambda x: x.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert f(weights) <= found.fun + 1e-9
    np.testing.assert_allclose(weights, found.x, atol=1e-3)
    assert weights.sum() == pytest.approx(1.0)


@given(st.integers(0, 10_000))
def test_no_component_would_raise_the_likelihood(seed):
    rng = np.random.default_rng(seed)
    log_likelihood = rng.normal(0, rng.uniform(0.1, 30), (40, 7))
    weights = shrinkage.mixture_weights(log_likelihood)
    L = np.exp(log_likelihood - log_likelihood.max(1, keepdims=True))
    assert (L / (L @ weights)[:, None]).mean(0).max() < 1 + 1e-6


def test_genes_at_zero_are_added():
    rng = np.random.default_rng(1)
    log_likelihood = rng.normal(0, 1, (50, 3))
    at_zero = np.tile([0.0, -np.inf, -np.inf], (7, 1))
    with_rows = shrinkage.mixture_weights(np.vstack([log_likelihood, at_zero]))
    np.testing.assert_allclose(shrinkage.mixture_weights(log_likelihood, 7.0), with_rows, atol=1e-6)


def test_mixture_is_recovered_and_the_false_sign_rate_holds():
    rng = np.random.default_rng(2)
    n = 6000
    df = rng.choice([6.0, 20.0], n)
    s = np.exp(rng.normal(-1.5, 0.4, n))
    effect = np.where(rng.random(n) < 0.7, 0.0, rng.normal(0, 0.8, n))
    b = effect + s * rng.standard_t(df)
    result = shrinkage.shrink(b, s, df)
    assert result.prior.weight[0] == pytest.approx(0.7, abs=0.06)
    spread = (result.prior.weight * result.prior.sd**2).sum()
    assert spread == pytest.approx(0.3 * 0.64, rel=0.15)
    found = result.false_sign_rate < 0.1
    wrong = (np.sign(result.mean) != np.sign(effect))[found]
    assert found.sum() > 300
    assert abs(wrong.mean() - result.false_sign_rate[found].mean()) < 0.02
    truth = shrinkage.posterior(b, s, df, Mixture(np.array([0.0, 0.8]), np.array([0.7, 0.3])))
    least = ((truth[0] - effect) ** 2).mean()
    assert ((result.mean - effect) ** 2).mean() < 1.02 * least


def test_genes_without_effects_are_all_shrunk_to_nothing():
    rng = np.random.default_rng(3)
    s = np.full(2000, 0.3)
    result = shrinkage.shrink(0.3 * rng.normal(size=2000), s, np.full(2000, np.inf))
    assert np.abs(result.mean).max() < 0.1
    assert result.false_sign_rate.min() > 0.5


def test_result_does_not_depend_on_the_unit():
    rng = np.random.default_rng(4)
    b, s, df = rng.normal(0, 1, 200), rng.uniform(0.2, 0.6, 200), np.full(200, 9.0)
    one, other = shrinkage.shrink(b, s, df), shrinkage.shrink(1000 * b, 1000 * s, df)
    np.testing.assert_allclose(other.mean, 1000 * one.mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(other.false_sign_rate, one.false_sign_rate, rtol=1e-6)


def test_unusable_genes_get_nan_and_change_nothing():
    rng = np.random.default_rng(5)
    b, s, df = rng.normal(0, 1, 60), np.full(60, 0.4), np.full(60, 12.0)
    whole = shrinkage.shrink(b, s, df)
    bad = np.array([np.nan, 1.0, 1.0, 1.0]), np.array([1.0, 0.0, np.nan, 1.0])
    more = shrinkage.shrink(np.r_[b, bad[0]], np.r_[s, bad[1]], np.r_[df, 5.0, 5.0, 5.0, np.nan])
    np.testing.assert_array_equal(more.mean[:60], whole.mean)
    assert all(np.isnan(field[60:]).all() for field in more[:3])


def test_no_usable_gene_has_no_prior():
    result = shrinkage.shrink(np.full(3, np.nan), np.ones(3), np.full(3, 5.0))
    assert result.prior is None
    assert np.isnan(result.mean).all()
