"""Engines against the dense cell-level likelihood, finite differences, and each other."""

from __future__ import annotations

from functools import cache

import numpy as np
import oracle
import pytest
from scipy.optimize import approx_fprime

from flashmm.kernels.dense import DenseEngine
from flashmm.kernels.elimination import EliminationEngine
from flashmm.kernels.engine import take
from flashmm.kernels.rotation import (
    independent_columns,
    original_basis,
    orthonormal_contrasts,
    rotate_design,
)
from flashmm.kernels.spectral import SpectralEngine

CASES = [
    (engine, components, reml, 1 - reml)
    for engine, components in (
        (SpectralEngine, 1),
        (DenseEngine, 1),
        (DenseEngine, 2),
        (EliminationEngine, 1),
        (EliminationEngine, 2),
        (EliminationEngine, 3),
    )
    for reml in (True, False)
]


ENGINES = [
    (SpectralEngine, 1),
    (DenseEngine, 2),
    (EliminationEngine, 1),
    (EliminationEngine, 2),
    (EliminationEngine, 3),
]


class Fitted:
    """A problem, its rotation and the fit of one engine."""

    def __init__(self, engine, components, reml, seed, nonnegative=True, start=None):
        if engine is EliminationEngine and components > 1:
            self.Y, self.X, self.Z_blocks = oracle.crossed_problem(seed, rest=components - 2)
        else:
            self.Y, self.X, self.Z_blocks = oracle.problem(seed, components=components)
        Z = np.hstack(self.Z_blocks)
        self.reml = reml
        sizes = tuple(block.shape[1] for block in self.Z_blocks)
        self.rotation = rotate_design(self.X.T @ self.X, Z.T @ self.X, Z.T @ Z, sizes, len(Z))
        self.engine = engine.build(self.rotation, reml, nonnegative)
        self.responses = self.engine.responses(self.Y.T @ self.X, self.Y.T @ Z, (self.Y**2).sum(0))
        self.optimum = self.engine.optimise(self.responses, start, 100, 1e-16)
        self.gamma = self.optimum.gamma
        self.variance = self.engine.residual_variance(self.gamma, self.responses)
        self.theta = np.column_stack([self.gamma * self.variance[:, None], self.variance])
        self.converged = self.optimum.decrement < 1e-16

    def genes(self):
        for g in range(self.Y.shape[1]):
            V = oracle.covariance(self.Z_blocks, self.theta[g])
            yield g, self.Y[:, g], V


fit_once = cache(Fitted)  # no test changes a fit


@pytest.fixture(
    params=CASES, ids=lambda c: f"{c[0].__name__}-K{c[1]}-{'REML' if c[2] else 'ML'}-{c[3]}"
)
def fitted(request):
    return fit_once(*request.param)


def test_score_is_zero_inside_and_negative_on_the_boundary(fitted):
    assert fitted.converged.all()
    scores = fitted.engine.score(fitted.gamma, fitted.variance, fitted.responses)
    for g, y, _ in fitted.genes():
        score, _, _ = oracle.information(y, fitted.X, fitted.Z_blocks, fitted.theta[g], fitted.reml)
        np.testing.assert_allclose(scores[g], score, rtol=1e-6, atol=1e-8)
        inside = fitted.theta[g] > 0
        assert np.abs(score[inside]).max() < 1e-7
        assert (score[~inside] <= 0).all()


