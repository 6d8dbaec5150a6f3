"""Large components in closed form; the others as columns beside those of X.

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
from scipy import sparse
from scipy.linalg import eigh, solve_triangular

from flashmm.kernels.closed_form import ClosedForm, Effects, closed_form
from flashmm.kernels.eliminated_groups import Grouped, Groups, Weights, total
from flashmm.kernels.engine import Estimates, Optimum, VarianceForms, by_homogeneity, each, take
from flashmm.kernels.interpolation import chebyshev_axes, lowest_point
from flashmm.kernels.rotation import EIGEN_TOLERANCE, Projection
from flashmm.kernels.search import (
    Derivatives,
    Moments,
    invert,
    minimise,
    profile_derivatives,
    theta_information,
    theta_score,
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
# Genes in one product with a matrix that all genes share.
PANEL_GENES = 64


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
class EliminationEngine:
    """Likelihood and inference with groups, and what joins them, in closed form.

    Attributes
    ----------
    projection : Projection
        The shared part of the model.
    elimination : Elimination
        What is eliminated.
    order : list of int
        Components as the algebra has them: outer (if any), inner ones, rest.
    groups : Groups
        The design in groups.
    basis : (p, p) array
        R of the columns of X at length one.
    members : (q_r, rest) array
        One where a column of the rest belongs to a component, else zero.
    within_root : (c, r) array
        Root of the pseudo-inverse of `groups.within`.
    dof : int
        m: ν for REML, n for ML.
    reml : bool
        Whether the restricted likelihood is meant.
    nonnegative : bool
        Whether γ is bounded below by zero.
    """

    projection: Projection
    elimination: Elimination
    order: list[int]
    groups: Groups
    basis: Array
    members: Array
    within_root: Array
    dof: int
    reml: bool
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
        basis = projection.R / np.sqrt((projection.R**2).sum(0))
        sizes = projection.component_sizes
        n_outer = 0 if found.outer is None else sizes[found.outer]
        ZtX, XtX = _products(projection, found, basis)
        groups = Groups.build(found, n_outer, ZtX, XtX, nonnegative)
        order = [*([] if found.outer is None else [found.outer]), *found.inner, *found.rest]
        return cls(
            projection,
            found,
            order,
            groups,
            basis,
            np.repeat(np.eye(len(found.rest)), [sizes[k] for k in found.rest], axis=0),
            _pseudo_root(groups.within, np.diag(XtX)),
            projection.df_residual if reml else projection.n_cells,
            reml,
            nonnegative,
        )

    @property
    def rank(self) -> int:
        """Dimension of the span of Z outside the span of X."""
        return len(self.groups.sizes) + self.within_root.shape[1] - len(self.basis)

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

    # ---- the model at γ ----------------------------------------------------------------------

    def _weights(self, gamma: Array) -> Weights:
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

    def _system(self, gamma: Array) -> System:
        """The model at γ (genes, K)."""
        p = len(self.basis)
        weights = self._weights(gamma)
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
            outside = self._negative_eigenvalues(gamma[doubtful], self.reml) != 0
            log_det[doubtful[outside]] = np.inf
        closed = closed_form(self.groups, weights, s)
        return System(weights, s, C, t, invert(swept), log_det, closed)

    def _negative_eigenvalues(self, gamma: Array, reml: bool) -> Array:
        """Number of those of W, for REML of W on the complement of X, (genes,).

        By Sylvester's law they are those of W_1 and of T less those of |T|^½ C |T|^½ + sign(T) J.
        """
        p = len(self.basis)
        weights = self._weights(gamma)
        t = self._diagonal(gamma)
        root = np.sqrt(np.abs(t))
        matrix = root[:, :, None] * self.groups.cross(weights)[1] * root[:, None, :]
        np.einsum("gcc->gc", matrix)[:, p:] += np.where(t < 0, -1.0, 1.0)[:, p:]
        values = np.linalg.eigvalsh(matrix if reml else matrix[:, p:, p:])
        return weights.negative + (t < 0).sum(1) - (values < 0).sum(1)

    def _solve(self, system: System, genes: Grouped) -> Solution:
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

    # ---- objective ---------------------------------------------------------------------------

    def _least_squares(self, gamma: Array, genes: Grouped) -> tuple[Array, Array]:
        """Log-determinant of the objective, and Q, at one γ per gene."""

        def part(rows: slice) -> tuple[Array, Array]:
            system = self._system(gamma[rows])
            return system.log_det, self._solve(system, take(genes, rows)).Q

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
        index = np.argsort(self.order)

        def part(rows: slice) -> tuple[Array, ...]:
            system = self._system(gamma[rows])
            solution = self._solve(system, take(genes, rows))
            q, qq = self._quadratics(system, solution.effects)
            a, aa = self._traces(system)
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

    def _quadratics(self, system: System, u: Effects) -> tuple[Array, Array]:
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
        for r in self._rest:
            columns = slice(p + r.start, p + r.stop)
            V.append(system.C[:, :, columns] @ x.rest[:, r])
            after.append(system.inverse[:, :, columns] @ x.rest[:, r])
        return V, after

    @property
    def _rest(self) -> list[slice]:
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

    def _traces(self, system: System) -> tuple[Array, Array]:
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

    def _derivatives(self, gamma: Array, genes: Grouped) -> Derivatives:
        """f, its gradient and two Hessians in γ, at one γ per gene."""
        return profile_derivatives(self._moments(gamma, genes), self.dof)

    # ---- optimisation ------------------------------------------------------------------------

    def _start(self, genes: Grouped) -> Array:
        """Lowest point of a polynomial through a grid that genes share, (genes, K).

        Several inner components have one γ on the grid.
        """
        blocks, ZtZ, inner = self.projection.blocks, self.projection.ZtZ, self.elimination.inner
        largest = np.array([largest_eigenvalue(ZtZ[block][:, block]) for block in blocks])
        tied = [k for k in range(len(blocks)) if k not in inner[1:]]
        axis, of_axis = tied.index(inner[0]), largest[tied]
        of_axis[axis] = largest[inner].max()
        axes = chebyshev_axes(of_axis.tolist())
        points = np.array(list(product(*(a if k != axis else [0.0] for k, a in enumerate(axes)))))

        def spread(gamma: Array) -> Array:
            whole = np.empty((len(gamma), len(blocks)))
            whole[:, tied] = gamma
            whole[:, inner] = gamma[:, [axis]]
            return whole

        def at(value: float) -> Array:
            grid = points.copy()
            grid[:, axis] = value
            return self._on_grid(spread(grid), genes)

        f = np.stack(in_threads(at, list(axes[axis])))
        f = f.reshape(*(len(axes[0]) for _ in axes), -1)
        return spread(lowest_point(np.moveaxis(np.moveaxis(f, 0, axis), -1, 0), of_axis.tolist()))

    def _on_grid(self, grid: Array, genes: Grouped) -> Array:
        """Objective of every gene at points that share the inner γ, (points, genes)."""
        groups, system = self.groups, self._system(grid)
        # what does not depend on the other components
        means = np.ascontiguousarray(genes.means.T)
        weighted = means * system.weights.d[:, [0]]
        between = _in_panels(total(weighted * means) + genes.rr)
        sums = _in_panels(np.ascontiguousarray((groups.joins @ weighted).T))
        b_inner, squares = _in_panels(genes.xr + groups.sums(weighted)), sums**2
        f = np.empty((len(grid), len(genes.e)))
        for k in range(len(grid)):
            phi, N = system.weights.phi[:, [k]], system.inverse[k] * system.t[k]
            b = b_inner - sums @ (phi * system.s[k])
            Q = between - (squares @ phi)[:, :, 0] - ((b @ N) * b).sum(2)
            Q = np.maximum(Q.ravel()[: len(genes.e)], genes.e)
            f[k] = self.dof * np.log(Q) + system.log_det[k]
        return f

    def optimise(self, genes: Grouped, start: Array | None, max_iter: int, tol: float) -> Optimum:
        """Shared grid, then Newton with an active set, batched over genes."""
        return minimise(
            self.objective,
            self._derivatives,
            genes,
            self._start,
            start,
            nonnegative=self.nonnegative,
            max_iter=max_iter,
            tol=tol,
        )

    # ---- what follows from γ -----------------------------------------------------------------

    def residual_variance(self, gamma: Array, genes: Grouped) -> Array:
        """σ² = Q(γ)/m, (genes,)."""
        return self._least_squares(gamma, genes)[1] / self.dof

    def is_positive_definite(self, gamma: Array) -> Array:
        """Whether V = I + Σ γ_k Z_kZ_k' is positive definite, (genes,) bool."""
        definite = np.ones(len(gamma), dtype=bool)
        doubtful = np.flatnonzero((gamma < 0).any(1))

        def part(rows: slice) -> Array:
            return self._negative_eigenvalues(gamma[doubtful[rows]], reml=False) == 0

        definite[doubtful] = by_parts(part, self._part(), len(doubtful))
        return definite

    def coefficients(self, gamma: Array, genes: Grouped) -> Array:
        """Generalised least squares in the orthonormal basis of X, (genes, p)."""

        def part(rows: slice) -> Array:
            return self._solve(self._system(gamma[rows]), take(genes, rows)).v

        return self._orthonormal(by_parts(part, self._part(), len(gamma)), genes)

    def _orthonormal(self, v: Array, genes: Grouped) -> Array:
        """Coefficients of y from v, those of its residuals for columns of length one."""
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
            return contrasts.T @ self._system(gamma[rows]).inverse[:, :p, :p] @ contrasts

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
        index, s0 = np.argsort(self.order), variance

        def part(rows: slice) -> tuple[Array, Array, Array]:
            return self._contrast_forms(self._system(gamma[rows]), left, right)

        value, first, half = by_parts(part, self._part(), len(gamma))
        # v_k = g_k'g_k and v_kl = -(2/s_0) sym g_k'Z_k'P_W Z_l g_l
        half = half[:, :, index][:, :, :, index] / s0[:, None, None, None]
        theta = np.concatenate([gamma * s0[:, None], s0[:, None]], axis=1)
        hessian = -(half + half.swapaxes(-1, -2))
        return by_homogeneity(value * s0[:, None], first[:, :, index], hessian, theta)

    def _contrast_forms(
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
        first += [(a.rest[:, r] * b.rest[:, r]).sum(1) for r in self._rest]
        return value, np.stack(first, -1), self._bilinear(system, D, a, b)

    def blup(self, gamma: Array, genes: Grouped) -> Array:
        """Predicted random effects γ_k Z_k'W⁻¹(y - Xβ̂), (genes, q)."""
        blocks, found = self.projection.blocks, self.elimination
        sizes = self.projection.component_sizes

        def part(rows: slice) -> Array:
            g = gamma[rows]
            u = self._solve(self._system(g), take(genes, rows)).effects
            full = np.zeros((len(g), sum(sizes)))
            if found.outer is not None:
                full[:, blocks[found.outer]] = u.outer.T
            full[:, found.columns] = u.inner.T
            for component, columns in zip(found.rest, self._rest, strict=True):
                full[:, blocks[component]] = u.rest[:, columns]
            return np.repeat(g, sizes, axis=1) * full

        effects: Array = by_parts(part, self._part(), len(gamma))
        return effects


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
    """Z_2'X̃ and X̃'X̃, columns of X at length one."""
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
