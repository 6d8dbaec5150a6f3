"""Tests of variance components against dense likelihoods, exact distributions and cells."""

from __future__ import annotations

from dataclasses import replace

import anndata
import numpy as np
import oracle
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as distributions
from scipy.optimize import minimize

import flashmm as fm
from flashmm.design.columns import cell_design
from flashmm.design.derived import drop_component
from flashmm.inference.explained import mean_diagonals
from flashmm.kernels import variance_tests as kernels

LIMIT = distributions.chi2.isf(0.05, 1)


def statistics(Y, X, Z, names=None):
    return fm.summary_statistics_from_matrices(
        Y, X, np.hstack(Z), component_sizes=[z.shape[1] for z in Z], components=names
    )


def three_components(seed=1, genes=4):
    """Subject, batch and a random slope of the covariate by subject."""
    Y, X, (subject, batch) = oracle.problem(seed, n=120, genes=genes, components=2)
    rng = np.random.default_rng(seed)
    slope = subject * X[:, [1]]
    return Y + slope @ rng.normal(size=(slope.shape[1], genes)), X, [subject, batch, slope]


PROBLEMS = {
    "K1": lambda: oracle.problem(3, n=90, genes=4),
    "K2": lambda: oracle.problem(4, n=90, genes=4, components=2),
    "nested": lambda: oracle.nested_problem(2, n=90, genes=4),
    "K3": three_components,
}


@pytest.fixture(scope="module", params=[(p, m) for p in PROBLEMS for m in ("REML", "ML")])
def case(request):
    problem, method = request.param
    Y, X, Z = PROBLEMS[problem]()
    engine = "nested" if problem == "nested" else "auto"
    return Y, X, Z, fm.fit_lmm(statistics(Y, X, Z), method, engine=engine)


def dense_maximum(y, X, Z, start, reml, held=None):
    """Maximum of the dense likelihood with component `held[0]` at `held[1]`, others free."""
    free = [k for k in range(len(start)) if held is None or k != held[0]]

    def theta(x):
        full = np.empty(len(start))
        full[free] = x**2
        if held is not None:
            full[held[0]] = held[1]
        return full

    def value(x):
        V = oracle.covariance(Z, theta(x)) if Z else x[0] ** 2 * np.eye(len(y))
        return -oracle.loglik(y, X, V, reml)

    x0 = np.sqrt(np.maximum(np.asarray(start)[free], 1e-3))
    return -minimize(value, x0, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-8}).fun


class TestLikelihoodRatio:
    def test_against_dense_refits(self, case):
        Y, X, Z, fit = case
        table = fm.variance_tests(fit, tests="lrt", intervals=[])
        for g in (0, 3):
            for k in range(len(Z)):
                rest, start = Z[:k] + Z[k + 1 :], np.delete(fit.theta[g], k)
                reduced = dense_maximum(Y[:, g], X, rest, start, fit.options.method == "REML")
                expected = 2 * (fit.loglik[g] - reduced)
                assert table.lrt[g, k] == pytest.approx(max(expected, 0), abs=1e-5)

    def test_p_values(self, case):
        fit = case[-1]
        table = fm.variance_tests(fit, tests="lrt", intervals=[])
        lr = table.lrt[:, :-1]
        np.testing.assert_allclose(table.p_chi2[:, :-1], distributions.chi2.sf(lr, 1), rtol=1e-10)
        expected = np.where(lr == 0, 1.0, distributions.chi2.sf(lr, 1) / 2)
        np.testing.assert_allclose(table.p_lrt[:, :-1], expected, rtol=1e-10)
        assert np.isnan(table.p_lrt[:, -1]).all()
        assert (lr[fit.theta[:, :-1] == 0] == 0).all()

    def test_negative_components_have_the_plain_null(self):
        Y, X, Z = oracle.problem(6, genes=8)
        fit = fm.fit_lmm(statistics(Y, X, Z), nonnegative=False)
        with pytest.warns(fm.FlashmmWarning, match="two-sided"):
            table = fm.variance_tests(fit)
        usable, negative = fit.fitted, fit.fitted & (fit.theta[:, 0] < 0)
        assert negative.any()
        assert (table.lrt[negative, 0] > 0).all() and (table.z[negative, 0] < 0).all()
        np.testing.assert_array_equal(table.p_lrt[usable], table.p_chi2[usable])
        assert (table.p_z[negative, 0] > 0.5).all()
        assert np.isnan(table.to_frame()["sd"]).sum() >= negative.sum()
        assert table.notes

    @settings(max_examples=6, deadline=None)
    @given(scale=st.floats(1e-6, 1e6), seed=st.integers(0, 20))
    def test_scale_of_the_values_does_not_matter(self, scale, seed):
        Y, X, Z = oracle.problem(seed, n=60, genes=3, components=2)
        tables = [
            fm.variance_tests(fm.fit_lmm(statistics(values, X, Z)), tests=["lrt", "z"])
            for values in (Y, scale * Y)
        ]
        for name in ("lrt", "z", "share"):
            first, second = (getattr(table, name) for table in tables)
            np.testing.assert_allclose(second, first, rtol=1e-5, atol=1e-6)


