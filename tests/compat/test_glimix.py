"""The interface of glimix-core's Kron2Sum; its numbers are in tests/parity/test_glimix.py."""

from __future__ import annotations

import numpy as np
import pytest

import flashmm as fm
from flashmm.compat.glimix import Kron2Sum


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X, G = np.column_stack([np.ones(50), rng.normal(size=50)]), rng.normal(size=(50, 8))
    Y = G @ rng.normal(size=(8, 1)) @ [[0.3, 0.2, 0.1]] + rng.normal(size=(50, 3))
    return Y, np.tri(3), X, G


@pytest.mark.parametrize("restricted", [False, True])
def test_fit_is_that_of_the_package(data, restricted):
    Y, A, X, G = data
    model = Kron2Sum(Y, A, X, G, rank=2, restricted=restricted)
    before = model.lml()
    model.fit(verbose=False)
    fit = fm.fit_multitrait_lmm(Y, X, G, A, rank=2, method="REML" if restricted else "ML")
    M = np.kron(A, X)
    volume = 0.5 * np.linalg.slogdet(M.T @ M)[1] if restricted else 0.0
    assert before < model.lml() == model.value()
    np.testing.assert_allclose(model.lml(), fit.loglik + volume, rtol=1e-12)
    np.testing.assert_allclose(model.C0, fit.C0, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(model.covariance(), fit.covariance(), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(model.beta, model.B.ravel("F"))
    np.testing.assert_allclose(model.mean(), model.M @ model.beta, rtol=1e-9)
    scanned, x = fit.scan(G[:, :1] ** 2), G[:, 0] ** 2
    for X1 in (x, x[:, None]):
        found = model.get_fast_scanner().scan(np.eye(3), X1)
        np.testing.assert_allclose(found["lml"], scanned.loglik[0], rtol=1e-10)
        np.testing.assert_allclose(found["effsizes1"], scanned.coef, rtol=1e-6)
        np.testing.assert_allclose(found["effsizes1_se"], scanned.std_error, rtol=1e-6)
        assert found["effsizes0"].shape == found["effsizes0_se"].shape == (2, 3)


def test_attributes(data):
    model = Kron2Sum(*data)
    assert (model.nsamples, model.ntraits, model.ncovariates) == (50, 3, 2)
    assert model.name == "Kron2Sum"
    np.testing.assert_array_equal(model.A, np.tri(3))
    np.testing.assert_array_equal(model.X, data[2])
    np.testing.assert_array_equal(model.M, np.kron(np.tri(3), data[2]))
    assert model.beta_covariance.shape == (6, 6) and model.C1.shape == (3, 3)


@pytest.mark.parametrize("rank", [0, 1, 3, 5])
def test_gradient_is_that_of_the_likelihood(data, rank):
    model = Kron2Sum(*data, rank=rank, restricted=True)
    rng = np.random.default_rng(1)
    columns = min(rank, 3)
    unit = max(data[3].min(), data[3].max())
    epsilon = 1.4901161193847656e-05

    def lml(parameters):
        L1 = np.zeros((3, 3))
        L1[np.tril_indices(3, -1)] = parameters[-6:-3]
        L1 += np.diag(np.exp(parameters[-3:]))
        L0 = parameters[:-6].reshape(3, columns) / unit
        model._place(L0, np.linalg.cholesky(L1 @ L1.T + epsilon * np.eye(3)))
        return model.lml()

    x = 0.3 * rng.normal(size=3 * columns + 6)
    numeric = [(lml(x + h) - lml(x - h)) / 2e-5 for h in 1e-5 * np.eye(len(x))]
    lml(x)
    gradient = model.gradient()
    exact = np.concatenate([gradient["C0.Lu"], gradient["C1.Lu"]])
    np.testing.assert_allclose(exact, numeric, rtol=1e-6, atol=1e-6)


def test_fit_says_how_it_ended(data, capsys):
    model = Kron2Sum(*data)
    model.fit()
    assert "MultiTraitFit(ML, 3 traits × 50 subjects, rank 1: ok" in capsys.readouterr().out
    gradient = model.gradient()
    assert all(np.abs(values).max() < 1e-6 for values in gradient.values())


def test_small_traits_go_below_the_epsilon_of_the_original(data):
    Y, A, X, G = data
    model, small = Kron2Sum(Y, A, X, G), Kron2Sum(1e-4 * Y, A, X, G)
    model.fit(verbose=False)
    small.fit(verbose=False)
    np.testing.assert_allclose(small.C1, 1e-8 * model.C1, rtol=1e-7)
    assert all(np.isfinite(values).all() for values in small.gradient().values())


def test_set_that_the_covariates_explain_is_nan(data):
    model = Kron2Sum(*data)
    found = model.get_fast_scanner().scan(np.eye(3), data[2][:, [1]])
    assert np.isnan(found["lml"]) and np.isnan(found["effsizes1"]).all()


@pytest.mark.parametrize("rank", [-1, 1.5, True])
def test_bad_rank_is_refused(data, rank):
    with pytest.raises(fm.InputError, match="rank must be a whole number"):
        Kron2Sum(*data, rank=rank)


def test_missing_values_are_refused_with_the_trait(data):
    Y = data[0].copy()
    Y[0, 1] = np.nan
    with pytest.raises(ValueError, match="'trait2'"):
        Kron2Sum(Y, *data[1:])
