"""Maximise the likelihood of `kronecker` over the roots of C₀ (rank k) and C₁ (full rank).

Parameters are the entries of L₀ (p × k) and of the lower triangle of L₁, for traits of unit scale.
Several starts climb by L-BFGS; the best goes on with Newton steps, whose Hessian is a difference of
exact gradients. Roots have stationary points that the matrices do not: a column of L₀ that is zero,
or a copy of another, has no gradient of its own. There the derivative in C₀ itself decides whether
a further column would raise the likelihood, and the climb goes on along it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.linalg import cholesky, eigh, svd
from scipy.optimize import minimize

from flashmm.kernels.kronecker import Evaluation, RotatedTraits

Array = np.ndarray

# Smallest diagonal entry of L₁ for traits of unit variance: C₁ keeps its full rank.
FLOOR = 1e-5
# Column of L₀, relative to traits of unit variance, that counts as zero.
NO_COLUMN = 1e-7
# Newton decrement (log-likelihood units) below which one last step is taken.
TOLERANCE = 1e-12
# Curvature, relative to the largest, along which a direction counts as flat (turns of L₀ are).
FLAT = 1e-10
STEP = 1e-5
MAX_NEWTON = 50
MAX_ESCAPES = 10


class Climb(NamedTuple):
    """Where the search ended.

    Attributes
    ----------
    state : Evaluation
        The model at the optimum.
    decrement : float
        Newton decrement g'H⁻¹g at the last evaluated Hessian.
    gradient_norm : float
        Largest derivative over the parameters that are free to move, traits of unit scale.
    n_iter : int
        Evaluations of likelihood and gradient, over all starts.
    converged : bool
        Whether the decrement is below the tolerance and no further column of L₀ helps.
    boundary : bool
        Whether C₁ sits at its floor or C₀ has a smaller rank than it may have.
    start_logliks : (starts,) array
        What each start reached before the best went on.
    """

    state: Evaluation
    decrement: float
    gradient_norm: float
    n_iter: int
    converged: bool
    boundary: bool
    start_logliks: Array


@dataclass(eq=False)
class Objective:
    """Log-likelihood and gradient as functions of the parameters, counting evaluations.

    Attributes
    ----------
    traits : RotatedTraits
        The data.
    rank : int
        Columns of L₀.
    n_iter : int
        Evaluations so far.
    """

    traits: RotatedTraits
    rank: int
    n_iter: int = 0

    @property
    def p(self) -> int:
        """Number of traits."""
        return self.traits.Y.shape[1]

    @property
    def lower(self) -> Array:
        """Lower bounds of the parameters."""
        bounds = np.where(np.eye(self.p)[np.tril_indices(self.p)] > 0, FLOOR, -np.inf)
        return np.concatenate([np.full(self.p * self.rank, -np.inf), bounds])

    def pack(self, L0: Array, L1: Array) -> Array:
        """Parameters of two roots."""
        return np.concatenate([L0.ravel(), L1[np.tril_indices(self.p)]])

    def unpack(self, x: Array) -> tuple[Array, Array]:
        """Roots of the parameters."""
        L1 = np.zeros((self.p, self.p))
        L1[np.tril_indices(self.p)] = x[self.p * self.rank :]
        return x[: self.p * self.rank].reshape(self.p, self.rank), L1

    def state(self, x: Array) -> Evaluation:
        """Evaluate the model."""
        self.n_iter += 1
        return self.traits.evaluate(*self.unpack(x))

    def gradient(self, state: Evaluation) -> Array:
        """Derivatives of the log-likelihood in the parameters."""
        # dl/dL = 2 (dl/dC) L
        dC0, dC1 = state.gradients
        return self.pack(2 * dC0 @ state.L0, 2 * dC1 @ state.L1)

    def negative(self, x: Array) -> tuple[float, Array]:
        """Return -l and its gradient, for a minimiser."""
        state = self.state(x)
        return -state.loglik, -self.gradient(state)

    def hessian(self, x: Array, free: Array) -> Array:
        """Second derivatives in the free parameters, by central differences of the gradient."""
        columns = []
        for j in np.flatnonzero(free):
            step = np.zeros(len(x))
            # away from the floor, where the likelihood bends within a step
            step[j] = STEP * max(abs(x[j]), 0.1) if np.isneginf(self.lower[j]) else STEP * x[j]
            ahead, behind = (self.gradient(self.state(x + s * step)) for s in (1.0, -1.0))
            columns.append((ahead - behind)[free] / (2 * step[j]))
        H = np.array(columns).reshape(len(columns), len(columns))
        return (H + H.T) / 2


def climb(
    traits: RotatedTraits,
    rank: int,
    n_starts: int,
    rng: np.random.Generator,
    start: tuple[Array, Array] | None,
    max_iter: int,
) -> Climb:
    """Search from several starts and polish the best.

    Parameters
    ----------
    traits : RotatedTraits
        Traits of unit scale.
    rank : int
        Columns of L₀, at most the number of traits.
    n_starts : int
        Number of starts; the first is by moments, or the one that is given.
    rng : numpy.random.Generator
        Of the other starts.
    start : (L0, L1) or None
        Roots to begin from.
    max_iter : int
        L-BFGS iterations per start.

    Returns
    -------
    Climb
        The best optimum found.
    """
    objective = Objective(traits, rank)
    begins = [_moment_start(traits, rank) if start is None else _spread(*start, rng)]
    begins += [_random_start(begins[0], rng) for _ in range(n_starts - 1 if rank else 0)]
    ends = [_lbfgs(objective, objective.pack(*roots), max_iter) for roots in begins]
    values = np.array([objective.state(x).loglik for x in ends])
    x = ends[int(values.argmax())]
    for _ in range(MAX_ESCAPES):
        x, decrement = _newton(objective, x)
        further = _further_column(objective, x)
        if further is None:
            break
        x = _lbfgs(objective, further, max_iter)
    state = objective.state(x)
    score = np.where(_free(objective, x, state), objective.gradient(state), 0.0)
    converged = decrement < 1e3 * TOLERANCE and further is None
    lost = len(_columns(state.L0)) < rank
    at_floor = bool((np.diag(state.L1) <= FLOOR * 1.01).any())
    norm = float(np.abs(score).max(initial=0.0))
    return Climb(
        state, decrement, norm, objective.n_iter, converged, lost or at_floor, np.sort(values)[::-1]
    )


# ---- starts ----------------------------------------------------------------------------------


def _moment_start(traits: RotatedTraits, rank: int) -> tuple[Array, Array]:
    """Half of the residual covariance to C₁, half to C₀ as far as its rank goes."""
    coef = np.linalg.lstsq(traits.X, traits.Y, rcond=None)[0]
    residual = traits.Y - traits.X @ coef
    S = residual.T @ residual / traits.n_subjects
    values, vectors = eigh(S)
    scale = np.sqrt(np.trace(S) / (2 * max(traits.values.sum() / traits.n_subjects, 1e-300)))
    share = np.sqrt(values[::-1][:rank] / values.sum())
    return scale * vectors[:, ::-1][:, :rank] * share, cholesky(S / 2, lower=True)


def _random_start(first: tuple[Array, Array], rng: np.random.Generator) -> tuple[Array, Array]:
    """Random directions and size of C₀, a random share of C₁."""
    L0, L1 = first
    turned = rng.normal(size=L0.shape) * np.linalg.norm(L0) / np.sqrt(max(L0.size, 1))
    return turned * rng.uniform(0.3, 2.0), L1 * rng.uniform(0.6, 1.3)


def _spread(L0: Array, L1: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Make the columns of a given L₀ independent: equal or zero columns would stay so for ever."""
    if L0.shape[1] == len(_columns(L0)):
        return L0, L1
    size = max(float(np.abs(L0).max()), 0.1 * float(np.abs(L1).max()))
    return L0 + 0.1 * size * rng.normal(size=L0.shape), L1


