"""Components that share no cell, such as a variance for each cell type, eliminated together."""

from __future__ import annotations

import numba
import numpy as np
import oracle
import pytest
from agreement import FIELDS, assert_close, assert_same_fit, assert_same_tests, statistics
from scipy import sparse

import flashmm as fm
from flashmm.kernels.closed_form import SeveralInner
from flashmm.kernels.dense import DenseEngine
from flashmm.kernels.elimination import EliminationEngine
from flashmm.kernels.rotation import rotate_design
from flashmm.kernels.spectral import SpectralEngine
from flashmm.kernels.structure import CovarianceStructure, find_elimination


def by_kind(seed, outer=True, batches=0, split=False, **options):
    """Subject, and a component for the subjects within each kind of cells.

    With `split`, subjects have two levels in the first kind.
    """
    Y, X, (subject,) = oracle.problem(seed, **options)
    rng = np.random.default_rng(seed + 3000)
    kind = (X[:, 2] + 2 * X[:, 3]).astype(int)
    Z = [subject * (kind == k)[:, None] for k in range(3)]
    if split:
        half = rng.integers(0, 2, len(Y))
        Z[0] = np.hstack([Z[0] * (half == h)[:, None] for h in range(2)])
    if batches:
        Z.append(np.eye(batches)[rng.integers(0, batches, len(Y))])
    for k, block in enumerate(Z):
        Y = Y + block @ rng.normal(size=(block.shape[1], Y.shape[1])) * 0.3 * (k + 1)
    return Y, X, [subject, *Z] if outer else Z


DESIGNS = {
    "subject and kinds": by_kind,
    "kinds alone": lambda seed: by_kind(seed, outer=False),
    "crossed with batches": lambda seed: by_kind(seed, batches=4),
    "kinds alone, crossed": lambda seed: by_kind(seed, outer=False, batches=4),
    "levels without cells": lambda seed: by_kind(seed, n=40, subjects=10),
    "two levels in a kind": lambda seed: by_kind(seed, split=True),
}


def both(stats, method="REML", **options):
    return [fm.fit_lmm(stats, method, engine=e, **options) for e in ("eliminated", "dense")]


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("name", DESIGNS)
def test_equal_to_the_dense_engine(name, method):
    eliminated, dense = both(statistics(*DESIGNS[name](2)), method)
    assert isinstance(eliminated.model.engine.model.system(np.zeros((1, 5))).closed, SeveralInner)
    assert eliminated.fitted.all()
    assert (eliminated.theta > 0).any(0).all()
    assert_same_fit(eliminated, dense)
    assert_same_tests(eliminated, dense)


@pytest.mark.parametrize(
    ("seed", "method"), [(0, "REML"), (1, "ML"), (2, "REML"), (3, "ML")], ids=str
)
def test_no_worse_optimum_than_that_of_the_dense_engine(seed, method):
    stats = statistics(*by_kind(seed, outer=False, genes=40, n=60))
    eliminated, dense = both(stats, method)
    assert (eliminated.loglik >= dense.loglik - 1e-8).all()


def test_starts_from_elsewhere_find_nothing_better():
    stats = statistics(*by_kind(5, genes=30, n=48, subjects=6))
    fit = fm.fit_lmm(stats, "ML", engine="eliminated")
    rng = np.random.default_rng(0)
    for _ in range(6):
        start = np.append(np.exp(rng.uniform(-4, 2, 4)) * (rng.random(4) < 0.7), 1.0)
        other = fm.fit_lmm(stats, "ML", engine="eliminated", start=start)
        assert (other.loglik[other.fitted] <= fit.loglik[other.fitted] + 1e-6).all()


@pytest.mark.parametrize("name", DESIGNS)
def test_score_and_information_by_the_definition(name):
    Y, X, Z = DESIGNS[name](1)
    fit = fm.fit_lmm(statistics(Y, X, Z), engine="eliminated")
    gamma = np.random.default_rng(0).uniform(0.0, 0.5, (Y.shape[1], len(Z)))
    model, variance = fit.model, np.full(Y.shape[1], 1.7)
    genes = model.responses(fit.stats, 0, Y.shape[1])
    score = model.engine.score(gamma, variance, genes)
    expected, observed = model.engine.information(gamma, variance, genes)
    for g in range(Y.shape[1]):
        theta = np.append(gamma[g], 1.0) * 1.7
        wanted = oracle.information(Y[:, g], X, Z, theta, reml=True)
        for ours, theirs in zip((score[g], expected[g], observed[g]), wanted, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-8 * np.abs(theirs).max())


