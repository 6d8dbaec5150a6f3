"""Digests of what files hold: arrays, tables and texts, told apart by every bit that is used.

They find accidents: a bit that a disk has flipped, a value that another program has changed. Who
changes a value on purpose can give it a new digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import numpy as np
import pandas as pd

_BLOCK = 2**15  # values that are mixed at a time; they stay in the cache of the processor


class ContentDigest:
    """SHA-256 of a sequence of named texts, arrays and tables."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def texts(self, name: str, values: Iterable[object]) -> None:
        """Add a list of texts; other things are taken as what they print."""
        told = [None if value is None else str(value) for value in values]
        self._hash.update(json.dumps([name, told]).encode())

    def array(self, name: str, values: np.ndarray) -> None:
        """Add an array of numbers or truth values, with its type and shape."""
        plain = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
        self.texts(name, [plain.dtype.str, *plain.shape])
        self._hash.update(plain.data)

    def column(self, name: str, values: pd.Series | pd.Index) -> None:
        """Add a column or an index: numbers, truth values, texts or categories."""
        dtype = values.dtype
        if isinstance(dtype, pd.CategoricalDtype):
            categorical = pd.Categorical(values)
            self.texts(name, [f"ordered {categorical.ordered}"])
            self.column("categories", categorical.categories)
            self.array("codes", categorical.codes.astype(np.int64))
        elif isinstance(dtype, np.dtype) and dtype.kind in "biuf":
            self.array(name, values.to_numpy())
        else:
            self.texts(name, values)

    def table(self, name: str, table: pd.DataFrame) -> None:
        """Add the index and the columns of a table, in their order."""
        self.column(name, table.index)
        for column in table.columns:
            self.column(str(column), table[column])

    def hexdigest(self) -> str:
        """Return the SHA-256 of all that was added, in hexadecimal digits."""
        return self._hash.hexdigest()


def column_checksums(values: np.ndarray) -> np.ndarray:
    """Return a checksum of each column of a matrix, so that some columns can be read and checked.

    c = Σ_i w_i (b_i xor b_i >> 32) mod 2⁶⁴ over the bits b_i of the float64 values, with odd
    weights w_i that differ by row: any change of one value changes c, and so do
    values that change places, but for one case in 2³² or fewer.

    Parameters
    ----------
    values : numpy.ndarray
        (rows, columns) float64. Zeros of either sign count as the same.

    Returns
    -------
    numpy.ndarray
        (columns,) uint64.
    """
    n_rows, n_columns = values.shape
    total = np.zeros(n_columns, dtype=np.uint64)
    step = max(1, _BLOCK // max(1, n_columns))
    for start in range(0, n_rows, step):
        bits = (values[start : start + step] + 0.0).view(np.uint64)  # a copy; -0 becomes 0
        bits ^= bits >> np.uint64(32)
        bits *= _weights(start, start + len(bits))[:, None]
        total += bits.sum(axis=0, dtype=np.uint64)
    return total


def _weights(start: int, stop: int) -> np.ndarray:
    """Odd numbers that look random, one a row: splitmix64 (Steele, Lea and Flood, 2014)."""
    z = np.arange(start + 1, stop + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))) | np.uint64(1)
