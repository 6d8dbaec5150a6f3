"""Large components in closed form; the others as columns beside those of X.

**Eliminated components.** The inner one has orthogonal columns, Z_2'Z_2 = diag(n_g), one per group
g: subjects, or subjects × cell types. An outer one may join groups, Z_1 = Z_2 M: subjects i. With
W_1 = I + γ_1 Z_1Z_1' + γ_2 Z_2Z_2' and group means x_g, y_g (n_g⁻¹ Z_2'x), for any columns x and y
with product w within groups,

    x'W_1⁻¹y = w + Σ_g d_g x_g y_g - Σ_i φ_i (Σ_{g∈i} d_g x_g)(Σ_{g∈i} d_g y_g)
    log |W_1| = Σ_g log a_g + Σ_i log ψ_i,
    a_g = 1 + γ_2 n_g,  d_g = n_g/a_g,  τ_i = Σ_{g∈i} d_g,  ψ_i = 1 + γ_1 τ_i,  φ_i = γ_1/ψ_i,
    D_kl = Z_k'W_1⁻¹Z_l:  D_11 = diag(τ/ψ),  D_12 = d_g/ψ_i,  D_22 = diag(d) - φ_i d d' by i,
    U_k = Z_k'W_1⁻¹X̃:  U_1[i] = s_i/ψ_i,  U_2[g] = d_g(x_g - φ_i s_i),  s_i = Σ_{g∈i} d_g x_g.

**The rest**, components Z_r with γ_r, joins X: X̃ = [X, Z_r]. With C = X̃'W_1⁻¹X̃,
T = diag(1 … 1, γ_r) and J = diag(0 … 0, 1 … 1), the inverse of a matrix of p + q_r columns gives
the whole model, W = W_1 + Z_r diag(γ_r) Z_r' (Henderson's equations, not divided by γ_r):

    F' = (TC + J)⁻¹,   N = F'T,   P_W = W_1⁻¹ - W_1⁻¹X̃ N X̃'W_1⁻¹
    log |W| + log |X'W⁻¹X| = log |W_1| + log |TC + J|;  log |W| has its block of the rest only
    f = F X̃'W_1⁻¹y,  v = Tf:  β̂ = v_X,  Z_r'P_W y = f_r,  Z_k'P_W y = Z_k'W_1⁻¹(y - X̃v)
    Z_k'P_W Z_l = D_kl - U_k N U_l'   Z_k'P_W Z_r = U_k F'_·r   Z_r'P_W Z_r = (C F')_rr.

Nothing is as long as the eliminated components but sums over groups. G_k = U_k'U_k and, for traces,
H_kl = U_k'D_kl U_l are (p + q_r)² matrices. A group's row of X̃ has few non-zeros: sums of squares
Σ_g w_g x_g x_g' are one sparse product for many genes.

**Knots.** The weights in these sums are powers of d = 1/(1/n + γ_2), for γ_2 ≥ 0 smooth in log n:
their poles are ±iπ away. With polynomials l_j that are one at knot n_j and zero at the others,
d^r(n) = Σ_j l_j(n) d^r(n_j) to the last digits whatever γ_2, by 20 knots for sizes n up to four
times as large as others, and as many again for larger ones:

    Σ_g d_g^r x_g x_g' = Σ_j d^r(n_j) B_j,   B_j = Σ_g l_j(n_g) x_g x_g'.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from scipy.linalg import eigh, solve_triangular

from flashmm.kernels.engine import Estimates, Optimum, VarianceForms, by_homogeneity, each, take
from flashmm.kernels.interpolation import cardinal, chebyshev_axes, chebyshev_points, lowest_point
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
from flashmm.kernels.threads import by_parts, in_threads

Array = np.ndarray

# Share of a column's squared norm within groups below which it is constant within groups.
CONSTANT_WITHIN = 1e-12
# Share of non-zeros in the rows of the groups above which products of dense matrices are faster.
DENSE = 0.5
# Knots are used where they are this many times fewer than groups, and their matrices as sparse ones
# below this share of non-zeros.
FEWER = 3
THIN = 0.2
# Ratio of the sizes in a panel, error of the weights that its knots give, and half range of log n
# below which sizes are equal.
PANEL = 4.0
KNOT_PRECISION = 1e-17
EQUAL = 1e-6
# Numbers that vectors of a block of genes may hold, and an array of a part that a thread works on
# (it stays in the cache).
BLOCK_ELEMENTS = 2**23
PART_ELEMENTS = 2**17
PART_LIMITS = (4, 64)
# Genes in one product with a matrix that all genes share.
PANEL_GENES = 64


class Elimination(NamedTuple):
    """Which components are eliminated.

    Attributes
    ----------
    outer : int or None
        Position of the component that joins the levels of the inner one.
    inner : int
        Position of the component with orthogonal columns.
    rest : list of int
        Positions of the others.
    parent : (groups,) int array
        Level of the outer component that holds each level of the inner one; empty without.
    sizes : (groups,) array
        n_g, the diagonal of Z_2'Z_2.
    """

    outer: int | None
    inner: int
    rest: list[int]
    parent: Array
    sizes: Array


def find_elimination(ZtZ: Any, component_sizes: tuple[int, ...]) -> Elimination | None:
    """Find out from Z'Z alone what can be eliminated, leaving the fewest columns.

    Parameters
    ----------
    ZtZ : (q, q) array or sparse array
        Cross-product of the random design.
    component_sizes : tuple of int
        Columns of Z per component.

    Returns
    -------
    Elimination or None
        None where no component has orthogonal columns.
    """
    whole, ends = sparse.csr_array(ZtZ), np.cumsum(component_sizes)
    whole.eliminate_zeros()

    def block(row: int, column: int) -> sparse.coo_array:
        of_row, of_column = (slice(ends[k] - component_sizes[k], ends[k]) for k in (row, column))
        return sparse.coo_array(whole[of_row][:, of_column])

    K = len(component_sizes)
    squares = [block(k, k) for k in range(K)]
    plain = [k for k in range(K) if _is_diagonal(squares[k]) and (squares[k].diagonal() > 0).all()]
    found = [
        Elimination(None, k, _others(K, k), np.zeros(0, dtype=np.int64), squares[k].diagonal())
        for k in plain
    ]
    for outer, inner in permutations(plain, 2):
        parent = _parent(squares[outer], block(outer, inner), squares[inner])
        if parent is not None:
            rest = _others(K, outer, inner)
            found.append(Elimination(outer, inner, rest, parent, squares[inner].diagonal()))
    if not found:
        return None
    return min(found, key=lambda e: sum(component_sizes[k] for k in e.rest))


def _others(K: int, *taken: int) -> list[int]:
    return [k for k in range(K) if k not in taken]


def _is_diagonal(block: sparse.coo_array) -> bool:
    return bool((block.row == block.col).all())


def _parent(
    top: sparse.coo_array, cross: sparse.coo_array, bottom: sparse.coo_array
) -> Array | None:
    """M of Z_1 = Z_2 M, as the outer level of each inner one; None where it does not hold."""
    sizes = bottom.diagonal()
    if cross.nnz != len(sizes) or len(np.unique(cross.col)) != len(sizes):
        return None
    parent = np.empty(len(sizes), dtype=np.int64)
    parent[cross.col] = cross.row
    joined = np.bincount(parent, weights=sizes, minlength=top.shape[0])
    # ‖Z_1 - Z_2M‖² = 0 where Z_1'Z_2 = M'Z_2'Z_2 and Z_1'Z_1 = M'Z_2'Z_2M
    same = np.allclose(cross.data, sizes[cross.col], rtol=1e-12, atol=0)
    same = same and np.allclose(top.diagonal(), joined, rtol=1e-12, atol=0)
    return parent if same else None


class Grouped(NamedTuple):
    """Genes as the residuals r of ordinary least squares, between and within groups.

    Attributes
    ----------
    xy : (genes, p) array
        R⁻ᵀX'y, the response in an orthonormal basis of X.
    means : (genes, groups) array
        Group means of r.
    xr : (genes, c) array
        X̃'r within groups.
    rr : (genes,) array
        r'r within groups.
    e : (genes,) array
        Residual sum of squares outside the spans of X and Z.
    rss : (genes,) array
        r'r.
    """

    xy: Array
    means: Array
    xr: Array
    rr: Array
    e: Array
    rss: Array


@dataclass(frozen=True, eq=False)
class Groups:
    """The design in groups; columns of X̃ are those of X at length one, then the rest of Z.

    Attributes
    ----------
    sizes : (groups,) array
        n_g.
    joins : (outer levels, groups) sparse array
        M'; no rows where there is no outer component.
    knots : (knots,) array
        Sizes whose weights give the sums of squares; those of all groups where that is as fast.
    rows : (groups, c) array or sparse array
        x_g, the group means of X̃; dense where few are zero.
    outer_rows : (outer levels · c, groups) sparse array
        x_g in the rows of its outer level.
    pairs : (c(c + 1)/2, knots) array or sparse array
        Lower triangles of B_j, or of x_g x_g'; no columns where `rows` is used instead.
    triangle : (c · c,) int array
        Row of `pairs` of each element of a c × c matrix.
    within : (c, c) array
        X̃'X̃ within groups.
    """

    sizes: Array
    knots: Array
    joins: sparse.csr_array
    rows: Any
    outer_rows: sparse.csr_array
    pairs: Any
    triangle: Array
    within: Array

    @classmethod
    def build(
        cls, parent: Array, n_outer: int, sizes: Array, ZtX: Array, XtX: Array, nonnegative: bool
    ) -> Groups:
        """Split the products of X̃ into those between groups, from Z_2'X̃, and those within."""
        G, c = ZtX.shape
        # rounding in the place of a zero would make rows dense
        ZtX = np.where(np.abs(ZtX) > 1e-13 * np.sqrt(np.outer(sizes, np.diag(XtX))), ZtX, 0.0)
        means = ZtX / sizes[:, None]
        within = XtX - ZtX.T @ means
        constant = np.diag(within) <= CONSTANT_WITHIN * np.diag(XtX)
        within[constant] = 0.0
        within[:, constant] = 0.0
        rows = sparse.csr_array(means)
        at = rows.tocoo()
        if n_outer:
            joins = sparse.csr_array((np.ones(G), (parent, np.arange(G))), shape=(n_outer, G))
            index = (parent[at.row] * c + at.col, at.row)
            outer_rows = sparse.csr_array((at.data, index), shape=(n_outer * c, G))
        else:
            joins, outer_rows = sparse.csr_array((0, G)), sparse.csr_array((0, G))
        i, j = np.indices((c, c))
        high, low = np.maximum(i, j).ravel(), np.minimum(i, j).ravel()
        triangle = high * (high + 1) // 2 + low
        within = (within + within.T) / 2
        dense = rows.nnz > DENSE * G * c
        kept = means if dense else rows
        knots, shares = _knots(sizes)
        if nonnegative and FEWER * len(knots) < G:
            pairs = _weighted_pairs(kept, shares)
        else:
            knots, pairs = sizes, _pairs(rows[:0] if dense else rows)
        return cls(sizes, knots, joins, kept, outer_rows, pairs, triangle, within)

    def by_outer(self, weights: Array) -> Array:
        """Σ_{g∈i} w_g x_g of weights (groups, genes), as (genes, outer levels, c)."""
        n, c = weights.shape[1], self.rows.shape[1]
        sums = np.ascontiguousarray((self.outer_rows @ weights).T)
        return sums.reshape(n, self.joins.shape[0], c)

    def sums(self, weights: Array) -> Array:
        """Σ_g w_g x_g of weights (groups, genes), as (genes, c)."""
        if isinstance(self.rows, np.ndarray):
            return each(np.ascontiguousarray(weights.T), self.rows)
        return np.ascontiguousarray((self.rows.T @ weights).T)

    def fitted(self, v: Array) -> Array:
        """x_g'v of v (genes, c), as (groups, genes)."""
        if isinstance(self.rows, np.ndarray):
            return np.ascontiguousarray(each(v, self.rows.T).T)
        return self.rows @ np.ascontiguousarray(v.T)

    def squares(self, weights: Array) -> Array:
        """Σ_g w_g x_g x_g' of weights (knots, genes), as (genes, c, c)."""
        rows, c = self.rows, self.rows.shape[1]
        if not self.pairs.shape[1]:
            return rows.T @ (weights.T[:, :, None] * rows)
        if isinstance(self.pairs, np.ndarray):
            sums = each(np.ascontiguousarray(weights.T), self.pairs.T)
        else:
            sums = np.ascontiguousarray((self.pairs @ weights).T)
        return np.take(sums, self.triangle, axis=1).reshape(-1, c, c)


