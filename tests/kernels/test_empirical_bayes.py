"""Empirical Bayes of variance ratios: reference numbers, the prior, grid and strata, tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashmm.kernels import empirical_bayes as eb
from flashmm.kernels.dense import DenseEngine
from flashmm.kernels.elimination import EliminationEngine
from flashmm.kernels.empirical_bayes_points import points_of
from flashmm.kernels.empirical_bayes_tests import joint_tests, single_tests
from flashmm.kernels.engine import take
from flashmm.kernels.rotation import orthonormal_contrasts, rotate_design
from flashmm.kernels.spectral import SpectralEngine

DATA = Path(__file__).resolve().parents[1] / "data" / "empirical_bayes"
CASES = [
    ("k1", SpectralEngine),
    ("k1", DenseEngine),
    ("k1", EliminationEngine),
    ("k2_paired", DenseEngine),
    ("k2_paired", EliminationEngine),
]


class Study:
    """Cross-products, an engine's model of them, its genes and contrasts."""

    def __init__(self, stats, engine):
        sizes = tuple(int(size) for size in stats["component_sizes"])
        self.rotation = rotate_design(
            stats["XtX"], stats["ZtX"], stats["ZtZ"], sizes, int(stats["n_cells"])
        )
        self.engine = engine.build(self.rotation, True, True)
        self.model = points_of(self.engine)
        self.genes = self.engine.responses(stats["YtX"], stats["YtZ"], stats["yty"])
        self.contrasts = orthonormal_contrasts(self.rotation, stats["contrasts"].T)


@pytest.fixture(scope="module")
def reference():
    return {name: dict(np.load(DATA / f"{name}.npz")) for name in ("k1", "k2_paired")}


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1].__name__}")
def case(request, reference):
    name, engine = request.param
    return Study(reference[name], engine), reference[name]


class TestReference:
    def test_likelihood_and_posterior(self, case):
        study, known = case
        loglik = study.model.log_likelihood(known["grid"], study.genes)
        weights, marginal = eb.posterior(loglik, known["weights"][known["stratum"]])
        some = known["some"]
        np.testing.assert_allclose(loglik[some], known["loglik_given_gamma"], rtol=0, atol=1e-8)
        np.testing.assert_allclose(weights[some], known["posterior"], rtol=0, atol=1e-8)
        np.testing.assert_allclose(marginal, known["marginal_loglik"], rtol=0, atol=1e-8)

    def test_p_values_and_limits(self, case):
        study, known = case
        loglik = study.model.log_likelihood(known["grid"], study.genes)
        weights, _ = eb.posterior(loglik, known["weights"][known["stratum"]])
        given_ = (study.model, study.genes, study.contrasts[:, :1], known["grid"], weights)
        for alternative in ("greater", "less", "two-sided"):
            found = single_tests(*given_, alternative=alternative)
            expected = known[f"p_{alternative.replace('-', '_')}"]
            np.testing.assert_allclose(found.p_value[:, 0], expected, rtol=1e-8)
            np.testing.assert_allclose(10 ** found.log10_p[:, 0], expected, rtol=1e-8)
        np.testing.assert_allclose(found.estimate[:, 0], known["estimate"], rtol=0, atol=1e-8)
        np.testing.assert_allclose(found.conf_low[:, 0], known["conf_low"], rtol=0, atol=1e-8)
        np.testing.assert_allclose(found.conf_high[:, 0], known["conf_high"], rtol=0, atol=1e-8)

    def test_joint(self, case):
        study, known = case
        loglik = study.model.log_likelihood(known["grid"], study.genes)
        weights, _ = eb.posterior(loglik, known["weights"][known["stratum"]])
        found = joint_tests(study.model, study.genes, study.contrasts, known["grid"], weights)
        np.testing.assert_allclose(found.p_value, known["p_joint"], rtol=1e-8)
        np.testing.assert_allclose(10**found.log10_p, known["p_joint"], rtol=1e-8)

    def test_the_prior_is_at_least_as_likely(self, case):
        study, known = case
        stratum = known["stratum"]
        loglik = study.model.log_likelihood(known["grid"], study.genes)
        prior = eb.fit_prior(loglik, stratum, len(known["weights"]))
        expected = np.bincount(stratum, weights=known["marginal_loglik"])
        assert (prior.loglik >= expected - 1e-6).all()
        assert (prior.gap < 1e-6).all()
        np.testing.assert_array_equal(prior.n_genes, np.bincount(stratum))


