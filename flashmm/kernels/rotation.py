"""Project the fixed effects out and rotate, once for all genes.

With X'X = R'R and A = R⁻ᵀX'Z, the residual cross-product of the random design is S = Z'Z - A'A.
From S = U diag(λ) U' and F = U √λ (columns with λ > 0) every gene becomes (t, e):

    t = F⁺ Z'r   (rank,)   the part of the residual r = y - Xβ̂ in the span of Z,
    e = r'r - t't          what is left, a sum of squares on ν - rank dimensions,

with t ~ N(0, σ²(I + Σ γ_k B_k)), B_k = F_k'F_k, and e ~ σ² χ². All likelihoods, scores and standard
errors are functions of (t, e) and of matrices that genes share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import cholesky, eigh, solve_triangular

Array = np.ndarray

# Relative size below which a squared norm is rounding error of a cross-product.
RANK_TOLERANCE = 1e-10
EIGEN_TOLERANCE = 1e-11
# Part of a constant that X may leave, and distance of a coefficient of it from a whole number.
CONSTANT_TOLERANCE = 1e-9


def independent_columns(XtX: Array, tolerance: float = RANK_TOLERANCE) -> Array:
    """Columns of X that are not linear combinations of the columns before them.

    Parameters
    ----------
    XtX : (p, p) array
        Cross-product of the design.
    tolerance : float
        A column is dependent if the part of its squared norm that earlier columns leave is below
        it.

    Returns
    -------
    (p,) bool array
        True where the column is kept (as in R, the later of two equal columns is not).
    """
    p = XtX.shape[0]
    scale = np.sqrt(np.diag(XtX))
    kept = np.zeros(p, dtype=bool)
    rest = XtX / np.where(scale > 0, scale, 1.0) / np.where(scale > 0, scale, 1.0)[:, None]
    for j in range(p):
        if scale[j] > 0 and rest[j, j] > tolerance:
            kept[j] = True
            rest -= np.outer(rest[:, j], rest[j]) / rest[j, j]
    return kept


def constant_of(
    XtX: Array, X_sum: Array, n_cells: float, kept: Array | None = None
) -> Array | None:
    """Coefficients a with Xa = 1; None where no combination of the columns of X is constant.

    Parameters
    ----------
    XtX : (p, p) array
        Cross-product of the design.
    X_sum : (p,) array
        X'1.
    n_cells : float
        Number of observations.
    kept : (p,) bool array, optional
        Independent columns to take; by default those of `independent_columns`.

    Returns
    -------
    (p,) array or None
        Zero for dependent columns. Whole numbers are exact, so that (1, 0, 0, ...), an intercept,
        leaves other coefficients alone.
    """
    kept = independent_columns(XtX) if kept is None else kept
    unit = np.sqrt(np.diag(XtX)[kept])
    scaled = XtX[np.ix_(kept, kept)] / unit / unit[:, None]
    a = np.zeros(len(XtX))
    a[kept] = np.linalg.solve(scaled, X_sum[kept] / unit) / unit
    whole = np.round(a)
    a = np.where(np.abs(a - whole) < CONSTANT_TOLERANCE, whole, a)
    # |1 - Xa|²
    rest = n_cells - 2.0 * a @ X_sum + a @ XtX @ a
    return a if rest <= CONSTANT_TOLERANCE * n_cells else None


@dataclass(frozen=True, eq=False)
class Projection:
    """The design with the fixed effects projected out: what every gene and every engine shares.

    Attributes
    ----------
    R : (p, p) array
        Upper Cholesky factor of X'X (independent columns only).
    A : (p, q) array
        R⁻ᵀ X'Z.
    ZtZ : (q, q) array or sparse array
        Cross-product of the random design.
    component_sizes : tuple of int
        Columns of Z per component.
    n_cells : int
        Number of observations n.
    """

    R: Array
    A: Array
    ZtZ: Any
    component_sizes: tuple[int, ...]
    n_cells: int

    @property
    def df_residual(self) -> int:
        """ν = n - rank(X)."""
        return self.n_cells - self.R.shape[0]

    @property
    def log_det_XtX(self) -> float:
        """log |X'X|."""
        return 2.0 * float(np.log(np.diag(self.R)).sum())

    @property
    def S_diagonal(self) -> Array:
        """Diagonal of S = Z'Z - A'A, (q,): what the fixed effects leave of each column of Z."""
        return np.asarray(self.ZtZ.diagonal()) - (self.A**2).sum(0)

    @property
    def blocks(self) -> list[slice]:
        """Rows of Z'… that belong to each component."""
        ends = np.cumsum(self.component_sizes)
        return [
            slice(end - size, end) for end, size in zip(ends, self.component_sizes, strict=True)
        ]

    def residuals(self, YtX: Array, YtZ: Array, yty: Array) -> Residuals:
        """Cross-products of the residuals of ordinary least squares.

        Parameters
        ----------
        YtX, YtZ, yty : (genes, p), (genes, q), (genes,) arrays
            Cross-products of the responses.

        Returns
        -------
        Residuals
            The response in a basis of X, and what X leaves of it.
        """
        xy = solve_triangular(self.R, YtX.T, trans="T").T
        rss = np.maximum(yty - np.einsum("gp,gp->g", xy, xy), 0.0)
        return Residuals(xy, YtZ - xy @ self.A, rss)