class TestProfile:
    def test_limits_are_where_the_dense_profile_meets_the_quantile(self, case):
        Y, X, Z, fit = case
        reml = fit.options.method == "REML"
        table = fm.variance_tests(fit, tests=[], intervals="profile", genes=fit.genes[[0, 3]])
        assert (table.status == fit.status[[0, 3], None]).all()
        for at, g in enumerate((0, 3)):
            for k in range(len(Z) + 1):
                low, high = table.variance_profile[at, k]
                assert low <= fit.theta[g, k] < high
                for limit in (low, high):
                    held = dense_maximum(Y[:, g], X, Z, fit.theta[g], reml, (k, limit))
                    deviance = 2 * (fit.loglik[g] - held)
                    if limit > 0:
                        assert deviance == pytest.approx(LIMIT, abs=1e-5)
                    else:
                        assert deviance < LIMIT + 1e-6

    def test_lower_limit_is_zero_exactly_where_the_likelihood_ratio_is_small(self, case):
        fit = case[-1]
        table = fm.variance_tests(fit, tests="lrt", intervals="profile", level=0.8)
        small = table.lrt[:, :-1] <= distributions.chi2.isf(0.2, 1)
        assert ((table.variance_profile[:, :-1, 0] == 0) == small).all()

    def test_shares_of_one_component(self):
        Y, X, Z = oracle.problem(3, n=90, genes=5)
        fit = fm.fit_lmm(statistics(Y, X, Z))
        table = fm.variance_tests(fit, tests=[], intervals="profile")
        for g in range(5):
            for limit in table.share_profile[g, 0]:
                gamma = limit / (1 - limit)

                def at(log_s0, gamma=gamma, y=Y[:, g]):
                    V = oracle.covariance(Z, np.exp(log_s0[0]) * np.array([gamma, 1.0]))
                    return -oracle.loglik(y, X, V, True)

                held = -minimize(at, [np.log(fit.theta[g, 1])], method="BFGS").fun
                deviance = 2 * (fit.loglik[g] - held)
                assert deviance < LIMIT + 1e-6
                assert limit == 0 or deviance == pytest.approx(LIMIT, abs=1e-5)
        np.testing.assert_allclose(
            table.share_profile[:, 1], 1 - table.share_profile[:, 0, ::-1], rtol=1e-12
        )

    def test_engines_agree(self):
        Y, X, Z = oracle.nested_problem(5, genes=4)
        tables = [
            fm.variance_tests(fm.fit_lmm(statistics(Y, X, Z), engine=e), intervals="profile")
            for e in ("nested", "dense")
        ]
        np.testing.assert_allclose(
            tables[0].variance_profile, tables[1].variance_profile, rtol=1e-6, atol=1e-10
        )
        np.testing.assert_allclose(tables[0].lrt, tables[1].lrt, atol=1e-8)

    def test_chosen_genes_and_components(self):
        Y, X, Z = oracle.problem(4, components=2)
        fit = fm.fit_lmm(statistics(Y, X, Z, ["subject", "batch"]))
        every = fm.variance_tests(fit, intervals="profile")
        some = fm.variance_tests(
            fit, ["batch"], intervals="profile", genes=[fit.genes[4], fit.genes[1]]
        )
        assert list(some.genes) == [fit.genes[1], fit.genes[4]] and some.components == ("batch",)
        np.testing.assert_allclose(
            some.variance_profile[:, 0], every.variance_profile[[1, 4], 1], rtol=1e-10
        )
        np.testing.assert_allclose(some.p_lrt[:, 0], every.p_lrt[[1, 4], 1])


