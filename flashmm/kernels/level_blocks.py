"""Two effects of each level of one factor: the levels are independent given the fixed effects.

Z_s, the two columns of level s, are Z_s = Q_sR_s with R_s upper triangular and Q_s orthonormal, so
that V is known by one 2 × 2 matrix per level (and gene), and what is outside all spans of Q_s:

    H_s = I + R_sΓR_s',   W⁻¹ = (I - ΣQ_sQ_s') + ΣQ_sH_s⁻¹Q_s',   log |W| = Σ log |H_s|

The columns of X are turned to an orthonormal basis in which what the levels leave of them is
diagonal, X̃'(I - ΣQ_sQ_s')X̃ = diag(w). With B_s = Q_s'X̃, t_s = Q_s'r and r the residuals of
ordinary least squares (X̃'r = 0), every sum is one of positive terms:

    C = X̃'W⁻¹X̃ = diag(w) + ΣB_s'H_s⁻¹B_s,   N = C⁻¹,
    β = N X̃'W⁻¹r,   Q = e + Σ_i w_i(β_i - x_i/w_i)² + Σζ_s'H_s⁻¹ζ_s,   ζ_s = t_s - B_sβ,

where x = -ΣB_s't_s is what the levels leave of X̃'r. With K_s = H_s⁻¹R_s, E_s = R_s'K_s =
Z_s'W⁻¹Z_s, U_s = K_s'B_s = Z_s'W⁻¹X̃, F_s = U_sNU_s' and the symmetric part S_kl of D_kE_sD_l,

    tr P_W V_k = Σ tr (E_s - F_s)D_k,    G_k = ΣU_s'D_kU_s,    G_kl = ΣU_s'S_klU_s,
    tr P_W V_k P_W V_l = Σ tr (E_s - 2F_s)S_kl + tr N G_k N G_l.

A symmetric 2 × 2 matrix of every gene and level is an array (genes, 3, levels): its elements 11, 12
and 22. Matrices D_k have a one at 11, at 22, and at 12 and 21.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from flashmm.kernels.rotation import EIGEN_TOLERANCE
from flashmm.kernels.search import Moments, invert

Array = np.ndarray

# Size of a determinant, relative to the product on its diagonal, below which it is rounding.
ROUNDING = 1e-15
# Pairs of components k ≤ l, in the order of their matrices.
COUPLES = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
# Position of the couple of each k and l.
COUPLE = np.array([[0, 1, 2], [1, 3, 4], [2, 4, 5]])


class LevelGenes(NamedTuple):
    """Genes seen from the levels.

    Attributes
    ----------
    xy : (genes, p) array
        R⁻ᵀX'y.
    t : (genes, 2, levels) array
        Q_s'r.
    left : (genes, p) array
        x_i / w_i, what the levels leave of r on the columns of X̃; zero where w_i is.
    e : (genes,) array
        Residual sum of squares outside the spans of X and Z, not below zero.
    rss : (genes,) array
        Residual sum of squares outside the span of X.
    """

    xy: Array
    t: Array
    left: Array
    e: Array
    rss: Array


class System(NamedTuple):
    """The covariance at one γ per gene.

    Attributes
    ----------
    H : (genes, 3, levels) array
        H_s⁻¹.
    log_det : (genes,) array
        log |W|.
    negative : (genes,) int array
        Number of negative eigenvalues of W.
    C, N : (genes, p, p) arrays
        X̃'W⁻¹X̃ and its inverse.
    """

    H: Array
    log_det: Array
    negative: Array
    C: Array
    N: Array


@dataclass(frozen=True, eq=False)
class LevelBlocks:
    """A design whose random effects are two for each level of a factor.

    Attributes
    ----------
    root : (3, levels) array
        Elements 11, 12 and 22 of R_s; zero where a column adds nothing to the span.
    inverse : (3, levels) array
        The same of R_s⁻¹, rows of R_s that are zero left out.
    turn : (p, p) array
        X̃ from the orthonormal basis R⁻ᵀX' of the columns of X.
    w : (p,) array
        What the levels leave of the columns of X̃; zero for those in the span of Z.
    B : (2, levels, p) array
        B_s.
    """

    root: Array
    inverse: Array
    turn: Array
    w: Array
    B: Array

    @classmethod
    def build(cls, ZtZ: Array, A: Array) -> LevelBlocks:
        """Factor the levels.

        Parameters
        ----------
        ZtZ : (3, levels) array
            Elements 11, 12 and 22 of Z_s'Z_s.
        A : (p, 2, levels) array
            R⁻ᵀX'Z_s.
        """
        root, inverse = _factor(ZtZ)
        B = _in_span(inverse, A)
        flat = B.reshape(len(A), -1)
        values, turn = np.linalg.eigh(np.eye(len(A)) - flat @ flat.T)
        w = np.where(values > EIGEN_TOLERANCE, values, 0.0)
        turned = np.einsum("pal,pr->alr", B, turn)
        return cls(root, inverse, turn, w, np.ascontiguousarray(turned))

    @property
    def rank(self) -> int:
        """Dimension of the span of Z outside the span of X."""
        return int((self.root[[0, 2]] > 0).sum() - (self.w == 0).sum())

    @property
    def flat(self) -> Array:
        """B_s of all levels, (2 levels, p)."""
        return self.B.reshape(-1, self.B.shape[2])

    def genes(self, xy: Array, zr: Array, rss: Array) -> LevelGenes:
        """Genes from R⁻ᵀX'y (genes, p), Z_s'r (genes, 2, levels) and r'r."""
        t = _in_span(self.inverse, zr)
        x = -self.along(t)
        left = np.divide(x, self.w, out=np.zeros_like(x), where=self.w > 0)
        e = rss - _total(t**2) - (self.w * left**2).sum(1)
        return LevelGenes(xy, t, left, np.maximum(e, 0.0), rss)

    def along(self, vectors: Array) -> Array:
        """ΣB_s'a_s of vectors (genes, ..., 2, levels), (genes, ..., p)."""
        rows = vectors.reshape(*vectors.shape[:-2], -1)
        if rows.ndim == 2:
            return np.asarray((rows[:, None] @ self.flat)[:, 0])
        return np.asarray(rows @ self.flat)

    def crossed(self, S: Array) -> Array:
        """ΣB_s'S_sB_s of symmetric matrices (genes, matrices, 3, levels), (.., .., p, p)."""
        products, (i, j) = self._products
        upper = S.reshape(*S.shape[:2], -1) @ products
        whole = np.empty((*S.shape[:2], *2 * [self.B.shape[2]]))
        whole[..., i, j] = whole[..., j, i] = upper
        return whole

    def across(self, N: Array) -> Array:
        """B_sNB_s' of symmetric matrices (genes, p, p), (genes, 3, levels)."""
        products, (i, j) = self._products
        upper = np.where(i == j, 1.0, 2.0) * np.take(
            N.reshape(len(N), -1), i * len(N[0]) + j, axis=1
        )
        found = (upper[:, None] @ products.T).reshape(len(N), 3, -1)
        # the products of two columns stand for both of their orders
        found[:, 1] /= 2
        return np.asarray(found)

    @cached_property
    def _products(self) -> tuple[Array, tuple[Array, Array]]:
        """Elements 11, 12 + 21 and 22 of B_s ⊗ B_s, (3 levels, pairs), pairs i ≤ j of columns."""
        i, j = np.triu_indices(self.B.shape[2])
        one, two = self.B
        both = one[:, i] * two[:, j] + two[:, i] * one[:, j]
        return np.concatenate([one[:, i] * one[:, j], both, two[:, i] * two[:, j]]), (i, j)

    # ---- at one γ per gene -----------------------------------------------------------------------

    def system(self, gamma: Array) -> System:
        """The covariance at γ (genes, 3): of the first effect, the second, and of both."""
        H, log_det, negative = self.covariances(gamma)
        C = self.crossed(H[:, None])[:, 0]
        np.einsum("gpp->gp", C)[...] += self.w
        return System(H, log_det, negative, C, invert(C))

    def covariances(self, gamma: Array) -> tuple[Array, Array, Array]:
        """H_s⁻¹ (genes, 3, levels), log |W|, and the number of its negative eigenvalues."""
        a, b, c = self.root
        first, second, both = gamma.T[:, :, None]
        # H = I + RΓR'
        left, right = a * first + b * both, a * both + b * second
        h11, h12, h22 = 1.0 + a * left + b * right, c * right, 1.0 + c**2 * second
        # |H| = 1 + tr RΓR' + |R|²|Γ|, where |Γ| may be nothing but rounding
        whole = first * second
        size = whole - both**2
        size = np.where(np.abs(size) > ROUNDING * np.abs(whole), size, 0.0)
        det = h11 + (h22 - 1.0) + (a * c) ** 2 * size
        negative = ((det < 0) + 2 * ((det > 0) & (h11 < 0))).sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            H = np.stack([h22, -h12, h11], axis=1) / det[:, None]
            return H, np.log(np.abs(det)).sum(1), negative

    def log_det(self, system: System, reml: bool) -> Array:
        """log |W|, for REML that of W on the complement of X; infinite outside the domain."""
        fine, log_det = system.negative == 0, system.log_det
        if reml:
            log_det = log_det + np.linalg.slogdet(system.C)[1]
            doubtful = np.flatnonzero(~fine)
            # the inertia of W is that of X'W⁻¹X and that on the complement of X
            values = np.linalg.eigvalsh(system.C[doubtful])
            fine[doubtful] = (values < 0).sum(1) == system.negative[doubtful]
        return np.where(fine, log_det, np.inf)

    def weighted(self, H: Array) -> Array:
        """H_s⁻¹B_s of all levels, (genes, 2 levels, p)."""
        one, two = self.B
        h11, h12, h22 = np.moveaxis(H[..., None], 1, 0)
        return np.concatenate([h11 * one + h12 * two, h12 * one + h22 * two], axis=1)

    def fixed(self, system: System, genes: LevelGenes) -> Array:
        """β, (genes, p)."""
        b = self.w * genes.left + self.along(_times(system.H, genes.t))
        return np.asarray((b[:, None] @ system.N)[:, 0])

    def residuals(self, beta: Array, genes: LevelGenes) -> Array:
        """ζ_s, (genes, 2, levels)."""
        return genes.t - (beta[:, None] @ self.flat.T).reshape(genes.t.shape)

    def least_squares(self, system: System, genes: LevelGenes) -> tuple[Array, Array]:
        """Q, and H_s⁻¹ζ_s (genes, 2, levels)."""
        beta = self.fixed(system, genes)
        zeta = self.residuals(beta, genes)
        inner = _times(system.H, zeta)
        within = (self.w * (beta - genes.left) ** 2).sum(1)
        return genes.e + within + _total(zeta * inner), inner

    def moments(self, gamma: Array, genes: LevelGenes, reml: bool) -> Moments:
        """What the likelihood and its derivatives are made of."""
        system = self.system(gamma)
        K, E = self._inner(system.H)
        Q, inner = self.least_squares(system, genes)
        # u_s = Z_s'P_W y = R_s'H_s⁻¹ζ_s
        a, b, c = self.root
        u = np.stack([a * inner[:, 0], b * inner[:, 0] + c * inner[:, 1]], axis=1)
        uu = squares(u)
        G = self.crossed(_outer(K))
        across = self.along(_applied(K, u))
        qq = _couples_with(E, uu) - across @ system.N @ across.swapaxes(1, 2)
        q = _of_components(uu)
        if not reml:
            return Moments(Q, q, qq, system.log_det, _of_components(E), _couples_with(E, E))
        F, NG = _around(K, self.across(system.N)), system.N[:, None] @ G
        GG = _rows(NG) @ _rows(NG.swapaxes(2, 3)).swapaxes(1, 2)
        log_det = system.log_det + np.linalg.slogdet(system.C)[1]
        products = _couples_with(E, E - 2.0 * F) + GG
        return Moments(Q, q, qq, log_det, _of_components(E - F), products)

    def _inner(self, H: Array) -> tuple[Array, Array]:
        """K_s (genes, 2, 2, levels) and E_s (genes, 3, levels) from H_s⁻¹."""
        a, b, c = self.root
        K = np.empty((len(H), 2, 2, H.shape[2]))
        K[:, 0, 0], K[:, 1, 0] = H[:, 0] * a, H[:, 1] * a
        K[:, 0, 1], K[:, 1, 1] = H[:, 0] * b + H[:, 1] * c, H[:, 1] * b + H[:, 2] * c
        return K, np.stack([a * K[:, 0, 0], a * K[:, 0, 1], b * K[:, 0, 1] + c * K[:, 1, 1]], 1)

    def contrast_forms(self, system: System, left: Array, right: Array) -> tuple[Array, ...]:
        """a'Φb, g_a'D_k g_b and g_a'D_kZ'P_WZD_l g_b with g = Z'W⁻¹XΦa, for σ² = 1.

        Parameters
        ----------
        system : System
            The covariance.
        left, right : (p, C) arrays
            Contrasts a and b in the orthonormal basis of X.

        Returns
        -------
        (genes, C), (genes, C, 3) and (genes, C, 3, 3) arrays
            The last one symmetric in k and l.
        """
        K, E = self._inner(system.H)
        G, GG = self.crossed(_outer(K)), self.crossed(_around(K.swapaxes(1, 2), _couples(E)))
        a = self.turn.T @ left
        b = a if right is left else self.turn.T @ right
        Na, Nb = system.N @ a, system.N @ b
        Gb = G @ Nb[:, None]
        Ga = Gb if right is left else G @ Na[:, None]
        first = (Na[:, None] * Gb).sum(2)
        second = (Na[:, None] * (GG @ Nb[:, None])).sum(2)[:, COUPLE]
        after = (Ga[:, :, None] * (system.N[:, None] @ Gb)[:, None]).sum(3)
        second = second - (after + after.swapaxes(1, 2)) / 2
        return (a * Nb).sum(1), first.swapaxes(1, 2), np.moveaxis(second, 3, 1)


