"""What is eliminated, at one γ per gene: traces, squares and forms as sums over groups.

With the weights of `flashmm.kernels.eliminated_groups`, the outer component 1, inner components
k, l with groups g ∈ k, and s_i = Σ_{g∈i} d_g x_g,

    D_kl = Z_k'W_1⁻¹Z_l:  D_11 = diag(τ/ψ),  D_1k = d_g/ψ_i,  D_kl = [k = l] diag(d) - φ_i d d',
    U_k = Z_k'W_1⁻¹X̃:  U_1[i] = s_i/ψ_i,  U_k[g] = d_g(x_g - φ_i s_i),
    G_k = U_k'U_k,  H_kl = U_k'D_kl U_l.

One inner component has them as (c, c) matrices, from sums of squares at knots. Several inner
components have K² of them, so that only forms and traces are made:
tr N H_kl = [k = l] Σ_{g∈k} d_g u_g'N u_g - Σ_i φ_i Σ_{g∈i,k} Σ_{h∈i,l} d_g d_h u_g'N u_h.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

from flashmm.kernels.disjoint_sums import AtGamma, effect_sums, square_sums, trace_sums
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
        inner = square_sums(self.groups.layout, self._at, self.s.shape[2])
        outer = [self._outer.swapaxes(1, 2) @ self._outer] if self.groups.nested else []
        return [*outer, *np.moveaxis(inner, 1, 0)]

    def traces(self, N: Array) -> tuple[Array, Array]:
        """Tr A_kk and ‖A_kl‖² of A_kl = D_kl - U_k N U_l', N symmetric."""
        NG = N[:, None] @ np.stack(self.G, axis=1)
        traces, norms, H = trace_sums(self.groups.layout, self._at, np.ascontiguousarray(N))
        n, K, c, _ = NG.shape
        rows = NG.reshape(n, K, c * c)
        columns = NG.swapaxes(2, 3).reshape(rows.shape).swapaxes(1, 2)
        return traces - np.einsum("gkcc->gk", NG), norms - 2.0 * H + rows @ columns

    def quadratics(self, u: Effects) -> Quadratics:
        """Forms of effects."""
        outer, inner = np.ascontiguousarray(u.outer.T), np.ascontiguousarray(u.inner.T)
        layout, c = self.groups.layout, self.s.shape[2]
        squares, forms, images = effect_sums(layout, self._at, outer, inner, c)
        return Quadratics(list(squares.T), _nested_lists(forms), list(np.moveaxis(images, 1, 0)))

    def forms(self, left: Array, right: Array) -> list[list[Array]]:
        """Forms of v'H_kl w of the columns of `left` and `right` (genes, c, C), each (genes, C)."""
        at = self._at
        d, tau, psi, phi = (x[:, :, None] for x in (at.d, at.tau, at.psi, at.phi))
        U = d * self.groups.dense_rows
        if self.groups.nested:
            U -= d * (phi * self.s)[:, self.groups.parent]
        a, b = U @ left, U @ right
        of_a, of_b = (np.moveaxis(self._cells(d * x), 3, 1) for x in (a, b))
        # D_kl = [k = l] diag(d) - φ d d' by outer levels
        inner = np.moveaxis(-(of_a * phi[:, None].swapaxes(2, 3)) @ of_b.swapaxes(2, 3), 1, 3)
        k = np.arange(inner.shape[1])
        product = d * a * b
        inner[:, k, k] += np.stack([product[:, part].sum(1) for part in self.groups.parts], axis=1)
        if not self.groups.nested:
            return _nested_lists(inner)
        # D_1k b_k = Σ_{g∈i,k} d_g b_g / ψ_i
        a, b = self._outer @ left, self._outer @ right
        row = np.einsum("gic,gcki->gkc", a / psi, of_b)
        column = np.einsum("gic,gcki->gkc", b / psi, of_a)
        return _nested_lists(_bordered((tau / psi * a * b).sum(1), row, column, inner))

    @cached_property
    def _at(self) -> AtGamma:
        """The weights, genes first."""
        w = self.weights
        return AtGamma(*map(np.ascontiguousarray, (w.d.T, w.tau.T, w.psi.T, w.phi.T, self.s)))

    @cached_property
    def _outer(self) -> Array:
        """U_1, (genes, outer levels, c)."""
        return self.s / self._at.psi[:, :, None]

    def _cells(self, values: Array) -> Array:
        """Σ_{g∈i,k} of values (genes, groups, columns), (genes, parts, outer levels, columns)."""
        groups = self.groups
        sums = np.zeros((len(values), len(groups.parts), groups.joins.shape[0], values.shape[2]))
        if groups.nested:
            first, part, level = groups.cells
            sums[:, part, level] = np.add.reduceat(values, first, axis=1)
        return sums


def _nested_lists(forms: Array) -> list[list[Array]]:
    """Forms (genes, K, K, ...) as lists of lists of (genes, ...)."""
    K = range(forms.shape[1])
    return [[forms[:, k, m] for m in K] for k in K]


def _bordered(top: Array, row: Array, column: Array, inner: Array) -> Array:
    """Square forms (genes, K, K, ...) with a first row and column for the outer component.

    The corner `top` is (genes, 1) or (genes, C), `row` and `column` (genes, K, ...).
    """
    n, K = inner.shape[:2]
    full = np.empty((n, K + 1, K + 1, *inner.shape[3:]))
    full[:, 0, 0] = top.reshape(full[:, 0, 0].shape)
    full[:, 0, 1:], full[:, 1:, 0], full[:, 1:, 1:] = row, column, inner
    return full
