"""Joint models of several traits: oracles in closed form, invariances, names and bad inputs."""

from __future__ import annotations

import numpy as np
import oracle
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

import flashmm as fm

N, R = 60, 12


def draw(seed=0, n=N, p=3, r=R, rank=1, h2=0.5, c=2):
    """Traits of half genetic variance with an intercept and a covariate."""
    rng = np.random.default_rng(seed)
    G = rng.normal(size=(n, r)) / np.sqrt(r)
    X = np.column_stack([np.ones(n), rng.normal(size=(n, c - 1))])
    shared = rng.normal(size=(p, rank))
    noise = np.tril(0.5 * rng.normal(size=(p, p)), -1) + np.eye(p)
    Y = X @ rng.normal(size=(c, p)) + np.sqrt(h2) * G @ rng.normal(size=(r, rank)) @ shared.T
    return Y + np.sqrt(1 - h2) * rng.normal(size=(n, p)) @ noise.T, X, G


@pytest.fixture(scope="module")
def data():
    return draw()


@pytest.fixture(scope="module")
def fit(data):
    return fm.fit_multitrait_lmm(*data)


# ---- special cases ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("r", [R, 50])
@pytest.mark.parametrize("h2", [0.0, 0.3, 0.8])
def test_one_trait_is_the_model_of_one_component(method, r, h2):
    Y, X, G = draw(seed=3, p=1, r=r, h2=h2)
    fit = fm.fit_multitrait_lmm(Y, X, G, method=method)
    one = fm.fit_lmm(fm.summary_statistics_from_matrices(Y, X, G, component_sizes=[r]), method)
    theta = np.array([fit.C0[0, 0], fit.C1[0, 0]])
    np.testing.assert_allclose(theta, one.theta[0], rtol=1e-8, atol=1e-8 * one.theta.max())
    np.testing.assert_allclose(fit.loglik, one.loglik[0], rtol=1e-10)
    np.testing.assert_allclose(fit.B[:, 0], one.coef[0], rtol=1e-8)
    np.testing.assert_allclose(fit.cov, one.cov[0], rtol=1e-7, atol=1e-10)
    assert fit.status == one.status[0]


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_without_genetic_covariance_every_trait_is_ordinary_least_squares(data, method):
    Y, X, G = data
    fit = fm.fit_multitrait_lmm(Y, X, G, rank=0, method=method)
    B, *_ = np.linalg.lstsq(X, Y, rcond=None)
    df = len(Y) - X.shape[1] if method == "REML" else len(Y)
    C1 = (Y - X @ B).T @ (Y - X @ B) / df
    np.testing.assert_allclose(fit.B, B, rtol=1e-9)
    np.testing.assert_allclose(fit.C1, C1, rtol=1e-8)
    np.testing.assert_allclose(fit.C0, 0, atol=0)
    np.testing.assert_allclose(fit.cov, np.kron(C1, np.linalg.inv(X.T @ X)), rtol=1e-7, atol=1e-9)
    assert fit.status == "ok" and (fit.heritability == 0).all()


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("design", ["square", "common"])
def test_log_likelihood_is_that_of_dense_matrices(data, method, design):
    Y, X, G = data
    A = np.tri(3) if design == "square" else np.column_stack([np.ones(3), [0.0, 1.0, 3.0]])
    fit = fm.fit_multitrait_lmm(Y, X, G, A, rank=2, method=method)
    y, M, K = Y.ravel("F"), np.kron(A, X), fit.covariance()
    np.testing.assert_allclose(fit.loglik, oracle.loglik(y, M, K, method == "REML"), rtol=1e-10)
    beta, Phi = oracle.gls(y, M, K)
    np.testing.assert_allclose(fit.B.ravel("F"), beta, rtol=1e-7)
    np.testing.assert_allclose(fit.cov, Phi, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(fit.mean.ravel("F"), M @ beta, rtol=1e-7)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_no_change_of_the_covariances_is_better(data, rank):
    fit = fm.fit_multitrait_lmm(*data, rank=rank)
    assert fit.gradient_norm < 1e-8 and fit.converged
    rng = np.random.default_rng(0)
    L0, L1 = fit.model.roots(fit.state)
    for size in (1e-3, 1e-2, 1e-1):
        for _ in range(5):
            moved = L1 + size * np.tril(rng.normal(size=L1.shape))
            state = fit.model.evaluate(L0 + size * rng.normal(size=L0.shape), moved)
            assert fit.model.loglik(state) < fit.loglik


def test_more_rank_never_fits_worse(data):
    logliks = [fm.fit_multitrait_lmm(*data, rank=rank).loglik for rank in range(4)]
    assert (np.diff(logliks) > -1e-8).all() and logliks[1] > logliks[0] + 1


def test_recovers_what_it_was_simulated_from():
    rng = np.random.default_rng(1)
    G = rng.normal(size=(1500, 400)) / 20
    shared, noise = (
        np.array([[1.0], [0.6], [-0.5]]),
        np.array([[1, 0.4, 0], [0.4, 1, 0], [0, 0, 0.5]]),
    )
    Y = G @ rng.normal(size=(400, 1)) @ shared.T
    Y = Y + rng.multivariate_normal(np.zeros(3), noise, size=1500) + [1.0, 2.0, 3.0]
    fit = fm.fit_multitrait_lmm(Y, np.ones((1500, 1)), G)
    np.testing.assert_allclose(fit.C0, shared @ shared.T, atol=0.2)
    np.testing.assert_allclose(fit.C1, noise, atol=0.08)
    np.testing.assert_allclose(fit.heritability, [1 / 2, 0.36 / 1.36, 0.25 / 0.75], atol=0.08)
    assert (np.abs(fit.B[0] - [1, 2, 3]) < 4 * fit.std_error[0]).all()


# ---- invariances -----------------------------------------------------------------------------


@settings(max_examples=5, deadline=None)
@given(
    scales=st.lists(st.floats(-6, 6), min_size=3, max_size=3),
    shift=st.floats(-1e4, 1e4),
    unit=st.floats(-4, 4),
)
def test_units_do_not_matter(data, fit, scales, shift, unit):
    Y, X, G = data
    s = 10.0 ** np.array(scales)
    other = fm.fit_multitrait_lmm((Y + shift) * s, X * [1, 10.0**unit], G * 10.0**-unit)
    pairs = np.outer(s, s)
    np.testing.assert_allclose(other.C0 / pairs * 10 ** (-2 * unit), fit.C0, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(other.C1 / pairs, fit.C1, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(other.B[1] / s * 10.0**unit, fit.B[1], rtol=1e-6, atol=1e-8)
    # Y → YS divides the density by |S| in each of n - c dimensions; |X'X| counts once per trait
    expected = fit.loglik - (N - 2) * np.log(s).sum() - 3 * unit * np.log(10)
    np.testing.assert_allclose(other.loglik, expected, atol=1e-6)


def test_order_of_traits_does_not_matter(data, fit):
    Y, X, G = data
    order = [2, 0, 1]
    other = fm.fit_multitrait_lmm(Y[:, order], X, G)
    np.testing.assert_allclose(other.C1, fit.C1[np.ix_(order, order)], rtol=1e-8)
    np.testing.assert_allclose(other.loglik, fit.loglik, rtol=1e-12)


def test_seed_and_number_of_starts_find_the_same(data, fit):
    for options in ({"seed": 7}, {"n_starts": 1}, {"start": (np.eye(3), np.eye(3))}):
        other = fm.fit_multitrait_lmm(*data, **options)
        np.testing.assert_allclose(other.loglik, fit.loglik, rtol=1e-12)


def test_start_with_equal_columns_reaches_rank_two(data):
    free = fm.fit_multitrait_lmm(*data, rank=2, method="ML")
    start = (np.ones((3, 3)), np.eye(3))
    trapped = fm.fit_multitrait_lmm(*data, rank=2, method="ML", start=start, n_starts=1)
    np.testing.assert_allclose(trapped.loglik, free.loglik, rtol=1e-10)


# ---- names and gaps --------------------------------------------------------------------------


def framed(data):
    Y, X, G = data
    ids = [f"s{i}" for i in range(len(Y))]
    return (
        pd.DataFrame(Y, index=ids, columns=["B cells", "T cells", "NK"]),
        pd.DataFrame(X, index=ids, columns=["one", "age"]),
        pd.DataFrame(G, index=ids),
    )


def test_rows_are_matched_by_name(data, fit):
    Y, X, G = framed(data)
    with pytest.warns(fm.FlashmmWarning, match="Rows of X were put into the order of Y"):
        other = fm.fit_multitrait_lmm(Y, X.iloc[::-1], sparse.csr_array(G.to_numpy()))
    np.testing.assert_allclose(other.loglik, fit.loglik, rtol=1e-12)
    assert other.traits == ("B cells", "T cells", "NK") == other.trait_effects
    assert other.covariates == ("one", "age") and list(other.subjects) == list(Y.index)
    frame = other.to_frame()
    row = frame[(frame["covariate"] == "age") & (frame["trait_effect"] == "T cells")]
    np.testing.assert_allclose(row["estimate"], fit.B[1, 1], rtol=1e-8)
    np.testing.assert_allclose(row["std_error"], fit.std_error[1, 1], rtol=1e-8)
    A = pd.DataFrame(np.eye(3), index=Y.columns[::-1], columns=["nk", "t", "b"])
    named = fm.fit_multitrait_lmm(Y, X, G, A)
    assert named.trait_effects == ("nk", "t", "b")
    np.testing.assert_allclose(named.B[:, ::-1], fit.B, rtol=1e-7)


def test_subjects_with_gaps_are_left_out_on_request(data):
    Y, X, G = framed(data)
    gaps = Y.copy()
    gaps.iloc[[3, 5], 1] = np.nan
    with pytest.warns(fm.FlashmmWarning, match="2 of 60 subjects"):
        fit = fm.fit_multitrait_lmm(gaps, X, G, missing="drop")
    rows = [i for i in range(N) if i not in (3, 5)]
    kept = fm.fit_multitrait_lmm(Y.iloc[rows], X.iloc[rows], G.iloc[rows])
    np.testing.assert_allclose(fit.loglik, kept.loglik, rtol=1e-12)
    x = np.random.default_rng(0).normal(size=(N, 2))
    for candidates in (x, x[rows], pd.DataFrame(x, index=Y.index).iloc[::-1]):
        np.testing.assert_allclose(fit.scan(candidates).coef, kept.scan(x[rows]).coef, rtol=1e-9)


def test_dependent_covariates_are_left_out_and_said(data, fit):
    Y, X, G = data
    with pytest.warns(fm.FlashmmWarning, match="left out, their effects NaN: 'x3'"):
        other = fm.fit_multitrait_lmm(Y, np.column_stack([X, X @ [1.0, 2.0]]), G)
    np.testing.assert_allclose(other.B[:2], fit.B, rtol=1e-9)
    assert other.aliased == ("x3",) and np.isnan(other.B[2]).all()
    assert np.isnan(other.cov[2]).all() and np.isfinite(other.cov[:2, :2]).all()
    np.testing.assert_allclose(other.mean, fit.mean, rtol=1e-9)


def test_limits_are_said():
    Y, X, G = draw(seed=5, r=90)
    with pytest.warns(fm.FlashmmWarning, match="grows without bound"):
        fm.fit_multitrait_lmm(Y, X, G - G.mean(0), method="ML")
    fit = fm.fit_multitrait_lmm(Y, X, G - G.mean(0))
    assert fit.converged
    Y, X, G = draw(seed=6, h2=0.0)
    assert fm.fit_multitrait_lmm(Y, X, G, rank=3).status == "boundary"
    root = np.linalg.cholesky(np.cov(np.random.default_rng(0).normal(size=(N, 3 * N))))
    with pytest.warns(fm.FlashmmWarning, match="give a root of it"):
        fm.fit_multitrait_lmm(Y, X, root @ root.T)


def test_large_dense_covariance_is_refused(fit):
    assert fit.covariance().shape == (3 * N, 3 * N)
    Y, X, G = draw(n=7000)
    with pytest.raises(fm.InputError, match="21000 rows and columns"):
        fm.fit_multitrait_lmm(Y, X, G, n_starts=1).covariance()


def changed(data, **new):
    Y, X, G = data
    return {"Y": Y, "X": X, "G": G} | {k: f(Y, X, G) for k, f in new.items()}


BAD = {
    "Y holds missing values in 'trait2' (1) of 60": {
        "Y": lambda Y, X, G: np.where(np.arange(Y.size).reshape(Y.shape) == 4, np.nan, Y)
    },
    "X holds infinite values in 'x1' (60)": {"X": lambda Y, X, G: X * [np.inf, 1]},
    "X has 59 rows and Y has 60": {"X": lambda Y, X, G: X[1:]},
    "G has no row for 60 of the 60 subjects of Y": {
        "Y": lambda Y, X, G: pd.DataFrame(Y, index=[f"s{i}" for i in range(N)]),
        "G": lambda Y, X, G: pd.DataFrame(G, index=[f"t{i}" for i in range(N)]),
    },
    "Y has more than one row named 's'": {"Y": lambda Y, X, G: pd.DataFrame(Y, index=["s"] * N)},
    "Y holds columns that are not numbers: name": {
        "Y": lambda Y, X, G: pd.DataFrame({"name": ["x"] * N})
    },
    "G must be a matrix of numbers": {"G": lambda Y, X, G: G.astype(str)[:, :1] + "q"},
    "Y must be a matrix with rows and columns; found shape (60, 0)": {
        "Y": lambda Y, X, G: Y[:, :0]
    },
    "X is None": {"X": lambda Y, X, G: None},
    "Trait 'trait3' is constant": {"Y": lambda Y, X, G: Y * [1, 1, 0] + 7},
    "Trait 'trait2' is explained exactly by the covariates": {
        "Y": lambda Y, X, G: np.column_stack([Y[:, 0], X @ [1.0, 2.0]])
    },
    "Traits that are linear combinations of those before them: 'trait4'": {
        "Y": lambda Y, X, G: np.column_stack([Y, Y @ [1.0, -2.0, 0.5]])
    },
    "'trait2' is explained exactly by the covariates and G": {
        "Y": lambda Y, X, G: np.column_stack([Y[:, 0], G.sum(1)])
    },
    "60 subjects and 60 independent covariates leave nothing": {"X": lambda Y, X, G: np.tri(N)},
    "are fewer than 3 traits": {"X": lambda Y, X, G: np.tri(N)[:, :58]},
    "X is zero throughout": {"X": lambda Y, X, G: 0 * X},
    "G is zero throughout": {"G": lambda Y, X, G: 0 * G},
    "G lies in the span of the covariates": {"G": lambda Y, X, G: X},
    "GG' is a multiple of the identity": {"G": lambda Y, X, G: np.eye(N)},
    "A has 2 rows and Y has 3 traits": {"A": lambda Y, X, G: np.eye(2)},
    "Columns of A depend on the columns before them: 'effect2'": {
        "A": lambda Y, X, G: np.ones((3, 2))
    },
    "A holds values that are missing or infinite": {"A": lambda Y, X, G: np.full((3, 1), np.nan)},
    "rank is 4 and there are 3 traits": {"rank": lambda Y, X, G: 4},
    "rank must be a whole number; found 1.5": {"rank": lambda Y, X, G: 1.5},
    "n_starts must be a whole number of at least 1": {"n_starts": lambda Y, X, G: 0},
    "seed must be a whole number": {"seed": lambda Y, X, G: "x"},
    "method must be one of REML, ML; found 'reml'": {"method": lambda Y, X, G: "reml"},
    "missing must be one of error, drop": {"missing": lambda Y, X, G: "omit"},
    "start must be two 3 × 3 covariances": {"start": lambda Y, X, G: (np.eye(3), -np.eye(3))},
    "Every subject has a missing value": {
        "Y": lambda Y, X, G: Y * np.nan,
        "missing": lambda Y, X, G: "drop",
    },
}


@pytest.mark.parametrize("words", BAD)
def test_bad_inputs_are_refused_with_words(data, words):
    with pytest.raises(fm.FlashmmError) as error:
        fm.fit_multitrait_lmm(**changed(data, **BAD[words]))
    assert words in str(error.value) and "\n" not in str(error.value)


# ---- scan ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def candidates():
    return np.random.default_rng(9).binomial(2, 0.3, size=(N, 40)).astype(float)


def dense_scan(data, fit, x, A1):
    """Effects, log-likelihood and factor of one candidate from dense matrices."""
    Y, X, _ = data
    y, M, K = Y.ravel("F"), np.hstack([np.kron(np.eye(3), X), np.kron(A1, x)]), fit.covariance()
    beta, Phi = oracle.gls(y, M, K)
    residual = y - M @ beta
    scale = residual @ np.linalg.solve(K, residual) / len(y)
    loglik = stats.multivariate_normal(M @ beta, scale * K).logpdf(y)
    return beta[6:], scale * Phi[6:, 6:], loglik, scale


def test_scan_is_generalised_least_squares_with_a_factor(data, fit, candidates):
    designs = {"any": "any", "common": "common", "two": np.array([[1.0, 0], [1, 1], [0, 1]])}
    scans = fit.scan(candidates, designs)
    matrices = {"any": np.eye(3), "common": np.ones((3, 1)), "two": designs["two"]}
    null = dense_scan(data, fit, np.zeros((N, 0)), np.eye(3))
    for name, found in scans.items():
        np.testing.assert_allclose(found.null_loglik, null[2], rtol=1e-10)
        for i in (0, 17):
            coef, cov, loglik, scale = dense_scan(data, fit, candidates[:, [i]], matrices[name])
            np.testing.assert_allclose(found.coef[i], coef, rtol=1e-7)
            np.testing.assert_allclose(found.cov[i], cov, rtol=1e-7, atol=1e-10)
            np.testing.assert_allclose(found.std_error[i], np.sqrt(np.diag(cov)), rtol=1e-7)
            np.testing.assert_allclose(found.loglik[i], loglik, rtol=1e-10)
            np.testing.assert_allclose(found.scale[i], scale, rtol=1e-9)
            p = stats.chi2.sf(2 * (loglik - null[2]), found.df)
            np.testing.assert_allclose(found.p_value[i], p, rtol=1e-6)
    assert [found.df for found in scans.values()] == [3, 1, 2]
    assert scans["any"].coefficients == ("trait1", "trait2", "trait3")


def test_f_test_of_independent_traits_is_that_of_least_squares(data, candidates):
    Y, X, G = data
    fit = fm.fit_multitrait_lmm(Y[:, :1], X, G, rank=0)
    found = fit.scan(candidates, test="f")
    for i in (0, 5):
        M = np.column_stack([X, candidates[:, i]])
        beta, rss, *_ = np.linalg.lstsq(M, Y[:, 0], rcond=None)
        se = np.sqrt(rss[0] / (N - 3) * np.linalg.inv(M.T @ M)[2, 2])
        np.testing.assert_allclose(found.statistic[i], (beta[2] / se) ** 2, rtol=1e-8)
        p = 2 * stats.t.sf(abs(beta[2] / se), N - 3)
        np.testing.assert_allclose(found.p_value[i], p, rtol=1e-8)
    np.testing.assert_allclose(found.log10_p, np.log10(found.p_value), rtol=1e-9)


def test_null_p_values_are_uniform(data, fit):
    x = np.random.default_rng(11).normal(size=(N, 2000))
    for A1 in ("any", "common"):
        p = fit.scan(x, A1, test="f").p_value
        assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_blocks_formats_and_offsets_do_not_change_a_scan(fit, candidates, monkeypatch):
    whole = fit.scan(candidates)
    monkeypatch.setattr("flashmm.multitrait.scan.BLOCK_ELEMENTS", 7 * N)
    for other in (candidates, sparse.csr_matrix(candidates), candidates.astype(np.int8)):
        found = fit.scan(other, progress=False)
        np.testing.assert_allclose(found.coef, whole.coef, rtol=1e-10)
        np.testing.assert_allclose(found.p_value, whole.p_value, rtol=1e-8)
    moved = fit.scan(1e6 + 1e3 * candidates)
    np.testing.assert_allclose(moved.coef * 1e3, whole.coef, rtol=1e-6)


def test_progress_bar_is_shown_on_request(fit, candidates, capsys):
    fit.scan(candidates)
    assert capsys.readouterr().err == ""
    fit.scan(candidates, progress=True)
    assert "scan" in capsys.readouterr().err


def test_candidates_that_cannot_be_tested_have_a_status(data, fit, candidates):
    x = pd.DataFrame(candidates[:, :5].copy(), columns=list("abcde"))
    x["b"], x["c"] = 1.0, data[1] @ [1.0, 2.0]
    x.loc[3, "d"] = np.nan
    with pytest.warns(fm.FlashmmWarning, match="1 candidate columns hold missing"):
        frame = fit.scan(x).to_frame().set_index("candidate")
    assert frame["status"].to_dict() == {
        "a": "ok",
        "b": "not_estimable",
        "c": "not_estimable",
        "d": "not_estimable",
        "e": "ok",
    }
    bad = frame["status"] == "not_estimable"
    assert frame.loc[bad, "p_value"].isna().all() and frame.loc[~bad, "p_value"].notna().all()
    assert frame.loc[bad, "loglik"].isna().all()


@pytest.mark.parametrize(
    "words, call",
    {
        "candidates have 59 rows": lambda fit, x: fit.scan(x[1:]),
        "A1 must be 'any'": lambda fit, x: fit.scan(x, "all"),
        "A1 has 2 rows and Y has 3 traits": lambda fit, x: fit.scan(x, np.eye(2)),
        "A1 is an empty dictionary": lambda fit, x: fit.scan(x, {}),
        "cannot be tested 3 at a time": lambda fit, x: fit.scan(x, columns_per_test=3),
        "columns_per_test must be a whole number": lambda fit, x: fit.scan(x, columns_per_test=0),
        "test must be one of lrt, f": lambda fit, x: fit.scan(x, test="wald"),
        "0 candidate columns cannot be tested": lambda fit, x: fit.scan(x[:, :0]),
        "candidates must be a matrix of numbers": lambda fit, x: fit.scan(x.astype(str) + "q"),
        "candidates is None": lambda fit, x: fit.scan(None),
        "leave no degrees of freedom": lambda fit, x: fit.scan(
            np.random.default_rng(0).normal(size=(N, 60)), columns_per_test=60
        ),
    }.items(),
)
def test_bad_scans_are_refused_with_words(fit, candidates, words, call):
    with pytest.raises(fm.InputError) as error:
        call(fit, candidates)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_records_say_what_they_are(fit, candidates):
    assert repr(fit).startswith("MultiTraitFit(REML, 3 traits × 60 subjects, rank 1: ok, loglik")
    assert "40 candidates × 3 coefficients, lrt: 40 ok" in repr(fit.scan(candidates))
