"""Where searches start: grids, their valleys, and the choice among the minima found from them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

import flashmm as fm
from flashmm.kernels import starts
from flashmm.kernels.engine import Optimum
from flashmm.kernels.starts import Grid, Starts


def test_grids_of_many_components_stay_small():
    few, many = (starts.start_grid([1.0] * K).points for K in (3, 20))
    axis = starts.grid_axes([1.0] * 3)[0]
    assert few.shape == (len(axis),) * 3 + (3,)
    assert many.shape[1] == 20
    assert len(many) < 100
    assert (many == 0).all(1).any()
    for axis_value in starts.grid_axes([1.0] * 20)[0][1:]:
        assert (many == axis_value).all(1).any()
        for k in range(20):
            assert (many == axis_value * np.eye(20)[k]).all(1).any()


def test_fine_grids_have_more_points():
    coarse, fine = (starts.start_grid([1.0] * 2, few).points for few in (False, True))
    assert fine.size > 3 * coarse.size
    np.testing.assert_array_equal(fine[0, 0], 0.0)
    np.testing.assert_allclose(fine[-1, -1], coarse[-1, -1])


@pytest.mark.parametrize("shape", [(9,), (5, 4), (3, 4, 5)])
def test_valleys_are_the_points_not_above_any_neighbour(shape):
    f = np.random.default_rng(0).normal(size=(30, *shape))
    f[0] = np.inf
    f[np.random.default_rng(1).random(f.shape) < 0.2] = np.inf
    found = starts.valleys(f)
    for g in range(len(f)):
        expected = []
        for at in product(*(range(n) for n in shape)):
            beside = tuple(slice(max(i - 1, 0), i + 2) for i in at)
            if np.isfinite(f[g][at]) and f[g][at] <= f[g][beside].min():
                expected.append((f[g][at], at))
        expected = [at for _, at in sorted(expected)[: starts.MOST_VALLEYS]]
        assert [tuple(row) for row in found.gamma[found.gene == g]] == expected
    assert 0 not in found.gene


def components(seed, sizes=(4, 3)):
    """Z_kZ_k' of factors that cross each other, (K, n, n)."""
    rng = np.random.default_rng(seed)
    Z = [np.eye(size)[np.r_[np.arange(size), rng.integers(0, size, 12 - size)]] for size in sizes]
    return np.stack([block @ block.T for block in Z])


@pytest.mark.parametrize("sizes", [(4,), (4, 3), (4, 3, 2)])
def test_grids_below_zero_stay_where_the_covariance_is_positive_definite(sizes):
    B = components(0, sizes)
    points = np.concatenate([grid.points[grid.wanted] for grid in starts.definite_grids(B)])
    V = np.eye(12) + np.einsum("gk,krs->grs", points, B)
    lowest = np.linalg.eigvalsh(V)[:, 0]
    assert (lowest > 0).all()
    assert (points < 0).any(0).all()
    # nearly to the end of the domain
    assert lowest.min() < 0.11


def test_no_point_of_a_later_grid_is_in_reach_of_the_first():
    """With the second component positive the first may lie below the bound that it has alone."""
    outer, inner = np.kron(np.eye(3), np.ones((4, 4))), np.kron(np.eye(6), np.ones((2, 2)))
    first, second = starts.definite_grids(np.stack([outer, inner]))
    alone = -1.0 / 4
    assert (first.points[first.wanted][:, 0] > alone).all()
    later = second.points[second.wanted]
    assert len(later)
    assert (later[:, 0] <= alone).all() and (later[:, 1] > 0).all()


def optimum(gamma, objective, decrement):
    gamma = np.asarray(gamma, dtype=float)[:, None]
    return Optimum(gamma, *map(np.asarray, (objective, decrement)), np.ones(len(gamma), dtype=int))


def test_the_lowest_acceptable_minimum_of_each_gene_is_taken():
    gene = np.array([0, 0, 1, 1, 1, 2])
    given = Starts(gene, np.arange(6.0)[:, None])
    ends = optimum(range(6), [3.0, 3.0 - 1e-9, 5.0, 1.0, 4.0, 7.0], [0, 0, 0, 1, 0, 1])
    best = starts.search_all(
        given, _Genes(np.arange(3)), lambda genes, gamma: ends, lambda o: o.decrement == 0
    )
    # rounding does not change the first; a lower point that is no minimum does not count
    np.testing.assert_array_equal(best.gamma[:, 0], [0, 4, 5])
    np.testing.assert_array_equal(best.n_iter, [2, 3, 1])


class _Genes(tuple):
    """The least that `take` needs."""

    def __new__(cls, number):
        return super().__new__(cls, (number,))


def test_grid_starts_of_points_that_are_no_product():
    points = np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]])
    found = starts.grid_starts(
        Grid(points, np.ones(3, dtype=bool)), lambda at: np.abs(at[:, :1] - [1.2, 0.2])
    )
    np.testing.assert_array_equal(found.gamma, points[[1, 0]])


@pytest.mark.parametrize("engine", ["dense", "eliminated"])
def test_no_start_leads_to_a_better_maximum(engine):
    """Noise in few cells of unequal groups: of 400 likelihoods some have several maxima."""
    rng, n, genes = np.random.default_rng(0), 24, 400
    subject = np.eye(5)[np.r_[np.arange(5), rng.choice(5, n - 5, p=[0.4, 0.3, 0.15, 0.1, 0.05])]]
    batch = np.eye(4)[rng.integers(0, 4, n)]
    X = np.column_stack([np.ones(n), rng.normal(size=n), rng.random(n) < 0.4])
    Y = rng.normal(size=(n, genes))
    for Z in (subject, batch):
        Y += Z @ rng.normal(size=(Z.shape[1], genes)) * rng.choice([0.0, 0.5, 1.0, 5.0], genes)
    stats = fm.summary_statistics_from_matrices(Y, X, np.hstack([subject, batch]), [5, 4])
    fit = fm.fit_lmm(stats, engine=engine)
    assert fit.fitted.all()
    for _ in range(4):
        start = np.append(np.exp(rng.uniform(-4, 2, 2)) * (rng.random(2) < 0.6), 1.0)
        other = fm.fit_lmm(stats, engine=engine, start=start)
        assert (other.loglik[other.fitted] <= fit.loglik[other.fitted] + 1e-6).all()