class TestPrior:
    @settings(deadline=None, max_examples=40)
    @given(
        genes=st.integers(1, 80),
        points=st.integers(1, 90),
        width=st.floats(0.01, 3.0),
        seed=st.integers(0, 10**6),
    )
    def test_no_prior_is_more_likely(self, genes, points, width, seed):
        rng = np.random.default_rng(seed)
        at = np.linspace(-4, 4, points)
        loglik = -0.5 * ((at - 2 * rng.normal(size=(genes, 1))) / width) ** 2
        found = eb.maximise_weights(loglik)
        assert found.gap < 1e-6
        assert (found.weights >= 0).all() and found.weights.sum() == pytest.approx(1.0)
        L = np.exp(loglik - loglik.max(1, keepdims=True))
        # the derivative towards any single point is not positive, by the definition of an optimum
        towards = (L / (L @ found.weights)[:, None]).mean(0)
        assert towards.max() <= 1 + 1e-6 / genes
        _, marginal = eb.posterior(loglik, found.weights)
        assert found.loglik == pytest.approx(marginal.sum(), rel=1e-12, abs=1e-9)

    def test_em_does_not_come_further(self):
        rng = np.random.default_rng(3)
        at = np.linspace(-4, 4, 40)
        loglik = -0.5 * ((at - rng.normal(size=(300, 1))) / 0.4) ** 2
        L, w = np.exp(loglik), np.full(40, 1 / 40)
        for _ in range(5000):
            w = w * (L / (L @ w)[:, None]).mean(0)
        assert eb.maximise_weights(loglik).loglik >= np.log(L @ w).sum()

    def test_a_large_grid_and_repeated_points(self):
        rng = np.random.default_rng(5)
        at = np.linspace(-5, 5, 150)
        loglik = -0.5 * (at - 2 * rng.normal(size=(200, 1))) ** 2
        once = eb.maximise_weights(loglik)
        twice = eb.maximise_weights(np.repeat(loglik, 2, axis=1))
        assert once.gap < 1e-6 and twice.gap < 1e-6
        assert twice.loglik == pytest.approx(once.loglik, abs=1e-6)

    def test_extreme_likelihoods(self):
        loglik = np.array([[0.0, -5000.0], [-5000.0, 0.0], [1e5, 1e5 - 4000], [-3.0, -3.0]])
        found = eb.maximise_weights(loglik)
        np.testing.assert_allclose(found.weights, [2 / 3, 1 / 3], rtol=1e-6)

    def test_the_same_every_time(self):
        loglik = -np.random.default_rng(0).gamma(1.0, 5.0, size=(200, 100))
        first, second = (eb.maximise_weights(loglik).weights for _ in range(2))
        np.testing.assert_array_equal(first, second)

    def test_genes_without_likelihood_are_left_out(self):
        loglik = -np.random.default_rng(1).gamma(1.0, 5.0, size=(60, 20))
        stratum = np.arange(60) % 2
        with_nan = np.vstack([loglik, np.full((2, 20), np.nan)])
        expected = eb.fit_prior(loglik, stratum, 2)
        found = eb.fit_prior(with_nan, np.append(stratum, [0, 1]), 2)
        np.testing.assert_array_equal(found.weights, expected.weights)
        weights, marginal = eb.posterior(with_nan, found.weights[np.append(stratum, [0, 1])])
        assert np.isnan(weights[60:]).all() and np.isnan(marginal[60:]).all()
        np.testing.assert_allclose(weights[:60].sum(1), 1.0)

    def test_a_stratum_without_genes(self):
        with pytest.raises(ValueError, match="Stratum 1 has no gene"):
            eb.fit_prior(np.zeros((3, 4)), np.zeros(3, dtype=int), 2)


