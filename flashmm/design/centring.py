"""Columns of X that lie far from zero, as differences from a constant that X can make.

Of a column x with a spread s about a mean m, X'X holds what varies in the digits beyond (m / s)².
Where other columns make the constant of it, 1 = Xa (an intercept, the levels of a factor, of
`x:condition` the column of that condition), products are taken of x - m Xa instead: the model is
the same, with the coefficients β̃ = β + Cβ and β = β̃ - Cβ̃, where column j of C is m_j a.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from flashmm.cells.groups import GroupStatistics
from flashmm.cells.moments import FAR, is_far
from flashmm.design.products import is_sparse, weighted
from flashmm.kernels.rotation import constant_of, independent_columns
from flashmm.names import listed
from flashmm.options import note

# Squared mean over variance of a column above which it is said that it cannot be centred.
TOO_FAR = 1e8


class Centring(NamedTuple):
    """What is taken from the columns of X.

    Attributes
    ----------
    matrix : (coefficients, coefficients) array or None
        C: products are of X - XC. None where no column lies far from a constant that others make.
    left : (some,) int array
        Columns that lie so far from zero that digits are lost, and cannot be centred.
    """

    matrix: np.ndarray | None
    left: np.ndarray

    def notes(self, coefficients: Sequence[str]) -> list[str]:
        """Say which columns could not be centred."""
        if not len(self.left):
            return []
        names = listed([coefficients[j] for j in self.left])
        return [
            note(
                f"{names}: the mean is more than {TOO_FAR**0.5:.0f} times the spread, and the "
                "other fixed effects make no constant to take it up, so that digits of what varies "
                "are lost (and a column may seem to follow from others): add an intercept (beside "
                "x:condition, condition), or subtract a constant from these columns."
            )
        ]


def centring_of_groups(groups: GroupStatistics, fixed: np.ndarray) -> Centring:
    """What is taken from the columns of X, on groups of cells.

    Parameters
    ----------
    groups : GroupStatistics
        The groups.
    fixed : (1 + m, groups, coefficients) array
        The design, as `GroupDesign.fixed`.

    Returns
    -------
    Centring
        Of the cells of the groups.
    """
    n, support = groups.moment(0, 0), np.sign(fixed[0])
    cells = n @ np.abs(support)
    sums = sum(groups.moment(k, 0) @ (support * D) for k, D in enumerate(fixed))
    mean = sums / np.maximum(cells, 1.0)
    centred = [fixed[0] - mean * support, *fixed[1:]]
    squares = sum(
        groups.moment(k, j) @ (A * B)
        for k, A in enumerate(centred)
        for j, B in enumerate(centred)
        if (A.any() and B.any()) or k == j == 0
    )
    far = np.flatnonzero(_is_far(mean, squares, cells))
    if not len(far):
        return Centring(None, far)
    others = np.setdiff1d(np.arange(fixed.shape[2]), far)
    X = list(fixed[:, :, others])
    gram, across = np.zeros((0, 0)), np.zeros((0, len(far)))
    if len(others):
        gram, across = weighted(groups, X, X), weighted(groups, X, [support[:, far]])
    return _centring(gram, across, cells, mean, far, others, squares)


def centring_of_cells(X: Any) -> Centring:
    """The same of a design of cells, (cells, coefficients), dense or CSR."""
    support = X.sign() if is_sparse(X) else np.sign(X)
    cells = np.asarray(abs(support).sum(axis=0)).reshape(-1)
    mean = np.asarray(abs(X).sum(axis=0)).reshape(-1) / np.maximum(cells, 1.0)
    difference = X - (support @ sp.diags_array(mean) if is_sparse(X) else support * mean)
    squares = np.asarray((difference * difference).sum(axis=0)).reshape(-1)
    far = np.flatnonzero(_is_far(mean, squares, cells))
    if not len(far):
        return Centring(None, far)
    others = np.setdiff1d(np.arange(X.shape[1]), far)
    gram, across = (_dense(X[:, others].T @ M) for M in (X[:, others], support[:, far]))
    return _centring(gram, across, cells, mean, far, others, squares)


def centred(X: Any, centring: np.ndarray | None) -> Any:
    """X - XC of a design (..., rows, coefficients), dense or sparse."""
    if centring is None:
        return X
    if is_sparse(X):
        return sp.csr_array(X - X @ sp.csr_array(centring))
    moved = np.flatnonzero(centring.any(0))
    values = np.array(X)
    values[..., moved] -= X @ centring[:, moved]
    return values


def to_centred(coef: np.ndarray, centring: np.ndarray | None) -> np.ndarray:
    """Coefficients (..., p) of X - XC from those of X, β̃ = β + Cβ."""
    return coef if centring is None else coef + coef @ centring.T


def from_centred(coef: np.ndarray, centring: np.ndarray | None) -> np.ndarray:
    """Coefficients (..., p) of X from those of X - XC, β = β̃ - Cβ̃."""
    return coef if centring is None else coef - coef @ centring.T


def of_centred(contrasts: np.ndarray, centring: np.ndarray | None) -> np.ndarray:
    """Contrasts (C, p) of the coefficients of X as those of X - XC, L - LC."""
    return contrasts if centring is None else contrasts - contrasts @ centring


def independent(XtX: np.ndarray, centring: np.ndarray | None) -> np.ndarray:
    """Columns that are no linear combinations of those before them; centred ones come last.

    What is taken from these is then never a column that is left out.
    """
    if centring is None:
        return independent_columns(XtX)
    order = np.argsort(centring.any(0), kind="stable")
    kept = np.zeros(len(XtX), dtype=bool)
    kept[order] = independent_columns(XtX[np.ix_(order, order)])
    return kept


def _is_far(
    mean: np.ndarray, squares: np.ndarray, cells: np.ndarray, far: float = FAR
) -> np.ndarray:
    """Columns that vary where they are not zero, but little beside their mean there."""
    return is_far(mean, squares / np.maximum(cells, 1.0), far)


def _centring(
    gram: np.ndarray,
    across: np.ndarray,
    cells: np.ndarray,
    mean: np.ndarray,
    far: np.ndarray,
    others: np.ndarray,
    squares: np.ndarray,
) -> Centring:
    """C, from X'X of the other columns and their products with the signs of those that are far."""
    C = np.zeros((len(mean), len(mean)))
    for j, products in zip(far, across.T, strict=True):
        a = constant_of(gram, products, cells[j])
        if a is not None:
            C[others, j] = mean[j] * a
    left = ~C.any(0) & _is_far(mean, squares, cells, TOO_FAR)
    return Centring(C if C.any() else None, np.flatnonzero(left))


def _dense(product: Any) -> np.ndarray:
    return np.asarray(product.toarray() if is_sparse(product) else product)
