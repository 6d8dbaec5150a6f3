"""Large components in closed form; the others as columns beside those of X.

The engine of `flashmm.kernels.eliminated_model`: search, estimates and inference, genes in parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse
from scipy.linalg import eigh, solve_triangular

from flashmm.kernels.eliminated_groups import Grouped, Groups, total
from flashmm.kernels.eliminated_model import EliminatedModel
from flashmm.kernels.engine import Estimates, Optimum, VarianceForms, by_homogeneity, each, take
from flashmm.kernels.interpolation import chebyshev_axes, lowest_point
from flashmm.kernels.random_covariance import RandomCovariance
from flashmm.kernels.rotation import EIGEN_TOLERANCE, Projection, span_of
from flashmm.kernels.search import (
    Derivatives,
    Moments,
    best_optimum,
    profile_derivatives,
    theta_information,
    theta_score,
)
from flashmm.kernels.starts import (
    MANY_AXES,
    NEGATIVE_FRACTIONS,
    SEARCHED_LEVELS,
    Grid,
    Starts,
    definite_grids,
    grid_starts,
    is_first,
    is_searched_again,
    joined,
    start_grid,
    valleys,
)
from flashmm.kernels.structure import (
    CovarianceStructure,
    Elimination,
    find_elimination,
    largest_eigenvalue,
)
from flashmm.kernels.threads import by_parts, in_threads

Array = np.ndarray

# Numbers that vectors of a block of genes may hold, and an array of a part that a thread works on
# (it stays in the cache).
BLOCK_ELEMENTS = 2**23
PART_ELEMENTS = 2**17
PART_LIMITS = (4, 64)
# Components beside the eliminated ones up to which each has an axis of the start grid.
FREE_AXES = 4
# Share of the squared norm of a column of X that earlier columns leave, below which it is replaced.
NEARLY_COLLINEAR = 1e-2
# Genes in one product with a matrix that all genes share.
PANEL_GENES = 64


@dataclass(frozen=True, eq=False)
class EliminationEngine:
    """Likelihood and inference with groups, and what joins them, in closed form.

    Attributes
    ----------
    projection : Projection
        The shared part of the model.
    model : EliminatedModel
        The design in groups, and the algebra.
    within_root : (c, r) array
        Root of the pseudo-inverse of `groups.within`.
    dof : int
        m: ν for REML, n for ML.
    nonnegative : bool
        Whether γ is bounded below by zero.
    """

    projection: Projection
    model: EliminatedModel
    within_root: Array
    dof: int
    nonnegative: bool

    @staticmethod
    def takes(structure: CovarianceStructure) -> bool:
        """At least one component is the levels of a factor."""
        return structure.elimination is not None

    @classmethod
    def build(cls, projection: Projection, reml: bool, nonnegative: bool) -> EliminationEngine:
        """Prepare the engine for a design.

        Raises
        ------
        ValueError
            No component has orthogonal columns.
        """
        found = find_elimination(projection.ZtZ, projection.component_sizes)
        if found is None:
            raise ValueError("No random component has orthogonal columns.")
        basis = _thin_basis(projection.R)
        sizes = projection.component_sizes
        n_outer = 0 if found.outer is None else sizes[found.outer]
        ZtX, XtX = _products(projection, found, basis)
        groups = Groups.build(found, n_outer, ZtX, XtX, nonnegative)
        members = np.repeat(np.eye(len(found.rest)), [sizes[k] for k in found.rest], axis=0)
        return cls(
            projection,
            EliminatedModel(found, groups, basis, members, reml),
            _pseudo_root(groups.within, np.diag(XtX)),
            projection.df_residual if reml else projection.n_cells,
            nonnegative,
        )

    @property
    def elimination(self) -> Elimination:
        """What is eliminated."""
        return self.model.elimination

    @property
    def groups(self) -> Groups:
        """The design in groups."""
        return self.model.groups

    @property
    def basis(self) -> Array:
        """Columns of X as `_thin_basis` has them, (p, p)."""
        return self.model.basis

    @property
    def rank(self) -> int:
        """Dimension of the span of Z outside the span of X."""
        return len(self.groups.sizes) + self.within_root.shape[1] - len(self.basis)

    @property
    def small_blocks(self) -> bool:
        """Threads take parts of a block."""
        return False

    def genes_per_block(self) -> int:
        """Genes that fit in a bounded amount of memory; matrices are made by parts."""
        return max(64, BLOCK_ELEMENTS // len(self.groups.sizes))

    def _part(self) -> int:
        """Genes whose matrices a thread works on at a time."""
        G, c = self.groups.rows.shape
        largest = max(G, self.groups.joins.shape[0] * c, c * c)
        return int(np.clip(PART_ELEMENTS // largest, *PART_LIMITS))

    def responses(self, YtX: Array, YtZ: Array, yty: Array) -> Grouped:
        """Group means of the residuals, and their products within groups."""
        projection, groups = self.projection, self.groups
        blocks, p = projection.blocks, len(self.basis)
        xy = each(YtX, _inverse_triangle(projection.R))
        fixed = np.zeros((len(xy), groups.rows.shape[1]))
        fixed[:, :p] = each(xy, _inverse_triangle(self.basis).T)
        means = YtZ[:, self.elimination.columns] / groups.sizes - groups.fitted(fixed).T
        sums = means * groups.sizes
        # X'r = 0: within groups it is minus that between groups, and zero for constant columns.
        xr = -groups.sums(np.ascontiguousarray(sums.T))
        A = _columns(projection.A, blocks, self.elimination.rest)
        xr[:, p:] += _columns(YtZ, blocks, self.elimination.rest) - each(xy, A)
        xr *= np.diag(groups.within) > 0
        rss = np.maximum(yty - (xy * xy).sum(1), 0.0)
        rr = np.maximum(rss - (sums * means).sum(1), 0.0)
        explained = (each(xr, self.within_root) ** 2).sum(1)
        return Grouped(xy, means, xr, rr, np.maximum(rr - explained, 0.0), rss)

    # ---- objective ---------------------------------------------------------------------------

    def _least_squares(self, gamma: Array, genes: Grouped) -> tuple[Array, Array]:
        """Log-determinant of the objective, and Q, at one γ per gene."""

        def part(rows: slice) -> tuple[Array, Array]:
            system = self.model.system(gamma[rows])
            return system.log_det, self.model.solve(system, take(genes, rows)).Q

        result: tuple[Array, Array] = by_parts(part, self._part(), len(gamma))
        return result

    def objective(self, gamma: Array, genes: Grouped) -> Array:
        """f(γ) = m log Q + log |W°| at one γ per gene, (genes,); infinite outside the domain."""
        log_det, Q = self._least_squares(gamma, genes)
        fine = np.isfinite(log_det) & (Q > 0)
        return np.where(fine, self.dof * np.log(np.where(fine, Q, 1.0)) + log_det, np.inf)

    def _moments(self, gamma: Array, genes: Grouped) -> Moments:
        """What the likelihood and its derivatives are made of, at one γ per gene."""
        return self._moments_and_v(gamma, genes)[0]

    def _moments_and_v(self, gamma: Array, genes: Grouped) -> tuple[Moments, Array]:
        index = np.argsort(self.model.order)

        def part(rows: slice) -> tuple[Array, ...]:
            system = self.model.system(gamma[rows])
            solution = self.model.solve(system, take(genes, rows))
            q, qq = self.model.quadratics(system, solution.effects)
            a, aa = self.model.traces(system)
            moments = Moments(
                Q=solution.Q,
                q=q[:, index],
                qq=qq[:, index][:, :, index],
                log_det=system.log_det,
                a=a[:, index],
                aa=aa[:, index][:, :, index],
            )
            return *moments, solution.v

        *moments, v = by_parts(part, self._part(), len(gamma))
        return Moments(*moments), v

    def derivatives(self, gamma: Array, genes: Grouped) -> Derivatives:
        """f, its gradient and two Hessians in γ, at one γ per gene."""
        return profile_derivatives(self._moments(gamma, genes), self.dof)

    # ---- optimisation ------------------------------------------------------------------------

    def starts(self, genes: Grouped) -> Starts:
        """Where f is low on a grid of γ ≥ 0 that genes share.

        The lowest start of each gene is that of a polynomial through the grid, but where γ < 0 is
        looked at. Several inner components of many levels have one axis of the grid, and so have
        many others.
        """
        blocks, ZtZ = self.projection.blocks, self.projection.ZtZ
        largest = np.array([largest_eigenvalue(ZtZ[block][:, block]) for block in blocks])
        if not self.nonnegative and self._definite_grids:
            fine = start_grid(list(largest), fine=True)
            return grid_starts(fine, lambda points: self._on_grid(points, genes))
        scale = [float(largest[tied].max()) for tied in self._axes()]
        axes = chebyshev_axes(scale)
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        f = self._on_grid(self._spread(grid.reshape(-1, len(axes))), genes)
        values = f.T.reshape(-1, *grid.shape[:-1])
        found = valleys(values)
        gamma = grid[tuple(found.gamma.T)]
        gamma[is_first(found.gene)] = lowest_point(values, scale)
        return Starts(found.gene, self._spread(gamma))

    def definite_starts(self, genes: Grouped, fine: bool = False) -> Starts:
        """The same on grids that reach below zero, with V positive definite.

        Those of γ ≥ 0 where there are many levels or components.
        """
        if not self._definite_grids:
            return self.starts(genes)
        return joined(
            grid_starts(grid, lambda points: self._on_grid(points, genes))
            for grid in self._definite_grids[fine]
        )

    @cached_property
    def _definite_grids(self) -> list[list[Grid]]:
        """Coarse and fine grids that reach below zero where there are few levels and components."""
        sizes, ZtZ = self.projection.component_sizes, sparse.csr_array(self.projection.ZtZ)
        if sum(sizes) > SEARCHED_LEVELS or len(sizes) > len(NEGATIVE_FRACTIONS):
            return []
        components = RandomCovariance(sizes).components(span_of(ZtZ.toarray()))
        return [definite_grids(components, fine) for fine in (False, True)]

    def _spread(self, gamma: Array) -> Array:
        """γ of every component from those of the axes of the start grid, (points, axes)."""
        whole = np.empty((len(gamma), len(self.projection.component_sizes)))
        for values, tied in zip(gamma.T, self._axes(), strict=True):
            whole[:, tied] = values[:, None]
        return whole

    def _axes(self) -> list[list[int]]:
        """Components of each axis of the start grid."""
        found = self.elimination
        rest = [[k] for k in found.rest] if len(found.rest) <= FREE_AXES else [found.rest]
        outer = [] if found.outer is None else [[found.outer]]
        sizes = self.projection.component_sizes
        few = sum(sizes) <= SEARCHED_LEVELS and len(sizes) < MANY_AXES
        inner = [[k] for k in found.inner] if few else [found.inner]
        return sorted([*outer, *inner, *rest])

    def _on_grid(self, points: Array, genes: Grouped) -> Array:
        """Objective of every gene at points that genes share (points, K), (points, genes)."""
        inner, number = np.unique(points[:, self.elimination.inner], axis=0, return_inverse=True)
        together = [np.flatnonzero(number == k) for k in range(len(inner))]
        f = np.empty((len(points), len(genes.e)))
        parts = in_threads(lambda rows: self._with_one_inner(points[rows], genes), together)
        for rows, part in zip(together, parts, strict=True):
            f[rows] = part
        return f

    def _with_one_inner(self, grid: Array, genes: Grouped) -> Array:
        """The same at points that share the inner γ."""
        groups, system = self.groups, self.model.system(grid)
        # what does not depend on the other components
        means = np.ascontiguousarray(genes.means.T)
        weighted = means * system.weights.d[:, [0]]
        between = _in_panels(total(weighted * means) + genes.rr)
        sums = _in_panels(np.ascontiguousarray((groups.joins @ weighted).T))
        b_inner, squares = _in_panels(genes.xr + groups.sums(weighted)), sums**2
        f = np.empty((len(grid), len(genes.e)))
        size = max(1, PART_ELEMENTS // (b_inner.size + squares.size))
        for first in range(0, len(grid), size):
            rows = slice(first, first + size)
            phi, N = system.weights.phi[:, rows].T, system.inverse[rows] * system.t[rows, None]
            b = b_inner - sums @ (phi[:, :, None] * system.s[rows])[:, None]
            Q = between - (squares @ phi[:, None, :, None])[..., 0] - ((b @ N[:, None]) * b).sum(3)
            Q = np.maximum(Q.reshape(len(phi), -1)[:, : len(genes.e)], genes.e)
            f[rows] = self.dof * np.log(Q) + system.log_det[rows, None]
        return f

    @property
    def raised(self) -> float | None:
        """γ from which components at zero are searched again; None where none are."""
        sizes, K = self.groups.sizes, len(self.projection.component_sizes)
        again = is_searched_again(sum(self.projection.component_sizes), K)
        return 1.0 / float(np.median(sizes)) if again else None

    def optimise(self, genes: Grouped, start: Array | None, max_iter: int, tol: float) -> Optimum:
        """Valleys of a shared grid, then Newton with an active set, batched over genes."""
        return best_optimum(self, genes, start, max_iter, tol)

    # ---- what follows from γ -----------------------------------------------------------------

    def residual_variance(self, gamma: Array, genes: Grouped) -> Array:
        """σ² = Q(γ)/m, (genes,)."""
        return self._least_squares(gamma, genes)[1] / self.dof

    def is_positive_definite(self, gamma: Array) -> Array:
        """Whether V = I + Σ γ_k Z_kZ_k' is positive definite, (genes,) bool."""
        definite = np.ones(len(gamma), dtype=bool)
        doubtful = np.flatnonzero((gamma < 0).any(1))

        def part(rows: slice) -> Array:
            return self.model.negative_eigenvalues(gamma[doubtful[rows]], reml=False) == 0

        definite[doubtful] = by_parts(part, self._part(), len(doubtful))
        return definite

    def coefficients(self, gamma: Array, genes: Grouped) -> Array:
        """Generalised least squares in the orthonormal basis of X, (genes, p)."""

        def part(rows: slice) -> Array:
            return self.model.solve(self.model.system(gamma[rows]), take(genes, rows)).v

        return self._orthonormal(by_parts(part, self._part(), len(gamma)), genes)

    def _orthonormal(self, v: Array, genes: Grouped) -> Array:
        """Coefficients of y from v, those of its residuals for the columns of `basis`."""
        return genes.xy + each(v[:, : len(self.basis)], self.basis.T)

    def estimates(self, gamma: Array, genes: Grouped) -> Estimates:
        """σ², coefficients and expected information at one γ per gene."""
        moments, v = self._moments_and_v(gamma, genes)
        variance = moments.Q / self.dof
        information, _ = theta_information(moments, gamma, variance, self.dof)
        return Estimates(variance, self._orthonormal(v, genes), information)

    def covariance(self, gamma: Array, basis: Array) -> Array:
        """Covariance of the contrasts `basis` (p, C) for σ² = 1, (genes, C, C)."""
        contrasts, p = self.basis.T @ basis, len(self.basis)

        def part(rows: slice) -> Array:
            return contrasts.T @ self.model.system(gamma[rows]).inverse[:, :p, :p] @ contrasts

        covariance: Array = by_parts(part, self._part(), len(gamma))
        return covariance

    def score(self, gamma: Array, variance: Array, genes: Grouped) -> Array:
        """Gradient of the log-likelihood in θ, (genes, K+1)."""
        return theta_score(self._moments(gamma, genes), gamma, variance, self.dof)

    def information(self, gamma: Array, variance: Array, genes: Grouped) -> tuple[Array, Array]:
        """Return the expected and the observed information of θ, each (genes, K+1, K+1)."""
        return theta_information(self._moments(gamma, genes), gamma, variance, self.dof)

    def variance_forms(
        self, gamma: Array, variance: Array, left: Array, right: Array
    ) -> VarianceForms:
        """Bilinear forms a'Φb of the columns of `left`, `right` (p, C), orthonormal basis."""
        index, s0 = np.argsort(self.model.order), variance

        def part(rows: slice) -> tuple[Array, Array, Array]:
            return self.model.contrast_forms(self.model.system(gamma[rows]), left, right)

        value, first, half = by_parts(part, self._part(), len(gamma))
        # v_k = g_k'g_k and v_kl = -(2/s_0) sym g_k'Z_k'P_W Z_l g_l
        half = half[:, :, index][:, :, :, index] / s0[:, None, None, None]
        theta = np.concatenate([gamma * s0[:, None], s0[:, None]], axis=1)
        hessian = -(half + half.swapaxes(-1, -2))
        return by_homogeneity(value * s0[:, None], first[:, :, index], hessian, theta)

    def blup(self, gamma: Array, genes: Grouped) -> Array:
        """Predicted random effects γ_k Z_k'W⁻¹(y - Xβ̂), (genes, q)."""
        blocks, found = self.projection.blocks, self.elimination
        sizes = self.projection.component_sizes

        def part(rows: slice) -> Array:
            g = gamma[rows]
            u = self.model.solve(self.model.system(g), take(genes, rows)).effects
            full = np.zeros((len(g), sum(sizes)))
            if found.outer is not None:
                full[:, blocks[found.outer]] = u.outer.T
            full[:, found.columns] = u.inner.T
            for component, columns in zip(found.rest, self.model.rest_columns, strict=True):
                full[:, blocks[component]] = u.rest[:, columns]
            return np.repeat(g, sizes, axis=1) * full

        effects: Array = by_parts(part, self._part(), len(gamma))
        return effects