class TestGrid:
    @pytest.mark.parametrize("K", [1, 2, 3])
    def test_it_moves_with_the_scale(self, K):
        rng = np.random.default_rng(K)
        scale, levels = rng.uniform(10, 300, K), np.full(K, 8)
        gamma = rng.gamma(1.0, 0.5, size=(50, K))
        points = eb.shared_grid(scale, levels, gamma)
        moved = eb.shared_grid(scale * 9.0, levels, gamma / 9.0)
        np.testing.assert_allclose(moved, points / 9.0, rtol=1e-12)

    @pytest.mark.parametrize("K", [1, 2, 3])
    def test_it_covers_the_estimates(self, K):
        scale, gamma = np.full(K, 100.0), np.array([[0.0], [7.0], [0.3]]) * np.ones(K)
        points = eb.shared_grid(scale, np.full(K, 8), gamma)
        np.testing.assert_array_equal(points[0], 0.0)
        np.testing.assert_allclose(points.max(0), 7.0)
        assert len(np.unique(points, axis=0)) == len(points)
        for axis in points.T:
            values = np.unique(axis)[1:]
            assert values[0] * 100.0 == pytest.approx(eb.LOWEST[K])
            assert len(values) < eb.MOST_POINTS[K]

    def test_points_are_close_where_subjects_are_many(self):
        scale, gamma = np.array([100.0]), np.array([[0.0], [1.0]])
        counts = [len(eb.shared_grid(scale, np.array([n]), gamma)) for n in (6, 25, 400)]
        assert counts[0] <= 45 and counts[0] <= counts[1] < counts[2] <= eb.MOST_POINTS[1]

    def test_it_is_narrow_where_estimates_are(self):
        gamma = np.array([[0.4], [0.5]])
        points = eb.shared_grid(np.array([1000.0]), np.array([500]), gamma)
        np.testing.assert_allclose(points[[0, 1, -1], 0], [0.0, 0.2, 0.5])
        # maximisers of any gene are inside: nothing outside is more likely
        assert np.diff(np.log(points[1:, 0])).max() <= 2 * np.sqrt(2 / 500) * (1 + 1e-12)

    def test_four_components(self):
        with pytest.raises(ValueError, match="1 to 3 components; found 4"):
            eb.shared_grid(np.ones(4), np.ones(4), np.ones((2, 4)))


class TestStrata:
    @pytest.mark.parametrize(
        ("genes", "expected"), [(50, 1), (599, 1), (600, 2), (1000, 3), (6000, 10), (20_000, 10)]
    )
    def test_one_per_300_genes_and_halves_of_the_highest(self, genes, expected):
        mean = np.random.default_rng(0).permutation(genes).astype(float)
        edges = eb.stratum_edges(mean)
        counts = np.bincount(eb.strata(mean, edges))
        assert len(counts) == len(edges) + 1
        whole, halves = counts[: expected - 1], counts[expected - 1 :]
        assert np.ptp([*whole, halves.sum()]) <= 1
        smaller = halves[1:-1] / halves[:-2]
        np.testing.assert_allclose(smaller, 0.5, atol=0.02)
        assert halves[-1] >= eb.TOP_GENES or genes < eb.FEW_GENES
        assert (len(halves) == 1) == (genes < eb.FEW_GENES)

    def test_equal_means(self):
        mean = np.r_[np.zeros(1500), np.linspace(0.1, 1, 500)]
        edges = eb.stratum_edges(mean)
        assert np.bincount(eb.strata(mean, edges)).min() >= eb.TOP_GENES
        assert len(eb.stratum_edges(np.zeros(3000))) == 0
        assert len(eb.stratum_edges(np.zeros(0))) == 0


def draw(seed=0, genes=250, subjects=8, true=0):
    """Cross-products of one component of Gaussian groups, intercept and condition."""
    rng = np.random.default_rng(seed)
    n = rng.integers(10, 200, subjects).astype(float)
    x = np.column_stack([np.ones(subjects), np.arange(subjects) % 2])
    gamma = np.exp(rng.normal(np.log(0.2), 0.8, genes)) * (rng.random(genes) > 0.2)
    mean = np.sqrt(gamma) * rng.normal(size=(subjects, genes))
    mean += rng.normal(size=mean.shape) / np.sqrt(n)[:, None]
    mean[:, :true] += 3.0 * x[:, [1]]
    sums = n[:, None] * mean
    within = rng.chisquare(n[:, None] - 1, size=mean.shape).sum(0)
    return {
        "XtX": x.T @ (n[:, None] * x),
        "YtX": sums.T @ x,
        "ZtX": n[:, None] * x,
        "YtZ": sums.T,
        "ZtZ": np.diag(n),
        "yty": (sums * mean).sum(0) + within,
        "n_cells": n.sum(),
        "component_sizes": (subjects,),
        "contrasts": np.array([[0.0], [1.0]]),
    }