def balanced(genes, seed=0, subjects=8, cells=10, sd=0.0):
    rng = np.random.default_rng(seed)
    subject = np.repeat(np.arange(subjects), cells)
    Z = np.eye(subjects)[subject]
    Y = rng.normal(size=(len(subject), genes)) + sd * Z @ rng.normal(size=(subjects, genes))
    return Y, np.ones((len(subject), 1)), [Z]


class TestExact:
    def test_f_is_the_analysis_of_variance(self):
        Y, X, Z = balanced(5, sd=0.3)
        table = fm.variance_tests(fm.fit_lmm(statistics(Y, X, Z)), tests="f", intervals=[])
        for g in range(5):
            expected = distributions.f_oneway(*Y[:, g].reshape(8, 10))
            assert table.f[g, 0] == pytest.approx(expected.statistic, rel=1e-10)
            assert table.p_f[g, 0] == pytest.approx(expected.pvalue, rel=1e-10)

    def test_interval_of_balanced_cells_in_closed_form(self):
        """σ²(1 + γn) is estimated between subjects: (F/F_quantile - 1)/n."""
        Y, X, Z = balanced(6, sd=0.5)
        table = fm.variance_tests(fm.fit_lmm(statistics(Y, X, Z)), tests="f", level=0.9)
        for side, quantile in enumerate(distributions.f.ppf([0.95, 0.05], 7, 72)):
            gamma = np.maximum((table.f[:, 0] / quantile - 1) / 10, 0)
            np.testing.assert_allclose(table.share_exact[:, 0, side], gamma / (1 + gamma))

    def test_interval_inverts_the_f_distribution(self):
        Y, X, Z = oracle.problem(1, genes=6)
        fit = fm.fit_lmm(statistics(Y, X, Z), engine="dense")
        assert fm.variance_tests(fit).share_exact is None  # eigenvalues only where asked for
        limits = fm.variance_tests(fit, tests=[], intervals="exact").share_exact[:, 0]
        gamma = limits / (1 - limits)
        # dense: F from generalised least squares with γ known, between against within
        for g in range(6):
            for side, tail in enumerate((0.025, 0.975)):
                V = oracle.covariance(Z, np.array([gamma[g, side], 1.0]))
                Q = Y[:, g] @ oracle.projection(X, V) @ Y[:, g]
                XZ = np.hstack([X, Z[0]])
                within = Y[:, g] - XZ @ np.linalg.lstsq(XZ, Y[:, g], rcond=None)[0]
                e, rest = within @ within, len(V) - np.linalg.matrix_rank(XZ)
                r = fit.df_residual - rest
                p = distributions.f.sf((Q - e) / r / (e / rest), r, rest)
                if gamma[g, side] > 0:
                    assert p == pytest.approx(tail, abs=1e-9)
                else:
                    assert p >= tail

    def test_coverage_and_size(self):
        """Unbalanced cells, between-subject condition; 4,000 genes with and without a component."""
        _, X, Z = oracle.problem(2, n=150)
        rng, G = np.random.default_rng(5), 4000
        noise = rng.normal(size=(150, G))
        gamma = 0.2
        Y = noise + np.sqrt(gamma) * Z[0] @ rng.normal(size=(8, G))
        limits = fm.variance_tests(fm.fit_lmm(statistics(Y, X, Z)), tests=[]).share_exact[:, 0]
        share = gamma / (1 + gamma)
        covered = ((limits[:, 0] <= share) & (share <= limits[:, 1])).mean()
        assert covered == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / G))
        null = fm.variance_tests(fm.fit_lmm(statistics(noise, X, Z)), n_simulations=20_000)
        for p in (null.p_f, null.p_rlrt):
            assert (p[:, 0] <= 0.05).mean() == pytest.approx(
                0.05, abs=4 * np.sqrt(0.05 * 0.95 / G) + 4 * np.sqrt(0.05 * 0.95 / 20_000)
            )
        # the mixture is conservative, the plain χ² more so
        assert (null.p_lrt[:, 0] <= 0.05).mean() < 0.05
        assert (null.p_chi2[:, 0] <= 0.05).mean() < 0.03


