"""All genes at shared values of γ: likelihood, contrasts and their variances.

Given γ = (γ_1 … γ_K), the components relative to the residual, everything about a gene is known
but σ², which has ν degrees of freedom (statistics with σ² integrated out, or profiled out, are the
same function of γ):

    l(γ) = -½ [ν log Q(γ) + log |I + ΓS|],   b(γ) = c'β̂(γ),   v(γ) = Q/ν · c'(X'X - …)⁻¹c.

The algebra of a point is shared by all genes, and a gene costs a row of a matrix product. Three
models of a design say the same: `DiagonalPoints` where one matrix is diagonalised (a component in
the spectral rotation, a kinship), `DensePoints` for any number of components, and
`EliminatedPoints` where large components were eliminated. Points are (points, K) arrays; contrasts
are columns (p, C) in the basis of the genes: R⁻ᵀL' of `orthonormal_contrasts`, for a kinship L'.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from flashmm.kernels.dense import DenseEngine
from flashmm.kernels.eliminated_groups import Grouped
from flashmm.kernels.elimination import EliminationEngine
from flashmm.kernels.kinship import KinshipDesign, KinshipTraits
from flashmm.kernels.rotation import Rotated, Rotation
from flashmm.kernels.spectral import SpectralEngine
from flashmm.kernels.threads import in_threads

Array = np.ndarray


class Effects(NamedTuple):
    """Contrasts at shared points; the variance of one is `variance` times its `unit`.

    Attributes
    ----------
    estimate : (genes, C, points) array
        b = c'β̂(γ).
    variance : (genes, points) array
        σ̂² = Q(γ)/ν.
    unit : (points, C, C) array
        Covariance of the contrasts for σ² = 1.
    """

    estimate: Array
    variance: Array
    unit: Array


class Points(Protocol):
    """A design that can be evaluated at shared values of γ."""

    @property
    def dof(self) -> int:
        """ν = n - rank(X)."""

    @property
    def scale(self) -> Array:
        """A size of each component's Z'Z without the fixed effects, (K,)."""

    @property
    def levels(self) -> Array:
        """Independent values that inform each component, (K,)."""

    def log_likelihood(self, points: Array, genes: Any) -> Array:
        """l(γ) without constants, (genes, points); NaN for genes without residuals."""

    def effects(self, points: Array, genes: Any, contrasts: Array) -> Effects:
        """Contrasts (p, C) of every gene at every point."""


def points_of(engine: Any) -> Points:
    """The model that takes the genes of an engine as they are.

    Parameters
    ----------
    engine : SpectralEngine, DenseEngine or EliminationEngine
        Of a fit by restricted likelihood.

    Returns
    -------
    Points
        Its genes are what `engine.responses` gives.

    Raises
    ------
    TypeError
        Another kind of engine.
    """
    if isinstance(engine, SpectralEngine):
        return DiagonalPoints.of_rotation(engine.rotation)
    if isinstance(engine, DenseEngine):
        return DensePoints(engine.rotation)
    if isinstance(engine, EliminationEngine):
        return EliminatedPoints(engine)
    raise TypeError(f"No evaluation at shared points for a {type(engine).__name__}.")


def _likelihood(dof: int, Q: Array, log_det: Array | float) -> Array:
    """-½ [ν log Q + log |I + ΓS|]; NaN where nothing is left."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(Q > 0, -0.5 * (dof * np.log(Q) + log_det), np.nan)


