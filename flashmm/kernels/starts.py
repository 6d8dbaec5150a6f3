"""Where searches in γ start: grids that genes share, and the valleys of a function on them.

With few levels a likelihood may have several maxima. Each leaves a valley in the values of the
objective on a grid, a point not above its neighbours, and the search goes down from all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from flashmm.kernels.engine import Optimum, take
from flashmm.kernels.rotation import RANK_TOLERANCE

Array = np.ndarray

# Elements of a matrix per point that are there at a time.
PART_ELEMENTS = 2**17
# Levels up to which grids are fine, and reach below zero where components may be negative.
SEARCHED_LEVELS = 128
# Points per axis of the shared grid, by the number of components (the last for all larger K).
COARSE_POINTS = (40, 8, 5, 4, 3)
FINE_POINTS = (40, 16, 10, 6, 4, 3)
# Points of the grid above which it is no product of axes.
LARGEST_GRID = 4096
# Decades of γ_k, relative to 1 / (largest eigenvalue of component k), that the grid spans.
GRID_DECADES = (-1.5, 4.5)
# Fractions of the way from zero to where V is no longer positive definite.
NEGATIVE_FRACTIONS = (
    (0.98, 0.92, 0.8, 0.6, 0.35, 0.1),
    (0.95, 0.8, 0.55, 0.3, 0.1),
    (0.9, 0.6, 0.2),
)
# Levels up to which, and components from which (where the grid is coarse even if it is fine), each
# gene is searched again from its optimum; levels up to which grids with correlations are fine.
FEWEST_LEVELS, MANY_AXES = 32, 4
# Valleys of a gene that are searched.
MOST_VALLEYS = 6
# How much lower f must be for another minimum to be preferred.
LOWER = 1e-7


class Starts(NamedTuple):
    """Starts of the search, several for some genes; the first of each is its most promising.

    Attributes
    ----------
    gene : (starts,) int array
        Number of the gene, ascending.
    gamma : (starts, K) array
        Where to start.
    """

    gene: Array
    gamma: Array


class Grid(NamedTuple):
    """Points of γ that genes share.

    Attributes
    ----------
    points : (points, ..., points, K) array
        One axis per component; (points, K) where they are no product.
    wanted : (points, ..., points) bool array
        Which of them count.
    """

    points: Array
    wanted: Array


def grid_axes(largest: Sequence[float], fine: bool = False) -> list[Array]:
    """Values of each γ_k on the shared grid: zero, then evenly spaced logarithms.

    Parameters
    ----------
    largest : sequence of float
        Largest eigenvalue of each component.
    fine : bool
        Whether there are few levels, so that points cost little.
    """
    points = FINE_POINTS if fine else COARSE_POINTS
    span = np.logspace(*GRID_DECADES, points[min(len(largest), len(points)) - 1] - 1)
    return [np.append(0.0, span / max(value, 1e-300)) for value in largest]


def start_grid(largest: Sequence[float], fine: bool = False) -> Grid:
    """Return the product of `grid_axes`, or with many components each alone and all together."""
    axes = grid_axes(largest, fine)
    if len(axes[0]) ** len(axes) <= LARGEST_GRID:
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    else:
        together = np.column_stack(axes)
        points = np.concatenate([together, *(np.diag(row) for row in together[1:])])
    return Grid(points, np.ones(points.shape[:-1], dtype=bool))


def is_searched_again(levels: int, components: int) -> bool:
    """Whether components at zero, or away from it, are worth a search of their own."""
    many = components >= MANY_AXES and levels <= SEARCHED_LEVELS
    return components > 1 and (many or levels <= FEWEST_LEVELS)


def definite_grids(B: Array, fine: bool = False) -> list[Grid]:
    """Grids that reach below zero as far as V = I + Σ γ_k B_k stays positive definite.

    One for each component that may come first: each goes as far down as those before it allow. Of
    the later grids only points count that no earlier one reaches.

    Parameters
    ----------
    B : (K, r, r) array
        The components in the span of Z, three of them at most.
    fine : bool
        Whether there are more points, for the few genes that others lead to no minimum.
    """
    rising = grid_axes([float(np.linalg.eigvalsh(Bk)[-1]) for Bk in B], fine)
    fractions = np.array(NEGATIVE_FRACTIONS[max(len(B) - 1 - fine, 0)])
    domain = _Domain(B, [_root(Bk) for Bk in B])
    orders = [np.roll(np.arange(len(B)), -first) for first in range(len(B))]
    grids = []
    for number, order in enumerate(orders):
        points = domain.grid(order, rising, fractions)
        flat = points.reshape(-1, len(B))
        wanted = np.ones(len(flat), dtype=bool)
        for earlier in orders[:number]:
            wanted &= ~domain.reaches(flat, earlier)
        grids.append(Grid(points, wanted.reshape(points.shape[:-1])))
    return [grid for grid in grids if grid.wanted.any()]


def _root(Bk: Array) -> Array:
    """C with CC' = B_k and no column of zeros, (r, rank)."""
    values, vectors = np.linalg.eigh(Bk)
    some = values >= values[-1] * RANK_TOLERANCE
    return vectors[:, some] * np.sqrt(values[some])