class TestSimulatedNull:
    @pytest.mark.parametrize("subjects, quoted", [(8, 0.584), (25, 0.547), (100, 0.525)])
    def test_share_of_zeros(self, subjects, quoted):
        """Balanced cells: the estimate is zero where F ≤ 1, in more than half of the genes."""
        Y, X, Z = balanced(1, subjects=subjects, cells=6)
        engine = fm.fit_lmm(statistics(Y, X, Z)).model.engine
        null = kernels.simulated_null(engine, 20_000, seed=1)
        zeros, error = (null == 0).mean(), np.sqrt(0.25 / 20_000)
        exact = distributions.f.cdf(1, subjects - 1, subjects * 5)
        assert zeros == pytest.approx(exact, abs=4 * error)
        # published for other, unbalanced cells
        assert zeros == pytest.approx(quoted, abs=0.03)

    def test_equals_the_f_test_of_balanced_cells(self):
        """One eigenvalue: the likelihood ratio rises with F, so that both tests are the same."""
        Y, X, Z = balanced(200, sd=0.2)
        table = fm.variance_tests(fm.fit_lmm(statistics(Y, X, Z)), n_simulations=20_000)
        positive = table.lrt[:, 0] > 0
        difference = np.abs(table.p_rlrt - table.p_f)[positive, 0]
        assert (difference <= 4.5 * table.p_rlrt_error[positive, 0] + 1e-4).all()
        assert (table.p_rlrt[~positive, 0] == 1).all()

    def test_of_ml_fits_against_cells(self):
        """Quantiles of the simulated null and of refits of simulated cells, ML."""
        _, X, Z = oracle.problem(2, n=150)
        Y = np.random.default_rng(0).normal(size=(150, 5000))
        fit = fm.fit_lmm(statistics(Y, X, Z), "ML")
        table = fm.variance_tests(fit, tests=["lrt", "rlrt"], n_simulations=20_000)
        for level in (0.01, 0.05, 0.2):
            error = np.sqrt(level * (1 - level) * (1 / 5000 + 1 / 20_000))
            assert (table.p_rlrt[:, 0] <= level).mean() == pytest.approx(level, abs=4 * error)

    def test_is_not_made_unasked_for_many_levels(self):
        Y, X, Z = balanced(3, subjects=201, cells=2)
        fit = fm.fit_lmm(statistics(Y, X, Z))
        usual = fm.variance_tests(fit)
        assert usual.p_rlrt is None and usual.p_f is not None and usual.p_lrt is not None
        asked = fm.variance_tests(fit, tests=["rlrt"], n_simulations=100)
        assert np.isfinite(asked.p_rlrt[:, 0]).all()

    def test_seed_and_error(self):
        Y, X, Z = balanced(10, sd=0.3)
        fit = fm.fit_lmm(statistics(Y, X, Z))
        first, second, other = (
            fm.variance_tests(fit, tests="rlrt", n_simulations=1000, seed=s).p_rlrt[:, 0]
            for s in (3, 3, 4)
        )
        np.testing.assert_array_equal(first, second)
        assert (first != other).any()
        p, error = kernels.simulated_tail(
            np.array([0.0, 0.0, 1.0, 2.0]), np.array([0, 1.5, np.nan])
        )
        np.testing.assert_allclose(p, [1, 2 / 5, np.nan])
        np.testing.assert_allclose(error, [0, np.sqrt(0.4 * 0.6 / 4), np.nan])


