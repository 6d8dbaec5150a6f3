"""Correlated effects level by level, against the dense engine and the cells."""

from __future__ import annotations

import numpy as np
import oracle
import pytest

import flashmm as fm
from flashmm.kernels.by_level import LevelEngine
from flashmm.kernels.dense import DenseEngine
from flashmm.kernels.rotation import rotate_projection
from flashmm.kernels.structure import CovarianceStructure

GENES = 12
SUBJECTS = 14


def study(seed=0, genes=GENES, origin=0.0):
    """Y, X and the blocks of Z; one subject has one cell, another all cells at one time."""
    rng = np.random.default_rng(seed)
    subject = np.repeat(np.arange(SUBJECTS), rng.integers(4, 12, SUBJECTS))
    time = rng.integers(0, 5, len(subject)).astype(float)
    kept = (subject != 3) | (np.cumsum(subject == 3) == 1)
    subject, time = subject[kept], time[kept]
    time[subject == 5] = 2.0
    arm = (subject % 2).astype(float)
    X = np.column_stack([np.ones(len(time)), time, arm, arm * time, rng.normal(size=len(time))])
    first = np.eye(SUBJECTS)[subject]
    Y = rng.normal(size=(len(time), genes))
    effects = rng.normal(size=(2, SUBJECTS, genes))
    effects[1] += np.linspace(-2, 2, genes) * effects[0]
    Y += effects[0][subject] + 0.4 * effects[1][subject] * time[:, None]
    return Y, X, [first, first * (time + origin)[:, None]]


def statistics(Y, X, Z, sizes=(SUBJECTS, SUBJECTS, 0)):
    return fm.summary_statistics_from_matrices(Y, X, np.hstack(Z), list(sizes))


def slopes(Z):
    first, second = Z
    return [first @ first.T, second @ second.T, first @ second.T + second @ first.T]


def assert_close(one, other):
    """Equal to 1e-9 of the largest number of each gene, or of one where all are near zero."""
    size = np.abs(other).reshape(len(other), -1).max(1) + 1e-3
    atol = 1e-9 * size.reshape(-1, *[1] * (other.ndim - 1))
    assert (np.abs(one - other) <= 1e-9 * np.abs(other) + atol).all()


@pytest.fixture(scope="module", params=["REML", "ML"])
def engines(request):
    """Both engines of one design, with their genes, at γ inside, at the boundary, and outside."""
    Y, X, Z = study()
    fit = fm.fit_lmm(statistics(Y, X, Z), request.param)
    reml = request.param == "REML"
    dense = DenseEngine.build(rotate_projection(fit.model.projection), reml, True)
    products = fit.stats.YtX, fit.stats.YtZ_block(0, GENES), fit.stats.yty
    rng = np.random.default_rng(1)
    gamma = 10.0 ** rng.uniform(-3, 1, size=(GENES, 3))
    correlation = np.r_[np.linspace(-0.95, 0.95, GENES - 5), 1.0, -1.0, 0.0, 0.0, 0.5]
    gamma[-4:-2] = [[0.0, 0.7, 0.0], [0.0, 0.0, 0.0]]
    gamma[:, 2] = correlation * np.sqrt(gamma[:, 0] * gamma[:, 1])
    pair = [(engine, engine.responses(*products)) for engine in (fit.model.engine, dense)]
    return pair, gamma, (Y, X, Z), reml


def test_the_engine_is_chosen_where_it_holds():
    Y, X, Z = study()
    fit = fm.fit_lmm(statistics(Y, X, Z))
    assert isinstance(fit.model.engine, LevelEngine)
    site = np.eye(3)[np.arange(len(Y)) % 3]
    with_site = statistics(Y, X, [*Z, site], (SUBJECTS, SUBJECTS, 0, 3))
    assert isinstance(fm.fit_lmm(with_site).model.engine, DenseEngine)
    ZtZ = fit.stats.ZtZ
    sizes = (SUBJECTS, SUBJECTS)
    assert not LevelEngine.takes(CovarianceStructure.of(ZtZ, sizes))
    moved = np.roll(np.arange(SUBJECTS), 1)
    order = np.r_[np.arange(SUBJECTS), SUBJECTS + moved]
    dense = ZtZ.toarray() if hasattr(ZtZ, "toarray") else ZtZ
    other = CovarianceStructure.of(dense[order][:, order], (*sizes, 0))
    assert not LevelEngine.takes(other)