def _thin_basis(R: Array) -> Array:
    """Columns of X at length one in the orthonormal basis, (p, p) upper triangular.

    They keep their zeros. Of a column that lies nearly in the span of those before it what they
    leave is taken, at length one: products of the column itself hold it in their last digits only.
    """
    basis = R / np.sqrt((R**2).sum(0))
    near = np.diag(basis) ** 2 < NEARLY_COLLINEAR
    basis[:, near] = np.eye(len(R))[:, near]
    return basis


def _inverse_triangle(R: Array) -> Array:
    return solve_triangular(R, np.eye(len(R)))


def _in_panels(rows: Array) -> Array:
    """Genes (genes, ...) as (panels, PANEL_GENES, ...), filled up with zeros.

    Products of matrices of one shape: a gene's does not depend on how many others there are.
    """
    panels = -(-len(rows) // PANEL_GENES)
    full = np.zeros((panels * PANEL_GENES, *rows.shape[1:]))
    full[: len(rows)] = rows
    return full.reshape(panels, PANEL_GENES, *rows.shape[1:])


def _columns(values: Array, blocks: list[slice], components: list[int]) -> Array:
    """Columns of some components, side by side."""
    return np.hstack([values[:, :0], *(values[:, blocks[k]] for k in components)])


def _products(projection: Projection, found: Elimination, basis: Array) -> tuple[Array, Array]:
    """Z_2'X̃ and X̃'X̃, columns of X as in `basis`."""
    blocks, whole = projection.blocks, sparse.csr_array(projection.ZtZ)
    rest = np.concatenate([np.arange(0), *(np.r_[blocks[k]] for k in found.rest)])
    inner = found.columns
    ZtX = projection.A.T @ basis
    across = ZtX[rest]
    XtX = np.block([[basis.T @ basis, across.T], [across, whole[rest][:, rest].toarray()]])
    return np.hstack([ZtX[inner], whole[inner][:, rest].toarray()]), XtX


def _pseudo_root(matrix: Array, scale: Array) -> Array:
    """Root of the pseudo-inverse; what is small relative to `scale` is rounding."""
    scale = np.sqrt(np.where(scale > 0, scale, 1.0))
    values, vectors = eigh(matrix / scale / scale[:, None])
    kept = values > EIGEN_TOLERANCE
    return vectors[:, kept] / np.sqrt(values[kept]) / scale[:, None]
