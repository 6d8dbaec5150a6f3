"""What values look like: counts, their logarithms, or something else; labels that were lost."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import numpy as np
import pandas as pd

from flashmm.cells.block import Block

# Parts of values that have to be whole for the whole to be taken as multiples of a unit.
MOSTLY = 0.9
# How near to a whole number a multiple is, relative to it (single precision).
NEAR = 2e-3
# Multiples of a cell's smallest value that are looked at: larger ones are near one by chance.
MOST_MULTIPLE = 100
# Part of whole numbers among corrected counts, or of those near one among values up to `SMALL`; or
# a largest value that no logarithm reaches.
SOME_WHOLE, NEARLY_WHOLE, SMALL, ABOVE_LOGARITHMS = 0.2, 0.6, 2.5, 50.0
# The largest value of log(1 + 10⁴ count / total).
ABOVE_LOG1P_CP10K = np.log1p(1e4)
# Cells whose totals are looked at, at least, and how little those of normalised counts differ.
ENOUGH_CELLS, ONE_TOTAL = 5, 1e-3


# What text a missing value becomes, of numpy and pandas: never the name of a level.
LOST = ("nan", "NaN", "<NA>", "NaT")


class Values(StrEnum):
    """What values look like; `sentence` says it."""

    COUNTS = "counts"
    LOGARITHMS = "logarithms of normalised counts"
    NORMALISED = "normalised counts"
    SCALED = "scaled values"
    FRACTIONS = "corrected counts"
    OTHER = "values"

    @property
    def sentence(self) -> str:
        """What these values are taken for."""
        return _SENTENCES[self]


_SENTENCES = {
    Values.COUNTS: "These are whole numbers from 0 on, as counts are.",
    Values.LOGARITHMS: "These look like logarithms of normalised counts (each cell's values are "
    "multiples of a smallest one before the logarithm, or add up to one total).",
    Values.NORMALISED: "These look like normalised counts (each cell's values are multiples of its "
    "smallest one, or add up to one total).",
    Values.SCALED: "Some are negative, so these look like scaled or centred values.",
    Values.FRACTIONS: "These look like counts that a correction made fractional.",
    Values.OTHER: "These are no whole numbers, and nothing tells that they are counts.",
}
# What transforms of counts take: sums and logarithms of fractional counts mean what those of whole
# ones do.
COUNTED = (Values.COUNTS, Values.FRACTIONS)


def looks_like(block: Block) -> Values:
    """Tell what the nonzero values of a block are.

    Parameters
    ----------
    block : Block
        Some nonzero values of a matrix of cells x genes.

    Returns
    -------
    Values
    """
    if block.largest_count >= 0:
        return Values.COUNTS
    values = np.asarray(block.values, dtype=float)
    good = np.isfinite(values) & (values != 0)
    values, cells = values[good], np.asarray(block.cells)[good]
    if (values < 0).any():
        return Values.SCALED
    # a cell's normalised counts are its counts times a factor
    for kind, inverse in _INVERSES:
        with np.errstate(over="ignore"):  # infinite values are no multiples
            counted = inverse(values)
        if _are_multiples(counted, cells):
            return kind
        if block.by_cells and _have_one_total(counted, cells):
            return kind
    return Values.FRACTIONS if _are_corrected(values) else Values.OTHER


def _have_one_total(values: np.ndarray, cells: np.ndarray) -> bool:
    """Whether the values of every cell, of several, add up to the same number."""
    with np.errstate(over="ignore", invalid="ignore"):
        totals = pd.Series(values).groupby(cells).sum().to_numpy()
        known = len(totals) >= ENOUGH_CELLS and np.isfinite(totals).all()
        return bool(known and np.ptp(totals) <= ONE_TOTAL * totals.mean())


def _are_corrected(values: np.ndarray) -> bool:
    """Whether values above zero are counts from which a little was taken, or shares of reads."""
    if values.max() > ABOVE_LOGARITHMS:
        return True
    whole = values == np.floor(values)
    if whole.mean() >= SOME_WHOLE:
        return not _are_square_roots(values[~whole])
    small = values[values < SMALL]
    near = (np.round(small) >= 1) & (np.abs(small - np.round(small)) <= 1 / 4)
    if not len(small):
        return False
    return values.max() > ABOVE_LOG1P_CP10K and bool(near.mean() >= NEARLY_WHOLE)


def _are_square_roots(values: np.ndarray) -> bool:
    """Whether values that are not whole have squares that are."""
    squares = values**2
    return bool((np.abs(squares - np.round(squares)) <= NEAR * squares).mean() >= MOSTLY)


def _exp2m1(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp2(values) - 1)


_INVERSES: tuple[tuple[Values, Callable[[np.ndarray], np.ndarray]], ...] = (
    (Values.NORMALISED, np.asarray),
    (Values.LOGARITHMS, np.expm1),
    (Values.LOGARITHMS, _exp2m1),
)


def _are_multiples(values: np.ndarray, cells: np.ndarray) -> bool:
    """Whether the values of most cells are whole multiples of the smallest."""
    with np.errstate(over="ignore", invalid="ignore"):
        smallest = pd.Series(values).groupby(cells).transform("min").to_numpy()
        multiple = values / smallest
    told = (multiple > 1 + NEAR) & (multiple < MOST_MULTIPLE)
    if not told.any():
        return False
    multiple = multiple[told]
    near = np.abs(multiple - np.round(multiple)) <= NEAR * multiple
    return bool(near.mean() >= MOSTLY)


def without_lost_labels(column: pd.Series) -> pd.Series:
    """A column of labels, in which the text that a missing value became is missing again."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        lost = [level for level in column.cat.categories if level in LOST]
        return column.cat.remove_categories(lost) if lost else column
    if pd.api.types.is_numeric_dtype(column) or not column.isin(LOST).any():
        return column
    return column.mask(column.isin(LOST))
