"""The upper tail A of Student's t with many degrees of freedom in common, from a table.

A is tabulated for each ν: a polynomial on each sixteenth of [0, 8], and beyond a polynomial m(8/t),
A(t) = (1 + t²/ν)^-(ν - 1)/2 m/t. They are made from the continued fraction of the incomplete beta
function and by quadrature, and are within 1e-12 of A, relative to A (1e-11 from ν = 10⁶ on).
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.polynomial import chebyshev

Array = np.ndarray

# Table of the tail: intervals per unit, their end, and degrees of the polynomials.
PER_UNIT = 16
TABLE_END = 8
DEGREE = 8
FAR_DEGREE = 12
# From this ν on the table is made by quadrature, for t above the bound, on [t, t + REACH].
MANY = 300.0
MIDDLE = 1.0
NODES, REACH = 80, 9.0
# Terms of a continued fraction, at most, and relative change at which it has converged.
TERMS = 5000
CONVERGED = 1e-16


class TailTable(NamedTuple):
    """The upper tail A of t with ν degrees of freedom.

    Attributes
    ----------
    dof : float
        ν.
    log_constant : float
        log of ν/2 · B(ν/2, 1/2).
    coefficients : (intervals, DEGREE + 1) array
        Of powers of the place in an interval, from -1 to 1.
    far : (FAR_DEGREE + 1,) array
        The same of m, the place of 8/t in [0, 1].
    """

    dof: float
    log_constant: float
    coefficients: Array
    far: Array


@lru_cache(maxsize=16)
def tail_table(dof: float) -> TailTable:
    """Tabulate the upper tail of t; ν > 0."""
    log_constant = _log_constant(dof / 2.0)
    x = chebyshev.chebpts1(DEGREE + 1)
    t = (np.arange(PER_UNIT * TABLE_END)[:, None] + (x + 1.0) / 2.0) / PER_UNIT
    values = _exact_tails(t.ravel(), float(dof), log_constant).reshape(t.shape)
    x = chebyshev.chebpts1(FAR_DEGREE + 1)
    far = np.array([_far_factor(2.0 * TABLE_END / (1.0 + y), dof, log_constant) for y in x])
    return TailTable(float(dof), log_constant, _powers(values), _powers(far))


def _powers(values: Array) -> Array:
    """Coefficients of powers, of polynomials through values at Chebyshev's points (last axis)."""
    degree = values.shape[-1] - 1
    points = chebyshev.chebpts1(degree + 1)
    powers = np.zeros((degree + 1, degree + 1))
    for order, row in enumerate(np.eye(degree + 1)):
        powers[order, : order + 1] = chebyshev.cheb2poly(row)[: order + 1]
    series = values @ np.linalg.inv(chebyshev.chebvander(points, degree)).T
    return np.ascontiguousarray(series @ powers)


def _exact_tails(t: Array, dof: float, log_constant: float) -> Array:
    """A of many t ≥ 0."""
    if dof < MANY:
        return np.array([_exact_tail(value, dof, log_constant) for value in t])
    tail = np.empty(len(t))
    small = t < MIDDLE
    tail[small] = [_exact_tail(value, dof, log_constant) for value in t[small]]
    # A(t) = a(t) ∫ (1 + u(2t + u)/(ν + t²))^-(ν + 1)/2 du, a the density of t: no digits are lost
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    u, far = REACH * (nodes + 1.0) / 2.0, t[~small][:, None]
    ratio = np.log1p(u * (2.0 * far + u) / (dof + far**2))
    integral = np.exp(-0.5 * (dof + 1.0) * ratio) @ (weights * REACH / 2.0)
    density = np.sqrt(dof) / 2.0 * np.exp(-0.5 * (dof + 1.0) * np.log1p(far[:, 0] ** 2 / dof))
    tail[~small] = density * np.exp(-log_constant) * integral
    return tail


def _log_constant(a: float) -> float:
    """Logarithm of a B(a, 1/2), to rounding for any a."""
    # B(a, 1/2) = √π Γ(a)/Γ(a + 1/2), and for large a
    # log Γ(a + 1/2)/(Γ(a) √a) = -1/(8a) + 1/(192a³) - 1/(640a⁵) + 17/(14336a⁷) - …
    shift, ratio = max(0, int(np.ceil(25.0 - a))), 0.0
    for i in range(shift):
        ratio += np.log((a + i) / (a + i + 0.5))
    b = a + shift
    ratio += 0.5 * np.log(b) - 1 / (8 * b) + 1 / (192 * b**3) - 1 / (640 * b**5)
    ratio += 17 / (14336 * b**7)
    return float(np.log(a) + 0.5 * np.log(np.pi) - ratio)


