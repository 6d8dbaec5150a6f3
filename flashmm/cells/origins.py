"""Genes that lie far from zero, summed as differences from their mean.

Of values with a spread s about a mean m, the sums of squares hold what varies in the digits beyond
(m / s)², so that a spread of 1e-7 of the mean is lost. Differences from any constant near the mean
have it in their first digits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np
import pandas as pd

from flashmm.cells.block import Block
from flashmm.kernels.group_sums import add_cells, add_genes
from flashmm.storage.workspace import zeros


class Input(Protocol):
    """What is known of the cells of an input."""

    @property
    def genes(self) -> pd.Index:
        """Names of its genes, in its own order."""

    @property
    def kept(self) -> np.ndarray:
        """Which cells are in groups, (cells,) bool."""

    @property
    def x(self) -> np.ndarray:
        """Covariates, (covariates, cells)."""


AnyInput = TypeVar("AnyInput", bound=Input)

# Squared mean over variance of a gene above which its sums are taken anew, from its mean; what
# varies loses as much of its digits in the squares of values.
FAR = 1e4


def far_from_zero(
    total: np.ndarray, squares: np.ndarray, n_cells: int
) -> tuple[np.ndarray, np.ndarray]:
    """Genes that vary little beside their mean: their numbers, and means.

    Parameters
    ----------
    total, squares : numpy.ndarray
        (groups, genes) Sums of y and of y².
    n_cells : int
        Number of cells.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        mean = total.sum(axis=0) / n_cells
        variance = squares.sum(axis=0) / n_cells - mean**2
        genes = np.flatnonzero((mean != 0) & (mean**2 > FAR * variance))
    return genes, mean[genes]


def varies(squares: np.ndarray, n_cells: np.ndarray | int, origin: np.ndarray) -> np.ndarray:
    """Whether Σ (y - origin)² is more than the rounding of a constant, (genes,) bool."""
    return np.asarray(squares > n_cells * (4 * np.finfo(float).eps * origin) ** 2)


def add_differences(
    sums: np.ndarray,
    block: Block,
    x: np.ndarray,
    group: np.ndarray,
    place: np.ndarray,
    origin: np.ndarray,
) -> None:
    """Add the differences of the nonzero values of some genes from a constant.

    Parameters
    ----------
    sums : numpy.ndarray
        (groups, chosen genes, 3 + covariates) Σ (y - origin), its square, the number of values, and
        Σ x (y - origin); changed in place.
    block : Block
        The values y.
    x : numpy.ndarray
        (covariates, cells).
    group, place : numpy.ndarray
        (cells,) Group of each cell, -1 for cells that are left out; (genes,) place of each gene
        among those chosen, -1 for others.
    origin : numpy.ndarray
        (chosen genes,)
    """
    kept = (place[block.genes] >= 0) & (block.values != 0)
    before = np.concatenate([[0], np.cumsum(kept, dtype=np.int64)])
    y = block.values[kept] - origin[place[block.genes[kept]]]
    lines = (before[block.indptr], block.minor[kept].astype(np.int64), np.ones(len(y)))
    values = (sums, *lines, y, False, block.first, group, place, x, False)
    if block.by_cells:
        add_cells(*values, 0, len(sums) - 1)
    else:
        add_genes(*values)


def group_of_cells(cells: Input, codes: np.ndarray) -> np.ndarray:
    """Group of each cell, -1 for those that are left out; `codes` are those of kept cells."""
    group = np.full(len(cells.kept), -1)
    group[cells.kept] = codes
    return group


def sum_from_means(
    inputs: Sequence[AnyInput],
    codes: Sequence[np.ndarray],
    genes: pd.Index,
    sums: Sequence[np.ndarray],
    blocks: Callable[[AnyInput], Iterator[Block]],
) -> np.ndarray | None:
    """Sum genes that lie far from zero anew, as differences from their mean.

    A constant gene stays as it is, and so does one with a zero: it does not lie farther than the
    root of the number of cells times its spread.

    Parameters
    ----------
    inputs : sequence of Input
        The cells.
    codes : sequence of numpy.ndarray
        Groups of the kept cells of each input.
    genes : pandas.Index
        (genes,) of the sums.
    sums : sequence of numpy.ndarray
        Σ y, Σ y² and Σ x_k y of each covariate, (groups, genes) each; changed in place.
    blocks : callable
        Gives all values of an input.

    Returns
    -------
    numpy.ndarray or None
        (genes,) The constants that were subtracted; None where there is no such gene.
    """
    n_cells = np.bincount(np.concatenate(codes), minlength=len(sums[0]))
    far, mean = far_from_zero(sums[0], sums[1], int(n_cells.sum()))
    if not len(far):
        return None
    differences = zeros((len(n_cells), len(far), len(sums) + 1), "sums of differences")
    for cells, part in zip(inputs, codes, strict=True):
        group, place = group_of_cells(cells, part), _places(far, genes, cells.genes)
        for block in blocks(cells):
            add_differences(differences, block, cells.x, group, place, mean)
    first, squares, numbers, *crossed = np.moveaxis(differences, -1, 0)
    chosen = (numbers == n_cells[:, None]).all(axis=0) & varies(
        squares.sum(0), numbers.sum(0), mean
    )
    for old, new in zip(sums, (first, squares, *crossed), strict=True):
        old[:, far[chosen]] = new[:, chosen]
    origin = np.zeros(len(genes))
    origin[far[chosen]] = mean[chosen]
    return origin if chosen.any() else None


def _places(chosen: np.ndarray, genes: pd.Index, own: pd.Index) -> np.ndarray:
    """Place of each gene of an input among the chosen ones, -1 for others."""
    place = np.full(len(genes), -1)
    place[chosen] = np.arange(len(chosen))
    return place[genes.get_indexer(own)]
