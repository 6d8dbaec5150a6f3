"""Names of genes: which column of the table they are, and what becomes of those that several have.

A matrix whose genes are chosen or added up is read through `ChosenGenes`, block by block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from flashmm.cells.block import Block, Matrix, ordered_block
from flashmm.cells.container import IDENTIFIERS, Container
from flashmm.names import did_you_mean, listed, text
from flashmm.options import InputError

DUPLICATES = ("error", "sum", "unique")


@dataclass(frozen=True)
class GeneNames:
    """How genes are named.

    Attributes
    ----------
    column : str, optional
        Column of the table of genes with their names; None takes its index (symbols of 10x).
    duplicates : {"error", "sum", "unique"}, optional
        What becomes of genes with one name: an error, their sum, or names that differ. None is an
        error where names can be changed in the file, and "unique" in files of 10x.
    """

    column: str | None = None
    duplicates: str | None = None

    def __post_init__(self) -> None:
        """Check the words."""
        if self.duplicates not in (None, *DUPLICATES):
            raise InputError(
                f"duplicate_genes={self.duplicates!r} is not known; use one of "
                f"{listed(DUPLICATES)}."
            )

    def record(self) -> dict[str, str]:
        """What was asked for, for a record of what was read."""
        asked = {"gene_names": self.column, "duplicate_genes": self.duplicates}
        return {key: value for key, value in asked.items() if value is not None}


STORED_NAMES = GeneNames()


@dataclass(frozen=True, eq=False)
class Genes:
    """The genes of a matrix as they are used.

    Attributes
    ----------
    names : pandas.Index
        (genes,) Their names.
    places : numpy.ndarray or None
        (stored genes,) Which of them each stored gene is, -1 for those left out; None where all
        stay as they are.
    notes : tuple of str
        What was decided.
    """

    names: pd.Index
    places: np.ndarray | None
    notes: tuple[str, ...] = ()


def named_genes(container: Container, asked: GeneNames) -> Genes:
    """Name the genes of a container, and say which of the stored ones they are.

    Raises
    ------
    InputError
        There is no such column of the table of genes.
    """
    names = container.genes if asked.column is None else _column(container, asked.column)
    places, notes = None, container.notes
    if container.kept is not None:
        places = np.where(container.kept, np.cumsum(container.kept) - 1, -1)
        names = names[container.kept]
    rule = asked.duplicates or container.duplicate_genes
    twice = names.duplicated(keep=False)
    if rule == "error" or not twice.any():
        return Genes(names, places, notes)
    n = names[twice].nunique()
    shown = listed(map(text, names[twice].unique()), 3)
    if rule == "unique":
        said = f"{container.name}: {n} names that several genes have ({shown}) were made to differ."
        return Genes(_told_apart(container, names, twice), places, (*notes, said))
    places = np.arange(len(names)) if places is None else places
    of_name, unique = pd.factorize(names)
    said = f"{container.name}: genes with one name were added up, for {n} names ({shown})."
    summed = np.where(places >= 0, of_name[places], -1)
    return Genes(pd.Index(unique), summed, (*notes, said))


def _column(container: Container, column: str) -> pd.Index:
    there = container.gene_columns()
    if column not in there:
        raise InputError(
            f"{container.name} has no column '{column}' of genes{did_you_mean(column, there)} It "
            f"has {listed(there, 40)}."
        )
    with container.reading():
        return container.gene_column(column)


def _told_apart(container: Container, names: pd.Index, twice: np.ndarray) -> pd.Index:
    """Names that several genes have, with their identifiers, or else numbered."""
    given = np.array([text(name) for name in names], dtype=object)
    column = next((name for name in IDENTIFIERS if name in container.gene_columns()), None)
    if column is not None:
        identifiers = container.gene_column(column)
        identifiers = identifiers if container.kept is None else identifiers[container.kept]
        longer = np.where(twice, given + "_" + identifiers.astype(str).to_numpy(object), given)
        if not pd.Index(longer).has_duplicates:
            return pd.Index(longer)
    return _numbered(given)


def _numbered(given: np.ndarray) -> pd.Index:
    """Names of which the second is followed by -1, the third by -2; as AnnData does."""
    known = set(given)
    seen: dict[str, int] = {}
    out = []
    for name in given:
        new, n = name, seen.get(name, 0)
        while n and (new := f"{name}-{n}") in known:
            n += 1
        known.add(new)
        seen[name] = n + 1
        out.append(new)
    return pd.Index(out)


@dataclass(frozen=True, eq=False)
class ChosenGenes:
    """A matrix whose genes are chosen, and added up where they have one place.

    Attributes
    ----------
    whole : Matrix
        All stored genes.
    places : numpy.ndarray
        (stored genes,) Which gene each is, -1 for those that are left out.
    n_genes : int
        Number of genes.
    """

    whole: Matrix
    places: np.ndarray
    n_genes: int

    @property
    def shape(self) -> tuple[int, int]:
        """Cells, genes."""
        return self.whole.shape[0], self.n_genes

    @property
    def by_cells(self) -> bool:
        """Whether the lines of blocks are cells."""
        return self.whole.by_cells

    @property
    def size(self) -> int:
        """Number of stored values that are read."""
        return self.whole.size

    def blocks(self, chunk_nnz: int) -> Iterator[Block]:
        """Yield the blocks of the whole matrix with their genes renamed; then those of sums."""
        return self._of_cells(chunk_nnz) if self.by_cells else self._of_genes(chunk_nnz)

    def _of_cells(self, chunk_nnz: int) -> Iterator[Block]:
        for block in self.whole.blocks(chunk_nnz):
            gene = self.places[block.minor]
            kept = gene >= 0
            before = np.concatenate([[0], np.cumsum(kept, dtype=np.int64)])
            minor = gene[kept].astype(block.minor.dtype)
            lines = {"indptr": before[block.indptr], "minor": minor, "stored": block.stored[kept]}
            chosen = replace(block, **lines, largest=None)
            yield ordered_block(chosen, self.n_genes)

    def _of_genes(self, chunk_nnz: int) -> Iterator[Block]:
        """Genes with a place of their own as they come, the others when all have been read."""
        alone = np.bincount(self.places[self.places >= 0], minlength=self.n_genes) == 1
        sums: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
        for block in self.whole.blocks(chunk_nnz):
            n_read = block.n_read
            for line in range(block.n_lines):
                place, values = self.places[block.first + line], _line(block, line)
                if place >= 0 and alone[place]:
                    yield self._gene(block, int(place), *values, n_read)
                    n_read = 0
                elif place >= 0:
                    sums.setdefault(int(place), []).append(values)
            last = block
        for place, parts in sums.items():
            minor, stored = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
            yield self._gene(last, place, minor, stored, 0)

    def _gene(self, like: Block, place: int, minor: Any, stored: Any, n_read: int) -> Block:
        """One gene of a block."""
        indptr = np.array([0, len(minor)], dtype=np.int64)
        lines = {"indptr": indptr, "minor": minor, "stored": stored}
        one = replace(like, first=place, **lines, n_read=n_read, largest=None)
        return ordered_block(one, self.shape[0])


def _line(block: Block, line: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions and values of one line."""
    part = slice(block.indptr[line], block.indptr[line + 1])
    return block.minor[part], block.stored[part]
