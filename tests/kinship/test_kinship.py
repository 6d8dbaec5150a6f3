"""Kinship models: dense oracles, the core model, boundaries, missing values, names, bad input."""

from __future__ import annotations

import warnings

import numpy as np
import oracle
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import chi2

import flashmm as fm
from flashmm.kernels.kinship import KinshipEngine, rotate_factor, rotate_matrix, rotate_traits

METHODS = ["REML", "ML"]
TESTS = [
    ("REML", "kenward-roger"),
    *((m, d) for m in METHODS for d in ("satterthwaite", "residual")),
]


def related(n=40, markers=25, seed=0, ridge=0.2):
    """Kinship of full rank with mean diagonal one."""
    Z = np.random.default_rng(seed).normal(size=(n, markers))
    K = Z @ Z.T / markers + ridge * np.eye(n)
    return K / np.diag(K).mean()


def problem(n=40, seed=4, h2=(0.0, 0.3, 0.7, 1.0, 0.5)):
    rng = np.random.default_rng(seed)
    K = related(n, seed=seed)
    X = np.column_stack([np.ones(n), rng.normal(size=n), rng.integers(0, 2, n)])
    L = np.linalg.cholesky(K)
    share = np.array(h2)
    noise = rng.normal(size=(2, n, len(share)))
    Y = X @ rng.normal(size=(3, len(share))) + 2.0 * (
        np.sqrt(share) * (L @ noise[0]) + np.sqrt(1 - share) * noise[1]
    )
    return K, Y, X


def low_rank(n=40, r=4, seed=3):
    """Factor of a kinship of rank r with mean diagonal one."""
    G = np.random.default_rng(seed).normal(size=(n, r))
    return G / np.sqrt((G**2).sum(1).mean())


def dense(K, theta):
    return theta[0] * K + theta[1] * np.eye(len(K))


def blocks(K):
    """Root of K, as the oracle takes components."""
    values, vectors = np.linalg.eigh(K)
    return [vectors * np.sqrt(np.maximum(values, 0))]


def fit_of(K, Y, X, method="REML", **options):
    return fm.fit_kinship_lmm(fm.rotate_by_kinship(K, Y, X, **options), method)


@pytest.fixture(scope="module", params=METHODS)
def fitted(request):
    K, Y, X = problem()
    return K, Y, X, fit_of(K, Y, X, request.param)


class TestOracle:
    def test_likelihood_and_coefficients(self, fitted):
        K, Y, X, fit = fitted
        for i, theta in enumerate(fit.theta):
            V = dense(K, theta)
            expected = oracle.loglik(Y[:, i], X, V, fit.options.method == "REML")
            assert fit.loglik[i] == pytest.approx(expected, abs=1e-9)
            beta, Phi = oracle.gls(Y[:, i], X, V)
            np.testing.assert_allclose(fit.coef[i], beta, rtol=1e-9)
            np.testing.assert_allclose(fit.cov[i], Phi, rtol=1e-8)

    def test_nothing_is_higher(self, fitted):
        K, Y, X, fit = fitted
        reml = fit.options.method == "REML"
        for i in range(Y.shape[1]):

            def deviance(h, i=i):
                # total variance at its best: its score is a root of one equation, solved by search
                V = h * K + (1 - h) * np.eye(len(K))
                r = Y[:, i] - X @ oracle.gls(Y[:, i], X, V)[0]
                s = r @ np.linalg.solve(V, r) / (len(K) - (X.shape[1] if reml else 0))
                return -oracle.loglik(Y[:, i], X, s * V, reml)

            best = minimize_scalar(deviance, bounds=(0, 1), method="bounded")
            assert fit.loglik[i] >= -best.fun - 1e-9
            assert fit.loglik[i] == pytest.approx(-deviance(fit.h2[i]), abs=1e-9)

    def test_both_boundaries_are_reached(self, fitted):
        *_, fit = fitted
        assert fit.h2[0] == 0 and fit.theta[0, 0] == 0
        assert fit.h2[3] == 1 and fit.theta[3, 1] == 0
        assert (fit.status[[0, 3]] == "boundary").all()
        assert (fit.decrement < 1e-16).all()

    def test_score_and_information(self, fitted):
        K, Y, X, fit = fitted
        reml = fit.options.method == "REML"
        score = fit.score()
        for i, theta in enumerate(fit.theta):
            expected = oracle.information(Y[:, i], X, blocks(K), theta, reml)
            np.testing.assert_allclose(score[i], expected[0], atol=1e-7)
            np.testing.assert_allclose(fit.fisher_information[i], expected[1], rtol=1e-8)
            observed = next(
                part.observed_information()[list(part.index).index(i)]
                for part in fit.test_blocks()
                if i in part.index
            )
            np.testing.assert_allclose(observed, expected[2], rtol=1e-6, atol=1e-8)

    def test_genetic_values(self, fitted):
        K, Y, X, fit = fitted
        for i, theta in enumerate(fit.theta):
            residual = Y[:, i] - X @ fit.coef[i]
            expected = theta[0] * K @ np.linalg.solve(dense(K, theta), residual)
            np.testing.assert_allclose(fit.blup()[i], expected, atol=1e-9)

    def test_kenward_roger_matrices(self):
        K, Y, X = problem()
        fit = fit_of(K, Y, X)
        table = fm.contrast_tests(fit, np.eye(3)[:, 1:])
        for i, theta in enumerate(fit.theta):
            adjusted, Phi, slopes, W = oracle.kenward_roger(Y[:, i], X, blocks(K), theta)
            np.testing.assert_allclose(
                table.std_error[i], np.sqrt(np.diag(adjusted)[1:]), rtol=1e-8
            )
            for j in (1, 2):
                g = np.array([slope[j, j] for slope in slopes])
                assert table.df[i, j - 1] == pytest.approx(
                    2 * Phi[j, j] ** 2 / (g @ W @ g), rel=1e-7
                )

    def test_standard_error_of_h2_is_the_delta_method(self, fitted):
        *_, fit = fitted
        for theta, cov, se in zip(fit.theta, fit.theta_cov, fit.h2_std_error, strict=True):
            slope = np.array([theta[1], -theta[0]]) / theta.sum() ** 2
            assert se == pytest.approx(np.sqrt(slope @ cov @ slope), rel=1e-8)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("upper", [False, True])