class TestEstimates:
    def test_standard_errors_from_the_dense_information(self, case):
        Y, X, Z, fit = case
        table = fm.variance_tests(fit, tests="z", intervals="wald")
        for g in range(4):
            information = oracle.information(
                Y[:, g], X, Z, fit.theta[g], fit.options.method == "REML"
            )[1]
            expected = np.sqrt(np.diag(np.linalg.inv(information)))
            np.testing.assert_allclose(table.std_error[g], expected, rtol=1e-6)
            np.testing.assert_allclose(
                table.z[g, :-1], fit.theta[g, :-1] / expected[:-1], rtol=1e-6
            )
        np.testing.assert_allclose(
            table.p_z[:, :-1], distributions.norm.sf(table.z[:, :-1]), rtol=1e-10
        )
        half = 1.959963984540054 * table.std_error
        np.testing.assert_allclose(table.variance_wald[:, :, 1], table.variance + half)
        assert (table.variance_wald >= 0).all() and (table.share_wald <= 1).all()

    def test_shares_by_the_delta_method(self, case):
        *_, fit = case
        weights = np.append(mean_diagonals(fit.stats), 1.0)
        table = fm.variance_tests(fit, tests=[], intervals=[])
        np.testing.assert_allclose(table.share.sum(1), 1.0)
        for g in range(4):
            steps = 1e-6 * fit.theta[g].sum() * np.eye(len(weights))
            slope = np.array(
                [
                    ((fit.theta[g] + h) * weights / ((fit.theta[g] + h) @ weights))
                    - ((fit.theta[g] - h) * weights / ((fit.theta[g] - h) @ weights))
                    for h in steps
                ]
            ).T / (2 * steps.max())
            expected = np.sqrt(np.diag(slope @ fit.theta_cov[g] @ slope.T))
            np.testing.assert_allclose(table.share_std_error[g], expected, rtol=1e-6)

    def test_heritability_takes_the_mean_diagonal_of_the_kinship(self):
        theta, cov = np.array([[2.0, 1.0]]), np.array([[[0.3, -0.05], [-0.05, 0.2]]])
        plain = kernels.variance_shares(theta, cov, np.array([1.0, 1.0]))
        # a kinship twice as large has half the component and the same heritability
        doubled = kernels.variance_shares(
            theta / [2, 1], cov / np.array([[4, 2], [2, 1]]), np.array([2.0, 1.0])
        )
        np.testing.assert_allclose(plain.value, [[2 / 3, 1 / 3]])
        for a, b in zip(plain, doubled, strict=True):
            np.testing.assert_allclose(a, b)

    def test_frame(self):
        Y, X, Z = oracle.problem(4, components=2, genes=3)
        fit = fm.fit_lmm(statistics(Y, X, Z, ["subject", "batch"]))
        table = fm.variance_tests(fit, tests=["lrt"], intervals=["profile", "wald"])
        frame = table.to_frame()
        assert list(frame.columns) == [
            "gene",
            "component",
            "variance",
            "sd",
            "std_error",
            "share",
            "share_std_error",
            "lrt",
            "p_lrt",
            "adj_p_lrt",
            "p_chi2",
            "variance_wald_low",
            "variance_wald_high",
            "variance_profile_low",
            "variance_profile_high",
            "share_wald_low",
            "share_wald_high",
            "status",
        ]
        assert list(frame.component) == ["subject"] * 3 + ["batch"] * 3 + ["residual"] * 3
        row = frame[(frame.gene == fit.genes[2]) & (frame.component == "batch")].iloc[0]
        assert row.variance_profile_high == table.variance_profile[2, 1, 1]
        assert row.sd**2 == pytest.approx(row.variance)
        assert "p_lrt" in repr(table) and "p_z" not in repr(table)

    def test_genes_without_a_fit(self):
        Y, X, Z = oracle.problem(4, components=2, genes=4)
        Y[:, 1] = 0.0
        Y[:, 2] = X @ np.arange(6.0)
        fit = fm.fit_lmm(statistics(Y, X, Z))
        table = fm.variance_tests(fit, intervals=["wald", "profile"])
        frame = table.to_frame()
        for status in ("all_zero", "perfect_fit"):
            rows = frame[frame.status == status]
            assert len(rows) == 3
            assert rows[["p_lrt", "p_z", "share", "variance_profile_high"]].isna().all(axis=None)
        assert frame.loc[frame.status == "ok", "variance_profile_high"].notna().all()
        alone = fm.variance_tests(fm.fit_lmm(statistics(Y[:, [0, 3]], X, Z)))
        np.testing.assert_allclose(table.p_lrt[[0, 3]], alone.p_lrt)

    def test_a_failed_refit_has_a_status(self):
        Y, X, Z = three_components()
        fit = fm.fit_lmm(statistics(Y, X, Z))
        # one evaluation is not enough for the model without a component
        hasty = replace(fit, options=replace(fit.options, max_iter=1))
        table = fm.variance_tests(hasty, tests="lrt")
        failed = np.isnan(table.lrt[:, :-1])
        assert failed.any()
        assert (table.status[:, :-1][failed] == "not_converged").all()
        assert (table.status[:, -1] == fit.status).all()


