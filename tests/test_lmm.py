"""fit_lmm: invariances, degenerate genes, aliased columns, bad input."""

from __future__ import annotations

import dataclasses

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flashmm as fm
from flashmm.kernels.engine import take


def statistics(Y, X, Z, **names):
    sizes = [block.shape[1] for block in Z]
    return fm.summary_statistics_from_matrices(Y, X, np.hstack(Z), component_sizes=sizes, **names)


@pytest.fixture(params=[1, 2], ids=["K1", "K2"])
def problem(request):
    return oracle.problem(3, components=request.param)


@given(power=st.integers(-6, 6), sign=st.sampled_from([-1, 1]), components=st.sampled_from([1, 2]))
@settings(max_examples=20, deadline=None)
def test_scale_of_the_response(power, sign, components):
    Y, X, Z = oracle.problem(5, components=components)
    scale = sign * 10.0**power
    plain, scaled = (fm.fit_lmm(statistics(y, X, Z)) for y in (Y, scale * Y))
    np.testing.assert_allclose(scaled.theta, scale**2 * plain.theta, rtol=1e-9)
    np.testing.assert_allclose(scaled.coef, scale * plain.coef, rtol=1e-9)
    shift = plain.df_residual * np.log(abs(scale))
    np.testing.assert_allclose(scaled.loglik, plain.loglik - shift, rtol=1e-10)
    assert (scaled.status == plain.status).all()
    np.testing.assert_allclose(
        fm.contrast_tests(scaled).statistic, sign * fm.contrast_tests(plain).statistic, rtol=1e-8
    )


