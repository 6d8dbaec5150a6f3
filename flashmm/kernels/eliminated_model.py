"""The whole model at one γ per gene: what is eliminated in closed form, the rest beside X.

What is eliminated (`flashmm.kernels.structure`), Z_1 and Z_2, gives W_1, whose products with any
columns are sums over groups (`flashmm.kernels.eliminated_groups`, `flashmm.kernels.closed_form`).

**The rest**, components Z_r with γ_r, joins X: X̃ = [X, Z_r]. With C = X̃'W_1⁻¹X̃,
T = diag(1 … 1, γ_r) and J = diag(0 … 0, 1 … 1), the inverse of a matrix of p + q_r columns gives
the whole model, W = W_1 + Z_r diag(γ_r) Z_r' (Henderson's equations, not divided by γ_r):

    F' = (TC + J)⁻¹,   N = F'T,   P_W = W_1⁻¹ - W_1⁻¹X̃ N X̃'W_1⁻¹
    log |W| + log |X'W⁻¹X| = log |W_1| + log |TC + J|;  log |W| has its block of the rest only
    f = F X̃'W_1⁻¹y,  v = Tf:  β̂ = v_X,  Z_r'P_W y = f_r,  Z_k'P_W y = Z_k'W_1⁻¹(y - X̃v)
    Z_k'P_W Z_l = D_kl - U_k N U_l'   Z_k'P_W Z_r = U_k F'_·r   Z_r'P_W Z_r = (C F')_rr.

Nothing is as long as the eliminated components but sums over groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np

from flashmm.kernels.closed_form import ClosedForm, Effects, closed_form
from flashmm.kernels.eliminated_groups import Grouped, Groups, Weights, total
from flashmm.kernels.engine import each
from flashmm.kernels.search import invert
from flashmm.kernels.structure import Elimination

Array = np.ndarray


class System(NamedTuple):
    """The model at one γ per gene; genes first, but for `weights`.

    Attributes
    ----------
    weights : Weights
        W_1.
    s : (genes, outer levels, c) array
        s_i.
    C : (genes, c, c) array
        X̃'W_1⁻¹X̃.
    t : (genes, c) array
        Diagonal of T.
    inverse : (genes, c, c) array
        F' = (TC + J)⁻¹.
    log_det : (genes,) array
        Log-determinant of the objective, infinite outside its domain.
    closed : ClosedForm
        Sums over what is eliminated.
    """

    weights: Weights
    s: Array
    C: Array
    t: Array
    inverse: Array
    log_det: Array
    closed: ClosedForm


class Solution(NamedTuple):
    """Generalised least squares of every gene: Q, v and u."""

    Q: Array
    v: Array
    effects: Effects


class Side(NamedTuple):
    """One side g of bilinear forms g_k'Z_k'P_W Z_l g_l, for some columns of every gene.

    Attributes
    ----------
    images : list of (genes, c, columns) arrays
        X̃'W_1⁻¹Z_k g_k of each component that is eliminated.
    rest : (genes, q_r, columns) array
        g_r of the others.
    """

    images: list[Array]
    rest: Array


@dataclass(frozen=True, eq=False)
class EliminatedModel:
    """A design with components that are eliminated, and the algebra at one γ per gene.

    Attributes
    ----------
    elimination : Elimination
        What is eliminated.
    groups : Groups
        The design in groups.
    basis : (p, p) array
        Columns of X at length one, what earlier ones leave of them where that is little, in the
        orthonormal basis of X.
    members : (q_r, rest) array
        One where a column of the rest belongs to a component, else zero.
    reml : bool
        Whether the restricted likelihood is meant.
    """

    elimination: Elimination
    groups: Groups
    basis: Array
    members: Array
    reml: bool

    @property
    def order(self) -> list[int]:
        """Components as the algebra has them: outer (if any), inner ones, rest."""
        found = self.elimination
        return [*([] if found.outer is None else [found.outer]), *found.inner, *found.rest]

    def weights(self, gamma: Array) -> Weights:
        """W_1 at γ (genes, K)."""
        found, outer = self.elimination, np.zeros(len(gamma))
        if found.outer is not None:
            outer = gamma[:, found.outer]
        return self.groups.weights(gamma[:, found.inner], outer)

    def _diagonal(self, gamma: Array) -> Array:
        """Diagonal of T, (genes, c)."""
        t = np.ones((len(gamma), len(self.groups.within)))
        t[:, len(self.basis) :] = gamma[:, self.elimination.rest] @ self.members.T
        return t

    def system(self, gamma: Array) -> System:
        """The model at γ (genes, K)."""
        p = len(self.basis)
        weights = self.weights(gamma)
        s, C = self.groups.cross(weights)
        t = self._diagonal(gamma)
        swept = t[:, :, None] * C
        np.einsum("gcc->gc", swept)[:, p:] += 1.0
        block = swept if self.reml else swept[:, p:, p:]
        log_det = weights.log_det + np.linalg.slogdet(block)[1]
        if self.reml:
            log_det -= 2.0 * np.log(np.diag(self.basis)).sum()
        doubtful = np.flatnonzero((gamma < 0).any(1))
        if len(doubtful):
            outside = self.negative_eigenvalues(gamma[doubtful], self.reml) != 0
            log_det[doubtful[outside]] = np.inf
        closed = closed_form(self.groups, weights, s)
        return System(weights, s, C, t, invert(swept), log_det, closed)

    def negative_eigenvalues(self, gamma: Array, reml: bool) -> Array:
        """Number of those of W, for REML of W on the complement of X, (genes,).

        By Sylvester's law they are those of W_1 and of T less those of |T|^½ C |T|^½ + sign(T) J.
        """
        p = len(self.basis)
        weights = self.weights(gamma)
        t = self._diagonal(gamma)
        root = np.sqrt(np.abs(t))
        matrix = root[:, :, None] * self.groups.cross(weights)[1] * root[:, None, :]
        np.einsum("gcc->gc", matrix)[:, p:] += np.where(t < 0, -1.0, 1.0)[:, p:]
        values = np.linalg.eigvalsh(matrix if reml else matrix[:, p:, p:])
        return weights.negative + (t < 0).sum(1) - (values < 0).sum(1)

    def solve(self, system: System, genes: Grouped) -> Solution:
        """Generalised least squares at γ."""
        groups, weights = self.groups, system.weights
        means = np.ascontiguousarray(genes.means.T)
        b = genes.xr + groups.sums(groups.inner_inner(weights, means))
        f = (b[:, None] @ system.inverse)[:, 0]
        v, of_rest = system.t * f, f[:, len(self.basis) :]
        zeta = means - groups.fitted(v)
        inner = groups.inner_inner(weights, zeta)
        # (y - X̃v)'W_1⁻¹(y - X̃v), within and between groups, and the penalty Σ v_r²/γ_r
        Q = genes.rr - 2.0 * (genes.xr * v).sum(1) + (each(v, groups.within) * v).sum(1)
        Q += total(zeta * inner)
        Q += (v[:, len(self.basis) :] * of_rest).sum(1)
        return Solution(Q, v, Effects(groups.outer_inner(weights, zeta), inner, of_rest))

    def quadratics(self, system: System, u: Effects) -> tuple[Array, Array]:
        """u_k'u_k and u_k'Z_k'P_W Z_l u_l, (genes, K) and (genes, K, K)."""
        q, D, images = system.closed.quadratics(u)
        side = Side([image[:, :, None] for image in images], u.rest[:, :, None])
        D = [[form[:, None] for form in line] for line in D]
        second = self._bilinear(system, D, side, side)[:, 0]
        return np.hstack([np.stack(q, 1), each(u.rest**2, self.members)]), second

    def _bilinear(self, system: System, D: list[list[Array]], a: Side, b: Side) -> Array:
        """a_k'Z_k'P_W Z_l b_l, (genes, columns, K, K), with a_k'D_kl b_l of what is eliminated."""
        n, K = len(D), len(D) + self.members.shape[1]
        V_b, after_b = self._both_sides(system, b)
        V_a, after_a = (V_b, after_b) if a is b else self._both_sides(system, a)
        second = np.empty((*D[0][0].shape, K, K))
        for k, m in product(range(K), range(K)):
            # on the side of the rest, if there is one, nothing cancels
            left, right = (after_a[k], V_b[m]) if k >= n > m else (V_a[k], after_b[m])
            form = (left * right).sum(1)
            second[:, :, k, m] = D[k][m] - form if k < n and m < n else form
        return second

    def _both_sides(self, system: System, x: Side) -> tuple[list[Array], list[Array]]:
        """V_l = X̃'W_1⁻¹Z_l x_l, and N V_l for what is eliminated, F'_·l x_l for the rest."""
        N, p = system.inverse * system.t[:, None], len(self.basis)
        V, after = list(x.images), [N @ image for image in x.images]
        for r in self.rest_columns:
            columns = slice(p + r.start, p + r.stop)
            V.append(system.C[:, :, columns] @ x.rest[:, r])
            after.append(system.inverse[:, :, columns] @ x.rest[:, r])
        return V, after

    @property
    def rest_columns(self) -> list[slice]:
        """Columns of each component of the rest."""
        ends = np.cumsum(self.members.sum(0)).astype(int)
        return [slice(end - int(n), end) for end, n in zip(ends, self.members.sum(0), strict=True)]

    def _without_fixed(self, system: System) -> Array:
        """F' of the model without X: P_W is W⁻¹ then, as the traces of ML want it."""
        p = len(self.basis)
        inverse = np.zeros_like(system.C)
        swept = system.t[:, p:, None] * system.C[:, p:, p:] + np.eye(len(self.members))
        inverse[:, p:, p:] = invert(swept)
        return inverse

    def traces(self, system: System) -> tuple[Array, Array]:
        """a_k = tr T_kk and aa_kl = ‖T_kl‖², T_kl = Z_k'P_W Z_l; (genes, K) and (genes, K, K)."""
        inverse = system.inverse if self.reml else self._without_fixed(system)
        N, E, p = inverse * system.t[:, None], self.members, len(self.basis)
        of_eliminated, squares = system.closed.traces(N)
        n = of_eliminated.shape[1]
        a, aa = np.empty((len(N), n + E.shape[1])), np.empty((len(N), *2 * [n + E.shape[1]]))
        a[:, :n], aa[:, :n, :n] = of_eliminated, squares
        # Z_k'P_W Z_r = U_k Ψ and Z_r'P_W Z_r = (CΨ)_rr with Ψ = F'_·r
        psi = inverse[:, :, p:]
        omega = system.C[:, p:] @ psi
        a[:, n:] = each(np.einsum("grr->gr", omega).copy(), E)
        aa[:, n:, n:] = E.T @ (omega * omega.swapaxes(1, 2)) @ E
        for k, G in enumerate(system.closed.G if E.shape[1] else ()):
            aa[:, k, n:] = aa[:, n:, k] = each((psi * (G @ psi)).sum(1), E)
        return a, aa

    def contrast_forms(
        self, system: System, left: Array, right: Array
    ) -> tuple[Array, Array, Array]:
        """a'Φb, g_k'g_k and g_k'Z_k'P_W Z_l g_l with g_k = Z_k'W⁻¹XΦa."""
        # But for its sign g_k is u_k of a response with X̃'W_1⁻¹y = a: f_r, and -U_k v.
        p, G = len(self.basis), system.closed.G
        inverse = system.inverse[:, :p].swapaxes(1, 2)
        f_b = inverse @ (self.basis.T @ right)
        f_a = f_b if left is right else inverse @ (self.basis.T @ left)
        v_a, v_b = (system.t[:, :, None] * f for f in (f_a, f_b))
        b = Side([-Gk @ v_b for Gk in G], f_b[:, p:])
        a = b if left is right else Side([-Gk @ v_a for Gk in G], f_a[:, p:])
        D = system.closed.forms(v_a, v_b)
        value = ((self.basis.T @ left) * f_b[:, :p]).sum(1)
        first = [-(v_a * image).sum(1) for image in b.images]
        first += [(a.rest[:, r] * b.rest[:, r]).sum(1) for r in self.rest_columns]
        return value, np.stack(first, -1), self._bilinear(system, D, a, b)