def _pairs(rows: sparse.csr_array) -> sparse.csr_array:
    """Lower triangles of x_g x_g', (c(c + 1)/2, groups), of rows x_g."""
    rows.sort_indices()
    G, c = rows.shape
    counts, start = np.diff(rows.indptr), rows.indptr[:-1]
    data, pair, group = [np.zeros(0)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for count in np.unique(counts[counts > 0]):
        groups = np.flatnonzero(counts == count)
        at = start[groups][:, None] + np.arange(count)
        columns, values = rows.indices[at].astype(np.int64), rows.data[at]
        high, low = np.tril_indices(count)
        pair.append((columns[:, high] * (columns[:, high] + 1) // 2 + columns[:, low]).ravel())
        data.append((values[:, high] * values[:, low]).ravel())
        group.append(np.repeat(groups, len(high)))
    index = (np.concatenate(pair), np.concatenate(group))
    return sparse.csr_array((np.concatenate(data), index), shape=(c * (c + 1) // 2, G))


def _knots(sizes: Array) -> tuple[Array, Array]:
    """Knots n_j, and l_j(n_g) as (knots, groups).

    Sizes are cut into panels, in which weights are of one order: they have the same digits
    everywhere.
    """
    logs = np.log(sizes)
    low, whole = logs.min(), np.ptp(logs)
    panels = max(int(np.ceil(whole / np.log(PANEL))), 1)
    half = max(whole / panels / 2.0, EQUAL)
    # Errors of polynomials of degree J fall as ρ^-J, of the ellipse with foci ±1 through i π/half.
    rho = np.pi / half + np.hypot(np.pi / half, 1.0)
    points = int(np.ceil(-np.log(KNOT_PRECISION) / np.log(rho))) + 2
    panel = np.minimum(((logs - low) / (2.0 * half)).astype(int), panels - 1)
    centre = low + half * (2.0 * np.arange(panels) + 1.0)
    shares = np.zeros((panels, points, len(sizes)))
    values = cardinal((logs - centre[panel]) / half, points)[:, :, 0]
    shares[panel, :, np.arange(len(sizes))] = values
    knots = np.exp(centre[:, None] + half * chebyshev_points(points))
    return knots.ravel(), shares.reshape(-1, len(sizes))


def _weighted_pairs(rows: Any, shares: Array) -> Any:
    """Lower triangles of Σ_g w_g x_g x_g' of each line of `shares` (knots, groups)."""
    low = np.tril_indices(rows.shape[1])
    table = np.empty((len(low[0]), len(shares)))
    for j, weights in enumerate(shares):
        if isinstance(rows, np.ndarray):
            square = rows.T @ (weights[:, None] * rows)
        else:
            square = (rows.T @ (sparse.diags_array(weights) @ rows)).toarray()
        table[:, j] = square[low]
    thin = sparse.csr_array(table)
    return thin if thin.nnz < THIN * table.size else table


class Weights(NamedTuple):
    """W_1 at one γ per gene; genes last.

    Attributes
    ----------
    d : (groups, genes) array
    knots : (knots, genes) array
        d at the knots.
    tau, psi, phi : (outer levels, genes) arrays
    log_det : (genes,) array
        log |W_1|.
    negative : (genes,) array
        Number of negative eigenvalues of W_1.
    """

    d: Array
    knots: Array
    tau: Array
    psi: Array
    phi: Array
    log_det: Array
    negative: Array


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
    """

    weights: Weights
    s: Array
    C: Array
    t: Array
    inverse: Array
    log_det: Array


class Effects(NamedTuple):
    """u_k = Z_k'P_W y for every component.

    Attributes
    ----------
    outer : (outer levels, genes) array
    inner : (groups, genes) array
    rest : (genes, q_r) array
    """

    outer: Array
    inner: Array
    rest: Array


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


class Curvature(NamedTuple):
    """G_k and H_kl of what is eliminated: one component, or outer and inner."""

    G: list[Array]
    H: list[list[Array]]


@dataclass(frozen=True, eq=False)
class EliminationEngine:
    """Likelihood and inference with one component, or two nested ones, in closed form.

    Attributes
    ----------
    projection : Projection
        The shared part of the model.
    elimination : Elimination
        What is eliminated.
    order : list of int
        Components as the algebra has them: outer (if any), inner, rest.
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
        groups = Groups.build(found.parent, n_outer, found.sizes, ZtX, XtX, nonnegative)
        order = [*([] if found.outer is None else [found.outer]), found.inner, *found.rest]
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
        means = YtZ[:, blocks[self.elimination.inner]] / groups.sizes - groups.fitted(fixed).T
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
        inner, outer = gamma[:, self.elimination.inner], np.zeros(len(gamma))
        if self.elimination.outer is not None:
            outer = gamma[:, self.elimination.outer]
        sizes = self.groups.sizes[:, None]
        a = _one_plus(sizes * inner)
        d = sizes / a
        knots = self.groups.knots[:, None]
        at_knots = d if self.groups.knots is self.groups.sizes else knots / (1.0 + knots * inner)
        tau = self.groups.joins @ d
        psi = _one_plus(outer * tau)
        log_det = _total(np.log(np.abs(a))) + _total(np.log(np.abs(psi)))
        # A rank-one update moves one eigenvalue through zero where ψ changes sign.
        negative = (a < 0).sum(0) - np.sign(outer) * (psi < 0).sum(0)
        return Weights(d, at_knots, tau, psi, outer / psi, log_det, negative)

    def _cross(self, weights: Weights) -> tuple[Array, Array]:
        """S and C = X̃'W_1⁻¹X̃."""
        s = self.groups.by_outer(weights.d)
        C = self.groups.squares(weights.knots) + self.groups.within
        C -= s.swapaxes(1, 2) @ (weights.phi.T[:, :, None] * s)
        return s, C

    def _diagonal(self, gamma: Array) -> Array:
        """Diagonal of T, (genes, c)."""
        t = np.ones((len(gamma), len(self.groups.within)))
        t[:, len(self.basis) :] = gamma[:, self.elimination.rest] @ self.members.T
        return t

    def _system(self, gamma: Array) -> System:
        """The model at γ (genes, K)."""
        p = len(self.basis)
        weights = self._weights(gamma)
        s, C = self._cross(weights)
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
        return System(weights, s, C, t, invert(swept), log_det)

    def _negative_eigenvalues(self, gamma: Array, reml: bool) -> Array:
        """Number of those of W, for REML of W on the complement of X, (genes,).

        By Sylvester's law they are those of W_1 and of T less those of |T|^½ C |T|^½ + sign(T) J.
        """
        p = len(self.basis)
        weights = self._weights(gamma)
        t = self._diagonal(gamma)
        root = np.sqrt(np.abs(t))
        matrix = root[:, :, None] * self._cross(weights)[1] * root[:, None, :]
        np.einsum("gcc->gc", matrix)[:, p:] += np.where(t < 0, -1.0, 1.0)[:, p:]
        values = np.linalg.eigvalsh(matrix if reml else matrix[:, p:, p:])
        return weights.negative + (t < 0).sum(1) - (values < 0).sum(1)

    # D_kl x = Z_k'W_1⁻¹Z_l x of x (levels, genes)

    def _inner_inner(self, weights: Weights, x: Array) -> Array:
        joins = self.groups.joins
        return weights.d * (x - joins.T @ (weights.phi * (joins @ (weights.d * x))))

    def _outer_inner(self, weights: Weights, x: Array) -> Array:
        return (self.groups.joins @ (weights.d * x)) / weights.psi

    def _inner_outer(self, weights: Weights, x: Array) -> Array:
        return weights.d * (self.groups.joins.T @ (x / weights.psi))

    def _solve(self, system: System, genes: Grouped) -> Solution:
        """Generalised least squares at γ."""
        groups, weights = self.groups, system.weights
        means = np.ascontiguousarray(genes.means.T)
        b = genes.xr + groups.sums(self._inner_inner(weights, means))
        f = (b[:, None] @ system.inverse)[:, 0]
        v, of_rest = system.t * f, f[:, len(self.basis) :]
        zeta = means - groups.fitted(v)
        inner = self._inner_inner(weights, zeta)
        # (y - X̃v)'W_1⁻¹(y - X̃v), within and between groups, and the penalty Σ v_r²/γ_r
        Q = genes.rr - 2.0 * (genes.xr * v).sum(1) + (each(v, groups.within) * v).sum(1)
        Q += _total(zeta * inner)
        Q += (v[:, len(self.basis) :] * of_rest).sum(1)
        return Solution(Q, v, Effects(self._outer_inner(weights, zeta), inner, of_rest))

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
        weights = system.weights
        inner = self._inner_inner(weights, u.inner)
        q, D, sides = [_total(u.inner**2)], [[_total(u.inner * inner)]], [inner]
        if self.elimination.outer is not None:
            q.insert(0, _total(u.outer**2))
            top = _total(weights.tau / weights.psi * u.outer**2)
            across = _total(u.outer * self._outer_inner(weights, u.inner))
            D = [[top, across], [across, *D[0]]]
            sides.insert(0, self._inner_outer(weights, u.outer))
        images = [self.groups.sums(side)[:, :, None] for side in sides]
        side = Side(images, u.rest[:, :, None])
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
        N, (G, H) = inverse * system.t[:, None], self._curvature(system)
        p, n, E = len(self.basis), len(G), self.members
        a, aa = np.empty((len(N), n + E.shape[1])), np.empty((len(N), *2 * [n + E.shape[1]]))
        # ‖D - UNU'‖² = ‖D‖² - 2 tr N U'DU + tr N U'U N U'U
        NG = [N @ Gk for Gk in G]
        traces, squares = self._eliminated_norms(system.weights)
        for k in range(n):
            a[:, k] = traces[k] - np.einsum("gcc->g", NG[k])
            for m in range(n):
                cross = 2.0 * H[k][m] * N - NG[k] * NG[m].swapaxes(1, 2)
                aa[:, k, m] = squares[k][m] - np.ascontiguousarray(cross).sum((1, 2))
        # Z_k'P_W Z_r = U_k Ψ and Z_r'P_W Z_r = (CΨ)_rr with Ψ = F'_·r
        psi = inverse[:, :, p:]
        omega = system.C[:, p:] @ psi
        a[:, n:] = each(np.einsum("grr->gr", omega).copy(), E)
        aa[:, n:, n:] = E.T @ (omega * omega.swapaxes(1, 2)) @ E
        for k in range(n):
            aa[:, k, n:] = aa[:, n:, k] = each((psi * (G[k] @ psi)).sum(1), E)
        return a, aa

    def _eliminated_norms(self, weights: Weights) -> tuple[list[Array], list[list[Array]]]:
        """Traces of D_kk and squared norms of D_kl."""
        d2 = weights.d**2
        e2, e3 = self.groups.joins @ d2, self.groups.joins @ (d2 * weights.d)
        phi, ratio = weights.phi, weights.tau / weights.psi
        inner = _total(weights.d) - _total(phi * e2)
        square = _total(d2) + _total((phi * e2) ** 2 - 2.0 * phi * e3)
        if self.elimination.outer is None:
            return [inner], [[square]]
        across = _total(e2 / weights.psi**2)
        return [_total(ratio), inner], [[_total(ratio**2), across], [across, square]]

    def _curvature(self, system: System) -> Curvature:
        """G_k = U_k'U_k and H_kl = U_k'D_kl U_l of what is eliminated."""
        groups, weights, s = self.groups, system.weights, system.s
        d2 = weights.d**2
        d3 = d2 * weights.d
        knots2 = weights.knots**2
        S2, S3 = groups.squares(knots2), groups.squares(knots2 * weights.knots)
        if self.elimination.outer is None:
            return Curvature([S2], [[S3]])
        r, r3 = groups.by_outer(d2), groups.by_outer(d3)
        e2, e3 = (groups.joins @ d2).T[:, :, None], (groups.joins @ d3).T[:, :, None]
        tau, psi, phi = (x.T[:, :, None] for x in (weights.tau, weights.psi, weights.phi))
        # Sums over the groups of an outer level, with x - φs for U_2: Σ d²(x - φs) = r - φ e2 s,
        # Σ d²(x - φs)(x - φs)' and Σ d³(x - φs)(x - φs)' - φ(r - φ e2 s)(r - φ e2 s)'
        across = r - phi * e2 * s
        G2 = s.swapaxes(1, 2) @ (phi * (0.5 * phi * e2 * s - r))
        H22 = s.swapaxes(1, 2) @ (phi * (0.5 * phi * e3 * s - r3))
        H12 = s.swapaxes(1, 2) @ (across / psi**2)
        H22 += H22.swapaxes(1, 2) + S3 - across.swapaxes(1, 2) @ (phi * across)
        G1 = s.swapaxes(1, 2) @ (s / psi**2)
        H11 = s.swapaxes(1, 2) @ (s * (tau / psi**3))
        return Curvature([G1, S2 + G2 + G2.swapaxes(1, 2)], [[H11, H12], [H12.swapaxes(1, 2), H22]])

    def _derivatives(self, gamma: Array, genes: Grouped) -> Derivatives:
        """f, its gradient and two Hessians in γ, at one γ per gene."""
        return profile_derivatives(self._moments(gamma, genes), self.dof)

    # ---- optimisation ------------------------------------------------------------------------

    def _start(self, genes: Grouped) -> Array:
        """Lowest point of a polynomial through a grid that genes share, (genes, K)."""
        blocks, ZtZ = self.projection.blocks, self.projection.ZtZ
        largest = [_largest_eigenvalue(ZtZ[block][:, block]) for block in blocks]
        axes, inner = chebyshev_axes(largest), self.elimination.inner
        points = np.array(
            list(product(*(axis if k != inner else [0.0] for k, axis in enumerate(axes))))
        )

        def at(value: float) -> Array:
            grid = points.copy()
            grid[:, inner] = value
            return self._on_grid(grid, genes)

        f = np.stack(in_threads(at, list(axes[inner])))
        f = f.reshape(*(len(axes[0]) for _ in axes), -1)
        return lowest_point(np.moveaxis(np.moveaxis(f, 0, inner), -1, 0), largest)

    def _on_grid(self, grid: Array, genes: Grouped) -> Array:
        """Objective of every gene at points that share the inner γ, (points, genes)."""
        groups, system = self.groups, self._system(grid)
        # what does not depend on the other components
        means = np.ascontiguousarray(genes.means.T)
        weighted = means * system.weights.d[:, [0]]
        between = _in_panels(_total(weighted * means) + genes.rr)
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
        p, (G, H) = len(self.basis), self._curvature(system)
        inverse = system.inverse[:, :p].swapaxes(1, 2)
        f_b = inverse @ (self.basis.T @ right)
        f_a = f_b if left is right else inverse @ (self.basis.T @ left)
        v_a, v_b = (system.t[:, :, None] * f for f in (f_a, f_b))
        b = Side([-Gk @ v_b for Gk in G], f_b[:, p:])
        a = b if left is right else Side([-Gk @ v_a for Gk in G], f_a[:, p:])
        D = [[(v_a * (Hkl @ v_b)).sum(1) for Hkl in line] for line in H]
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
            full = np.empty((len(g), sum(sizes)))
            if found.outer is not None:
                full[:, blocks[found.outer]] = u.outer.T
            full[:, blocks[found.inner]] = u.inner.T
            for component, columns in zip(found.rest, self._rest, strict=True):
                full[:, blocks[component]] = u.rest[:, columns]
            return np.repeat(g, sizes, axis=1) * full

        effects: Array = by_parts(part, self._part(), len(gamma))
        return effects


def _one_plus(x: Array) -> Array:
    """1 + x; where that is exactly singular, the next number."""
    total = 1.0 + x
    total[total == 0] = np.finfo(float).eps
    return total


def _total(x: Array) -> Array:
    """Sum over the levels of (levels, genes), level by level for one gene as for many."""
    if x.shape[1] == 1:
        x = np.repeat(x, 2, axis=1)
        return np.asarray(x.sum(0)[:1])
    return np.asarray(np.ascontiguousarray(x).sum(0))


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
    inner = blocks[found.inner]
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


def _largest_eigenvalue(block: Any) -> float:
    """Largest eigenvalue of a square block of Z'Z; its largest element where it is diagonal."""
    block = sparse.csr_array(block)
    if _is_diagonal(block.tocoo()):
        return float(block.diagonal().max())
    return float(np.linalg.eigvalsh(block.toarray())[-1])
