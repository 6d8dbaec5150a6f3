"""Compiled sums over the groups of several disjoint components, gene by gene.

Notation as in `flashmm.kernels.closed_form`. With rows x_g of few non-zeros and, for groups g and h
of one outer level i,

    u_g'N u_h = d_g d_h (x_g'N x_h - φ_i (x_g + x_h)'N s_i + φ_i² s_i'N s_i),

traces of products with a matrix N cost as many multiplications as there are pairs of groups within
outer levels, and nothing that is long is made. All functions are compiled at first use, are kept
on disk, and run without holding the interpreter's lock. Arrays are not assigned to slices of
others: the check of their shapes takes numba longer to compile than the sums.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

Array = np.ndarray


class Layout(NamedTuple):
    """Where the groups are.

    Attributes
    ----------
    first, column, value : (groups + 1,), (non-zeros,), (non-zeros,) arrays
        Rows x_g, compressed.
    part : (groups,) int array
        Inner component of each group, counted from zero; groups of a part lie side by side.
    n_parts : int
        Number of inner components.
    level_first, of_level : (outer levels + 1,), (groups,) int arrays
        Groups of each outer level; both are empty without an outer component.
    """

    first: Array
    column: Array
    value: Array
    part: Array
    n_parts: int
    level_first: Array
    of_level: Array


class AtGamma(NamedTuple):
    """W_1 at one γ per gene.

    Attributes
    ----------
    d : (genes, groups) array
    tau, psi, phi : (genes, outer levels) arrays
    s : (genes, outer levels, c) array
    """

    d: Array
    tau: Array
    psi: Array
    phi: Array
    s: Array


@njit(cache=True, nogil=True)
def _row_times(layout: Layout, g: int, vector: Array) -> float:
    """x_g'v."""
    total = 0.0
    for k in range(layout.first[g], layout.first[g + 1]):
        total += layout.value[k] * vector[layout.column[k]]
    return total


@njit(cache=True, nogil=True)
def _times_row(layout: Layout, g: int, N: Array, product: Array) -> None:
    """N x_g into `product`."""
    product[:] = 0.0
    for k in range(layout.first[g], layout.first[g + 1]):
        value, row = layout.value[k], N[layout.column[k]]
        for j in range(len(product)):
            product[j] += value * row[j]


@njit(cache=True, nogil=True)
def _add_times(total: Array, factor: float, vector: Array) -> None:
    """Add a multiple of a vector."""
    for j in range(len(vector)):
        total[j] += factor * vector[j]


@njit(cache=True, nogil=True)
def square_sums(layout: Layout, at: AtGamma, c: int) -> Array:
    """G_k = U_k'U_k of the inner components, (genes, parts, c, c)."""
    n_genes, n_groups = at.d.shape
    G = np.empty((n_genes, layout.n_parts, c, c))
    parent = np.empty(n_groups, dtype=np.int64)
    for i in range(len(layout.level_first) - 1):
        for k in range(layout.level_first[i], layout.level_first[i + 1]):
            parent[layout.of_level[k]] = i
    U = np.empty((n_groups, c))
    bounds = np.zeros(layout.n_parts + 1, dtype=np.int64)
    for g in range(n_groups):
        bounds[layout.part[g] + 1] += 1
    for k in range(layout.n_parts):
        bounds[k + 1] += bounds[k]
    for gene in range(n_genes):
        d = at.d[gene]
        for g in range(n_groups):
            U[g] = 0.0
            for k in range(layout.first[g], layout.first[g + 1]):
                U[g, layout.column[k]] = d[g] * layout.value[k]
            if len(layout.of_level):
                i = parent[g]
                weight, s = d[g] * at.phi[gene, i], at.s[gene, i]
                for j in range(c):
                    U[g, j] -= weight * s[j]
        for k in range(layout.n_parts):
            of_part = U[bounds[k] : bounds[k + 1]]
            np.dot(of_part.T, of_part, G[gene, k])
    return G


