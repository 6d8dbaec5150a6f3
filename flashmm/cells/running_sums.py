"""Sums over the cells of groups while their values are read, block by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from flashmm.cells.block import Block
from flashmm.cells.transforms import Transform, is_counts
from flashmm.kernels.group_sums import (
    MOST_COUNTS,
    add_cells,
    add_genes,
    by_kind,
    line_totals,
    log1p_of_shares,
    take_numbers,
)
from flashmm.kernels.threads import in_threads, thread_count
from flashmm.storage.workspace import zeros

WORTH_THREADS = 2**18  # values of a block that are added in two threads


class CellData(Protocol):
    """What is known of the cells beside their values."""

    @property
    def transform(self) -> Transform:
        """What becomes of a value."""

    @property
    def libsize(self) -> np.ndarray:
        """Library sizes, (cells,)."""

    @property
    def x(self) -> np.ndarray:
        """Covariates, (covariates, cells)."""


@dataclass
class RunningSums:
    """Running sums over the cells of each group.

    `values` (groups, genes, 3 + covariates) holds the sums of y, of y², of the raw values, and of
    each covariate times y; `of_counts` tells whether all raw values so far are counts. The numbers
    of cells with a count above zero are fractions of the sums of raw values until they are taken
    out into `numbers` (groups, genes), to which those of blocks with sums too large for that are
    added at once; `bound` is a bound of the sums. From the first fractional value on (`whole`),
    sums have fractions of their own, and numbers are added at once. Where a group has more than
    `MOST_CELLS` there are no numbers (`numbered`).
    """

    values: np.ndarray
    numbers: np.ndarray
    numbered: bool
    of_counts: bool = True
    whole: bool = True
    bound: float = 0.0

    @classmethod
    def empty(cls, n_groups: int, n_genes: int, n_kinds: int, numbered: bool) -> RunningSums:
        """Zeros, the numbers behind the sums in one piece of memory."""
        n = n_groups * n_genes
        both = zeros((n * (n_kinds + 1),), "group statistics")
        values = both[: n * n_kinds].reshape(n_groups, n_genes, n_kinds)
        return cls(values, both[n * n_kinds :].reshape(n_groups, n_genes), numbered)

    def add(self, block: Block, cells: CellData, group: np.ndarray, gene: np.ndarray) -> None:
        """Add values one after another, so that the result does not depend on blocks.

        Parameters
        ----------
        block : Block
            The values.
        cells : CellData
            Where they come from.
        group, gene : numpy.ndarray
            (cells,) Group of each cell, -1 for cells that are left out; (genes,) place of each
            gene in the sums.
        """
        look_up = block.largest_count >= 0 and not cells.transform.needs_libsize
        y = cells.transform.table(block.largest_count) if look_up else self._y(block, cells, group)
        if self.whole and block.largest_count < 0 and not is_counts(block.values):
            self._take_numbers()
            self.whole = False
        numbered = self.numbered and self.whole and self._has_room(block)
        if self.numbered and not numbered:
            self._count(block, group, gene)
        values = (block.minor, block.stored, y, look_up)
        places = (group, gene, cells.x, numbered)

        def add_part(part: slice) -> None:
            if block.by_cells:
                bounds = part.start, part.stop - 1
                add_cells(self.values, block.indptr, *values, block.first, *places, *bounds)
            else:
                indptr, first = block.indptr[part.start : part.stop + 1], block.first + part.start
                add_genes(self.values, indptr, *values, first, *places)

        # threads have groups or genes of their own: each sum is added up by one, in its order
        in_threads(add_part, _parts(block, group, len(self.values)))

    def _has_room(self, block: Block) -> bool:
        """Whether the sums of raw values stay small enough to hold the numbers exactly."""
        most = _largest_sum(block)
        if self.bound + most > MOST_COUNTS:
            self.bound = float(self.values[:, :, 2].max())
        self.bound += most
        return self.bound <= MOST_COUNTS

    def _count(self, block: Block, group: np.ndarray, gene: np.ndarray) -> None:
        """Add the numbers of a block value by value, and those of earlier ones."""
        self._take_numbers()
        counted = (group[block.cells] >= 0) & (block.values > 0)
        at = group[block.cells[counted]], gene[block.genes[counted]]
        np.add.at(self.numbers, at, 1.0)

    def _take_numbers(self) -> None:
        """Take the numbers of cells with a count above zero out of the sums."""
        if self.numbered and self.whole:
            take_numbers(self.values[:, :, 2], self.numbers)

    def by_kind(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Finish: the sums side by side, which take the place of `values`, and the numbers.

        Returns
        -------
        sums : numpy.ndarray
            (3 + covariates, groups, genes) The sums of each kind.
        expressing : numpy.ndarray or None
            (groups, genes) The numbers of cells with a count above zero; None where there are none.
        """
        sums = by_kind(self.values, self.numbers, self.numbered and self.whole)
        return sums.swapaxes(0, 1), self.numbers if self.numbered and self.of_counts else None

    def _y(self, block: Block, cells: CellData, group: np.ndarray) -> np.ndarray:
        """Transform each value that is used."""
        if cells.transform.scale is not None:
            lines = (block.indptr, block.minor, block.stored, block.by_cells, block.first)
            return log1p_of_shares(*lines, cells.transform.scale, cells.libsize)
        used = (group[block.cells] >= 0) & (block.values != 0)
        raw = block.values[used]
        self.of_counts &= cells.transform.needs_counts or is_counts(raw)
        y = np.zeros(len(used))
        y[used] = cells.transform.apply(raw, cells.libsize[block.cells[used]])
        return y


def _parts(block: Block, group: np.ndarray, n_groups: int) -> list[slice]:
    """Groups, or lines that are genes, in one part or in two with about as many values."""
    n = n_groups if block.by_cells else block.n_lines
    if thread_count() == 1 or len(block.stored) < WORTH_THREADS:
        return [slice(0, n)]
    sizes = np.diff(block.indptr)
    if block.by_cells:
        of_lines = group[block.first : block.first + block.n_lines]
        kept = of_lines >= 0
        sizes = np.bincount(of_lines[kept], sizes[kept], minlength=n)
    middle = int(np.searchsorted(np.cumsum(sizes), sizes.sum() / 2))
    return [slice(0, middle), slice(middle, n)]


def _largest_sum(block: Block) -> float:
    """Bound of what a block adds to the sum of raw values of a group and gene."""
    if not block.by_cells:
        return float(line_totals(block.indptr, block.stored).max(initial=0.0))
    largest = block.largest_count if block.largest_count >= 0 else block.stored.max(initial=0)
    return block.n_lines * float(largest)