@pytest.fixture(scope="module")
def fits():
    """One component, two, and one that may be negative."""
    Y, X, Z = oracle.problem(4, components=2, genes=3)
    both, one = statistics(Y, X, Z), statistics(Y, X, Z[:1])
    return fm.fit_lmm(one), fm.fit_lmm(both), fm.fit_lmm(one, nonnegative=False)


class TestBadInput:
    @pytest.mark.parametrize(
        "options, said",
        [
            ({"components": "donor"}, "components .*component1.* found 'donor'"),
            ({"components": []}, "components names nothing"),
            ({"tests": "wald"}, "tests must be among"),
            ({"intervals": ["profile", "bootstrap"]}, "intervals .*'bootstrap'"),
            ({"level": 95}, "between 0 and 1"),
            ({"level": float("nan")}, "between 0 and 1"),
            ({"genes": ["gene1", "MYC"]}, "1 are not in the fit, such as 'MYC'"),
            ({"n_simulations": 5}, "n_simulations"),
        ],
    )
    def test_options(self, fits, options, said):
        with pytest.raises(fm.InputError, match=said):
            fm.variance_tests(fits[0], **options)

    @pytest.mark.parametrize("options", [{"tests": "rlrt"}, {"tests": "f"}, {"intervals": "exact"}])
    def test_exact_is_for_one_bounded_component(self, fits, options):
        with pytest.raises(fm.InputError, match="one random component only, and this model has 2"):
            fm.variance_tests(fits[1], **options)
        with pytest.raises(fm.InputError, match="nonnegative=True"):
            fm.variance_tests(fits[2], **options)

    def test_profile_is_for_bounded_components(self, fits):
        with pytest.raises(fm.InputError, match="nonnegative=True, or use 'wald'"):
            fm.variance_tests(fits[2], tests="z", intervals="profile")

    def test_dropped_components(self, fits):
        with pytest.raises(fm.InputError, match="no random term 'donor'"):
            drop_component(fits[1].stats, "donor")
        with pytest.raises(fm.InputError, match="only random term"):
            drop_component(fits[0].stats, "component1")