def test_slopes_are_finite_differences(reml, upper):
    K, Y, X = problem()
    design = rotate_matrix(K, X)
    t2 = rotate_traits(design, Y).t ** 2
    engine = KinshipEngine(design, reml)

    def f(x):
        h = 1 - x if upper else x
        return engine.profile(np.array([h]), np.array([1 - h]), t2)[:, 0]

    for x in (0.1, 0.45, 0.8):
        at, step = np.full(len(t2), x), 1e-5
        first, second = engine.slope(at, t2, upper)
        np.testing.assert_allclose(first, (f(x + step) - f(x - step)) / (2 * step), rtol=1e-6)
        before, after = (engine.slope(at + d, t2, upper)[0] for d in (-step, step))
        np.testing.assert_allclose(second, (after - before) / (2 * step), rtol=1e-6)


@pytest.mark.parametrize("as_factor", [False, True], ids=["matrix", "factor"])
@pytest.mark.parametrize("components", [1.0, 50.0])
@pytest.mark.parametrize(("method", "ddf"), TESTS)
def test_groups_of_cells_are_a_kinship(as_factor, components, method, ddf):
    """K = ZZ' is the core model with one component, at any scale of Z."""
    Y, X, (Z,) = oracle.problem(3)
    Z = Z * components
    stats = fm.summary_statistics_from_matrices(Y, X, Z, component_sizes=[Z.shape[1]])
    core = fm.fit_lmm(stats, method)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fm.FlashmmWarning)  # about the mean diagonal
        fit = fit_of(None if as_factor else Z @ Z.T, Y, X, method, G=Z if as_factor else None)
    for name in ("coef", "theta", "loglik", "cov", "fisher_information"):
        expected = getattr(core, name)
        np.testing.assert_allclose(
            getattr(fit, name), expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max()
        )
    np.testing.assert_array_equal(fit.status, core.status)
    np.testing.assert_allclose(fit.blup(), core.blup() @ Z.T, atol=1e-9)
    contrasts = {"one": np.eye(6)[4], "joint": np.eye(6)[:, [4, 5]]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fm.FlashmmWarning)  # about df that count cells
        ours, theirs = (fm.contrast_tests(x, contrasts, ddf) for x in (fit, core))
    for name in ("estimate", "std_error", "statistic", "df", "p_value"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-8)


