"""Likelihood of several traits with covariance C₀ ⊗ GG' + C₁ ⊗ I, after one rotation.

In the basis of the eigenvectors of GG' subject i has covariance K_i = λ_i C₀ + C₁ over p traits.
With C₀ = L₀L₀', C₁ = L₁L₁' and the singular value decomposition L₁⁻¹L₀ = V diag(√d) …, the matrix
W = V'L₁⁻¹ makes all of them diagonal at once,

    W K_i W' = diag(1 + λ_i d_j) = diag(1/δ_ij),

so that one evaluation costs O(m p²) and not a Cholesky factor per subject. Directions outside the
span of G have λ = 0; there are n - r of them, and they enter through a basis of what G leaves of
(X, Y): m = r + c + p rows hold everything the likelihood needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_solve, cholesky, eigh, qr, solve_triangular, svd

Array = np.ndarray

# Squared singular values of G, relative to the largest, below which a direction is none of G's.
EIGEN_TOLERANCE = 1e-12
# Part of the squared norm of a candidate that X must leave for its effect to be estimable.
ESTIMABLE = 1e-9


class Basis(NamedTuple):
    """Rotation that holds all of G, X and Y.

    Attributes
    ----------
    T : (n, m) array
        Orthonormal columns: eigenvectors of GG', then a basis of what they leave of (X, Y).
    values : (m,) array
        Eigenvalues λ of GG', zero for the columns that come last.
    """

    T: Array
    values: Array


def rotation_basis(G: Array, rest: Array) -> Basis:
    """Eigenvectors of GG' without forming it, and a basis of what they leave of `rest`.

    Parameters
    ----------
    G : (n, r) array
        Root of the covariance between subjects.
    rest : (n, k) array
        Columns, of comparable scale, that the basis must hold as well.

    Returns
    -------
    Basis
        At most r + k columns.
    """
    if G.shape[1] < G.shape[0]:
        vectors, roots, _ = svd(G, full_matrices=False)
        found = roots**2
    else:  # as many columns as subjects, or more: GG' is the smaller problem
        found, vectors = eigh(G @ G.T)
    kept = found > EIGEN_TOLERANCE * max(float(found.max(initial=0.0)), 1e-300)
    U = vectors[:, kept]
    left = rest - U @ (U.T @ rest)
    left -= U @ (U.T @ left)  # once more: the first pass leaves rounding errors of the size of rest
    more, sizes, _ = svd(left, full_matrices=False)
    more = more[:, sizes > 1e-12 * np.linalg.norm(rest)]
    values = np.concatenate([found[kept], np.zeros(more.shape[1])])
    return Basis(np.hstack([U, more]), values)


@dataclass(frozen=True, eq=False)
class RotatedTraits:
    """Traits and designs in the basis of `rotation_basis`.

    Attributes
    ----------
    values : (m,) array
        Eigenvalues λ of GG'.
    Y : (m, p) array
        Traits.
    X : (m, c) array
        Covariates.
    A : (p, a) array
        Trait design.
    n_subjects : int
        Number of subjects n, of which n - m directions hold nothing of X and Y.
    reml : bool
        Restricted or full likelihood.
    """

    values: Array
    Y: Array
    X: Array
    A: Array
    n_subjects: int
    reml: bool

    @property
    def n_coefficients(self) -> int:
        """Number of fixed effects, a·c."""
        return self.A.shape[1] * self.X.shape[1]

    @property
    def df(self) -> int:
        """Observations n·p, for REML without the fixed effects."""
        return self.Y.size + self.unseen * self.Y.shape[1] - self.reml * self.n_coefficients

    @property
    def unseen(self) -> int:
        """Directions n - m that hold nothing of X and Y."""
        return self.n_subjects - len(self.values)

    def evaluate(self, L0: Array, L1: Array) -> Evaluation:
        """Generalised least squares and the log-likelihood at C₀ = L₀L₀', C₁ = L₁L₁'.

        Parameters
        ----------
        L0 : (p, k) array
            Root of C₀; k may be zero.
        L1 : (p, p) array
            Lower triangular root of C₁ with a positive diagonal.

        Returns
        -------
        Evaluation
            Everything that follows from the two matrices.
        """
        p = self.Y.shape[1]
        inverse = solve_triangular(L1, np.eye(p), lower=True)
        V, roots, _ = svd(inverse @ L0) if L0.shape[1] else (np.eye(p), np.zeros(0), None)
        d = np.zeros(p)
        d[: len(roots)] = roots**2
        W = V.T @ inverse
        delta = 1.0 / (1.0 + np.outer(self.values, d))
        # WA = QR; for as many effects as traits Q = I, which keeps traits apart however small C₁ is
        WA = W @ self.A
        Q, R = (np.eye(p), WA) if WA.shape[0] == WA.shape[1] else qr(WA, mode="economic")
        # (R ⊗ I)⁻ᵀ M'K⁻¹M (R ⊗ I)⁻¹ = Σ_j q_j q_j' ⊗ X' diag(δ_j) X = FF', in the order of vec(B)
        grams = _weighted_products(self.X, delta, self.X)
        size = self.n_coefficients
        factor = cholesky(np.einsum("ja,jb,jce->acbe", Q, Q, grams).reshape(size, size), lower=True)
        WY = self.Y @ W.T
        right = (Q.T @ (delta * WY).T @ self.X).ravel()  # vec of (c, a), columns stacked
        effects = cho_solve((factor, True), right).reshape(Q.shape[1], -1).T
        residual = WY - self.X @ effects @ Q.T
        log_det = 2 * self.n_subjects * float(np.log(np.diag(L1)).sum())
        log_det -= float(np.log(delta).sum())
        return Evaluation(
            self, L0, L1, W, delta, Q, R, factor, effects, delta * residual, residual, log_det
        )


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The model at one pair of covariances.

    Attributes
    ----------
    traits : RotatedTraits
        The data.
    L0, L1 : (p, k), (p, p) arrays
        Roots of C₀ and C₁.
    W : (p, p) array
        Makes C₀ and C₁ diagonal: W C₁ W' = I, W C₀ W' = diag(d).
    delta : (m, p) array
        1/(1 + λ_i d_j).
    AQ, AR : (p, a), (a, a) arrays
        W A = AQ AR, with columns of AQ orthonormal.
    factor : (a·c, a·c) array
        Lower Cholesky factor F of M'K⁻¹M for the coefficients `effects`.
    effects : (c, a) array
        Fixed effects of AQ ⊗ X, B AR'.
    U : (m, p) array
        δ ∘ residual, the residual times K⁻¹ before W' is applied.
    residual : (m, p) array
        (Y - X B A') W'.
    log_det : float
        Log |K|.
    """

    traits: RotatedTraits
    L0: Array
    L1: Array
    W: Array
    delta: Array
    AQ: Array
    AR: Array
    factor: Array
    effects: Array
    U: Array
    residual: Array
    log_det: float

    @property
    def B(self) -> Array:
        """Fixed effects of A ⊗ X, (c, a)."""
        return np.linalg.solve(self.AR, self.effects.T).T

    @property
    def Q(self) -> float:
        """Generalised residual sum of squares r'K⁻¹r."""
        return float(np.vdot(self.U, self.residual))

    @property
    def log_det_H(self) -> float:
        """log |M'K⁻¹M|."""
        found = np.log(np.diag(self.factor)).sum()
        return 2.0 * float(found + self.traits.X.shape[1] * np.linalg.slogdet(self.AR)[1])

    @cached_property
    def loglik(self) -> float:
        """Log-likelihood with all constants; REML integrates B out with a flat prior."""
        constant = self.traits.df * np.log(2 * np.pi) + self.log_det + self.Q
        return -0.5 * float(constant + (self.log_det_H if self.traits.reml else 0.0))

    @cached_property
    def root(self) -> Array:
        """(AR⁻¹ ⊗ I) F⁻ᵀ, a root of the covariance of vec(B), (a·c, a·c)."""
        c, size = self.traits.X.shape[1], len(self.factor)
        half = self._factor_inverse().T.reshape(-1, c * size)
        return np.linalg.solve(self.AR, half).reshape(size, size)

    @property
    def H_inverse(self) -> Array:
        """Covariance of vec(B), (M'K⁻¹M)⁻¹, (a·c, a·c)."""
        return self.root @ self.root.T

    def _factor_inverse(self) -> Array:
        return np.asarray(solve_triangular(self.factor, np.eye(len(self.factor)), lower=True))

    @cached_property
    def gradients(self) -> tuple[Array, Array]:
        """Derivatives of the log-likelihood in the symmetric matrices C₀ and C₁, each (p, p).

        dl/dC = ½ W' {Σ_i w_i [u_iu_i' - diag(δ_i) + t_iH⁻¹t_i']} W with w_i = λ_i for C₀ and 1 for
        C₁; t_i = (δ_i ∘ WA) ⊗ x_i', H = M'K⁻¹M, and their term for REML only.
        """
        traits = self.traits
        leverage = self._leverage() if traits.reml else np.zeros((*self.delta.shape, 0))
        found = []
        for weights, unseen in ((traits.values, 0), (np.ones_like(traits.values), traits.unseen)):
            weighted = weights[:, None] * self.U
            inner = self.U.T @ weighted - np.diag(weights @ self.delta + unseen)
            inner += np.tensordot(leverage * weights[:, None, None], leverage, ([0, 2], [0, 2]))
            found.append(0.5 * self.W.T @ inner @ self.W)
        return found[0], found[1]

    def _leverage(self) -> Array:
        """t_i times a root of H⁻¹, (m, p, a·c)."""
        m, p = self.delta.shape
        c, size = self.traits.X.shape[1], len(self.factor)
        # rows of (AQ ⊗ I) F⁻ᵀ, covariate first
        root = self._factor_inverse().T.reshape(-1, c, size)
        rows = np.einsum("ja,acs->cjs", self.AQ, root).reshape(c, p * size)
        return (self.traits.X @ rows).reshape(m, p, size) * self.delta[:, :, None]


