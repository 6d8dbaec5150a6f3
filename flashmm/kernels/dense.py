"""Any number of random components: one small dense system per gene.

With S = Z'Z - Z'X(X'X)⁻¹X'Z (q × q), Γ = diag(γ_k, one per column of Z), or Σ γ_k D_k where effects
correlate (`random_covariance`), and residuals r of ordinary least squares,
    M(γ) = (S⁻¹ + Γ)⁻¹ = (I + SΓ)⁻¹S = Z'P_W Z        u(γ) = (I + SΓ)⁻¹Z'r = Z'P_W y
are all that the derivatives need: their blocks, traces and squares are every score and information.
Both come from sweeping S, one block of columns after another (`_sweep`), or where γ is large, as
FW⁻¹F' and FW⁻¹t (S = FF', Z'r = Ft). The objective
    Q(γ) = e + t'W⁻¹t                 f(γ) = m log Q + log |W°|
is taken in the rotation, where W(γ) = I + Σ γ_k B_k (rank × rank, B_k = F'D_k F), from one Cholesky
factor, with W° = W, m = ν for REML and, for ML, W° = I + Σ γ_k B°_k from the root of Z'Z and m = n.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import solve_triangular

from flashmm.kernels.engine import Estimates, Optimum, VarianceForms, by_homogeneity, each, take
from flashmm.kernels.factor_search import best_in_factors
from flashmm.kernels.random_covariance import RandomCovariance, Scale
from flashmm.kernels.rotation import Rotated, Rotation, span_of
from flashmm.kernels.search import (
    Derivatives,
    Moments,
    best_optimum,
    cholesky,
    invert,
    log_det,
    profile_derivatives,
    solve,
    theta_information,
    theta_score,
)
from flashmm.kernels.starts import (
    NEGATIVE_FRACTIONS,
    SEARCHED_LEVELS,
    Grid,
    Starts,
    definite_grids,
    grid_starts,
    is_searched_again,
    joined,
    start_grid,
)
from flashmm.kernels.structure import CovarianceStructure
from flashmm.kernels.threads import by_parts, in_threads

Array = np.ndarray

# Numbers that vectors of a block of genes may hold, and matrices of a part that a thread works on
# (it stays in the cache).
BLOCK_ELEMENTS = 2**20
PART_ELEMENTS = 2**17
# Columns swept at a time: a fraction of them all, within limits.
SWEPT_FRACTION, SWEPT_LIMITS = 8, (8, 48)
# γ, relative to 1 / (largest eigenvalue of its component), above which W is inverted in the place
# of sweeping S: slower, but not by differences of nearly equal numbers.
LARGE = 1e4
# Last pivot of a factor that is bordered by a vector, larger than any sum of squares.
BEYOND = 1e300


@dataclass(frozen=True, eq=False)
class DenseEngine:
    """Likelihood and inference for any number of components.

    Attributes
    ----------
    rotation : Rotation
        The shared part of the model.
    S : (q, q) array
        Z'Z less what the fixed effects explain.
    S_log_det : (q, q) array
        The same for the log-determinant: `S` for REML, Z'Z for ML.
    B : (K, rank, rank) array
        F'D_k F, the components in the rotation.
    B_log_det : (K, r, r) array
        The components of the log-determinant: `B` for REML, those of Z'Z for ML.
    B_cells : (K, r, r) array
        The components in the span of Z: V is positive definite where I + Σ γ_k B_cells_k is.
    F_cells : (q, r) array
        The root of Z'Z that they are taken in, B_cells_k = F_cells'D_k F_cells.
    random : RandomCovariance
        Which columns of Z the components are the variances and covariances of.
    dof : int
        m: ν for REML, n for ML.
    nonnegative : bool
        Whether γ is bounded below by zero.
    """

    rotation: Rotation
    S: Array
    S_log_det: Array
    B: Array
    B_log_det: Array
    B_cells: Array
    F_cells: Array
    random: RandomCovariance
    dof: int
    nonnegative: bool

    @staticmethod
    def takes(structure: CovarianceStructure) -> bool:
        """Any components."""
        return structure.n_components >= 1

    @classmethod
    def build(cls, rotation: Rotation, reml: bool, nonnegative: bool) -> DenseEngine:
        """Prepare the engine for a design."""
        random = RandomCovariance.of(rotation.ZtZ, rotation.component_sizes)
        F_cells = span_of(rotation.ZtZ)
        B_cells = random.components(F_cells)
        B = random.components(rotation.F)
        S = rotation.F @ rotation.F.T
        return cls(
            rotation,
            S,
            S if reml else rotation.ZtZ,
            B,
            B if reml else B_cells,
            B_cells,
            F_cells,
            random,
            rotation.df_residual if reml else rotation.n_cells,
            nonnegative,
        )

    @property
    def small_blocks(self) -> bool:
        """Threads take parts of a block."""
        return False

    def genes_per_block(self) -> int:
        """Genes whose vectors fit in a bounded amount of memory; matrices are made by parts."""
        return max(64, BLOCK_ELEMENTS // max(len(self.S), 1))

    def _part(self, columns: int = 0) -> int:
        """Genes whose matrices, (q, q + columns) each, a thread works on at a time."""
        q = len(self.S)
        return max(1, PART_ELEMENTS // (q * (q + columns)))

    @property
    def rank(self) -> int:
        """Dimension of the span of Z outside the span of X."""
        return self.rotation.rank

    def responses(self, YtX: Array, YtZ: Array, yty: Array) -> Rotated:
        """Rotate the cross-products, gene by gene: the others of a block do not touch a byte."""
        rotation = self.rotation
        xy = each(YtX, solve_triangular(rotation.R, np.eye(len(rotation.R))))
        zr = YtZ - each(xy, rotation.A)
        t = each(zr, rotation.U[:, : rotation.rank] / np.sqrt(rotation.eigenvalues))
        rss = np.maximum(yty - (xy * xy).sum(1), 0.0)
        return Rotated(xy, t, np.maximum(rss - (t * t).sum(1), 0.0), rss)

    # ---- objective ---------------------------------------------------------------------------

    def _least_squares(self, gamma: Array, genes: Rotated) -> tuple[Array, Array]:
        """Q and log |W°| at one γ per gene, (genes,); infinite where W° is indefinite."""

        def part(rows: slice) -> tuple[Array, Array]:
            W = _weighted_sum(gamma[rows], self.B, border=1)
            # With t as a last row of W, that of its Cholesky factor is z = L⁻¹t: Q = e + z'z
            W[:, -1, :-1] = genes.t[rows]
            W[:, -1, -1] = BEYOND
            L = cholesky(W)
            z = L[:, -1, :-1]
            if self.B_log_det is self.B:
                log_dets = 2.0 * np.log(np.einsum("grr->gr", L)[:, :-1]).sum(1)
                log_dets[np.isnan(log_dets)] = np.inf
            else:
                log_dets = log_det(_weighted_sum(gamma[rows], self.B_log_det))
            return genes.e[rows] + (z * z).sum(1), log_dets

        return by_parts(part, self._part(), len(gamma))

    def objective(self, gamma: Array, genes: Rotated) -> Array:
        """f at one γ per gene, (genes,); infinite where W° is not positive definite."""
        Q, log_dets = self._least_squares(gamma, genes)
        fine = np.isfinite(log_dets) & (Q > 0)
        return np.where(fine, self.dof * np.log(np.where(fine, Q, 1.0)) + log_dets, np.inf)

    def _random(self, t: Array) -> Array:
        """Z'r = Ft of each gene, (genes, q)."""
        return each(t, self.rotation.F.T)

    def _moments(self, gamma: Array, genes: Rotated) -> Moments:
        """What the derivatives are made of, for a part of the genes."""
        random, Zr = self.random, self._random(genes.t)
        scale = random.scale(gamma)
        M, u, log_dets = _sweep(self.S, Zr[:, :, None], random, scale)
        effects = random.times(scale, u)[:, :, 0]
        u = u[:, :, 0]
        # t'W⁻¹t = t't - (Z'r)'Γu, and Q is not below e
        tWt = (genes.t**2).sum(1) - (Zr * effects).sum(1)
        large = np.flatnonzero((np.abs(gamma) * self.largest > LARGE).any(1))
        if len(large):
            # u = FW⁻¹t,  t'W⁻¹t without a difference
            W, t = _weighted_sum(gamma[large], self.B), genes.t[large]
            w = solve(W, t[:, :, None])[:, :, 0]
            u[large], tWt[large] = self._random(w), (t * w).sum(1)
            M[large], log_dets[large] = _inverted(self.rotation.F, W)
        U = random.applied(u)
        qq = U.swapaxes(1, 2) @ (M @ U)
        if self.S_log_det is not self.S:
            nothing = np.empty((len(gamma), len(self.S), 0))
            M, _, log_dets = _sweep(self.S_log_det, nothing, random, scale)
            if len(large):
                W = _weighted_sum(gamma[large], self.B_log_det)
                M[large], log_dets[large] = _inverted(self.F_cells, W)
        return Moments(
            Q=genes.e + np.maximum(tWt, 0.0),
            q=random.squares(u),
            qq=qq,
            log_det=log_dets,
            a=random.traces(M),
            aa=random.products(M),
        )

    def _all_moments(self, gamma: Array, genes: Rotated) -> Moments:
        def part(rows: slice) -> Moments:
            return self._moments(gamma[rows], take(genes, rows))

        moments: Moments = by_parts(part, self._part(), len(gamma))
        return moments

    def derivatives(self, gamma: Array, genes: Rotated) -> Derivatives:
        """f, its gradient and two Hessians in γ, at one γ per gene."""
        return profile_derivatives(self._all_moments(gamma, genes), self.dof)

    # ---- optimisation ------------------------------------------------------------------------

    @property
    def _few(self) -> bool:
        return len(self.S) <= SEARCHED_LEVELS

    @cached_property
    def _grid(self) -> Grid:
        """Points of γ that genes share, with Γ positive semidefinite."""
        if self.random.pairs:
            return self.random.start_grid(self.largest)
        return start_grid(list(self.largest), self._few)

    @cached_property
    def _definite_grids(self) -> list[list[Grid]]:
        """Coarse and fine grids that reach below zero where there are few levels and components."""
        few = self._few and len(self.B) <= len(NEGATIVE_FRACTIONS) and not self.random.pairs
        if not few:
            return [[self._grid]] * 2
        return [definite_grids(self.B_cells, fine) for fine in (False, True)]

    def _on_grid(self, points: Array, genes: Rotated) -> Array:
        """Objective of every gene at points that genes share (points, K), (points, genes)."""

        def at(some: Array) -> Array:
            W = _weighted_sum(some, self.B)
            Q = genes.e + ((genes.t @ np.linalg.inv(W)) * genes.t).sum(2)
            of_cells = self.B_log_det is not self.B
            log_dets = log_det(_weighted_sum(some, self.B_log_det) if of_cells else W)
            return self.dof * np.log(Q) + log_dets[:, None]

        size = max(1, PART_ELEMENTS // (self.B.shape[1] * (len(genes.t) + self.B.shape[1])))
        parts = np.array_split(points, -(-len(points) // size))
        return np.concatenate(in_threads(at, parts))

    def starts(self, genes: Rotated) -> Starts:
        """Where f is low on a grid of γ ≥ 0 that genes share."""
        return grid_starts(self._grid, lambda points: self._on_grid(points, genes))

    def definite_starts(self, genes: Rotated, fine: bool = False) -> Starts:
        """The same on grids that reach below zero, with V positive definite."""
        return joined(
            grid_starts(grid, lambda points: self._on_grid(points, genes))
            for grid in self._definite_grids[fine]
        )

    @property
    def raised(self) -> float | None:
        """γ from which components at zero are searched again; None where none are."""
        sizes = self.rotation.ZtZ.diagonal()
        again = is_searched_again(len(sizes), len(self.B)) and not self.random.pairs
        return 1.0 / float(np.median(sizes[sizes > 0])) if again else None

    @cached_property
    def largest(self) -> Array:
        """Largest eigenvalue of each component as it is searched, (K,)."""
        return self.random.largest(self.B)

    def optimise(self, genes: Rotated, start: Array | None, max_iter: int, tol: float) -> Optimum:
        """Valleys of a shared grid, then Newton with an active set, batched over genes."""
        if self.random.pairs and self.nonnegative:
            return best_in_factors(self, genes, start, max_iter, tol)
        return best_optimum(self, genes, start, max_iter, tol)

    # ---- what follows from γ -----------------------------------------------------------------

    def residual_variance(self, gamma: Array, genes: Rotated) -> Array:
        """σ² = Q(γ)/m, (genes,)."""
        return self._least_squares(gamma, genes)[0] / self.dof

    def is_positive_definite(self, gamma: Array) -> Array:
        """Whether V = I + Σ γ_k Z_kZ_k' is positive definite, (genes,) bool."""
        doubtful = np.flatnonzero((gamma < 0).any(1))

        def part(rows: slice) -> Array:
            return np.isfinite(log_det(_weighted_sum(gamma[doubtful[rows]], self.B_cells)))

        definite = np.ones(len(gamma), dtype=bool)
        definite[doubtful] = by_parts(part, self._part(), len(doubtful))
        return definite

    def _solve(self, gamma: Array, right: Array) -> Array:
        """(I + SΓ)⁻¹ applied to (q, C) or (genes, q, C)."""
        scaled = self.random.times(self.random.scale(gamma), self.S).swapaxes(1, 2)
        return solve(scaled + np.eye(len(self.S)), right)

    def blup(self, gamma: Array, genes: Rotated) -> Array:
        """Predicted random effects Γu = ΓZ'W⁻¹(y - Xβ̂), (genes, q)."""

        def part(rows: slice) -> Array:
            right = self._random(genes.t[rows])[:, :, None]
            u = self._solve(gamma[rows], right)
            return self.random.times(self.random.scale(gamma[rows]), u)[:, :, 0]

        effects: Array = by_parts(part, self._part(), len(gamma))
        return effects

    def coefficients(self, gamma: Array, genes: Rotated) -> Array:
        """Generalised least squares in the orthonormal basis of X, (genes, p)."""
        # β̃ = X̃'y - AΓu
        return genes.xy - each(self.blup(gamma, genes), self.rotation.A.T)

    def estimates(self, gamma: Array, genes: Rotated) -> Estimates:
        """σ², coefficients and expected information at one γ per gene."""
        variance = self.residual_variance(gamma, genes)
        information, _ = self.information(gamma, variance, genes)
        return Estimates(variance, self.coefficients(gamma, genes), information)

    def covariance(self, gamma: Array, basis: Array) -> Array:
        """Covariance of the contrasts `basis` (p, C) for σ² = 1, (genes, C, C)."""
        h = self.rotation.A.T @ basis

        def part(rows: slice) -> Array:
            # c'(I + A Γ(I + SΓ)⁻¹ A')c
            weighted = self.random.times(self.random.scale(gamma[rows]), h).swapaxes(1, 2)
            return basis.T @ basis + weighted @ self._solve(gamma[rows], h)

        covariance: Array = by_parts(part, self._part(basis.shape[1]), len(gamma))
        return covariance

    def score(self, gamma: Array, variance: Array, genes: Rotated) -> Array:
        """Gradient of the log-likelihood in θ, (genes, K+1)."""
        return theta_score(self._all_moments(gamma, genes), gamma, variance, self.dof)

    def information(self, gamma: Array, variance: Array, genes: Rotated) -> tuple[Array, Array]:
        """Return the expected and the observed information of θ, each (genes, K+1, K+1)."""
        return theta_information(self._all_moments(gamma, genes), gamma, variance, self.dof)

    def variance_forms(
        self, gamma: Array, variance: Array, left: Array, right: Array
    ) -> VarianceForms:
        """Bilinear forms a'Φb of the columns of `left`, `right` (p, C), orthonormal basis."""
        # symmetric forms need one side only
        C, sides = left.shape[1], left if right is left else np.hstack([left, right])

        def part(rows: slice) -> VarianceForms:
            return self._variance_forms(gamma[rows], variance[rows], sides, C)

        forms: VarianceForms = by_parts(part, self._part(sides.shape[1]), len(gamma))
        return forms

    def _variance_forms(self, gamma: Array, variance: Array, sides: Array, C: int) -> VarianceForms:
        """The same for a part of the genes; `sides` holds a, and b unless it is a."""
        random, s0 = self.random, variance
        scale, h = random.scale(gamma), self.rotation.A.T @ sides
        M, g, _ = _sweep(self.S, np.broadcast_to(h, (len(gamma), *h.shape)), random, scale)
        ga, gb = g[:, :, :C], g[:, :, -C:]
        # With g = (I + SΓ)⁻¹h:
        # v/s_0 = a'b + h_a'Γg_b,  v_k = g_a'D_k g_b,  v_kl = -(2/s_0) sym g_a'D_k M D_l g_b
        shared = (sides[:, :C] * sides[:, -C:]).sum(0)
        value = s0[:, None] * (shared + (h[:, :C] * random.times(scale, gb)).sum(1))
        gradient = random.forms(ga, gb)
        K = gamma.shape[1]
        half = np.stack([random.forms(ga, random.columns(M, gb, k)) for k in range(K)], -1)
        hessian = -(half + half.swapaxes(-1, -2)) / s0[:, None, None, None]
        theta = np.concatenate([gamma * s0[:, None], s0[:, None]], axis=1)
        return by_homogeneity(value, gradient, hessian, theta)


def _weighted_sum(gamma: Array, B: Array, border: int = 0) -> Array:
    """I + Σ γ_k B_k per gene, (genes, r, r), with room for last rows and columns."""
    r = B.shape[-1]
    W = np.zeros((len(gamma), r + border, r + border))
    inner = W[:, :r, :r]
    for k, Bk in enumerate(B):
        inner += gamma[:, k, None, None] * Bk
    np.einsum("grr->gr", inner)[...] += 1.0
    return W


def _inverted(F: Array, W: Array) -> tuple[Array, Array]:
    """FW⁻¹F' and log |W| of each gene: `_sweep` loses digits where γ is large and S singular."""
    return F @ invert(W) @ F.T, np.linalg.slogdet(W)[1]


def _sweep(
    S: Array, right: Array, random: RandomCovariance, scale: Scale
) -> tuple[Array, Array, Array]:
    """(I + SΓ)⁻¹S, (I + SΓ)⁻¹ applied to (genes, q, C), and log |I + SΓ|.

    A block b of columns at a time takes its Γ_b into account, by Woodbury's identity:
        M ← M - M_·b Γ_b T,    T = (I + M_bb Γ_b)⁻¹ M_b·
    and rows b become T itself, so that nothing cancels within a block.
    """
    n, q = scale.diagonal.shape
    wide = np.empty((n, q, q + right.shape[2]))
    wide[:, :, :q], wide[:, :, q:] = S, right
    log_dets = np.zeros(n)
    width = min(max(q // SWEPT_FRACTION, SWEPT_LIMITS[0]), SWEPT_LIMITS[1])
    for b in random.sweeps(width):
        scaled = wide[:, :, b] * scale.diagonal[:, None, b]
        if scale.beside is not None:
            scaled += wide[:, :, random.partner[b]] * scale.beside[:, None, b]
        pivot = scaled[:, b]
        pivot = pivot + np.eye(pivot.shape[1])
        log_dets += np.linalg.slogdet(pivot)[1]
        T = invert(pivot) @ wide[:, b]
        wide -= scaled @ T
        wide[:, b] = T
        wide[:, :, b] = T[:, :, :q].swapaxes(1, 2)
    return wide[:, :, :q], wide[:, :, q:], log_dets