def test_factor_is_its_matrix():
    _, Y, X = problem()
    G = low_rank(r=6)
    for method in METHODS:
        low, full = fit_of(None, Y, X, method, G=G), fit_of(G @ G.T, Y, X, method)
        for name in ("coef", "theta", "loglik", "cov"):
            np.testing.assert_allclose(
                getattr(low, name), getattr(full, name), rtol=1e-8, atol=1e-10
            )
        V = dense(G @ G.T, low.theta[1])
        expected = oracle.loglik(Y[:, 1], X, V, method == "REML")
        assert low.loglik[1] == pytest.approx(expected, abs=1e-9)


def test_wide_factor_is_its_matrix():
    _, Y, X = problem()
    G = low_rank(r=100)
    np.testing.assert_allclose(
        fit_of(None, Y, X, G=G).loglik, fit_of(G @ G.T, Y, X).loglik, rtol=1e-12
    )


class TestProfile:
    def test_is_the_likelihood_held_at_h2(self, fitted):
        K, Y, X, fit = fitted
        grid = np.array([0.0, 0.2, 0.9, 1.0])
        profile = fit.profile_loglik(grid)
        for j, h2 in enumerate(grid):
            held = fm.fit_kinship_lmm(fit.rotation, fit.options.method, h2=h2)
            np.testing.assert_allclose(profile[:, j], held.loglik, rtol=1e-12)
            V = dense(K, held.theta[1])
            reml = fit.options.method == "REML"
            assert held.loglik[1] == pytest.approx(oracle.loglik(Y[:, 1], X, V, reml), abs=1e-9)

    def test_constants_are_one_number(self, fitted):
        *_, fit = fitted
        grid = np.linspace(0, 1, 5)
        gap = fit.profile_loglik(grid) - fit.profile_loglik(grid, constants=False)
        np.testing.assert_allclose(gap, fit.loglik[0] - fit.loglik_without_constants[0], rtol=1e-10)

    def test_interval_ends_where_the_likelihood_has_dropped(self, fitted):
        *_, fit = fitted
        drop = chi2.ppf(0.9, 1) / 2
        for i, (low, high) in enumerate(fit.confidence_interval(0.9)):
            assert 0 <= low <= fit.h2[i] <= high <= 1

            def gap(h, i=i):
                return fit.profile_loglik(h)[i, 0] - fit.loglik[i] + drop

            for end, bound in ((low, 0.0), (high, 1.0)):
                if end == bound:
                    assert gap(bound) >= -1e-9
                else:
                    assert end == pytest.approx(brentq(gap, fit.h2[i], bound, xtol=1e-14), abs=1e-9)

    def test_frame(self, fitted):
        *_, fit = fitted
        frame = fit.to_frame()
        assert list(frame.trait) == [f"trait{i + 1}" for i in range(5)]
        assert ((frame.h2_lower <= frame.h2) & (frame.h2 <= frame.h2_upper)).all()
        assert "5 traits" in repr(fit) and "5 traits" in repr(fit.rotation)


def centred_problem():
    K, Y, X = problem()
    C = (np.eye(len(K)) - 1 / len(K)) / np.sqrt(np.diag(K).mean() * (1 - 1 / len(K)))
    return C @ K @ C, Y, X - X.mean(0) + [1, 0, 0]


class TestSingularKinship:
    """A centred kinship has no variance in the direction of the intercept."""

    def test_reml_reaches_one(self):
        fit = fit_of(*centred_problem())
        assert fit.h2[3] == 1 and np.isfinite(fit.loglik).all()
        assert fit.cov[3, 0, 0] == pytest.approx(0, abs=1e-15)

    def test_ml_says_that_it_has_no_maximum(self):
        with pytest.warns(fm.FlashmmWarning, match="rises without bound towards h2 = 1"):
            fit = fit_of(*centred_problem(), "ML")
        inner = fit.status != "unbounded"
        assert 0 < inner.sum() < len(inner)
        assert np.isnan(fit.h2[~inner]).all() and (fit.h2[inner] < 1).all()
        assert (np.abs(fit.score()[fit.status == "ok"]) < 1e-6).all()
        assert (fit.profile_loglik(1.0) == np.inf).all()

    @pytest.mark.parametrize("ddf", ["kenward-roger", "satterthwaite", "residual"])
    def test_contrast_without_variance_has_no_test(self, ddf):
        fit = fit_of(*centred_problem())
        contrasts = {"mean": [1, 0, 0], "slope": [0, 1, 0], "joint": np.eye(3)[:, :2]}
        table = fm.contrast_tests(fit, contrasts, ddf)
        assert list(table.status[3]) == ["zero_variance", "boundary", "zero_variance"]
        assert np.isnan(table.p_value[3, [0, 2]]).all() and table.p_value[3, 1] > 0
        assert np.isfinite(table.p_value[1]).all()

    def test_low_rank_never_reaches_one(self):
        _, Y, X = problem()
        G = low_rank()
        fit = fit_of(None, Y, X, G=G)
        assert (fit.h2 < 1).all()
        assert (fit.profile_loglik(1.0) == -np.inf).all()

    def test_nothing_left_outside_a_low_rank_kinship(self):
        _, Y, X = problem()
        G = low_rank()
        Y[:, 1] = X[:, 1] + G @ [1.0, 2, 3, 4]
        assert list(fit_of(None, Y, X, G=G).status)[1] == "no_within_variance"


