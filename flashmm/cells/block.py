"""Blocks: some of the nonzero values of a matrix of cells x genes, line by line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from flashmm.kernels.group_sums import in_order, largest_count, line_totals


@dataclass(frozen=True, eq=False)
class Block:
    """Some of the nonzero values of a matrix of cells x genes, by lines: cells, or genes for CSC.

    Attributes
    ----------
    first : int
        Position of the first line in the matrix.
    indptr : numpy.ndarray
        (lines + 1,) int64; where in the block the values of each line begin.
    minor, stored : numpy.ndarray
        (values,) Positions along the line, ascending: genes, or cells for CSC; and the values, of
        which some may be zero. Of the types that `types_of_values` gives.
    by_cells : bool
        Whether the lines are cells.
    rows : slice
        The cells to which the block belongs; where blocks go by cells, all their values are in it.
    n_read : int
        Stored values that were read for it, to show the progress.
    largest : int, optional
        The `largest_count`, where it is known already.
    """

    first: int
    indptr: np.ndarray
    minor: np.ndarray
    stored: np.ndarray
    by_cells: bool
    rows: slice
    n_read: int
    largest: int | None = None

    @cached_property
    def largest_count(self) -> int:
        """Largest value, where all are counts that a table can hold; -1 elsewhere."""
        return int(largest_count(self.stored)) if self.largest is None else self.largest

    @property
    def n_lines(self) -> int:
        """Number of lines."""
        return len(self.indptr) - 1

    @cached_property
    def values(self) -> np.ndarray:
        """Values as float64: (values,)."""
        return self.stored.astype(np.float64, copy=False)

    @cached_property
    def cells(self) -> np.ndarray:
        """Position of the cell of each value: (values,)."""
        return self._lines if self.by_cells else self.minor.astype(np.int64, copy=False)

    @cached_property
    def genes(self) -> np.ndarray:
        """Position of the gene of each value: (values,)."""
        return self.minor.astype(np.int64, copy=False) if self.by_cells else self._lines

    @property
    def _lines(self) -> np.ndarray:
        lines = np.arange(self.first, self.first + self.n_lines)
        return np.repeat(lines, np.diff(self.indptr))

    def totals(self) -> np.ndarray:
        """Sum of the values of each cell of `rows`, in a block by cells."""
        totals = np.zeros(self.rows.stop - self.rows.start)
        begin = self.first - self.rows.start
        totals[begin : begin + self.n_lines] = line_totals(self.indptr, self.stored)
        return totals


class Matrix(Protocol):
    """A matrix of cells x genes that is read block by block."""

    @property
    def shape(self) -> tuple[int, int]:
        """Cells, genes."""

    @property
    def by_cells(self) -> bool:
        """Whether the lines of its blocks are cells, else genes."""

    @property
    def size(self) -> int:
        """Number of stored values that are read."""

    def blocks(self, chunk_nnz: int) -> Iterator[Block]:
        """Yield all nonzero values, about `chunk_nnz` at a time."""


def sorted_lines(
    indptr: np.ndarray, minor: np.ndarray, values: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort the values of each line by position, and add those of the same cell and gene."""
    n_lines = len(indptr) - 1
    line = np.repeat(np.arange(n_lines), np.diff(indptr))
    key, inverse = np.unique(line * width + minor, return_inverse=True)
    line, minor = np.divmod(key, width)
    begins = np.searchsorted(line, np.arange(n_lines + 1)).astype(np.int64)
    return begins, minor, np.bincount(inverse, weights=values)


def ordered_block(block: Block, width: int) -> Block:
    """Return a block of whole lines whose positions ascend, repeated ones added up.

    Parameters
    ----------
    block : Block
        Its positions are inside the matrix.
    width : int
        Length of a line.
    """
    if in_order(block.indptr, block.minor, width, -1):
        return block
    indptr, minor, stored = sorted_lines(block.indptr, block.minor, block.stored, width)
    return replace(block, indptr=indptr, minor=minor, stored=stored, largest=None)