def _factor(ZtZ: Array) -> tuple[Array, Array]:
    """R_s with R_s'R_s = Z_s'Z_s and its inverse; what is small beside a column is rounding."""
    first, both, second = ZtZ
    a = np.sqrt(np.maximum(first, 0.0))
    over_a = np.divide(1.0, a, out=np.zeros_like(a), where=a > 0)
    b = both * over_a
    left = second - b**2
    c = np.sqrt(np.where(left > EIGEN_TOLERANCE * second, left, 0.0))
    over_c = np.divide(1.0, c, out=np.zeros_like(c), where=c > 0)
    return np.stack([a, b, c]), np.stack([over_a, -b * over_a * over_c, over_c])


def _in_span(inverse: Array, products: Array) -> Array:
    """Q_s'v = R_s⁻ᵀZ_s'v of products Z_s'v (..., 2, levels)."""
    one, two = products[..., 0, :], products[..., 1, :]
    return np.stack([inverse[0] * one, inverse[1] * one + inverse[2] * two], axis=-2)


def _times(H: Array, vectors: Array) -> Array:
    """Symmetric matrices (genes, 3, levels) times vectors (genes, 2, levels)."""
    one, two = vectors[:, 0], vectors[:, 1]
    return np.stack([H[:, 0] * one + H[:, 1] * two, H[:, 1] * one + H[:, 2] * two], axis=1)