class TestMissing:
    def test_each_pattern_is_fitted_as_if_alone(self):
        K, Y, X = problem()
        Y[:3, 1] = np.nan
        Y[[5, 9], 2] = Y[[5, 9], 4] = np.nan
        for method in METHODS:
            fit = fit_of(K, Y, X, method)
            assert len(fit.rotation.blocks) == 3
            assert list(fit.rotation.n_values) == [40, 37, 38, 40, 38]
            table = fm.contrast_tests(fit, ["x2", "x3"])
            for i in range(Y.shape[1]):
                there = ~np.isnan(Y[:, i])
                alone = fit_of(K[np.ix_(there, there)], Y[there, i], X[there], method)
                np.testing.assert_allclose(fit.coef[i], alone.coef[0], rtol=1e-9)
                np.testing.assert_allclose(fit.theta[i], alone.theta[0], rtol=1e-8, atol=1e-12)
                assert fit.df_residual[i] == there.sum() - 3
                one = fm.contrast_tests(alone, ["x2", "x3"])
                np.testing.assert_allclose(table.p_value[i], one.p_value[0], rtol=1e-6)
                np.testing.assert_allclose(fit.blup()[i, there], alone.blup()[0], atol=1e-8)
                assert np.isnan(fit.blup()[i, ~there]).all()

    def test_factor(self):
        _, Y, X = problem()
        G = low_rank()
        Y[:3, 1] = np.nan
        alone = fit_of(None, Y[3:, 1], X[3:], G=G[3:])
        np.testing.assert_allclose(fit_of(None, Y, X, G=G).theta[1], alone.theta[0], rtol=1e-9)

    def test_missing_covariates_are_counted(self):
        K, Y, X = problem()
        X[[2, 7], 1] = np.nan
        with pytest.warns(fm.FlashmmWarning, match="2 of 40 individuals have a missing covariate"):
            rotation = fm.rotate_by_kinship(K, Y, X)
        there = np.delete(np.arange(40), [2, 7])
        alone = fit_of(K[np.ix_(there, there)], Y[there], X[there])
        np.testing.assert_allclose(fm.fit_kinship_lmm(rotation).theta, alone.theta, rtol=1e-8)
        assert list(rotation.individuals) == list(there)

    def test_odd_traits_have_a_status_and_disturb_nobody(self):
        K, Y, X = problem()
        odd = np.column_stack(
            [
                np.zeros(40),
                X @ [1.0, 2, 3],
                np.full(40, np.nan),
                np.where(np.arange(40) < 4, Y[:, 1], np.nan),
                np.full(40, 7.0),
            ]
        )
        fit = fit_of(K, np.hstack([odd, Y]), X)
        assert list(fit.status[:5]) == [
            "all_zero",
            "perfect_fit",
            "too_few_values",
            "too_few_values",
            "perfect_fit",
        ]
        assert np.isnan(fit.theta[:5]).all() and np.isnan(fit.confidence_interval()[:5]).all()
        np.testing.assert_allclose(fit.theta[5:], fit_of(K, Y, X).theta, rtol=1e-10)
        table = fm.contrast_tests(fit)
        assert (table.status[:5] == fit.status[:5, None]).all()

    def test_covariate_that_does_not_vary_where_there_are_values(self):
        K, Y, X = problem()
        Y[X[:, 2] == 1, 0] = np.nan
        with pytest.warns(fm.FlashmmWarning, match="'x3' cannot be estimated for 1 traits"):
            fit = fit_of(K, Y, X)
        assert np.isnan(fit.coef[0, 2]) and np.isfinite(fit.coef[1:]).all()
        table = fm.contrast_tests(fit, ["x2", "x3"])
        assert list(table.status[0]) == [fit.status[0], "not_estimable"]
        assert np.isfinite(table.p_value[0, 0]) and np.isnan(table.p_value[0, 1])

    def test_unrelated_individuals_among_those_with_values(self):
        families = np.repeat(np.arange(10), 4)
        K = np.where(families[:, None] == families, 0.5, 0.0) + 0.5 * np.eye(40)
        _, Y, X = problem()
        Y[np.arange(40) % 4 > 0, 0] = np.nan
        fit = fit_of(K, Y, X)
        assert fit.status[0] == "not_identifiable" and fit.status[1] in ("ok", "boundary")

    def test_many_patterns_are_said(self):
        K, Y, X = problem(h2=(0.5,) * 60)
        Y[np.random.default_rng(0).random(Y.shape) < 0.1] = np.nan
        with pytest.warns(fm.FlashmmWarning, match="patterns of missing values"):
            fm.rotate_by_kinship(K, Y, X)


