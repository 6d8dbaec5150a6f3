"""Newton's method in γ for all genes at once, shared by the engines of several components.

With σ² profiled out, f(γ) = m log Q(γ) + log |W°(γ)|. Engines give the moments of a gene,

    Q,  q_k = -∂Q/∂γ_k,  qq_kl = ½ ∂²Q/∂γ_k∂γ_l,
    log|W°|,  a_k = ∂log|W°|/∂γ_k,  aa_kl = -∂²log|W°|/∂γ_k∂γ_l,

and everything about the objective follows from them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from flashmm.kernels.engine import Genes, Optimum, replaced, take
from flashmm.kernels.starts import LOWER, Starts, search_all

Array = np.ndarray

MAX_HALVINGS = 40
# Evaluations after which a search within the domain of V has none to find: it creeps along the end.
DEFINITE_ITER = 30
# Newton decrement (log-likelihood units) below which steps are taken without looking at f.
UNSEARCHED = 1e-7
# Eigenvalue of the Hessian, relative to the expected one, at which a direction counts as flat.
FLAT = 1e-10


class Moments(NamedTuple):
    """What a gene's likelihood and its derivatives are made of, at one γ per gene.

    Attributes
    ----------
    Q : (genes,) array
        Generalised residual sum of squares y'P_W y.
    q : (genes, K) array
        y'P_W Z_kZ_k'P_W y.
    qq : (genes, K, K) array
        y'P_W Z_kZ_k'P_W Z_lZ_l'P_W y.
    log_det : (genes,) array
        Log-determinant in the objective.
    a : (genes, K) array
        tr(P_W Z_kZ_k'), for ML with W⁻¹ in place of P_W.
    aa : (genes, K, K) array
        tr(P_W Z_kZ_k'P_W Z_lZ_l'), for ML with W⁻¹ in place of P_W.
    """

    Q: Array
    q: Array
    qq: Array
    log_det: Array
    a: Array
    aa: Array


class Derivatives(NamedTuple):
    """Profile objective of each gene: value, gradient, observed and expected Hessian in γ."""

    f: Array
    gradient: Array
    observed: Array
    expected: Array


# f at one γ per gene and all its derivatives, of γ (genes, K) and an engine's form of these genes.
Objective = Callable[[Array, Any], Array]
Slope = Callable[[Array, Any], Derivatives]


def profile_derivatives(moments: Moments, dof: int) -> Derivatives:
    """f(γ) = m log Q + log |W°| and its derivatives."""
    Q, m = moments.Q, dof
    a, aa = moments.a, moments.aa
    b, bb = moments.q / Q[:, None], 2.0 * moments.qq / Q[:, None, None]
    observed = m * (bb - b[:, :, None] * b[:, None, :]) - aa
    expected = aa - a[:, :, None] * a[:, None, :] / m
    with np.errstate(invalid="ignore", divide="ignore"):
        f = m * np.log(Q) + moments.log_det
    return Derivatives(f, a - m * b, observed, expected)


def theta_score(moments: Moments, gamma: Array, variance: Array, dof: int) -> Array:
    """Gradient of the log-likelihood in θ = (σ²_1 … σ²_K, σ²), (genes, K+1)."""
    # P_W W P_W = P_W with W = I + Σ γ_k Z_kZ_k' gives the residual's terms from the others'.
    quadratic = _with_residual(moments.Q, moments.q, gamma)
    trace = _with_residual(np.full(len(gamma), float(dof)), moments.a, gamma)
    s0 = variance[:, None]
    return (quadratic / s0**2 - trace / s0) / 2


def theta_information(
    moments: Moments, gamma: Array, variance: Array, dof: int
) -> tuple[Array, Array]:
    """Return the expected and the observed information of θ, each (genes, K+1, K+1)."""
    QQ = _square_with_residual(moments.Q, moments.q, moments.qq, gamma)
    TT = _square_with_residual(np.full(len(gamma), float(dof)), moments.a, moments.aa, gamma)
    s0 = variance[:, None, None]
    return TT / s0**2 / 2, QQ / s0**3 - TT / s0**2 / 2


def _with_residual(total: Array, parts: Array, gamma: Array) -> Array:
    """Append x_0 = total - Σ γ_k x_k to x (genes, K)."""
    return np.column_stack([parts, total - (gamma * parts).sum(1)])


def _square_with_residual(total: Array, parts: Array, square: Array, gamma: Array) -> Array:
    """Append x_k0 = x_k - Σ γ_l x_kl and x_00 = x_0 - Σ γ_l x_l0 to x (genes, K, K)."""
    first = _with_residual(total, parts, gamma)
    K = square.shape[1]
    full = np.empty((len(square), K + 1, K + 1))
    full[:, :K, :K] = square
    full[:, :K, K] = full[:, K, :K] = first[:, :K] - (square * gamma[:, None]).sum(2)
    full[:, K, K] = first[:, K] - (gamma * full[:, :K, K]).sum(1)
    return full


def given_start(theta: Array, genes: Any, objective: Objective) -> Array:
    """γ of start values θ for every gene, (genes, K); zero where f is not finite there."""
    gamma = np.tile(theta[:-1] / theta[-1], (len(genes.e), 1))
    gamma[~np.isfinite(objective(gamma, genes))] = 0.0
    return gamma


def minimise(
    objective: Objective,
    derivatives: Slope,
    genes: Genes,
    start: Array,
    *,
    nonnegative: bool | Array,
    max_iter: int,
    tol: float,
    everywhere: bool | None = None,
) -> Optimum:
    """Newton with an active set and step halving, batched over genes.

    A point is looked at once: f says whether it is taken, its derivatives where to go from there.

    Parameters
    ----------
    objective, derivatives : callable
        Of γ (genes, K) and the genes that it belongs to. Derivatives are not asked for outside the
        domain, where the objective is infinite.
    genes : named tuple
        The engine's form of the genes.
    start : (genes, K) array
        Where to begin.
    nonnegative : bool or (K,) bool array
        Whether γ is bounded below by zero, or which of its parts are.
    max_iter : int
        Limit of the evaluations of the derivatives per gene.
    tol : float
        Newton decrement at which a gene has converged.
    everywhere : bool or None
        Whether the objective is finite everywhere; None takes it as so where γ is bounded.

    Returns
    -------
    Optimum
        Where each gene stopped.
    """
    bounded = np.asarray(nonnegative)
    everywhere = bool(bounded.any()) if everywhere is None else everywhere
    trial = np.where(bounded, np.maximum(start, 0.0), start)
    gamma, step = trial.copy(), np.zeros_like(trial)
    n, active = len(gamma), np.arange(len(gamma))
    f, below = np.full(n, np.inf), np.full(n, np.inf)
    length, decrement = np.ones(n), np.full(n, np.inf)
    n_iter, halvings = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    for _ in range(max_iter):
        if not len(active):
            break
        if everywhere:
            d = derivatives(trial[active], take(genes, active))
            taken = d.f < below[active]
            rows, d = active[taken], take(d, taken)
        else:
            taken = objective(trial[active], take(genes, active)) < below[active]
            d = derivatives(trial[active[taken]], take(genes, active[taken]))
            # at the very end of the domain rounding decides, and not twice in the same way
            d, taken[taken] = take(d, np.isfinite(d.f)), np.isfinite(d.f)
            rows = active[taken]
        n_iter[active] += 1
        gamma[rows], f[rows] = trial[rows], d.f
        step[rows], decrement[rows], newton = _direction(gamma[rows], d, bounded)
        length[rows], halvings[rows] = _first_length(gamma[rows], step[rows], bounded), 0
        # Close to the optimum a step is below rounding in f: it is taken if f is finite there, the
        # last one before stopping without a look.
        below[rows] = np.where(newton & (decrement[rows] < UNSEARCHED), np.inf, d.f)
        settled = rows[newton & (decrement[rows] < tol)]
        refused = active[~taken]
        length[refused] /= 2
        halvings[refused] += 1
        trial[active] = _moved(gamma[active], step[active], length[active], bounded)
        gamma[settled] = trial[settled]
        active = active[(halvings[active] < MAX_HALVINGS) & ~np.isin(active, settled)]
    return Optimum(gamma, f, decrement, n_iter)


class Searched(Protocol):
    """What an engine gives the search for the best optimum."""

    @property
    def nonnegative(self) -> bool:
        """Whether γ is bounded below by zero."""

    def objective(self, gamma: Array, genes: Any) -> Array:
        """f at one γ per gene, (genes,); infinite outside its domain."""

    def derivatives(self, gamma: Array, genes: Any) -> Derivatives:
        """f, its gradient and two Hessians in γ, at one γ per gene."""

    def is_positive_definite(self, gamma: Array) -> Array:
        """Whether V = I + Σ γ_k Z_kZ_k' is positive definite, (genes,) bool."""

    @property
    def raised(self) -> float | None:
        """γ from which components at zero are searched again; None where none are."""

    def starts(self, genes: Any) -> Starts:
        """Where f is low on a grid of γ ≥ 0 that genes share."""

    def definite_starts(self, genes: Any, fine: bool = False) -> Starts:
        """The same on grids that reach below zero, with V positive definite."""


def best_optimum(
    engine: Searched, genes: Any, start: Array | None, max_iter: int, tol: float
) -> Optimum:
    """Lowest minimum that the valleys of the shared grid lead to, for each gene.

    Where the grid is coarse for its axes the search goes on from what was found with one component
    after the other at zero or away from it. Without bounds minima with V positive definite come
    first, however low those outside are; only where there is none the search goes on outside.

    Parameters
    ----------
    engine : Searched
        The likelihood.
    genes : named tuple
        The engine's form of the genes.
    start : (K + 1,) array or None
        Start values of θ, instead of the grid.
    max_iter : int
        Limit of the evaluations of the derivatives per gene and start.
    tol : float
        Newton decrement at which a gene has converged.

    Returns
    -------
    Optimum
        Where the search for each gene ended.
    """

    def run(
        genes: Any, gamma: Array, objective: Objective = engine.objective, limit: int = max_iter
    ) -> Optimum:
        return minimise(
            objective,
            engine.derivatives,
            genes,
            gamma,
            nonnegative=engine.nonnegative,
            max_iter=limit,
            tol=tol,
        )

    def definite(gamma: Array, genes: Any) -> Array:
        return np.where(engine.is_positive_definite(gamma), engine.objective(gamma, genes), np.inf)

    def within(genes: Any, gamma: Array) -> Optimum:
        return run(genes, gamma, definite, min(max_iter, DEFINITE_ITER))

    def converged(optimum: Optimum) -> Array:
        return optimum.decrement < tol

    if start is not None:
        return run(genes, given_start(start, genes, engine.objective))
    if engine.nonnegative:
        found = search_all(engine.starts(genes), genes, run, converged)
        if engine.raised is None:
            return found
        return with_restarts(found, lambda gamma: run(genes, gamma), engine.raised)
    best = search_all(engine.definite_starts(genes), genes, within, converged)
    # minima that no valley of the grid below zero leads to, then those outside
    for starts, search in (
        (engine.starts, within),
        (partial(engine.definite_starts, fine=True), within),
        (engine.starts, run),
    ):
        left = np.flatnonzero(~converged(best))
        if len(left):
            some = take(genes, left)
            best = replaced(best, left, search_all(starts(some), some, search, converged))
    return best


def with_restarts(first: Optimum, run: Callable[[Array], Optimum], raised: float) -> Optimum:
    """Best of an optimum and of those found from it with one component flipped, per gene.

    With few levels a likelihood may have several maxima, which differ in the components at zero.

    Parameters
    ----------
    first : Optimum
        What was found first.
    run : callable
        Minimises from one γ per gene, (genes, K).
    raised : float
        What a component at zero starts from, or the largest component if that is larger; others
        start from zero.

    Returns
    -------
    Optimum
        `n_iter` counts all runs.
    """
    best = first
    for k in range(first.gamma.shape[1]):
        start = first.gamma.copy()
        start[:, k] = np.where(start[:, k] == 0, np.maximum(start.max(1), raised), 0.0)
        other = run(start)
        lower = other.objective < best.objective - LOWER
        chosen = (
            np.where(lower.reshape(-1, *[1] * (a.ndim - 1)), a, b)
            for a, b in zip(other, best, strict=True)
        )
        best = Optimum(*chosen)._replace(n_iter=best.n_iter + other.n_iter)
    return best


def _direction(gamma: Array, d: Derivatives, bounded: Array) -> tuple[Array, Array, Array]:
    """Newton step on the free components, by the expected Hessian where the observed is indefinite.

    Directions in which the likelihood is flat, such as the difference of two equal components, are
    left as they are.

    Returns
    -------
    step : (genes, K) array
    decrement : (genes,) array
    newton : (genes,) bool array
        Whether the observed Hessian was used.
    """
    at_bound = bounded & (gamma <= 0.0)
    held = at_bound & (d.gradient >= 0.0)
    step, decrement, newton = _newton_step(d, held)
    # A component that would leave through its bound stays there, and the others move without it.
    for _ in range(gamma.shape[1]):
        leaving = at_bound & ~held & (step < 0)
        if not leaving.any():
            break
        held = held | leaving
        step = _newton_step(d, held)[0]
    return step, decrement, newton


def _newton_step(d: Derivatives, held: Array) -> tuple[Array, Array, Array]:
    """What `_direction` returns, of the components that are not held."""
    expected = _pin(d.expected, held)
    diagonal = np.abs(np.einsum("gkk->gk", expected))
    scale = 1.0 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    outer = scale[:, :, None] * scale[:, None, :]
    observed = _pin(d.observed, held) * outer
    values, vectors = np.linalg.eigh(observed)
    newton = values[:, 0] > -FLAT
    other = np.flatnonzero(~newton)
    values[other], vectors[other] = np.linalg.eigh(expected[other] * outer[other])
    gradient = np.where(held, 0.0, d.gradient) * scale
    along = (vectors * gradient[:, :, None]).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        lengths = np.where(values > FLAT, along / values, 0.0)
    # Rounding of the eigenvectors must not move a component off its bound.
    step = np.where(held, 0.0, -(vectors * lengths[:, None]).sum(2))
    return step * scale, 0.5 * np.abs((step * gradient).sum(1)), newton


def _first_length(gamma: Array, step: Array, bounded: Array) -> Array:
    """Length at which the step meets its first bound, one at most, (genes,)."""
    return np.minimum(_room(gamma, step, bounded).min(1), 1.0)


def _moved(gamma: Array, step: Array, length: Array, bounded: Array) -> Array:
    """γ after a part of the step; a component that meets its bound lies exactly on it."""
    trial = gamma + length[:, None] * step
    trial = np.where(bounded, np.maximum(trial, 0.0), trial)
    trial[length[:, None] >= _room(gamma, step, bounded)] = 0.0
    return trial


def _room(gamma: Array, step: Array, bounded: Array) -> Array:
    """Length of the step at which each component meets its bound, (genes, K)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        towards = bounded & (step < 0) & (gamma > 0)
        return np.where(towards, gamma / -step, np.inf)


def cholesky(matrices: Array) -> Array:
    """Lower Cholesky factor of each symmetric matrix; NaN where it is not positive definite."""
    try:
        return np.linalg.cholesky(matrices)
    except np.linalg.LinAlgError:
        if len(matrices) == 1:
            return np.full(matrices.shape, np.nan)
        half = len(matrices) // 2
        return np.concatenate([cholesky(matrices[:half]), cholesky(matrices[half:])])


def invert(matrices: Array) -> Array:
    """Inverse of each matrix; NaN where it is singular, as at the end of the domain."""
    try:
        return np.linalg.inv(matrices)
    except np.linalg.LinAlgError:
        if len(matrices) == 1:
            return np.full(matrices.shape, np.nan)
        half = len(matrices) // 2
        return np.concatenate([invert(matrices[:half]), invert(matrices[half:])])


def solve(matrices: Array, right: Array) -> Array:
    """Solution of each system, right sides (rows, C) or (genes, rows, C); NaN where singular."""
    right = np.broadcast_to(right, (len(matrices), *right.shape[-2:]))
    try:
        return np.linalg.solve(matrices, right)
    except np.linalg.LinAlgError:
        if len(matrices) == 1:
            return np.full(right.shape, np.nan)
        half = len(matrices) // 2
        parts = ((matrices[:half], right[:half]), (matrices[half:], right[half:]))
        return np.concatenate([solve(*part) for part in parts])


def log_det(matrices: Array) -> Array:
    """Log-determinant of each symmetric matrix; infinite where it is not positive definite."""
    log_dets = 2.0 * np.log(np.einsum("grr->gr", cholesky(matrices))).sum(1)
    return np.where(np.isnan(log_dets), np.inf, log_dets)


def _pin(hessian: Array, held: Array) -> Array:
    """Hessian with held components taken out (identity rows and columns)."""
    free = ~held
    pinned = hessian * (free[:, :, None] & free[:, None, :])
    K = hessian.shape[-1]
    pinned[:, np.arange(K), np.arange(K)] += held
    return pinned
