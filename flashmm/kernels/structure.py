"""The covariance of a mixed model as data: components, their levels, what can be eliminated.

V = σ²(I + Σ γ_k Z_kZ_k'): a component is a block of columns of Z, its levels, with one parameter.
What an engine can make use of shows in the blocks of Z'Z alone:

* a block is diagonal where no cell is in two levels of the component, as for a factor;
* the block of two components is zero where no cell is in both, as for the variances of two cell
  types; the levels of disjoint components are groups of cells, each group with
  the γ of its component, γ_{k(g)};
* an outer component joins groups where Z_1 = Z_2 M, as a subject joins its cell types.

A component without columns is the covariance of the two before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

Array = np.ndarray

# Relative difference of sizes that is rounding.
SAME_SIZE = 1e-12


class Elimination(NamedTuple):
    """Which components are eliminated.

    Attributes
    ----------
    outer : int or None
        Position of the component that joins groups.
    inner : list of int
        Positions of the components whose levels are the groups: one, or several disjoint ones.
    rest : list of int
        Positions of the others.
    parent : (groups,) int array
        Level of the outer component that holds each group; empty without.
    sizes : (groups,) array
        n_g, the diagonal of Z_2'Z_2.
    columns : slice or (groups,) int array
        Column of Z of each group, a slice where they lie side by side; levels without cells have
        none.
    parts : list of slice
        Groups of each inner component.
    """

    outer: int | None
    inner: list[int]
    rest: list[int]
    parent: Array
    sizes: Array
    columns: slice | Array
    parts: list[slice]


@dataclass(frozen=True, eq=False)
class CovarianceStructure:
    """Components of the random effects as the blocks of Z'Z show them.

    Attributes
    ----------
    ZtZ : (q, q) sparse array
        Cross-product of the random design, without stored zeros.
    component_sizes : tuple of int
        Columns of Z per component.
    """

    ZtZ: sparse.csr_array
    component_sizes: tuple[int, ...]

    @classmethod
    def of(cls, ZtZ: Any, component_sizes: tuple[int, ...]) -> CovarianceStructure:
        """Structure of a random design; Z'Z dense or sparse."""
        whole = sparse.csr_array(ZtZ, copy=True)
        whole.eliminate_zeros()
        return cls(whole, tuple(component_sizes))

    @property
    def n_components(self) -> int:
        """K."""
        return len(self.component_sizes)

    @cached_property
    def blocks(self) -> list[slice]:
        """Columns of Z of each component."""
        ends = np.cumsum(self.component_sizes)
        return [slice(end - n, end) for end, n in zip(ends, self.component_sizes, strict=True)]

    @cached_property
    def _diagonal(self) -> Array:
        return np.asarray(self.ZtZ.diagonal())

    @cached_property
    def _traces(self) -> list[float]:
        """Trace of each diagonal block."""
        return [float(self._diagonal[block].sum()) for block in self.blocks]

    @cached_property
    def _touching(self) -> Array:
        """Whether some cell is in a level of both components, (K, K) bool."""
        member = np.repeat(np.arange(self.n_components), self.component_sizes)
        at, touching = self.ZtZ.tocoo(), np.zeros((self.n_components,) * 2, dtype=bool)
        touching[member[at.row], member[at.col]] = True
        return touching

    @cached_property
    def factors(self) -> list[int]:
        """Components whose levels exclude each other: their block is diagonal, and not all zero."""
        return [
            k
            for k, block in enumerate(self.blocks)
            if self._touching[k, k] and is_diagonal(self.ZtZ[block][:, block])
        ]

    @cached_property
    def elimination(self) -> Elimination | None:
        """What can be eliminated, leaving the fewest columns; None where nothing can.

        Nothing can beside a covariance, a component without columns (`random_covariance`).
        """
        sets = [] if 0 in self.component_sizes else self._disjoint_sets()
        if not sets:
            return None
        found = [self._eliminated(None, inner, np.zeros(0, dtype=np.int64)) for inner in sets]
        for outer, inner in product(self.factors, sets):
            # Z_1'Z_1 and Z_2'Z_2 have one trace
            total = sum(self._traces[k] for k in inner)
            if outer in inner or not np.isclose(self._traces[outer], total, rtol=SAME_SIZE, atol=0):
                continue
            parent = self._parent(outer, self._groups(inner))
            if parent is not None:
                found.append(self._eliminated(outer, inner, parent))
        return min(found, key=lambda e: sum(self.component_sizes[k] for k in e.rest))

    def _disjoint_sets(self) -> list[list[int]]:
        """Each factor alone, then each with others that are disjoint, larger ones first."""
        by_size = sorted(self.factors, key=lambda k: -self.component_sizes[k])
        sets = [[k] for k in self.factors]
        for first in self.factors:
            joined = [first]
            for k in by_size:
                if not self._touching[k, joined].any():
                    joined.append(k)
            if sorted(joined) not in sets:
                sets.append(sorted(joined))
        return sets

    def _groups(self, inner: list[int]) -> Array:
        """Columns of Z of the levels that hold cells."""
        columns = np.concatenate([np.r_[self.blocks[k]] for k in inner])
        return columns[self._diagonal[columns] > 0]

    def _eliminated(self, outer: int | None, inner: list[int], parent: Array) -> Elimination:
        """The record of what was found; groups of several parts lie by their outer level."""
        columns = self._groups(inner)
        member = np.searchsorted([self.blocks[k].stop for k in inner], columns, side="right")
        if outer is not None and len(inner) > 1:
            order = np.lexsort((parent, member))
            columns, member, parent = columns[order], member[order], parent[order]
        ends = np.searchsorted(member, np.arange(len(inner) + 1))
        parts = [slice(int(a), int(b)) for a, b in pairwise(ends)]
        taken = {outer, *inner}
        rest = [k for k in range(self.n_components) if k not in taken]
        sizes = self._diagonal[columns]
        return Elimination(outer, inner, rest, parent, sizes, _as_slice(columns), parts)

    def _parent(self, outer: int, groups: Array) -> Array | None:
        """M of Z_1 = Z_2 M, as the outer level of each group; None where it does not hold."""
        block, diagonal = self.blocks[outer], self._diagonal
        sizes = diagonal[groups]
        cross = self.ZtZ[block][:, groups].tocoo()
        if cross.nnz != len(sizes) or len(np.unique(cross.col)) != len(sizes):
            return None
        parent = np.empty(len(sizes), dtype=np.int64)
        parent[cross.col] = cross.row
        joined = np.bincount(parent, weights=sizes, minlength=self.component_sizes[outer])
        # ‖Z_1 - Z_2M‖² = 0 where Z_1'Z_2 = M'Z_2'Z_2 and Z_1'Z_1 = M'Z_2'Z_2M
        same = np.allclose(cross.data, sizes[cross.col], rtol=SAME_SIZE, atol=0)
        same = same and np.allclose(diagonal[block], joined, rtol=SAME_SIZE, atol=0)
        return parent if same else None


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
    return CovarianceStructure.of(ZtZ, component_sizes).elimination


def _as_slice(columns: Array) -> slice | Array:
    first, whole = int(columns[0]), np.array_equal(np.diff(columns), np.ones(len(columns) - 1))
    return slice(first, first + len(columns)) if whole else columns


def is_diagonal(block: Any) -> bool:
    """Whether a sparse block has nothing off its diagonal."""
    at = sparse.coo_array(block)
    return bool((at.row == at.col).all())


def largest_eigenvalue(block: Any) -> float:
    """Largest eigenvalue of a square block of Z'Z; its largest element where it is diagonal."""
    block = sparse.csr_array(block)
    if is_diagonal(block):
        return float(block.diagonal().max())
    return float(np.linalg.eigvalsh(block.toarray())[-1])