class TestNames:
    @pytest.fixture
    def named(self):
        K, Y, X = problem()
        ids = [f"mouse{i}" for i in range(40)]
        return (
            pd.DataFrame(K, ids, ids),
            pd.DataFrame(Y, ids, list("abcde")),
            pd.DataFrame(X, ids, ["Intercept", "age", "sex"]),
        )

    def test_order_does_not_matter(self, named):
        K, Y, X = named
        expected = fit_of(*(frame.to_numpy() for frame in named))
        shuffled = np.random.default_rng(1).permutation(40)
        fit = fit_of(K.iloc[shuffled, shuffled[::-1]], Y, X.iloc[::-1])
        np.testing.assert_allclose(fit.theta, expected.theta, rtol=1e-8, atol=1e-12)
        assert list(fit.traits) == list("abcde")
        assert list(fit.rotation.individuals) == list(Y.index)
        assert fm.contrast_tests(fit, "age").contrast_names == ("age",)

    def test_who_is_left_out_is_said(self, named):
        K, Y, X = named
        with pytest.warns(fm.FlashmmWarning, match=r"37 individuals.*2 of K \(mouse0, mouse1\)"):
            rotation = fm.rotate_by_kinship(K.iloc[:-1, :-1], Y.iloc[2:], X)
        assert list(rotation.individuals) == [f"mouse{i}" for i in range(2, 39)]

    def test_arrays_follow_the_names_of_the_others(self, named):
        K, Y, X = named
        fit = fit_of(K.to_numpy(), Y, X.iloc[::-1])
        np.testing.assert_allclose(fit.theta, fit_of(K, Y, X).theta, rtol=1e-10)

    def test_factor_of_genotypes_keeps_names(self):
        sim = fm.simulate_kinship_traits(30, 3, n_markers=12, seed=3)
        factor = fm.kinship_factor(sim.genotypes)
        np.testing.assert_allclose(factor.matrix(), sim.K, atol=1e-12)
        fit = fit_of(factor, sim.Y.iloc[::-1], sim.X)
        full = fit_of(sim.K, sim.Y, sim.X)
        np.testing.assert_allclose(fit.loglik, full.loglik, rtol=1e-9)


