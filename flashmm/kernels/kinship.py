"""One covariance matrix K that is known: V = σ²_g K + σ²_e I, diagonal in the eigenvectors of RKR.

R projects on the complement of X = Q R_x. With RKR = V_r diag(λ) V_r' and r = Ry,

    t = V_r'r ~ N(0, diag(D)),  D_i = σ²_g λ_i + σ²_e,

so that Q = Σ t_i²/D_i and log|V| + log|X'V⁻¹X| - log|X'X| = Σ log D_i. The directions in which
RKR is zero are one more entry, λ = 0 with its number of dimensions and t² = what is left of r'r;
there is none where K has full rank outside X. Then σ²_e = 0 is inside the parameter space, and
nothing below divides by σ²_e. For ML log|V| takes the eigenvalues of K in place of λ.

The fixed effects follow from e_i = X⁺K v_i/√λ_i and C_0 = X⁺KX⁺' - Σ e_i e_i':

    β̂ = X⁺y - Σ (σ²_g √λ_i t_i/D_i) e_i,
    Φ = σ²_e (X'X)⁻¹ + σ²_g C_0 + Σ (σ²_g σ²_e/D_i) e_i e_i'.

Likelihoods are searched in h² = σ²_g/(σ²_g + σ²_e) up to one half and in 1 - h² above it, which
keeps the digits of both variances.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh, eigvalsh, qr, solve_triangular, svd

from flashmm.kernels.bracket import increasing_root
from flashmm.kernels.engine import VarianceForms
from flashmm.kernels.rotation import EIGEN_TOLERANCE
from flashmm.kernels.spectral import DECADES_ABOVE, DECADES_BELOW, POINTS_PER_DECADE

Array = np.ndarray

# Relative spread of the eigenvalues below which K is a multiple of the identity.
SPREAD_TOLERANCE = 1e-8
# Decrement at which an end of an interval is found.
INTERVAL_TOLERANCE = 1e-20
BLOCK_ELEMENTS = 2**22


class Spectrum(NamedTuple):
    """Eigenvalues, zero counted once with its multiplicity.

    Attributes
    ----------
    values : (k,) array
        Eigenvalues, descending; the last is zero where the matrix is singular.
    counts : (k,) array
        Their number of dimensions: one, and for zero all that are left.
    """

    values: Array
    counts: Array

    @property
    def singular(self) -> bool:
        """Whether zero is among the eigenvalues."""
        return bool(self.values[-1] == 0.0)


def spectrum(values: Array, dimensions: int) -> Spectrum:
    """Join positive eigenvalues with the dimensions that they leave at zero."""
    left = dimensions - len(values)
    counts = np.append(np.ones(len(values)), [left] if left else [])
    return Spectrum(np.append(values, [0.0] if left else []), counts)


@dataclass(frozen=True, eq=False)
class KinshipDesign:
    """K and X of the individuals that have a value, rotated once for all traits.

    Attributes
    ----------
    vectors : (n, r) array
        Eigenvectors V_r of RKR with λ > 0.
    restricted : Spectrum
        λ on the n - p dimensions outside X.
    whole : Spectrum
        Eigenvalues of K on all n dimensions.
    Q : (n, p) array
        Orthonormal basis of X.
    R : (p, p) array
        Upper triangular, X = QR.
    pull : (k, p) array
        e_i, rows aligned with `restricted.values` (zero for λ = 0).
    XtX_inverse, C0 : (p, p) arrays
        (X'X)⁻¹, and the part of X⁺KX⁺' that the residuals say nothing about.
    """

    vectors: Array
    restricted: Spectrum
    whole: Spectrum
    Q: Array
    R: Array
    pull: Array
    XtX_inverse: Array
    C0: Array

    @property
    def n_individuals(self) -> int:
        """Number of individuals n."""
        return len(self.Q)

    @property
    def df_residual(self) -> int:
        """ν = n - rank(X)."""
        return self.Q.shape[0] - self.Q.shape[1]

    @property
    def log_det_XtX(self) -> float:
        """log |X'X|."""
        return 2.0 * float(np.log(np.abs(np.diag(self.R))).sum())

    @property
    def identifiable(self) -> bool:
        """Whether K differs from a multiple of the identity outside X."""
        values = self.restricted.values
        return bool(values[0] - values[-1] > SPREAD_TOLERANCE * self.whole.values[0])


def rotate_matrix(K: Array, X: Array) -> KinshipDesign:
    """Diagonalise RKR for a symmetric positive semi-definite K (n, n) and X (n, p) of full rank."""
    Q, R = qr(X, mode="economic")
    KQ = K @ Q
    half = KQ - Q @ (0.5 * (Q.T @ KQ))
    # RKR = K - Q(KQ)'  - KQ Q' + Q(Q'KQ)Q'
    RKR = K - Q @ half.T - half @ Q.T
    whole = np.maximum(eigvalsh(K)[::-1], 0.0)
    values, vectors = eigh((RKR + RKR.T) / 2)
    return _design(values[::-1], vectors[:, ::-1], whole, Q, R, KQ)


def rotate_factor(G: Array, X: Array) -> KinshipDesign:
    """As `rotate_matrix` for K = GG', G (n, r), without an n × n matrix."""
    Q, R = qr(X, mode="economic")
    outside = G - Q @ (Q.T @ G)
    vectors, roots, _ = svd(outside, full_matrices=False)
    whole = svd(G, compute_uv=False) ** 2
    return _design(roots**2, vectors, whole, Q, R, G @ (G.T @ Q))


def _design(
    values: Array, vectors: Array, whole: Array, Q: Array, R: Array, KQ: Array
) -> KinshipDesign:
    """Cut the spectra at rounding and prepare what the fixed effects need."""
    n, p = Q.shape
    small = EIGEN_TOLERANCE * whole[0]
    rank = min(int((values > small).sum()), n - p)
    values, vectors = values[:rank], vectors[:, :rank]
    basis = (vectors.T @ KQ) / np.sqrt(values)[:, None]
    inverse = solve_triangular(R, np.eye(p))
    rest, axes = eigh(Q.T @ KQ - basis.T @ basis)
    root = inverse @ (axes * np.sqrt(np.where(rest > small, rest, 0.0)))
    restricted = spectrum(values, n - p)
    pull = np.zeros((len(restricted.values), p))
    pull[:rank] = basis @ inverse.T
    positive = spectrum(whole[whole > small], n)
    return KinshipDesign(
        vectors, restricted, positive, Q, R, pull, inverse @ inverse.T, root @ root.T
    )


class KinshipTraits(NamedTuple):
    """Rotated traits.

    Attributes
    ----------
    ols : (traits, p) array
        X⁺y, ordinary least squares.
    t : (traits, k) array
        V_r'r, and last, where RKR is singular, the root of the sum of squares left.
    rss, yty : (traits,) arrays
        r'r and y'y.
    """

    ols: Array
    t: Array
    rss: Array
    yty: Array

    @property
    def left(self) -> Array:
        """Sum of squares of the last entry, (traits,)."""
        return self.t[:, -1] ** 2


def rotate_traits(design: KinshipDesign, Y: Array) -> KinshipTraits:
    """Rotate traits Y (n, traits)."""
    values, rank = design.restricted.values, design.vectors.shape[1]
    traits = Y.shape[1]
    ols, t = np.empty((traits, design.Q.shape[1])), np.empty((traits, len(values)))
    rss, yty = np.empty(traits), np.empty(traits)
    size = max(1, BLOCK_ELEMENTS // len(Y))
    for start in range(0, traits, size):
        rows = slice(start, start + size)
        y = np.ascontiguousarray(Y[:, rows])
        xy = design.Q.T @ y
        r = y - design.Q @ xy
        r -= design.Q @ (design.Q.T @ r)
        ols[rows] = solve_triangular(design.R, xy).T
        t[rows, :rank] = r.T @ design.vectors
        rss[rows], yty[rows] = (r**2).sum(0), (y**2).sum(0)
        if design.restricted.singular:
            inside = np.einsum("gr,gr->g", t[rows, :rank], t[rows, :rank])
            t[rows, -1] = np.sqrt(np.maximum(rss[rows] - inside, 0.0))
    return KinshipTraits(ols, t, rss, yty)


class Heritability(NamedTuple):
    """h² and 1 - h², each with all its digits, (traits,); and how they were found.

    Attributes
    ----------
    h, u : (traits,) arrays
        h² and 1 - h².
    decrement : (traits,) array
        Newton decrement of the log-likelihood where the search stopped.
    n_iter : (traits,) int array
        Evaluations of the derivatives.
    unbounded : (traits,) bool array
        ML only: the likelihood rises without bound towards h² = 1 and has no maximum inside.
    """

    h: Array
    u: Array
    decrement: Array
    n_iter: Array
    unbounded: Array


@dataclass(frozen=True, eq=False)
class KinshipEngine:
    """Likelihood and inference of all traits that share a design.

    Attributes
    ----------
    design : KinshipDesign
        The rotated individuals.
    reml : bool
        Whether the restricted likelihood is meant.
    """

    design: KinshipDesign
    reml: bool

    @property
    def dof(self) -> int:
        """m: ν for REML, n for ML."""
        return self.design.df_residual if self.reml else self.design.n_individuals

    @property
    def log_spectrum(self) -> Spectrum:
        """Eigenvalues μ in the log-determinant: of RKR for REML, of K for ML."""
        return self.design.restricted if self.reml else self.design.whole

    @property
    def unbounded(self) -> bool:
        """Whether log|V| falls to -∞ at h² = 1 while Q stays finite: K singular inside X only."""
        return self.log_spectrum.singular and not self.design.restricted.singular

    def traits_per_block(self) -> int:
        """Traits that fit in a bounded amount of memory."""
        return max(64, BLOCK_ELEMENTS // len(self.design.restricted.values))

    # ---- the profile likelihood --------------------------------------------------------------

    def profile(self, h: Array, u: Array, t2: Array) -> Array:
        """Objective f = m log Q + Σ log D, D = hλ + u, at shared points, (traits, points)."""
        lam, mu, counts = self.design.restricted.values, *self.log_spectrum
        with np.errstate(divide="ignore", invalid="ignore"):
            Q = t2 @ (1.0 / (np.outer(lam, h) + u))
            log_det = counts @ np.log(np.outer(mu, h) + u)
            f = self.dof * np.log(Q) + log_det
        # where K is singular h² = 1 leaves only what the null space tells: nothing, or too much
        return np.where((u == 0.0) & self.log_spectrum.singular, self._at_one(), f)

    def _at_one(self) -> float:
        return -np.inf if self.unbounded else np.inf

    def objective(self, h: Array, u: Array, t2: Array) -> Array:
        """Objective f at one point per trait, (traits,)."""
        mu, counts = self.log_spectrum
        log_det = np.log(h[:, None] * mu + u[:, None]) @ counts
        return self.dof * np.log(self.quadratic(h, u, t2)) + log_det

    def quadratic(self, h: Array, u: Array, t2: Array) -> Array:
        """Q = Σ t²/(hλ + u), (traits,)."""
        return np.einsum(
            "gr,gr->g", t2, 1.0 / (h[:, None] * self.design.restricted.values + u[:, None])
        )

    def slope(self, x: Array, t2: Array, upper: bool) -> tuple[Array, Array]:
        """Derivatives f' and f'' in x, which is 1 - h² where `upper`, else h²; each (traits,)."""
        # D = α + xβ: α = 1, β = λ - 1 in h², and α = λ, β = 1 - λ in 1 - h²
        lam, mu, counts = self.design.restricted.values, *self.log_spectrum
        rho = 1.0 / _weights(x, lam, upper)
        beta = 1.0 - lam if upper else lam - 1.0
        weighted = rho * t2
        Q = weighted.sum(1)
        rho *= beta
        weighted *= rho
        Q1 = -weighted.sum(1)
        Q2 = 2.0 * np.einsum("gr,gr->g", weighted, rho)
        d = rho if self.reml else (1.0 - mu if upper else mu - 1.0) / _weights(x, mu, upper)
        f1 = self.dof * Q1 / Q + d @ counts
        f2 = self.dof * (Q2 / Q - (Q1 / Q) ** 2) - (d * d) @ counts
        return f1, f2

    def _grid(self) -> tuple[Array, Array]:
        """Points h², 1 - h² of the shared grid: evenly spaced ratios, zero and, if allowed, one."""
        lam = self.design.restricted.values
        low = -np.log10(lam[0]) - DECADES_BELOW
        high = -np.log10(lam[lam > 0][-1]) + DECADES_ABOVE
        gamma = np.logspace(low, high, int((high - low) * POINTS_PER_DECADE) + 1)
        h, u = gamma / (1.0 + gamma), 1.0 / (1.0 + gamma)
        end = [] if self.design.restricted.singular or self.unbounded else [1.0]
        return np.r_[0.0, h, end], np.r_[1.0, u, np.zeros(len(end))]

    def maximise(self, t: Array, max_iter: int, tol: float) -> Heritability:
        """Best point of the shared grid, then safeguarded Newton steps, vectorised over traits."""
        h, u = self._grid()
        t2 = t**2
        f = self.profile(h, u, t2)
        if self.unbounded:
            # f falls without bound at the end of the grid: only local minima before it count
            inner = np.pad(f[:, :-1], ((0, 0), (1, 0)), constant_values=np.inf)
            f = np.where((f <= inner) & (f <= np.roll(f, -1, axis=1)), f, np.inf)
            f[:, -1] = np.inf
        best = f.argmin(1)
        unbounded = ~np.isfinite(f[np.arange(len(f)), best])
        upper = h[best] > 0.5
        x, decrement, n_iter = np.zeros(len(t)), np.zeros(len(t)), np.zeros(len(t), dtype=np.int64)
        for side, points in ((False, np.r_[0.0, h, 1.0]), (True, np.r_[1.0, u, 0.0])):
            rows = np.flatnonzero((upper == side) & ~unbounded)
            around = points[best[rows][:, None] + np.arange(3)]
            low, start, high = (around[:, ::-1] if side else around).T
            x[rows], decrement[rows], n_iter[rows] = increasing_root(
                partial(self._slope_of, t2=t2[rows], upper=side),
                low,
                start,
                high,
                floor=0.0,
                held=True,
                max_iter=max_iter,
                tol=tol,
            )
        return Heritability(
            np.where(upper, 1.0 - x, x), np.where(upper, x, 1.0 - x), decrement, n_iter, unbounded
        )

    def _slope_of(self, x: Array, rows: Array, t2: Array, upper: bool) -> tuple[Array, Array]:
        return self.slope(x, t2[rows], upper)

    def interval(self, h: Array, u: Array, t: Array, drop: float, max_iter: int) -> Array:
        """Ends of the interval of h² around the maximum in which f is at most `drop` above it.

        Parameters
        ----------
        h, u : (traits,) arrays
            h² and 1 - h² of the maximum.
        t : (traits, k) array
            Rotated traits.
        drop : float
            Quantile of χ²₁.
        max_iter : int
            Limit of the evaluations per trait and end.

        Returns
        -------
        (traits, 2) array
            0 or 1 where f does not rise so far.
        """
        t2 = t**2
        top = self.objective(h, u, t2) + drop
        grid = self._grid()
        above = self.profile(*grid, t2) > top[:, None]
        ends = np.tile([0.0, 1.0], (len(t), 1))
        for side, sign in enumerate((-1.0, 1.0)):
            distance = sign * (grid[0] - h[:, None])
            # the nearest grid point above the level, on that side
            distance = np.where(above & (distance > 0), distance, np.inf).min(1)
            rows = np.flatnonzero(np.isfinite(distance))
            width = distance[rows]
            root = increasing_root(
                partial(self._gap, h=h[rows], t2=t2[rows], top=top[rows], sign=sign),
                np.zeros(len(rows)),
                width,
                width,
                floor=0.0,
                held=False,
                max_iter=max_iter,
                tol=INTERVAL_TOLERANCE,
            )
            ends[rows, side] = h[rows] + sign * root.x
        return ends

    def _gap(
        self, distance: Array, rows: Array, h: Array, t2: Array, top: Array, sign: float
    ) -> tuple[Array, Array]:
        """Height of f over the level at a distance from the maximum, and its derivative."""
        x, t2 = h[rows] + sign * distance, t2[rows]
        return self.objective(x, 1.0 - x, t2) - top[rows], sign * self.slope(x, t2, False)[0]

    # ---- what follows from θ = (σ²_g, σ²_e) --------------------------------------------------

    def standard_error(self, h: Array, u: Array) -> Array:
        """Standard error of h² from the expected information, σ² profiled out, (traits,)."""
        mu, counts = self.log_spectrum
        with np.errstate(divide="ignore", invalid="ignore"):
            d = (mu - 1.0) / (h[:, None] * mu + u[:, None])
            return np.sqrt(2.0 / ((d * d) @ counts - (d @ counts) ** 2 / self.dof))

    def _D(self, theta: Array) -> Array:
        return theta[:, :1] * self.design.restricted.values + theta[:, 1:]

    def coefficients(self, theta: Array, traits: KinshipTraits) -> Array:
        """Generalised least squares, (traits, p)."""
        # β̂ = X⁺y - Σ (σ²_g √λ_i t_i/D_i) e_i
        weights = theta[:, :1] * np.sqrt(self.design.restricted.values) * traits.t / self._D(theta)
        return traits.ols - weights @ self.design.pull

    def covariance(self, theta: Array) -> Array:
        """Φ = Var(β̂), (traits, p, p)."""
        p = self.design.pull.shape[1]
        left, right = np.divmod(np.arange(p * p), p)
        basis = np.eye(p)
        value = self.variance_forms(theta, basis[:, left], basis[:, right]).value
        return value.reshape(-1, p, p)

    def variance_forms(self, theta: Array, left: Array, right: Array) -> VarianceForms:
        """Bilinear forms a'Φb of the columns of `left`, `right` (p, C), and derivatives in θ."""
        design = self.design
        products = (design.pull @ left) * (design.pull @ right)
        a = np.einsum("pc,pq,qc->c", left, design.XtX_inverse, right)
        b = np.einsum("pc,pq,qc->c", left, design.C0, right)
        lam, g, e = design.restricted.values, theta[:, :1], theta[:, 1:]
        rho = 1.0 / self._D(theta)
        # v = σ²_e a + σ²_g b + Σ (σ²_g σ²_e/D) ee',  ∂D = (λ, 1)
        value = e * a + g * b + (g * e * rho) @ products
        gradient = [b + (e * rho) ** 2 @ products, a + ((g * rho) ** 2 * lam) @ products]
        cube = rho**3 * lam
        gg, ge, ee = (-2.0 * e**2 * cube, 2.0 * g * e * cube, -2.0 * g**2 * cube)
        hessian = [[gg @ products, ge @ products], [ge @ products, ee @ products]]
        return VarianceForms(
            value, np.stack(gradient, -1), np.moveaxis(np.array(hessian), (0, 1), (2, 3))
        )

    def score(self, theta: Array, traits: KinshipTraits) -> Array:
        """Gradient of the log-likelihood in θ, (traits, 2)."""
        x2 = (traits.t / self._D(theta)) ** 2
        mu, counts = self.log_spectrum
        rho = counts / (theta[:, :1] * mu + theta[:, 1:])
        quadratic = np.column_stack([x2 @ self.design.restricted.values, x2.sum(1)])
        return (quadratic - np.column_stack([rho @ mu, rho.sum(1)])) / 2

    def information(self, theta: Array, traits: KinshipTraits) -> tuple[Array, Array]:
        """Return the expected and the observed information of θ, each (traits, 2, 2)."""
        mu, counts = self.log_spectrum
        # tr(P V_k P V_l), with V⁻¹ in place of P for ML, and y'P V_k P V_l P y
        TT = _moments(counts / (theta[:, :1] * mu + theta[:, 1:]) ** 2, mu)
        D = self._D(theta)
        QQ = _moments((traits.t / D) ** 2 / D, self.design.restricted.values)
        return TT / 2, QQ - TT / 2

    def blup(self, theta: Array, traits: KinshipTraits) -> Array:
        """Predicted genetic values σ²_g K V⁻¹(y - Xβ̂), (traits, n)."""
        design, rank = self.design, self.design.vectors.shape[1]
        lam = design.restricted.values[:rank]
        x = theta[:, :1] * traits.t[:, :rank] / self._D(theta)[:, :rank]
        # K v_i = λ_i v_i + X(X⁺K v_i), and X⁺K v_i = √λ_i e_i
        fixed = (x * np.sqrt(lam)) @ design.pull[:rank]
        return (x * lam) @ design.vectors.T + fixed @ (design.Q @ design.R).T


def _weights(x: Array, values: Array, upper: bool) -> Array:
    """D = hλ + u at one x per trait, (traits, k)."""
    h, u = (1.0 - x, x) if upper else (x, 1.0 - x)
    return h[:, None] * values + u[:, None]


def _moments(weights: Array, values: Array) -> Array:
    """Sums of weights × (λ², λ; λ, 1), (traits, 2, 2)."""
    powers = np.stack([values**2, values, values, np.ones_like(values)], axis=1)
    return (weights @ powers).reshape(-1, 2, 2)
