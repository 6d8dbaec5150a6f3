"""Two nested components: closed forms in sums over groups, no q × q algebra.

Component 2 has orthogonal columns, Z_2'Z_2 = diag(n_g): one group g per subject and cell type, say.
Component 1 joins groups, Z_1 = Z_2 M: subjects i. A gene then is its group means and what varies
within groups; the mean of group g has variance γ_1 + γ_2 + 1/n_g, of which γ_1 is shared by the
groups of a subject. For columns x and y with group means x_g, y_g and product w within groups,

    x'W⁻¹y = w + Σ_g d_g x_g y_g - Σ_i φ_i (Σ_{g∈i} d_g x_g)(Σ_{g∈i} d_g y_g)
    log |W| = Σ_g log a_g + Σ_i log ψ_i,
    a_g = 1 + γ_2 n_g,  d_g = n_g/a_g,  τ_i = Σ_{g∈i} d_g,  ψ_i = 1 + γ_1 τ_i,  φ_i = γ_1/ψ_i.

With C = X'W⁻¹X, D = Z'W⁻¹Z (block-diagonal by subject) and U_k = Z_k'W⁻¹X, where x_g is the row of
group means of X and s_i = Σ_{g∈i} d_g x_g,

    D_11 = τ_i/ψ_i   D_12 = d_g/ψ_i   D_22 = diag(d) - φ_i d d'
    U_1[i] = s_i/ψ_i   U_2[g] = d_g (x_g - φ_i s_i)
    Z_k'P_W Z_l = D_kl - U_k C⁻¹ U_l'.

G_k = U_k'U_k = -∂C/∂γ_k and H_kl = U_k'D_kl U_l, with ∂²C/∂γ_k∂γ_l = H_kl + H_kl', are p × p;
traces, norms and everything about Var(β̂) follow from C, G and H. A group's row of X has few
non-zeros, so that their cost is that of a few passes over the groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numba
import numpy as np
from scipy import sparse
from scipy.linalg import eigh

from flashmm.kernels.engine import Optimum, VarianceForms, by_homogeneity
from flashmm.kernels.rotation import EIGEN_TOLERANCE, Projection
from flashmm.kernels.search import (
    Derivatives,
    Moments,
    grid_axes,
    minimise,
    profile_derivatives,
    theta_information,
    theta_score,
)

Array = np.ndarray

# Share of a column's squared norm within groups below which it is constant within groups.
CONSTANT_WITHIN = 1e-12
BLOCK_ELEMENTS = 2**22


class Nesting(NamedTuple):
    """Which component groups the levels of the other.

    Attributes
    ----------
    outer, inner : int
        Positions of the grouping component and of the grouped one.
    parent : (groups,) int array
        Level of the outer component that holds each level of the inner one.
    sizes : (groups,) array
        n_g, the diagonal of Z_2'Z_2.
    """

    outer: int
    inner: int
    parent: Array
    sizes: Array


def find_nesting(ZtZ: Any, component_sizes: tuple[int, ...]) -> Nesting | None:
    """Find out from Z'Z alone whether one of two components groups the levels of the other.

    Parameters
    ----------
    ZtZ : (q, q) array or sparse array
        Cross-product of the random design.
    component_sizes : tuple of int
        Columns of Z per component.

    Returns
    -------
    Nesting or None
        None where the structure does not hold.
    """
    if len(component_sizes) != 2:
        return None
    whole, split = sparse.csr_array(ZtZ), component_sizes[0]
    whole.eliminate_zeros()
    blocks = (slice(0, split), slice(split, None))
    for outer, inner in ((0, 1), (1, 0)):
        top, cross, bottom = (
            sparse.coo_array(whole[blocks[row]][:, blocks[column]])
            for row, column in ((outer, outer), (outer, inner), (inner, inner))
        )
        sizes = bottom.diagonal()
        if not (_is_diagonal(bottom) and _is_diagonal(top) and (sizes > 0).all()):
            continue
        if cross.nnz != len(sizes) or len(np.unique(cross.col)) != len(sizes):
            continue
        parent = np.empty(len(sizes), dtype=np.int64)
        parent[cross.col] = cross.row
        joined = np.bincount(parent, weights=sizes, minlength=top.shape[0])
        # ‖Z_1 - Z_2M‖² = 0 where Z_1'Z_2 = M'Z_2'Z_2 and Z_1'Z_1 = M'Z_2'Z_2M
        if np.allclose(cross.data, sizes[cross.col], rtol=1e-12, atol=0) and np.allclose(
            top.diagonal(), joined, rtol=1e-12, atol=0
        ):
            return Nesting(outer, inner, parent, sizes)
    return None


def _is_diagonal(block: sparse.coo_array) -> bool:
    return bool((block.row == block.col).all())


class Grouped(NamedTuple):
    """Genes as the residuals r of ordinary least squares, between and within groups.

    Attributes
    ----------
    xy : (genes, p) array
        R⁻ᵀX'y, the response in an orthonormal basis of X.
    means : (genes, groups) array
        Group means of r.
    xr : (genes, p) array
        X'r within groups.
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