class TestScale:
    def test_mean_diagonal_is_said(self):
        K, Y, X = problem()
        with pytest.warns(fm.FlashmmWarning, match="mean diagonal of K is 4, not 1"):
            fit = fit_of(4 * K, Y, X)
        with pytest.warns(fm.FlashmmWarning, match="divided by its mean diagonal 4"):
            scaled = fit_of(4 * K, Y, X, scale=True)
        expected = fit_of(K, Y, X)
        np.testing.assert_allclose(scaled.h2, expected.h2, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(fit.loglik, expected.loglik, rtol=1e-10)
        np.testing.assert_allclose(4 * fit.sigma2_g, expected.sigma2_g, rtol=1e-8, atol=1e-12)
        assert scaled.rotation.diagonal_scale == pytest.approx(4)

    def test_small_negative_eigenvalues_are_zero_and_said(self):
        K, Y, X = problem()
        values, vectors = np.linalg.eigh(K)
        values[:5] = -1e-9
        with pytest.warns(fm.FlashmmWarning, match="5 of 40 eigenvalues of K are negative by"):
            fit = fit_of((vectors * values) @ vectors.T, Y, X)
        assert (fit.h2 < 1).all()

    def test_rounding_of_the_decomposition_is_kept_in_the_notes(self):
        _, Y, X = problem()
        G = low_rank(r=5)
        rotation = fm.rotate_by_kinship(G @ G.T, Y, X)
        assert any("negative by rounding" in text for text in rotation.notes)


COVARIANCE = related(12)
FIVE = np.random.default_rng(2).normal(size=(12, 5))
ONES = np.ones((12, 1))


def changed(matrix, *place_and_value):
    *place, value = place_and_value
    copy = matrix.astype(float).copy()
    copy[tuple(place)] = value
    return copy


IDS = [f"i{k}" for k in range(12)]
NAMED = pd.DataFrame(COVARIANCE, IDS, IDS)


@pytest.mark.parametrize(
    ("K", "Y", "X", "message"),
    [
        (changed(COVARIANCE, 0, 1, 5.0), FIVE, ONES, r"not symmetric: K\[0, 1\] = 5 and K\[1, 0\]"),
        (COVARIANCE - np.eye(12), FIVE, ONES, "not positive semi-definite: eigenvalues from"),
        (np.zeros((12, 12)), FIVE, ONES, "not positive semi-definite"),
        (changed(COVARIANCE, 3, 3, np.nan), FIVE, ONES, "1 values that are missing.*row 3"),
        (COVARIANCE[:, :7], FIVE, ONES, "K must be square.*found 12 × 7"),
        (COVARIANCE, FIVE.T, ONES, r"X has 12 rows and Y has 5.*individuals × traits: pass Y\.T"),
        (COVARIANCE[:11, :11], FIVE, ONES, "K has 11 rows and Y has 12"),
        (COVARIANCE, FIVE, ONES[:9], "X has 9 rows and Y has 12"),
        (COVARIANCE, changed(FIVE, 2, 3, -np.inf), ONES, "1 infinite values, the first in trait"),
        (COVARIANCE, FIVE, changed(ONES, 2, 0, np.inf), "X has 1 infinite values"),
        (COVARIANCE, FIVE, ONES * np.nan, "every individual has a missing covariate"),
        (COVARIANCE, np.empty((12, 0)), ONES, r"Y must have rows.*found the shape \(12, 0\)"),
        (COVARIANCE, pd.DataFrame(index=IDS), ONES, "Y has 12 rows and 0 columns"),
        (COVARIANCE, [["a"]] * 12, ONES, "Y: list holds no real numbers"),
        (COVARIANCE, FIVE * 1j, ONES, "Y: ndarray holds no real numbers"),
        (COVARIANCE, np.zeros((12, 2, 2)), ONES, "Y must have rows"),
        (np.empty((0, 0)), FIVE, ONES, "K must have rows"),
        ("kinship.csv", FIVE, ONES, "K: str holds no real numbers"),
        (COVARIANCE, pd.DataFrame({"a": ["x"] * 12}), ONES, "Y: column 'a' has the type"),
        (COVARIANCE, FIVE, pd.DataFrame({"sex": ["f"] * 12}), "column 'sex'.*indicator columns"),
        (NAMED, pd.DataFrame(FIVE, [f"j{k}" for k in range(12)]), None, "no individual in common"),
        (NAMED, pd.DataFrame(FIVE.T, list("abcde"), IDS), None, r"columns of Y.*pass Y\.T"),
        (NAMED, pd.DataFrame(FIVE, ["i0"] * 12), None, "'i0' is there more than once"),
        (NAMED.rename(columns={"i3": "z"}), FIVE, None, "name different individuals: i3, z"),
        (None, FIVE, None, "give a kinship matrix K or a factor G"),
    ],
)
def test_bad_input_is_one_clear_line(K, Y, X, message):
    with pytest.raises(fm.InputError, match=message) as caught:
        fm.rotate_by_kinship(K, Y, X)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("K", "X", "message"),
    [
        (np.eye(12), ONES, "K is a multiple of the identity"),
        (COVARIANCE, np.eye(12), "leave nothing to estimate"),
        (np.ones((12, 12)), ONES, "multiple of the identity"),
        (COVARIANCE, 0 * ONES, "0 independent covariates"),
    ],
)
def test_designs_that_cannot_answer(K, X, message):
    with warnings.catch_warnings(), pytest.raises(fm.DesignError, match=message):
        warnings.simplefilter("ignore", fm.FlashmmWarning)  # about the intercept
        fm.rotate_by_kinship(K, FIVE, X)