@dataclass(frozen=True, eq=False)
class DiagonalPoints:
    """One component, diagonal in eigenvectors that genes share.

    With D_i = 1 + γλ_i and t_i as in `flashmm.kernels.kinship`, of which this is the form for
    σ²_e = 1:

        Q = Σ t_i²/D_i,   log |I + γS| = Σ n_i log D_i,   β̂ = β̂_ols - Σ (γ √λ_i t_i/D_i) e_i,
        Φ = (X'X)⁻¹ + γC_0 + Σ (γ/D_i) e_i e_i'.

    Attributes
    ----------
    values, counts : (k,) arrays
        λ and the dimensions n of each; zero, if it is among them, is the last.
    pull : (k, p) array
        e_i.
    inverse, null : (p, p) arrays
        (X'X)⁻¹ and C_0 in the basis of the genes.
    dof : int
        ν.
    """

    values: Array
    counts: Array
    pull: Array
    inverse: Array
    null: Array
    dof: int

    @classmethod
    def of_rotation(cls, rotation: Rotation) -> DiagonalPoints:
        """The spectral rotation; genes are `Rotated`, in the orthonormal basis of X."""
        r, p = rotation.rank, len(rotation.R)
        fixed = rotation.U.T @ rotation.A.T
        return cls(
            np.append(rotation.eigenvalues, 0.0),
            np.append(np.ones(r), rotation.df_residual - r),
            np.vstack([fixed[:r], np.zeros(p)]),
            np.eye(p),
            fixed[r:].T @ fixed[r:],
            rotation.df_residual,
        )

    @classmethod
    def of_kinship(cls, design: KinshipDesign) -> DiagonalPoints:
        """A rotated kinship; genes are `KinshipTraits`, coefficients those of X itself."""
        spectrum = design.restricted
        return cls(
            spectrum.values,
            spectrum.counts,
            design.pull,
            design.XtX_inverse,
            design.C0,
            design.df_residual,
        )

    @property
    def scale(self) -> Array:
        """Largest λ, (1,)."""
        return self.values[:1]

    @property
    def levels(self) -> Array:
        """Number of positive λ, (1,)."""
        return np.array([(self.values > 0).sum()])

    def _shares(self, points: Array) -> Array:
        """1/D, (k, points)."""
        return 1.0 / (1.0 + np.outer(self.values, points[:, 0]))

    def _quadratic(self, points: Array, genes: Rotated | KinshipTraits) -> Array:
        """Q, (genes, points)."""
        t2 = genes.t**2
        if isinstance(genes, Rotated):
            t2 = np.column_stack([t2, genes.e])
        return np.asarray(t2 @ self._shares(points))

    def log_likelihood(self, points: Array, genes: Rotated | KinshipTraits) -> Array:
        """As in `Points`."""
        log_det = self.counts @ np.log1p(np.outer(self.values, points[:, 0]))
        return _likelihood(self.dof, self._quadratic(points, genes), log_det)

    def effects(self, points: Array, genes: Rotated | KinshipTraits, contrasts: Array) -> Effects:
        """As in `Points`."""
        gamma, shares = points[:, 0], self._shares(points)
        e = self.pull @ contrasts
        ols = genes.xy if isinstance(genes, Rotated) else genes.ols
        k = genes.t.shape[1]
        # Σ (γ √λ t/D) e'c as a product of t with (k, C · points)
        weights = (np.sqrt(self.values)[:, None] * shares * gamma)[:k, None] * e[:k, :, None]
        moved = genes.t @ weights.reshape(k, -1)
        estimate = (ols @ contrasts)[:, :, None] - moved.reshape(-1, e.shape[1], len(gamma))
        # c'(X'X)⁻¹c + γ (c'C_0c + Σ (e'c)²/D)
        spread = np.einsum("ic,ik,id->kcd", e, shares, e, optimize=True)
        unit = contrasts.T @ self.inverse @ contrasts
        unit = unit + gamma[:, None, None] * (contrasts.T @ self.null @ contrasts + spread)
        return Effects(estimate, self._quadratic(points, genes) / self.dof, unit)


class _Factor(NamedTuple):
    """One point of a dense model: the inverse root of W (rank, rank) and log |W|."""

    root: Array
    log_det: float


@dataclass(frozen=True, eq=False)
class DensePoints:
    """Any number of components, by one dense factor per point; genes are `Rotated`.

    With W = I + F'ΓF, a rank × rank matrix: Q = e + t'W⁻¹t, log |I + ΓS| = log |W|,
    β̃ = X̃'y - AΓF W⁻¹t and Φ̃ = I + AΓ^½ (I + Γ^½SΓ^½)⁻¹ Γ^½A'.

    Attributes
    ----------
    rotation : Rotation
        The shared part of the model.
    """

    rotation: Rotation

    @property
    def dof(self) -> int:
        """ν."""
        return self.rotation.df_residual

    @property
    def scale(self) -> Array:
        """Largest diagonal element of S in each component, (K,)."""
        return np.array([self.rotation.S_diagonal[b].max() for b in self.rotation.blocks])

    @property
    def levels(self) -> Array:
        """Columns of each component, (K,)."""
        return np.minimum(self.rotation.component_sizes, self.rotation.rank)

    def _rows(self, point: Array) -> Array:
        """γ of each column of Z, (q,)."""
        return np.repeat(point, self.rotation.component_sizes)

    def _factor(self, point: Array) -> _Factor:
        F = self._F
        W = np.eye(F.shape[1]) + F.T @ (self._rows(point)[:, None] * F)
        L = cholesky(W, lower=True)
        root = solve_triangular(L, np.eye(len(L)), lower=True).T
        return _Factor(root, 2.0 * float(np.log(np.diag(L)).sum()))

    @cached_property
    def _F(self) -> Array:
        return self.rotation.F

    def _quadratic(self, factor: _Factor, genes: Rotated) -> Array:
        z = genes.t @ factor.root
        return np.asarray(genes.e + np.einsum("gr,gr->g", z, z))

    def log_likelihood(self, points: Array, genes: Rotated) -> Array:
        """As in `Points`."""

        def at(point: Array) -> Array:
            factor = self._factor(point)
            return _likelihood(self.dof, self._quadratic(factor, genes), factor.log_det)

        return np.stack(in_threads(at, list(points)), axis=1)

    def effects(self, points: Array, genes: Rotated, contrasts: Array) -> Effects:
        """As in `Points`."""
        h = self.rotation.A.T @ contrasts

        def at(point: Array) -> tuple[Array, Array, Array]:
            factor, rows = self._factor(point), self._rows(point)
            variance = self._quadratic(factor, genes) / self.dof
            pull = factor.root @ (factor.root.T @ (self._F.T @ (rows[:, None] * h)))
            return variance, genes.t @ pull, contrasts.T @ contrasts + self._spread(rows, h)

        variance, moved, unit = zip(*in_threads(at, list(points)), strict=True)
        estimate = (genes.xy @ contrasts)[:, :, None] - np.stack(moved, axis=2)
        return Effects(estimate, np.stack(variance, axis=1), np.array(unit))

    def _spread(self, rows: Array, h: Array) -> Array:
        """h'Γ^½ (I + Γ^½SΓ^½)⁻¹ Γ^½h, (C, C)."""
        half = np.sqrt(rows)[:, None]
        scaled = half * self._F
        L = cholesky(np.eye(len(rows)) + scaled @ scaled.T, lower=True)
        z = solve_triangular(L, half * h, lower=True)
        return np.asarray(z.T @ z)


