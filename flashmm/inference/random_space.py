"""The space of the random effects over groups of cells, and what it leaves of the fixed effects.

A contrast that can be estimated with all random effects held at some value is estimated from
differences between cells alone, whatever the number of subjects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flashmm.design.columns import GroupDesign, RandomComponent
from flashmm.inference.row_space import NOTHING


@dataclass(frozen=True, eq=False)
class Block:
    """Columns of Z of which each group has one at most: Z'Z is diagonal.

    Attributes
    ----------
    level : (groups,) int array
        The column of each group, -1 where it has none.
    weight : (groups,) array
        Its value there.
    """

    level: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, component: RandomComponent) -> Block | None:
        """A random term of the groups; None for slopes in what varies between their cells."""
        if component.weights[0] is None or any(w is not None for w in component.weights[1:]):
            return None
        entries = component.weights[0].tocoo()
        there = entries.data != 0
        level = np.full(entries.shape[0], -1)
        weight = np.zeros(entries.shape[0])
        level[entries.row[there]] = entries.col[there]
        weight[entries.row[there]] = entries.data[there]
        return cls(level, weight)

    @classmethod
    def partition(cls, codes: np.ndarray) -> Block:
        """Indicators of the levels of a grouping."""
        return cls(codes, np.ones(len(codes)))

    def rows(self, which: np.ndarray) -> Block:
        """The block over some groups, (groups,) bool."""
        return Block(self.level[which], self.weight[which])

    @property
    def size(self) -> int:
        """Number of columns that are not empty."""
        return len(np.unique(self.level[self.level >= 0]))

    def without(self, X: np.ndarray) -> np.ndarray:
        """X minus its projection on the columns, (groups, p)."""
        there = self.level >= 0
        code = np.unique(self.level[there], return_inverse=True)[1]
        w = self.weight[there]
        sums = np.zeros((code.max(initial=-1) + 1, X.shape[1]))
        np.add.at(sums, code, w[:, None] * X[there])
        left = X.copy()
        # (I - Z (Z'Z)⁻¹ Z')X
        left[there] -= w[:, None] * (sums / np.bincount(code, w**2)[:, None])[code]
        return left

    def dense(self) -> np.ndarray:
        """The columns, (groups, size)."""
        there = self.level >= 0
        code = np.unique(self.level[there], return_inverse=True)[1]
        Z = np.zeros((len(self.level), self.size))
        Z[np.flatnonzero(there), code] = self.weight[there]
        return Z

    def within(self, other: Block) -> bool:
        """Whether the columns are sums of columns of another block."""
        there = other.level >= 0
        if (self.level[~there] >= 0).any():
            return False
        ratio = np.column_stack([self.level[there], self.weight[there] / other.weight[there]])
        code = np.unique(other.level[there], return_inverse=True)[1]
        first = np.unique(code, return_index=True)[1]
        return bool(np.allclose(ratio, ratio[first][code], rtol=1e-12, atol=0.0))

    def beside(self, other: Block) -> Block:
        """Both blocks as one; no group has columns of both."""
        shift = np.where(other.level >= 0, other.level + self.level.max() + 1, self.level)
        return Block(shift, self.weight + other.weight)


def random_blocks(design: GroupDesign) -> tuple[Block, ...]:
    """Blocks of the random terms, those of the fewest columns first."""
    found = (Block.of(component) for component in design.random)
    return tuple(sorted((b for b in found if b is not None), key=lambda block: block.size))


@dataclass(frozen=True, eq=False)
class RandomSpace:
    """What some blocks span together.

    Attributes
    ----------
    blocks : tuple of Block
        None of which lies within another one.
    """

    blocks: tuple[Block, ...]

    @classmethod
    def of(cls, blocks: tuple[Block, ...]) -> RandomSpace:
        """The span of blocks: those that no group shares become one, those of sums are dropped."""
        kept: list[Block] = []
        for block in sorted(blocks, key=lambda b: b.size):
            apart = [k for k in kept if not ((k.level >= 0) & (block.level >= 0)).any()]
            if apart:
                kept = [k for k in kept if k is not apart[0]]
                block = apart[0].beside(block)
            kept.append(block)
        kept.sort(key=lambda block: block.size)
        return cls(
            tuple(b for i, b in enumerate(kept) if not any(b.within(c) for c in kept[i + 1 :]))
        )

    def _rest(self) -> np.ndarray:
        """Orthonormal columns of the smaller blocks without their projection on the largest."""
        Z = np.hstack([block.dense() for block in self.blocks[:-1]])
        vectors, values, _ = np.linalg.svd(self.blocks[-1].without(Z), full_matrices=False)
        return np.asarray(vectors[:, values > NOTHING * np.sqrt(len(Z))])

    def without(self, X: np.ndarray) -> tuple[np.ndarray, int]:
        """X minus its projection on the space, (groups, p), and the dimension of the space."""
        if not self.blocks:
            return X, 0
        left, rank = self.blocks[-1].without(X), self.blocks[-1].size
        if len(self.blocks) > 1:
            rest = self._rest()
            left, rank = left - rest @ (rest.T @ left), rank + rest.shape[1]
        return left, rank