def test_everything_is_that_of_the_dense_engine(engines):
    pair, gamma, (_, X, _), _ = engines
    (blocks, ours), (dense, theirs) = pair
    assert blocks.rank == dense.rank
    np.testing.assert_allclose(ours.e, theirs.e, rtol=1e-9)
    np.testing.assert_allclose(
        blocks.objective(gamma, ours), dense.objective(gamma, theirs), rtol=1e-10
    )
    a, b = blocks.derivatives(gamma, ours), dense.derivatives(gamma, theirs)
    for one, other in zip(a, b, strict=True):
        assert_close(one, other)
    for name in ("coefficients", "blup", "residual_variance"):
        one, other = getattr(blocks, name)(gamma, ours), getattr(dense, name)(gamma, theirs)
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-9, err_msg=name)
    basis = np.eye(X.shape[1])
    np.testing.assert_allclose(
        blocks.covariance(gamma, basis), dense.covariance(gamma, basis), rtol=1e-8, atol=1e-10
    )
    variance = np.linspace(0.5, 2.0, GENES)
    for left, right in ((basis, basis), (basis[:, :2], basis[:, 1:3])):
        forms = [e.variance_forms(gamma, variance, left, right) for e in (blocks, dense)]
        for one, other in zip(*forms, strict=True):
            assert_close(one, other)


def test_the_start_grid_holds_the_objective(engines):
    pair, _, _, _ = engines
    (blocks, genes), _ = pair
    points = blocks._grid.points.reshape(-1, 3)[::17]
    on_grid = blocks._on_grid(points, genes)
    for point, values in zip(points, on_grid, strict=True):
        expected = blocks.objective(np.tile(point, (GENES, 1)), genes)
        np.testing.assert_allclose(values, expected, rtol=1e-9)


def test_the_domain_without_bounds(engines):
    """V, or W on the complement of X for REML, is positive definite where f is finite."""
    pair, _, (_, X, Z), reml = engines
    (blocks, genes), _ = pair
    rng = np.random.default_rng(2)
    gamma = rng.normal(size=(60, 3)) * [0.05, 0.01, 0.02]
    some = type(genes)(*(np.repeat(a[:1], 60, axis=0) for a in genes))
    finite = np.isfinite(blocks.objective(gamma, some))
    definite = blocks.is_positive_definite(gamma)
    N = np.linalg.qr(X, mode="complete")[0][:, X.shape[1] :]
    for g in range(60):
        V = np.eye(len(X)) + sum(s * D for s, D in zip(gamma[g], slopes(Z), strict=True))
        assert definite[g] == (np.linalg.eigvalsh(V)[0] > 0)
        W = N.T @ V @ N if reml else V
        assert finite[g] == (np.linalg.eigvalsh(W)[0] > 0)
    assert 5 < finite.sum() < 55


def test_log_likelihood_of_the_cells_with_nearly_singular_covariances(engines):
    pair, _, (Y, X, Z), reml = engines
    (blocks, genes), _ = pair
    for size in (1.0, 1e4):
        gamma = np.tile([size, 0.1 * size, np.sqrt(0.1) * size * (1 - 1e-7)], (GENES, 1))
        V = np.eye(len(Y)) + sum(s * D for s, D in zip(gamma[0], slopes(Z), strict=True))
        f = blocks.objective(gamma, genes)
        variance = blocks.residual_variance(gamma, genes)
        m = blocks.dof
        constant = m * (np.log(2 * np.pi / m) + 1)
        constant += np.linalg.slogdet(X.T @ X)[1] if reml else 0.0
        for g in range(3):
            expected = oracle.loglik(Y[:, g], X, V * variance[g], reml)
            assert -0.5 * (f[g] + constant) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("ddf", ["kenward-roger", "kenward-roger-2", "satterthwaite"])
def test_tests_are_those_of_the_dense_engine(ddf):
    stats = statistics(*study(genes=40))
    fits = [fm.fit_lmm(stats, engine=engine) for engine in ("auto", "dense")]
    one, other = (fm.contrast_tests(fit, list(fit.coefficients), ddf=ddf) for fit in fits)
    np.testing.assert_array_equal(fits[0].status, fits[1].status)
    np.testing.assert_allclose(fits[0].loglik, fits[1].loglik, atol=1e-9)
    for name in ("estimate", "std_error", "df", "p_value"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-6, atol=1e-9)


def test_genes_do_not_depend_on_their_neighbours():
    stats = statistics(*study(genes=40))
    one, other = fm.fit_lmm(stats), fm.fit_lmm(stats, block_size=7)
    np.testing.assert_array_equal(one.theta, other.theta)
    np.testing.assert_array_equal(one.coef, other.coef)
