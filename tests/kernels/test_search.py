"""The optimiser that engines of several components share."""

from __future__ import annotations

import numpy as np

from flashmm.kernels.search import Derivatives, _direction, solve


def derivatives(gradient, observed, expected):
    f = np.zeros(len(gradient))
    return Derivatives(f, *(np.asarray(x, dtype=float) for x in (gradient, observed, expected)))


def test_flat_directions_are_left_as_they_are():
    """Two equal components: only their sum is determined, and it is shared."""
    same = [[[2.0, 2.0], [2.0, 2.0]]]
    d = derivatives([[-1.0, -1.0]], same, same)
    step, decrement, newton = _direction(np.ones((1, 2)), d, nonnegative=True)
    np.testing.assert_allclose(step, [[0.25, 0.25]])
    np.testing.assert_allclose(decrement, [0.25])
    assert newton.all()


def test_an_indefinite_hessian_gives_way_to_the_expected_one():
    d = derivatives([[1.0, -4.0]], [[[-1.0, 0.0], [0.0, 2.0]]], [[[4.0, 0.0], [0.0, 8.0]]])
    step, _, newton = _direction(np.ones((1, 2)), d, nonnegative=True)
    np.testing.assert_allclose(step, [[-0.25, 0.5]])
    assert not newton.any()


def test_components_held_at_zero_do_not_move():
    hessian = [[[2.0, 1.0], [1.0, 3.0]]]
    d = derivatives([[5.0, -3.0]], hessian, hessian)
    step, decrement, _ = _direction(np.array([[0.0, 1.0]]), d, nonnegative=True)
    np.testing.assert_allclose(step, [[0.0, 1.0]])
    np.testing.assert_allclose(decrement, [1.5])
    free, _, _ = _direction(np.array([[0.0, 1.0]]), d, nonnegative=False)
    np.testing.assert_allclose(free, [-np.linalg.solve(hessian[0], [5.0, -3.0])])


def test_components_held_at_zero_do_not_move_by_rounding():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(50, 3, 3))
    hessian = root @ root.swapaxes(1, 2)
    gradient = rng.normal(size=(50, 3))
    gamma = np.tile([0.3, 0.0, 0.7], (50, 1))
    step, _, _ = _direction(gamma, derivatives(gradient, hessian, hessian), nonnegative=True)
    held = gradient[:, 1] >= 0
    assert held.any() and not held.all()
    assert (step[held, 1] == 0).all()
    newton = -np.linalg.solve(hessian, gradient[..., None])[..., 0]
    inside = ~held & (newton[:, 1] >= 0)
    np.testing.assert_allclose(step[inside], newton[inside], rtol=1e-8)


def test_a_component_that_would_leave_stays_and_the_others_move_without_it():
    hessian = np.array([[[2.0, 1.5], [1.5, 3.0]]])
    d = derivatives([[-1.0, -4.0]], hessian, hessian)
    whole = -np.linalg.solve(hessian[0], [-1.0, -4.0])
    assert whole[0] < 0
    step, decrement, _ = _direction(np.array([[0.0, 1.0]]), d, nonnegative=True)
    np.testing.assert_allclose(step, [[0.0, 4.0 / 3.0]])
    # that of all free components: the search has not ended while it is not zero
    np.testing.assert_allclose(decrement, 0.5 * whole @ [1.0, 4.0])


def test_units_of_the_components_do_not_matter():
    units = np.array([1e-6, 1e5])
    hessian = np.array([[[2.0, 1.0], [1.0, 3.0]]])
    outer = units[:, None] * units
    plain, *_ = _direction(np.ones((1, 2)), derivatives([[1.0, 2.0]], hessian, hessian), True)
    scaled, *_ = _direction(
        np.ones((1, 2)), derivatives([[1.0, 2.0] * units], hessian * outer, hessian * outer), True
    )
    np.testing.assert_allclose(scaled * units, plain, rtol=1e-12)


def test_solutions_of_singular_systems_are_nan_and_leave_the_others():
    rng = np.random.default_rng(0)
    matrices, right = rng.normal(size=(5, 3, 3)), rng.normal(size=(3, 2))
    expected = np.linalg.solve(matrices, np.broadcast_to(right, (5, 3, 2)))
    matrices[3] = 0.0
    found = solve(matrices, right)
    assert np.isnan(found[3]).all()
    np.testing.assert_array_equal(np.delete(found, 3, 0), np.delete(expected, 3, 0))