@njit(cache=True, nogil=True)
def trace_sums(layout: Layout, at: AtGamma, N: Array) -> tuple[Array, Array, Array]:
    """Tr D_kk (genes, K), ‖D_kl‖² and tr N H_kl (genes, K, K); first the outer one, if any."""
    n_genes, n_groups = at.d.shape
    n_levels = len(layout.level_first) - 1 if len(layout.of_level) else 0
    o = 1 if n_levels else 0
    K = layout.n_parts + o
    traces, norms = np.zeros((n_genes, K)), np.zeros((n_genes, K, K))
    H = np.zeros((n_genes, K, K))
    of_s, of_part, Nx = np.zeros(n_groups), np.zeros(K), np.zeros(N.shape[1])
    for gene in range(n_genes):
        d, n = at.d[gene], N[gene]
        for g in range(n_groups):
            k = layout.part[g] + o
            traces[gene, k] += d[g]
            norms[gene, k, k] += d[g] ** 2
            _times_row(layout, g, n, Nx)
            H[gene, k, k] += d[g] ** 3 * _row_times(layout, g, Nx)
        for i in range(n_levels):
            tau, psi, phi, s = at.tau[gene, i], at.psi[gene, i], at.phi[gene, i], at.s[gene, i]
            Ns = np.dot(n, s)
            sNs = np.dot(s, Ns)
            traces[gene, 0] += tau / psi
            norms[gene, 0, 0] += (tau / psi) ** 2
            H[gene, 0, 0] += tau / psi**3 * sNs
            members = layout.of_level[layout.level_first[i] : layout.level_first[i + 1]]
            of_part[:] = 0.0
            for a in range(len(members)):
                g = members[a]
                k, d2, of_s[g] = layout.part[g] + o, d[g] ** 2, _row_times(layout, g, Ns)
                # D_kk has d - φd² on its diagonal; what φ adds to its square, and to u'Nu
                of_part[k] += d2
                norms[gene, k, k] -= 2.0 * phi * d2 * d[g]
                H[gene, k, k] += d2 * d[g] * phi * (phi * sNs - 2.0 * of_s[g])
                H[gene, 0, k] += d2 / psi**2 * (of_s[g] - phi * sNs)
                _times_row(layout, g, n, Nx)
                for b in range(a + 1):
                    h = members[b]
                    uNu = _row_times(layout, h, Nx) + phi * (phi * sNs - of_s[g] - of_s[h])
                    value = phi * d2 * d[h] ** 2 * uNu
                    m = layout.part[h] + o
                    H[gene, k, m] -= value
                    if a != b:
                        H[gene, m, k] -= value
            for k in range(1, K):
                traces[gene, k] -= phi * of_part[k]
                norms[gene, 0, k] += of_part[k] / psi**2
                for m in range(1, K):
                    norms[gene, k, m] += phi**2 * of_part[k] * of_part[m]
        for k in range(o, K):
            norms[gene, k, 0], H[gene, k, 0] = norms[gene, 0, k], H[gene, 0, k]
    return traces, norms, H


@njit(cache=True, nogil=True)
def effect_sums(
    layout: Layout, at: AtGamma, outer: Array, inner: Array, c: int
) -> tuple[Array, Array, Array]:
    """u_k'u_k (genes, K), u_k'D_kl u_l (genes, K, K) and U_k'u_k (genes, K, c) of effects u."""
    n_genes, n_groups = at.d.shape
    n_levels = len(layout.level_first) - 1 if len(layout.of_level) else 0
    o = 1 if n_levels else 0
    K = layout.n_parts + o
    squares, forms = np.zeros((n_genes, K)), np.zeros((n_genes, K, K))
    images, of_part = np.zeros((n_genes, K, c)), np.zeros(K)
    for gene in range(n_genes):
        d, u = at.d[gene], inner[gene]
        for g in range(n_groups):
            k = layout.part[g] + o
            squares[gene, k] += u[g] ** 2
            forms[gene, k, k] += d[g] * u[g] ** 2
            for j in range(layout.first[g], layout.first[g + 1]):
                images[gene, k, layout.column[j]] += d[g] * u[g] * layout.value[j]
        for i in range(n_levels):
            s, psi, phi, above = at.s[gene, i], at.psi[gene, i], at.phi[gene, i], outer[gene, i]
            of_part[:] = 0.0
            for j in range(layout.level_first[i], layout.level_first[i + 1]):
                g = layout.of_level[j]
                of_part[layout.part[g] + 1] += d[g] * u[g]
            squares[gene, 0] += above**2
            forms[gene, 0, 0] += at.tau[gene, i] / psi * above**2
            _add_times(images[gene, 0], above / psi, s)
            for k in range(1, K):
                if of_part[k] != 0.0:
                    forms[gene, 0, k] += above / psi * of_part[k]
                    _add_times(images[gene, k], -phi * of_part[k], s)
                    for m in range(1, K):
                        forms[gene, k, m] -= phi * of_part[k] * of_part[m]
        for k in range(o, K):
            forms[gene, k, 0] = forms[gene, 0, k]
    return squares, forms, images