def test_coefficients_and_covariance_are_generalised_least_squares(fitted):
    estimates = fitted.engine.estimates(fitted.gamma, fitted.responses)
    coefficients = fitted.engine.coefficients(fitted.gamma, fitted.responses)
    np.testing.assert_allclose(coefficients, estimates.coefficients, rtol=1e-12)
    coef = original_basis(fitted.rotation, coefficients)
    basis = orthonormal_contrasts(fitted.rotation, np.eye(fitted.X.shape[1]))
    cov = fitted.engine.covariance(fitted.gamma, basis) * fitted.variance[:, None, None]
    for g, y, V in fitted.genes():
        beta, Phi = oracle.gls(y, fitted.X, V)
        np.testing.assert_allclose(coef[g], beta, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(cov[g], Phi, rtol=1e-9, atol=1e-12)


def test_objective_differs_from_the_log_likelihood_by_its_constant(fitted):
    m = fitted.engine.dof
    constant = m * (np.log(2 * np.pi / m) + 1)
    constant += fitted.rotation.log_det_XtX if fitted.reml else 0.0
    for g, y, V in fitted.genes():
        expected = oracle.loglik(y, fitted.X, V, fitted.reml)
        assert -0.5 * (fitted.optimum.objective[g] + constant) == pytest.approx(expected, abs=1e-9)


def test_information_matches_the_dense_matrices(fitted):
    expected, observed = fitted.engine.information(fitted.gamma, fitted.variance, fitted.responses)
    for g, y, _ in fitted.genes():
        _, E, I_O = oracle.information(y, fitted.X, fitted.Z_blocks, fitted.theta[g], fitted.reml)
        np.testing.assert_allclose(expected[g], E, rtol=1e-9)
        np.testing.assert_allclose(observed[g], I_O, rtol=1e-9, atol=1e-10 * np.abs(I_O).max())


def test_variance_forms_match_kenward_and_rogers_matrices(fitted):
    basis = orthonormal_contrasts(fitted.rotation, np.eye(fitted.X.shape[1]))
    p = len(basis)
    left, right = np.tril_indices(p)
    forms = fitted.engine.variance_forms(
        fitted.gamma, fitted.variance, basis[:, left], basis[:, right]
    )
    for g, y, _ in fitted.genes():
        _, Phi, D, _ = oracle.kenward_roger(y, fitted.X, fitted.Z_blocks, fitted.theta[g])
        np.testing.assert_allclose(forms.value[g], Phi[left, right], rtol=1e-9, atol=1e-12)
        for k, Dk in enumerate(D):
            tolerance = 1e-9 * np.abs(Dk).max()
            np.testing.assert_allclose(forms.gradient[g, :, k], Dk[left, right], atol=tolerance)


def test_hessian_of_the_variance_is_the_derivative_of_its_gradient(fitted):
    basis = orthonormal_contrasts(fitted.rotation, np.eye(fitted.X.shape[1]))[:, [1, 4]]

    def gradient(theta):
        gamma, s0 = (theta[:-1] / theta[-1])[None], theta[-1:]
        return fitted.engine.variance_forms(gamma, s0, basis, basis).gradient[0].ravel()

    g = int(fitted.theta[:, 0].argmax())
    forms = fitted.engine.variance_forms(fitted.gamma[[g]], fitted.variance[[g]], basis, basis)
    numeric = approx_fprime(fitted.theta[g], gradient, 1e-6).reshape(forms.hessian[0].shape)
    np.testing.assert_allclose(forms.hessian[0], numeric, rtol=1e-4, atol=1e-5)


def test_blup_is_the_conditional_mean(fitted):
    blup = fitted.engine.blup(fitted.gamma, fitted.responses)
    for g, y, V in fitted.genes():
        beta, _ = oracle.gls(y, fitted.X, V)
        residual = np.linalg.solve(V, y - fitted.X @ beta)
        expected = np.concatenate(
            [s * Z.T @ residual for s, Z in zip(fitted.theta[g], fitted.Z_blocks, strict=False)]
        )
        np.testing.assert_allclose(blup[g], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("nonnegative", [True, False])
def test_spectral_equals_dense(reml, nonnegative):
    spectral, dense = (
        Fitted(engine, 1, reml, 1, nonnegative) for engine in (SpectralEngine, DenseEngine)
    )
    assert spectral.converged.all() and dense.converged.all()
    np.testing.assert_allclose(spectral.theta, dense.theta, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(spectral.optimum.objective, dense.optimum.objective, rtol=1e-12)
    if not nonnegative:
        assert (spectral.theta[:, 0] < 0).any()


@pytest.mark.parametrize("engine, components", ENGINES)
def test_unbounded_fits_solve_the_score_equations(engine, components):
    fitted = Fitted(engine, components, True, 1, nonnegative=False)
    assert fitted.converged.all()
    for g, y, V in fitted.genes():
        if np.linalg.eigvalsh(V)[0] <= 0:
            continue
        score, _, _ = oracle.information(y, fitted.X, fitted.Z_blocks, fitted.theta[g], True)
        assert np.abs(score).max() < 1e-6


@pytest.mark.parametrize("engine, components", ENGINES)
@pytest.mark.parametrize("first", [0.0, 0.01, 5.0])
def test_start_values_do_not_change_the_optimum(engine, components, first):
    free = fit_once(engine, components, True, 0)
    started = Fitted(engine, components, True, 0, start=np.array([first] * components + [1.0]))
    np.testing.assert_allclose(started.theta, free.theta, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("engine, components", ENGINES)
@pytest.mark.parametrize("reml", [True, False])
def test_derivatives_of_the_objective(engine, components, reml):
    fitted = fit_once(engine, components, reml, 0)
    gamma = np.array([0.13, 0.07, 0.05])[:components]
    gene = take(fitted.responses, np.array([3]))
    if engine is SpectralEngine:
        t2, e = gene.t**2, gene.e
        gradient, f2 = fitted.engine._slopes(gamma, t2, e)
        hessian = f2[:, None]

        def slope(g):
            return fitted.engine._slopes(g, t2, e)[0]

        def value(g):
            return fitted.engine._objective(g, t2, e)[0]
    else:
        d = fitted.engine.derivatives(gamma[None], gene)
        gradient, hessian = d.gradient[0], d.observed[0]

        def slope(g):
            return fitted.engine.derivatives(g[None], gene).gradient[0]

        def value(g):
            return fitted.engine.objective(g[None], gene)[0]

        assert d.f[0] == pytest.approx(value(gamma), rel=1e-13)

    np.testing.assert_allclose(gradient, approx_fprime(gamma, value, 1e-7), rtol=1e-4)
    numeric = np.array(
        [(slope(gamma + h) - slope(gamma - h)) / 2e-6 for h in 1e-6 * np.eye(components)]
    )
    np.testing.assert_allclose(hessian, numeric, rtol=1e-6)


def test_later_of_two_equal_columns_is_dependent():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 3)) * [1e-6, 1.0, 1e6]
    X = np.column_stack([X, X[:, 0], np.zeros(30), X[:, 1] + X[:, 2], rng.normal(size=30)])
    kept = independent_columns(X.T @ X)
    assert kept.tolist() == [True, True, True, False, False, False, True]


@pytest.mark.parametrize("reml", [True, False])
def test_derivatives_with_hardly_any_residual_variance(reml):
    """Value and slope of the objective keep their digits where γ is large and S singular."""
    rng = np.random.default_rng(0)
    inner = np.eye(8)[np.arange(40) % 8]
    outer = inner @ np.repeat(np.eye(4), 2, axis=0)
    X, Z = np.column_stack([np.ones(40), rng.normal(size=40)]), np.hstack([outer, inner])
    Y = Z @ rng.normal(size=(12, 3)) + 1e-4 * rng.normal(size=(40, 3))
    rotation = rotate_design(X.T @ X, Z.T @ X, Z.T @ Z, (4, 8), 40)
    engine = DenseEngine.build(rotation, reml, True)
    genes = engine.responses(Y.T @ X, Y.T @ Z, (Y**2).sum(0))
    gamma = np.tile([2e7, 1e8], (3, 1))
    found = engine.derivatives(gamma, genes)
    np.testing.assert_allclose(found.f, engine.objective(gamma, genes), rtol=1e-10)
    for k, step in enumerate(0.01 * np.diag(gamma[0])):
        rise = engine.objective(gamma + step, genes) - engine.objective(gamma - step, genes)
        # of log γ_k
        slope = found.gradient[:, k] * gamma[:, k]
        np.testing.assert_allclose(slope, rise / 0.02, rtol=1e-3)