@dataclass(frozen=True, eq=False)
class EliminatedPoints:
    """Large components in closed form (`flashmm.kernels.elimination`); genes are `Grouped`.

    Attributes
    ----------
    engine : EliminationEngine
        Of the restricted likelihood.
    """

    engine: EliminationEngine

    @property
    def dof(self) -> int:
        """ν."""
        return self.engine.projection.df_residual

    @property
    def scale(self) -> Array:
        """Largest diagonal element of S in each component, (K,)."""
        projection = self.engine.projection
        return np.array([projection.S_diagonal[b].max() for b in projection.blocks])

    @property
    def levels(self) -> Array:
        """Columns of each component, (K,)."""
        return np.minimum(self.engine.projection.component_sizes, self.engine.rank)

    def _solve(self, points: Array, genes: Grouped) -> list[tuple[Array, Array, Array]]:
        """Q (genes,), v (genes, c) and log |I + ΓS| of each point."""
        shared = points[:, self.engine.elimination.inner]
        values, inner = np.unique(shared, axis=0, return_inverse=True)
        inner = inner.reshape(-1)

        def at(number: int) -> list[tuple[Array, Array, Array]]:
            return self._sharing_inner(points[inner == number], genes)

        found = in_threads(at, list(range(len(values))))
        order = np.argsort(np.argsort(inner, kind="stable"), kind="stable")
        flat = [point for several in found for point in several]
        return [flat[i] for i in order]

    def _sharing_inner(self, points: Array, genes: Grouped) -> list[tuple[Array, Array, Array]]:
        """The same for points that share γ of the inner components."""
        groups, system = self.engine.groups, self.engine.model.system(points)
        means = np.ascontiguousarray(genes.means.T)
        weighted = means * system.weights.d[:, [0]]
        between = (weighted * means).sum(0) + genes.rr
        sums = np.ascontiguousarray((groups.joins @ weighted).T)
        b_inner, squares = genes.xr + groups.sums(weighted), sums**2
        found = []
        for k in range(len(points)):
            phi, N = system.weights.phi[:, k], system.inverse[k] * system.t[k]
            # b = X̃'W_1⁻¹y,  v = F'T b,  Q = y'W_1⁻¹y - b'N b
            b = b_inner - sums @ (phi[:, None] * system.s[k])
            v = b @ N
            Q = between - squares @ phi - np.einsum("gc,gc->g", v, b)
            found.append((np.maximum(Q, genes.e), v, system.log_det[k]))
        return found

    def log_likelihood(self, points: Array, genes: Grouped) -> Array:
        """As in `Points`."""
        solved = self._solve(points, genes)
        found = [_likelihood(self.dof, Q, log_det) for Q, _, log_det in solved]
        return np.stack(found, axis=1)

    def effects(self, points: Array, genes: Grouped, contrasts: Array) -> Effects:
        """As in `Points`."""
        solved, p = self._solve(points, genes), len(self.engine.basis)
        back = self.engine.basis.T @ contrasts
        moved = np.stack([v[:, :p] @ back for _, v, _ in solved], axis=2)
        variance = np.stack([Q for Q, _, _ in solved], axis=1) / self.dof
        unit = self.engine.covariance(points, contrasts)
        return Effects((genes.xy @ contrasts)[:, :, None] + moved, variance, unit)
