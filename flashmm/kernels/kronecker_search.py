"""Maximise the likelihood of `kronecker` over the roots of C₀ (rank k) and C₁ (full rank).

Parameters are the entries of L₀ (p × k) and S (p × p), C₀ = L₀L₀' and C₁ = SS' + εI, for traits of
unit scale. S is square and not triangular: a triangular root that loses rank in its first columns
has no way out but through others of no slope. Several starts climb by L-BFGS; the best goes on with
Newton steps, whose Hessian is a difference of exact gradients and flat along turns of the roots.
Roots have stationary points that the matrices do not: a column that is zero, or a copy of another,
has no gradient of its own. There the derivative in the matrix decides whether a further column
would raise the likelihood, and the climb goes on along it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy
from scipy.linalg import LinAlgError, cholesky, eigh, eigvalsh, svd

from flashmm.kernels.kronecker import Evaluation, RotatedTraits

Array = np.ndarray

# ε for traits of unit variance: what keeps C₁ of full rank.
FLOOR = 1e-8
# The same where the likelihood grows without bound as C₁ becomes singular.
HIGH_FLOOR = 1e-4
# Smallest eigenvalue of C₁, in ε, up to which it counts as at its limit.
AT_FLOOR = 10.0
# Column of a root, for traits of unit variance, that counts as zero.
NO_COLUMN = 1e-7
# Newton decrement (log-likelihood units) below which one last step is taken.
TOLERANCE = 1e-12
# Decrement below which a fit that can go no further has converged.
CONVERGED = 1e-9
# Curvature, relative to the largest, along which a direction counts as flat (turns are).
FLAT = 1e-10
STEP = 3e-6
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
    floor : float
        ε.
    n_iter : int
        Evaluations so far.
    """

    traits: RotatedTraits
    rank: int
    floor: float
    n_iter: int = 0

    @property
    def p(self) -> int:
        """Number of traits."""
        return self.traits.Y.shape[1]

    def pack(self, L0: Array, S: Array) -> Array:
        """Parameters of two roots."""
        return np.concatenate([L0.ravel(), S.ravel()])

    def unpack(self, x: Array) -> tuple[Array, Array]:
        """Roots of the parameters."""
        split = self.p * self.rank
        return x[:split].reshape(self.p, self.rank), x[split:].reshape(self.p, self.p)

    def state(self, x: Array) -> Evaluation:
        """Evaluate the model."""
        self.n_iter += 1
        L0, S = self.unpack(x)
        return self.traits.evaluate(L0, cholesky(S @ S.T + self.floor * np.eye(self.p), lower=True))

    def gradient(self, x: Array, state: Evaluation) -> Array:
        """Derivatives of the log-likelihood in the parameters."""
        # dl/dL = 2 (dl/dC) L
        return self.pack(
            *(2 * dC @ L for dC, L in zip(state.gradients, self.unpack(x), strict=True))
        )

    def negative(self, x: Array) -> tuple[float, Array]:
        """Return -l and its gradient, for a minimiser."""
        try:
            state = self.state(x)
        except LinAlgError:  # a step far out, to a covariance that is singular by rounding
            return 1e300, np.zeros_like(x)
        return -state.loglik, -self.gradient(x, state)

    def hessian(self, x: Array) -> Array:
        """Second derivatives by central differences of the gradient."""
        H = np.empty((len(x), len(x)))
        for j in range(len(x)):
            step = np.zeros(len(x))
            step[j] = STEP
            ahead, behind = (self.gradient(y, self.state(y)) for y in (x + step, x - step))
            H[j] = (ahead - behind) / (2 * STEP)
        return (H + H.T) / 2

    def at_floor(self, x: Array) -> bool:
        """Whether C₁ is at its limit of full rank."""
        S = self.unpack(x)[1]
        return bool(eigvalsh(S @ S.T)[0] < AT_FLOOR * self.floor)


