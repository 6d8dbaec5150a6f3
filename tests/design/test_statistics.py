"""Cross-products: from groups as from matrices, from every kind of matrix, and bad input named."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from flashmm.cells.groups import GroupStatistics, merge
from flashmm.cells.summary import summarise
from flashmm.design import products
from flashmm.design.columns import cell_design
from flashmm.design.from_groups import summary_statistics
from flashmm.design.from_matrices import summary_statistics_from_matrices
from flashmm.design.statistics import ModelFormula, SummaryStatistics
from flashmm.options import InputError

BY = ["subject", "cell_type", "condition", "age"]
COVARIATES = ["log(libsize)", "m", "log(libsize):m"]
PRODUCTS = ("XtX", "YtX", "ZtX", "ZtZ", "YtZ", "yty", "X_sum", "Z_sum")


def make_cells(seed: int = 0, n: int = 500, n_genes: int = 9) -> tuple[pd.DataFrame, np.ndarray]:
    """Unbalanced cells of seven subjects and (cells, genes) values."""
    rng = np.random.default_rng(seed)
    number = rng.choice(7, n, p=[0.3, 0.3, 0.15, 0.1, 0.05, 0.05, 0.05])
    types = ["T, CD4+", "B cells", "NK"]
    cells = pd.DataFrame(
        {
            "subject": [f"S{i}" for i in number],
            "cell_type": pd.Categorical(rng.choice(types, n, p=[0.6, 0.3, 0.1]), categories=types),
            "condition": np.where(number % 2 == 0, "ctrl", "stim"),
            "age": 30.0 + number**2,
            "libsize": rng.integers(500, 5000, n).astype(float),
            "m": rng.normal(3, 1, n),
        },
        index=[f"cell{i}" for i in range(n)],
    )
    return cells, rng.normal(size=(n, n_genes)) * 3 + number[:, None]


CELLS, Y = make_cells()


def make_groups(cells: pd.DataFrame = CELLS, values: np.ndarray = Y) -> GroupStatistics:
    adata = ad.AnnData(values, obs=cells, var=pd.DataFrame(index=names(values)))
    return summarise(adata, BY, COVARIATES, "none")


def names(values: np.ndarray) -> list[str]:
    return [f"g{j}" for j in range(values.shape[1])]


def from_cells(
    cells: pd.DataFrame, values: Any, fixed: str, random: Any, **options: Any
) -> SummaryStatistics:
    design = cell_design(cells, fixed, random)
    return summary_statistics_from_matrices(
        values, design.X, design.Z, design.component_sizes, components=design.components, **options
    )


def assert_same(left: SummaryStatistics, right: SummaryStatistics, rtol: float = 1e-9) -> None:
    for name in PRODUCTS:
        a, b = (getattr(s, name) for s in (left, right))
        a, b = (x.toarray() if sp.issparse(x) else x for x in (a, b))
        assert a.shape == b.shape, name
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max(), err_msg=name)
    for name in ("n_cells", "coefficients", "components", "component_sizes"):
        assert getattr(left, name) == getattr(right, name), name


def assert_is_that_of(
    stats: SummaryStatistics, Y: np.ndarray, X: np.ndarray, Z: np.ndarray
) -> None:
    """The definition of every product, in one place."""
    expected = dict(
        XtX=X.T @ X,
        YtX=Y.T @ X,
        ZtX=Z.T @ X,
        ZtZ=Z.T @ Z,
        YtZ=Y.T @ Z,
        yty=(Y**2).sum(0),
        X_sum=X.sum(0),
        Z_sum=Z.sum(0),
    )
    for name, value in expected.items():
        found = getattr(stats, name)
        found = found.toarray() if sp.issparse(found) else found
        np.testing.assert_allclose(found, value, rtol=1e-11, atol=1e-11 * np.abs(value).max())
    assert stats.n_cells == len(Y)


MODELS = [
    ("~ 0 + log(libsize) + cell_type + cell_type:condition", ["subject", "subject:cell_type"]),
    ("~ scale(log(libsize)) * cell_type * condition", ["subject"]),
    ("~ log(libsize):cell_type + poly(age, 2)", ["subject", "0 + log(libsize) || subject"]),
    ("~ m * log(libsize) + condition", ["scale(m) || subject", "subject:cell_type"]),
    ("~ center(m):scale(log(libsize)):cell_type", ["condition/subject"]),
    ("~ bs(age, df=4)", ["0 + cell_type || subject"]),
    ("~ m + condition", ["m | subject"]),
    ("~ C(cell_type, contr.sum) * scale(age)", ["0 + m + log(libsize) || subject:cell_type"]),
]


@pytest.mark.parametrize(("fixed", "random"), MODELS)
def test_groups_path_equals_matrices_path(fixed, random):
    from_groups = summary_statistics(make_groups(), fixed, random)
    from_matrices = from_cells(CELLS, Y, fixed, random, genes=names(Y))
    assert_same(from_groups, from_matrices)
    assert list(from_groups.Z_levels) == list(cell_design(CELLS, fixed, random).Z_levels)
    assert list(from_groups.genes) == list(from_matrices.genes) == names(Y)
    np.testing.assert_array_equal(from_groups.XtX, from_groups.XtX.T)


def test_record_of_groups_keeps_its_recipe():
    groups = make_groups()
    stats = summary_statistics(groups, "~ condition", "subject")
    assert stats.groups is groups and stats.model == ModelFormula("~ condition", ("subject",))
    assert stats.design is not None and stats.design.coefficients == stats.coefficients
    assert stats.coefficient_columns == (frozenset(), frozenset({"condition"}))
    assert stats.products_YtZ is None
    model = summary_statistics(groups, "~ condition + (1 | subject)").model
    assert model is not None and model.random is None
    assert "9 genes, 500 cells, 2 coefficients, random: subject (7)" in repr(stats)


@pytest.mark.parametrize(("start", "stop"), [(0, 4), (4, 9), (8, 50), (3, 3)])
def test_YtZ_in_blocks_of_genes(start, stop):
    fixed, random = MODELS[3]
    for stats in (
        summary_statistics(make_groups(), fixed, random),
        from_cells(CELLS, Y, fixed, random),
    ):
        block = stats.YtZ_block(start, stop)
        np.testing.assert_allclose(block, stats.YtZ[start:stop], rtol=1e-12, atol=1e-9)


def test_large_ZtZ_is_sparse(monkeypatch):
    fixed, random = MODELS[0]
    dense = summary_statistics(make_groups(), fixed, random)
    monkeypatch.setattr(products, "MAX_DENSE_COLUMNS", 10)
    for stats in (
        summary_statistics(make_groups(), fixed, random),
        from_cells(CELLS, Y, fixed, random),
    ):
        assert isinstance(stats.ZtZ, sp.csr_array)
        np.testing.assert_allclose(stats.ZtZ.toarray(), dense.ZtZ, atol=1e-9)


def test_merged_groups_and_subsets_give_the_statistics_of_their_cells():
    first = CELLS["libsize"].to_numpy() < 2000
    parts = [make_groups(CELLS[mask], Y[mask]) for mask in (first, ~first)]
    fixed, random = MODELS[0]
    assert_same(
        summary_statistics(merge(parts), fixed, random), from_cells(CELLS, Y, fixed, random)
    )
    groups = make_groups()
    keep = (groups.obs["subject"] != "S0").to_numpy()
    cells = (CELLS["subject"] != "S0").to_numpy()
    assert_same(
        summary_statistics(groups.subset(keep), fixed, random),
        from_cells(CELLS[cells], Y[cells], fixed, random),
    )


# --- matrices -----------------------------------------------------------------------------------

COUNTS = np.random.default_rng(3).poisson(2.0, (40, 6))
DESIGN = np.column_stack([np.ones(40), np.arange(40) % 2, np.linspace(-1, 1, 40)])
LEVELS = np.hstack([np.eye(5)[np.arange(40) % 5], np.eye(8)[np.arange(40) // 5]])


class OnDisk:
    """An array that gives rows by slices and nothing else, as arrays on disk do."""

    def __init__(self, values: Any) -> None:
        self.values, self.shape = values, values.shape

    def __getitem__(self, rows: slice) -> Any:
        assert isinstance(rows, slice)
        return self.values[rows]


KINDS = {
    "float64": lambda Y: Y.astype(float),
    "float32": lambda Y: Y.astype(np.float32),
    "int8": lambda Y: Y.astype(np.int8),
    "uint16": lambda Y: Y.astype(np.uint16),
    "int64 in Fortran's order": lambda Y: np.asfortranarray(Y.astype(np.int64)),
    "list": lambda Y: Y.tolist(),
    "DataFrame": lambda Y: pd.DataFrame(Y, columns=names(Y)),
    "csr_array": lambda Y: sp.csr_array(Y),
    "csr_matrix": lambda Y: sp.csr_matrix(Y.astype(np.float32)),
    "csc_array": lambda Y: sp.csc_array(Y),
    "csc_matrix": lambda Y: sp.csc_matrix(Y.astype(np.int16)),
    "coo_array": lambda Y: sp.coo_array(Y),
    "on disk": lambda Y: OnDisk(Y),
    "on disk, sparse": lambda Y: OnDisk(sp.csr_matrix(Y)),
}


@pytest.mark.parametrize("block", [None, 1, 7, 1000])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_values(kind, block):
    stats = summary_statistics_from_matrices(
        KINDS[kind](COUNTS), DESIGN, LEVELS, [5, 8], block=block
    )
    assert_is_that_of(stats, COUNTS.astype(float), DESIGN, LEVELS)
    for name in ("XtX", "YtX", "ZtX", "ZtZ", "YtZ", "yty"):
        assert getattr(stats, name).dtype == np.float64


@pytest.mark.parametrize("values", ["float64", "csr_array", "csc_array"])
@pytest.mark.parametrize(
    "convert",
    [
        np.float32,
        sp.csr_matrix,
        sp.csc_array,
        pd.DataFrame,
        lambda M: pd.DataFrame.sparse.from_spmatrix(sp.csr_matrix(M)),
    ],
)
def test_every_kind_of_designs(values, convert):
    whole = np.round(DESIGN * 8) / 8  # exact in float32
    stats = summary_statistics_from_matrices(
        KINDS[values](COUNTS), convert(whole), convert(LEVELS), (5, 8), block=9
    )
    assert_is_that_of(stats, COUNTS.astype(float), whole, LEVELS)


def test_small_integers_do_not_overflow():
    large = np.full((40, 2), 120, dtype=np.int8)
    for values in (large, sp.csr_array(large), sp.csc_array(large)):
        stats = summary_statistics_from_matrices(values, DESIGN, LEVELS, [5, 8])
        np.testing.assert_array_equal(stats.yty, 40 * 120.0**2)


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_matrix])
def test_entries_stored_twice_are_summed(kind):
    # a single row of CSR, or column of CSC: 2 and 3 at the same place, 1 beside it
    stored = (np.array([2.0, 3.0, 1.0]), np.array([0, 0, 1]), np.array([0, 3]))
    twice = kind(stored, shape=(1, 2) if kind is sp.csr_matrix else (2, 1))
    ones = np.ones((twice.shape[0], 1))
    stats = summary_statistics_from_matrices(twice, ones, ones, 1)
    assert stats.yty.sum() == 5.0**2 + 1
    assert twice.nnz == 3  # the input is left as it was


def test_names():
    values = pd.DataFrame(COUNTS, columns=names(COUNTS))
    X = pd.DataFrame(DESIGN, columns=["Intercept", "treated", "slope"])
    Z = pd.DataFrame(LEVELS, columns=[f"S{j}" for j in range(13)])
    stats = summary_statistics_from_matrices(values, X, Z, [5, 8], components=["a", "b"])
    assert list(stats.genes) == names(COUNTS)
    assert stats.coefficients == ("Intercept", "treated", "slope")
    assert stats.components == ("a", "b") and list(stats.Z_levels) == list(Z.columns)
    plain = summary_statistics_from_matrices(COUNTS, DESIGN, LEVELS, [13])
    assert list(plain.genes[:2]) == ["gene1", "gene2"] and plain.coefficients == ("x1", "x2", "x3")
    assert plain.components == ("component1",) and plain.Z_levels[12] == "level13"
    renamed = summary_statistics_from_matrices(
        values, X, Z, [13], genes=list("abcdef"), coefficients=["i", "t", "s"]
    )
    assert list(renamed.genes) == list("abcdef") and renamed.coefficients == ("i", "t", "s")


def with_value(matrix: np.ndarray, value: float, *places: tuple[int, int]) -> np.ndarray:
    out = matrix.astype(float)
    for place in places:
        out[place] = value
    return out


BAD_COUNTS = with_value(with_value(COUNTS, np.nan, (7, 2), (9, 0)), np.inf, (30, 5))
OK = dict(Y=COUNTS, X=DESIGN, Z=LEVELS, component_sizes=[5, 8])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(Y=BAD_COUNTS), "Y holds 3 values that are not finite, the first in cell 7, gene 2"),
        (dict(Y=BAD_COUNTS, block=4), "Y holds 3 values.*cell 7, gene 2"),
        (dict(Y=sp.csr_array(BAD_COUNTS), block=8), "Y holds 3 values.*cell 7, gene 2"),
        (dict(Y=sp.csc_array(BAD_COUNTS), block=2), "Y holds 3 values.*cell 9, gene 0"),
        (dict(Y=pd.DataFrame(BAD_COUNTS, columns=list("abcdef"))), "cell 7, gene c"),
        (dict(Y=COUNTS * 1e200), "squares are not finite"),
        (dict(Y=COUNTS * 1j), "Y holds values of type complex"),
        (dict(Y=COUNTS.astype(str)), "Y holds values of type <U"),
        (dict(Y=COUNTS[:, 0]), r"Y is cells x genes; found an array of shape \(40,\)"),
        (dict(X=with_value(DESIGN, np.inf, (3, 1))), "X holds 1 values.*cell 3, column 1"),
        (
            dict(X=pd.DataFrame(with_value(DESIGN, np.nan, (3, 1), (4, 2)), columns=list("abc"))),
            "X holds 2 values.*cell 3, column b",
        ),
        (dict(Z=sp.csr_array(with_value(LEVELS, np.nan, (3, 1)))), "Z holds 1 values.*cell 3"),
        (dict(X=DESIGN[:, 0]), "X has two axes"),
        (dict(X=pd.DataFrame({"a": list("xy") * 20})), "X holds values of type object"),
        (dict(X=DESIGN[:30]), "Y has 40 cells.*X has 30 rows"),
        (dict(Z=LEVELS[:30]), "Y has 40 cells.*Z has 30 rows"),
        (dict(Y=COUNTS.T), "X has 40 rows. Y is cells x genes: transpose it"),
        (dict(component_sizes=[5, 9]), r"\[5, 9\] sum to 14, but Z has 13 columns"),
        (dict(component_sizes=[13, -1]), "whole numbers from 1"),
        (dict(component_sizes=[13, 0]), "component 2 has no columns and does not follow two"),
        (dict(component_sizes=[]), "whole numbers from 1"),
        (dict(component_sizes=[6.5, 6.5]), "a list of whole numbers"),
        (dict(block=0), "block is a number of cells"),
        (dict(coefficients=["a", "b", "a"]), r"coefficients occur more than once: 'a'"),
        (dict(X=pd.DataFrame(DESIGN, columns=["a", "b", "b"])), "coefficients occur more than"),
        (dict(genes=["a"] * 6), "genes occur more than once"),
        (dict(genes=["a"]), "1 names of genes are given for 6"),
        (dict(coefficients=["a"]), "1 names of coefficients are given for 3"),
        (dict(components=["a"]), "1 names of components are given for 2"),
    ],
)
def test_bad_matrices(change, words):
    with pytest.raises(InputError, match=words):
        summary_statistics_from_matrices(**OK | change)


# --- properties ---------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
@given(st.integers(0, 10_000), st.integers(1, 300))
@settings(max_examples=2, deadline=None)
def test_any_cells_in_any_blocks(model, seed, block):
    cells, values = make_cells(seed, n=250, n_genes=3)
    order = np.random.default_rng(seed).permutation(len(cells))
    from_groups = summary_statistics(make_groups(cells, values), *model)
    from_matrices = from_cells(cells.iloc[order], values[order], *model, block=block)
    assert_same(from_groups, from_matrices)


@given(st.integers(0, 10_000), st.floats(-8, 8), st.integers(-6, 6))
@settings(max_examples=15, deadline=None)
def test_shift_and_scale_of_values(seed, shift, power):
    """With an intercept, residual sums of squares follow (a + b y) exactly."""
    rng = np.random.default_rng(seed)
    values, factor = rng.normal(size=(40, 2)), 10.0**power
    plain = summary_statistics_from_matrices(values, DESIGN, LEVELS, [5, 8])
    moved = summary_statistics_from_matrices((values + shift) * factor, DESIGN, LEVELS, [5, 8])

    def residual(stats: SummaryStatistics) -> np.ndarray:
        fitted = np.linalg.solve(stats.XtX, stats.YtX.T)
        return stats.yty - (stats.YtX.T * fitted).sum(axis=0)

    np.testing.assert_allclose(residual(moved), residual(plain) * factor**2, rtol=1e-7)