def squares(vectors: Array, twice: float = 1.0) -> Array:
    """aa' of vectors (genes, 2, levels), (genes, 3, levels); element 12 so many times."""
    one, two = vectors[:, 0], vectors[:, 1]
    return np.stack([one**2, twice * one * two, two**2], axis=1)


def _of_components(M: Array) -> Array:
    """Σ tr M_sD_k of symmetric matrices, (genes, 3)."""
    sums = M.sum(2)
    return np.stack([sums[:, 0], sums[:, 2], 2.0 * sums[:, 1]], axis=1)


def _couples(E: Array) -> Array:
    """S_kl of the couples of components, (genes, 6, 3, levels)."""
    S = np.zeros((len(E), len(COUPLES), 3, E.shape[2]))
    e11, e12, e22 = E[:, 0], E[:, 1], E[:, 2]
    S[:, 0, 0] = e11
    S[:, 1, 1] = e12 / 2
    S[:, 2, 0], S[:, 2, 1] = e12, e11 / 2
    S[:, 3, 2] = e22
    S[:, 4, 1], S[:, 4, 2] = e22 / 2, e12
    S[:, 5, 0], S[:, 5, 1], S[:, 5, 2] = e22, e12, e11
    return S


def _couples_with(E: Array, M: Array) -> Array:
    """Σ tr S_klM_s of symmetric matrices (genes, 3, levels), (genes, 3, 3)."""
    T = np.moveaxis(E @ M.swapaxes(1, 2), 0, -1)
    found = [
        T[0, 0],
        T[1, 1],
        T[1, 0] + T[0, 1],
        T[2, 2],
        T[2, 1] + T[1, 2],
        T[2, 0] + 2.0 * T[1, 1] + T[0, 2],
    ]
    return np.take(np.stack(found, axis=1), COUPLE, axis=1)


