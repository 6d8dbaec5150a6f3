"""Columns of X far from zero: results are those of the columns less a constant."""

from __future__ import annotations

import anndata as ad
import numpy as np
import oracle
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import flashmm as fm
from flashmm.cells.moments import moment_names
from flashmm.compat.flashmm_statistics import as_list
from flashmm.design.centring import centring_of_cells
from flashmm.design.columns import cell_design

N, SUBJECTS, GENES = 180, 9, 4
BY = ["subject", "cell_type", "condition", "age"]


def cells(offset: float = 0.0, seed: int = 0) -> ad.AnnData:
    """x of the cells and age of the subjects have few digits: a constant is added exactly."""
    random = np.random.default_rng(seed)
    subject = np.repeat(np.arange(SUBJECTS), N // SUBJECTS)
    x, age = (np.round(random.normal(size=size) * 2**20) / 2**20 for size in (N, SUBJECTS))
    values = random.normal(size=(N, GENES)) + random.normal(size=(SUBJECTS, GENES))[subject]
    values += 0.3 * x[:, None] + 0.5 * age[subject, None] + (subject % 2)[:, None]
    obs = pd.DataFrame(
        {
            "subject": [f"S{s}" for s in subject],
            "condition": np.where(subject % 2, "stim", "ctrl"),
            "cell_type": np.array(["T", "B", "NK"])[random.integers(0, 3, N)],
            "age": age[subject] + offset,
            "x": x + offset,
        },
        index=[f"c{i}" for i in range(N)],
    )
    return ad.AnnData(values, obs=obs)


def groups_of(data: ad.AnnData, **options) -> fm.GroupStatistics:
    return fm.summarise(data, BY, ["x"], transform="none", progress=False, **options)


def close(one, other, rtol: float = 1e-8, atol: float = 1e-9) -> None:
    np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


def assert_moved(far: fm.LMMFit, near: fm.LMMFit, X: np.ndarray, X_near: np.ndarray) -> None:
    """The same fit: variances, likelihood, fitted values, and all of the slopes."""
    assert far.aliased == near.aliased == ()
    close(far.theta, near.theta)
    close(far.loglik, near.loglik, 1e-10)
    close(far.coef @ X.T, near.coef @ X_near.T, 1e-7, 1e-7)
    # coefficients of columns that nothing is taken up by mean the same
    same = ~(far.stats.centring != 0).any(1)
    rows = np.eye(len(same))[:, same]
    assert same.any()
    tests, others = (fm.contrast_tests(fit, rows) for fit in (far, near))
    for name in ("estimate", "std_error", "df", "p_value"):
        close(getattr(tests, name), getattr(others, name))


DESIGNS = {
    "main": lambda x, age, c: [np.ones(N), x, age, c],
    "slopes": lambda x, age, c: [np.ones(N), c, x * (1 - c), x * c, age],
    "interaction": lambda x, age, c: [np.ones(N), x, age, c, x * c],
    "means": lambda x, age, c: [x, 1 - c, c, age],
    "sums to zero": lambda x, age, c: [np.ones(N), x, 2 * c - 1, x * (2 * c - 1)],
}


def matrices(offset: float, design: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    data = cells(offset)
    obs = data.obs
    c = (obs["condition"] == "stim").to_numpy(dtype=float)
    X = np.column_stack(DESIGNS[design](obs["x"].to_numpy(), obs["age"].to_numpy(), c))
    return data.X, X, pd.get_dummies(obs["subject"]).to_numpy(dtype=float)


@pytest.mark.parametrize("design", DESIGNS)
@given(power=st.floats(3, 7), sign=st.sampled_from([-1, 1]))
@settings(max_examples=2, deadline=None)
def test_designs_of_cells(design, power, sign):
    offset = sign * np.round(10**power)
    fits, designs = [], []
    for c in (offset, 0.0):
        Y, X, Z = matrices(c, design)
        fits.append(fm.fit_lmm(fm.summary_statistics_from_matrices(Y, X, Z, SUBJECTS)))
        designs.append(X)
    assert_moved(*fits, *designs)


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("engine", ["spectral", "dense", "eliminated"])
def test_every_engine_against_a_dense_likelihood_of_the_centred_columns(engine, method):
    Y, X, Z = matrices(1e7, "slopes")
    stats = fm.summary_statistics_from_matrices(Y, sparse.csr_array(X), Z, SUBJECTS)
    fit = fm.fit_lmm(stats, method, engine=engine)
    near, at = matrices(0.0, "slopes")[1], np.array([1.0, 0.0, 1e7, 0.0, 1e7])
    errors = fm.contrast_tests(fit, at[:, None], ddf="residual").std_error
    for g in range(GENES):
        V = oracle.covariance([Z], fit.theta[g])
        close(fit.loglik[g], oracle.loglik(Y[:, g], near, V, method == "REML"), 1e-9)
        beta, covariance = oracle.gls(Y[:, g], near, V)
        close(fit.coef[g, 2:], beta[2:])
        close(fit.cov[g, 2:, 2:], covariance[2:, 2:], atol=1e-12)
        # the expectation at x = 10⁷ is the intercept of the centred columns
        close(fit.coef[g] @ at, beta[0], 1e-7)
        close(errors[g, 0] ** 2, covariance[0, 0])


FORMULAS = {
    "~ x + age + condition": ["subject"],
    "~ 0 + x + cell_type + cell_type:condition + age": ["subject", "subject:cell_type"],
    "~ x*condition + scale(age)": ["subject"],
    "~ scale(x) + age*condition": ["subject"],
}


@pytest.mark.parametrize("fixed", FORMULAS)
def test_designs_of_groups_and_of_parts_of_them(fixed, tmp_path):
    near = cells()
    plain = fm.fit_lmm(fm.summary_statistics(groups_of(near), fixed, FORMULAS[fixed]))
    X_near = cell_design(near.obs, fixed, "subject").X.to_numpy()
    far = cells(1e6)
    X = cell_design(far.obs, fixed, "subject").X.to_numpy()
    parts = fm.merge([groups_of(far[::2].copy()), groups_of(far[1::2].copy())])
    fm.write_groups(parts, tmp_path / "groups.h5ad")
    for groups in (groups_of(far), fm.read_groups(tmp_path / "groups.h5ad")):
        assert groups.covariate_origin is not None
        fit = fm.fit_lmm(fm.summary_statistics(groups, fixed, FORMULAS[fixed]))
        assert_moved(fit, plain, X, X_near)
        explained, others = (fm.variance_explained(f) for f in (fit, plain))
        close(explained.fixed_total, others.fixed_total)


def test_tests_that_leave_subjects_out_or_permute_them():
    tests = []
    for offset in (0.0, 1e7):
        stats = fm.summary_statistics(groups_of(cells(offset)), "~ x + age + condition", "subject")
        fit = fm.fit_lmm(stats)
        permuted = fm.permutation_tests(fit, "condition", n_permutations=20)
        tests.append((fm.contrast_tests(fit, "age", ddf="jackknife"), permuted))
    for one, other in zip(*tests, strict=True):
        close(one.p_value, other.p_value)
        close(one.estimate, other.estimate)


def test_sums_of_parts_are_those_of_the_whole():
    far = cells(1e5)
    whole, parts = groups_of(far), [groups_of(far[i::3].copy()) for i in range(3)]
    merged = fm.merge(parts)
    np.testing.assert_array_equal(merged.covariate_origin, parts[0].covariate_origin)
    step = merged.covariate_origin - whole.covariate_origin
    assert 0 < abs(step[0]) < 1
    names = moment_names(whole.covariates)
    n, first, second = (whole.obs[name].to_numpy() for name in names)
    close(merged.obs[names[1]], first - step * n)
    close(merged.obs[names[2]], second - 2 * step * first + step**2 * n)
    close(merged.covariate_sums["x"], whole.covariate_sums["x"] - step * whole.sum)


def test_products_with_library_sizes_take_size_factors():
    tests = []
    for offset in (0.0, 1e6):
        data = cells(offset)
        data.obs["libsize"] = np.random.default_rng(1).integers(500, 2000, N)
        names = ["log(libsize)", "x", "log(libsize):x"]
        groups = fm.summarise(data, BY, names, transform="none", progress=False)
        assert groups.covariate_origin is None or not groups.covariate_origin[[0, 2]].any()
        factors = pd.Series(np.linspace(0.8, 1.2, groups.n_groups), groups.obs.index)
        sized = fm.with_size_factors(groups, factors)
        model = "~ x + log(libsize) + condition", "subject"
        tests.append(fm.contrast_tests(fm.fit_lmm(fm.summary_statistics(sized, *model))))
        f = np.repeat(factors.to_numpy(), groups.obs["n_cells"])
        size = np.log(
            data.obs.groupby(BY, observed=True).libsize.apply(list).explode().astype(float)
        )
        x = data.obs.groupby(BY, observed=True).x.apply(list).explode().astype(float)
        total = ((size + np.log(f)) * x).groupby(level=list(range(4)), sort=False).sum()
        close(sized.obs["sum:log(libsize):x"], total, 1e-10)
    close(tests[0].estimate[:, 1:], tests[1].estimate[:, 1:], 1e-7)


def test_without_an_intercept_it_is_said():
    Y, X, Z = matrices(1e7, "main")
    with pytest.warns(fm.FlashmmWarning, match="'x1', 'x2': the mean .* no constant .* subtract"):
        stats = fm.summary_statistics_from_matrices(Y, X[:, 1:3], Z, SUBJECTS)
    assert stats.centring is None
    with pytest.warns(fm.FlashmmWarning, match="'x', 'age': the mean .* add an intercept"):
        stats = fm.summary_statistics(groups_of(cells(1e7)), "~ 0 + x + age", "subject")
    assert stats.centring is None and stats.notes


def test_columns_that_do_not_vary_or_lie_near_zero_stay():
    X = np.column_stack([np.ones(6), np.full(6, 2020.0), np.arange(6.0), [0, 0, 0, 3, 3, 3.0]])
    assert centring_of_cells(X).matrix is None
    far = np.column_stack([X, 2020 + np.arange(6.0)])
    C = centring_of_cells(far).matrix
    np.testing.assert_array_equal(np.argwhere(C), [[0, 4]])
    assert C[0, 4] == 2022.5


def test_an_aliased_column_is_still_found_and_products_of_x_itself_can_be_had():
    Y, X, Z = matrices(1e4, "main")
    doubled = np.column_stack([X, 2 * X[:, 1] - 3])
    stats = fm.summary_statistics_from_matrices(Y, doubled, Z, SUBJECTS)
    with pytest.warns(fm.FlashmmWarning, match="1 of 5 fixed coefficients"):
        assert fm.fit_lmm(stats).aliased == ("x5",)
    listed = as_list(stats)
    close(listed.XX, doubled.T @ doubled, 1e-12)
    close(listed.XY, doubled.T @ Y, 1e-12)


def test_fold_changes_of_counts():
    random = np.random.default_rng(2)
    found = []
    counts = random.poisson(np.exp(random.normal(1, 0.3, size=(SUBJECTS, 3))).repeat(20, 0))
    for offset in (0.0, 1e7):
        data = ad.AnnData(counts.astype(float), obs=cells(offset).obs)
        groups = fm.summarise(data, BY, ["log(libsize)"], progress=False)
        fit = fm.fit_lmm(fm.summary_statistics(groups, "~ age + condition", "subject"))
        table = fm.contrast_tests(fit, ["age", "condition[T.stim]"]).to_frame(details=True)
        found.append(table[["log2_fc", "log2_fc_low", "log2_fc_high"]])
    assert found[0].notna().all(axis=None)
    np.testing.assert_allclose(*found, rtol=1e-6)