def _weighted_products(left: Array, weights: Array, right: Array) -> Array:
    """Products left' diag(w_j) right for every column w_j of `weights`, (p, columns, columns)."""
    m, p = weights.shape
    weighted = (weights[:, :, None] * right[:, None, :]).reshape(m, -1)
    return (left.T @ weighted).reshape(left.shape[1], p, -1).swapaxes(0, 1)


# ---- candidates ------------------------------------------------------------------------------


class Products(NamedTuple):
    """Products of N candidates, of k columns each, with the model; they serve every trait design.

    Attributes
    ----------
    xu : (N, k, p) array
        x'U.
    xx : (N, p, k, k) array
        x' diag(δ_j) x.
    xX : (N, k, p, c) array
        x' diag(δ_j) X.
    """

    xu: Array
    xx: Array
    xX: Array


class Tests(NamedTuple):
    """Effects of N candidates with s = k·a₁ coefficients each, ordered as vec of (k, a₁).

    Attributes
    ----------
    coef : (N, s) array
        Effects; NaN where not estimable.
    cov : (N, s, s) array
        D⁻¹, their covariance for a background covariance taken as it is.
    reduction : (N,) array
        By how much r'K⁻¹r falls.
    estimable : (N,) bool array
        Whether X and the columns leave anything of the candidate.
    pull : (N, s, a·c) array
        M₁'K⁻¹M times a root of (M'K⁻¹M)⁻¹, from which the other fixed effects follow.
    """

    coef: Array
    cov: Array
    reduction: Array
    estimable: Array
    pull: Array