def run_tests(stats, prior=None, points=None, **options):
    """Everything from cross-products, with a prior of these genes or a given one."""
    study = Study(stats, SpectralEngine)
    if points is None:
        fine = np.flatnonzero(study.genes.rss > 0)
        gamma = study.engine.optimise(take(study.genes, fine), None, 100, 1e-16).gamma
        points = eb.shared_grid(study.model.scale, study.model.levels, gamma)
    loglik = study.model.log_likelihood(points, study.genes)
    if prior is None:
        prior = eb.fit_prior(loglik, np.zeros(len(loglik), dtype=int), 1).weights[0]
    weights, _ = eb.posterior(loglik, prior)
    given_ = (study.model, study.genes, study.contrasts, points, weights)
    return single_tests(*given_, **options), prior, points


class TestInvariance:
    def test_scale_of_the_response(self):
        stats = draw()
        found, *_ = run_tests(stats)
        scaled = stats | {name: stats[name] * 7.0 for name in ("YtX", "YtZ")}
        other, *_ = run_tests(scaled | {"yty": stats["yty"] * 49.0})
        np.testing.assert_allclose(other.p_value, found.p_value, rtol=1e-6)
        np.testing.assert_allclose(other.estimate, found.estimate * 7.0, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(other.conf_low, found.conf_low * 7.0, rtol=1e-6, atol=1e-8)

    def test_scale_of_the_fixed_columns(self):
        stats, d = draw(), np.array([3.0, 0.2])
        found, *_ = run_tests(stats)
        scaled = stats | {"XtX": stats["XtX"] * d * d[:, None]}
        scaled |= {name: stats[name] * d for name in ("YtX", "ZtX")}
        other, *_ = run_tests(scaled)
        np.testing.assert_allclose(other.p_value, found.p_value, rtol=1e-6)
        np.testing.assert_allclose(other.std_error, found.std_error / 0.2, rtol=1e-6)

    def test_scale_of_the_random_columns(self):
        stats = draw()
        found, *_ = run_tests(stats)
        scaled = stats | {name: stats[name] * 4.0 for name in ("YtZ", "ZtX")}
        other, *_ = run_tests(scaled | {"ZtZ": stats["ZtZ"] * 16.0})
        np.testing.assert_allclose(other.p_value, found.p_value, rtol=1e-6)

    def test_effects_do_not_bend_the_prior(self):
        _, null, points = run_tests(draw())
        _, some, _ = run_tests(draw(true=40), points=points)
        np.testing.assert_allclose(some, null, atol=1e-6)


class TestDegenerateGenes:
    def test_they_are_nan_and_touch_no_other(self):
        stats = draw()
        found, prior, points = run_tests(stats)
        odd = np.zeros((2, 2))
        broken = stats | {
            "YtX": np.vstack([odd, stats["YtX"]]),
            "YtZ": np.vstack([np.zeros((2, 8)), stats["YtZ"]]),
            "yty": np.append([0.0, 0.0], stats["yty"]),
        }
        other, other_prior, _ = run_tests(broken, points=points)
        np.testing.assert_allclose(other_prior, prior, atol=1e-12)
        for mine, its in zip(other, found, strict=True):
            assert np.isnan(mine[:2]).all()
            np.testing.assert_allclose(mine[2:], its, rtol=1e-10, atol=1e-12)


class TestLevel:
    def test_null_genes_of_a_small_study(self):
        p = np.concatenate([run_tests(draw(seed, genes=2000))[0].p_value for seed in range(3)])
        # 6,000 tests: standard errors .0028 and .0013
        assert np.mean(p < 0.05) == pytest.approx(0.05, abs=0.0085)
        assert np.mean(p < 0.01) == pytest.approx(0.01, abs=0.004)

    def test_a_prior_of_another_study(self):
        _, prior, points = run_tests(draw(0, genes=1000))
        found, *_ = run_tests(draw(1, genes=2000), prior=prior, points=points)
        assert np.mean(found.p_value < 0.05) == pytest.approx(0.05, abs=0.015)

    def test_limits_cover(self):
        found, *_ = run_tests(draw(2, genes=3000), level=0.9)
        inside = (found.conf_low < 0) & (found.conf_high > 0)
        assert inside.mean() == pytest.approx(0.9, abs=0.017)
