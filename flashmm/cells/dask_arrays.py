"""Dask arrays of cells x genes, computed chunk by chunk; dask itself is not imported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import sparse

from flashmm.cells.block import Block, ordered_block


def is_dask(values: Any) -> bool:
    """Whether an array is one of dask."""
    return type(values).__module__.partition(".")[0] == "dask" and hasattr(values, "chunks")


@dataclass(frozen=True, eq=False)
class DaskMatrix:
    """Cells `first` to `last` - 1 of a dask array of dense or sparse chunks.

    Chunks of whole genes (a CSC matrix that is read lazily) are taken gene by gene, all others
    cell by cell; of those of other cells, what is not needed is not computed.
    """

    data: Any
    first: int
    last: int

    @property
    def shape(self) -> tuple[int, int]:
        """Cells, genes."""
        return self.last - self.first, int(self.data.shape[1])

    @property
    def by_cells(self) -> bool:
        """Whether there are several chunks of cells, or one chunk."""
        of_cells, of_genes = self.data.chunks
        return len(of_cells) > 1 or len(of_genes) == 1

    @property
    def size(self) -> int:
        """Values of the dense matrix; how many are stored is not known."""
        return self.shape[0] * self.shape[1]

    def blocks(self, chunk_nnz: int) -> Iterator[Block]:
        """Yield a block for each chunk, whatever `chunk_nnz` is."""
        return self._of_cells() if self.by_cells else self._of_genes()

    def _of_cells(self) -> Iterator[Block]:
        ends = np.cumsum(self.data.chunks[0])
        inner = [int(end) for end in ends if self.first < end < self.last]
        for start, stop in pairwise([self.first, *inner, self.last]):
            rows = slice(start - self.first, stop - self.first)
            lines = sparse.csr_array(self.data[start:stop].compute())
            yield self._block(lines, rows.start, True, rows)

    def _of_genes(self) -> Iterator[Block]:
        rows = slice(0, self.shape[0])
        for start, stop in pairwise([0, *map(int, np.cumsum(self.data.chunks[1]))]):
            columns = sparse.csc_array(self.data[:, start:stop].compute())[self.first : self.last]
            yield self._block(columns, start, False, rows)

    def _block(self, lines: Any, first: int, by_cells: bool, rows: slice) -> Block:
        arrays = (lines.indptr.astype(np.int64), lines.indices.astype(np.int64))
        values = lines.data.astype(np.float64)
        n_read = lines.shape[0] * lines.shape[1]
        width = self.shape[1 if by_cells else 0]
        return ordered_block(Block(first, *arrays, values, by_cells, rows, n_read), width)
