"""Profile-likelihood intervals of variance components, for every engine, all genes at once.

D(s) = -2 (max log L with component k held at s - max log L) is compared with the quantile of χ²₁.
It is looked at on the scale x = √s, where its signed root is nearly a straight line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from flashmm.kernels.engine import Engine, take
from flashmm.kernels.search import Derivatives, minimise

Array = np.ndarray

# Newton decrement (log-likelihood units) to which the other components are optimised.
INNER_TOLERANCE = 1e-10
INNER_STEPS = 100
# Distance of the signed root of D from its goal, in standard errors, at which a limit is found.
ROOT_TOLERANCE = 1e-8
ROOT_STEPS = 60
# How far a search without an upper bracket may go in one step.
GROWTH = 4.0

# D and ∂D/∂x at x for some of the rows.
Deviance = Callable[[Array, Array], tuple[Array, Array]]


class _Rows(NamedTuple):
    """Numbers of rows, in the form that the optimiser passes on."""

    number: Array


@dataclass(frozen=True, eq=False)
class HeldComponent:
    """The likelihood of θ with one component held at a value, a row being a gene and a limit.

    Attributes
    ----------
    engine : Engine
        The algorithm.
    genes : named tuple
        The engine's form of the genes.
    dof : int
        m: ν for REML, n for ML.
    component : int
        The held component; K is the residual.
    gene : (rows,) int array
        The gene of each row.
    """

    engine: Engine[Any]
    genes: Any
    dof: int
    component: int
    gene: Array

    def deviance(self, theta: Array, rows: Array) -> Array:
        """-2 log L(θ) without constants, (rows,); infinite outside the domain."""
        result = np.full(len(rows), np.inf)
        fine = np.flatnonzero(theta[:, -1] > 0)
        theta, genes = theta[fine], take(self.genes, self.gene[rows[fine]])
        gamma, s0 = theta[:, :-1] / theta[:, -1:], theta[:, -1]
        # -2l = m log σ² + log|W°| + Q/σ²,  f = m log Q + log|W°|
        Q = self.dof * self.engine.residual_variance(gamma, genes)
        with np.errstate(divide="ignore", invalid="ignore"):
            value = self.engine.objective(gamma, genes) + self.dof * np.log(s0 / Q) + Q / s0
        result[fine] = np.where(np.isfinite(value), value, np.inf)
        return result

    def score(self, theta: Array, rows: Array) -> Array:
        """Gradient of the log-likelihood in θ, (rows, K+1)."""
        genes = take(self.genes, self.gene[rows])
        return self.engine.score(theta[:, :-1] / theta[:, -1:], theta[:, -1], genes)

    def derivatives(self, theta: Array, rows: Array, free: Array) -> Derivatives:
        """Deviance and its derivatives in the components `free`; flat outside the domain."""
        f, n = self.deviance(theta, rows), len(free)
        gradient, flat = np.zeros((len(rows), n)), np.broadcast_to(np.eye(n), (len(rows), n, n))
        observed, expected = flat.copy(), flat.copy()
        fine = np.flatnonzero(np.isfinite(f))
        square = np.ix_(np.arange(len(fine)), free, free)
        if len(fine):
            genes = take(self.genes, self.gene[rows[fine]])
            gamma, s0 = theta[fine, :-1] / theta[fine, -1:], theta[fine, -1]
            # -2 log L
            gradient[fine] = -2.0 * self.engine.score(gamma, s0, genes)[:, free]
            information = self.engine.information(gamma, s0, genes)
            expected[fine], observed[fine] = (2.0 * matrix[square] for matrix in information)
        return Derivatives(f, gradient, observed, expected)

    def optimise(self, held: Array, others: Array, rows: Array) -> tuple[Array, Array]:
        """Optimise the other components.

        Parameters
        ----------
        held : (rows,) array
            Values of the held component.
        others : (rows, K) array
            Start of the others.
        rows : (rows,) int array
            Their numbers.

        Returns
        -------
        others : (rows, K) array
            At the optimum.
        deviance : (rows,) array
            There; NaN where the optimiser did not converge.
        """
        k = self.component
        free = np.delete(np.arange(others.shape[1] + 1), k)

        def full(x: Array, at: _Rows) -> Array:
            return np.insert(x, k, held[at.number], axis=1)

        def objective(x: Array, at: _Rows) -> Array:
            return self.deviance(full(x, at), rows[at.number])

        def derivatives(x: Array, at: _Rows) -> Derivatives:
            return self.derivatives(full(x, at), rows[at.number], free)

        optimum = minimise(
            objective,
            derivatives,
            _Rows(np.arange(len(rows))),
            others,
            nonnegative=True,
            max_iter=INNER_STEPS,
            tol=INNER_TOLERANCE,
        )
        converged = optimum.decrement < INNER_TOLERANCE
        return optimum.gamma, np.where(converged, optimum.objective, np.nan)


def profile_interval(
    engine: Engine[Any],
    genes: Any,
    theta: Array,
    std_error: Array,
    dof: int,
    component: int,
    quantile: float,
) -> Array:
    """Profile-likelihood limits of one component.

    Parameters
    ----------
    engine : Engine
        The algorithm.
    genes : named tuple
        The engine's form of the genes.
    theta : (genes, K+1) array
        Maximum likelihood estimates, none negative.
    std_error : (genes,) array
        Standard errors of the component; they only start the search.
    dof : int
        m: ν for REML, n for ML.
    component : int
        Which component; K is the residual.
    quantile : float
        √ of the χ²₁ quantile, such as 1.96.

    Returns
    -------
    (genes, 2) array
        Limits of the variance; zero below where D(0) is less than the quantile. NaN where the
        search did not converge.
    """
    G = len(theta)
    model = HeldComponent(engine, genes, dof, component, np.tile(np.arange(G), 2))
    lower, everyone = np.arange(2 * G) < G, np.arange(2 * G)
    estimate = np.tile(theta[:, component], 2)
    best = model.deviance(np.tile(theta, (2, 1)), everyone)
    others = np.tile(np.delete(theta, component, axis=1), (2, 1))

    def evaluate(x: Array, rows: Array) -> tuple[Array, Array]:
        others[rows], deviance = model.optimise(x**2, others[rows], rows)
        at = np.insert(others[rows], component, x**2, axis=1)
        # by the envelope theorem, ∂D/∂s = -2 ∂log L/∂s; ∂s/∂x = 2x
        return deviance - best[rows], -4.0 * x * model.score(at, rows)[:, component]

    x = np.sqrt(estimate)
    half = np.tile(quantile * std_error, 2)
    start = np.where(lower, np.sqrt(np.maximum(estimate - half, estimate / 16)), 0.0)
    start = np.where(lower, start, np.sqrt(estimate + half))
    limit = np.zeros(2 * G)
    wanted = ~lower
    if component < theta.shape[1] - 1:
        rows = np.flatnonzero(lower & (estimate > 0))
        _, at_zero = model.optimise(np.zeros(len(rows)), others[rows], rows)
        wanted[rows] = ~(at_zero - best[rows] <= quantile**2)
    else:
        wanted[:] = True
    rows = np.flatnonzero(wanted)
    limit[rows] = signed_root(
        lambda x, at: evaluate(x, rows[at]), x[rows], start[rows], lower[rows], quantile
    )
    return (limit**2).reshape(2, G).T


def ratio_interval(
    engine: Engine[Any], genes: Any, theta: Array, std_error: Array, quantile: float
) -> Array:
    """Profile-likelihood limits of γ = σ²₁/σ² with one component, σ² profiled out, (genes, 2).

    Parameters as in `profile_interval`. A share of the variance is a monotone function of γ, so
    that its limits follow from these.
    """
    G = len(theta)
    gene, lower = np.tile(np.arange(G), 2), np.arange(2 * G) < G
    gamma = theta[:, 0] / theta[:, 1]
    best = engine.objective(gamma[:, None], genes)

    def evaluate(x: Array, rows: Array) -> tuple[Array, Array]:
        at, some = x[:, None] ** 2, take(genes, gene[rows])
        variance = engine.residual_variance(at, some)
        # ∂f/∂γ = -2σ² ∂log L/∂σ²₁, and γ = x²
        slope = -4.0 * x * variance * engine.score(at, variance, some)[:, 0]
        return engine.objective(at, some) - best[gene[rows]], slope

    half = np.tile(quantile * std_error / theta[:, 1], 2)
    estimate = np.tile(gamma, 2)
    start = np.sqrt(np.where(lower, np.maximum(estimate - half, estimate / 16), estimate + half))
    at_zero = engine.objective(np.zeros((G, 1)), genes) - best
    wanted = ~lower
    wanted[:G] = at_zero > quantile**2
    rows = np.flatnonzero(wanted)
    limit = np.zeros(2 * G)
    limit[rows] = signed_root(
        lambda x, at: evaluate(x, rows[at]),
        np.sqrt(estimate[rows]),
        start[rows],
        lower[rows],
        quantile,
    )
    return (limit**2).reshape(2, G).T


def signed_root(
    evaluate: Deviance, centre: Array, start: Array, lower: Array, quantile: float
) -> Array:
    """Where the signed root ζ(x) = ±√D(x) meets ±quantile; minus below the centre, plus above.

    Parameters
    ----------
    evaluate : callable
        D and ∂D/∂x of x and the numbers of its rows.
    centre : (rows,) array
        Where D is zero.
    start : (rows,) array
        First x.
    lower : (rows,) bool array
        Whether the limit below the centre is meant, between zero and it.
    quantile : float
        The value of |ζ|.

    Returns
    -------
    (rows,) array
        The roots: Newton's steps on ζ, bisection where they leave the bracket. NaN where D could
        not be evaluated or the steps ended first.
    """
    sign = np.where(lower, -1.0, 1.0)
    low, high = np.where(lower, 0.0, centre), np.where(lower, centre, np.inf)
    x, result = start.copy(), np.full(len(start), np.nan)
    active = np.arange(len(x))
    for _ in range(ROOT_STEPS):
        if not len(active):
            break
        at = x[active]
        D, slope = evaluate(at, active)
        zeta = sign[active] * np.sqrt(np.maximum(D, 0.0))
        gap = sign[active] * quantile - zeta
        found = np.abs(gap) < ROOT_TOLERANCE
        result[active[found]] = at[found]
        low[active], high[active] = (
            np.where(gap > 0, at, low[active]),
            np.where(gap > 0, high[active], at),
        )
        a, b = low[active], high[active]
        with np.errstate(divide="ignore", invalid="ignore"):
            # ∂ζ/∂x = ∂D/∂x / (2ζ)
            candidate = at + gap * 2.0 * zeta / slope
        inside = (candidate > a) & (candidate < b) & (candidate < GROWTH * at)
        x[active] = np.where(inside, candidate, np.where(np.isfinite(b), (a + b) / 2, GROWTH * at))
        active = active[~found & np.isfinite(D)]
    return result
