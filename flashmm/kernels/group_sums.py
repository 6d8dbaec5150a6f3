"""One pass over lines of nonzero values: their order, their kind, and their sums by group.

A line is a cell (CSR) or a gene (CSC); `indptr` (lines + 1,) says where the values of each begin in
`minor`, their positions along the other axis, and in `values`. These two are int32 and float32, or
int64 and float64 (see `types_of_values`). All functions are compiled for these types only, when
first called, are kept on disk, and run without holding the interpreter's lock; arithmetic is done
in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import numpy as np
from numba import njit, types

from flashmm.kernels.four_sums import add_four
from flashmm.kernels.threads import in_threads

LARGEST_IN_TABLE = 2**20  # larger counts are not looked up; a table takes 8 MB at most
# Values of a group in a block, times this, that must exceed its genes for sums to be fetched first.
WORTH_FETCHING = 8
COUNTS_PER_CELL = 256  # counts below are looked up in a table of the cell
COUNTS_IN_ROWS = 2**14  # so many that all that they add stays in the processor's cache
# What a value above zero adds to the sum of the values, whose fraction then says how many there are
# (`take_numbers`): a sum of its own would cost a line of the processor's cache per value.
ONE_MORE = 2.0**-22
# Cells of a group, and sum of their counts, up to which both parts are exact.
MOST_CELLS, MOST_COUNTS = 2**22 - 1, 2.0**31 - 1.0

NARROW = (np.dtype(np.int32), np.dtype(np.float32))
WIDE = (np.dtype(np.int64), np.dtype(np.float64))


def types_of_values(positions: np.dtype, values: np.dtype) -> tuple[np.dtype, np.dtype]:
    """Choose the types, of those in use here, that hold what two arrays store."""
    return NARROW if (positions, values) == NARROW else WIDE


def _read_only(kind: Any, n_dims: int = 1) -> Any:
    """Type of an array that is not written to, and may be a slice of a memory map."""
    return types.Array(kind, n_dims, "C", readonly=True)


_FLAG, _INTEGER = types.boolean, types.int64
_INTEGERS, _FLOATS = _read_only(types.int64), _read_only(types.float64)
_POSITIONS = (_read_only(types.int32), _INTEGERS)
_VALUES = (_read_only(types.float32), _FLOATS)
_PLACES = (_INTEGER, _INTEGERS, _INTEGERS, _read_only(types.float64, 2))
_ADD = [
    (types.float64[:, :, ::1], _INTEGERS, positions, values, _FLOATS, _FLAG, *_PLACES, _FLAG)
    for positions, values in zip(_POSITIONS, _VALUES, strict=True)
]


def _compiled(signatures: list[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function for one of these types, or load it, at its first call with them."""
    of_arrays = [
        [np.dtype(str(kind.dtype)) if isinstance(kind, types.Array) else None for kind in s.args]
        for s in signatures
    ]

    def place(arguments: tuple[Any, ...]) -> int:
        """Which signature has the types of the arrays; the first one if none has."""
        for i, kinds in enumerate(of_arrays):
            pairs = zip(kinds, arguments, strict=False)
            if all(kind is None or kind == getattr(value, "dtype", None) for kind, value in pairs):
                return i
        return 0

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @cache
        def compiled(i: int) -> Callable[..., Any]:
            ready: Callable[..., Any] = njit([signatures[i]], cache=True, nogil=True)(function)
            return ready

        @wraps(function)
        def call(*arguments: Any) -> Any:
            return compiled(place(arguments))(*arguments)

        return call

    return decorate


@_compiled([_FLAG(_INTEGERS, minor, _INTEGER, _INTEGER) for minor in _POSITIONS])
def in_order(indptr: np.ndarray, minor: np.ndarray, width: int, last: int) -> bool:
    """Tell whether the positions of each line ascend, and are inside the matrix.

    Parameters
    ----------
    indptr, minor : numpy.ndarray
        (lines + 1,), (values,).
    width : int
        Length of a line; its positions go from 0 to width - 1.
    last : int
        The last position before these where the first line has begun earlier; -1 elsewhere.
    """
    disorder = np.int32(0)
    for line in range(len(indptr) - 1):
        begin, end = indptr[line], indptr[line + 1]
        if begin < end:
            disorder |= np.int32(minor[begin] <= last) | np.int32(minor[end - 1] >= width)
            before, after = minor[begin : end - 1], minor[begin + 1 : end]
            for i in range(len(before)):  # by position, which is compiled to vector instructions
                disorder |= np.int32(after[i] <= before[i])
        last = -1
    return disorder == 0


