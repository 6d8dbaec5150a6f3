"""Covariances of two random effects against dense formulas of the cells."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from scipy import optimize

import flashmm as fm
from flashmm.kernels.random_covariance import RandomCovariance, at_boundary, find_pairs

GENES = 6


def problem(seed=0, subjects=9, shift=0.0, sites=0, genes=GENES):
    """Y, X and the blocks of Z of subjects at some times, intercepts and slopes correlated."""
    rng = np.random.default_rng(seed)
    subject = np.repeat(np.arange(subjects), 6)
    time = np.tile(np.arange(6.0), subjects)
    kept = rng.random(len(subject)) < 0.85
    subject, time = subject[kept], time[kept]
    X = np.column_stack([np.ones(len(time)), time + shift, subject % 2])
    intercepts = np.eye(subjects)[subject]
    Z = [intercepts, intercepts * (time + shift)[:, None]]
    Y = rng.normal(size=(len(time), genes))
    for g, r in enumerate(np.linspace(-0.9, 1.0, genes)):
        first = rng.normal(size=subjects)
        second = r * first + np.sqrt(1 - r**2) * rng.normal(size=subjects)
        Y[:, g] += first[subject] + 0.5 * second[subject] * time
    if sites:
        site = np.eye(sites)[rng.integers(0, sites, len(time))]
        Y += 0.7 * site @ rng.normal(size=(sites, genes))
        Z.append(site)
    return Y, X, Z


def statistics(Y, X, Z):
    sizes = [Z[0].shape[1], Z[1].shape[1], 0, *(z.shape[1] for z in Z[2:])]
    return fm.summary_statistics_from_matrices(Y, X, np.hstack(Z), sizes)


def derivatives(Z):
    """∂V/∂θ of the components, in the order of the statistics, and of the residual."""
    first, second, *others = Z
    crossed = first @ second.T + second @ first.T
    outer = [z @ z.T for z in (first, second)]
    return [*outer, crossed, *(z @ z.T for z in others), np.eye(len(first))]


def covariance(Z, theta):
    return sum(t * D for t, D in zip(theta, derivatives(Z), strict=True))


@pytest.fixture(scope="module", params=[("REML", 0), ("ML", 0), ("REML", 4)])
def fitted(request):
    method, sites = request.param
    Y, X, Z = problem(seed=3, sites=sites)
    return (Y, X, Z), fm.fit_lmm(statistics(Y, X, Z), method)


def test_log_likelihood_is_that_of_the_cells(fitted):
    (Y, X, Z), fit = fitted
    assert set(fit.status) == {"ok", "boundary"}
    for g, theta in enumerate(fit.theta):
        reml = fit.options.method == "REML"
        expected = oracle.loglik(Y[:, g], X, covariance(Z, theta), reml)
        assert fit.loglik[g] == pytest.approx(expected, abs=1e-9)


def test_no_point_is_better(fitted):
    """Nelder and Mead's search in the Cholesky factor from the estimate and from elsewhere."""
    (Y, X, Z), fit = fitted
    reml, others = fit.options.method == "REML", fit.theta.shape[1] - 4

    def theta_of(x):
        pair = [x[0] ** 2, x[1] ** 2 + x[2] ** 2, x[0] * x[2]]
        return np.r_[pair, np.exp(x[3:])]

    for g, start in ((0, [0.8, 0.5, -0.2]), (GENES - 1, [0.5, 0.1, 0.3])):
        found = optimize.minimize(
            lambda x, g=g: -oracle.loglik(Y[:, g], X, covariance(Z, theta_of(x)), reml),
            [*start, *np.zeros(others + 1)],
            method="Nelder-Mead",
            options={"maxiter": 120},
        )
        assert fit.loglik[g] > -found.fun - 1e-6


