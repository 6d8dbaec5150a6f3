"""The compiled pass against numpy, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from flashmm.kernels.group_sums import (
    COUNTS_IN_ROWS,
    LARGEST_IN_TABLE,
    MOST_CELLS,
    MOST_COUNTS,
    NARROW,
    ONE_MORE,
    WIDE,
    add_cells,
    add_genes,
    by_kind,
    in_order,
    largest_count,
    line_totals,
    nonzero_values,
    take_numbers,
    types_of_values,
)

N_CELLS, N_GENES, N_GROUPS = 60, 9, 4
KINDS = pytest.mark.parametrize("kinds", [NARROW, WIDE], ids=["narrow", "wide"])


def read_only(array: np.ndarray, kind: np.dtype | type | None = None) -> np.ndarray:
    out = np.array(array, dtype=kind)
    out.setflags(write=False)
    return out


def counts() -> np.ndarray:
    rng = np.random.default_rng(0)
    values = rng.poisson(1.5, (N_CELLS, N_GENES)).astype(float)
    values[[0, 7, -1]] = 0
    return values


@KINDS
@pytest.mark.parametrize("table", [counts(), np.zeros((3, 4)), np.ones((2, 3)), np.ones((0, 3))])
def test_values_of_a_table_that_are_not_zero(kinds: tuple, table: np.ndarray) -> None:
    table = np.where(table == 2, np.nan, np.where(table == 3, -0.0, table))
    indptr, minor, values = nonzero_values(read_only(table, kinds[1]), np.empty(0, kinds[0]))
    lines, places = np.nonzero(table)
    np.testing.assert_array_equal(indptr, np.searchsorted(lines, np.arange(len(table) + 1)))
    np.testing.assert_array_equal(minor, places)
    np.testing.assert_array_equal(values, table[lines, places])
    assert (minor.dtype, values.dtype) == kinds


@KINDS
@pytest.mark.parametrize("look_up", [True, False])
@pytest.mark.parametrize("m", [0, 1, 2])
@pytest.mark.parametrize("by_cells", [True, False])
@pytest.mark.parametrize("numbered", [True, False])
@pytest.mark.parametrize("moved", [True, False])
@pytest.mark.parametrize("largest", [None, COUNTS_IN_ROWS])
def test_sums_are_those_of_one_addition_after_another(
    kinds: tuple,
    look_up: bool,
    m: int,
    by_cells: bool,
    numbered: bool,
    moved: bool,
    largest: int | None,
) -> None:
    rng = np.random.default_rng(1)
    group = rng.integers(-1, N_GROUPS, N_CELLS)
    column = rng.permutation(N_GENES) if moved else np.arange(N_GENES)
    x = rng.normal(size=(m, N_CELLS))
    matrix = (sparse.csr_array if by_cells else sparse.csc_array)(counts())
    matrix.data[5] = 0  # a stored zero
    matrix.data[9] = largest or matrix.data[9]
    table = np.log2(1.0 + np.arange(matrix.data.max() + 1))
    y = table if look_up else np.where(matrix.data == 0, 0.0, rng.normal(size=matrix.nnz))
    sums = np.zeros((N_GROUPS, N_GENES, 3 + m))
    for first, last in ((0, 4), (4, matrix.indptr.size - 1)):  # two blocks
        a, b = matrix.indptr[[first, last]]
        values = (
            sums,
            read_only(matrix.indptr[first : last + 1] - a, np.int64),
            read_only(matrix.indices[a:b], kinds[0]),
            read_only(matrix.data[a:b], kinds[1]),
            read_only(y if look_up else y[a:b]),
            look_up,
            first,
            read_only(group),
            read_only(column),
            read_only(x),
            numbered,
        )
        if by_cells:  # the groups in two parts
            add_cells(*values, 0, 1)
            add_cells(*values, 2, N_GROUPS - 1)
        else:
            add_genes(*values)

    expected = np.zeros_like(sums)
    triples = matrix.tocoo()
    transformed = table[triples.data.astype(int)] if look_up else y
    for cell, gene, value, yi in zip(
        triples.row, triples.col, triples.data, transformed, strict=True
    ):
        if group[cell] >= 0 and value != 0:
            terms = [yi, yi * yi, value + numbered * ONE_MORE, *(x[:, cell] * yi)]
            expected[group[cell], column[gene]] += terms
    np.testing.assert_array_equal(sums, expected)
    np.testing.assert_array_equal(
        by_kind(sums, np.zeros((N_GROUPS, N_GENES)), False), expected.swapaxes(1, 2)
    )


@KINDS
@pytest.mark.parametrize(
    ("values", "largest"),
    [
        ([], 0),
        ([0, 3, 2], 3),
        ([-0.0, 1], 1),
        ([1, LARGEST_IN_TABLE], LARGEST_IN_TABLE),
        ([1, LARGEST_IN_TABLE + 1], -1),
        ([1e20], -1),
        ([1, 0.5], -1),
        ([2, -1], -1),
        ([2, -2], -1),
        ([-0.5], -1),
        ([np.nan, 1], -1),
        ([np.inf], -1),
        ([-np.inf], -1),
    ],
)
def test_the_largest_count(kinds: tuple, values: list[float], largest: int) -> None:
    assert largest_count(read_only(values, kinds[1])) == largest
    padded = [1.0] * 40 + values + [1.0] * 40  # where vector instructions are used
    assert largest_count(read_only(padded, kinds[1])) == (max(largest, 1) if largest >= 0 else -1)


@KINDS
@pytest.mark.parametrize(
    ("minor", "last", "expected"),
    [
        ([0, 2, 5, 1, 4, 0], -1, True),
        ([0, 2, 5, 1, 4, 6], -1, False),  # 6 is outside
        ([0, 2, 6, 1, 4, 0], -1, False),
        ([-1, 2, 5, 1, 4, 0], -1, False),
        ([0, 2, 5, -1, 4, 0], -1, False),
        ([2, 0, 5, 1, 4, 0], -1, False),
        ([0, 2, 2, 1, 4, 0], -1, False),
        ([0, 2, 5, 4, 1, 0], -1, False),
        ([1, 2, 5, 1, 4, 0], 0, True),
        ([0, 2, 5, 1, 4, 0], 0, False),
    ],
)
def test_order(kinds: tuple, minor: list[int], last: int, expected: bool) -> None:
    indptr = read_only(np.array([0, 3, 3, 5, 6]))
    assert in_order(indptr, read_only(minor, kinds[0]), 6, last) is expected


@KINDS
def test_totals_of_lines(kinds: tuple) -> None:
    matrix = sparse.csr_array(counts())
    totals = line_totals(matrix.indptr.astype(np.int64), matrix.data.astype(kinds[1]))
    np.testing.assert_array_equal(totals, counts().sum(1))


def test_types_of_values() -> None:
    assert types_of_values(np.dtype("i4"), np.dtype("f4")) == NARROW
    for positions, values in (("i4", "f8"), ("i8", "f4"), (">i4", "f4"), ("i4", "i4"), ("i4", "?")):
        assert types_of_values(np.dtype(positions), np.dtype(values)) == WIDE


def test_numbers_are_taken_out_of_the_sums_exactly() -> None:
    rng = np.random.default_rng(2)
    values = rng.poisson(0.7, (4, 6, 500)).astype(float)
    sums = (values + ONE_MORE * (values > 0)).sum(2)
    numbers = np.full((4, 6), 3.0)
    take_numbers(sums, numbers)
    np.testing.assert_array_equal(sums, values.sum(2))
    np.testing.assert_array_equal(numbers, 3.0 + (values > 0).sum(2))


def test_numbers_are_taken_out_while_the_sums_are_turned() -> None:
    sums = np.random.default_rng(3).poisson(0.7, (2, 5, 4)) + ONE_MORE * np.arange(5)[:, None]
    expected, numbers = sums.copy(), np.ones((2, 5))
    take_numbers(expected[:, :, 2], np.zeros((2, 5)))
    turned = by_kind(sums, numbers, True)
    np.testing.assert_array_equal(turned, expected.swapaxes(1, 2))
    np.testing.assert_array_equal(numbers, np.tile(1.0 + np.arange(5), (2, 1)))


def test_the_largest_sums_are_exact() -> None:
    counts = np.r_[MOST_COUNTS - MOST_CELLS + 1, np.ones(MOST_CELLS - 1)] + ONE_MORE
    sums = np.cumsum(counts)[None, -1:]  # one after another
    numbers = np.zeros((1, 1))
    take_numbers(sums, numbers)
    assert (sums[0, 0], numbers[0, 0]) == (MOST_COUNTS, MOST_CELLS)
