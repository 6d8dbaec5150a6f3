"""The rotated likelihood of several traits against dense matrices of all of them."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashmm.kernels.kronecker import (
    RotatedTraits,
    candidate_products,
    candidate_tests,
    covariates_beside,
    rotation_basis,
)
from flashmm.kernels.kronecker_search import Objective, climb


class Problem:
    """A small problem in raw and rotated form."""

    def __init__(self, seed=0, n=24, p=3, c=2, r=5, k=1, a=None, reml=True):
        rng = np.random.default_rng(seed)
        self.Y = rng.normal(size=(n, p))
        self.X = np.column_stack([np.ones(n), rng.normal(size=(n, c - 1))])
        self.G = rng.normal(size=(n, r))
        self.A = np.eye(p) + 0.3 * rng.normal(size=(p, p)) if a is None else a(p, rng)
        self.L0 = rng.normal(size=(p, k)) * 0.7
        self.L1 = np.tril(0.4 * rng.normal(size=(p, p)), -1) + np.diag(rng.uniform(0.3, 1.2, p))
        self.x = rng.normal(size=(n, 4))
        self.reml = reml
        self.T, values = rotation_basis(self.G, np.hstack([self.X, self.Y]))
        rotated = (self.T.T @ self.Y, self.T.T @ self.X)
        self.traits = RotatedTraits(values, *rotated, self.A, n, reml)
        self.state = self.traits.evaluate(self.L0, self.L1)

    @property
    def y(self):
        return self.Y.ravel("F")

    @property
    def M(self):
        return np.kron(self.A, self.X)

    def covariance(self, C0=None, C1=None):
        C0 = self.L0 @ self.L0.T if C0 is None else C0
        C1 = self.L1 @ self.L1.T if C1 is None else C1
        return np.kron(C0, self.G @ self.G.T) + np.kron(C1, np.eye(len(self.Y)))

    def loglik(self, C0=None, C1=None):
        return oracle.loglik(self.y, self.M, self.covariance(C0, C1), self.reml)


def common(p, rng):
    return np.column_stack([np.ones(p), np.arange(p)])


CASES = [
    {"reml": reml, "k": k, "a": a, "r": r}
    for reml in (False, True)
    for k in (0, 1, 2, 3)
    for a in (None, common)
    for r in (5, 40)
]


def said(options) -> str:
    """The case in words that are the same in every process."""
    return "-".join(f"{key}={getattr(value, '__name__', value)}" for key, value in options.items())


@pytest.mark.parametrize("options", CASES, ids=said)
def test_likelihood_and_effects_are_those_of_dense_matrices(options):
    problem = Problem(**options)
    state = problem.state
    np.testing.assert_allclose(state.loglik, problem.loglik(), rtol=1e-11)
    beta, Phi = oracle.gls(problem.y, problem.M, problem.covariance())
    np.testing.assert_allclose(state.B.ravel("F"), beta, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(state.H_inverse, Phi, rtol=1e-9, atol=1e-12)
    log_det = np.linalg.slogdet(problem.covariance())[1]
    np.testing.assert_allclose(state.log_det, log_det, rtol=1e-10)


@pytest.mark.parametrize("options", CASES, ids=said)
def test_gradient_is_that_of_finite_differences(options):
    problem = Problem(seed=1, **options)
    for which, exact in enumerate(problem.state.gradients):
        matrices = [problem.L0 @ problem.L0.T, problem.L1 @ problem.L1.T]

        def loglik(flat, which=which, matrices=matrices):
            moved = list(matrices)
            half = flat.reshape(3, 3)
            moved[which] = (half + half.T) / 2
            return problem.loglik(*moved)

        x = matrices[which].ravel()
        near, far = (
            np.array([loglik(x + h) - loglik(x - h) for h in step * np.eye(9)])
            for step in (1e-5, 2e-5)
        )
        numeric = (8 * near - far) / 12e-5  # of fourth order
        scale = np.abs(exact).max()
        np.testing.assert_allclose(exact.ravel() / scale, numeric / scale, atol=1e-7)


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
@pytest.mark.parametrize("reml", [False, True])
def test_gradient_in_the_parameters_of_the_search(rank, reml):
    problem = Problem(seed=2, k=rank, reml=reml)
    objective = Objective(problem.traits, rank, 1e-8)
    rng = np.random.default_rng(3)
    x = objective.pack(problem.L0, problem.L1 + 0.1 * rng.normal(size=(3, 3)))
    exact = objective.gradient(x, objective.state(x))
    numeric = [
        (objective.state(x + h).loglik - objective.state(x - h).loglik) / 2e-5
        for h in 1e-5 * np.eye(len(x))
    ]
    np.testing.assert_allclose(exact, numeric, rtol=1e-6, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3), reml=st.booleans())
def test_likelihood_of_turned_and_scaled_traits(seed, scale, reml):
    """Y → Y S' with A → S A, L → S L moves the log-likelihood by the volume of S."""
    problem = Problem(seed=seed, reml=reml)
    S = np.diag([1.0, scale, 1.0]) @ np.array([[1.0, 0, 0], [0.5, 1, 0], [0.2, -0.3, 1]])
    traits = RotatedTraits(
        problem.traits.values,
        problem.traits.Y @ S.T,
        problem.traits.X,
        S @ problem.A,
        problem.traits.n_subjects,
        reml,
    )
    state = traits.evaluate(S @ problem.L0, np.linalg.cholesky(S @ problem.L1 @ (S @ problem.L1).T))
    moved = problem.state.loglik - len(problem.Y) * np.log(scale)
    np.testing.assert_allclose(state.loglik, moved, rtol=1e-9)
    np.testing.assert_allclose(state.B, problem.state.B, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("a", [None, common], ids=["square", "common"])
@pytest.mark.parametrize("r", [5, 40])
def test_candidates_are_columns_of_the_mean(size, a, r):
    problem = Problem(seed=4, a=a, r=r, k=2)
    A1 = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, -2.0]])
    tests = candidate_tests(
        problem.state, candidate_products(problem.state, problem.T, problem.x, size), A1
    )
    beside = covariates_beside(problem.state, tests, np.eye(problem.M.shape[1]))
    K = problem.covariance()

    def rss(M):
        residual = problem.y - M @ oracle.gls(problem.y, M, K)[0]
        return residual @ np.linalg.solve(K, residual)

    assert tests.estimable.tolist() == [True] * (4 // size)
    for i in range(4 // size):
        M = np.hstack([problem.M, np.kron(A1, problem.x[:, i * size : (i + 1) * size])])
        beta, Phi = oracle.gls(problem.y, M, K)
        old = problem.M.shape[1]
        np.testing.assert_allclose(tests.coef[i], beta[old:], rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(tests.cov[i], Phi[old:, old:], rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(tests.reduction[i], rss(problem.M) - rss(M), rtol=1e-7)
        np.testing.assert_allclose(beside.coef[i], beta[:old], rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(beside.variance[i], np.diag(Phi)[:old], rtol=1e-8)


def test_candidate_that_the_covariates_explain_is_not_estimable():
    problem = Problem()
    x = np.column_stack([problem.x[:, 0], problem.X @ [2.0, -1.0], np.zeros(24)])
    tests = candidate_tests(
        problem.state, candidate_products(problem.state, problem.T, x, 1), np.eye(3)
    )
    assert tests.estimable.tolist() == [True, False, False]
    assert np.isnan(tests.coef[1:]).all() and np.isnan(tests.reduction[1:]).all()


@pytest.mark.parametrize("reml", [False, True])
def test_equal_columns_do_not_trap_the_search_in_rank_one(reml):
    problem = Problem(seed=5, n=60, r=12, k=2, reml=reml)
    rng = np.random.default_rng(6)
    effects = problem.G @ rng.normal(size=(12, 2)) @ problem.L0.T
    noise = rng.normal(size=problem.Y.shape) @ problem.L1.T
    Y = effects + noise
    T, values = rotation_basis(problem.G, np.hstack([problem.X, Y]))
    traits = RotatedTraits(values, T.T @ Y, T.T @ problem.X, problem.A, 60, reml)
    one, two = (climb(traits, rank, 3, np.random.default_rng(0)) for rank in (1, 2))
    assert two.state.loglik > one.state.loglik + 5
    # from two equal columns, from rank one's own optimum with a column of zeros, and from nothing
    trapped = [one.state.L0 @ [[1.0, 1.0]] / np.sqrt(2), one.state.L0 @ [[1.0, 0.0]], one.state.L0]
    for L0 in (*trapped[:2], 0 * trapped[0]):
        found = climb(traits, 2, 1, np.random.default_rng(0), (L0, one.state.L1))
        np.testing.assert_allclose(found.state.loglik, two.state.loglik, rtol=1e-10)
        assert found.converged


def test_search_ends_at_a_maximum():
    problem = Problem(seed=7, n=60, r=12, k=2)
    found = climb(problem.traits, 2, 4, np.random.default_rng(0))
    assert found.converged and found.gradient_norm < 1e-8
    rng = np.random.default_rng(8)
    for size in (1e-3, 1e-2, 1e-1):
        for _ in range(10):
            moved = found.state.L1 + size * np.tril(rng.normal(size=(3, 3)))
            state = problem.traits.evaluate(found.state.L0 + size * rng.normal(size=(3, 2)), moved)
            assert state.loglik < found.state.loglik
