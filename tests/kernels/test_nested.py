"""Nested components eliminated against the dense engine, and when that is done."""

from __future__ import annotations

import numba
import numpy as np
import oracle
import pytest
from agreement import FIELDS, assert_close, assert_same_fit, assert_same_tests, statistics
from covering import pairwise
from scipy import sparse

import flashmm as fm
from flashmm.kernels.dense import DenseEngine
from flashmm.kernels.elimination import EliminationEngine
from flashmm.kernels.rotation import rotate_design
from flashmm.kernels.structure import find_elimination


@pytest.mark.parametrize(
    ("method", "inner_first", "seed"), pairwise(("REML", "ML"), (False, True), (0, 1))
)
def test_nested_equals_dense(method, inner_first, seed):
    Y, X, Z = oracle.nested_problem(seed, genes=12)
    stats = statistics(Y, X, Z[::-1] if inner_first else Z)
    nested, dense = (fm.fit_lmm(stats, method, engine=engine) for engine in ("nested", "dense"))
    assert {"ok", "boundary"} == set(nested.status)
    assert_same_fit(nested, dense)
    assert_same_tests(nested, dense)


def test_joint_tests():
    stats = statistics(*oracle.nested_problem(2))
    nested, dense = (fm.fit_lmm(stats, engine=engine) for engine in ("nested", "dense"))
    names = nested.coefficients
    assert_same_tests(nested, dense, {"kinds": [names[2], names[3]], "rest": list(names[3:])})


@pytest.mark.parametrize("seed", [1, 4])
def test_negative_components(seed):
    Y, X, Z = oracle.nested_problem(seed, sd=0.0, genes=12, n=240)
    stats = statistics(Y, X, Z)
    nested, dense = (
        fm.fit_lmm(stats, nonnegative=False, engine=engine) for engine in ("nested", "dense")
    )
    assert (nested.theta[nested.fitted] < 0).any()
    definite = np.array(
        [np.linalg.eigvalsh(oracle.covariance(Z, theta))[0] > 0 for theta in nested.theta]
    )
    assert (definite == (nested.status != "not_positive_definite")).all()
    assert_same_fit(nested, dense)
    assert_same_tests(nested, dense)


def test_objective_outside_the_positive_definite_region():
    Y, X, Z = oracle.nested_problem(0)
    whole = np.hstack(Z)
    sizes = tuple(z.shape[1] for z in Z)
    rotation = rotate_design(X.T @ X, whole.T @ X, whole.T @ whole, sizes, len(Y))
    rng = np.random.default_rng(0)
    gamma = np.r_[rng.uniform(-0.4, 0.4, (200, 2)), [[1.0, -0.2], [-0.02, 0.5], [-0.5, -0.5]]]
    products = (Y[:, [0]].T @ X, Y[:, [0]].T @ whole, (Y[:, [0]] ** 2).sum(0))
    rows, definite = np.zeros(len(gamma), dtype=int), oracle.is_positive_definite(Z, gamma)
    for reml in (True, False):
        f = []
        for kind in (EliminationEngine, DenseEngine):
            engine = kind.build(rotation, reml, False)
            genes = engine.responses(*products)
            genes = type(genes)(*(values[rows] for values in genes))
            f.append(engine.objective(gamma, genes))
            np.testing.assert_array_equal(engine.is_positive_definite(gamma), definite)
        assert np.isinf(f[0]).any() and np.isfinite(f[0]).any()
        np.testing.assert_allclose(f[0], f[1], rtol=1e-8)


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_covariates_within_groups_and_aliased_columns(method):
    Y, X, Z = oracle.nested_problem(3, n=200)
    rng = np.random.default_rng(0)
    slopes = rng.normal(9.0, 0.5, size=(len(Y), 1))
    X = np.column_stack([X, slopes, X[:, 1] + X[:, 2], slopes * X[:, [4]], np.zeros(len(Y))])
    stats = statistics(Y, X, Z)
    with pytest.warns(fm.FlashmmWarning, match="2 of 10"):
        nested = fm.fit_lmm(stats, method, engine="nested")
    with pytest.warns(fm.FlashmmWarning, match="2 of 10"):
        dense = fm.fit_lmm(stats, method, engine="dense")
    assert_same_fit(nested, dense)
    assert_same_tests(nested, dense)


def test_unbalanced_groups_and_cells_alone_in_theirs():
    Y, X, (subject, group) = oracle.nested_problem(5)
    Y, X = np.r_[Y, Y[:3] + 1.0], np.r_[X, X[:3]]
    alone = np.zeros((len(Y), 3))
    alone[-3:] = np.eye(3)
    subject = np.r_[subject, subject[:3]]
    group = np.column_stack([np.r_[group, np.zeros((3, group.shape[1]))], alone])
    stats = statistics(Y, X, [subject, group])
    nested, dense = (fm.fit_lmm(stats, engine=engine) for engine in ("nested", "dense"))
    assert_same_fit(nested, dense)


