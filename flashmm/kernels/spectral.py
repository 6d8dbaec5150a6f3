"""One random component: in the rotation everything is diagonal, and a gene costs O(rank).

W = I + γ diag(λ), so that with ρ_i = 1/(1 + γλ_i)
    Q(γ) = e + Σ ρ_i t_i²          f(γ) = m log Q + Σ log(1 + γ μ_i)
where (m, μ) = (ν, λ) for REML and (n, eigenvalues of Z'Z) for ML.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import eigvalsh

from flashmm.kernels.bracket import Root, increasing_root
from flashmm.kernels.engine import Estimates, Optimum, VarianceForms, by_homogeneity
from flashmm.kernels.rotation import Rotated, Rotation, rotate_genes
from flashmm.kernels.structure import CovarianceStructure

Array = np.ndarray

# Grid points per decade of γ, and decades searched outside 1/λ_max … 1/λ_min.
POINTS_PER_DECADE = 5
DECADES_BELOW, DECADES_ABOVE = 5, 7
# Fractions of the lower bound of γ where the grid of unbounded fits looks.
NEGATIVE_FRACTIONS = np.array(
    [0.999, 0.99, 0.97, 0.93, 0.85, 0.7, 0.5, 0.3, 0.15, 0.05, 0.01, 1e-3]
)
# Numbers per array that a block of genes may hold, covariances of the fixed effects among them:
# what fits into the caches is worked on much faster, and some threads have a block each.
BLOCK_ELEMENTS = 2**19


@dataclass(frozen=True, eq=False)
class SpectralEngine:
    """Likelihood and inference for one random component.

    Attributes
    ----------
    rotation : Rotation
        The shared part of the model.
    log_det_values : (r,) array
        Eigenvalues μ of the log-determinant: of S for REML, of Z'Z for ML.
    dof : int
        m: ν for REML, n for ML.
    ZtZ_max : float
        Largest eigenvalue of Z'Z; V is positive definite where γ > -1/ZtZ_max.
    nonnegative : bool
        Whether γ is bounded below by zero.
    reml : bool
        Whether the restricted likelihood is meant.
    """

    rotation: Rotation
    log_det_values: Array
    dof: int
    ZtZ_max: float
    nonnegative: bool
    reml: bool

    @staticmethod
    def takes(structure: CovarianceStructure) -> bool:
        """One component, whatever its levels."""
        return structure.n_components == 1

    @classmethod
    def build(cls, rotation: Rotation, reml: bool, nonnegative: bool) -> SpectralEngine:
        """Prepare the engine for a design with one component."""
        ZtZ_values = np.maximum(eigvalsh(rotation.ZtZ), 0.0)
        mu, dof = (
            (rotation.eigenvalues, rotation.df_residual) if reml else (ZtZ_values, rotation.n_cells)
        )
        return cls(rotation, mu, dof, float(ZtZ_values.max()), nonnegative, reml)

    def genes_per_block(self) -> int:
        """Genes that fit in a bounded amount of memory."""
        return max(64, BLOCK_ELEMENTS // (self.rotation.rank + len(self.rotation.A) ** 2))

    @property
    def small_blocks(self) -> bool:
        """A thread takes a block."""
        return True

    @property
    def rank(self) -> int:
        """Dimension of the span of Z outside the span of X."""
        return self.rotation.rank

    def responses(self, YtX: Array, YtZ: Array, yty: Array) -> Rotated:
        """Rotate the cross-products of the genes."""
        return rotate_genes(self.rotation, YtX, YtZ, yty)

    # ---- objective ---------------------------------------------------------------------------

    @cached_property
    def _grid(self) -> tuple[Array, Array, Array]:
        """Values of γ that genes share, ρ (rank, points) and log |W°| (points,) there."""
        lam = self.rotation.eigenvalues
        low = -np.log10(lam.max()) - DECADES_BELOW
        high = -np.log10(lam.min()) + DECADES_ABOVE
        points = np.logspace(low, high, int((high - low) * POINTS_PER_DECADE) + 1)
        grid = np.concatenate([self._negative_points(), [0.0], points])
        log_det = np.log1p(np.outer(grid, self.log_det_values)).sum(1)
        return grid, 1.0 / (1.0 + np.outer(lam, grid)), log_det

    def _negative_points(self) -> Array:
        """Negative γ of the grid of unbounded fits, ascending; the end of definite V among them."""
        if self.nonnegative:
            return np.array([])
        ends = np.array([self._lower_bound(), self._definite_bound()])
        return np.unique(np.append(np.outer(ends, NEGATIVE_FRACTIONS), ends[1]))

    def _definite_bound(self) -> float:
        """Smallest γ looked at where V is positive definite; the domain of REML goes further."""
        return -(1.0 - 1e-9) / self.ZtZ_max

    def _objective(self, gamma: Array, t2: Array, e: Array) -> Array:
        """f at one γ per gene, (genes,)."""
        Q = e + (t2 * self._rho(gamma[:, None])).sum(1)
        log_det = np.log1p(gamma[:, None] * self.log_det_values).sum(1)
        return self.dof * np.log(Q) + log_det

    def _slopes(self, gamma: Array, t2: Array, e: Array) -> tuple[Array, Array]:
        """First and second derivative of f at one γ per gene, each (genes,)."""
        lam, mu = self.rotation.eigenvalues, self.log_det_values
        rho = self._rho(gamma[:, None])
        # Q = e + Σ ρt²,  Q' = -Σ λρ²t²,  Q'' = 2 Σ λ²ρ³t²
        weighted = rho * t2
        Q = e + weighted.sum(1)
        weighted *= rho
        Q1 = -(weighted @ lam)
        weighted *= rho
        Q2 = 2.0 * (weighted @ lam**2)
        # log |W°|' = Σ μρ°,  log |W°|'' = -Σ (μρ°)²
        rho0 = rho if mu is lam else 1.0 / (1.0 + gamma[:, None] * mu)
        f1 = self.dof * Q1 / Q + rho0 @ mu
        rho0 *= rho0
        return f1, self.dof * (Q2 / Q - (Q1 / Q) ** 2) - rho0 @ mu**2

    def _lower_bound(self) -> float:
        """Smallest γ looked at: zero for bounded fits, else just above the end of the domain."""
        return 0.0 if self.nonnegative else -(1.0 - 1e-9) / float(self.log_det_values.max())

    def _brackets(self, t2: Array, e: Array) -> tuple[Array, Array, Array]:
        """Best grid point per gene and its two neighbours: (low, start, high)."""
        grid, rho, log_det = self._grid
        f = self.dof * np.log(e[:, None] + t2 @ rho) + log_det
        if not self.nonnegative:
            f = self._admissible(f)
        best = f.argmin(1)
        padded = np.concatenate([[self._lower_bound()], grid, [grid[-1] * 1e6]])
        return padded[best], grid[best], padded[best + 2]

    def _admissible(self, f: Array) -> Array:
        """f on the grid of unbounded fits, infinite at points that are not to be chosen."""
        interior = np.zeros(f.shape, dtype=bool)
        interior[:, 1:-1] = (f[:, 1:-1] <= f[:, :-2]) & (f[:, 1:-1] <= f[:, 2:])
        if not self.reml:  # ML falls without bound at the lower end: only local minima are optima
            return np.where(interior, f, np.inf)
        # A minimum where V is positive definite comes before those outside, however low they are.
        interior[:, -1] = f[:, -1] <= f[:, -2]
        definite = interior & (self._grid[0] > self._definite_bound())
        return np.where(definite | ~definite.any(1, keepdims=True), f, np.inf)

    # ---- optimisation ------------------------------------------------------------------------

    def optimise(self, genes: Rotated, start: Array | None, max_iter: int, tol: float) -> Optimum:
        """Global search on the shared grid, then safeguarded Newton, vectorised over genes."""
        t2, e = genes.t**2, genes.e
        if start is None:
            low, gamma, high = self._brackets(t2, e)
        else:
            gamma = np.full(len(e), max(start[0] / start[-1], self._lower_bound() * 0.999))
            # Zero itself is inside the bracket of a bounded fit: it is tried when Newton leaves it.
            low = np.full(len(e), -1.0 if self.nonnegative else self._lower_bound())
            high = np.full(len(e), np.inf)
        gamma, decrement, n_iter = self._newton(low, gamma, high, t2, e, max_iter, tol)
        return Optimum(gamma[:, None], self._objective(gamma, t2, e), decrement, n_iter)

    def _newton(
        self, low: Array, start: Array, high: Array, t2: Array, e: Array, max_iter: int, tol: float
    ) -> Root:
        """Root of f' in (low, high)."""
        return increasing_root(
            lambda gamma, rows: self._slopes(gamma, t2[rows], e[rows]),
            low,
            start,
            high,
            floor=self._lower_bound(),
            held=self.nonnegative,
            max_iter=max_iter,
            tol=tol,
        )

    # ---- what follows from γ -----------------------------------------------------------------

    def _rho(self, gamma: Array) -> Array:
        return 1.0 / (1.0 + gamma * self.rotation.eigenvalues)

    def residual_variance(self, gamma: Array, genes: Rotated) -> Array:
        """σ² = Q(γ)/m, (genes,)."""
        return (genes.e + np.einsum("gr,gr,gr->g", self._rho(gamma), genes.t, genes.t)) / self.dof

    def objective(self, gamma: Array, genes: Rotated) -> Array:
        """f(γ) at one γ per gene, (genes,); infinite outside the domain."""
        Q = self.dof * self.residual_variance(gamma, genes)
        a = 1.0 + gamma * self.log_det_values
        f = np.full(len(gamma), np.inf)
        fine = (a > 0).all(1) & (Q > 0)
        f[fine] = self.dof * np.log(Q[fine]) + np.log(a[fine]).sum(1)
        return f

    def is_positive_definite(self, gamma: Array) -> Array:
        """Whether V = I + γ ZZ' is positive definite, (genes,) bool."""
        return 1.0 + gamma[:, 0] * self.ZtZ_max > 0

    def _full_rho(self, gamma: Array) -> Array:
        """ρ on all q eigenvectors of S; one where the eigenvalue is zero."""
        rho = np.ones((len(gamma), len(self.rotation.U)))
        rho[:, : self.rotation.rank] = self._rho(gamma)
        return rho

    @cached_property
    def _fixed_in_random(self) -> Array:
        """U'A', (q, p): the orthonormal columns of X seen from the eigenvectors of S."""
        return self.rotation.U.T @ self.rotation.A.T

    def coefficients(self, gamma: Array, genes: Rotated) -> Array:
        """Generalised least squares in the orthonormal basis of X, (genes, p)."""
        # β̃ = X̃'y - A Z'… = X̃'y - Σ_i γ ρ_i √λ_i t_i (U'A')_i
        pull = gamma * self._rho(gamma) * np.sqrt(self.rotation.eigenvalues) * genes.t
        return genes.xy - pull @ self._fixed_in_random[: self.rotation.rank]

    def estimates(self, gamma: Array, genes: Rotated) -> Estimates:
        """σ², coefficients and expected information at one γ per gene."""
        variance = self.residual_variance(gamma, genes)
        information, _ = self.information(gamma, variance, genes)
        return Estimates(variance, self.coefficients(gamma, genes), information)

    def covariance(self, gamma: Array, basis: Array) -> Array:
        """Covariance of the contrasts `basis` (p, C) for σ² = 1, (genes, C, C)."""
        E, C = self._fixed_in_random @ basis, basis.shape[1]
        # c'c + γ Σ ρ_i e_ie_i', the first term with weight one
        products = np.vstack([np.einsum("ic,id->icd", E, E), (basis.T @ basis)[None]])
        weights = np.column_stack([gamma * self._full_rho(gamma), np.ones(len(gamma))])
        return (weights @ products.reshape(-1, C * C)).reshape(-1, C, C)

    def score(self, gamma: Array, variance: Array, genes: Rotated) -> Array:
        """Gradient of the log-likelihood in θ, (genes, 2)."""
        lam, mu = self.rotation.eigenvalues, self.log_det_values
        x2, rho0 = (self._rho(gamma) * genes.t) ** 2, 1.0 / (1.0 + gamma * mu)
        quadratic = np.column_stack([(x2 * lam).sum(1), genes.e + x2.sum(1)])
        trace = np.column_stack([(mu * rho0).sum(1), self.dof - len(mu) + rho0.sum(1)])
        s0 = variance[:, None]
        return (quadratic / s0**2 - trace / s0) / 2

    def information(self, gamma: Array, variance: Array, genes: Rotated) -> tuple[Array, Array]:
        """Return the expected and the observed information of θ, each (genes, 2, 2)."""
        lam, mu = self.rotation.eigenvalues, self.log_det_values
        rho, rho0 = self._rho(gamma), 1.0 / (1.0 + gamma * mu)
        x2 = (rho * genes.t) ** 2
        s0 = variance
        # traces of P_kP_l (V⁻¹ in place of P for ML) and the quadratics y'P V_k P V_l P y
        TT = _symmetric(
            (mu**2 * rho0**2).sum(1) / s0**2,
            (mu * rho0**2).sum(1) / s0**2,
            (self.dof - len(mu) + (rho0**2).sum(1)) / s0**2,
        )
        QQ = _symmetric(
            (x2 * rho * lam**2).sum(1) / s0**3,
            (x2 * rho * lam).sum(1) / s0**3,
            (genes.e + (x2 * rho).sum(1)) / s0**3,
        )
        return TT / 2, QQ - TT / 2

    def variance_forms(
        self, gamma: Array, variance: Array, left: Array, right: Array
    ) -> VarianceForms:
        """Bilinear forms a'Φb of the columns of `left`, `right` (p, C), orthonormal basis."""
        E = self._fixed_in_random
        products = (E @ left) * (E @ right)
        rho, s0 = self._full_rho(gamma), variance[:, None]
        # v = s_0(a'b + γ Σ ρ e²),  v_1 = Σ ρ² e²,  v_11 = -(2/s_0) Σ λ ρ³ e²
        value = s0 * ((left * right).sum(0) + gamma * (rho @ products))
        gradient = (rho**2) @ products
        r = self.rotation.rank
        hessian = -2.0 / s0 * ((rho[:, :r] ** 3 * self.rotation.eigenvalues) @ products[:r])
        theta = np.concatenate([gamma * s0, s0], axis=1)
        return by_homogeneity(value, gradient[..., None], hessian[..., None, None], theta)

    def blup(self, gamma: Array, genes: Rotated) -> Array:
        """Predicted random effects γ Z'W⁻¹(y - Xβ̂), (genes, q)."""
        scaled = gamma * self._rho(gamma) * np.sqrt(self.rotation.eigenvalues) * genes.t
        return scaled @ self.rotation.U[:, : self.rotation.rank].T


def _symmetric(a: Array, b: Array, c: Array) -> Array:
    """Stack of 2 × 2 matrices [[a, b], [b, c]]."""
    return np.stack([np.stack([a, b], -1), np.stack([b, c], -1)], -2)