def climb(
    traits: RotatedTraits,
    rank: int,
    n_starts: int,
    rng: np.random.Generator,
    start: tuple[Array, Array] | None = None,
    max_iter: int = 500,
    bounded: bool = True,
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
    bounded : bool
        False where the likelihood grows without bound as C₁ becomes singular: C₁ is kept further
        from it, and a maximum inside is preferred to whatever is reached there.

    Returns
    -------
    Climb
        The best optimum found.
    """
    objective = Objective(traits, rank, FLOOR if bounded else HIGH_FLOOR)
    begins = [_moment_start(traits, rank) if start is None else _spread(*start, rng)]
    begins += [_random_start(begins[0], rng) for _ in range(n_starts - 1 if rank else 0)]
    ends = [_lbfgs(objective, objective.pack(*roots), max_iter) for roots in begins]
    values = np.array([objective.state(x).loglik for x in ends])
    outside = np.array([not bounded and objective.at_floor(x) for x in ends])
    x = ends[int(np.where(outside & ~outside.all(), -np.inf, values).argmax())]
    for _ in range(MAX_ESCAPES):
        x, decrement = _newton(objective, x)
        further = _further_column(objective, x)
        if further is None:
            break
        x = _lbfgs(objective, further, max_iter)
    state = objective.state(x)
    return Climb(
        state=state,
        decrement=decrement,
        gradient_norm=float(np.abs(objective.gradient(x, state)).max()),
        n_iter=objective.n_iter,
        converged=decrement < CONVERGED and further is None,
        boundary=_n_columns(state.L0) < rank or objective.at_floor(x),
        start_logliks=np.sort(values)[::-1],
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
    if L0.shape[1] == _n_columns(L0):
        return L0, L1
    size = max(float(np.abs(L0).max()), 0.1 * float(np.abs(L1).max()))
    return L0 + 0.1 * size * rng.normal(size=L0.shape), L1


# ---- steps -----------------------------------------------------------------------------------


def _lbfgs(objective: Objective, x: Array, max_iter: int) -> Array:
    """Climb until the likelihood stands still."""
    options: Any = {"maxiter": max_iter, "maxcor": 20, "ftol": 1e-13, "gtol": 1e-7, "maxfun": 10**6}
    found = scipy.optimize.minimize(
        objective.negative, x, jac=True, method="L-BFGS-B", options=options
    )
    return np.asarray(found.x)


def _newton(objective: Objective, x: Array) -> tuple[Array, float]:
    """Newton steps, halved until the likelihood does not fall."""
    decrement = np.inf
    state = objective.state(x)
    for _ in range(MAX_NEWTON):
        values, vectors = eigh(-objective.hessian(x))
        bent = np.abs(values) > FLAT * np.abs(values).max()
        size = np.where(bent, np.abs(values), 1.0)
        along = np.where(bent, vectors.T @ objective.gradient(x, state), 0.0)
        decrement = float((along**2 / size).sum())
        moved = _halved(objective, x, vectors @ (along / size), state, decrement)
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
    slack = 1e-12 * (1.0 + abs(state.loglik)) if decrement < 1e-6 else 0.0
    for halving in range(30):
        there = x + step * 0.5**halving
        try:
            found = objective.state(there)
        except LinAlgError:
            continue
        if found.loglik >= state.loglik - slack:
            return there, found
    return None


def _n_columns(L: Array) -> int:
    """Singular values of a root that are not zero."""
    return int((svd(L, compute_uv=False) > NO_COLUMN).sum()) if L.size else 0


def _further_column(objective: Objective, x: Array) -> Array | None:
    """Parameters with a further column in a root and a higher likelihood, where there are any.

    Where C = LL' has a smaller rank than L has columns, l(C + t²vv') = l + t² v'(dl/dC)v + …
    """
    state, roots = objective.state(x), objective.unpack(x)
    for place, (L, dC) in enumerate(zip(roots, state.gradients, strict=True)):
        if _n_columns(L) == L.shape[1]:
            continue
        values, vectors = eigh(dC)
        if values[-1] <= 1e-8 * objective.traits.n_subjects:
            continue
        turned = L @ svd(L)[2].T  # the columns that are zero come last
        for t in 0.5 ** np.arange(20) * max(float(np.abs(L).max()), 0.3):
            turned[:, -1] = t * vectors[:, -1]
            there = objective.pack(*(turned if k == place else roots[k] for k in range(2)))
            if objective.state(there).loglik > state.loglik:
                return there
    return None
