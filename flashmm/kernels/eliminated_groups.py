"""A design whose random levels are groups: sums over groups, and within them.

The eliminated components (`flashmm.kernels.structure`) have the groups g as levels, n_g cells each,
γ_{k(g)} the component of a group, and an outer component may join groups, subjects i. With
W_1 = I + γ_1 Z_1Z_1' + Z_2 diag(γ_{k(g)}) Z_2' and group means x_g, y_g (n_g⁻¹ Z_2'x), for any
columns x and y with product w within groups,

    x'W_1⁻¹y = w + Σ_g d_g x_g y_g - Σ_i φ_i (Σ_{g∈i} d_g x_g)(Σ_{g∈i} d_g y_g)
    log |W_1| = Σ_g log a_g + Σ_i log ψ_i,
    a_g = 1 + γ_{k(g)} n_g,  d_g = n_g/a_g,  τ_i = Σ_{g∈i} d_g,  ψ_i = 1 + γ_1 τ_i,  φ_i = γ_1/ψ_i.

A group's row of X̃ has few non-zeros: sums of squares Σ_g w_g x_g x_g' are one sparse product for
many genes.

**Knots.** The weights in these sums are powers of d = 1/(1/n + γ), for γ ≥ 0 smooth in log n:
their poles are ±iπ away. Where all groups have one γ, with polynomials l_j that are one at knot n_j
and zero at the others, d^r(n) = Σ_j l_j(n) d^r(n_j) to the last digits whatever γ, by 20 knots for
sizes n up to four times as large as others, and as many again for larger ones:

    Σ_g d_g^r x_g x_g' = Σ_j d^r(n_j) B_j,   B_j = Σ_g l_j(n_g) x_g x_g'.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from flashmm.kernels.disjoint_sums import Layout
from flashmm.kernels.engine import each
from flashmm.kernels.interpolation import cardinal, chebyshev_points
from flashmm.kernels.structure import Elimination

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
    """The design in groups; X̃ has a basis of X (`EliminatedModel.basis`), then the rest of Z.

    Attributes
    ----------
    sizes : (groups,) array
        n_g.
    parts : list of slice
        Groups of each inner component.
    parent : (groups,) int array
        Outer level of each group; empty where there is no outer component.
    joins : (outer levels, groups) sparse array
        M'; no rows where there is no outer component.
    knots : (knots,) array
        Sizes whose weights give the sums of squares; `sizes` itself where that is as fast, or where
        there are several inner components.
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
    parts: list[slice]
    parent: Array
    knots: Array
    joins: sparse.csr_array
    rows: Any
    outer_rows: sparse.csr_array
    pairs: Any
    triangle: Array
    within: Array

    @classmethod
    def build(
        cls, found: Elimination, n_outer: int, ZtX: Array, XtX: Array, nonnegative: bool
    ) -> Groups:
        """Split the products of X̃ into those between groups, from Z_2'X̃, and those within."""
        parent, sizes = found.parent, found.sizes
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
        if nonnegative and len(found.parts) == 1 and FEWER * len(knots) < G:
            pairs = _weighted_pairs(kept, shares)
        else:
            knots, pairs = sizes, _pairs(rows[:0] if dense else rows)
        return cls(
            sizes, found.parts, parent, knots, joins, kept, outer_rows, pairs, triangle, within
        )

    @property
    def nested(self) -> bool:
        """Whether an outer component joins groups."""
        return self.joins.shape[0] > 0

    @cached_property
    def dense_rows(self) -> Array:
        """x_g as a dense (groups, c) array."""
        return self.rows if isinstance(self.rows, np.ndarray) else self.rows.toarray()

    @cached_property
    def cells(self) -> tuple[Array, Array, Array]:
        """First group of each pair of a part and an outer level, its part and its level."""
        part = self.layout.part
        change = (np.diff(part) != 0) | (np.diff(self.parent) != 0)
        first = np.append(0, np.flatnonzero(change) + 1)
        return first, part[first], self.parent[first]

    @cached_property
    def layout(self) -> Layout:
        """Where the groups are, for compiled sums."""
        rows, n_outer = sparse.csr_array(self.rows), self.joins.shape[0]
        starts = np.searchsorted(np.sort(self.parent), np.arange(n_outer + 1))
        return Layout(
            rows.indptr.astype(np.int64),
            rows.indices.astype(np.int64),
            rows.data.astype(np.float64),
            np.repeat(np.arange(len(self.parts)), [p.stop - p.start for p in self.parts]),
            len(self.parts),
            starts if n_outer else np.zeros(0, dtype=np.int64),
            np.argsort(self.parent, kind="stable"),
        )

    def weights(self, inner: Array, outer: Array) -> Weights:
        """W_1 at γ of the inner components (genes, parts) and of the outer one (genes,)."""
        lengths = [part.stop - part.start for part in self.parts]
        # one γ for all groups is not repeated
        of_groups = inner[:, 0] if len(lengths) == 1 else np.repeat(inner.T, lengths, axis=0)
        sizes = self.sizes[:, None]
        a = _one_plus(sizes * of_groups)
        d = sizes / a
        knots = self.knots[:, None]
        at_knots = d if self.knots is self.sizes else knots / (1.0 + knots * of_groups)
        tau = self.joins @ d
        psi = _one_plus(outer * tau)
        log_det = total(np.log(np.abs(a))) + total(np.log(np.abs(psi)))
        # A rank-one update moves one eigenvalue through zero where ψ changes sign.
        negative = (a < 0).sum(0) - np.sign(outer) * (psi < 0).sum(0)
        return Weights(d, at_knots, tau, psi, outer / psi, log_det, negative)

    def cross(self, weights: Weights) -> tuple[Array, Array]:
        """S and C = X̃'W_1⁻¹X̃."""
        s = self.by_outer(weights.d)
        C = self.squares(weights.knots) + self.within
        C -= s.swapaxes(1, 2) @ (weights.phi.T[:, :, None] * s)
        return s, C

    # D_kl x = Z_k'W_1⁻¹Z_l x of x (levels, genes), all inner components as one

    def inner_inner(self, weights: Weights, x: Array) -> Array:
        """D_22 x = d(x - φ Σ_{g∈i} d x)."""
        joins = self.joins
        return weights.d * (x - joins.T @ (weights.phi * (joins @ (weights.d * x))))

    def outer_inner(self, weights: Weights, x: Array) -> Array:
        """D_12 x."""
        return (self.joins @ (weights.d * x)) / weights.psi

    def inner_outer(self, weights: Weights, x: Array) -> Array:
        """D_21 x."""
        return weights.d * (self.joins.T @ (x / weights.psi))

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


def _one_plus(x: Array) -> Array:
    """1 + x; where that is exactly singular, the next number."""
    total = 1.0 + x
    total[total == 0] = np.finfo(float).eps
    return total


def total(x: Array) -> Array:
    """Sum over the levels of (levels, genes), level by level for one gene as for many."""
    if x.shape[1] == 1:
        x = np.repeat(x, 2, axis=1)
        return np.asarray(x.sum(0)[:1])
    return np.asarray(np.ascontiguousarray(x).sum(0))