def candidate_products(state: Evaluation, T: Array, columns: Array, size: int) -> Products:
    """Rotate candidates and multiply them with everything that the model shares.

    Parameters
    ----------
    state : Evaluation
        The model without candidates.
    T : (n, m) array
        The basis of the model.
    columns : (n, N·size) array
        Candidates; every `size` columns in a row make one.
    size : int
        Columns k per candidate.

    Returns
    -------
    Products
        One entry per candidate.
    """
    N, (m, p) = columns.shape[1] // size, state.delta.shape
    X = state.traits.X
    x = T.T @ columns
    xu = (x.T @ state.U).reshape(N, size, p)
    weighted = (state.delta[:, :, None] * X[:, None, :]).reshape(m, -1)
    xX = (x.T @ weighted).reshape(N, size, p, X.shape[1])
    xx = np.empty((N, p, size, size))
    for s in range(size):
        for t in range(s + 1):
            left, right = x[:, s::size], x[:, t::size]
            inside = left * right
            # what the basis does not hold has λ = 0, so δ = 1
            whole = np.einsum("in,in->n", columns[:, s::size], columns[:, t::size])
            rest = whole - inside.sum(0)
            if s == t:
                rest = np.where(rest > 1e-13 * whole, rest, 0.0)
            xx[:, :, s, t] = xx[:, :, t, s] = inside.T @ state.delta + rest[:, None]
    return Products(xu, xx, xX)