@given(seed=st.integers(0, 10_000), components=st.sampled_from([1, 2]))
@settings(max_examples=20, deadline=None)
def test_order_of_cells_and_recoding_of_the_design(seed, components):
    Y, X, Z = oracle.problem(5, components=components)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(Y))
    M = rng.normal(size=(X.shape[1], X.shape[1])) + 3 * np.eye(X.shape[1])
    plain = fm.fit_lmm(statistics(Y, X, Z))
    other = fm.fit_lmm(statistics(Y[order], X[order] @ M, [z[order] for z in Z]))
    np.testing.assert_allclose(other.theta, plain.theta, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(other.coef @ M.T, plain.coef, rtol=1e-6, atol=1e-8)
    shift = np.linalg.slogdet(M)[1]
    np.testing.assert_allclose(other.loglik, plain.loglik - shift, rtol=1e-8)
    # the same question in the other coding: c'β = (M'c)'β*… with β = Mβ*
    question = rng.normal(size=(X.shape[1], 2))
    ours, theirs = fm.contrast_tests(plain, question), fm.contrast_tests(other, M.T @ question)
    for name in ("estimate", "std_error", "df"):
        np.testing.assert_allclose(
            getattr(theirs, name), getattr(ours, name), rtol=1e-6, atol=1e-8, err_msg=name
        )


@given(split=st.integers(1, 149))
@settings(max_examples=15, deadline=None)
def test_level_names_and_order_of_levels_do_not_matter(split):
    Y, X, (Z,) = oracle.problem(2)
    order = np.random.default_rng(split).permutation(Z.shape[1])
    plain, other = (fm.fit_lmm(statistics(Y, X, [z])) for z in (Z, Z[:, order]))
    np.testing.assert_allclose(other.theta, plain.theta, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(other.blup(), plain.blup()[:, order], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_genes_together_equal_genes_one_by_one(problem, method):
    Y, X, Z = problem
    whole = fm.fit_lmm(statistics(Y, X, Z), method=method)
    blocks = fm.fit_lmm(statistics(Y, X, Z), method=method, block_size=2)
    np.testing.assert_allclose(blocks.theta, whole.theta, rtol=1e-10)
    np.testing.assert_allclose(blocks.cov, whole.cov, rtol=1e-10)
    for g in range(Y.shape[1]):
        alone = fm.fit_lmm(statistics(Y[:, [g]], X, Z), method=method)
        np.testing.assert_allclose(alone.theta[0], whole.theta[g], rtol=1e-9, atol=1e-12)


def test_engines_agree_through_the_public_interface():
    Y, X, Z = oracle.problem(4)
    stats = statistics(Y, X, Z)
    fits = [fm.fit_lmm(stats, engine=engine) for engine in ("spectral", "dense")]
    for name in ("coef", "theta", "cov", "loglik", "fisher_information"):
        spectral, dense = (getattr(fit, name) for fit in fits)
        np.testing.assert_allclose(spectral, dense, rtol=1e-9, atol=1e-11, err_msg=name)
    for ddf in ("kenward-roger", "satterthwaite", "residual"):
        with np.errstate():
            tables = [_quiet_tests(fit, ddf) for fit in fits]
        np.testing.assert_allclose(tables[0].df, tables[1].df, rtol=1e-8)
        np.testing.assert_allclose(tables[0].p_value, tables[1].p_value, rtol=1e-7)


def _quiet_tests(fit, ddf):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fm.FlashmmWarning)
        return fm.contrast_tests(fit, ddf=ddf)


def test_theta_cov_is_the_inverse_of_the_information(problem):
    Y, X, Z = problem
    fit = fm.fit_lmm(statistics(Y, X, Z))
    identity = fit.theta_cov @ fit.fisher_information
    np.testing.assert_allclose(
        identity, np.broadcast_to(np.eye(len(Z) + 1), identity.shape), atol=1e-9
    )


class TestDegenerateGenes:
    """One odd gene has a status and leaves the others as they are."""

    @pytest.fixture
    def odd(self, problem):
        Y, X, Z = problem
        rng = np.random.default_rng(0)
        zero, constant = np.zeros(len(Y)), np.full(len(Y), 3.0)
        in_span = X @ rng.normal(size=X.shape[1])
        between = np.hstack(Z) @ rng.normal(size=sum(z.shape[1] for z in Z))
        return Y, np.column_stack([zero, constant, in_span, between]), X, Z

    @pytest.mark.parametrize("method", ["REML", "ML"])
    def test_status(self, odd, method):
        Y, strange, X, Z = odd
        alone = fm.fit_lmm(statistics(Y, X, Z), method=method)
        mixed = fm.fit_lmm(statistics(np.hstack([strange, Y]), X, Z), method=method)
        expected = ["all_zero", "perfect_fit", "perfect_fit", "no_within_variance"]
        assert mixed.status[:4].tolist() == expected
        np.testing.assert_allclose(mixed.theta[4:], alone.theta, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(mixed.coef[1], [3.0] + [0.0] * (X.shape[1] - 1), atol=1e-9)
        assert np.isnan(mixed.loglik[:4]).all() and np.isnan(mixed.cov[:4]).all()
        table = fm.contrast_tests(mixed, np.eye(X.shape[1])[:, :2]) if method == "REML" else None
        if table:
            assert np.isnan(table.p_value[:4]).all()
            assert np.isfinite(table.p_value[4:]).all()
            assert table.status[:4, 0].tolist() == expected

    def test_every_status_has_a_sentence(self):
        for status in fm.Status:
            assert status.sentence.endswith(".") and len(status.sentence) > 20

    def test_all_genes_odd(self, odd):
        _, strange, X, Z = odd
        fit = fm.fit_lmm(statistics(strange, X, Z))
        assert not fit.fitted.any()
        assert np.isnan(fm.contrast_tests(fit).p_value).all()
        assert np.isnan(fit.blup()).all()

    def test_too_few_iterations(self, problem):
        Y, X, Z = problem
        fit = fm.fit_lmm(statistics(Y, X, Z), max_iter=1)
        stopped = fit.status == "not_converged"
        assert stopped.any()
        assert (fit.decrement[stopped] >= fit.options.tol).all()
        assert np.isfinite(fit.theta[stopped]).all()
        assert np.isnan(fm.contrast_tests(fit).p_value[stopped]).all()

    def test_indefinite_covariance(self):
        Y, X, Z = oracle.problem(0)
        fit = fm.fit_lmm(statistics(Y, X, Z), nonnegative=False)
        (g,) = np.flatnonzero(fit.status == "not_positive_definite")
        V = oracle.covariance(Z, fit.theta[g])
        assert np.linalg.eigvalsh(V)[0] <= 0
        assert np.isfinite(fit.coef[g]).all() and np.isfinite(fit.loglik[g])
        assert np.isnan(fit.cov[g]).all()
        assert np.isnan(fm.contrast_tests(fit).p_value[g]).all()


class TestAliasedColumns:
    @pytest.fixture
    def fits(self, problem):
        Y, X, Z = problem
        names = list("abcdef")
        twice = np.column_stack([X, X[:, 1] - X[:, 2], np.zeros(len(X))])
        full = fm.fit_lmm(statistics(Y, X, Z, coefficients=names))
        with pytest.warns(fm.FlashmmWarning, match="sum, empty"):
            aliased = fm.fit_lmm(statistics(Y, twice, Z, coefficients=[*names, "sum", "empty"]))
        return full, aliased

    def test_are_named_dropped_and_nan(self, fits):
        full, aliased = fits
        assert aliased.aliased == ("sum", "empty")
        assert aliased.df_residual == full.df_residual
        np.testing.assert_allclose(aliased.theta, full.theta, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(aliased.coef[:, :6], full.coef, rtol=1e-7, atol=1e-9)
        assert np.isnan(aliased.coef[:, 6:]).all()
        np.testing.assert_allclose(aliased.cov[:, :6, :6], full.cov, rtol=1e-6, atol=1e-9)

    def test_contrasts_that_need_them_are_not_estimable(self, fits):
        _, aliased = fits
        table = fm.contrast_tests(
            aliased, {"fine": "a - d", "not": "a - empty", "joint": ["b", "sum"]}
        )
        assert np.isfinite(table.p_value[:, 0]).all()
        assert np.isnan(table.p_value[:, 1:]).all()
        assert (table.status[:, 1:] == "not_estimable").all()

    def test_contrasts_that_cannot_be_told_from_them_are_not_estimable(self, fits):
        """As sum = b - c, b is estimated as b + sum and c as c - sum; b + c is itself."""
        full, aliased = fits
        contrasts = ["b", "c", "b + c", "d"]
        with pytest.warns(fm.FlashmmWarning, match="'b', 'c' cannot be told from 'sum'"):
            table = fm.contrast_tests(aliased, contrasts)
        assert (table.status[:, :2] == "not_estimable").all()
        assert np.isnan(table.estimate[:, :2]).all() and np.isnan(table.p_value[:, :2]).all()
        expected = fm.contrast_tests(full, contrasts).p_value[:, 2:]
        np.testing.assert_allclose(table.p_value[:, 2:], expected, rtol=1e-5)


class TestBadInput:
    def test_options(self, problem):
        stats = statistics(*problem)
        for options, word in [
            ({"method": "reml"}, "method"),
            ({"engine": "fast"}, "engine"),
            ({"max_iter": 0}, "max_iter"),
            ({"tol": 0.0}, "tol"),
            ({"start": [1.0]}, "start"),
            ({"start": [-1.0] * len(stats.component_sizes) + [1.0]}, "negative"),
            ({"start": [1.0] * len(stats.component_sizes) + [0.0]}, "positive"),
        ]:
            with pytest.raises(fm.InputError, match=word):
                fm.fit_lmm(stats, **options)

    def test_spectral_engine_with_two_components(self):
        with pytest.raises(fm.InputError, match="one random component"):
            fm.fit_lmm(statistics(*oracle.problem(0, components=2)), engine="spectral")

    def test_random_effects_confounded_with_fixed_ones(self):
        Y, X, (Z,) = oracle.problem(0)
        with pytest.raises(fm.DesignError, match="confounded"):
            fm.fit_lmm(statistics(Y, np.column_stack([X[:, 1], Z]), [Z]))

    def test_a_level_per_cell(self):
        Y, X, _ = oracle.problem(0)
        with pytest.raises(fm.DesignError, match="level of its own"):
            fm.fit_lmm(statistics(Y, X, [np.eye(len(Y))]))

    def test_more_coefficients_than_cells(self):
        rng = np.random.default_rng(0)
        with pytest.raises(fm.DesignError, match="nothing to"):
            fm.fit_lmm(
                statistics(rng.normal(size=(5, 2)), rng.normal(size=(5, 5)), [np.ones((5, 1))])
            )


def test_records_are_frozen(problem):
    fit = fm.fit_lmm(statistics(*problem))
    with pytest.raises(dataclasses.FrozenInstanceError):
        fit.coef = None
    assert "genes" in repr(fit)


def test_an_optimum_with_definite_covariance_comes_before_those_outside() -> None:
    """Unequal subjects: REML may be higher where V is indefinite, beside a valid optimum."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(6):
        subject = np.repeat(np.arange(10), rng.integers(2, 40, 10))
        X = np.column_stack([np.ones(len(subject)), subject % 2])
        Z = np.eye(10)[subject]
        Y = rng.normal(size=(len(subject), 60))
        stats = statistics(Y, X, [Z])
        bounded, free = fm.fit_lmm(stats), fm.fit_lmm(stats, nonnegative=False)
        inside = bounded.status == "ok"
        assert set(free.status[inside]) == {"ok"}
        np.testing.assert_allclose(free.theta[inside], bounded.theta[inside], rtol=1e-6)
        outside = np.flatnonzero(free.status == "not_positive_definite")
        found.append(len(outside))
        if len(outside):  # a fine search finds no optimum where V is definite
            engine = free.model.engine
            genes = take(free.model.responses(stats, 0, 60), outside)
            end = -1 / np.bincount(subject).max()
            points = np.concatenate([end * np.linspace(1 - 1e-9, 0, 800), np.logspace(-6, 4, 400)])
            f = np.array([engine.objective(np.full((len(outside), 1), g), genes) for g in points])
            assert not ((f[1:-1] < f[:-2] - 1e-9) & (f[1:-1] < f[2:] - 1e-9)).any()
    assert sum(found) > 5


@pytest.mark.parametrize("power", [-160, -100, -60, 60, 100, 150])
def test_values_whose_variances_are_no_numbers_have_a_status(power):
    Y, X, Z = oracle.problem(3, components=1)
    with np.errstate(all="raise"):
        scaled = Y * np.where(np.arange(Y.shape[1]) == 1, 10.0**power, 1.0)
    fit, plain = fm.fit_lmm(statistics(scaled, X, Z)), fm.fit_lmm(statistics(Y, X, Z))
    others = np.arange(Y.shape[1]) != 1
    assert fit.status[1] == "out_of_range"
    assert np.isnan(fit.theta[1]).all()
    np.testing.assert_array_equal(fit.theta[others], plain.theta[others])
    table = fm.contrast_tests(fit).to_frame()
    assert table.loc[table["p_value"].isna(), "status"].isin(["out_of_range"]).all()


def test_a_gene_whose_squares_overflow_does_not_stop_the_others():
    Y, X, Z = oracle.problem(3, components=1)
    stats = statistics(Y, X, Z)
    yty, YtX = stats.yty.copy(), stats.YtX.copy()
    yty[0], YtX[0] = np.inf, np.nan
    fit = fm.fit_lmm(dataclasses.replace(stats, yty=yty, YtX=YtX))
    assert fit.status[0] == "out_of_range"
    np.testing.assert_array_equal(fit.theta[1:], fm.fit_lmm(stats).theta[1:])


@pytest.mark.parametrize("engine", ["spectral", "dense", "eliminated"])
def test_a_variance_that_has_lost_all_digits_is_none(engine):
    """Between levels 1e7 standard deviations: of those within levels nothing is left of y'y."""
    Y, X, Z = oracle.problem(3, components=1)
    between = Z[0] @ np.random.default_rng(0).normal(size=(Z[0].shape[1], 2))
    fit = fm.fit_lmm(statistics(between + Y[:, :2] * [1e-7, 1e-2], X[:, :1], Z), engine=engine)
    assert list(fit.status) == ["no_within_variance", "ok"]


def test_offsets_that_cost_digits_are_said():
    Y, X, Z = oracle.problem(3, components=1)
    X = np.column_stack([np.ones(len(Y)), X[:, -1]])
    plain = fm.fit_lmm(statistics(Y, X, Z))
    assert plain.notes == ()
    explained = Y + 1e5 * Y.std() * X[:, 1:]
    with pytest.warns(
        fm.FlashmmWarning, match=rf"Of {Y.shape[1]} genes less than 1e-08 .* Subtract"
    ):
        fm.fit_lmm(statistics(explained, X, Z))
    assert fm.fit_lmm(statistics(Y + 3e4 * Y.std(), X, Z)).notes == ()
    steps = np.arange(len(Y)) % 7
    assert statistics(Y, np.column_stack([X[:, 0], 1e7 + steps]), Z).notes == ()
    far = np.column_stack([1e7 + steps**2, 1e7 + steps])
    with pytest.warns(fm.FlashmmWarning, match=r"'x1', 'x2': the mean .* subtract a constant"):
        stats = statistics(Y, far, Z)
    with pytest.warns(fm.FlashmmWarning, match="were dropped: x2"):
        fm.fit_lmm(stats)


@pytest.mark.parametrize("name", ["Y", "X", "Z"])
def test_masked_values_are_not_read_as_if_they_were_there(name):
    given = dict(zip("YXZ", oracle.problem(3, components=1), strict=True))
    given["Z"] = np.hstack(given["Z"])
    mask = np.zeros(given[name].shape, dtype=bool)
    fm.summary_statistics_from_matrices(**given, component_sizes=given["Z"].shape[1])
    mask[2, 0] = True
    given[name] = np.ma.masked_array(given[name], mask)
    with pytest.raises(fm.InputError, match=f"{name} is a masked array with 1 masked values"):
        fm.summary_statistics_from_matrices(**given, component_sizes=given["Z"].shape[1])


@pytest.mark.parametrize(
    ("option", "value"),
    [("block_size", -1), ("block_size", 0), ("block_size", 1.5), ("max_iter", "x"), ("tol", "x")],
)
def test_options_that_are_no_such_numbers(option, value):
    Y, X, Z = oracle.problem(3, components=1)
    words = rf"^{option} (is|must be) a .*number.*; found {value!r}"
    with pytest.raises(fm.InputError, match=words):
        fm.fit_lmm(statistics(Y, X, Z), **{option: value})