def test_options_are_checked():
    K, Y, X = problem()
    rotation = fm.rotate_by_kinship(K, Y, X)
    fit = fm.fit_kinship_lmm(rotation)
    ml = fm.fit_kinship_lmm(rotation, "ML")
    for call, message in [
        (lambda: fm.fit_kinship_lmm(rotation, "MLE"), "method must be one of REML, ML"),
        (lambda: fm.fit_kinship_lmm(K), "a KinshipRotation .from rotate_by_kinship"),
        (lambda: fm.fit_kinship_lmm(rotation, h2=1.5), "h2 must lie between 0 and 1"),
        (lambda: fm.fit_kinship_lmm(rotation, h2=[0.5, 0.5]), r"one per trait \(5\)"),
        (lambda: fit.profile_loglik([0.5, 2]), "from 0 to 1"),
        (lambda: fit.profile_loglik("all"), "h2_grid: str holds no real numbers"),
        (
            lambda: fm.fit_kinship_lmm(rotation, h2="high"),
            "h2 must be a number or a list of numbers",
        ),
        (lambda: fit.profile_frame(["nobody"]), "'nobody' is not among the fitted traits"),
        (lambda: fit.confidence_interval(95), "level must lie between 0 and 1"),
        (lambda: fm.contrast_tests(ml, ddf="kenward-roger"), "defined for REML"),
        (lambda: fm.kinship_factor(np.ones((5, 3))), "no marker varies"),
        (lambda: fm.kinship_factor(np.full((5, 3), np.inf)), "infinite"),
        (lambda: fm.rotate_by_kinship(None, Y, G=np.zeros((40, 2))), "only zeros"),
        (lambda: fm.simulate_kinship_traits(h2=2), "from 0 to 1"),
        (lambda: fm.simulate_kinship_traits(n=1), "n must be at least 4"),
    ]:
        with pytest.raises(fm.InputError, match=message):
            call()


def test_dropped_covariates_and_a_lacking_intercept_are_said():
    K, Y, X = problem()
    with pytest.warns(fm.FlashmmWarning, match="1 of 4 covariates are linear combinations"):
        fit = fit_of(K, Y, np.column_stack([X, X[:, 1] * 2]))
    np.testing.assert_allclose(fit.coef[:, :3], fit_of(K, Y, X).coef, rtol=1e-8)
    assert np.isnan(fit.coef[:, 3]).all()
    assert list(fm.contrast_tests(fit).status[:, 3]) == ["not_estimable"] * 5
    with pytest.warns(fm.FlashmmWarning, match="X holds no intercept"):
        fm.rotate_by_kinship(K, Y, X[:, 1:])