def candidate_tests(state: Evaluation, products: Products, A1: Array) -> Tests:
    """Add M₁ = A₁ ⊗ x to the fixed effects, candidate by candidate.

    Parameters
    ----------
    state : Evaluation
        The model without candidates.
    products : Products
        Of `candidate_products`.
    A1 : (p, a₁) array
        Trait design of the candidates.

    Returns
    -------
    Tests
        One entry per candidate.
    """
    W1 = state.W @ A1
    N, size = products.xu.shape[:2]
    s, ac = W1.shape[1] * size, len(state.factor)
    score = np.einsum("nkp,pa->nak", products.xu, W1, optimize=True).reshape(N, s)
    inner = np.einsum("npkl,pa,pb->nakbl", products.xx, W1, W1, optimize=True).reshape(N, s, s)
    paired = np.einsum("pa,pb->pab", W1, state.AQ)
    pull = np.einsum("nkpc,pab->nakbc", products.xX, paired, optimize=True).reshape(N, s, ac)
    # D = M₁'K⁻¹M₁ - M₁'K⁻¹M H⁻¹ M'K⁻¹M₁, scaled to a unit diagonal of its first term
    half = solve_triangular(state.factor, pull.reshape(-1, ac).T, lower=True).T.reshape(N, s, ac)
    scale = np.sqrt(np.maximum(np.einsum("nss->ns", inner), 1e-300))
    pairs = scale[:, :, None] * scale[:, None, :]
    D = (inner - half @ half.swapaxes(1, 2)) / pairs
    usable = np.isfinite(D).all((1, 2)) & (np.einsum("nss->ns", inner) > 0).all(1)
    D = np.where(usable[:, None, None], D, 0.0)
    estimable = np.linalg.eigvalsh(D)[:, 0] > ESTIMABLE
    D = np.where(estimable[:, None, None], D, np.nan)
    cov = np.linalg.inv(np.where(estimable[:, None, None], D, np.eye(s))) / pairs
    cov = np.where(estimable[:, None, None], cov, np.nan)
    coef = np.einsum("nst,nt->ns", cov, score)
    return Tests(coef, cov, np.einsum("ns,ns->n", coef, score), estimable, half)


class Covariates(NamedTuple):
    """Fixed effects of the model beside a candidate.

    Attributes
    ----------
    coef : (N, a·c) array
        In the order of vec(B).
    variance : (N, a·c) array
        Diagonal of their covariance for a background covariance taken as it is.
    """

    coef: Array
    variance: Array


def covariates_beside(state: Evaluation, tests: Tests, basis: Array) -> Covariates:
    """Re-estimate the fixed effects of the model beside every candidate.

    Parameters
    ----------
    state : Evaluation
        The model without candidates.
    tests : Tests
        Of `candidate_tests`.
    basis : (coefficients, a·c) array
        Turns vec(B) of the model into the coefficients that are wanted.

    Returns
    -------
    Covariates
        vec(B) and its variances, in the coefficients of `basis`.
    """
    # β = β₀ - H⁻¹M'K⁻¹M₁ β₁,  Var β = H⁻¹ + H⁻¹M'K⁻¹M₁ D⁻¹ M₁'K⁻¹M H⁻¹
    root = basis @ state.root
    moved = tests.pull @ root.T
    coef = basis @ state.B.T.ravel() - np.einsum("nsa,ns->na", moved, tests.coef)
    variance = (root**2).sum(1)
    return Covariates(coef, variance + np.einsum("nsa,nst,nta->na", moved, tests.cov, moved))