@pytest.fixture(scope="module")
def cells():
    rng = np.random.default_rng(8)
    n, genes = 300, 4
    subject = rng.integers(0, 8, n)
    obs = pd.DataFrame(
        {
            "subject": pd.Series(subject).map("S{}".format),
            "type": rng.choice(["a", "b", "c"], n),
            "condition": np.where(subject % 2, "stim", "ctrl"),
            "libsize": rng.integers(500, 3000, n),
        }
    )
    obs.index = obs.index.astype(str)
    counts = rng.poisson(2 + subject[:, None] % 3, size=(n, genes)).astype(float)
    return anndata.AnnData(counts, obs=obs)


FORMULA = "~ log(libsize) + type + type:condition"
RANDOM = ["log(libsize) || subject", "subject:type"]


@pytest.fixture(scope="module")
def from_groups(cells):
    groups = fm.summarise(cells, by=["subject", "type", "condition"], covariates=["log(libsize)"])
    return fm.summary_statistics(groups, FORMULA, RANDOM)


class TestDropComponent:
    @pytest.mark.parametrize("name", ["subject", "subject|log(libsize)", "subject:type"])
    def test_equals_statistics_made_without_it(self, from_groups, name):
        without = drop_component(from_groups, name)
        texts = {
            "subject": ["0 + log(libsize) || subject", "subject:type"],
            "subject|log(libsize)": ["subject", "subject:type"],
            "subject:type": ["log(libsize) || subject"],
        }
        fresh = fm.summary_statistics(from_groups.groups, FORMULA, texts[name])
        assert without.components == fresh.components
        assert without.component_sizes == fresh.component_sizes
        assert list(without.Z_levels) == list(fresh.Z_levels)
        for product in ("ZtX", "ZtZ", "YtZ", "Z_sum", "XtX", "YtX", "yty"):
            np.testing.assert_allclose(getattr(without, product), getattr(fresh, product))
        assert without.model is None

    def test_of_matrices_and_sparse_products(self):
        Y, X, Z = three_components()
        stats = statistics(Y, X, Z, ["a", "b", "c"])
        import scipy.sparse as sp

        for ZtZ in (stats.ZtZ, sp.csr_array(stats.ZtZ)):
            without = drop_component(replace(stats, ZtZ=ZtZ), "b")
            fresh = statistics(Y, X, [Z[0], Z[2]], ["a", "c"])
            left = without.ZtZ.toarray() if sp.issparse(without.ZtZ) else without.ZtZ
            np.testing.assert_allclose(left, fresh.ZtZ)
            np.testing.assert_allclose(without.YtZ, fresh.YtZ)