@njit(nogil=True, cache=True, error_model="numpy")
def _fraction(a: float, b: float, x: float) -> float:
    """I_x(a, b) · a B(a, b) / (x^a (1-x)^b), a continued fraction (DLMF 8.17.22)."""
    # 1/(1 + d_1/(1 + d_2/(1 + …))) from its front, as ratios of successive numerators, denominators
    above, below, value = 1.0, 0.0, 1.0
    for term in range(1, TERMS):
        m = term // 2
        if term % 2:
            d = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            d = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        below = 1.0 / (1.0 + d * below)
        above = 1.0 + d / above
        value *= above * below
        if abs(above * below - 1.0) < CONVERGED:
            break
    return 1.0 / value


@njit(nogil=True, cache=True, error_model="numpy")
def _far_factor(t: float, dof: float, log_constant: float) -> float:
    """Factor m of A(t), t not small, from the continued fraction."""
    # A = ½ I_x(ν/2, ½), x = ν/(ν + t²)
    ratio = t * t / dof
    rest = 0.5 * np.log(ratio) - np.log1p(ratio) + np.log(t) - log_constant
    return 0.5 * np.exp(rest) * _fraction(0.5 * dof, 0.5, 1.0 / (1.0 + ratio))


@njit(nogil=True, cache=True, error_model="numpy")
def _exact_tail(t: float, dof: float, log_constant: float) -> float:
    """A(t), t ≥ 0."""
    a, ratio = 0.5 * dof, t * t / dof
    if ratio * (a + 1.0) > 1.5:
        factor = _far_factor(t, dof, log_constant) / t
        return factor * np.exp((0.5 - a) * np.log1p(ratio))
    # A = ½ - ½ I_y(½, ν/2), y = t²/(ν + t²): no digits are lost for small t
    y = ratio / (1.0 + ratio)
    front = np.sqrt(y) * np.exp(-a * np.log1p(ratio) - log_constant) * dof
    return 0.5 - 0.5 * front * _fraction(0.5, a, y)


@njit(nogil=True, cache=True, error_model="numpy")
def far_log_tail(t: float, table: TailTable) -> float:
    """Logarithm of A(t), t ≥ TABLE_END."""
    x = 2.0 * TABLE_END / t - 1.0
    m = table.far[FAR_DEGREE]
    for power in range(FAR_DEGREE - 1, -1, -1):
        m = m * x + table.far[power]
    return np.log(m / t) - 0.5 * (table.dof - 1.0) * np.log1p(t * t / table.dof)


@njit(nogil=True, cache=True, error_model="numpy")
def _far_density(t: float, table: TailTable) -> float:
    log_kernel = -0.5 * (table.dof + 1.0) * np.log1p(t * t / table.dof)
    return 0.5 * np.sqrt(table.dof) * np.exp(log_kernel - table.log_constant)


@njit(nogil=True, inline="always", error_model="numpy")
def tail(t: float, table: TailTable) -> float:
    """A(t), t ≥ 0."""
    place = t * PER_UNIT
    number = int(min(place, 1e6))
    if number >= len(table.coefficients):
        value = np.exp(far_log_tail(t, table))
    else:
        x = 2.0 * (place - number) - 1.0
        value = table.coefficients[number, DEGREE]
        for power in range(DEGREE - 1, -1, -1):
            value = value * x + table.coefficients[number, power]
    return value


@njit(nogil=True, inline="always", error_model="numpy")
def tail_and_density(t: float, table: TailTable) -> tuple[float, float]:
    """A(t) and -A'(t), t ≥ 0; compiled into its caller, which halves its time."""
    place = t * PER_UNIT
    number = int(min(place, 1e6))
    if number >= len(table.coefficients):
        value = np.exp(far_log_tail(t, table))
        density = _far_density(t, table)
    else:
        x = 2.0 * (place - number) - 1.0
        value, slope = table.coefficients[number, DEGREE], 0.0
        for power in range(DEGREE - 1, -1, -1):
            slope = slope * x + value
            value = value * x + table.coefficients[number, power]
        density = -2.0 * PER_UNIT * slope
    return value, density
