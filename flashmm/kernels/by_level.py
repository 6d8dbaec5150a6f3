"""Correlated effects of the levels of one factor, such as `(1 + time | subject)`.

The engine of `flashmm.kernels.level_blocks`: a gene costs O(levels · p²) per step of the search.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from flashmm.kernels.engine import Estimates, Optimum, VarianceForms, by_homogeneity, each, take
from flashmm.kernels.factor_search import best_in_factors
from flashmm.kernels.level_blocks import LevelBlocks, LevelGenes, squares
from flashmm.kernels.random_covariance import RandomCovariance
from flashmm.kernels.rotation import Projection
from flashmm.kernels.search import (
    Derivatives,
    Moments,
    best_optimum,
    profile_derivatives,
    theta_information,
    theta_score,
)
from flashmm.kernels.starts import Grid, Starts, grid_starts
from flashmm.kernels.structure import CovarianceStructure, is_diagonal
from flashmm.kernels.threads import by_parts

Array = np.ndarray

# Numbers that vectors of a block of genes may hold, and an array of a part that a thread works on
# (it stays in the cache).
BLOCK_ELEMENTS = 2**22
PART_ELEMENTS = 2**19
PART_LIMITS = (4, 256)
# Genes in one product with a matrix that all genes share.
PANEL_GENES = 64


@dataclass(frozen=True, eq=False)
class LevelEngine:
    """Likelihood and inference for two correlated effects of each level of one factor.

    Attributes
    ----------
    projection : Projection
        The shared part of the model.
    blocks : LevelBlocks
        The design by levels.
    random : RandomCovariance
        The components, and the shift that centres them.
    largest : (3,) array
        Largest eigenvalue of Z_1Z_1' and of Z_2Z_2', centred; one for the covariance.
    dof : int
        m: ν for REML, n for ML.
    reml : bool
        Whether the restricted likelihood is meant.
    nonnegative : bool
        Whether Γ is positive semidefinite.
    """

    projection: Projection
    blocks: LevelBlocks
    random: RandomCovariance
    largest: Array
    dof: int
    reml: bool
    nonnegative: bool

    @staticmethod
    def takes(structure: CovarianceStructure) -> bool:
        """Two components with a covariance, of levels that exclude each other."""
        first, *others = structure.component_sizes
        if others != [first, 0]:
            return False
        a, b = structure.blocks[:2]
        return all(is_diagonal(structure.ZtZ[i][:, j]) for i, j in ((a, a), (a, b), (b, b)))

    @classmethod
    def build(cls, projection: Projection, reml: bool, nonnegative: bool) -> LevelEngine:
        """Prepare the engine for a design."""
        whole, (a, b, _) = sparse.csr_array(projection.ZtZ), projection.blocks
        first, both, second = (whole[i][:, j].diagonal() for i, j in ((a, a), (a, b), (b, b)))
        shift = float(both.sum() / first.sum())
        centred = second - 2 * shift * both + shift**2 * first
        A = np.stack([projection.A[:, a], projection.A[:, b]], axis=1)
        return cls(
            projection,
            LevelBlocks.build(np.stack([first, both, second]), A),
            RandomCovariance(projection.component_sizes, (shift,)),
            np.array([first.max(), centred.max(), 1.0]),
            projection.df_residual if reml else projection.n_cells,
            reml,
            nonnegative,
        )

    @property
    def levels(self) -> int:
        """Levels of the factor."""
        return self.random.component_sizes[0]

    @property
    def rank(self) -> int:
        """Dimension of the span of Z outside the span of X."""
        return self.blocks.rank

    @property
    def small_blocks(self) -> bool:
        """Threads take parts of a block."""
        return False

    def genes_per_block(self) -> int:
        """Genes whose vectors fit in a bounded amount of memory; matrices are made by parts."""
        vectors = 2 * self.levels + len(self.blocks.w) ** 2 + self._grid.wanted.size
        return max(64, BLOCK_ELEMENTS // vectors)

    def _part(self) -> int:
        """Genes whose matrices a thread works on at a time."""
        return int(np.clip(PART_ELEMENTS // (27 * self.levels), *PART_LIMITS))

    def responses(self, YtX: Array, YtZ: Array, yty: Array) -> LevelGenes:
        """The genes' products with the levels."""
        xy = each(YtX, np.linalg.inv(self.projection.R))
        zr = (YtZ - each(xy, self.projection.A)).reshape(len(xy), 2, self.levels)
        return self.blocks.genes(xy, zr, np.maximum(yty - (xy * xy).sum(1), 0.0))

    # ---- objective -------------------------------------------------------------------------------

    def _least_squares(self, gamma: Array, genes: LevelGenes) -> tuple[Array, Array]:
        """Q and log |W°| at one γ per gene, (genes,); infinite outside the domain."""

        def part(rows: slice) -> tuple[Array, Array]:
            system = self.blocks.system(gamma[rows])
            Q = self.blocks.least_squares(system, take(genes, rows))[0]
            return Q, self.blocks.log_det(system, self.reml)

        result: tuple[Array, Array] = by_parts(part, self._part(), len(gamma))
        return result

    def objective(self, gamma: Array, genes: LevelGenes) -> Array:
        """f at one γ per gene, (genes,); infinite outside the domain."""
        Q, log_det = self._least_squares(gamma, genes)
        fine = np.isfinite(log_det) & (Q > 0)
        return np.where(fine, self.dof * np.log(np.where(fine, Q, 1.0)) + log_det, np.inf)

    def _moments(self, gamma: Array, genes: LevelGenes) -> Moments:
        """What the derivatives are made of, at one γ per gene."""

        def part(rows: slice) -> Moments:
            return self.blocks.moments(gamma[rows], take(genes, rows), self.reml)

        moments: Moments = by_parts(part, self._part(), len(gamma))
        return moments

    def derivatives(self, gamma: Array, genes: LevelGenes) -> Derivatives:
        """f, its gradient and two Hessians in γ, at one γ per gene."""
        return profile_derivatives(self._moments(gamma, genes), self.dof)

    # ---- optimisation ----------------------------------------------------------------------------

    @cached_property
    def _grid(self) -> Grid:
        """Points of γ that genes share, with Γ positive definite."""
        return self.random.start_grid(self.largest)

    def _on_grid(self, points: Array, genes: LevelGenes) -> Array:
        """Objective of every gene at points that genes share (points, 3), (points, genes)."""
        blocks, n = self.blocks, len(points)
        system = blocks.system(points)
        # Q = e + ‖w½(x/w)‖² + Σt'H⁻¹t - b'Nb with b = x + ΣB'H⁻¹t, and N = JJ'
        J = np.linalg.cholesky(system.N)
        of_t = np.hstack(list(blocks.weighted(system.H) @ J))
        of_left = np.hstack(list(blocks.w[:, None] * J))
        of_squares = system.H.reshape(n, -1).T

        def part(rows: slice) -> Array:
            some = in_panel(take(genes, rows))
            t, tt = some.t.reshape(PANEL_GENES, -1), squares(some.t, 2.0)
            whole = some.e + (blocks.w * some.left**2).sum(1)
            b = (t @ of_t + some.left @ of_left).reshape(PANEL_GENES, n, -1)
            Q = whole[:, None] + tt.reshape(PANEL_GENES, -1) @ of_squares - (b**2).sum(2)
            return np.maximum(Q, some.e[:, None])[: rows.stop - rows.start]

        Q = by_parts(part, PANEL_GENES, len(genes.e))
        return np.asarray((self.dof * np.log(Q) + blocks.log_det(system, self.reml)).T)

    def starts(self, genes: LevelGenes) -> Starts:
        """Where f is low on a grid of positive definite Γ that genes share."""
        return grid_starts(self._grid, lambda points: self._on_grid(points, genes))

    def definite_starts(self, genes: LevelGenes, fine: bool = False) -> Starts:
        """The same: no grid goes where Γ is indefinite."""
        return self.starts(genes)

    @property
    def raised(self) -> float | None:
        """Components at zero are not searched again."""
        return None

    def optimise(
        self, genes: LevelGenes, start: Array | None, max_iter: int, tol: float
    ) -> Optimum:
        """Valleys of a shared grid, then Newton, batched over genes."""
        if self.nonnegative:
            return best_in_factors(self, genes, start, max_iter, tol)
        return best_optimum(self, genes, start, max_iter, tol)

    # ---- what follows from γ ---------------------------------------------------------------------

    def residual_variance(self, gamma: Array, genes: LevelGenes) -> Array:
        """σ² = Q(γ)/m, (genes,)."""
        return self._least_squares(gamma, genes)[0] / self.dof

    def is_positive_definite(self, gamma: Array) -> Array:
        """Whether V = I + ZΓZ' is positive definite, (genes,) bool."""

        def part(rows: slice) -> Array:
            return self.blocks.covariances(gamma[rows])[2] == 0

        definite: Array = by_parts(part, self._part(), len(gamma))
        return definite

    def coefficients(self, gamma: Array, genes: LevelGenes) -> Array:
        """Generalised least squares in the orthonormal basis of X, (genes, p)."""

        def part(rows: slice) -> Array:
            some = take(genes, rows)
            beta = self.blocks.fixed(self.blocks.system(gamma[rows]), some)
            return some.xy + each(beta, self.blocks.turn.T)

        coefficients: Array = by_parts(part, self._part(), len(gamma))
        return coefficients

    def estimates(self, gamma: Array, genes: LevelGenes) -> Estimates:
        """σ², coefficients and expected information at one γ per gene."""
        moments = self._moments(gamma, genes)
        variance = moments.Q / self.dof
        information = theta_information(moments, gamma, variance, self.dof)[0]
        return Estimates(variance, self.coefficients(gamma, genes), information)

    def covariance(self, gamma: Array, basis: Array) -> Array:
        """Covariance of the contrasts `basis` (p, C) for σ² = 1, (genes, C, C)."""
        turned = self.blocks.turn.T @ basis

        def part(rows: slice) -> Array:
            return turned.T @ self.blocks.system(gamma[rows]).N @ turned

        covariance: Array = by_parts(part, self._part(), len(gamma))
        return covariance

    def score(self, gamma: Array, variance: Array, genes: LevelGenes) -> Array:
        """Gradient of the log-likelihood in θ, (genes, 4)."""
        return theta_score(self._moments(gamma, genes), gamma, variance, self.dof)

    def information(self, gamma: Array, variance: Array, genes: LevelGenes) -> tuple[Array, Array]:
        """Return the expected and the observed information of θ, each (genes, 4, 4)."""
        return theta_information(self._moments(gamma, genes), gamma, variance, self.dof)

    def variance_forms(
        self, gamma: Array, variance: Array, left: Array, right: Array
    ) -> VarianceForms:
        """Bilinear forms a'Φb of the columns of `left`, `right` (p, C), orthonormal basis."""

        def part(rows: slice) -> tuple[Array, ...]:
            system = self.blocks.system(gamma[rows])
            return self.blocks.contrast_forms(system, left, right)

        value, first, half = by_parts(part, self._part(), len(gamma))
        s0 = variance[:, None]
        # v_k = g_a'D_k g_b and v_kl = -(2/s_0) sym g_a'D_kZ'P_WZD_l g_b
        hessian = -2.0 * half / s0[..., None, None]
        return by_homogeneity(value * s0, first, hessian, np.hstack([gamma * s0, s0]))

    def blup(self, gamma: Array, genes: LevelGenes) -> Array:
        """Predicted random effects Γu = ΓZ'W⁻¹(y - Xβ̂), (genes, q)."""
        a, b, c = self.blocks.root

        def part(rows: slice) -> Array:
            some = take(genes, rows)
            inner = self.blocks.least_squares(self.blocks.system(gamma[rows]), some)[1]
            u1, u2 = a * inner[:, 0], b * inner[:, 0] + c * inner[:, 1]
            first, second, both = gamma[rows].T[:, :, None]
            return np.hstack([first * u1 + both * u2, both * u1 + second * u2])

        effects: Array = by_parts(part, self._part(), len(gamma))
        return effects


def in_panel(genes: LevelGenes) -> LevelGenes:
    """Genes filled up with zeros to `PANEL_GENES`.

    Products of matrices of one shape: a gene's does not depend on how many others there are.
    """
    missing = PANEL_GENES - len(genes.e)
    if not missing:
        return genes
    filled = (np.concatenate([a, np.zeros((missing, *a.shape[1:]))]) for a in genes)
    return LevelGenes(*filled)