class _Domain(NamedTuple):
    """Where V = I + Σ γ_k B_k is positive definite; `roots` are those of the B_k."""

    B: Array
    roots: list[Array]

    def bounds(self, gamma: Array, k: int) -> Array:
        """γ_k at which V becomes singular; the others are `gamma` (points, K), γ_k is zero."""
        distinct, number = np.unique(gamma, axis=0, return_inverse=True)
        size = max(1, PART_ELEMENTS // self.B[0].size)
        parts = np.array_split(distinct, -(-len(distinct) // size))
        largest = np.concatenate([self._largest(part, self.roots[k]) for part in parts])
        return -1.0 / largest[number.ravel()]

    def _largest(self, gamma: Array, root: Array) -> Array:
        """Largest eigenvalue of V⁻¹B_k, which is that of C_k'V⁻¹C_k, (points,)."""
        V = np.eye(len(root)) + np.einsum("gk,krs->grs", gamma, self.B)
        return np.linalg.eigvalsh(root.T @ np.linalg.solve(V, root[None]))[:, -1]

    def grid(self, order: Array, rising: list[Array], fractions: Array) -> Array:
        """The grid of one order of the components; its axes are in that order."""
        K, points = len(self.B), len(fractions) + len(rising[0])
        grid = np.zeros((*(points,) * K, K))
        for depth, k in enumerate(order):
            # of the axes that follow one point each: their components are zero so far
            one: tuple[Any, ...] = (Ellipsis, *(0,) * (K - depth), slice(None))
            before = grid[one]
            bounds = self.bounds(before.reshape(-1, K), k).reshape(before.shape[:-1])
            values = np.empty((*bounds.shape, points))
            values[..., : len(fractions)] = bounds[..., None] * fractions
            values[..., len(fractions) :] = rising[k]
            grid[..., k] = values.reshape(*values.shape, *(1,) * (K - depth - 1))
        return grid

    def reaches(self, points: Array, order: Array) -> Array:
        """Whether V stays positive definite as all but the last component come in, one by one."""
        reached, before = np.ones(len(points), dtype=bool), np.zeros_like(points)
        for k in order[:-1]:
            rows = np.flatnonzero(reached & (points[:, k] < 0))
            if len(rows):
                reached[rows] = points[rows, k] > self.bounds(before[rows], k)
            before[:, k] = points[:, k]
        return reached


def valleys(f: Array) -> Starts:
    """Lowest points of each gene among their neighbours on a grid, lowest first.

    Parameters
    ----------
    f : (genes, points, ..., points) array
        Values on the grid; infinite where a point is not to be chosen.

    Returns
    -------
    Starts
        `gamma` holds the positions on the grid, (starts, axes), at least one for each gene with a
        finite value.
    """
    around = f
    for axis in range(1, f.ndim):
        around = _lowest_of_three(around, axis)
    flat, shape = f.reshape(len(f), -1), f.shape[1:]
    lowest = (flat <= around.reshape(flat.shape)) & np.isfinite(flat)
    gene, at = np.nonzero(lowest)
    order = np.lexsort((flat[gene, at], gene))
    gene, at = gene[order], at[order]
    kept = np.arange(len(gene)) - np.searchsorted(gene, gene) < MOST_VALLEYS
    return Starts(gene[kept], np.stack(np.unravel_index(at[kept], shape), axis=1))


def _lowest_of_three(f: Array, axis: int) -> Array:
    """Each value or one of its two neighbours along an axis, whichever is lowest."""
    f = np.moveaxis(f, axis, -1)
    lowest = f.copy()
    np.minimum(lowest[..., 1:], f[..., :-1], out=lowest[..., 1:])
    np.minimum(lowest[..., :-1], f[..., 1:], out=lowest[..., :-1])
    return np.moveaxis(lowest, -1, axis)


def grid_starts(grid: Grid, evaluate: Callable[[Array], Array]) -> Starts:
    """Valleys on a grid of the f of genes that `evaluate` gives for points, as values of γ.

    A gene has none where no point of the grid counts.
    """
    some = evaluate(grid.points[grid.wanted])
    f = np.full((some.shape[1], *grid.wanted.shape), np.inf)
    f[:, grid.wanted] = some.T
    if f.ndim == 2:
        return Starts(np.arange(len(f)), grid.points[f.argmin(1)])
    found = valleys(f)
    return Starts(found.gene, grid.points[tuple(found.gamma.T)])


def is_first(gene: Array) -> Array:
    """Which of the starts of each gene is its first, (starts,) bool."""
    return np.append(True, gene[1:] != gene[:-1])


def joined(parts: Iterator[Starts]) -> Starts:
    """Starts from several grids."""
    genes, gammas = zip(*parts, strict=True)
    gene, gamma = np.concatenate(genes), np.concatenate(gammas)
    order = np.argsort(gene, kind="stable")
    return Starts(gene[order], gamma[order])


def search_all(
    starts: Starts,
    genes: Any,
    run: Callable[[Any, Array], Optimum],
    acceptable: Callable[[Optimum], Array],
) -> Optimum:
    """Lowest of the minima that the starts of each gene lead to.

    Parameters
    ----------
    starts : Starts
        At least one per gene.
    genes : named tuple
        The engine's form of the genes.
    run : callable
        Minimises for genes (starts) from one γ for each.
    acceptable : callable
        Which of the optima may be chosen if there is a choice.

    Returns
    -------
    Optimum
        Per gene; `n_iter` counts all of its searches.
    """
    first = is_first(starts.gene)
    if first.all():
        return run(genes, starts.gamma)
    found = run(take(genes, starts.gene), starts.gamma)
    # the first is kept unless another is truly lower
    f = np.where(first, found.objective - LOWER, found.objective)
    order = np.lexsort((f, ~acceptable(found), starts.gene))
    best = order[np.searchsorted(starts.gene, np.arange(starts.gene[-1] + 1))]
    n_iter = np.bincount(starts.gene, weights=found.n_iter).astype(np.int64)
    return take(found, best)._replace(n_iter=n_iter)
