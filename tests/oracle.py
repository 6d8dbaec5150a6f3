"""Slow, dense, cell-level formulas that the fast paths are held against."""

from __future__ import annotations

import numpy as np
from scipy.linalg import solve_triangular


def covariance(Z_blocks: list[np.ndarray], theta: np.ndarray) -> np.ndarray:
    """V = Σ σ²_k Z_kZ_k' + σ² I, (n, n)."""
    n = len(Z_blocks[0])
    parts = ((s * Z) @ Z.T for s, Z in zip(theta, Z_blocks, strict=False))
    return sum(parts, theta[-1] * np.eye(n))


def is_positive_definite(Z_blocks, gamma):
    """Whether I + Σ γ_k Z_kZ_k' has a Cholesky factor, at each row of γ (points, K)."""
    definite = np.ones(len(gamma), dtype=bool)
    for i, point in enumerate(gamma):
        try:
            np.linalg.cholesky(covariance(Z_blocks, np.append(point, 1.0)))
        except np.linalg.LinAlgError:
            definite[i] = False
    return definite


def gls(y, X, V):
    """Generalised least squares: coefficients and their covariance."""
    VX = np.linalg.solve(V, X)
    Phi = np.linalg.inv(X.T @ VX)
    return Phi @ (VX.T @ y), Phi


def loglik(y, X, V, reml: bool) -> float:
    """Log-likelihood at the generalised least squares estimate, with lme4's constants."""
    L = np.linalg.cholesky(V)  # LinAlgError where V is not positive definite
    white = solve_triangular(L, np.column_stack([X, y]), lower=True)
    X, white_y = white[:, :-1], white[:, -1]
    XtX = X.T @ X
    z = white_y - X @ np.linalg.solve(XtX, X.T @ white_y)
    ml = -0.5 * (len(y) * np.log(2 * np.pi) + z @ z) - np.log(np.diag(L)).sum()
    if not reml:
        return float(ml)
    # REML: integrate β out with a flat prior
    return float(ml + 0.5 * X.shape[1] * np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(XtX)[1])


def projection(X, V):
    """P = V⁻¹ - V⁻¹X(X'V⁻¹X)⁻¹X'V⁻¹."""
    Vi = np.linalg.inv(V)
    return Vi - Vi @ X @ np.linalg.solve(X.T @ Vi @ X, X.T @ Vi)


def information(y, X, Z_blocks, theta, reml: bool):
    """Score, expected and observed information of θ (residual last)."""
    V = covariance(Z_blocks, theta)
    dV = [Z @ Z.T for Z in Z_blocks] + [np.eye(len(y))]
    P = projection(X, V)
    trace = P if reml else np.linalg.inv(V)
    k = len(dV)
    Py = P @ y
    score = np.array([0.5 * (Py @ D @ Py - np.trace(trace @ D)) for D in dV])
    products, effects = [trace @ D for D in dV], [D @ Py for D in dV]
    TT = np.array([[(products[i] * products[j].T).sum() for j in range(k)] for i in range(k)])
    QQ = np.array([[effects[i] @ P @ effects[j] for j in range(k)] for i in range(k)])
    return score, TT / 2, QQ - TT / 2


def kenward_roger(y, X, Z_blocks, theta):
    """Adjusted covariance of Kenward & Roger (1997) by its P and Q matrices, and W."""
    V = covariance(Z_blocks, theta)
    Vi = np.linalg.inv(V)
    dV = [Z @ Z.T for Z in Z_blocks] + [np.eye(len(y))]
    Phi = np.linalg.inv(X.T @ Vi @ X)
    W = np.linalg.inv(information(y, X, Z_blocks, theta, True)[1])
    P = [-X.T @ Vi @ D @ Vi @ X for D in dV]
    middle = sum(
        W[i, j] * (X.T @ Vi @ dV[i] @ Vi @ dV[j] @ Vi @ X - P[i] @ Phi @ P[j])
        for i in range(len(dV))
        for j in range(len(dV))
    )
    return Phi + 2 * Phi @ middle @ Phi, Phi, [-Phi @ p @ Phi for p in P], W


def problem(seed=0, n=150, subjects=8, batches=4, genes=6, components=1, sd=(0.7, 0.5)):
    """A small unbalanced data set: Y (n, genes), X (n, p), list of Z_k, treatment nested in
    subject."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(subjects, 3.0))
    subject = np.r_[np.arange(subjects), rng.choice(subjects, n - subjects, p=weights)]
    batch = rng.integers(0, batches, n)
    kind = rng.integers(0, 3, n)
    treated = (subject % 2).astype(float)
    x = rng.normal(size=n)
    X = np.column_stack(
        [np.ones(n), x, kind == 1, kind == 2, treated, treated * (kind == 1)]
    ).astype(float)
    Z = [np.eye(subjects)[subject], np.eye(batches)[batch]][:components]
    scale = np.linspace(0.0, 1.5, genes)
    Y = rng.normal(size=(n, genes)) + X @ rng.normal(size=(X.shape[1], genes))
    for s, Zk in zip(sd, Z, strict=False):
        Y += Zk @ rng.normal(size=(Zk.shape[1], genes)) * s * scale
    return Y, X, Z


def nested_problem(seed=0, sd=0.6, **options):
    """`problem` with subject × cell type as second component; three kinds of cells."""
    Y, X, (subject,) = problem(seed, **options)
    rng = np.random.default_rng(seed + 1000)
    kind = (X[:, 2] + 2 * X[:, 3]).astype(int)
    groups, group = np.unique(subject.argmax(1) * 3 + kind, return_inverse=True)
    within = np.eye(len(groups))[group]
    scale = np.linspace(1.5, 0.0, Y.shape[1])
    return (
        Y + within @ rng.normal(size=(len(groups), Y.shape[1])) * sd * scale,
        X,
        [subject, within],
    )


def crossed_problem(seed=0, batches=5, rest=1, sd=0.5, **options):
    """`nested_problem` with `rest` further components, batches that cross the subjects."""
    Y, X, Z = nested_problem(seed, **options)
    rng = np.random.default_rng(seed + 2000)
    scale = np.linspace(0.5, 1.5, Y.shape[1]) * (np.arange(Y.shape[1]) % 3 > 0)
    for k in range(rest):
        batch = np.eye(batches + k)[rng.integers(0, batches + k, len(Y))]
        Y = Y + batch @ rng.normal(size=(batches + k, Y.shape[1])) * sd * scale
        Z = [*Z, batch]
    return Y, X, Z
