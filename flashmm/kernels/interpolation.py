"""Start of the search: the minimum of a function that is known on a shared grid.

A likelihood is smooth in x_k = log(1 + λ_k γ_k), λ_k the largest eigenvalue of component k: its
terms log(1 + γλ) have no singularity closer to x ≥ 0 than ±iπ, and are linear where γ is large.
Polynomials through Chebyshev points of [0, X] converge geometrically there. Their minimum, next to
the lowest point of the grid, costs no evaluation of the model and saves several.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
from numpy.polynomial import chebyshev

from flashmm.kernels.engine import each
from flashmm.kernels.search import Derivatives, minimise
from flashmm.kernels.starts import GRID_DECADES

Array = np.ndarray

# Points per axis by the number of components (the last for all larger K).
POINTS = (24, 14, 8, 5, 4, 3)
# Largest x: as far as any grid of the search.
LARGEST_X = float(np.log1p(10.0 ** GRID_DECADES[1]))
# Limit and tolerance of the search on the polynomial, which is an approximation anyway.
MAX_ITER = 30
TOLERANCE = 1e-12


class Surface(NamedTuple):
    """Values of each gene on the grid, and the box around the lowest one.

    Attributes
    ----------
    values : (genes, points, ..., points) array
        One axis per component.
    low, high : (genes, K) arrays
        Grid points beside the lowest.
    """

    values: Array
    low: Array
    high: Array


def points_per_axis(components: int) -> int:
    """Grid points of each component."""
    return POINTS[min(components, len(POINTS)) - 1]


def chebyshev_axes(largest: Sequence[float]) -> list[Array]:
    """Values of each γ_k on the shared grid, zero first.

    Parameters
    ----------
    largest : sequence of float
        Largest eigenvalue of each component, λ_k.
    """
    x = _nodes(points_per_axis(len(largest)))
    return [np.expm1(x) / max(value, 1e-300) for value in largest]


def lowest_point(values: Array, largest: Sequence[float]) -> Array:
    """γ at the minimum of the polynomial through values of a function on the grid, (genes, K).

    Parameters
    ----------
    values : (genes, points, ..., points) array
        Values at the product of `chebyshev_axes`.
    largest : sequence of float
        λ_k.
    """
    shape = values.shape[1:]
    x = _nodes(shape[0])
    flat = values.reshape(len(values), -1)
    best = np.stack(np.unravel_index(flat.argmin(1), shape), axis=1)
    # differences keep the digits that matter, and equal values are exactly flat
    above = (flat - flat.min(1, keepdims=True)).reshape(values.shape)
    beside = [x[np.clip(best + step, 0, len(x) - 1)] for step in (-1, 1)]
    found = minimise(
        lambda at, surface: _derivatives(at, surface).f,
        _derivatives,
        Surface(above, *beside),
        x[best],
        nonnegative=True,
        max_iter=MAX_ITER,
        tol=TOLERANCE,
    )
    return np.expm1(found.gamma) / np.maximum(largest, 1e-300)


def _nodes(points: int) -> Array:
    """Chebyshev points of [0, X], both ends among them."""
    return LARGEST_X * (1.0 + chebyshev_points(points)) / 2.0


def _derivatives(x: Array, surface: Surface) -> Derivatives:
    """The polynomial, its gradient and Hessian at one x per gene; infinite outside the box."""
    n, K = x.shape
    form = surface.values
    for k in range(K):
        rows = form.reshape(n, form.shape[1], -1).swapaxes(1, 2)
        form = (rows @ _cardinal(x[:, k], form.shape[1])).reshape(n, *form.shape[2:], 3)
    # what is left is indexed by the order of the derivative in each x_k
    order = np.eye(K, dtype=int)
    gradient = np.stack([form[:, *row] for row in order], axis=1)
    hessian = np.empty((n, K, K))
    for k, m in combinations_with_replacement(range(K), 2):
        hessian[:, k, m] = hessian[:, m, k] = form[:, *(order[k] + order[m])]
    inside = ((x >= surface.low) & (x <= surface.high)).all(1)
    f = np.where(inside, form.reshape(n, -1)[:, 0], np.inf)
    return Derivatives(f, gradient, hessian, _absolute(hessian))


def _cardinal(x: Array, points: int) -> Array:
    """Values and first and second derivatives in x of `cardinal`, (genes, points, 3)."""
    scale = 2.0 / LARGEST_X
    return cardinal(scale * x - 1.0, points, 2) * scale ** np.arange(3)


def cardinal(at: Array, points: int, derivatives: int = 0) -> Array:
    """Polynomials that are one at a Chebyshev point of [-1, 1] and zero at the others.

    Parameters
    ----------
    at : (n,) array
        Where to evaluate them.
    points : int
        Number of Chebyshev points, both ends among them.
    derivatives : int
        Orders of derivatives wanted beside the values.

    Returns
    -------
    (n, points, derivatives + 1) array
    """
    coefficients = np.linalg.inv(chebyshev.chebvander(chebyshev_points(points), points - 1))
    whole = np.zeros((points, points, derivatives + 1))
    for order in range(derivatives + 1):
        derived = chebyshev.chebder(coefficients, order)
        whole[: len(derived), :, order] = derived
    vander = np.ascontiguousarray(chebyshev.chebvander(at, points - 1))
    return each(vander, whole.reshape(points, -1)).reshape(-1, points, derivatives + 1)


def chebyshev_points(points: int) -> Array:
    """Extrema of a Chebyshev polynomial, both ends of [-1, 1] among them."""
    return np.sin(np.pi * (np.arange(points) / (points - 1) - 0.5))


def _absolute(hessian: Array) -> Array:
    """Each matrix with its eigenvalues at their absolute values."""
    values, vectors = np.linalg.eigh(hessian)
    return (vectors * np.abs(values)[:, None]) @ vectors.swapaxes(1, 2)