class Residuals(NamedTuple):
    """Genes after projection, r = y - Xβ̂ with the ordinary least squares β̂.

    Attributes
    ----------
    xy : (genes, p) array
        R⁻ᵀX'y, the response in an orthonormal basis of X.
    zr : (genes, q) array
        Z'r.
    rss : (genes,) array
        r'r, not below zero.
    """

    xy: Array
    zr: Array
    rss: Array


@dataclass(frozen=True, eq=False)
class Rotation(Projection):
    """The projected design with S = Z'Z - A'A diagonalised.

    Attributes
    ----------
    U : (q, q) array
        Eigenvectors of S; those of non-zero eigenvalues are the first `rank`.
    eigenvalues : (rank,) array
        Non-zero eigenvalues λ of S, descending.
    """

    U: Array
    eigenvalues: Array

    @property
    def rank(self) -> int:
        """Dimension of the span of Z outside the span of X."""
        return len(self.eigenvalues)

    @property
    def F(self) -> Array:
        """(q, rank) root of S."""
        return self.U[:, : self.rank] * np.sqrt(self.eigenvalues)


class Rotated(NamedTuple):
    """Rotated genes.

    Attributes
    ----------
    xy : (genes, p) array
        R⁻ᵀX'y, the response in an orthonormal basis of X.
    t : (genes, rank) array
        F⁺Z'r, the residuals of ordinary least squares in the span of Z.
    e : (genes,) array
        Residual sum of squares outside the spans of X and Z, not below zero.
    rss : (genes,) array
        Residual sum of squares outside the span of X.
    """

    xy: Array
    t: Array
    e: Array
    rss: Array


def project_design(
    XtX: Array, ZtX: Array, ZtZ: Any, component_sizes: tuple[int, ...], n_cells: int
) -> Projection:
    """Factor X'X.

    Parameters
    ----------
    XtX : (p, p) array
        Cross-product of independent columns.
    ZtX : (q, p) array
        Cross-product of the random with the fixed design.
    ZtZ : (q, q) array or sparse array
        Cross-product of the random design.
    component_sizes : tuple of int
        Columns of Z per component.
    n_cells : int
        Number of observations.

    Returns
    -------
    Projection
        The shared part of the model.
    """
    R = cholesky(XtX)
    A = solve_triangular(R, ZtX.T, trans="T")
    return Projection(R, A, ZtZ, tuple(component_sizes), n_cells)


def rotate_projection(projection: Projection) -> Rotation:
    """Diagonalise S = Z'Z - A'A, a dense (q, q) problem."""
    A, ZtZ = projection.A, projection.ZtZ
    ZtZ = ZtZ.toarray() if hasattr(ZtZ, "toarray") else np.asarray(ZtZ)
    S = ZtZ - A.T @ A
    values, vectors = eigh((S + S.T) / 2)
    values, vectors = values[::-1], vectors[:, ::-1]
    rank = int((values > EIGEN_TOLERANCE * max(float(np.diag(ZtZ).max()), 1e-300)).sum())
    sizes, n_cells = projection.component_sizes, projection.n_cells
    return Rotation(projection.R, A, ZtZ, sizes, n_cells, vectors, values[:rank])


def rotate_design(
    XtX: Array, ZtX: Array, ZtZ: Array, component_sizes: tuple[int, ...], n_cells: int
) -> Rotation:
    """Factor X'X and S = Z'Z - Z'X(X'X)⁻¹X'Z; arguments as in `project_design`."""
    return rotate_projection(project_design(XtX, ZtX, ZtZ, component_sizes, n_cells))


def rotate_genes(rotation: Rotation, YtX: Array, YtZ: Array, yty: Array) -> Rotated:
    """Rotate the cross-products of the genes, (genes, p), (genes, q) and (genes,)."""
    xy, zr, rss = rotation.residuals(YtX, YtZ, yty)
    t = (zr @ rotation.U[:, : rotation.rank]) / np.sqrt(rotation.eigenvalues)
    return Rotated(xy, t, np.maximum(rss - np.einsum("gr,gr->g", t, t), 0.0), rss)


def span_of(ZtZ: Array) -> Array:
    """Z' in an orthonormal basis of the span of Z, (q, r)."""
    values, vectors = eigh(ZtZ)
    kept = values > EIGEN_TOLERANCE * values.max()
    return np.asarray(vectors[:, kept] * np.sqrt(values[kept]))


def original_basis(projection: Projection, values: Array) -> Array:
    """R⁻¹ applied to the rows of (genes, p), one by one: coefficients of X from those of R⁻ᵀX'."""
    inverse = solve_triangular(projection.R, np.eye(len(projection.R)))
    return (values[:, None] @ inverse.T)[:, 0]


def orthonormal_contrasts(projection: Projection, contrasts: Array) -> Array:
    """R⁻ᵀL' of contrasts L (C, p): (p, C), so that c'β = c̃'(Rβ)."""
    return solve_triangular(projection.R, contrasts.T, trans="T")
