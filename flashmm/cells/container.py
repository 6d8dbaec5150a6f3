"""What a container of cells is: names, a table of cells, and matrices, of which nothing is read.

A container gives the names of cells and genes, columns of the table of cells, and the values of one
matrix of cells x genes in a layout that `flashmm.cells.matrices` streams. The kinds that there are
stand in `flashmm.cells.containers`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd

from flashmm.names import listed
from flashmm.options import InputError
from flashmm.storage.files import reading

# What `layer` calls the matrix of `.raw`, where no layer has this name.
RAW = "raw"
# Columns of the table of genes that hold identifiers, the likeliest first.
IDENTIFIERS = ("gene_ids", "gene_id", "id", "ensembl_id", "ensembl", "feature_id")


@dataclass(frozen=True, eq=False)
class Container(ABC):
    """Cells x genes, with their names and the table of cells.

    Attributes
    ----------
    what : str
        The kind of container, for messages.
    name : str
        What messages call this one and its matrix.
    path : pathlib.Path or None
        The file or folder; None in memory.
    cell_names, genes : sequence of str
        (cells,) and (genes,) names.
    values : array_like
        The matrix, as `flashmm.cells.matrices.wrap_matrix` takes it; nothing of it has been read.
    obs, var : object
        The tables of cells and of genes, as the kind of container has them.
    others : mapping of str to array_like
        The other matrices of the same cells by the name that `layer` takes, nothing of them read:
        layers, and "raw" where the genes of `.raw` are kept.
    kept : numpy.ndarray or None
        (genes,) bool: which rows of the table of genes are genes; None for all.
    notes : tuple of str
        What was chosen for the user.
    """

    what: ClassVar[str]
    # what becomes of names that several genes have, unless the caller says it
    duplicate_genes: ClassVar[str] = "error"

    name: str
    path: Path | None
    cell_names: Any
    genes: pd.Index
    values: Any
    obs: Any
    var: Any
    others: Mapping[str, Any]
    kept: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    @abstractmethod
    def takes(cls, data: Any) -> bool:
        """Whether `data` is of this kind."""

    @classmethod
    @abstractmethod
    def opened(cls, data: Any, layer: str | None) -> AbstractContextManager[Self]:
        """Open `data` for reading a layer; None is the main matrix."""

    @abstractmethod
    def column_names(self) -> list[str]:
        """Names of the columns of the table of cells."""

    @abstractmethod
    def columns(self, names: Sequence[str]) -> pd.DataFrame:
        """Read some columns of the table of all cells: (cells, names)."""

    @abstractmethod
    def gene_columns(self) -> list[str]:
        """Names of the columns of the table of genes."""

    @abstractmethod
    def gene_column(self, name: str) -> pd.Index:
        """Read a column of the table of genes, as text: (genes,)."""

    def coded(self, names: Sequence[str]) -> list[str]:
        """Which columns hold the numbers of labels that stand elsewhere, and are read as labels."""
        return []

    def reading(self) -> AbstractContextManager[Any]:
        """Context in which faults of reading a file are said in words, with its path."""
        return nullcontext() if self.path is None else reading(self.path)


def check_layer(layer: str, layers: Iterable[str], name: str) -> str:
    """Return the layer that is meant; an InputError lists those there are."""
    there = list(layers)
    if layer not in there and layer in (".raw", "raw.X", "raw/X") and RAW in there:
        return RAW
    if layer not in there:
        raise InputError(f"{name} has no layer '{layer}'; it has {listed(there)}.")
    return layer


def place(layer: str | None) -> str:
    """What a message calls a matrix of an AnnData."""
    return "X" if layer is None else f"layer '{layer}'"


def with_labels(column: pd.Series, labels: Any) -> pd.Series | None:
    """Labels of a column that holds their numbers, from 0, -1 where there is none.

    Returns
    -------
    Series or None
        None where there are no such labels, or the column holds something else.
    """
    if labels is None or column.dtype.kind not in "iu":
        return None
    names = pd.Index(np.asarray(labels).ravel())
    if not len(column) or not -1 <= column.min() <= column.max() < len(names):
        return None
    if not names.is_unique:
        return None
    return pd.Series(pd.Categorical.from_codes(column, names), index=column.index)
