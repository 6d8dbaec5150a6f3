"""What is eliminated, at one γ per gene: traces, squares and forms as sums over groups.

With the weights of `flashmm.kernels.eliminated_groups`, the outer component 1, inner components
k, l with groups g ∈ k, and s_i = Σ_{g∈i} d_g x_g,

    D_kl = Z_k'W_1⁻¹Z_l:  D_11 = diag(τ/ψ),  D_1k = d_g/ψ_i,  D_kl = [k = l] diag(d) - φ_i d d',
    U_k = Z_k'W_1⁻¹X̃:  U_1[i] = s_i/ψ_i,  U_k[g] = d_g(x_g - φ_i s_i),
    G_k = U_k'U_k,  H_kl = U_k'D_kl U_l.

One inner component has them as (c, c) matrices, from sums of squares at knots. Several inner
components, K², have U itself and the sums a_ki = Σ_{g∈i,k} d_g u_g, of which traces and forms are
products of matrices: tr N H_kl = [k = l] Σ_{g∈k} d_g u_g'N u_g - Σ_i φ_i a_ki'N a_li.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

from flashmm.kernels.eliminated_groups import Groups, Weights, total

Array = np.ndarray


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


class Quadratics(NamedTuple):
    """Forms of u_k for each eliminated component, the outer one first.

    Attributes
    ----------
    squares : list of (genes,) arrays
        u_k'u_k.
    forms : list of lists of (genes,) arrays
        u_k'D_kl u_l.
    images : list of (genes, c) arrays
        U_k'u_k = X̃'W_1⁻¹Z_k u_k.
    """

    squares: list[Array]
    forms: list[list[Array]]
    images: list[Array]


class ClosedForm(Protocol):
    """What the engine asks of the eliminated components; the outer one, if any, comes first."""

    @property
    def G(self) -> list[Array]:
        """G_k of each component, (genes, c, c)."""

    def traces(self, N: Array) -> tuple[Array, Array]:
        """Tr A_kk and ‖A_kl‖² of A_kl = D_kl - U_k N U_l', N symmetric."""

    def quadratics(self, u: Effects) -> Quadratics:
        """Forms of effects."""

    def forms(self, left: Array, right: Array) -> list[list[Array]]:
        """Forms of v'H_kl w of the columns of `left` and `right` (genes, c, C), each (genes, C)."""


def closed_form(groups: Groups, weights: Weights, s: Array) -> ClosedForm:
    """Choose the form for one inner component, or for several."""
    form = OneInner if len(groups.parts) == 1 else SeveralInner
    return form(groups, weights, s)


@dataclass(frozen=True, eq=False)
class OneInner:
    """One inner component, and an outer one where groups are nested.

    Attributes
    ----------
    groups : Groups
        The design.
    weights : Weights
        W_1.
    s : (genes, outer levels, c) array
        s_i.
    """

    groups: Groups
    weights: Weights
    s: Array

    @property
    def G(self) -> list[Array]:
        """G_k of each component, (genes, c, c)."""
        return self._curvature[0]

    def traces(self, N: Array) -> tuple[Array, Array]:
        """Tr A_kk and ‖A_kl‖² of A_kl = D_kl - U_k N U_l', N symmetric."""
        G, H = self._curvature
        n = len(G)
        a, aa = np.empty((len(N), n)), np.empty((len(N), n, n))
        # ‖D - UNU'‖² = ‖D‖² - 2 tr N U'DU + tr N U'U N U'U
        NG = [N @ Gk for Gk in G]
        traces, squares = self._norms()
        for k in range(n):
            a[:, k] = traces[k] - np.einsum("gcc->g", NG[k])
            for m in range(n):
                cross = 2.0 * H[k][m] * N - NG[k] * NG[m].swapaxes(1, 2)
                aa[:, k, m] = squares[k][m] - np.ascontiguousarray(cross).sum((1, 2))
        return a, aa

    def quadratics(self, u: Effects) -> Quadratics:
        """Forms of effects."""
        groups, weights = self.groups, self.weights
        inner = groups.inner_inner(weights, u.inner)
        squares, forms, sides = [total(u.inner**2)], [[total(u.inner * inner)]], [inner]
        if groups.nested:
            squares.insert(0, total(u.outer**2))
            top = total(weights.tau / weights.psi * u.outer**2)
            across = total(u.outer * groups.outer_inner(weights, u.inner))
            forms = [[top, across], [across, *forms[0]]]
            sides.insert(0, groups.inner_outer(weights, u.outer))
        return Quadratics(squares, forms, [groups.sums(side) for side in sides])

    def forms(self, left: Array, right: Array) -> list[list[Array]]:
        """Forms of v'H_kl w of the columns of `left` and `right` (genes, c, C), each (genes, C)."""
        H = self._curvature[1]
        return [[(left * (Hkl @ right)).sum(1) for Hkl in line] for line in H]

    def _norms(self) -> tuple[list[Array], list[list[Array]]]:
        """Traces of D_kk and squared norms of D_kl."""
        groups, weights = self.groups, self.weights
        d2 = weights.d**2
        e2, e3 = groups.joins @ d2, groups.joins @ (d2 * weights.d)
        phi, ratio = weights.phi, weights.tau / weights.psi
        inner = total(weights.d) - total(phi * e2)
        square = total(d2) + total((phi * e2) ** 2 - 2.0 * phi * e3)
        if not groups.nested:
            return [inner], [[square]]
        across = total(e2 / weights.psi**2)
        return [total(ratio), inner], [[total(ratio**2), across], [across, square]]

    @cached_property
    def _curvature(self) -> tuple[list[Array], list[list[Array]]]:
        """G_k and H_kl."""
        groups, weights, s = self.groups, self.weights, self.s
        d2 = weights.d**2
        d3 = d2 * weights.d
        knots2 = weights.knots**2
        S2, S3 = groups.squares(knots2), groups.squares(knots2 * weights.knots)
        if not groups.nested:
            return [S2], [[S3]]
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
        return [G1, S2 + G2 + G2.swapaxes(1, 2)], [[H11, H12], [H12.swapaxes(1, 2), H22]]