def test_kenward_roger_by_the_definition():
    Y, X, Z = by_kind(3)
    fit = fm.fit_lmm(statistics(Y, X, Z), engine="eliminated")
    table = fm.contrast_tests(fit, ddf="kenward-roger")
    for g in range(Y.shape[1]):
        adjusted, Phi, first, W = oracle.kenward_roger(Y[:, g], X, Z, fit.theta[g])
        np.testing.assert_allclose(table.std_error[g] ** 2, np.diag(adjusted), rtol=1e-7)
        slopes = np.array([np.diag(D) for D in first])
        df = 2.0 * np.diag(Phi) ** 2 / np.einsum("ic,ij,jc->c", slopes, W, slopes)
        np.testing.assert_allclose(table.df[g], df, rtol=1e-7)


@pytest.mark.parametrize("name", DESIGNS)
def test_the_domain_of_the_objective(name):
    Y, X, Z = DESIGNS[name](0)
    rng = np.random.default_rng(0)
    gamma = rng.uniform(-0.3, 0.4, (60, len(Z)))
    gamma[::4] *= 0.1
    gamma[::5, 0] = 0.0
    definite = oracle.is_positive_definite(Z, gamma)
    whole, sizes = np.hstack(Z), tuple(z.shape[1] for z in Z)
    rotation = rotate_design(X.T @ X, whole.T @ X, whole.T @ whole, sizes, len(Y))
    y = Y[:, np.zeros(len(gamma), dtype=int)]
    for reml in (True, False):
        f = []
        for kind in (EliminationEngine, DenseEngine):
            engine = kind.build(rotation, reml, False)
            f.append(engine.objective(gamma, engine.responses(y.T @ X, y.T @ whole, (y**2).sum(0))))
            np.testing.assert_array_equal(engine.is_positive_definite(gamma), definite)
        assert np.isinf(f[0]).any() and np.isfinite(f[0]).any()
        np.testing.assert_allclose(f[0], f[1], rtol=1e-8)


