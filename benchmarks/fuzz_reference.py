"""The likelihood of one small design, cell by cell, and where it is largest: slow and independent.

Nothing of the package is used here. With an orthonormal basis N of what X leaves of the n cells,

    f(γ) = m log Q + log |W°|,   Q = (N'y)'(N'VN)⁻¹(N'y),   V = I + Σ γ_k Z_kZ_k',

with W° = N'VN and m = n - p for REML, W° = V and m = n for ML. The search looks at a fine product
grid and goes down from every point of it that is lower than its neighbours. Where two effects
correlate, V = I + γ_1Z_1Z_1' + γ_2Z_2Z_2' + γ_12(Z_1Z_2' + Z_2Z_1'), and the descents are those of
the Cholesky factor of (γ_1 γ_12; γ_12 γ_2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations, product

import numpy as np
from scipy.optimize import minimize

Array = np.ndarray

# Positive points per axis by the number of components, and the decades of γλ that they span.
POINTS = {1: 80, 2: 18, 3: 9}
DECADES = (-2.0, 5.0)
# Fractions of the way to the end of the domain of V, where γ may be negative.
FRACTIONS = {1: 40, 2: 10, 3: 5}
# Valleys of the grid that are followed down, lowest first.
VALLEYS = 12
# Slope in units of log(1 + γλ) at which a point counts as an optimum.
FLAT = 1e-4


@dataclass(frozen=True, eq=False)
class Dense:
    """A response with its design: y (n,), X (n, p) of full rank, blocks Z_k (n, q_k)."""

    y: Array
    X: Array
    Z: tuple[Array, ...]
    reml: bool
    correlated: bool = False

    @cached_property
    def basis(self) -> tuple[Array, Array]:
        """N (n, n - p) orthonormal to X, and R of X."""
        Q, R = np.linalg.qr(self.X, mode="complete")
        p = self.X.shape[1]
        return Q[:, p:], R[:p]

    @cached_property
    def forms(self) -> Array:
        """Z_kZ_k' in a basis of the span of Z, (K, r, r)."""
        return _in_span(np.hstack(self.Z), self.Z, self.correlated)[1]

    @cached_property
    def projected(self) -> tuple[Array, Array, float]:
        """N'Z_kZ_k'N in a basis of the span of N'Z, N'y in it, and the sum of squares outside."""
        N = self.basis[0]
        blocks = [N.T @ block for block in self.Z]
        U, forms = _in_span(N.T @ np.hstack(self.Z), blocks, self.correlated)
        z = N.T @ self.y
        t = U.T @ z
        return forms, t, float(((z - U @ t) ** 2).sum())

    @cached_property
    def scale(self) -> Array:
        """Largest eigenvalue of each Z_kZ_k', (K,)."""
        return np.array([np.linalg.eigvalsh(form)[-1] for form in self.forms])

    @property
    def m(self) -> int:
        """Degrees of freedom of the residual variance."""
        n, p = self.X.shape
        return n - p if self.reml else n

    def value(self, gamma: Array) -> float:
        """f(γ); infinite where V is not positive definite."""
        try:
            return self._values(gamma[None])[0]
        except np.linalg.LinAlgError:
            return np.inf

    def values(self, points: Array) -> Array:
        """f at many points (points, K)."""
        result = np.full(len(points), np.inf)
        for part in np.array_split(np.arange(len(points)), max(1, len(points) // 64)):
            try:
                result[part] = self._values(points[part])
            except np.linalg.LinAlgError:
                result[part] = [self.value(points[i]) for i in part]
        return result

    def _values(self, points: Array) -> Array:
        forms, t, e = self.projected
        inner = np.linalg.cholesky(_weighted(points, forms))
        whole = np.linalg.cholesky(_weighted(points, self.forms))
        half = np.linalg.solve(inner, np.broadcast_to(t[:, None], (len(points), len(t), 1)))
        L = inner if self.reml else whole
        log_det = 2.0 * np.log(np.einsum("gnn->gn", L)).sum(1)
        return self.m * np.log(e + (half[:, :, 0] ** 2).sum(1)) + log_det

    def slopes(self, gamma: Array) -> Array:
        """∂f/∂γ."""
        projected, t, e = self.projected
        W = np.linalg.inv(_weighted(gamma[None], projected)[0])
        trace = W if self.reml else np.linalg.inv(_weighted(gamma[None], self.forms)[0])
        forms = projected if self.reml else self.forms
        w = W @ t
        b = np.array([w @ B @ w for B in projected]) / (e + t @ w)
        return np.array([(trace * B).sum() for B in forms]) - self.m * b

    def log_likelihood(self, f: float) -> float:
        """Log-likelihood with all constants, as lme4's."""
        constant = self.m * (np.log(2 * np.pi / self.m) + 1)
        if self.reml:
            constant += 2.0 * np.log(np.abs(np.diag(self.basis[1]))).sum()
        return -0.5 * (f + constant)

    def coefficients(self, gamma: Array) -> tuple[Array, Array]:
        """Generalised least squares, and its standard errors."""
        forms = _forms(self.Z, self.correlated)
        V = np.eye(len(self.y)) + sum(g * form for g, form in zip(gamma, forms, strict=True))
        L = np.linalg.cholesky(V)
        Q, R = np.linalg.qr(np.linalg.solve(L, self.X))
        z = np.linalg.solve(L, self.y)
        left = z - Q @ (Q.T @ z)
        inverse = np.linalg.inv(R)
        variance = (left @ left) / self.m
        return inverse @ (Q.T @ z), np.sqrt(variance * (inverse**2).sum(1))

    def definite_bound(self, gamma: Array, k: int) -> float:
        """Smallest γ_k at which V is positive definite, given the others."""
        others = gamma.copy()
        others[k] = 0.0
        try:
            L = np.linalg.cholesky(_weighted(others[None], self.forms)[0])
        except np.linalg.LinAlgError:
            return np.nan
        half = np.linalg.solve(L, self.forms[k])
        return -1.0 / float(np.linalg.eigvalsh(np.linalg.solve(L, half.T))[-1])


def _in_span(whole: Array, blocks: Sequence[Array], correlated: bool) -> tuple[Array, Array]:
    """An orthonormal basis U of the columns of `whole`, and U'Z_kZ_k'U of its blocks."""
    U, s, _ = np.linalg.svd(whole, full_matrices=False)
    U = U[:, s > 1e-10 * s[0]]
    return U, np.stack(_forms([U.T @ block for block in blocks], correlated))


def _forms(blocks: Sequence[Array], correlated: bool) -> list[Array]:
    """Z_kZ_k', and Z_1Z_2' + Z_2Z_1' of two that correlate."""
    forms = [block @ block.T for block in blocks]
    if correlated:
        first, second = blocks
        forms.append(first @ second.T + second @ first.T)
    return forms


def _weighted(points: Array, forms: Array) -> Array:
    return np.eye(forms.shape[1]) + np.einsum("gk,knm->gnm", points, forms)


def grids(dense: Dense, negative: bool) -> Iterator[Array]:
    """Product grids (points, ..., points, K); with negative values one for each order of axes."""
    K = len(dense.Z)
    rising = np.append(0.0, np.logspace(*DECADES, POINTS[K]))
    if not negative:
        axes = [rising / s for s in dense.scale]
        yield np.stack(np.meshgrid(*axes, indexing="ij"), -1)
        return
    for order in permutations(range(K)):
        yield _grid_with_negative(dense, order, rising)


def _grid_with_negative(dense: Dense, order: tuple[int, ...], rising: Array) -> Array:
    """Each component in turn as far down as those before it allow."""
    K = len(order)
    fractions = np.linspace(0.0, 1.0, FRACTIONS[K] + 2)[-2:0:-1]
    shape = (len(fractions) + len(rising),) * K
    grid = np.zeros((*shape, K))
    for depth, k in enumerate(order):
        for index in product(*(range(s) for s in shape[:depth])):
            first = (*index, *(0,) * (K - depth))
            bound = dense.definite_bound(grid[first], k)
            line = np.concatenate([bound * fractions, rising / dense.scale[k]])
            line = line.reshape(-1, *(1,) * (K - depth - 1))
            grid[(*index, Ellipsis, k)] = line
    return grid


def valleys(values: Array) -> Array:
    """Index of the points that are finite and not above any neighbour, lowest first."""
    padded = np.pad(values, 1, constant_values=np.inf)
    lowest = np.isfinite(values)
    for step in product((-1, 0, 1), repeat=values.ndim):
        shifted = padded[
            tuple(slice(1 + s, 1 + s + n) for s, n in zip(step, values.shape, strict=True))
        ]
        lowest &= values <= shifted
    index = np.argwhere(lowest)
    return index[np.argsort(values[tuple(index.T)], kind="stable")][:VALLEYS]


@dataclass(frozen=True, eq=False)
class Best:
    """The best optimum that was found: f, γ, and whether a descent in factors left no slope."""

    f: float
    gamma: Array
    flat: bool = False


def best_optimum(dense: Dense, nonnegative: bool) -> Best | None:
    """Lowest stationary point of f with V positive definite; None where no descent ended in one."""
    found = []
    for grid in grids(dense, not nonnegative):
        values = dense.values(grid.reshape(-1, grid.shape[-1])).reshape(grid.shape[:-1])
        found += [descend(dense, grid[tuple(i)], nonnegative) for i in valleys(values)]
    for best in sorted(found, key=lambda best: best.f):
        for _ in range(3):
            best = descend(dense, best.gamma, nonnegative)
        if is_stationary(dense, best, nonnegative):
            return best
    return None


def descend(dense: Dense, start: Array, nonnegative: bool) -> Best:
    """Where a quasi-Newton descent from a point ends; in units of 1 / (largest eigenvalue)."""
    scale = dense.scale

    def value(x: Array) -> tuple[float, Array]:
        f = dense.value(x / scale)
        if not np.isfinite(f):
            return OUTSIDE, np.zeros(len(x))
        return f, dense.slopes(x / scale) / scale

    bounds = [(0.0, None)] * len(start) if nonnegative else None
    result = minimize(
        value, start * scale, jac=True, bounds=bounds, method="L-BFGS-B", options=OPTIONS
    )
    return Best(float(result.fun), result.x / scale)


def is_stationary(dense: Dense, best: Best, nonnegative: bool) -> bool:
    """Whether no slope is left, but upwards from a bound."""
    if best.f == OUTSIDE:
        return False
    # in units of log(1 + γλ)
    slope = dense.slopes(best.gamma) * (1.0 / dense.scale + np.abs(best.gamma))
    if nonnegative:
        slope = np.where(best.gamma <= 0, np.minimum(slope, 0.0), slope)
    return bool(np.abs(slope).max() < FLAT * dense.m)


def best_of_pair(dense: Dense) -> Best | None:
    """Lowest stationary point of f over the factors of the covariance of two effects."""
    axes = [np.logspace(*DECADES, PAIR_POINTS) / s for s in dense.scale[:2]]
    first, second, rho = np.meshgrid(*axes, CORRELATIONS, indexing="ij")
    grid = np.stack([first, second, rho * np.sqrt(first * second)], -1)
    values = dense.values(grid.reshape(-1, 3)).reshape(grid.shape[:-1])
    found = [descend_factor(dense, grid[tuple(i)]) for i in valleys(values)]
    for best in sorted(found, key=lambda best: best.f):
        for _ in range(3):
            best = descend_factor(dense, best.gamma)
        if best.flat:
            return best
    return None


def descend_factor(dense: Dense, start: Array) -> Best:
    """Where a quasi-Newton descent in (l_1, l_12, l_2) ends, in units of 1 / √(largest eigenvalue).

    The factor begins with the larger of the two variances.
    """
    size = dense.scale[:2]
    swap = start[1] * size[1] > start[0] * size[0]
    order = [1, 0, 2] if swap else [0, 1, 2]
    unit = size[order[:2]]

    def gamma_of(x: Array) -> Array:
        l1, l12, l2 = x[0] / np.sqrt(unit[0]), *x[1:] / np.sqrt(unit[1])
        return np.array([l1**2, l12**2 + l2**2, l1 * l12])[order]

    def value(x: Array) -> tuple[float, Array]:
        gamma = gamma_of(x)
        f = dense.value(gamma)
        if not np.isfinite(f):
            return OUTSIDE, np.zeros(3)
        s1, s2, s12 = dense.slopes(gamma)[order]
        l1, l12, l2 = x[0] / np.sqrt(unit[0]), *x[1:] / np.sqrt(unit[1])
        slope = np.array([2 * l1 * s1 + l12 * s12, 2 * l12 * s2 + l1 * s12, 2 * l2 * s2])
        return f, slope / np.sqrt(unit[[0, 1, 1]])

    a, b, c = start[order]
    l1 = np.sqrt(a)
    l12 = c / l1 if l1 > 0 else 0.0
    l2 = np.sqrt(max(b - l12**2, 1e-6 * max(b, 1e-6 / unit[1])))
    x = np.array([l1, l12, l2]) * np.sqrt(unit[[0, 1, 1]])
    result = minimize(value, x, jac=True, method="L-BFGS-B", options=OPTIONS)
    slope = np.abs(value(result.x)[1]) * (1.0 + np.abs(result.x))
    flat = bool(result.fun < OUTSIDE and slope.max() < FLAT * dense.m)
    return Best(float(result.fun), gamma_of(result.x), flat)


# Positive points per variance and the correlations of the grid for two effects that correlate.
PAIR_POINTS = 14
CORRELATIONS = np.array([-0.95, -0.5, 0.0, 0.5, 0.95])
# What the descent is given where f is infinite.
OUTSIDE = 1e10
OPTIONS = {"maxiter": 500, "ftol": 1e-14, "gtol": 1e-10}
