"""Values far from zero: results are those of the values less a constant."""

from __future__ import annotations

from functools import reduce
from operator import add
from pathlib import Path

import anndata as ad
import numpy as np
import oracle
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import flashmm as fm
from flashmm.cells.groups import GroupStatistics

FORMS = {"dense": np.asarray, "csr": sparse.csr_array, "csc": sparse.csc_array}
MODEL = ("~ condition + x", ["subject"])
COLUMNS = ("estimate", "std_error", "df", "statistic", "p_value")
N_GENES = 5


def cells(seed: int = 0, n: int = 240) -> ad.AnnData:
    """Values of a spread near one, with few digits, so that a constant can be added exactly."""
    random = np.random.default_rng(seed)
    subject = random.integers(0, 8, n)
    values = random.normal(size=(n, N_GENES)) + random.normal(size=(8, N_GENES))[subject]
    obs = pd.DataFrame(
        {
            "subject": pd.Categorical([f"S{s}" for s in subject]),
            "condition": pd.Categorical(np.where(subject % 2, "stim", "ctrl")),
            "x": random.normal(size=n),
        },
        index=[f"c{i}" for i in range(n)],
    )
    var = pd.DataFrame(index=[f"g{j}" for j in range(N_GENES)])
    return ad.AnnData(np.round(values * 2**20) / 2**20 + 2.0**-21, obs=obs, var=var)


def moved(data: ad.AnnData, offset: float) -> ad.AnnData:
    """All genes but the last are moved, by a number of few digits."""
    other = data.copy()
    other.X[:, :-1] += np.round(offset)
    return other


def groups_of(data: ad.AnnData | Path | list[ad.AnnData], **options) -> GroupStatistics:
    return fm.summarise(data, ["subject", "condition"], ["x"], transform="none", **options)


def fitted(groups: GroupStatistics, fixed: str = MODEL[0], engine: str = "auto") -> fm.LMMFit:
    return fm.fit_lmm(fm.summary_statistics(groups, fixed, MODEL[1]), engine=engine)