@_compiled(
    [
        types.Tuple([types.int64[::1], positions[::1], values[::1]])(
            _read_only(values, 2), positions[::1]
        )
        for positions, values in ((types.int32, types.float32), (types.int64, types.float64))
    ]
)
def nonzero_values(
    table: np.ndarray, minor: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the values of a table that are not zero, as lines: indptr, minor and values.

    Parameters
    ----------
    table : numpy.ndarray
        (lines, width).
    minor : numpy.ndarray
        Of the type of positions that goes with the values, of any length.
    """
    n_lines, width = table.shape
    indptr = np.zeros(n_lines + 1, np.int64)
    for line in range(n_lines):
        count = 0
        for j in range(width):
            count += table[line, j] != 0
        indptr[line + 1] = indptr[line] + count
    n = indptr[n_lines]
    # every value is written, and the next one over it where it is zero: no branch to guess
    place, found = np.empty(n + 1, minor.dtype), np.empty(n + 1, table.dtype)
    k = 0
    for line in range(n_lines):
        for j in range(width):
            place[k], found[k] = j, table[line, j]
            k += table[line, j] != 0
    return indptr, place[:n], found[:n]


@_compiled([_INTEGER(values) for values in _VALUES])
def largest_count(values: np.ndarray) -> int:
    """Find the largest value; -1 unless all are integers from 0 to `LARGEST_IN_TABLE`."""
    largest, others = np.int32(0), False
    for i in range(len(values)):  # by position, which is compiled to vector instructions
        value = values[i]
        count = np.int32(value if (value >= 0) & (value <= LARGEST_IN_TABLE) else -1)
        others |= abs(value) != count
        largest = max(largest, count)
    return -1 if others else int(largest)


@_compiled([types.float64[::1](_INTEGERS, values) for values in _VALUES])
def line_totals(indptr: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sum of the values of each line, added one after another: (lines,)."""
    totals = np.zeros(len(indptr) - 1)
    for line in range(len(totals)):
        for i in range(indptr[line], indptr[line + 1]):
            totals[line] += values[i]
    return totals


@_compiled(
    [
        types.float64[::1](_INTEGERS, positions, values, _FLAG, _INTEGER, types.float64, _FLOATS)
        for positions, values in zip(_POSITIONS, _VALUES, strict=True)
    ]
)
def log1p_of_shares(
    indptr: np.ndarray,
    minor: np.ndarray,
    values: np.ndarray,
    by_cells: bool,
    first: int,
    scale: float,
    size: np.ndarray,
) -> np.ndarray:
    """Transform counts to y = log(1 + scale · count / size of the cell): (values,).

    In lines of cells, a count that occurs again in its cell is looked up.

    Parameters
    ----------
    indptr, minor, values : numpy.ndarray
        The lines; values are integers from 0.
    by_cells : bool
        Whether lines are cells.
    first : int
        Position of the first line in the matrix.
    scale : float
        To which the counts of a cell are scaled.
    size : numpy.ndarray
        (cells,) library sizes.
    """
    y = np.empty(len(values))
    known = np.empty(COUNTS_PER_CELL)
    of_line = np.full(COUNTS_PER_CELL, -1)
    for line in range(len(indptr) - 1):
        for i in range(indptr[line], indptr[line + 1]):
            value = np.float64(values[i])
            if value == 0:  # whose cell may have no counts at all
                y[i] = 0.0
            elif not by_cells:
                y[i] = np.log1p(scale * value / size[minor[i]])
            elif value >= COUNTS_PER_CELL:
                y[i] = np.log1p(scale * value / size[first + line])
            else:
                count = np.uint64(value)
                if of_line[count] != line:
                    of_line[count] = line
                    known[count] = np.log1p(scale * value / size[first + line])
                y[i] = known[count]
    return y


@njit(cache=True, nogil=True)
def _what_counts_add(y: np.ndarray, one_more: float) -> np.ndarray:
    """What each count adds to the first sums, in one line of the processor's cache: (counts, 4)."""
    added = np.empty((len(y), 4))
    for count in range(len(y)):
        yi = y[count]
        added[count, 0] = yi
        added[count, 1] = yi * yi
        added[count, 2] = count + (one_more if count > 0 else 0.0)
        added[count, 3] = yi
    return added


@njit(cache=True, nogil=True, inline="always")
def _add_counts(
    total: np.ndarray,
    start: int,
    stop: int,
    minor: np.ndarray,
    values: np.ndarray,
    added: np.ndarray,
    column: np.ndarray,
    in_place: bool,
    slope: float,
) -> None:
    """Add the counts of one cell, start to stop, to the first four sums (columns, 4 or more)."""
    for i in range(start, stop):
        # unsigned: no look for negative positions
        j = np.uint64(minor[i] if in_place else column[minor[i]])
        add_four(total, j, added, np.uint64(np.int32(values[i])), slope)


@njit(cache=True, nogil=True, inline="always")
def _add_cell(
    total: np.ndarray,
    start: int,
    stop: int,
    minor: np.ndarray,
    values: np.ndarray,
    y: np.ndarray,
    look_up: bool,
    column: np.ndarray,
    x: np.ndarray,
    one_more: float,
) -> None:
    """Add the values of one cell, start to stop, to the sums (columns, 3 + covariates)."""
    n_x = len(x)
    slope = x[0] if n_x else 0.0
    # y is zero for zero values, which add nothing; a test for them would cost more
    for i in range(start, stop):
        j = np.uint64(column[minor[i]])  # unsigned: no look for negative positions
        yi = y[np.uint64(values[i])] if look_up else y[i]
        total[j, 0] += yi
        total[j, 1] += yi * yi
        total[j, 2] += values[i] + (one_more if values[i] > 0 else 0.0)
        if n_x:
            total[j, 3] += slope * yi
    _add_products(total, start, stop, minor, values, y, look_up, column, x)


@njit(cache=True, nogil=True)
def _add_products(
    total: np.ndarray,
    start: int,
    stop: int,
    minor: np.ndarray,
    values: np.ndarray,
    y: np.ndarray,
    look_up: bool,
    column: np.ndarray,
    x: np.ndarray,
) -> None:
    """Add the products of the values of one cell with its covariates, but for the first one."""
    for k in range(1, len(x)):  # in passes of their own: an inner loop over k would cost more
        for i in range(start, stop):
            yi = y[np.uint64(values[i])] if look_up else y[i]
            total[np.uint64(column[minor[i]]), 3 + k] += x[k] * yi


@njit(cache=True, nogil=True)
def _by_group(group: np.ndarray, lowest: int, highest: int) -> np.ndarray:
    """Positions of lines that are in these groups, by group and in their order, counted out."""
    end = np.zeros(highest - lowest + 2, np.int64)
    for g in group:
        if lowest <= g <= highest:
            end[g - lowest + 1] += 1
    for i in range(len(end) - 1):
        end[i + 1] += end[i]
    order = np.empty(end[-1], np.int64)
    for line in range(len(group)):
        g = group[line]
        if lowest <= g <= highest:
            order[end[g - lowest]] = line
            end[g - lowest] += 1
    return order


@_compiled([types.void(*arguments, _INTEGER, _INTEGER) for arguments in _ADD])
def add_cells(
    sums: np.ndarray,
    indptr: np.ndarray,
    minor: np.ndarray,
    values: np.ndarray,
    y: np.ndarray,
    look_up: bool,
    first: int,
    group: np.ndarray,
    column: np.ndarray,
    x: np.ndarray,
    numbered: bool,
    lowest: int,
    highest: int,
) -> None:
    """Add the values of cells to the sums of their groups.

    Cells are taken group by group, whose sums then stay in the processor's cache. Those of one
    group keep their order, on which alone the result depends.

    Parameters
    ----------
    sums : numpy.ndarray
        (groups, columns, 3 + covariates) Σ y, Σ y², Σ value (with `ONE_MORE` for each value above
        zero where they are `numbered`), and Σ x_k y; changed in place. The sums of one gene lie
        side by side, so that a value needs one line of the processor's cache.
    indptr, minor, values : numpy.ndarray
        The lines; positions are inside the matrix.
    y : numpy.ndarray
        Transformed values: (values,), or where `look_up` a table, y[v] being that of the value v.
    look_up : bool
        What `y` is.
    first : int
        Position of the first line in the matrix.
    group, column : numpy.ndarray
        (cells,) Group of each cell, below 0 for cells that are left out; (genes,) column of each
        gene in `sums`.
    x : numpy.ndarray
        (covariates, cells).
    numbered : bool
        Whether the sums of values also say how many are above zero (`take_numbers`).
    lowest, highest : int
        The groups to which values are added, the last one included; others are left as they are.
    """
    one_more = ONE_MORE if numbered else 0.0
    in_rows = look_up and len(x) > 0 and len(y) <= COUNTS_IN_ROWS
    added = _what_counts_add(y[: len(y) if in_rows else 0], one_more)
    in_place = True
    for j in range(len(column)):
        in_place &= column[j] == j
    of_lines = group[first : first + len(indptr) - 1]
    order, start = _by_group(of_lines, max(lowest, 0), highest), 0
    while start < len(order):
        g, stop, n_values = of_lines[order[start]], start, 0
        while stop < len(order) and of_lines[order[stop]] == g:
            n_values += indptr[order[stop] + 1] - indptr[order[stop]]
            stop += 1
        if n_values * WORTH_FETCHING > sums.shape[1]:
            for j in range(0, sums.shape[1], 2):  # in order, which memory answers fastest
                sums[g, j, 0] += 0.0
        for line in order[start:stop]:
            begin, end, x_line = indptr[line], indptr[line + 1], x[:, first + line]
            if in_rows and in_place:
                _add_counts(sums[g], begin, end, minor, values, added, column, True, x_line[0])
            elif in_rows:
                _add_counts(sums[g], begin, end, minor, values, added, column, False, x_line[0])
            else:
                _add_cell(sums[g], begin, end, minor, values, y, look_up, column, x_line, one_more)
            if in_rows and len(x) > 1:
                _add_products(sums[g], begin, end, minor, values, y, look_up, column, x_line)
        start = stop


@_compiled([types.void(*arguments) for arguments in _ADD])
def add_genes(
    sums: np.ndarray,
    indptr: np.ndarray,
    minor: np.ndarray,
    values: np.ndarray,
    y: np.ndarray,
    look_up: bool,
    first: int,
    group: np.ndarray,
    column: np.ndarray,
    x: np.ndarray,
    numbered: bool,
) -> None:
    """Add the values of genes to the sums of the groups of their cells, as `add_cells` does."""
    one_more = ONE_MORE if numbered else 0.0
    for line in range(len(indptr) - 1):
        j = column[first + line]
        for i in range(indptr[line], indptr[line + 1]):
            cell = minor[i]
            g = group[cell]
            if g < 0 or values[i] == 0:
                continue
            yi = y[np.uint64(values[i])] if look_up else y[i]
            sums[g, j, 0] += yi
            sums[g, j, 1] += yi * yi
            sums[g, j, 2] += values[i] + (one_more if values[i] > 0 else 0.0)
            for k in range(len(x)):
                sums[g, j, 3 + k] += x[k, cell] * yi


@njit(cache=True, nogil=True)
def _take_numbers_of_group(sums: np.ndarray, numbers: np.ndarray) -> None:
    """Take the numbers of one group out of its sums (columns,)."""
    for j in range(len(sums)):
        whole = np.floor(sums[j])
        numbers[j] += (sums[j] - whole) / ONE_MORE
        sums[j] = whole


@_compiled([types.void(types.Array(types.float64, 2, "A"), types.float64[:, ::1])])
def take_numbers(sums: np.ndarray, numbers: np.ndarray) -> None:
    """Move the numbers of values above zero out of the sums of counts.

    Parameters
    ----------
    sums : numpy.ndarray
        (groups, columns) Σ value with `ONE_MORE` for each value above zero, of at most `MOST_CELLS`
        cells and `MOST_COUNTS`; becomes Σ value.
    numbers : numpy.ndarray
        (groups, columns) To which the numbers are added.
    """
    for g in range(len(sums)):
        _take_numbers_of_group(sums[g], numbers[g])


def by_kind(sums: np.ndarray, numbers: np.ndarray, numbered: bool) -> np.ndarray:
    """Put the sums of one kind side by side, in place: (groups, columns, kinds) becomes a view.

    Parameters
    ----------
    sums : numpy.ndarray
        (groups, columns, kinds) As `add_cells` has them.
    numbers : numpy.ndarray
        (groups, columns) To which the numbers of values above zero are added.
    numbered : bool
        Whether these are taken out of the sums of values, as `take_numbers` does.

    Returns
    -------
    numpy.ndarray
        (groups, kinds, columns) in the memory of `sums`, which is changed.
    """
    groups, columns, kinds = sums.shape
    turned = sums.reshape(groups, kinds, columns)

    def turn(part: slice) -> None:
        _turn(sums[part], turned[part], numbers[part], numbered)

    in_threads(turn, [slice(0, groups // 2), slice(groups // 2, groups)])
    return turned


_CUBE = types.float64[:, :, ::1]


@_compiled([types.void(_CUBE, _CUBE, types.float64[:, ::1], _FLAG)])
def _turn(sums: np.ndarray, turned: np.ndarray, numbers: np.ndarray, numbered: bool) -> None:
    """Turn group by group, each of which the processor's cache holds, in the same memory."""
    for g in range(len(sums)):
        if numbered:
            _take_numbers_of_group(sums[g, :, 2], numbers[g])
        of_group = sums[g].copy()
        for kind in range(turned.shape[1]):
            for j in range(turned.shape[2]):
                turned[g, kind, j] = of_group[j, kind]