def test_score_and_information(fitted):
    (Y, X, Z), fit = fitted
    reml, dV = fit.options.method == "REML", derivatives(Z)
    engine, responses = fit.model.engine, fit.model.responses(fit.stats, 0, GENES)
    rng = np.random.default_rng(1)
    gamma = np.abs(rng.normal(size=(GENES, len(dV) - 1))) + 0.1
    gamma[:, 2] = 0.6 * np.sqrt(gamma[:, 0] * gamma[:, 1]) * np.linspace(-1, 1, GENES)
    variance = np.linspace(0.5, 2.0, GENES)
    score = engine.score(gamma, variance, responses)
    expected, observed = engine.information(gamma, variance, responses)
    for g in range(GENES):
        V = covariance(Z, np.append(gamma[g], 1.0) * variance[g])
        P = oracle.projection(X, V)
        T, Py = P if reml else np.linalg.inv(V), P @ Y[:, g]
        slope = [(Py @ D @ Py - np.trace(T @ D)) / 2 for D in dV]
        traces = np.array([[np.trace(T @ A @ T @ B) for B in dV] for A in dV])
        squares = np.array([[Py @ A @ P @ B @ Py for B in dV] for A in dV])
        np.testing.assert_allclose(score[g], slope, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(expected[g], traces / 2, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(observed[g], squares - traces / 2, rtol=1e-7, atol=1e-8)


def test_score_is_zero_inside(fitted):
    _, fit = fitted
    inside = fit.status == "ok"
    assert inside.sum() > 2
    scaled = fit.score() * np.abs(fit.theta)
    assert np.abs(scaled[inside]).max() < 1e-6


def test_variance_forms_and_coefficients(fitted):
    (Y, X, Z), fit = fitted
    dV, eye = derivatives(Z), np.eye(X.shape[1])
    for block in fit.test_blocks():
        forms = block.variance_forms(eye, eye)
        for g in range(GENES):
            V = covariance(Z, fit.theta[g])
            beta, Phi = oracle.gls(Y[:, g], X, V)
            np.testing.assert_allclose(fit.coef[g], beta, rtol=1e-8)
            np.testing.assert_allclose(fit.cov[g], Phi, rtol=1e-8, atol=1e-10)
            Vi = np.linalg.inv(V)
            slopes = [Phi @ X.T @ Vi @ D @ Vi @ X @ Phi for D in dV]
            np.testing.assert_allclose(
                forms.gradient[g], np.array([np.diag(s) for s in slopes]).T, rtol=1e-7, atol=1e-10
            )
            P = oracle.projection(X, V)
            second = np.array(
                [[-2 * np.diag(Phi @ X.T @ Vi @ A @ P @ B @ Vi @ X @ Phi) for B in dV] for A in dV]
            ).transpose(2, 0, 1)
            symmetric = (second + second.swapaxes(1, 2)) / 2
            np.testing.assert_allclose(forms.hessian[g], symmetric, rtol=1e-6, atol=1e-8)


def test_predicted_effects(fitted):
    (Y, X, Z), fit = fitted
    blup = fit.blup()
    for g, theta in enumerate(fit.theta):
        first, second, *others = Z
        G = np.hstack([theta[0] * first + theta[2] * second, theta[2] * first + theta[1] * second])
        G = np.hstack([G, *(t * z for t, z in zip(theta[3:-1], others, strict=True))])
        expected = G.T @ oracle.projection(X, covariance(Z, theta)) @ Y[:, g]
        np.testing.assert_allclose(blup[g], expected, rtol=1e-7, atol=1e-9)


def test_a_correlation_of_one_is_at_the_boundary():
    Y, X, Z = problem(seed=3)
    fit = fm.fit_lmm(statistics(Y, X, Z))
    a, b, c = fit.theta[:, :3].T
    correlation = c / np.sqrt(a * b)
    np.testing.assert_array_equal(fit.status == "boundary", np.abs(correlation) > 1 - 1e-9)
    assert (np.abs(correlation) <= 1 + 1e-12).all()
    assert (fit.status == "boundary").any()


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_the_origin_of_the_slope_changes_nothing(method):
    """(1 + t | s) and (1 + t + 100 | s) are one model."""
    near, far = (
        fm.fit_lmm(statistics(*problem(seed=5, shift=s, genes=30)), method) for s in (0.0, 100.0)
    )
    assert set(near.status) <= {"ok", "boundary"}
    np.testing.assert_array_equal(near.status, far.status)
    np.testing.assert_allclose(near.loglik, far.loglik, atol=1e-6)
    np.testing.assert_allclose(near.theta[:, 1], far.theta[:, 1], rtol=1e-4, atol=1e-5)


def test_genes_without_effects_end_at_zero():
    Y, X, Z = problem(genes=1)
    rng = np.random.default_rng(0)
    # no subject differs from its line in more than its residuals
    fit = fm.fit_lmm(statistics(rng.normal(size=(len(Y), 40)), X, Z))
    assert set(fit.status) <= {"ok", "boundary"}
    assert (fit.theta[:, :2] >= 0).all()
    plain = fit.theta[:, 1] == 0
    assert plain.any()
    assert (fit.theta[plain, 2] == 0).all()


def test_an_unbounded_pair_has_no_worse_likelihood():
    data = statistics(*problem(seed=3))
    bounded, free = fm.fit_lmm(data), fm.fit_lmm(data, nonnegative=False)
    fine = (free.status == "ok") & (bounded.status == "ok")
    assert fine.any()
    np.testing.assert_allclose(free.theta[fine], bounded.theta[fine], rtol=1e-5)
    converged = free.status != "not_converged"
    assert (free.loglik >= bounded.loglik - 1e-8)[converged].all()


def test_start_values():
    data = statistics(*problem(seed=3))
    found = fm.fit_lmm(data)
    again = fm.fit_lmm(data, start=(1.0, 0.25, -0.1, 1.0))
    np.testing.assert_allclose(again.loglik, found.loglik, atol=1e-8)
    with pytest.raises(fm.InputError, match="not be negative"):
        fm.fit_lmm(data, start=(-1.0, 0.25, 0.1, 1.0))


class TestMatrices:
    random = RandomCovariance((3, 3, 0, 2), (0.7,))

    def test_factors_are_the_other_way_round(self):
        rng = np.random.default_rng(0)
        gamma = rng.uniform(0.5, 2.0, size=(20, 4))
        gamma[:, 2] = rng.uniform(-0.4, 0.4, 20)
        x = self.random.factors(gamma, np.full(4, 1e-6))
        np.testing.assert_allclose(self.random.from_factors(x), gamma)

    def test_columns_are_swept_with_their_partners(self):
        for width in (1, 2, 3, 5):
            swept = self.random.sweeps(width)
            np.testing.assert_array_equal(np.sort(np.concatenate(swept)), np.arange(8))
            for part in swept:
                assert set(self.random.partner[part]) == set(part)

    def test_grid_is_positive_definite(self):
        grid = self.random.start_grid(np.array([1.0, 2.0, 1.0, 3.0])).points
        assert (grid[..., 0] * grid[..., 1] > grid[..., 2] ** 2).all()

    def test_grid_has_more_correlations_with_few_levels(self):
        few, many = (RandomCovariance((q, q, 0), (0.7,)) for q in (16, 17))
        few, many = (r.start_grid(np.array([1.0, 2.0, 1.0])).points for r in (few, many))
        assert few.shape == (8, 8, 5, 3) and many.shape == (8, 8, 3, 3)

    def test_traces_of_one_matrix(self):
        M = np.cov(np.random.default_rng(0).normal(size=(8, 20)))
        np.testing.assert_allclose(self.random.shared_traces(M), self.random.traces(M[None])[0])

    def test_boundary(self):
        gamma = np.array([[1, 4, 2, 1], [1, 4, 1.9, 1], [0, 4, 0, 1], [1, 4, 0, 0]], dtype=float)
        np.testing.assert_array_equal(at_boundary(gamma, (3, 3, 0, 2)), [True, False, True, True])

    @pytest.mark.parametrize("sizes", [(0,), (3, 0), (3, 2, 0), (3, 3, 0, 0), (3, 0, 3)])
    def test_what_is_no_pair(self, sizes):
        with pytest.raises(ValueError, match="does not follow two"):
            find_pairs(sizes)


def nearly_alike(genes=300, subjects=30):
    """Subjects that differ in their slopes alone, seen from the middle of the times."""
    rng = np.random.default_rng(7)
    subject, time = (
        np.repeat(np.arange(subjects), 8),
        np.tile(np.repeat(np.arange(4.0), 2), subjects),
    )
    X = np.column_stack([np.ones(len(time)), time])
    first = np.eye(subjects)[subject]
    slopes = 0.2 * rng.normal(size=(subjects, genes))
    Y = rng.normal(size=(len(time), genes)) + slopes[subject] * (time - 1.5)[:, None]
    return statistics(Y, X, [first, first * time[:, None]])


def test_a_first_variance_near_zero_is_found():
    """Where intercepts hardly vary, factors are taken the other way round."""
    fit = fm.fit_lmm(nearly_alike())
    assert set(fit.status) == {"ok", "boundary"}
    assert fit.n_iter.max() > 100
    one = np.flatnonzero(fit.n_iter > 100)
    a, b, c = fit.theta[one, :3].T
    np.testing.assert_allclose(np.abs(c), np.sqrt(a * b), rtol=1e-9)
    assert (fit.status[one] == "boundary").all()