def assert_shifted(fit: fm.LMMFit, plain: fm.LMMFit, offset: float) -> None:
    """The same fit, the intercept moved."""
    np.testing.assert_array_equal(fit.status, plain.status)
    np.testing.assert_allclose(fit.theta, plain.theta, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(fit.loglik, plain.loglik, rtol=1e-10)
    np.testing.assert_allclose(fit.coef[:, 1:], plain.coef[:, 1:], rtol=1e-8, atol=1e-11)
    shift = np.where(np.arange(N_GENES) < N_GENES - 1, np.round(offset), 0.0)
    np.testing.assert_allclose(fit.coef[:, 0], plain.coef[:, 0] + shift, rtol=1e-13)
    tests, others = (
        fm.contrast_tests(f).to_frame().query("contrast != 'Intercept'") for f in (fit, plain)
    )
    for name in COLUMNS:
        np.testing.assert_allclose(tests[name], others[name], rtol=1e-8, atol=1e-12)


@given(power=st.floats(2.5, 7), sign=st.sampled_from([-1, 1]), seed=st.integers(0, 1000))
@settings(max_examples=5, deadline=None)
def test_a_constant_moves_the_intercept_alone(power, sign, seed):
    offset, data = sign * 10**power, cells(seed)
    assert_shifted(fitted(groups_of(moved(data, offset))), fitted(groups_of(data)), offset)


@pytest.mark.parametrize("engine", ["spectral", "dense", "eliminated"])
def test_every_engine_adds_it_again(engine):
    data = cells()
    plain = fitted(groups_of(data), engine=engine)
    assert_shifted(fitted(groups_of(moved(data, 1e7)), engine=engine), plain, 1e7)


@pytest.mark.parametrize("layout", [sparse.csr_matrix, sparse.csc_matrix, None])
def test_layouts_and_files_give_the_same_to_the_last_bit(layout, tmp_path):
    data = moved(cells(), 1e7)
    expected = groups_of(data)
    assert np.count_nonzero(expected.origin) == N_GENES - 1
    if layout is not None:
        data.X = layout(data.X)
    data.write_h5ad(tmp_path / "cells.h5ad")
    for source in (data, tmp_path / "cells.h5ad"):
        for options in ({}, {"chunk_nnz": 37}):
            groups = groups_of(source, **options)
            np.testing.assert_array_equal(groups.origin, expected.origin)
            for name, sums in expected.gene_sums().items():
                np.testing.assert_array_equal(groups.gene_sums()[name], sums)


def test_totals_are_those_of_the_values():
    data = moved(cells(), 1e5)
    groups = groups_of(data)
    direct = pd.DataFrame(data.X).groupby(data.obs["subject"].to_numpy()).sum()
    np.testing.assert_allclose(groups.totals(), direct, rtol=1e-14)
    np.testing.assert_allclose(groups.from_zero().sum, direct, rtol=1e-14)
    np.testing.assert_allclose(groups.totals([1, 2]), direct.iloc[:, 1:3], rtol=1e-14)


@pytest.mark.parametrize(("order", "seed"), [((0, 1, 2, 3), 0), ((3, 1, 2, 0), 1)])
def test_parts_in_any_order_give_the_whole(order, seed):
    """Parts have origins of their own, one of them none at all."""
    data = moved(cells(seed), 1e7)
    parts = [groups_of(data[i::4].copy()) for i in order]
    assert_shifted(fitted(reduce(add, parts)), fitted(groups_of(cells(seed))), 1e7)
    near = data.copy()
    near.X[::4] = cells(seed).X[::4]
    parts = [groups_of(near[i::4].copy()) for i in order]
    total = reduce(add, parts)
    whole = groups_of(near)
    np.testing.assert_allclose(total.totals(), whole.totals(), rtol=1e-12)
    np.testing.assert_allclose(total.from_zero().sumsq, whole.from_zero().sumsq, rtol=1e-12)


def test_files_keep_the_origin(tmp_path):
    data = moved(cells(), 1e7)
    fm.write_groups(groups_of(data), tmp_path / "groups.h5ad")
    read = fm.read_groups(tmp_path / "groups.h5ad")
    np.testing.assert_array_equal(read.origin, groups_of(data).origin)
    part = fm.read_groups(tmp_path / "groups.h5ad", genes=(1, 3))
    np.testing.assert_array_equal(part.origin, read.origin[1:3])
    assert fm.read_groups(tmp_path / "groups.h5ad", genes=(4, 5)).origin is None
    np.testing.assert_array_equal(fitted(part).theta, fitted(groups_of(data)).theta[1:3])


@given(power=st.floats(2.5, 7), seed=st.integers(0, 100), form=st.sampled_from(sorted(FORMS)))
@settings(max_examples=5, deadline=None)
def test_matrices(power, seed, form):
    Y, X, Z = oracle.problem(seed, components=1)
    X = np.column_stack([np.ones(len(Y)), X[:, -1]])
    Y = np.round(Y * 2**20) / 2**20
    far = Y + np.round(10**power)
    far = FORMS[form](far)
    size = Z[0].shape[1]
    plain, shifted = (
        fm.fit_lmm(fm.summary_statistics_from_matrices(y, X, Z[0], size, block=7)) for y in (Y, far)
    )
    np.testing.assert_allclose(shifted.theta, plain.theta, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(shifted.coef[:, 1], plain.coef[:, 1], rtol=1e-8, atol=1e-11)
    np.testing.assert_allclose(shifted.coef[:, 0], plain.coef[:, 0] + np.round(10**power))


def test_where_no_constant_is_in_the_design_it_is_said():
    groups = groups_of(moved(cells(), 1e4))
    with pytest.warns(fm.FlashmmWarning, match="4 genes vary less .* add an intercept"):
        stats = fm.summary_statistics(groups, "~ 0 + x", ["subject"])
    assert stats.origin is None
    direct = (moved(cells(), 1e4).X ** 2).sum(0)
    np.testing.assert_allclose(stats.yty, direct, rtol=1e-12)


def test_means_of_cell_types_are_an_intercept_too():
    data = cells()
    one, other = (
        fitted(groups_of(moved(data, offset)), "~ 0 + condition + x") for offset in (0, 1e7)
    )
    np.testing.assert_allclose(other.theta, one.theta, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(other.coef[:-1, :2], one.coef[:-1, :2] + 1e7, rtol=1e-13)
    np.testing.assert_allclose(other.coef[:, 2], one.coef[:, 2], rtol=1e-7)


def test_a_constant_gene_is_explained_by_it():
    data = moved(cells(), 1e7)
    data.X[:, 0] = 1e7 / 3
    fit = fitted(groups_of(data))
    assert list(fit.status[:2]) == ["perfect_fit", "ok"]
    np.testing.assert_allclose(fit.coef[0], [1e7 / 3, 0, 0], atol=1e-8)


def test_empirical_bayes_jackknife_and_subset_follow():
    data = cells()
    tests = []
    for offset in (0.0, 1e7):
        fit = fitted(groups_of(moved(data, offset)).subset(slice(1, None)))
        with pytest.warns(fm.FlashmmWarning):  # few genes
            eb = fm.contrast_tests(fit, ["condition[T.stim]"], ddf="empirical-bayes")
        tests.append((eb.to_frame(), fm.jackknife(fit, ["condition[T.stim]"]).to_frame()))
    for one, other in zip(*tests, strict=True):
        for name in ("estimate", "std_error", "p_value"):
            np.testing.assert_allclose(one[name], other[name], rtol=1e-7)