@dataclass(frozen=True, eq=False)
class SeveralInner:
    """Several disjoint inner components; attributes as those of `OneInner`."""

    groups: Groups
    weights: Weights
    s: Array

    @cached_property
    def G(self) -> list[Array]:
        """G_k of each component, (genes, c, c)."""
        parts = [self._U[:, part] for part in self.groups.parts]
        return [U.swapaxes(1, 2) @ U for U in ([self._outer, *parts] if self._nested else parts)]

    def traces(self, N: Array) -> tuple[Array, Array]:
        """Tr A_kk and ‖A_kl‖² of A_kl = D_kl - U_k N U_l', N symmetric."""
        NG = N[:, None] @ np.stack(self.G, axis=1)
        norms, squares = self._norms()
        n, K = NG.shape[:2]
        twisted = NG.swapaxes(2, 3).reshape(n, K, -1)
        NGNG = NG.reshape(n, K, -1) @ twisted.swapaxes(1, 2)
        return norms - np.einsum("gkcc->gk", NG), squares - 2.0 * self._traces_H(N) + NGNG

    def quadratics(self, u: Effects) -> Quadratics:
        """Forms of effects."""
        outer, inner = (np.ascontiguousarray(x.T)[:, :, None] for x in (u.outer, u.inner))
        sides = [(inner[:, part], self._U[:, part]) for part in self.groups.parts]
        if self._nested:
            sides.insert(0, (outer, self._outer))
        forms = self._forms(outer, inner, outer, inner)[..., 0]
        K = range(len(sides))
        return Quadratics(
            [(x[:, :, 0] ** 2).sum(1) for x, _ in sides],
            [[forms[:, k, m] for m in K] for k in K],
            [(x.swapaxes(1, 2) @ U)[:, 0] for x, U in sides],
        )

    def forms(self, left: Array, right: Array) -> list[list[Array]]:
        """Forms of v'H_kl w of the columns of `left` and `right` (genes, c, C), each (genes, C)."""
        sides = [(self._outer @ v, self._U @ v) for v in (left, right)]
        forms = self._forms(*sides[0], *sides[1])
        K = range(forms.shape[1])
        return [[forms[:, k, m] for m in K] for k in K]

    @property
    def _nested(self) -> bool:
        return self.groups.nested

    @cached_property
    def _U(self) -> Array:
        """U_k of the inner components, (genes, groups, c)."""
        rows = self.groups.dense_rows
        d, (_, _, phi) = self._by_gene
        if self._nested:
            rows = rows - (phi * self.s)[:, self.groups.parent]
        return d * rows

    @cached_property
    def _outer(self) -> Array:
        """U_1, (genes, outer levels, c)."""
        _, (_, psi, _) = self._by_gene
        return self.s / psi

    def _cells(self, values: Array) -> Array:
        """Σ_{g∈i,k} of values (genes, groups, columns), (genes, parts, outer levels, columns)."""
        groups = self.groups
        n_outer, n_columns = groups.joins.shape[0], values.shape[2]
        sums = np.zeros((len(values), len(groups.parts), n_outer, n_columns))
        if self._nested:
            first, part, level = groups.cells
            alone = len(first) == values.shape[1]
            sums[:, part, level] = values if alone else np.add.reduceat(values, first, axis=1)
        return sums

    def _by_part(self, values: Array) -> Array:
        """Σ_{g∈k} of values (genes, groups, columns), (genes, parts, columns)."""
        return np.stack([values[:, part].sum(1) for part in self.groups.parts], axis=1)

    def _norms(self) -> tuple[Array, Array]:
        """Traces of D_kk (genes, K), and squared norms of D_kl (genes, K, K)."""
        d, (tau, psi, phi) = self._by_gene
        e2, e3 = self._cells(d**2)[..., 0], self._cells(d**3)[..., 0]
        phi = phi.swapaxes(1, 2)
        traces = self._by_part(d)[..., 0] - (phi * e2).sum(2)
        squares = (phi**2 * e2) @ e2.swapaxes(1, 2)
        _add_diagonal(squares, self._by_part(d**2)[..., 0] - 2.0 * (phi * e3).sum(2))
        if not self._nested:
            return traces, squares
        ratio = tau / psi
        across = e2 @ (1.0 / psi**2)
        squares = _bordered((ratio**2).sum(1), across[..., 0], across[..., 0], squares)
        return np.concatenate([ratio.sum(1), traces], axis=1), squares

    def _traces_H(self, N: Array) -> Array:
        """Tr N H_kl, (genes, K, K)."""
        d, (tau, psi, phi) = self._by_gene
        weighted = d * self._U
        a = self._cells(weighted)
        n, K = a.shape[:2]
        Na = (a @ N[:, None]).reshape(n, K, -1).swapaxes(1, 2)
        inner = -(phi[:, None] * a).reshape(n, K, -1) @ Na
        _add_diagonal(
            inner, self._by_part(((self._U @ N) * weighted).sum(2, keepdims=True))[..., 0]
        )
        if not self._nested:
            return inner
        top = (((self._outer @ N) * self._outer).sum(2, keepdims=True) * (tau / psi)).sum((1, 2))
        across = ((self._outer / psi).reshape(n, 1, -1) @ Na)[:, 0]
        return _bordered(top[:, None], across, across, inner)

    def _forms(self, outer_a: Array, a: Array, outer_b: Array, b: Array) -> Array:
        """a_k'D_kl b_l of vectors (genes, levels, C), (genes, K, K, C)."""
        d, (tau, psi, phi) = self._by_gene
        of_a, of_b = (np.moveaxis(self._cells(d * x), 3, 1) for x in (a, b))
        inner = np.moveaxis(-(of_a * phi[:, None].swapaxes(2, 3)) @ of_b.swapaxes(2, 3), 1, 3)
        _add_diagonal(inner, self._by_part(d * a * b))
        if not self._nested:
            return inner
        # D_1k b_k = Σ_{g∈i,k} d_g b_g / ψ_i
        rows = np.einsum("gic,gcki->gkc", outer_a / psi, of_b)
        columns = np.einsum("gic,gcki->gkc", outer_b / psi, of_a)
        return _bordered((tau / psi * outer_a * outer_b).sum(1), rows, columns, inner)

    @cached_property
    def _by_gene(self) -> tuple[Array, tuple[Array, Array, Array]]:
        """The weights d (genes, groups, 1), and τ, ψ, φ (genes, outer levels, 1)."""
        d, tau, psi, phi = (
            np.ascontiguousarray(x.T)[:, :, None]
            for x in (self.weights.d, self.weights.tau, self.weights.psi, self.weights.phi)
        )
        return d, (tau, psi, phi)


def _add_diagonal(squares: Array, values: Array) -> None:
    """Add values (genes, K, ...) to the diagonals of (genes, K, K, ...)."""
    k = np.arange(squares.shape[1])
    squares[:, k, k] += values


def _bordered(top: Array, row: Array, column: Array, inner: Array) -> Array:
    """Square forms (genes, K, K, ...) with a first row and column for the outer component.

    The corner `top` is (genes, 1) or (genes, C), `row` and `column` (genes, K, ...).
    """
    n, K = inner.shape[:2]
    full = np.empty((n, K + 1, K + 1, *inner.shape[3:]))
    full[:, 0, 0] = top.reshape(full[:, 0, 0].shape)
    full[:, 0, 1:], full[:, 1:, 0], full[:, 1:, 1:] = row, column, inner
    return full