def _outer(K: Array) -> Array:
    """K_sD_kK_s' of the components, (genes, 3, 3, levels)."""
    one, two = K[:, :, 0], K[:, :, 1]
    found = np.empty((len(K), 3, 3, K.shape[3]))
    for k, column in enumerate((one, two)):
        found[:, k, 0], found[:, k, 2] = column[:, 0] ** 2, column[:, 1] ** 2
        found[:, k, 1] = column[:, 0] * column[:, 1]
    found[:, 2, 0], found[:, 2, 2] = 2 * one[:, 0] * two[:, 0], 2 * one[:, 1] * two[:, 1]
    found[:, 2, 1] = one[:, 0] * two[:, 1] + one[:, 1] * two[:, 0]
    return found


def _around(K: Array, S: Array) -> Array:
    """K_s'S_sK_s of symmetric matrices (genes, ..., 3, levels)."""
    for _ in range(S.ndim - 3):
        K = K[:, None]
    (k11, k12), (k21, k22) = np.moveaxis(K, (-3, -2), (0, 1))
    s11, s12, s22 = np.moveaxis(S, -2, 0)
    first, second = s11 * k11 + s12 * k21, s12 * k11 + s22 * k21
    last = k12 * (s11 * k12 + s12 * k22) + k22 * (s12 * k12 + s22 * k22)
    return np.stack([k11 * first + k21 * second, k12 * first + k22 * second, last], axis=-2)


def _applied(K: Array, u: Array) -> Array:
    """K_sD_ku_s of vectors (genes, 2, levels), (genes, 3, 2, levels)."""
    first, second = u[:, None, 0], u[:, None, 1]
    one, two = K[:, :, 0], K[:, :, 1]
    return np.stack([one * first, two * second, one * second + two * first], axis=1)


def _total(vectors: Array) -> Array:
    """Sum over effects and levels, (genes,), in one order for any number of genes."""
    return np.asarray(vectors.reshape(len(vectors), -1).sum(1))


def _rows(M: Array) -> Array:
    """Matrices (genes, matrices, p, p) as rows (genes, matrices, p²)."""
    return M.reshape(*M.shape[:2], -1)
