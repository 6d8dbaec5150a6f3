"""MatrixMarket files (`.mtx`, `.mtx.gz`) as streams of blocks."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar, NoReturn, TypeAlias

import numpy as np
import pandas as pd

from flashmm.cells.block import Block, ordered_block
from flashmm.options import InputError

# Entries that are looked at to tell by what a file is ordered.
_PEEK = 2**16

Entries: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class MarketFile:
    """A matrix of coordinates in a text file, genes x cells or cells x genes.

    Attributes
    ----------
    path : pathlib.Path
        The file.
    shape : tuple of int
        Cells, genes.
    n_entries : int
        Lines of the matrix.
    cells_first : bool
        Whether the first of the two positions of an entry is that of the cell.
    by_cells : bool
        Whether the entries are in the order of cells; else in that of genes.
    """

    path: Path
    shape: tuple[int, int]
    n_entries: int
    cells_first: bool
    by_cells: bool

    # what the values are read as
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.float64)

    @classmethod
    def of(cls, path: Path, n_cells: int, n_genes: int) -> MarketFile:
        """Read the head of a file and find its orientation and order.

        Raises
        ------
        InputError
            It is no matrix of coordinates, its size is another one, or it is in no order.
        """
        with _opened(path) as file:
            rows, columns, n_entries = _head(file, path)
            if (rows, columns) not in ((n_genes, n_cells), (n_cells, n_genes)):
                raise InputError(
                    f"'{path}' is a matrix of {rows} x {columns}, and beside it are the names of "
                    f"{n_genes} genes and {n_cells} cells."
                )
            cells_first = (rows, columns) != (n_genes, n_cells)
            first, second, _ = next(_entries(file, _PEEK), (np.empty(0),) * 3)
        cells, genes = (first, second) if cells_first else (second, first)
        by_cells = _ascends(cells)
        if not by_cells and not _ascends(genes):
            _refuse_order(path)
        return cls(path, (n_cells, n_genes), n_entries, cells_first, by_cells)

    def entries(self, n: int) -> Iterator[Entries]:
        """Yield positions of cells and of genes, from 0, and values, `n` entries at a time."""
        found = 0
        with _opened(self.path) as file:
            _head(file, self.path)
            for first, second, values in _entries(file, n):
                found += len(values)
                cells, genes = (first, second) if self.cells_first else (second, first)
                for positions, size in zip((cells, genes), self.shape, strict=True):
                    if not 0 <= positions.min() <= positions.max() < size:
                        raise InputError(
                            f"'{self.path}' is damaged: it has positions outside its shape."
                        )
                yield cells, genes, values
        if found != self.n_entries:
            raise InputError(
                f"'{self.path}' is cut short or damaged: it has {found} entries, and its head "
                f"says {self.n_entries}."
            )


@dataclass(frozen=True, eq=False)
class MarketMatrix:
    """Cells `first` to `last` - 1 of a MatrixMarket file; entries of others are dropped."""

    data: MarketFile
    first: int
    last: int

    @property
    def shape(self) -> tuple[int, int]:
        """Cells, genes."""
        return self.last - self.first, self.data.shape[1]

    @property
    def by_cells(self) -> bool:
        """Whether the lines of blocks are cells."""
        return self.data.by_cells

    @property
    def size(self) -> int:
        """Number of entries of the file."""
        return self.data.n_entries

    def blocks(self, chunk_nnz: int) -> Iterator[Block]:
        """Yield whole cells, or whole genes; the last one of a piece waits for the next piece."""
        n_lines = self.shape[0 if self.by_cells else 1]
        waiting: list[Entries] = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
        done = n_read = 0
        for cells, genes, values in self.data.entries(chunk_nnz):
            n_read += len(values)
            waiting.append(self._ours(cells, genes, values))
            lines, minor, values = (np.concatenate(parts) for parts in zip(*waiting, strict=True))
            if (np.diff(lines) < 0).any() or (len(lines) and lines[0] < done):
                _refuse_order(self.data.path)
            stop = int(lines[-1]) if len(lines) else done
            cut = int(np.searchsorted(lines, stop))
            waiting = [(lines[cut:], minor[cut:], values[cut:])]
            if cut:
                yield self._block(done, stop, lines[:cut], minor[:cut], values[:cut], n_read)
                done, n_read = stop, 0
        lines, minor, values = (np.concatenate(parts) for parts in zip(*waiting, strict=True))
        yield self._block(done, n_lines, lines, minor, values, n_read)

    def _ours(self, cells: np.ndarray, genes: np.ndarray, values: np.ndarray) -> Entries:
        """Lines, positions along them and values of the entries of our cells."""
        kept = (cells >= self.first) & (cells < self.last)
        cells, genes = cells[kept] - self.first, genes[kept]
        return (cells, genes, values[kept]) if self.by_cells else (genes, cells, values[kept])

    def _block(
        self,
        first: int,
        stop: int,
        lines: np.ndarray,
        minor: np.ndarray,
        values: np.ndarray,
        n_read: int,
    ) -> Block:
        indptr = np.searchsorted(lines, np.arange(first, stop + 1)).astype(np.int64)
        rows = slice(first, stop) if self.by_cells else slice(0, self.shape[0])
        width = self.shape[1 if self.by_cells else 0]
        return ordered_block(
            Block(first, indptr, minor, values, self.by_cells, rows, n_read), width
        )


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    opened = gzip.open if path.name.endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8", errors="replace") as file:
        yield file  # type: ignore[misc]


def _head(file: IO[str], path: Path) -> tuple[int, int, int]:
    """Rows, columns and entries; the file is left where the entries begin."""
    words = file.readline().lower().split()
    if words[:3] != ["%%matrixmarket", "matrix", "coordinate"] or words[3:4] not in (
        ["integer"],
        ["real"],
    ):
        raise InputError(
            f"'{path}' is no matrix of coordinates with integer or real values: its first line is "
            f"{' '.join(words)[:60]!r}."
        )
    line = file.readline()
    while line.startswith("%") or line == "\n":
        line = file.readline()
    try:
        rows, columns, n_entries = map(int, line.split())
    except ValueError:
        raise InputError(f"'{path}' is damaged: its sizes are {line[:60]!r}.") from None
    return rows, columns, n_entries


def _entries(file: IO[str], n: int) -> Iterator[Entries]:
    """Yield both positions, from 0, and the values, `n` entries at a time."""
    types = {0: np.int64, 1: np.int64, 2: np.float64}
    try:
        pieces = pd.read_csv(file, sep=r"\s+", header=None, dtype=types, chunksize=n, comment="%")
    except pd.errors.EmptyDataError:
        return
    for piece in pieces:
        yield piece[0].to_numpy() - 1, piece[1].to_numpy() - 1, piece[2].to_numpy()


def _ascends(positions: np.ndarray) -> bool:
    return bool((np.diff(positions) >= 0).all())


def _refuse_order(path: Path) -> NoReturn:
    raise InputError(
        f"'{path}': its entries are in the order of neither cells nor genes, and cannot be read in "
        "one pass. Write it anew in the order of columns, as "
        "scipy.io.mmwrite(path, scipy.io.mmread(path).tocsc()) does."
    )
