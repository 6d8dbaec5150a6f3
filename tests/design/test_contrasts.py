"""Contrasts: the text of expressions, and every other way of asking for them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashmm.design.contrasts import Contrast, parse_expression, resolve_contrasts, without_columns
from flashmm.kernels.rotation import independent_columns
from flashmm.options import FormulaError

B = "cell_type[B cells]:condition[T.stim]"
CD14 = "cell_type[CD14+ Monocytes]:condition[T.stim]"
T_CD4 = "cell_type[T, CD4+]:condition[T.stim]"
NAMES = (
    "Intercept",
    "log(libsize)",
    "age",
    "age:flag",
    "A1",
    "A10",
    "A10-A1",
    "cell_type[T, CD4+]",
    B,
    CD14,
    T_CD4,
    "C(batch, contr.treatment('a+b'))[T.b-c]",
    "percent.mito",
    "percent",
    "10x",
    "größe",
    "poly(age, 2)[1]",
    "a * b",
)
COLUMNS = (
    frozenset(),
    frozenset({"libsize"}),
    frozenset({"age"}),
    frozenset({"age", "flag"}),
    *[frozenset({"A"})] * 3,
    frozenset({"cell_type"}),
    *[frozenset({"cell_type", "condition"})] * 3,
    frozenset({"batch"}),
    frozenset({"percent.mito"}),
    frozenset({"percent"}),
    frozenset({"x"}),
    frozenset({"größe"}),
    frozenset({"age"}),
    frozenset(),
)


def weights(row: np.ndarray) -> dict[str, float]:
    assert row.shape == (len(NAMES),)
    return {NAMES[i]: float(row[i]) for i in np.flatnonzero(row)}


EXPRESSIONS = [
    ("age", {"age": 1}),
    ("  age  ", {"age": 1}),
    ("-age", {"age": -1}),
    ("+age", {"age": 1}),
    ("--age", {"age": 1}),
    ("- +age", {"age": -1}),
    ("2*age", {"age": 2}),
    ("age*2", {"age": 2}),
    ("age/4", {"age": 0.25}),
    (".5 * age", {"age": 0.5}),
    ("1e-1*age", {"age": 0.1}),
    ("2*3*age/6", {"age": 1}),
    ("(1 + 2) * age", {"age": 3}),
    ("age - 3 + 3", {"age": 1}),
    ("age + age", {"age": 2}),
    ("age - 2 * Intercept", {"age": 1, "Intercept": -2}),
    ("1 / 2 * (age + Intercept)", {"age": 0.5, "Intercept": 0.5}),
    ("-(age - (Intercept - A1)) / 2", {"age": -0.5, "Intercept": 0.5, "A1": -0.5}),
    ("age-A1-A10", {"age": 1, "A1": -1, "A10": -1}),
    ("log(libsize)", {"log(libsize)": 1}),
    ("(log(libsize) + age)/2", {"log(libsize)": 0.5, "age": 0.5}),
    # the longest name, unless it would end inside a word
    ("A10-A1", {"A10-A1": 1}),
    ("A10 - A1", {"A10": 1, "A1": -1}),
    ("A10 -A1", {"A10": 1, "A1": -1}),
    ("`A10`-`A1`", {"A10": 1, "A1": -1}),
    ("A1-A10", {"A1": 1, "A10": -1}),
    ("A10-A1-A1", {"A10-A1": 1, "A1": -1}),
    ("A10-A1 - A10 + A1", {"A10-A1": 1, "A10": -1, "A1": 1}),
    ("age:flag - age", {"age:flag": 1, "age": -1}),
    ("percent.mito - percent", {"percent.mito": 1, "percent": -1}),
    ("percent-percent.mito", {"percent": 1, "percent.mito": -1}),
    ("10x*10", {"10x": 10}),
    ("10*10x", {"10x": 10}),
    ("größe/2", {"größe": 0.5}),
    ("a * b", {"a * b": 1}),
    ("2 * a * b", {"a * b": 2}),
    ("poly(age, 2)[1]*3", {"poly(age, 2)[1]": 3}),
    # spaces, commas, colons, brackets, dots and signs inside names
    (B, {B: 1}),
    (f"{B} - {CD14}", {B: 1, CD14: -1}),
    (f"{CD14}-{T_CD4}", {CD14: 1, T_CD4: -1}),
    (f"({B} + {CD14} + {T_CD4}) / 3", {B: 1 / 3, CD14: 1 / 3, T_CD4: 1 / 3}),
    (f"cell_type[T, CD4+] + {T_CD4}", {"cell_type[T, CD4+]": 1, T_CD4: 1}),
    (f"`{CD14}` * 2", {CD14: 2}),
    (f"{NAMES[11]} - age", {NAMES[11]: 1, "age": -1}),
]


@pytest.mark.parametrize(("text", "expected"), EXPRESSIONS)
def test_expressions(text, expected):
    assert weights(parse_expression(text, NAMES)) == pytest.approx(expected)


ERRORS = [
    ("", "the end, where a coefficient should follow"),
    ("   ", "the end"),
    ("age +", "the end"),
    ("age +* A1", r"at character 6: age \+>>>\* A1"),
    ("aeg", "no coefficient is called 'aeg' .*near names are 'age'"),
    ("age + zzz", r"'zzz' \(the coefficients are 'Intercept', .* and 6 more\), at character 7"),
    ("ages", "no coefficient is called 'ages'"),
    ("A100", "no coefficient is called 'A100'"),
    ("age.mean", "no coefficient is called 'age.mean'"),
    ("age A1", "no coefficient is called 'age A1'"),
    ("2 age", "no coefficient is called '2 age'"),
    (
        "cell_type[T, CD4+]:condition[T.ctrl]",
        r"called 'cell_type\[T, CD4\+\]:condition\[T.ctrl\]' \(near names are 'cell_type\[T, CD4",
    ),
    (f"{B} - cell_type[B cell]:condition[T.stim]", r"called 'cell_type\[B cell\]:condition"),
    ("(age", "not closed, at character 1"),
    ("age)", "not opened"),
    ("()", "holds nothing"),
    ("age * A1", "not linear"),
    ("age * (A1 + 1)", "not linear"),
    ("age * age", "not linear"),
    ("1 / age", "not linear"),
    ("age / A1", "not linear"),
    ("age / 0", "division by zero"),
    ("age / (2 - 2)", "division by zero"),
    ("age + 1", r"a constant \(1\) is added"),
    ("3", "a constant"),
    ("age - age", "the weight zero"),
    ("0 * age", "the weight zero"),
    ("A10-A1 - A10-A1", "the weight zero"),
    ("A10-A10", "the weight zero"),
    ("1e999 * age", "numbers are too large"),
    ("1e200 * 1e200 * age", "numbers are too large"),
    ("age = 0", "no coefficient is called"),
    ("age ** 2", "no coefficient|should"),
    ("`age", "no coefficient is called '`age'"),
    ("(" * 5000 + "age", "parentheses"),
    ("__import__('os')", "no coefficient is called"),
]


@pytest.mark.parametrize(("text", "words"), ERRORS)
def test_expressions_that_cannot_be_read(text, words):
    with pytest.raises(FormulaError, match=words):
        parse_expression(text, NAMES)
    with pytest.raises(FormulaError, match=words):
        resolve_contrasts({"name": text}, NAMES, COLUMNS)


def test_an_expression_is_a_string():
    with pytest.raises(FormulaError, match="a contrast is a string; found int"):
        parse_expression(3, NAMES)


SAFE_NAMES = st.lists(
    st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=12)
    .map(str.strip)
    # a name that begins like a number or sign would be read in their place
    .filter(lambda name: name and "`" not in name and name[0] not in "0123456789+-*/.("),
    min_size=1,
    max_size=6,
    unique=True,
)


@given(SAFE_NAMES, st.data())
def test_backticks_name_any_coefficient(names, data):
    numbers = st.integers(-9, 9)
    given_weights = [data.draw(numbers) for _ in names]
    text = " + ".join(f"{w} * `{n}`" for w, n in zip(given_weights, names, strict=True))
    if any(given_weights):
        np.testing.assert_array_equal(parse_expression(text, names), given_weights)
    else:
        with pytest.raises(FormulaError, match="weight zero"):
            parse_expression(text, names)


@given(st.text(max_size=40))
def test_any_text_is_weights_or_an_error_of_ours(text):
    try:
        assert np.isfinite(parse_expression(text, NAMES)).all()
    except FormulaError as error:
        assert repr(text) in str(error)


# --- every other way --------------------------------------------------------------------------


def resolved(spec) -> dict[str, list[dict[str, float]]]:
    contrasts = resolve_contrasts(spec, NAMES, COLUMNS)
    for contrast in contrasts:
        assert isinstance(contrast, Contrast)
        assert contrast.matrix.dtype == np.float64 and contrast.matrix.ndim == 2
    return {c.name: [weights(row) for row in c.matrix] for c in contrasts}


def vector(**named: float) -> np.ndarray:
    row = np.zeros(len(NAMES))
    for name, weight in named.items():
        row[NAMES.index(name)] = weight
    return row


TWO = np.column_stack([vector(age=1, A1=-1), vector(A10=2)])
BOTH = [{"age": 1, "A1": -1}, {"A10": 2}]
FRAME = pd.DataFrame(TWO, index=list(NAMES), columns=["first", "second"])

SPECS = [
    ("age - A1", {"age - A1": [{"age": 1, "A1": -1}]}),
    ("condition", {B: [{B: 1}], CD14: [{CD14: 1}], T_CD4: [{T_CD4: 1}]}),
    ("flag", {"age:flag": [{"age:flag": 1}]}),
    (["flag", "A1 - A10"], {"age:flag": [{"age:flag": 1}], "A1 - A10": [{"A1": 1, "A10": -1}]}),
    (("A1", "A10"), {"A1": [{"A1": 1}], "A10": [{"A10": 1}]}),
    ({"B": B}, {"B": [{B: 1}]}),
    ({"x": "A1 - A10", "y": "A1"}, {"x": [{"A1": 1, "A10": -1}], "y": [{"A1": 1}]}),
    ({"w": {"A1": 0.5, "A10": np.float64(-2)}}, {"w": [{"A1": 0.5, "A10": -2}]}),
    ({"F": ["A1", "A10 - age"]}, {"F": [{"A1": 1}, {"A10": 1, "age": -1}]}),
    ({"F": ["A1", {"A10": 3}]}, {"F": [{"A1": 1}, {"A10": 3}]}),
    ({"F": ["condition"]}, {"F": [{B: 1}, {CD14: 1}, {T_CD4: 1}]}),
    ({"F": "condition"}, {"F": [{B: 1}, {CD14: 1}, {T_CD4: 1}]}),
    ({"F": ["flag", "A1"]}, {"F": [{"age:flag": 1}, {"A1": 1}]}),
    ({"age": "age"}, {"age": [{"age": 1}]}),  # a coefficient before a column, inside a dictionary
    ({"v": vector(age=2)}, {"v": [{"age": 2}]}),
    ({"v": list(vector(age=2))}, {"v": [{"age": 2}]}),
    ({"F": TWO}, {"F": BOTH}),
    ({"F": FRAME.iloc[::-1]}, {"F": BOTH}),
    ({"v": FRAME["first"].iloc[::-1]}, {"v": BOTH[:1]}),
    (TWO, {"contrast1": BOTH[:1], "contrast2": BOTH[1:]}),
    (TWO.tolist(), {"contrast1": BOTH[:1], "contrast2": BOTH[1:]}),
    (vector(age=1), {"contrast1": [{"age": 1}]}),
    (FRAME, {"first": BOTH[:1], "second": BOTH[1:]}),
    (FRAME.iloc[::-1], {"first": BOTH[:1], "second": BOTH[1:]}),
    (pd.DataFrame(TWO, columns=["u", "v"]), {"u": BOTH[:1], "v": BOTH[1:]}),
    (FRAME["second"], {"second": BOTH[1:]}),
]


@pytest.mark.parametrize(("spec", "expected"), SPECS, ids=[str(i) for i in range(len(SPECS))])
def test_specifications(spec, expected):
    assert resolved(spec) == expected


def test_without_contrasts_every_coefficient_is_one():
    assert resolved(None) == {name: [{name: 1}] for name in NAMES}


def test_without_columns_a_string_is_an_expression():
    (only,) = resolve_contrasts("age", NAMES)
    assert only.name == "age" and weights(only.matrix[0]) == {"age": 1}
    with pytest.raises(FormulaError, match="'condition'"):
        resolve_contrasts("condition", NAMES)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ([], "empty"),
        ({}, "empty"),
        ("conditions", "no coefficient is called 'conditions'"),
        (["A1", "A1"], "same name: 'A1'"),
        ({"w": {"A1": 1, "B9": 1}}, "contrast 'w': no coefficient is called 'B9'"),
        ({"w": {"A1": "1"}}, "the weight '1' is not a number"),
        ({"w": {"A1": 0}}, "weight zero"),
        ({"w": {}}, "weight zero"),
        ({"w": {"A1": np.nan}}, "not finite"),
        ({"w": 3}, r"has the shape \(\); needed are 18 weights"),
        ({"w": None}, "no vector or matrix|needed are 18"),
        ({"w": []}, "needed are 18 weights"),
        ({"w": [1.0, 2.0]}, r"has the shape \(2,\)"),
        ({"w": np.zeros(18)}, "weight zero"),
        ({"F": np.column_stack([vector(age=1), np.zeros(18)])}, "weight zero"),
        (np.eye(18)[:, :0], "needed are 18"),
        (TWO.T, r"has the shape \(2, 18\)"),
        (np.full(18, np.inf), "not finite"),
        (object(), "no vector or matrix of numbers"),
        (FRAME.iloc[1:], "lacking: 'Intercept'"),
        (FRAME.rename(index={"age": "alter"}), "unknown: 'alter'; lacking: 'age'"),
        (FRAME.iloc[[*range(18), 0]], "once"),
        (FRAME.set_axis(["a", "a"], axis=1), "same name: 'a'"),
        ({"F": ["A1", 3]}, "needed are 18"),
    ],
)
def test_specifications_that_cannot_be_read(spec, words):
    with pytest.raises(FormulaError, match=words):
        resolve_contrasts(spec, NAMES, COLUMNS)


@given(st.permutations(range(len(NAMES))), st.sampled_from(EXPRESSIONS))
def test_order_of_coefficients_does_not_matter(order, expression):
    text, _ = expression
    shuffled = parse_expression(text, [NAMES[i] for i in order])
    np.testing.assert_array_equal(shuffled, parse_expression(text, NAMES)[list(order)])


def test_a_misspelt_column_is_suggested():
    with pytest.raises(FormulaError, match="near names are 'condition'"):
        resolve_contrasts("conditon", ["a", "b"], [frozenset({"condition"}), frozenset()])


# Powers are hundredths: a column scaled by 1 + 1e-7 misses the row space by less than tolerances.
@given(st.integers(0, 10**6), st.integers(-500, 500).map(lambda hundredths: hundredths / 100))
def test_estimable_is_in_the_row_space(seed, power):
    """Whatever the scale of a column, and whichever of the dependent columns come first."""
    rng = np.random.default_rng(seed)
    X = rng.integers(-1, 2, size=(30, 3)).astype(float)
    X = np.column_stack([X, X @ rng.integers(-1, 2, size=(3, 2)), rng.normal(size=30)])
    X = X[:, rng.permutation(6)] * 10.0 ** np.r_[power, np.zeros(5)]
    kept = independent_columns(X.T @ X)
    rows = np.vstack([rng.integers(-1, 2, size=(8, 6)), X[:3], np.eye(6)]).astype(float)
    rows = rows[rows.any(1)]
    length = np.sqrt((X**2).sum(0))
    length[length == 0] = 1.0
    unit = rows / length
    gap = unit - unit @ np.linalg.pinv(X / length) @ (X / length)
    expected = np.abs(gap).max(1) < 1e-8 * np.abs(unit).max(1)
    found = ~without_columns(X.T @ X, kept, ~kept, rows).any(1)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "matrix, basis",
    [([[0, 2.0]], [[0, 2.0]]), ([[1.0, 1], [-3, -3]], [[-3, -3]]), ([[1, 0], [1, 1.0]], None)],
)
def test_basis_has_the_span(matrix, basis):
    found = Contrast("c", np.array(matrix, dtype=float)).basis
    if basis is None:
        np.testing.assert_allclose(found @ found.T, np.eye(2), atol=1e-12)
    else:
        np.testing.assert_array_equal(found, basis)
