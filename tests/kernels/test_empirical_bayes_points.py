"""Likelihood, contrasts and variances at shared points against dense cell-level formulas."""

from __future__ import annotations

import numpy as np
import oracle
import pytest

from flashmm.kernels.dense import DenseEngine
from flashmm.kernels.elimination import EliminationEngine
from flashmm.kernels.empirical_bayes_points import DiagonalPoints, points_of
from flashmm.kernels.kinship import rotate_factor, rotate_matrix, rotate_traits
from flashmm.kernels.rotation import orthonormal_contrasts, rotate_design
from flashmm.kernels.spectral import SpectralEngine

DESIGNS = {
    "one": lambda seed: oracle.problem(seed),
    "two crossed": lambda seed: oracle.problem(seed, components=2),
    "nested": lambda seed: oracle.nested_problem(seed),
    "nested and crossed": lambda seed: oracle.crossed_problem(seed),
}
CASES = [
    ("one", SpectralEngine),
    ("one", DenseEngine),
    ("one", EliminationEngine),
    *((name, engine) for name in list(DESIGNS)[1:] for engine in (DenseEngine, EliminationEngine)),
]


def dense(Y, X, Z_blocks, gamma):
    """l(γ), β̂ of each response, its Q/ν, and (X'W⁻¹X)⁻¹, from n × n matrices."""
    W = oracle.covariance(Z_blocks, np.append(gamma, 1.0))
    beta, unit = oracle.gls(Y, X, W)
    P = oracle.projection(X, W)
    Q, nu = (Y * (P @ Y)).sum(0), len(Y) - X.shape[1]
    # log |W| + log |X'W⁻¹X| - log |X'X| = log |I + ΓS|
    log_det = np.linalg.slogdet(W)[1] - np.linalg.slogdet(unit)[1] - np.linalg.slogdet(X.T @ X)[1]
    return -0.5 * (nu * np.log(Q) + log_det), beta.T, Q / nu, unit


def expect(model, genes, contrasts, points, Y, X, Z_blocks, L):
    loglik = model.log_likelihood(points, genes)
    effects = model.effects(points, genes, contrasts)
    assert model.dof == len(X) - X.shape[1]
    for k, gamma in enumerate(points):
        expected, beta, scale, unit = dense(Y, X, Z_blocks, gamma)
        np.testing.assert_allclose(loglik[:, k], expected, rtol=0, atol=1e-8)
        np.testing.assert_allclose(effects.estimate[..., k], beta @ L.T, rtol=1e-8, atol=1e-9)
        found = effects.variance[:, k, None, None] * effects.unit[k]
        of_contrasts = scale[:, None, None] * (L @ unit @ L.T)
        np.testing.assert_allclose(found, of_contrasts, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("name", "engine"), CASES)
def test_against_dense_formulas(name, engine, seed):
    Y, X, Z_blocks = DESIGNS[name](seed)
    rng, Z = np.random.default_rng(seed), np.hstack(Z_blocks)
    sizes = tuple(block.shape[1] for block in Z_blocks)
    rotation = rotate_design(X.T @ X, Z.T @ X, Z.T @ Z, sizes, len(Z))
    built = engine.build(rotation, True, True)
    model = points_of(built)
    genes = built.responses(Y.T @ X, Y.T @ Z, (Y**2).sum(0))
    L = rng.normal(size=(3, X.shape[1]))
    points = np.exp(rng.normal(-1, 2, size=(5, len(sizes))))
    points[0], points[1, 0] = 0.0, 0.0
    points[2, -1] = points[3, -1]
    expect(model, genes, orthonormal_contrasts(rotation, L), points, Y, X, Z_blocks, L)
    assert (model.scale > 0).all() and len(model.scale) == len(model.levels) == len(sizes)


@pytest.mark.parametrize("singular", [False, True])
def test_kinship(singular):
    rng = np.random.default_rng(7)
    n, X = 30, np.column_stack([np.ones(30), rng.normal(size=30)])
    G = rng.normal(size=(n, 5 if singular else n))
    design = rotate_factor(G, X) if singular else rotate_matrix(G @ G.T, X)
    Y = X @ rng.normal(size=(2, 4)) + G @ rng.normal(size=(G.shape[1], 4)) + rng.normal(size=(n, 4))
    L = np.array([[0.0, 1.0], [1.0, -2.0]])
    points = np.array([[0.0], [0.01], [1.0], [30.0]])
    model = DiagonalPoints.of_kinship(design)
    expect(model, rotate_traits(design, Y), L.T, points, Y, X, [G], L)


def test_nothing_is_left():
    Y, X, Z_blocks = oracle.problem(0)
    Z = Z_blocks[0]
    Y[:, 0] = 0.0
    rotation = rotate_design(X.T @ X, Z.T @ X, Z.T @ Z, (Z.shape[1],), len(Z))
    for engine in (SpectralEngine, DenseEngine, EliminationEngine):
        built = engine.build(rotation, True, True)
        genes = built.responses(Y.T @ X, Y.T @ Z, (Y**2).sum(0))
        loglik = points_of(built).log_likelihood(np.array([[0.0], [1.0]]), genes)
        assert np.isnan(loglik[0]).all() and np.isfinite(loglik[1:]).all()


def test_another_engine():
    with pytest.raises(TypeError, match="shared points for a object"):
        points_of(object())
