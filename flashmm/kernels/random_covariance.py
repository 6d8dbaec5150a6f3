"""Γ = Σ γ_k D_k: the covariance of the random effects relative to σ², V = σ²(I + ZΓZ').

A component with columns of Z is a variance, and D_k is the identity on them. One without columns is
the covariance of the two components before it, which have a column for each of the same levels:
D_k exchanges the two effects of a level, so that Z D_k Z' = Z_1Z_2' + Z_2Z_1'. All are linear in γ.

What two correlated effects of a level may vary like has no bounds in its Cholesky factor,

    (γ_1  γ_12)          (l_1  0 )
    (γ_12 γ_2 ) = LL',   (l_12 l_2),     γ_1 = l_1²,  γ_2 = l_12² + l_2²,  γ_12 = l_1 l_12,

and this is where it is searched: l_2 = 0 is a correlation of one, which Newton's steps reach from
inside without meeting a bound. Intercepts and slopes are searched with the slopes' covariate
centred, Z_2 - cZ_1 in the place of Z_2, a linear change of γ: where the covariate is far from zero,
intercepts at zero are nothing but slopes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np

from flashmm.kernels.engine import each
from flashmm.kernels.search import Derivatives
from flashmm.kernels.starts import FEWEST_LEVELS, LARGEST_GRID, Grid, start_grid

Array = np.ndarray

# Correlations of the start grid, and of a pair alone with few levels, where its variances are finer
# too: there a likelihood may have one maximum at a correlation of one and another elsewhere.
START_CORRELATIONS = (-0.8, 0.0, 0.8)
FEW_LEVELS_CORRELATIONS = (-0.99, -0.7, 0.0, 0.7, 0.99)
# What variances of zero become in the start grid, relative to the smallest other: from zero no step
# leads away, the likelihood being even in l.
NEARLY_ZERO = 0.1
# Eigenvalue of the Hessian, relative to its scale, below which a direction is not followed further.
LEAST_CURVATURE = 1e-3
# Share of the variance of the second effect, beside the first, below which the two are one; and
# size of a variance, relative to 1 / (largest eigenvalue of its component), below which it is zero.
SINGULAR = 1e-10


class Pair(NamedTuple):
    """Positions of two components and of their covariance."""

    first: int
    second: int
    covariance: int


class Scale(NamedTuple):
    """Γ of each gene by its rows: the diagonal (genes, q), and the elements beside it."""

    diagonal: Array
    beside: Array | None


def find_pairs(component_sizes: tuple[int, ...]) -> tuple[Pair, ...]:
    """The pairs of components with a covariance, which follows them and has no columns.

    Raises
    ------
    ValueError
        A component without columns does not follow two of equal size that have no other.
    """
    pairs: list[Pair] = []
    for k, size in enumerate(component_sizes):
        if size:
            continue
        before = component_sizes[max(k - 2, 0) : k]
        if len(before) < 2 or before[0] != before[1] or not before[0]:
            raise ValueError(f"component {k + 1} has no columns and does not follow two of a size")
        pairs.append(Pair(k - 2, k - 1, k))
    return tuple(pairs)


def at_boundary(gamma: Array, component_sizes: tuple[int, ...]) -> Array:
    """Whether a variance is zero, or a correlation one, (genes,) bool."""
    pairs = find_pairs(component_sizes)
    variances = np.array(component_sizes) > 0
    found: Array = (gamma[:, variances] == 0).any(1)
    for pair in pairs:
        found |= is_singular(gamma, pair)
    return found


def is_singular(gamma: Array, pair: Pair) -> Array:
    """Whether a variance of a pair is zero or its correlation one, (genes,) bool."""
    whole = gamma[:, pair.first] * gamma[:, pair.second]
    determinant = whole - gamma[:, pair.covariance] ** 2
    return np.asarray(np.abs(determinant) <= SINGULAR * np.abs(whole))


@dataclass(frozen=True, eq=False)
class RandomCovariance:
    """The matrices D_k of the components of a random design with q columns.

    Attributes
    ----------
    component_sizes : tuple of int
        Columns of Z per component; zero for the covariance of the two components before.
    shifts : tuple of float
        c of each pair, by which Z_2 - cZ_1 is orthogonal to Z_1; for the search only.
    second_first : bool
        Whether factors begin with the second effect of each pair.
    """

    component_sizes: tuple[int, ...]
    shifts: tuple[float, ...] = ()
    second_first: bool = False

    @classmethod
    def of(cls, ZtZ: Array, component_sizes: tuple[int, ...]) -> RandomCovariance:
        """The components of a random design with its cross-product, (q, q)."""
        plain = cls(component_sizes)
        first = [(plain.blocks[a], plain.blocks[b]) for a, b, _ in plain.pairs]
        # tr Z_1'Z_2 / tr Z_1'Z_1
        shifts = (np.trace(ZtZ[a, b]) / np.trace(ZtZ[a, a]) for a, b in first)
        return cls(component_sizes, tuple(map(float, shifts)))

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """Components with a covariance."""
        return find_pairs(self.component_sizes)

    @cached_property
    def factored(self) -> tuple[Pair, ...]:
        """The pairs in the order of their factors."""
        if not self.second_first:
            return self.pairs
        return tuple(Pair(b, a, c) for a, b, c in self.pairs)

    @cached_property
    def blocks(self) -> list[slice]:
        """Columns of each component."""
        ends = np.cumsum((0, *self.component_sizes))
        return [slice(int(a), int(b)) for a, b in pairwise(ends)]

    @cached_property
    def members(self) -> Array:
        """One where a column belongs to a component, (q, K)."""
        return np.repeat(np.eye(len(self.component_sizes)), self.component_sizes, axis=0)

    @cached_property
    def exchanged(self) -> Array:
        """One where a covariance exchanges a column with its partner, (q, K)."""
        found = np.zeros_like(self.members)
        for a, b, c in self.pairs:
            found[self.blocks[a], c] = found[self.blocks[b], c] = 1.0
        return found

    @cached_property
    def partner(self) -> Array:
        """The column that each is exchanged with, itself without a covariance, (q,)."""
        found = np.arange(len(self.members))
        for a, b, _ in self.pairs:
            first, second = self.blocks[a], self.blocks[b]
            found[first], found[second] = np.r_[second], np.r_[first]
        return found

    # ---- Γ and D_k -------------------------------------------------------------------------------

    def scale(self, gamma: Array) -> Scale:
        """Γ at one γ per gene."""
        diagonal = np.repeat(gamma, self.component_sizes, axis=1)
        return Scale(diagonal, each(gamma, self.exchanged.T) if self.pairs else None)

    def times(self, scale: Scale, right: Array) -> Array:
        """Γ times (genes, q, C) or (q, C)."""
        result = scale.diagonal[:, :, None] * right
        if scale.beside is not None:
            result += scale.beside[:, :, None] * right[..., self.partner, :]
        return result

    def applied(self, vectors: Array) -> Array:
        """D_k u of each gene, (genes, q, K)."""
        result = vectors[:, :, None] * self.members
        if self.pairs:
            result += vectors[:, self.partner, None] * self.exchanged
        return result

    def forms(self, left: Array, right: Array) -> Array:
        """a'D_k b of the columns of (genes, q, C), (genes, C, K)."""
        found = (left * right).swapaxes(1, 2) @ self.members
        if self.pairs:
            found += (left[:, self.partner] * right).swapaxes(1, 2) @ self.exchanged
        return found

    def squares(self, vectors: Array) -> Array:
        """u'D_k u of each gene, (genes, K)."""
        found = each(vectors**2, self.members)
        if self.pairs:
            found += each(vectors * vectors[:, self.partner], self.exchanged)
        return found

    def traces(self, M: Array) -> Array:
        """tr(M D_k) of symmetric matrices (genes, q, q), (genes, K)."""
        found = each(np.einsum("gqq->gq", M), self.members)
        if self.pairs:
            found += each(M[:, np.arange(len(self.partner)), self.partner], self.exchanged)
        return found

    def shared_traces(self, M: Any) -> Array:
        """tr(M D_k) of one symmetric matrix, dense or sparse, (K,)."""
        found = [float(M.diagonal()[block].sum()) for block in self.blocks]
        for a, b, c in self.pairs:
            # two effects of a level meet in the diagonal of their block
            found[c] = 2.0 * float(M[self.blocks[a]][:, self.blocks[b]].diagonal().sum())
        return np.array(found)

    def products(self, M: Array) -> Array:
        """tr(M D_k M D_l) of symmetric matrices (genes, q, q), (genes, K, K)."""
        E, P = self.members, self.exchanged
        found: Array = E.T @ (M**2 @ E)
        if self.pairs:
            # (M D_k M D_l)_ii with rows, or rows and columns, of D_k M D_l exchanged
            moved = M[:, :, self.partner]
            mixed = E.T @ ((M * moved) @ P)
            found += mixed + mixed.swapaxes(1, 2)
            found += P.T @ ((M * moved[:, self.partner]) @ P)
        return found

    def columns(self, M: Array, right: Array, k: int) -> Array:
        """M D_k b of the columns of `right`, (genes, q, C)."""
        if self.component_sizes[k]:
            block = self.blocks[k]
            return np.asarray(M[:, :, block] @ right[:, block])
        moved = np.flatnonzero(self.exchanged[:, k])
        return np.asarray(M[:, :, moved] @ right[:, self.partner[moved]])

    def components(self, F: Array) -> Array:
        """F'D_k F of the rows of F, (K, r, r)."""
        return np.stack([self._component(F, k) for k in range(len(self.component_sizes))])

    def _component(self, F: Array, k: int) -> Array:
        if self.component_sizes[k]:
            return np.asarray(F[self.blocks[k]].T @ F[self.blocks[k]])
        moved = np.flatnonzero(self.exchanged[:, k])
        return np.asarray(F[self.partner[moved]].T @ F[moved])

    def sweeps(self, width: int) -> list[slice | Array]:
        """Columns that are swept together, about `width` of them: a level with its partner."""
        q = len(self.members)
        if not self.pairs:
            return [slice(first, min(first + width, q)) for first in range(0, q, width)]
        order = np.argsort(np.minimum(np.arange(q), self.partner), kind="stable")
        starts = [0]
        while starts[-1] < q:
            stop = min(starts[-1] + width, q)
            # not between a column and its partner
            split = stop < q and self.partner[order[stop]] == order[stop - 1] != order[stop]
            starts.append(stop + int(split))
        return [order[a:b] for a, b in pairwise(starts)]

    # ---- the search ------------------------------------------------------------------------------

    @cached_property
    def uncentred(self) -> Array:
        """T of γ = Tγ°, where γ° are the components with Z_2 - cZ_1, (K, K)."""
        T = np.eye(len(self.component_sizes))
        for (a, b, c), shift in zip(self.pairs, self.shifts, strict=True):
            T[a, c], T[a, b], T[c, b] = -2 * shift, shift**2, -shift
        return T

    def largest(self, B: Array) -> Array:
        """Largest eigenvalue of each component as it is searched, of F'D_k F (K, r, r), (K,)."""
        # Σ γ_k B_k = Σ γ°_l Σ_k T_kl B_k
        centred = np.einsum("kl,krs->lrs", self.uncentred, B)
        # where X holds all that Z does, r is zero
        return np.linalg.eigvalsh(centred)[:, -1] if B.shape[-1] else np.zeros(len(B))

    def start_grid(self, largest: Array) -> Grid:
        """Points γ of the shared grid, positive definite where effects correlate.

        Parameters
        ----------
        largest : (K,) array
            What `largest` returns; covariances are not looked at.
        """
        variances = np.flatnonzero(self.component_sizes)
        few = variances.tolist() == [0, 1] and len(self.members) <= FEWEST_LEVELS
        axes = start_grid([largest[k] for k in variances], fine=few).points
        grid = np.zeros((*axes.shape[:-1], len(self.component_sizes)))
        grid[..., variances] = axes
        for k in {k for pair in self.pairs for k in pair[:2]}:
            zero = grid[..., k] == 0
            grid[zero, k] = NEARLY_ZERO * grid[~zero, k].min()
        correlations = FEW_LEVELS_CORRELATIONS if few else START_CORRELATIONS
        ways = (len(correlations),) * len(self.pairs)
        if np.prod(ways) * np.prod(grid.shape[:-1]) <= LARGEST_GRID:
            each_pair = product(correlations, repeat=len(self.pairs))
            grid = np.stack([self._correlated(grid, rho) for rho in each_pair], axis=-2)
            grid = grid.reshape(*axes.shape[:-1], *ways, -1)
        points = np.asarray(grid @ self.uncentred.T)
        return Grid(points, np.ones(points.shape[:-1], dtype=bool))

    def _correlated(self, gamma: Array, correlations: tuple[float, ...]) -> Array:
        """γ with one correlation for each pair."""
        moved = gamma.copy()
        for (a, b, c), rho in zip(self.pairs, correlations, strict=True):
            moved[..., c] = rho * np.sqrt(gamma[..., a] * gamma[..., b])
        return moved

    @cached_property
    def bounded(self) -> Array:
        """Components that the search bounds below by zero, (K,) bool; factors have no bounds."""
        found = np.ones(len(self.component_sizes), dtype=bool)
        found[[k for pair in self.pairs for k in pair]] = False
        return found

    def factors(self, gamma: Array, smallest: Array) -> Array:
        """γ° (genes, K) with (l_1, l_2, l_12) in the place of (γ°_1, γ°_2, γ°_12), given γ.

        Variances are taken for `smallest` (K,) where they are less, and correlations above 0.99 for
        this, so that a search can leave from there.
        """
        gamma = each(gamma, np.linalg.inv(self.uncentred).T)
        x = gamma.copy()
        for a, b, c in self.factored:
            first = np.maximum(gamma[:, a], smallest[a])
            second = np.maximum(gamma[:, b], smallest[b])
            limit = 0.99 * np.sqrt(second)
            x[:, a] = np.sqrt(first)
            x[:, c] = np.clip(gamma[:, c] / x[:, a], -limit, limit)
            x[:, b] = np.sqrt(second - x[:, c] ** 2)
        return x

    def from_factors(self, x: Array) -> Array:
        """The inverse of `factors`."""
        return each(self._squared(x), self.uncentred.T)

    def _squared(self, x: Array) -> Array:
        """γ° of factors."""
        gamma = x.copy()
        for a, b, c in self.factored:
            gamma[:, a], gamma[:, c] = x[:, a] ** 2, x[:, a] * x[:, c]
            gamma[:, b] = x[:, b] ** 2 + x[:, c] ** 2
        return gamma

    def settled(self, x: Array, smallest: Array) -> Array:
        """γ of factors at an optimum; what is zero, or a correlation of one, up to rounding is."""
        gamma = self._squared(x)
        for a, b, c in self.factored:
            one = x[:, b] ** 2 <= SINGULAR * gamma[:, b]
            for k in (a, b):
                gamma[gamma[:, k] <= smallest[k], k] = 0.0
            whole = np.sqrt(gamma[:, a] * gamma[:, b])
            gamma[:, c] = np.where(one | (whole == 0), np.sign(gamma[:, c]) * whole, gamma[:, c])
        return each(gamma, self.uncentred.T)

    def in_factors(self, d: Derivatives, x: Array) -> Derivatives:
        """Derivatives in the factors, by the chain rule from those in γ.

        In the place of the expected Hessian, J'EJ, which is zero along l_2 at a correlation of one,
        is the observed one with the sizes of its eigenvalues, so that a step goes down along every
        direction in which f is not convex.
        """
        T = self.uncentred
        slope, J, curvature = each(d.gradient, T), *np.zeros((2, *d.observed.shape))
        J[:, np.arange(x.shape[1]), np.arange(x.shape[1])] = 1.0
        for a, b, c in self.factored:
            J[:, a, a], J[:, b, b], J[:, b, c] = 2 * x[:, a], 2 * x[:, b], 2 * x[:, c]
            J[:, c, a], J[:, c, c] = x[:, c], x[:, a]
            curvature[:, a, a] = 2 * slope[:, a]
            curvature[:, b, b] = curvature[:, c, c] = 2 * slope[:, b]
            curvature[:, a, c] = curvature[:, c, a] = slope[:, c]
        gradient, J = (slope[:, None] @ J)[:, 0], T @ J
        Jt = J.swapaxes(1, 2)
        observed = Jt @ d.observed @ J + curvature
        size = np.einsum("gkk->gk", Jt @ d.expected @ J) + np.abs(curvature).sum(1)
        return Derivatives(d.f, gradient, observed, _without_sign(observed, size))


def _without_sign(matrices: Array, size: Array) -> Array:
    """Symmetric matrices with the sizes of their eigenvalues, relative to a diagonal."""
    scale = np.sqrt(np.where(size > 0, size, 1.0))
    outer = scale[:, :, None] * scale[:, None, :]
    values, vectors = np.linalg.eigh(matrices / outer)
    sizes = np.maximum(np.abs(values), LEAST_CURVATURE)
    return np.asarray((vectors * sizes[:, None]) @ vectors.swapaxes(1, 2)) * outer