# ---- steps -----------------------------------------------------------------------------------


def _lbfgs(objective: Objective, x: Array, max_iter: int) -> Array:
    """Climb until the likelihood stands still."""
    bounds = [(low if np.isfinite(low) else None, None) for low in objective.lower]
    options = {"maxiter": max_iter, "maxcor": 20, "ftol": 1e-13, "gtol": 1e-7, "maxfun": 10**6}
    return np.asarray(
        minimize(
            objective.negative, x, jac=True, method="L-BFGS-B", bounds=bounds, options=options
        ).x
    )


def _free(objective: Objective, x: Array, state: Evaluation) -> Array:
    """Parameters that are not held at a bound by their gradient."""
    return ~((x <= objective.lower * (1 + 1e-9)) & (objective.gradient(state) <= 0))


def _newton(objective: Objective, x: Array) -> tuple[Array, float]:
    """Newton steps on the free parameters, halved until the likelihood does not fall."""
    decrement = np.inf
    state = objective.state(x)
    for _ in range(MAX_NEWTON):
        free = _free(objective, x, state)
        score = objective.gradient(state)[free]
        values, vectors = eigh(-objective.hessian(x, free))
        bent = np.abs(values) > FLAT * np.abs(values).max(initial=1e-300)
        along = np.where(bent, vectors.T @ score, 0.0)
        step = np.zeros(len(x))
        size = np.where(bent, np.abs(values), 1.0)
        step[free] = vectors @ (along / size)
        decrement = float((along**2 / size).sum())
        moved = _halved(objective, x, step, state, decrement)
        if moved is None:
            break
        x, state = moved
        if decrement < TOLERANCE:
            break
    return x, decrement


def _halved(
    objective: Objective, x: Array, step: Array, state: Evaluation, decrement: float
) -> tuple[Array, Evaluation] | None:
    """The longest of 1, ½, ¼ … of a step that does not lower the likelihood beyond rounding."""
    slack = 1e-12 * abs(state.loglik) + 1e-12
    for halving in range(30):
        there = np.maximum(x + step * 0.5**halving, objective.lower)
        found = objective.state(there)
        if found.loglik >= state.loglik - slack * (decrement < 1e-6):
            return there, found
    return None


def _columns(L0: Array) -> Array:
    """Singular values of L₀ that are not zero."""
    if not L0.size:
        return np.zeros(0)
    roots = svd(L0, compute_uv=False)
    return roots[roots > NO_COLUMN * max(1.0, float(roots[0]))]


def _further_column(objective: Objective, x: Array) -> Array | None:
    """Parameters with a further column in L₀ and a higher likelihood, where one is to be had.

    Where C₀ has a smaller rank than it may have, l(C₀ + t²vv') = l + t² v'(dl/dC₀)v + …
    """
    L0, L1 = objective.unpack(x)
    if len(_columns(L0)) == objective.rank:
        return None
    state = objective.state(x)
    values, vectors = eigh(state.gradients[0])
    if values[-1] <= 1e-8 * objective.traits.n_subjects:
        return None
    turned = L0 @ svd(L0)[2].T if L0.any() else L0.copy()
    for t in 0.5 ** np.arange(20) * max(float(np.abs(L0).max()), 0.3):
        turned[:, -1] = t * vectors[:, -1]
        there = objective.pack(turned, L1)
        if objective.state(there).loglik > state.loglik:
            return there
    return None