class TestExplained:
    def test_terms_of_a_formula_on_the_cells(self, cells, from_groups):
        fit = fm.fit_lmm(from_groups)
        explained = fm.variance_explained(fit)
        assert explained.terms == ("log(libsize)", "type", "type:condition")
        design = cell_design(cells.obs, FORMULA, RANDOM)
        assert design.coefficient_terms == from_groups.coefficient_terms
        X, Z, n = design.X.to_numpy(), design.Z.toarray(), cells.n_obs
        terms = np.array(design.coefficient_terms)
        bounds = np.cumsum((0, *design.component_sizes))
        for g in range(fit.n_genes):
            for j, term in enumerate(explained.terms):
                part = X[:, terms == term] @ fit.coef[g, terms == term]
                assert explained.fixed[g, j] == pytest.approx(part.var(ddof=1), rel=1e-8)
            fixed = (X @ fit.coef[g]).var(ddof=1)
            assert explained.fixed_total[g] == pytest.approx(fixed, rel=1e-8)
            covariances = [
                fit.theta[g, k] * (Zk := Z[:, bounds[k] : bounds[k + 1]]) @ Zk.T
                for k in range(len(bounds) - 1)
            ]
            # expected sample variance of a vector of covariance C: tr(C centred)/(n - 1)
            for k, C in enumerate(covariances):
                expected = (np.trace(C) - C.sum() / n) / (n - 1)
                assert explained.random[g, k] == pytest.approx(expected, rel=1e-8, abs=1e-12)
            r, s0 = sum(np.trace(C) for C in covariances) / n, fit.theta[g, -1]
            assert explained.r2_marginal[g] == pytest.approx(fixed / (fixed + r + s0))
            assert explained.r2_conditional[g] == pytest.approx((fixed + r) / (fixed + r + s0))

    def test_frame(self, from_groups):
        explained = fm.variance_explained(fm.fit_lmm(from_groups))
        frame = explained.to_frame()
        assert list(frame.columns) == ["gene", "part", "term", "variance", "fraction", "status"]
        whole = frame[frame.part != "fixed"].groupby("gene")["fraction"].sum()
        np.testing.assert_allclose(whole, 1.0)
        assert list(explained.r2_to_frame().columns) == [
            "gene",
            "r2_marginal",
            "r2_conditional",
            "status",
        ]
        assert "type:condition" in repr(explained)

    def test_coefficients_of_matrices_and_named_terms(self):
        Y, X, Z = oracle.problem(4, genes=3)
        fit = fm.fit_lmm(statistics(Y, X, Z))
        each = fm.variance_explained(fit)
        assert each.terms == fit.coefficients
        np.testing.assert_allclose(each.fixed[:, 0], 0, atol=1e-9)  # the intercept
        named = fm.variance_explained(fit, {"type": ["x3", "x4"], "x": "x2"})
        assert named.terms == ("type", "x")
        for g in range(3):
            part = X[:, 2:4] @ fit.coef[g, 2:4]
            assert named.fixed[g, 0] == pytest.approx(part.var(ddof=1))
        np.testing.assert_allclose(named.fixed[:, 1], each.fixed[:, 1])

    def test_aliased_columns_and_genes_without_a_fit(self):
        Y, X, Z = oracle.problem(4, genes=3)
        Y[:, 1] = 0.0
        with pytest.warns(fm.FlashmmWarning, match="linear combinations"):
            fit = fm.fit_lmm(statistics(Y, np.hstack([X, X[:, [1]]]), Z))
        explained = fm.variance_explained(fit)
        expected = fm.variance_explained(fm.fit_lmm(statistics(Y, X, Z)))
        np.testing.assert_allclose(explained.fixed_total, expected.fixed_total)
        assert explained.fixed[0, -1] == 0
        assert np.isnan(explained.fixed_total[1]) and np.isnan(explained.r2_conditional[1])
        assert explained.status[1] == "all_zero"

    def test_negative_components_count_as_zero(self):
        Y, X, Z = oracle.problem(6, genes=8)
        fit = fm.fit_lmm(statistics(Y, X, Z), nonnegative=False)
        negative = fit.fitted & (fit.theta[:, 0] < 0)
        explained = fm.variance_explained(fit)
        assert negative.any() and (explained.random[negative] == 0).all()

    def test_bad_input(self):
        Y, X, Z = oracle.problem(4, genes=3)
        fit = fm.fit_lmm(statistics(Y, X, Z))
        with pytest.raises(fm.InputError, match="'a' names 'y9'"):
            fm.variance_explained(fit, {"a": ["x1", "y9"]})
        with pytest.raises(fm.InputError, match="no coefficient"):
            fm.variance_explained(fit, {"a": []})
        bare = fm.fit_lmm(replace(fit.stats, X_sum=None))
        with pytest.raises(fm.InputError, match="X_sum"):
            fm.variance_explained(bare)