class Groups(NamedTuple):
    """The shared design, for the compiled kernels; groups are sorted by subject.

    Attributes
    ----------
    sizes : (groups,) array
        n_g.
    starts : (subjects + 1,) int array
        Groups of subject i are starts[i] … starts[i + 1] - 1.
    indptr, columns, values : arrays
        Rows x_g of group means of X, compressed by rows.
    within : (p, p) array
        X'X within groups.
    """

    sizes: Array
    starts: Array
    indptr: Array
    columns: Array
    values: Array
    within: Array


@dataclass(frozen=True, eq=False)
class NestedEngine:
    """Likelihood and inference for two components, one grouping the levels of the other.

    Attributes
    ----------
    projection : Projection
        The shared part of the model.
    order : list of int
        Positions of the outer and of the inner component; its own inverse.
    position : (groups,) int array
        Columns of the inner component, sorted by subject.
    groups : Groups
        The design in groups.
    within_root : (p, r) array
        Root of the pseudo-inverse of `groups.within`.
    dof : int
        m: ν for REML, n for ML.
    reml : bool
        Whether the restricted likelihood is meant.
    nonnegative : bool
        Whether γ is bounded below by zero.
    """

    projection: Projection
    order: list[int]
    position: Array
    groups: Groups
    within_root: Array
    dof: int
    reml: bool
    nonnegative: bool

    @classmethod
    def build(cls, projection: Projection, reml: bool, nonnegative: bool) -> NestedEngine:
        """Prepare the engine for a design.

        Raises
        ------
        ValueError
            Neither component groups the levels of the other.
        """
        nesting = find_nesting(projection.ZtZ, projection.component_sizes)
        if nesting is None:
            raise ValueError("Neither random component groups the levels of the other.")
        position = np.argsort(nesting.parent, kind="stable")
        sizes = nesting.sizes[position]
        n_outer = projection.component_sizes[nesting.outer]
        starts = np.searchsorted(nesting.parent[position], np.arange(n_outer + 1))
        ZtX = (projection.A[:, projection.blocks[nesting.inner]].T @ projection.R)[position]
        means, within = _split_fixed(ZtX, sizes, projection.R)
        scale = np.sqrt(np.diag(projection.R.T @ projection.R))
        values, vectors = eigh(within / scale / scale[:, None])
        kept = values > EIGEN_TOLERANCE
        root = vectors[:, kept] / np.sqrt(values[kept]) / scale[:, None]
        dof = projection.df_residual if reml else projection.n_cells
        groups = Groups(
            sizes,
            starts,
            means.indptr.astype(np.int64),
            means.indices.astype(np.int64),
            means.data,
            within,
        )
        order = [nesting.outer, nesting.inner]
        return cls(projection, order, position, groups, root, dof, reml, nonnegative)

    @property
    def rank(self) -> int:
        """Dimension of the span of Z outside the span of X."""
        return len(self.position) + self.within_root.shape[1] - len(self.projection.R)

    def _ordered(self, gamma: Array) -> Array:
        """γ of the outer and of the inner component, as the compiled kernels take it."""
        return np.ascontiguousarray(gamma[:, self.order])

    @property
    def _means(self) -> sparse.csr_array:
        """Group means of X, (groups, p)."""
        g = self.groups
        shape = (len(g.sizes), len(g.within))
        return sparse.csr_array((g.values, g.columns, g.indptr), shape=shape)

    def genes_per_block(self) -> int:
        """Genes that fit in a bounded amount of memory."""
        return max(64, BLOCK_ELEMENTS // len(self.position))

    def responses(self, YtX: Array, YtZ: Array, yty: Array) -> Grouped:
        """Group means of the residuals, and their products within groups."""
        xy, zr, rss = self.projection.residuals(YtX, YtZ, yty)
        sums = zr[:, self.projection.blocks[self.order[1]]][:, self.position]
        means = sums / self.groups.sizes
        # X'r = 0: within groups it is minus that between groups, and zero for constant columns.
        varies = np.diag(self.groups.within) > 0
        xr = -(sums @ self._means) * varies
        rr = np.maximum(rss - np.einsum("gj,gj->g", sums, means), 0.0)
        explained = ((xr @ self.within_root) ** 2).sum(1)
        e = np.maximum(rr - explained, 0.0)
        return Grouped(xy, np.ascontiguousarray(means), np.ascontiguousarray(xr), rr, e, rss)

    # ---- objective ---------------------------------------------------------------------------

    def _least_squares(self, gamma: Array, genes: Grouped) -> tuple[Array, Array, Array]:
        """Objective without its dof·log Q, Q, and β̂ - β̂_OLS, at one γ per gene."""
        return _least_squares(
            self._ordered(gamma), self.groups, genes.means, genes.xr, genes.rr, self.reml
        )

    def _log_det_constant(self) -> float:
        return self.projection.log_det_XtX if self.reml else 0.0

    def objective(self, gamma: Array, genes: Grouped) -> Array:
        """F at one γ per gene, (genes,); infinite outside the domain."""
        log_det, Q, _ = self._least_squares(gamma, genes)
        f = np.full(len(gamma), np.inf)
        fine = np.isfinite(log_det) & (Q > 0)
        f[fine] = self.dof * np.log(Q[fine]) + log_det[fine] - self._log_det_constant()
        return f

    def _moments(self, gamma: Array, genes: Grouped) -> Moments:
        """What the likelihood and its derivatives are made of, at one γ per gene."""
        Q, q, qq, log_det, a, aa = _moments(
            self._ordered(gamma), self.groups, genes.means, genes.xr, genes.rr, self.reml
        )
        square = np.ix_(range(len(Q)), self.order, self.order)
        return Moments(
            Q=Q,
            q=q[:, self.order],
            qq=qq[square],
            log_det=log_det - self._log_det_constant(),
            a=a[:, self.order],
            aa=aa[square],
        )

    def _derivatives(self, gamma: Array, genes: Grouped) -> Derivatives:
        """f, its gradient and two Hessians in γ, at one γ per gene."""
        return profile_derivatives(self._moments(gamma, genes), self.dof)

    # ---- optimisation ------------------------------------------------------------------------

    def _grid_start(self, genes: Grouped) -> Array:
        """Best point of a coarse grid that genes share, (genes, 2)."""
        groups, means = self.groups, self._means
        largest = [np.add.reduceat(groups.sizes, groups.starts[:-1]).max(), groups.sizes.max()]
        outer_axis, inner_axis = grid_axes(largest)
        best, gamma = np.full(len(genes.e), np.inf), np.zeros((len(genes.e), 2))
        for inner in inner_axis:
            # what does not depend on the outer component
            d = groups.sizes / (1.0 + inner * groups.sizes)
            dy = genes.means * d
            sy = np.add.reduceat(dy, groups.starts[:-1], axis=1)
            xr = genes.xr + dy @ means
            rr = genes.rr + np.einsum("gj,gj->g", dy, genes.means)
            for outer in outer_axis:
                log_det, phi, s, root = _shared(outer, inner, groups, self.reml)
                b = (xr - (sy * phi) @ s) @ root
                Q = rr - (sy**2) @ phi - np.einsum("gp,gp->g", b, b)
                f = self.dof * np.log(np.maximum(Q, 1e-300)) + log_det
                better = (f < best) & (Q > 0)
                best[better], gamma[better] = f[better], (outer, inner)
        return gamma[:, self.order]

    def optimise(self, genes: Grouped, start: Array | None, max_iter: int, tol: float) -> Optimum:
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

    def residual_variance(self, gamma: Array, genes: Grouped) -> Array:
        """σ² = Q(γ)/m, (genes,)."""
        return self._least_squares(gamma, genes)[1] / self.dof

    def is_positive_definite(self, gamma: Array) -> Array:
        """Whether V = I + Σ γ_k Z_kZ_k' is positive definite, (genes,) bool."""
        definite = np.ones(len(gamma), dtype=bool)
        for g in np.flatnonzero((gamma < 0).any(1)):
            outer, inner = gamma[g, self.order]
            definite[g] = _weights(outer, inner, self.groups)[-1] == 0
        return definite

    def coefficients(self, gamma: Array, genes: Grouped) -> Array:
        """Generalised least squares in the orthonormal basis of X, (genes, p)."""
        return genes.xy + self._least_squares(gamma, genes)[2] @ self.projection.R.T

    def covariance(self, gamma: Array) -> Array:
        """Covariance of `coefficients` for σ² = 1, (genes, p, p)."""
        R = self.projection.R
        return R @ _inverses(self._ordered(gamma), self.groups) @ R.T

    def score(self, gamma: Array, variance: Array, genes: Grouped) -> Array:
        """Gradient of the log-likelihood in θ, (genes, 3)."""
        return theta_score(self._moments(gamma, genes), gamma, variance, self.dof)

    def information(self, gamma: Array, variance: Array, genes: Grouped) -> tuple[Array, Array]:
        """Return the expected and the observed information of θ, each (genes, 3, 3)."""
        return theta_information(self._moments(gamma, genes), gamma, variance, self.dof)

    def variance_forms(
        self, gamma: Array, variance: Array, left: Array, right: Array
    ) -> VarianceForms:
        """Bilinear forms a'Φb of the columns of `left`, `right` (p, C), orthonormal basis."""
        R, s0 = self.projection.R, variance
        value, first, second = _variance_forms(
            self._ordered(gamma), self.groups, R.T @ left, R.T @ right
        )
        first = first[:, :, self.order]
        second = second[:, :, self.order][:, :, :, self.order] / s0[:, None, None, None]
        theta = np.concatenate([gamma * s0[:, None], s0[:, None]], axis=1)
        return by_homogeneity(value * s0[:, None], first, second, theta)

    def blup(self, gamma: Array, genes: Grouped) -> Array:
        """Predicted random effects γ_k Z_k'W⁻¹(y - Xβ̂), (genes, q)."""
        blocks = self.projection.blocks
        u = _random_effects(self._ordered(gamma), self.groups, genes.means, genes.xr, genes.rr)
        full = np.empty((len(gamma), sum(self.projection.component_sizes)))
        outer, inner = self.order
        full[:, blocks[outer]] = u[0]
        full[:, blocks[inner].start + self.position] = u[1]
        return np.repeat(gamma, self.projection.component_sizes, axis=1) * full


def _split_fixed(ZtX: Array, sizes: Array, R: Array) -> tuple[sparse.csr_array, Array]:
    """Group means of X, and X'X within groups; exactly zero for columns constant within groups."""
    XtX = R.T @ R
    ZtX = np.where(np.abs(ZtX) > 1e-13 * np.sqrt(np.outer(sizes, np.diag(XtX))), ZtX, 0.0)
    means = ZtX / sizes[:, None]
    within = XtX - ZtX.T @ means
    constant = np.diag(within) <= CONSTANT_WITHIN * np.diag(XtX)
    within[constant] = 0.0
    within[:, constant] = 0.0
    return sparse.csr_array(means), np.ascontiguousarray(within + within.T) / 2


# ---- compiled kernels: one gene at a time --------------------------------------------------------


@numba.njit(cache=True)
def _weights(outer, inner, groups):  # type: ignore[no-untyped-def]
    """d, τ, ψ, φ, log|W| and the number of negative eigenvalues of W."""
    a = 1.0 + inner * groups.sizes
    d = groups.sizes / a
    subjects = len(groups.starts) - 1
    tau, psi, negative = np.zeros(subjects), np.empty(subjects), 0
    log_det = np.log(np.abs(a)).sum()
    for i in range(subjects):
        for g in range(groups.starts[i], groups.starts[i + 1]):
            tau[i] += d[g]
            negative += a[g] < 0
        psi[i] = 1.0 + outer * tau[i]
        # A rank-one update moves one eigenvalue through zero where ψ changes sign.
        if psi[i] < 0:
            negative += -1 if outer > 0 else 1
    log_det += np.log(np.abs(psi)).sum()
    return d, tau, psi, outer / psi, log_det, negative


@numba.njit(cache=True)
def _subject_sums(weights, groups):  # type: ignore[no-untyped-def]
    """Σ_{g∈i} w_g x_g, (subjects, p)."""
    s = np.zeros((len(groups.starts) - 1, len(groups.within)))
    for i in range(len(s)):
        for g in range(groups.starts[i], groups.starts[i + 1]):
            for j in range(groups.indptr[g], groups.indptr[g + 1]):
                s[i, groups.columns[j]] += weights[g] * groups.values[j]
    return s


@numba.njit(cache=True)
def _squares(weights, groups):  # type: ignore[no-untyped-def]
    """Σ_g w_g x_g x_g', (p, p)."""
    p = len(groups.within)
    total = np.zeros((p, p))
    for g in range(len(weights)):
        first, last = groups.indptr[g], groups.indptr[g + 1]
        for j in range(first, last):
            scaled = weights[g] * groups.values[j]
            row = total[groups.columns[j]]
            for k in range(first, j + 1):
                row[groups.columns[k]] += scaled * groups.values[k]
    for i in range(p):
        for j in range(i):
            total[j, i] = total[i, j]
    return total


@numba.njit(cache=True)
def _higher_sums(d, groups):  # type: ignore[no-untyped-def]
    """`_subject_sums` and `_squares` of d² and d³, and Σ d² and Σ d³ by subject, in one pass."""
    m, p = len(groups.starts) - 1, len(groups.within)
    r2, r3, S2, S3 = np.zeros((m, p)), np.zeros((m, p)), np.zeros((p, p)), np.zeros((p, p))
    e2, e3 = np.zeros(m), np.zeros(m)
    for i in range(m):
        for g in range(groups.starts[i], groups.starts[i + 1]):
            d2, first = d[g] * d[g], groups.indptr[g]
            e2[i] += d2
            e3[i] += d[g] * d2
            for j in range(first, groups.indptr[g + 1]):
                row, scaled = groups.columns[j], d2 * groups.values[j]
                r2[i, row] += scaled
                r3[i, row] += d[g] * scaled
                for k in range(first, j + 1):
                    square = scaled * groups.values[k]
                    S2[row, groups.columns[k]] += square
                    S3[row, groups.columns[k]] += d[g] * square
    for i in range(p):
        for j in range(i):
            S2[j, i], S3[j, i] = S2[i, j], S3[i, j]
    return r2, r3, S2, S3, e2, e3


@numba.njit(cache=True)
def _product(left, weights, right):  # type: ignore[no-untyped-def]
    """Symmetric part of Σ_i w_i left_i right_i'."""
    half = np.dot(left.T, weights.reshape(-1, 1) * right)
    return 0.5 * (half + half.T)


@numba.njit(cache=True)
def _fixed_product(d, phi, s, groups):  # type: ignore[no-untyped-def]
    """C = X'W⁻¹X."""
    return groups.within + _squares(d, groups) - _product(s, phi, s)


@numba.njit(cache=True)
def _factor(C):  # type: ignore[no-untyped-def]
    """C = L diag(pivots) L' with unit L; the signs of the pivots are those of C's eigenvalues."""
    p = len(C)
    L, pivots = np.eye(p), np.empty(p)
    scaled = np.empty(p)
    for i in range(p):
        for j in range(i):
            total = C[i, j]
            for k in range(j):
                total -= scaled[k] * L[j, k]
            scaled[j] = total
            L[i, j] = total / pivots[j]
        total = C[i, i]
        for k in range(i):
            total -= scaled[k] * L[i, k]
        pivots[i] = total
    return L, pivots


@numba.njit(cache=True)
def _invert_factor(L):  # type: ignore[no-untyped-def]
    """L⁻¹ of a unit lower triangle."""
    p = len(L)
    inverse = np.eye(p)
    for i in range(p):
        for k in range(i):
            weight = L[i, k]
            for j in range(k + 1):
                inverse[i, j] -= weight * inverse[k, j]
    return inverse


@numba.njit(cache=True)
def _inverse(C):  # type: ignore[no-untyped-def]
    """C⁻¹, log|C| and the number of negative eigenvalues of C."""
    L, pivots = _factor(C)
    root = _invert_factor(L)
    inverse = np.dot(root.T, root / pivots.reshape(-1, 1))
    return inverse, np.log(np.abs(pivots)).sum(), (pivots < 0).sum()


@numba.njit(cache=True)
def _domain(log_det_W, negative_W, log_det_C, negative_C, reml):  # type: ignore[no-untyped-def]
    """Log-determinant of the objective: infinite where its matrix is not positive definite.

    For ML that is W; for REML it is W on the complement of X, whose negative eigenvalues are those
    of W less those of C.
    """
    if reml:
        return log_det_W + log_det_C if negative_W == negative_C else np.inf
    return log_det_W if negative_W == 0 else np.inf


@numba.njit(cache=True)
def _group_dot(groups, g, vector):  # type: ignore[no-untyped-def]
    """x_g'v."""
    total = 0.0
    for j in range(groups.indptr[g], groups.indptr[g + 1]):
        total += groups.values[j] * vector[groups.columns[j]]
    return total


@numba.njit(cache=True)
def _fixed_response(d, phi, s, groups, means, xr):  # type: ignore[no-untyped-def]
    """X'W⁻¹r."""
    b = xr.copy()
    for i in range(len(phi)):
        total = 0.0
        for g in range(groups.starts[i], groups.starts[i + 1]):
            weighted = d[g] * means[g]
            total += weighted
            for j in range(groups.indptr[g], groups.indptr[g + 1]):
                b[groups.columns[j]] += weighted * groups.values[j]
        b -= phi[i] * total * s[i]
    return b


@numba.njit(cache=True)
def _residuals(d, phi, groups, means, xr, rr, delta):  # type: ignore[no-untyped-def]
    """Group means ζ of r - Xδ, their sums σ_i = Σ d ζ, and Q = (r - Xδ)'W⁻¹(r - Xδ)."""
    zeta, sigma = np.empty(len(d)), np.zeros(len(phi))
    Q = rr - 2.0 * np.dot(xr, delta) + np.dot(delta, np.dot(groups.within, delta))
    for i in range(len(phi)):
        for g in range(groups.starts[i], groups.starts[i + 1]):
            zeta[g] = means[g] - _group_dot(groups, g, delta)
            sigma[i] += d[g] * zeta[g]
            Q += d[g] * zeta[g] ** 2
        Q -= phi[i] * sigma[i] ** 2
    return zeta, sigma, Q


@numba.njit(cache=True, parallel=True)
def _least_squares(gamma, groups, means, xr, rr, reml):  # type: ignore[no-untyped-def]
    """Log-determinant of the objective, Q and δ = C⁻¹X'W⁻¹r per gene."""
    n, p = xr.shape
    log_det, Q, delta = np.empty(n), np.empty(n), np.empty((n, p))
    for gene in numba.prange(n):
        d, _, _, phi, log_det_W, negative = _weights(gamma[gene, 0], gamma[gene, 1], groups)
        s = _subject_sums(d, groups)
        inverse, log_det_C, negative_C = _inverse(_fixed_product(d, phi, s, groups))
        log_det[gene] = _domain(log_det_W, negative, log_det_C, negative_C, reml)
        delta[gene] = np.dot(inverse, _fixed_response(d, phi, s, groups, means[gene], xr[gene]))
        Q[gene] = _residuals(d, phi, groups, means[gene], xr[gene], rr[gene], delta[gene])[2]
    return log_det, Q, delta


@numba.njit(cache=True)
def _shared(outer, inner, groups, reml):  # type: ignore[no-untyped-def]
    """At a γ that genes share: log-determinant, φ, s and a root of C⁻¹."""
    d, _, _, phi, log_det_W, negative = _weights(outer, inner, groups)
    s = _subject_sums(d, groups)
    L, pivots = _factor(_fixed_product(d, phi, s, groups))
    root = _invert_factor(L) / np.sqrt(pivots).reshape(-1, 1)
    log_det_C = np.log(np.abs(pivots)).sum()
    log_det = _domain(log_det_W, negative, log_det_C, (pivots < 0).sum(), reml)
    return log_det, phi, s, root.T.copy()


@numba.njit(cache=True)
def _curvature(d, tau, psi, phi, s, groups):  # type: ignore[no-untyped-def]
    """C, and with it G = (G_1, G_2) and H = (H_11, sym H_12, H_22)."""
    p = len(groups.within)
    G, H = np.empty((2, p, p)), np.empty((3, p, p))
    r, r3, S2, S3, e2, e3 = _higher_sums(d, groups)
    # Sums over the groups of a subject, with x_g - φs for U_2:
    # Σ d² (x - φs)(x - φs)',  Σ d³ (x - φs)(x - φs)',  Σ d² (x - φs) = r - φ e2 s
    inner = r - (phi * e2).reshape(-1, 1) * s
    G[0] = _product(s, 1.0 / psi**2, s)
    G[1] = S2 + _product(s, phi, (phi * e2).reshape(-1, 1) * s - 2.0 * r)
    H[0] = _product(s, tau / psi**3, s)
    H[1] = _product(s, 1.0 / psi**2, inner)
    H[2] = S3 - _product(inner, phi, inner)
    H[2] += _product(s, phi, (phi * e3).reshape(-1, 1) * s - 2.0 * r3)
    return G, H, e2, e3


@numba.njit(cache=True)
def _inner(a, b):  # type: ignore[no-untyped-def]
    """tr(a'b)."""
    return (a * b).sum()


@numba.njit(cache=True)
def _traces(d, tau, psi, phi, e2, e3, inverse, G, H, reml, a, aa):  # type: ignore[no-untyped-def]
    """Fill a_k = tr T_kk and aa_kl = ‖T_kl‖², T_kl = D_kl - U_k C⁻¹ U_l' (D_kl for ML)."""
    a[0], a[1] = (tau / psi).sum(), tau.sum() - (phi * e2).sum()
    aa[0, 0] = ((tau / psi) ** 2).sum()
    aa[0, 1] = (e2 / psi**2).sum()
    aa[1, 1] = (e2 - 2.0 * phi * e3 + (phi * e2) ** 2).sum()
    if reml:
        # ‖D - UC⁻¹U'‖² = ‖D‖² - 2 tr C⁻¹U'DU + tr C⁻¹U'U C⁻¹U'U
        first, second = np.dot(inverse, G[0]), np.dot(inverse, G[1])
        a[0] -= np.trace(first)
        a[1] -= np.trace(second)
        aa[0, 0] += _inner(first, first.T) - 2.0 * _inner(inverse, H[0])
        aa[0, 1] += _inner(first, second.T) - 2.0 * _inner(inverse, H[1])
        aa[1, 1] += _inner(second, second.T) - 2.0 * _inner(inverse, H[2])
    aa[1, 0] = aa[0, 1]


@numba.njit(cache=True)
def _quadratics(d, tau, psi, phi, s, zeta, sigma, groups, inverse, q, qq):  # type: ignore[no-untyped-def]
    """Fill q_k = u_k'u_k and qq_kl = u_k'T_kl u_l with u_1 = σ/ψ, u_2 = d(ζ - φσ)."""
    p = len(inverse)
    v = np.zeros((2, p))  # v_k = U_k'u_k
    q[:] = 0.0
    qq[:] = 0.0
    for i in range(len(psi)):
        u1, omega = sigma[i] / psi[i], 0.0
        for g in range(groups.starts[i], groups.starts[i + 1]):
            u2 = d[g] * (zeta[g] - phi[i] * sigma[i])
            weighted = d[g] * u2
            omega += weighted
            q[1] += u2**2
            qq[1, 1] += weighted * u2
            for j in range(groups.indptr[g], groups.indptr[g + 1]):
                v[1, groups.columns[j]] += weighted * groups.values[j]
        q[0] += u1**2
        qq[0, 0] += tau[i] / psi[i] * u1**2
        qq[0, 1] += u1 * omega / psi[i]
        qq[1, 1] -= phi[i] * omega**2
        v[0] += u1 / psi[i] * s[i]
        v[1] -= phi[i] * omega * s[i]
    scaled = np.dot(v, inverse)
    qq[0, 0] -= np.dot(scaled[0], v[0])
    qq[0, 1] -= np.dot(scaled[0], v[1])
    qq[1, 1] -= np.dot(scaled[1], v[1])
    qq[1, 0] = qq[0, 1]


@numba.njit(cache=True, parallel=True)
def _moments(gamma, groups, means, xr, rr, reml):  # type: ignore[no-untyped-def]
    """Q, q, qq, log-determinant, a and aa per gene."""
    n = len(gamma)
    Q, log_det = np.empty(n), np.empty(n)
    q, qq, a, aa = np.empty((n, 2)), np.empty((n, 2, 2)), np.empty((n, 2)), np.empty((n, 2, 2))
    for gene in numba.prange(n):
        d, tau, psi, phi, log_det_W, negative = _weights(gamma[gene, 0], gamma[gene, 1], groups)
        s = _subject_sums(d, groups)
        inverse, log_det_C, negative_C = _inverse(_fixed_product(d, phi, s, groups))
        log_det[gene] = _domain(log_det_W, negative, log_det_C, negative_C, reml)
        delta = np.dot(inverse, _fixed_response(d, phi, s, groups, means[gene], xr[gene]))
        zeta, sigma, Q[gene] = _residuals(d, phi, groups, means[gene], xr[gene], rr[gene], delta)
        _quadratics(d, tau, psi, phi, s, zeta, sigma, groups, inverse, q[gene], qq[gene])
        G, H, e2, e3 = _curvature(d, tau, psi, phi, s, groups)
        _traces(d, tau, psi, phi, e2, e3, inverse, G, H, reml, a[gene], aa[gene])
    return Q, q, qq, log_det, a, aa


@numba.njit(cache=True, parallel=True)
def _inverses(gamma, groups):  # type: ignore[no-untyped-def]
    """C⁻¹ per gene."""
    p = len(groups.within)
    inverses = np.empty((len(gamma), p, p))
    for gene in numba.prange(len(gamma)):
        d, _, _, phi, _, _ = _weights(gamma[gene, 0], gamma[gene, 1], groups)
        s = _subject_sums(d, groups)
        inverses[gene] = _inverse(_fixed_product(d, phi, s, groups))[0]
    return inverses


@numba.njit(cache=True, parallel=True)
def _variance_forms(gamma, groups, left, right):  # type: ignore[no-untyped-def]
    """Per gene, for contrasts a, b and σ² = 1: a'C⁻¹b and its derivatives in γ.

    With A = C⁻¹a, B = C⁻¹b: ∂ = A'G_k B and ∂² = -A'(H_kl + H_kl' - G_kC⁻¹G_l - G_lC⁻¹G_k)B.
    """
    n, C = len(gamma), left.shape[1]
    value, first, second = np.empty((n, C)), np.empty((n, C, 2)), np.empty((n, C, 2, 2))
    for gene in numba.prange(n):
        d, tau, psi, phi, _, _ = _weights(gamma[gene, 0], gamma[gene, 1], groups)
        s = _subject_sums(d, groups)
        inverse = _inverse(_fixed_product(d, phi, s, groups))[0]
        G, H, _, _ = _curvature(d, tau, psi, phi, s, groups)
        A, B = np.dot(inverse, left), np.dot(inverse, right)
        value[gene] = (left * B).sum(0)
        for k in range(2):
            GB = np.dot(G[k], B)
            first[gene, :, k] = (A * GB).sum(0)
            CGB = np.dot(inverse, GB)
            for m in range(2):
                GA, HB = np.dot(G[m], A), np.dot(H[k + m], B)
                second[gene, :, k, m] = (GA * CGB).sum(0) - (A * HB).sum(0)
        second[gene] += second[gene].transpose(0, 2, 1).copy()
    return value, first, second


@numba.njit(cache=True, parallel=True)
def _random_effects(gamma, groups, means, xr, rr):  # type: ignore[no-untyped-def]
    """u_k = Z_k'W⁻¹(y - Xβ̂) per gene."""
    n = len(gamma)
    outer, inner = np.empty((n, len(groups.starts) - 1)), np.empty(means.shape)
    for gene in numba.prange(n):
        d, _, psi, phi, _, _ = _weights(gamma[gene, 0], gamma[gene, 1], groups)
        s = _subject_sums(d, groups)
        inverse = _inverse(_fixed_product(d, phi, s, groups))[0]
        delta = np.dot(inverse, _fixed_response(d, phi, s, groups, means[gene], xr[gene]))
        zeta, sigma, _ = _residuals(d, phi, groups, means[gene], xr[gene], rr[gene], delta)
        outer[gene] = sigma / psi
        for i in range(len(psi)):
            for g in range(groups.starts[i], groups.starts[i + 1]):
                inner[gene, g] = d[g] * (zeta[g] - phi[i] * sigma[i])
    return outer, inner