def test_negative_components():
    Y, X, Z = by_kind(1, outer=False)
    Y = np.random.default_rng(0).normal(size=(len(Y), 12))
    fit = fm.fit_lmm(statistics(Y, X, Z), nonnegative=False, engine="eliminated", max_iter=40)
    smallest = [np.linalg.eigvalsh(oracle.covariance(Z, theta))[0] for theta in fit.theta]
    definite = np.array(smallest) > 0
    found = fit.status != "not_converged"
    assert (definite == (fit.status == "ok"))[found].all()
    assert (fit.theta[definite & found] < 0).any(1).sum() > 3
    for g in np.flatnonzero(definite & found):
        V = oracle.covariance(Z, fit.theta[g])
        np.testing.assert_allclose(fit.loglik[g], oracle.loglik(Y[:, g], X, V, True), rtol=1e-9)
        beta, Phi = oracle.gls(Y[:, g], X, V)
        np.testing.assert_allclose(fit.coef[g], beta, rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(fit.cov[g], Phi, rtol=1e-7, atol=1e-10)


def test_threads_and_blocks_do_not_change_a_bit():
    stats = statistics(*by_kind(1, genes=66))
    threads, fits = numba.get_num_threads(), []
    try:
        for count, size in ((1, None), (numba.config.NUMBA_NUM_THREADS, 40)):
            numba.set_num_threads(count)
            fits.append(fm.fit_lmm(stats, engine="eliminated", block_size=size))
    finally:
        numba.set_num_threads(threads)
    for other in fits[1:]:
        for name in (*FIELDS, "n_iter"):
            np.testing.assert_array_equal(getattr(other, name), getattr(fits[0], name), name)


def test_one_kind_of_cells_equals_the_spectral_engine():
    Y, X, (_, first, *_) = by_kind(0)
    cells = first.any(1)
    first, X, Y = first[cells], X[cells][:, [0, 1, 4]], Y[cells]
    eliminated = fm.fit_lmm(statistics(Y, X, [first]), engine="eliminated")
    spectral = fm.fit_lmm(statistics(Y, X, [first]))
    assert isinstance(spectral.model.engine, SpectralEngine)
    for name in FIELDS:
        assert_close(getattr(eliminated, name), getattr(spectral, name), name)


def test_more_kinds_than_a_product_of_grids_can_take():
    rng = np.random.default_rng(0)
    kinds, subjects, n = 14, 12, 1500
    kind, subject = rng.integers(0, kinds, n), rng.integers(0, subjects, n)
    whole = np.eye(subjects)[subject]
    Z = [whole, *(whole * (kind == k)[:, None] for k in range(kinds))]
    X = np.column_stack([np.eye(kinds)[kind], rng.normal(size=n)])
    Y = rng.normal(size=(n, 5)) + whole @ rng.normal(size=(subjects, 5)) * 0.4
    fit = fm.fit_lmm(statistics(Y, X, Z))
    assert isinstance(fit.model.engine, EliminationEngine)
    assert fit.fitted.all()
    assert fit.theta[:, 0].min() > 0.03
    # at a maximum components at zero have a negative slope, and the others none
    score = fit.score()
    assert np.abs(score[fit.theta > 0]).max() < 1e-6
    assert score[fit.theta == 0].max() < 1e-6


class TestStructure:
    def test_found_in_any_order_dense_or_sparse(self):
        _, _, Z = by_kind(0, batches=4)
        for order in ([0, 1, 2, 3, 4], [4, 2, 0, 1, 3]):
            blocks = [Z[k] for k in order]
            whole, sizes = np.hstack(blocks), tuple(z.shape[1] for z in blocks)
            for ZtZ in (whole.T @ whole, sparse.csr_array(whole.T @ whole)):
                found = find_elimination(ZtZ, sizes)
                names = ([found.outer], found.inner, found.rest)
                assert [sorted(order[k] for k in part) for part in names] == [[0], [1, 2, 3], [4]]
                np.testing.assert_array_equal(found.sizes, np.diag(whole.T @ whole)[found.columns])

    def test_levels_without_cells_are_no_groups(self):
        _, _, Z = by_kind(0, n=40, subjects=10)
        whole = np.hstack(Z)
        found = find_elimination(whole.T @ whole, (10,) * 4)
        assert len(found.sizes) == (whole.any(0)[10:]).sum() < 30
        assert (found.sizes > 0).all()

    def test_components_that_share_cells_are_not_joined(self):
        _, _, (subject, group) = oracle.nested_problem(0)
        whole = np.hstack([subject, group])
        structure = CovarianceStructure.of(whole.T @ whole, (subject.shape[1], group.shape[1]))
        assert structure.elimination.inner == [1]
        assert structure.factors == [0, 1]

    def test_what_engines_take(self):
        for blocks, takes in (
            ([np.eye(4)], (True, True, True)),
            ([np.eye(4)[:, :2], np.eye(4)[:, 2:]], (False, True, True)),
            ([np.eye(4) + 0.1], (True, True, False)),
        ):
            whole = np.hstack(blocks)
            structure = CovarianceStructure.of(whole.T @ whole, tuple(b.shape[1] for b in blocks))
            engines = (SpectralEngine, DenseEngine, EliminationEngine)
            assert tuple(engine.takes(structure) for engine in engines) == takes

    def test_chosen_for_many_levels(self):
        engines = [
            fm.fit_lmm(statistics(*by_kind(0, subjects=subjects))).model.engine
            for subjects in (8, 20)
        ]
        assert [type(engine) for engine in engines] == [DenseEngine, EliminationEngine]
        stats = statistics(*by_kind(0))
        assert isinstance(fm.fit_lmm(stats, engine="dense").model.engine, DenseEngine)
        with pytest.raises(fm.InputError, match="engine='nested'"):
            fm.fit_lmm(stats, engine="nested")
