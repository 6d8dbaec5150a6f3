"""Minimum of the polynomial through values on a grid."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.polynomial.polynomial import polyder, polygrid2d, polyval2d

from flashmm.kernels import interpolation
from flashmm.kernels.interpolation import chebyshev_axes, lowest_point, points_per_axis


def surface(function, largest):
    """Values of a function of γ (..., K) for each gene, on the grid."""
    return function(np.stack(np.meshgrid(*chebyshev_axes(largest), indexing="ij"), axis=-1))


def likelihoods(optimum, largest):
    """Sums of 40 (log(1 + γλ) + (1 + γ*λ) / (1 + γλ)): each gene's is lowest at γ*."""
    share = np.array([1.0, 0.6, 0.2])

    def value(gamma):
        a, best = (1.0 + np.multiply.outer(g * largest, share) for g in (gamma, optimum))
        best = best.reshape(len(optimum), *np.ones(gamma.ndim - 1, int), *best.shape[1:])
        return 40.0 * (np.log(a) + best / a).sum((-1, -2))

    return value


@pytest.mark.parametrize("K, tolerance", [(1, 1e-5), (2, 3e-3), (3, 0.2)])
def test_close_to_the_minimum(K, tolerance):
    rng = np.random.default_rng(K)
    largest = 10.0 ** rng.uniform(0, 3, K)
    optimum = 10.0 ** rng.uniform(-1, 2.5, (50, K)) / largest
    found = lowest_point(surface(likelihoods(optimum, largest), largest), largest)
    np.testing.assert_allclose(
        np.log1p(found * largest), np.log1p(optimum * largest), rtol=tolerance
    )


def test_exactly_zero_at_the_bound():
    optimum, largest = np.array([[-0.03, 0.7], [0.7, -0.03], [-0.03, -0.03]]), np.array([10.0, 5.0])
    found = lowest_point(surface(likelihoods(optimum, largest), largest), largest)
    np.testing.assert_array_equal(found == 0, optimum < 0)


@pytest.mark.parametrize("K", [1, 2, 3, 4, 5, 6, 7])
def test_next_to_the_lowest_grid_point_whatever_the_values(K):
    rng = np.random.default_rng(K)
    points = points_per_axis(K)
    values = rng.normal(size=(3, *K * [points]))
    axis = chebyshev_axes(K * [1.0])[0]
    best = np.stack(np.unravel_index(values.reshape(3, -1).argmin(1), values.shape[1:]), axis=1)
    found = lowest_point(values, K * [1.0])
    near = 1.0 + 1e-12
    assert (found >= axis[np.maximum(best - 1, 0)] / near).all()
    assert (found <= axis[np.minimum(best + 1, points - 1)] * near).all()


def test_flat_values_are_left_where_they_are():
    np.testing.assert_array_equal(lowest_point(np.ones((2, 14, 14)), [1.0, 2.0]), 0.0)


def test_derivatives_of_a_polynomial():
    rng = np.random.default_rng(0)
    power = rng.normal(size=(4, 3, 3))
    nodes, x = interpolation._nodes(6), rng.uniform(1.0, 9.0, (4, 2))
    values = np.stack([polygrid2d(nodes, nodes, c) for c in power])
    box = np.zeros((4, 2)), np.full((4, 2), 20.0)
    d = interpolation._derivatives(x, interpolation.Surface(values, *box))
    for g, c in enumerate(power):
        at = {
            (i, j): polyval2d(*x[g], polyder(polyder(c, i, axis=0), j, axis=1))
            for i, j in [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)]
        }
        np.testing.assert_allclose(d.f[g], at[0, 0], rtol=1e-10)
        np.testing.assert_allclose(d.gradient[g], [at[1, 0], at[0, 1]], rtol=1e-9)
        hessian = [[at[2, 0], at[1, 1]], [at[1, 1], at[0, 2]]]
        np.testing.assert_allclose(d.observed[g], hessian, rtol=1e-8)


def test_infinite_outside_the_box():
    box = np.ones((1, 2)), np.full((1, 2), 2.0)
    d = interpolation._derivatives(
        np.array([[1.5, 2.5]]), interpolation.Surface(np.ones((1, 5, 5)), *box)
    )
    assert np.isinf(d.f).all()