@pytest.mark.parametrize("method", METHODS)
def test_covariates_far_from_zero_are_those_less_a_constant(method):
    K, Y, X = problem()
    Y[3, 0] = np.nan
    X[:, 1] = np.round(X[:, 1] * 2**20) / 2**20
    far = X + np.array([0.0, 1e7, 0.0])
    one, other = (fm.fit_kinship_lmm(fm.rotate_by_kinship(K, Y, x), method) for x in (X, far))
    assert other.rotation.aliased == ()
    np.testing.assert_allclose(other.theta, one.theta, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(other.loglik, one.loglik, rtol=1e-10)
    np.testing.assert_allclose(other.coef[:, 1:], one.coef[:, 1:], rtol=1e-8)
    np.testing.assert_allclose(other.coef @ far.T, one.coef @ X.T, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(other.std_error[:, 1:], one.std_error[:, 1:], rtol=1e-8)
    tests = [fm.contrast_tests(fit, ["x2", "x3"]) for fit in (one, other)]
    for name in ("estimate", "std_error", "df", "p_value"):
        np.testing.assert_allclose(*(getattr(t, name) for t in tests), rtol=1e-7)


def test_genotypes_with_gaps():
    genotypes = np.random.default_rng(0).integers(0, 3, (20, 30)).astype(float)
    genotypes[:, 4] = 1
    genotypes[3, 7] = np.nan
    with pytest.warns(fm.FlashmmWarning) as caught:
        factor = fm.kinship_factor(genotypes)
    said = [str(warning.message) for warning in caught]
    assert any("1 missing genotypes" in text for text in said)
    assert any("1 of 30 markers do not vary" in text for text in said)
    assert factor.G.shape == (20, 29)
    np.testing.assert_allclose(factor.G.sum(0), 0, atol=1e-12)
    assert (factor.G**2).sum(1).mean() == pytest.approx(1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(1e-4, 1e4), st.sampled_from(METHODS))
def test_invariances(seed, scale, method):
    """Units of y, order of individuals, coding of X, and a shift within X change what they must."""
    rng = np.random.default_rng(seed)
    K, Y, X = problem(20, seed, h2=(0.2, 0.8))
    fit = fit_of(K, Y, X, method)
    order, T = rng.permutation(20), rng.normal(size=(3, 3)) + 3 * np.eye(3)
    shift = rng.normal(size=(3, 2))
    other = fit_of(
        K[np.ix_(order, order)], (scale * (Y + X @ shift))[order], (X @ T)[order], method
    )
    tolerance = {"rtol": 1e-5, "atol": 1e-8}
    np.testing.assert_allclose(other.h2, fit.h2, **tolerance)
    np.testing.assert_allclose(other.theta / scale**2, fit.theta, **tolerance)
    np.testing.assert_allclose((other.coef @ T.T) / scale, fit.coef + shift.T, rtol=1e-5, atol=1e-6)
    m = 17 if method == "REML" else 20
    constant = m * np.log(scale) + (np.linalg.slogdet(T)[1] if method == "REML" else 0)
    np.testing.assert_allclose(other.loglik + constant, fit.loglik, atol=1e-7)


def test_offset_and_sparse_kinship_and_missing_integers():
    K, Y, X = problem()
    fit = fit_of(K, Y, X)
    np.testing.assert_allclose(fit_of(sparse.csr_matrix(K), Y + 1e7, X).h2, fit.h2, atol=1e-6)
    counts = pd.DataFrame(np.round(10 * Y)).astype("Int64")
    counts.iloc[3, 1] = pd.NA
    assert list(fit_of(K, counts, X).rotation.n_values) == [40, 39, 40, 40, 40]


def test_traits_together_are_traits_one_by_one():
    K, Y, X = problem()
    together = fit_of(K, Y, X)
    for i in range(Y.shape[1]):
        alone = fit_of(K, Y[:, i], X)
        np.testing.assert_allclose(together.theta[i], alone.theta[0], rtol=1e-9, atol=1e-14)


def test_rotations_agree():
    *_, X = problem()
    G = low_rank(r=10)
    matrix, factor = rotate_matrix(G @ G.T, X), rotate_factor(G, X)
    for one, two in ((matrix.restricted, factor.restricted), (matrix.whole, factor.whole)):
        np.testing.assert_allclose(one.values, two.values, rtol=1e-9, atol=1e-9)
        np.testing.assert_array_equal(one.counts, two.counts)
    assert factor.restricted.counts.sum() == 37 and factor.whole.counts.sum() == 40


@pytest.mark.parametrize("method", METHODS)
def test_heritability_is_recovered(method):
    """Means over 40 traits lie within four standard errors, and intervals cover."""
    sim = fm.simulate_kinship_traits(n=500, n_traits=160, seed=4)
    if method == "ML":
        # genotypes are centred: K is singular in the direction of the intercept
        with pytest.warns(fm.FlashmmWarning, match="rises without bound"):
            fit = fit_of(sim.K, sim.Y, sim.X, method)
    else:
        fit = fit_of(sim.K, sim.Y, sim.X, method)
    interval = fit.confidence_interval()
    for h2 in (0.0, 0.3, 0.7, 1.0) if method == "REML" else (0.0, 0.3, 0.7):
        chosen = (sim.h2 == h2).to_numpy()
        error = 4 * fit.h2_std_error[chosen].mean() / np.sqrt(chosen.sum())
        assert abs(fit.h2[chosen].mean() - h2) < error + 0.03 * (h2 in (0, 1))
        covered = (interval[chosen, 0] <= h2 + 1e-9) & (h2 - 1e-9 <= interval[chosen, 1])
        assert covered.mean() > 0.8
    if method == "REML":
        assert (fit.h2[(sim.h2 == 1).to_numpy()] == 1).mean() > 0.2
        assert np.median(fit.coef[:, 1]) == pytest.approx(0.5, abs=0.05)
