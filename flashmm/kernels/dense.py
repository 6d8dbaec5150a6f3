"""Any number of random components: one small dense system per gene.

In the rotation W(γ) = I + Σ γ_k B_k (rank × rank, B_k = F_k'F_k), x = W⁻¹t and
    Q(γ) = e + t'x                 f(γ) = m log Q + log |W°|
with W° = W, m = ν for REML and, for ML, W° = I + Σ γ_k B°_k from the root of Z'Z itself and m = n.
With the residual as component 0, B_0 = I (and e beside t), every score and information is one
formula.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.linalg import eigh

from flashmm.kernels.engine import Optimum, VarianceForms, by_homogeneity
from flashmm.kernels.rotation import EIGEN_TOLERANCE, Rotated, Rotation, rotate_genes
from flashmm.kernels.search import (
    Derivatives,
    Moments,
    grid_axes,
    log_det,
    minimise,
    profile_derivatives,
)

Array = np.ndarray

BLOCK_ELEMENTS = 2**23


@dataclass(frozen=True, eq=False)
class DenseEngine:
    """Likelihood and inference for any number of components.

    Attributes
    ----------
    rotation : Rotation
        The shared part of the model.
    B : (K, rank, rank) array
        F_k'F_k, the components in the rotation.
    B_log_det : (K, r, r) array
        The components of the log-determinant: `B` for REML, those of Z'Z for ML.
    B_cells : (K, r, r) array
        The components in the span of Z: V is positive definite where I + Σ γ_k B_cells_k is.
    dof : int
        m: ν for REML, n for ML.
    nonnegative : bool
        Whether γ is bounded below by zero.
    """

    rotation: Rotation
    B: Array
    B_log_det: Array
    B_cells: Array
    dof: int
    nonnegative: bool

    @classmethod
    def build(cls, rotation: Rotation, reml: bool, nonnegative: bool) -> DenseEngine:
        """Prepare the engine for a design."""
        values, vectors = eigh(rotation.ZtZ)
        kept = values > EIGEN_TOLERANCE * values.max()
        B_cells = _components(vectors[:, kept] * np.sqrt(values[kept]), rotation.blocks)
        B = _components(rotation.F, rotation.blocks)
        dof = rotation.df_residual if reml else rotation.n_cells
        return cls(rotation, B, B if reml else B_cells, B_cells, dof, nonnegative)

    def genes_per_block(self) -> int:
        """Genes that fit in a bounded amount of memory."""
        K, r = len(self.B), max(self.B.shape[-1], self.B_log_det.shape[-1], 1)
        return max(1, BLOCK_ELEMENTS // ((2 * K + 4) * r * r))

    @property
    def rank(self) -> int:
        """Dimension of the span of Z outside the span of X."""
        return self.rotation.rank

    def responses(self, YtX: Array, YtZ: Array, yty: Array) -> Rotated:
        """Rotate the cross-products of the genes."""
        return rotate_genes(self.rotation, YtX, YtZ, yty)

    # ---- objective ---------------------------------------------------------------------------

    def objective(self, gamma: Array, genes: Rotated) -> Array:
        """F at one γ per gene, (genes,); infinite where W° is not positive definite."""
        log_dets = log_det(_weighted_sum(gamma, self.B_log_det))
        fine = np.isfinite(log_dets)
        f = np.full(len(gamma), np.inf)
        if fine.any():
            t = genes.t[fine]
            x = np.linalg.solve(_weighted_sum(gamma[fine], self.B), t[..., None])[..., 0]
            Q = genes.e[fine] + np.einsum("gr,gr->g", t, x)
            positive = Q > 0
            f[np.flatnonzero(fine)[positive]] = (
                self.dof * np.log(Q[positive]) + log_dets[fine][positive]
            )
        return f

    def _derivatives(self, gamma: Array, genes: Rotated) -> Derivatives:
        """f, its gradient and two Hessians in γ, at one γ per gene."""
        W_inverse, log_det_inverse = self._inverses(gamma)
        x = np.einsum("grs,gs->gr", W_inverse, genes.t)
        Bx = np.einsum("krs,gs->gkr", self.B, x)
        WB = log_det_inverse[:, None] @ self.B_log_det
        moments = Moments(
            Q=genes.e + np.einsum("gr,gr->g", genes.t, x),
            q=np.einsum("gkr,gr->gk", Bx, x),
            qq=np.einsum("gkr,grs,gls->gkl", Bx, W_inverse, Bx, optimize=True),
            log_det=-np.linalg.slogdet(log_det_inverse)[1],
            a=np.einsum("gkrr->gk", WB),
            aa=np.einsum("gkrs,glsr->gkl", WB, WB, optimize=True),
        )
        return profile_derivatives(moments, self.dof)

    def _inverses(self, gamma: Array) -> tuple[Array, Array]:
        """W⁻¹ and W°⁻¹ (the same array for REML)."""
        W_inverse = np.linalg.inv(_weighted_sum(gamma, self.B))
        if self.B_log_det is self.B:
            return W_inverse, W_inverse
        return W_inverse, np.linalg.inv(_weighted_sum(gamma, self.B_log_det))

    # ---- optimisation ------------------------------------------------------------------------

    def _grid_start(self, genes: Rotated) -> Array:
        """Best point of a coarse grid that genes share, (genes, K)."""
        t, e = genes.t, genes.e
        best, gamma = np.full(len(t), np.inf), np.zeros((len(t), len(self.B)))
        for point in product(*grid_axes([np.linalg.eigvalsh(B)[-1] for B in self.B])):
            g = np.array(point)[None]
            W = _weighted_sum(g, self.B)[0]
            L = np.linalg.cholesky(W)
            z = np.linalg.solve(L, t.T)
            shared = log_det(_weighted_sum(g, self.B_log_det))[0]
            f = self.dof * np.log(e + np.einsum("rg,rg->g", z, z)) + shared
            better = f < best
            best[better], gamma[better] = f[better], g
        return gamma

    def optimise(self, genes: Rotated, start: Array | None, max_iter: int, tol: float) -> Optimum:
        """Coarse shared grid, then Newton with an active set, batched over genes."""
        return minimise(
            self.objective,
            self._derivatives,
            genes,
            self._grid_start,
            start,
            nonnegative=self.nonnegative,
            max_iter=max_iter,
            tol=tol,
        )

    # ---- what follows from γ -----------------------------------------------------------------

    def residual_variance(self, gamma: Array, genes: Rotated) -> Array:
        """σ² = Q(γ)/m, (genes,)."""
        x = np.linalg.solve(_weighted_sum(gamma, self.B), genes.t[..., None])[..., 0]
        return (genes.e + np.einsum("gr,gr->g", genes.t, x)) / self.dof

    def is_positive_definite(self, gamma: Array) -> Array:
        """Whether V = I + Σ γ_k Z_kZ_k' is positive definite, (genes,) bool."""
        definite = np.ones(len(gamma), dtype=bool)
        doubtful = (gamma < 0).any(1)
        definite[doubtful] = np.isfinite(log_det(_weighted_sum(gamma[doubtful], self.B_cells)))
        return definite

    def _fixed_in_random(self) -> tuple[Array, Array]:
        """J_k = F_k'A_k' (K, rank, p) and A_kA_k' (K, p, p): the columns of X seen from Z."""
        A, F, blocks = self.rotation.A, self.rotation.F, self.rotation.blocks
        return (
            np.stack([F[b].T @ A[:, b].T for b in blocks]),
            np.stack([A[:, b] @ A[:, b].T for b in blocks]),
        )

    def coefficients(self, gamma: Array, genes: Rotated) -> Array:
        """Generalised least squares in the orthonormal basis of X, (genes, p)."""
        J, _ = self._fixed_in_random()
        x = np.linalg.solve(_weighted_sum(gamma, self.B), genes.t[..., None])[..., 0]
        # β̃ = X̃'y - Σ γ_k J_k'x
        return genes.xy - np.einsum("gk,krp,gr->gp", gamma, J, x, optimize=True)

    def covariance(self, gamma: Array) -> Array:
        """Covariance of `coefficients` for σ² = 1, (genes, p, p)."""
        J, AA = self._fixed_in_random()
        GJ = np.einsum("gk,krp->grp", gamma, J)
        # I + Σ γ_k A_kA_k' - (Σ γ_kJ_k)' W⁻¹ (Σ γ_kJ_k)
        inner = GJ.transpose(0, 2, 1) @ np.linalg.solve(_weighted_sum(gamma, self.B), GJ)
        return np.eye(J.shape[-1]) + np.einsum("gk,kpr->gpr", gamma, AA) - inner

    def score(self, gamma: Array, variance: Array, genes: Rotated) -> Array:
        """Gradient of the log-likelihood in θ, (genes, K+1)."""
        W_inverse, log_det_inverse = self._inverses(gamma)
        x = np.einsum("grs,gs->gr", W_inverse, genes.t)
        s0 = variance[:, None]
        # y'P V_k P y and tr(P V_k), the residual being V_0 = I
        within = (genes.e + np.einsum("gr,gr->g", x, x))[:, None]
        quadratic = np.hstack([np.einsum("gr,krs,gs->gk", x, self.B, x, optimize=True), within])
        rest = self.dof - self.B_log_det.shape[-1] + np.einsum("grr->g", log_det_inverse)
        trace = np.hstack(
            [np.einsum("grs,ksr->gk", log_det_inverse, self.B_log_det), rest[:, None]]
        )
        return (quadratic / s0**2 - trace / s0) / 2

    def information(self, gamma: Array, variance: Array, genes: Rotated) -> tuple[Array, Array]:
        """Return the expected and the observed information of θ, each (genes, K+1, K+1)."""
        W_inverse, log_det_inverse = self._inverses(gamma)
        x = np.einsum("grs,gs->gr", W_inverse, genes.t)
        # With B_0 = I as last "component": y'PV_kPV_lPy and tr(PV_kPV_l)
        Bx = np.concatenate([np.einsum("krs,gs->gkr", self.B, x), x[:, None]], axis=1)
        QQ = np.einsum("gkr,grs,gls->gkl", Bx, W_inverse, Bx, optimize=True)
        QQ[:, -1, -1] += genes.e
        WB = np.concatenate(
            [log_det_inverse[:, None] @ self.B_log_det, log_det_inverse[:, None]], axis=1
        )
        TT = np.einsum("gkrs,glsr->gkl", WB, WB, optimize=True)
        TT[:, -1, -1] += self.dof - self.B_log_det.shape[-1]
        s0 = variance[:, None, None]
        return TT / s0**2 / 2, QQ / s0**3 - TT / s0**2 / 2

    def variance_forms(
        self, gamma: Array, variance: Array, left: Array, right: Array
    ) -> VarianceForms:
        """Bilinear forms a'Φb of the columns of `left`, `right` (p, C), orthonormal basis."""
        J, _ = self._fixed_in_random()
        A, blocks, s0 = self.rotation.A, self.rotation.blocks, variance
        hh = np.stack([((A[:, b].T @ left) * (A[:, b].T @ right)).sum(0) for b in blocks])
        W_inverse = np.linalg.inv(_weighted_sum(gamma, self.B))
        Ja, Jb = J @ left, J @ right
        ya, yb = (W_inverse @ np.einsum("gk,krc->grc", gamma, j) for j in (Ja, Jb))
        # F_k'g_k with g = (I + SD)⁻¹h:  G_k = J_k - B_k y
        Ga, Gb = (j - self.B @ y[:, None] for j, y in ((Ja, ya), (Jb, yb)))
        # v/s_0 = a'b + Σ γ_k (h_k'h_k - J_k'y)
        Jy = np.einsum("krc,grc->gkc", Ja, yb)
        value = s0[:, None] * ((left * right).sum(0) + np.einsum("gk,gkc->gc", gamma, hh - Jy))
        # v_k = g_k'g_k = h_k'h_k - J_k'y_b - y_a'G_k,  v_kl = -(2/s_0) sym G_k'W⁻¹G_l
        gradient = hh - Jy - np.einsum("grc,gkrc->gkc", ya, Gb)
        GWG = np.einsum("gkrc,glrc->gckl", Ga, W_inverse[:, None] @ Gb, optimize=True)
        hessian = -(GWG + GWG.swapaxes(-1, -2)) / s0[:, None, None, None]
        theta = np.concatenate([gamma * s0[:, None], s0[:, None]], axis=1)
        return by_homogeneity(value, gradient.swapaxes(1, 2), hessian, theta)

    def blup(self, gamma: Array, genes: Rotated) -> Array:
        """Predicted random effects D Z'W⁻¹(y - Xβ̂), (genes, q)."""
        x = np.linalg.solve(_weighted_sum(gamma, self.B), genes.t[..., None])[..., 0]
        return np.repeat(gamma, self.rotation.component_sizes, axis=1) * (x @ self.rotation.F.T)


def _components(F: Array, blocks: list[slice]) -> Array:
    """F_k'F_k for each block of rows of F, (K, r, r)."""
    return np.stack([F[b].T @ F[b] for b in blocks])


def _weighted_sum(gamma: Array, B: Array) -> Array:
    """I + Σ γ_k B_k per gene, (genes, r, r)."""
    K, r = B.shape[:2]
    return (gamma @ B.reshape(K, r * r)).reshape(-1, r, r) + np.eye(r)
