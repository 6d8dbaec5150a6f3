"""The search for the limits of a profile, and the likelihood with a component held."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flashmm as fm
from flashmm.kernels.profile import HeldComponent, signed_root


@given(
    centre=st.floats(0.01, 100),
    width=st.floats(0.001, 10),
    power=st.floats(1, 3),
    start=st.floats(0.001, 50),
)
def test_root_of_a_known_deviance(centre, width, power, start):
    """ζ = (|x - centre|/width)^power: the limits are centre ± width·1.96^(1/power)."""

    def evaluate(x, _):
        z = np.abs(x - centre) / width
        slope = 2 * power * z ** (2 * power - 1) * np.sign(x - centre) / width
        return z ** (2 * power), slope

    half = width * 1.96 ** (1 / power)
    upper = signed_root(
        evaluate, np.array([centre]), np.array([centre + start]), np.array([False]), 1.96
    )
    assert upper[0] == pytest.approx(centre + half, rel=1e-6)
    if half < 0.999 * centre:
        begin = np.array([centre / (1 + start)])
        lower = signed_root(evaluate, np.array([centre]), begin, np.array([True]), 1.96)
        assert lower[0] == pytest.approx(centre - half, abs=1e-6 * centre)


def test_what_cannot_be_evaluated_is_nan_and_stops_nothing():
    def evaluate(x, rows):
        return np.where(rows == 1, np.nan, (x - 1) ** 2), 2 * (x - 1)

    three = np.ones(3)
    found = signed_root(evaluate, three, 1.5 * three, np.zeros(3, dtype=bool), 1.0)
    np.testing.assert_allclose(found, [2, np.nan, 2])


def test_a_deviance_that_stays_low_has_no_limit():
    found = signed_root(
        lambda x, _: (1 - 1 / x, 1 / x**2),
        np.array([1.0]),
        np.array([2.0]),
        np.array([False]),
        1.96,
    )
    assert np.isnan(found).all()


@pytest.mark.parametrize("components", [1, 2])
@pytest.mark.parametrize("method", ["REML", "ML"])
def test_held_component_against_the_dense_likelihood(components, method):
    Y, X, Z = oracle.problem(3, n=80, genes=2, components=components)
    sizes = [z.shape[1] for z in Z]
    stats = fm.summary_statistics_from_matrices(Y, X, np.hstack(Z), sizes)
    fit = fm.fit_lmm(stats, method)
    genes = fit.model.responses(stats, 0, 2)
    m = fit.df_residual if method == "REML" else 80
    held = HeldComponent(fit.model.engine, genes, m, 0, np.array([0, 1, 1]))
    rows = np.arange(3)
    theta = np.abs(np.random.default_rng(0).normal(size=(3, components + 1))) + 0.1

    def dense(theta):
        return np.array(
            [
                -2 * oracle.loglik(Y[:, g], X, oracle.covariance(Z, s), method == "REML")
                for g, s in zip(held.gene, theta, strict=True)
            ]
        )

    # equal but for one constant
    difference = held.deviance(theta, rows) - dense(theta)
    np.testing.assert_allclose(difference, difference[0], atol=1e-8)
    free = np.arange(1, components + 1)
    found = held.derivatives(theta, rows, free)
    for j, k in enumerate(free):
        step = 1e-5 * np.eye(components + 1)[k]
        slope = (dense(theta + step) - dense(theta - step)) / 2e-5
        np.testing.assert_allclose(found.gradient[:, j], slope, rtol=1e-5, atol=1e-5)
    theta[1, -1] = 0.0
    outside = held.derivatives(theta, rows, free)
    assert np.isposinf(outside.f[1]) and np.isfinite(outside.f[[0, 2]]).all()
    assert (outside.gradient[1] == 0).all()