def test_degenerate_genes_have_the_statuses_of_the_dense_engine():
    Y, X, Z = oracle.nested_problem(0)
    rng = np.random.default_rng(1)
    odd = [np.zeros(len(Y)), X @ rng.normal(size=X.shape[1]), Z[1] @ rng.normal(size=Z[1].shape[1])]
    stats = statistics(np.column_stack([*odd, Y]), X, Z)
    nested, dense = (fm.fit_lmm(stats, engine=engine) for engine in ("nested", "dense"))
    assert nested.status[:3].tolist() == ["all_zero", "perfect_fit", "no_within_variance"]
    assert (nested.status == dense.status).all()
    assert_close(nested.coef, dense.coef)
    alone = fm.fit_lmm(statistics(Y, X, Z), engine="nested")
    np.testing.assert_allclose(nested.theta[3:], alone.theta, rtol=1e-12)


@pytest.mark.parametrize("power", [-6, 6])
def test_scale_of_the_response(power):
    Y, X, Z = oracle.nested_problem(1)
    plain, scaled = (fm.fit_lmm(statistics(y, X, Z)) for y in (Y, 10.0**power * Y))
    np.testing.assert_allclose(scaled.theta, 10.0 ** (2 * power) * plain.theta, rtol=1e-9)


@pytest.mark.parametrize("start", [(0.0, 0.0, 1.0), (5.0, 0.01, 1.0)])
def test_start_values_and_block_size_do_not_change_the_optimum(start):
    stats = statistics(*oracle.nested_problem(1))
    free, started, blocks = (
        fm.fit_lmm(stats, **options) for options in ({}, {"start": start}, {"block_size": 2})
    )
    np.testing.assert_allclose(started.theta, free.theta, rtol=1e-8, atol=1e-11)
    np.testing.assert_allclose(blocks.theta, free.theta, rtol=1e-10)


def test_the_number_of_threads_does_not_change_a_bit():
    stats = statistics(*oracle.nested_problem(1))
    threads = numba.get_num_threads()
    fits = []
    try:
        for count in (1, numba.config.NUMBA_NUM_THREADS):
            numba.set_num_threads(count)
            fits.append(fm.fit_lmm(stats))
    finally:
        numba.set_num_threads(threads)
    for name in FIELDS:
        np.testing.assert_array_equal(*(getattr(fit, name) for fit in fits))


class TestNesting:
    def test_found_in_either_order_dense_or_sparse(self):
        _, _, Z = oracle.nested_problem(0)
        parent = (Z[0].T @ Z[1]).argmax(0)
        for order in ([0, 1], [1, 0]):
            whole = np.hstack([Z[k] for k in order])
            sizes = tuple(Z[k].shape[1] for k in order)
            for ZtZ in (whole.T @ whole, sparse.csr_array(whole.T @ whole)):
                found = find_elimination(ZtZ, sizes)
                assert (found.outer, found.inner, found.rest) == (order[0], [order[1]], [])
                np.testing.assert_array_equal(found.parent, parent)
                np.testing.assert_array_equal(found.sizes, Z[1].sum(0))

    @pytest.mark.parametrize(
        "change",
        [
            lambda subject, group: [subject, group + 0.1 * group[::-1]],
            lambda subject, group: [2.0 * subject, group],
            lambda subject, group: [subject, np.roll(group, 1, axis=0)],
            lambda subject, group: [subject[:, 1:], group],
            lambda subject, group: [subject, group[:, 1:]],
            lambda subject, group: [group],
        ],
    )
    def test_not_found_elsewhere(self, change):
        _, _, Z = oracle.nested_problem(0)
        blocks = change(*Z)
        whole = np.hstack(blocks)
        found = find_elimination(whole.T @ whole, tuple(z.shape[1] for z in blocks))
        assert found is None or found.outer is None

    def test_levels_without_cells(self):
        Y, X, (subject, group) = oracle.nested_problem(0)
        wider = np.column_stack([group[:, :3], 0.0 * group[:, 0], group[:, 3:]])
        nested, without = (
            fm.fit_lmm(statistics(Y, X, [subject, inner]), engine="nested")
            for inner in (wider, group)
        )
        for name in FIELDS:
            assert_close(getattr(nested, name), getattr(without, name), name)
        effects = nested.blup()
        empty = subject.shape[1] + 3
        assert (effects[:, empty] == 0.0).all()
        assert_close(np.delete(effects, empty, axis=1), without.blup())

    def test_asked_for_by_name_where_it_does_not_hold(self):
        for components in (1, 2):
            stats = statistics(*oracle.problem(0, components=components))
            with pytest.raises(fm.InputError, match="engine='nested'"):
                fm.fit_lmm(stats, engine="nested")
            assert not isinstance(fm.fit_lmm(stats).model.engine, EliminationEngine)

    def test_confounded_with_fixed_effects(self):
        Y, X, Z = oracle.nested_problem(0)
        with pytest.raises(fm.DesignError, match="confounded"):
            fm.fit_lmm(statistics(Y, np.column_stack([X[:, 1], Z[1]]), Z))

    def test_a_level_per_cell(self):
        Y, X, (subject, _) = oracle.nested_problem(0)
        with pytest.raises(fm.DesignError, match="level of its own"):
            fm.fit_lmm(statistics(Y, X, [subject, np.eye(len(Y))]))


@pytest.mark.parametrize("subjects, engine", [(10, DenseEngine), (25, EliminationEngine)])
def test_the_engine_is_chosen_by_the_number_of_levels(subjects, engine):
    Y, X, Z = oracle.nested_problem(0, subjects=subjects, genes=2)
    assert (sum(z.shape[1] for z in Z) > 64) == (engine is EliminationEngine)
    assert isinstance(fm.fit_lmm(statistics(Y, X, Z)).model.engine, engine)
