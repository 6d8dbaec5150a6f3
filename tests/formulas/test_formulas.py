"""What formulas may hold: hostile text is refused, and any name of a column can be written."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from cell_tables import CELLS
from hypothesis import given, settings
from hypothesis import strategies as st

from flashmm.cells.covariates import evaluate_covariate
from flashmm.design.columns import cell_design
from flashmm.options import DesignError, FlashmmWarning, FormulaError, InputError

# --- safety ---------------------------------------------------------------------------------

HOSTILE = [
    ("~ __import__('os').system('true')", "__import__"),
    ("~ {x}", "'{'"),
    ("~ {__import__('os')}", "'{'"),
    ("~ m.__class__", "__class__"),
    ("~ log(m.values)", "m.values"),
    ("~ np.log(m)", "np.log"),
    ("~ np.exp(m)", "np.exp"),
    ("~ exp(m)", "`exp`"),
    ("~ eval('1')", "`eval`"),
    ("~ open('f')", "`open`"),
    ("~ Q('m')", "`Q`"),
    ("~ I(m)", "`I`"),
    ("~ hashed(m)", "`hashed`"),
    ("~ lag(m)", "`lag`"),
    ("~ standardize(m)", "`standardize`"),
    ("~ m[0]", "m[0]"),
    ("~ log(m)[0]", "subscript"),
    ("~ log(m[0:1])", "m["),
    ("~ log(lambda: 1)", "lambda"),
    ("~ [x for x in m]", "for"),
    ("~ log([m])(m)", "call of"),
    ("~ (lambda: 1)()", "lambda"),
    ("~ 'text'", "text"),
    ("~ log('text')", "text"),
    ('~ f"{m}"', "f"),
    ("~ m == 1", "comparison"),
    ("~ log(m > 1)", "comparison"),
    ("~ m if m else m", "if"),
    ("~ m and m", "and"),
    ("~ not m", "not"),
    ("~ (y := m)", "read"),
    ("~ log(*m)", "star"),
    ("~ log(**m)", "**"),
    ("~ scale(m, _state=1)", "_state"),
    ("~ log(m, out=m)", "log(m, out=m)"),
    ("~ C(m, contr.custom([1]))", "contr.custom"),
    ("~ C(m, contr.__init__)", "__init__"),
    ("~ C(m, contr.treatment.__globals__)", "__globals__"),
    ("~ C(m, Treatment('a'))", "Treatment"),
    ("~ C(m, log(m))", "`log`"),
    ("~ C(log(m))", "C takes a column"),
    ("~ contr.sum(m)", "contr.sum"),
    ('~ C(m, contr.treatment("a\'b"))', "character"),
    ("~ C(m, 'a\\x27')", "character"),
    ("~ .", "read"),
    ("~ m %in% age", "'%'"),
    ("~ 2:m", "constant `2`"),
    ("~ m + 5", "constant `5`"),
    ("~ m:1", "constant `1`"),
    ("~ True", "True"),
    ("~ m ^ 99", "power 99"),
    ("~ m ^ age", "Pow"),
    ("~ a*b*c*d*e*f*g*h*i*j*k*l*n*o*p*q*r*s*t*u", "terms"),
    ("~ ((a+b+c+d+e+f+g)^9)^9", "terms"),
    ("~ poly(m, 1000000)", "1000000"),
    ("~ bs(m, df=10**9)", "10 ** 9"),
    ("~ poly()", "poly()"),
    ("~ " + "(" * 500 + "m" + ")" * 500, "read"),
    ("~ " + "-" * 5000 + "m", "read"),
    ("~ m" + " + m" * 5000, "characters"),
    ("~ m; import os", "';'"),
    ("~ import os", "import"),
    ("~ m # comment", "'#'"),
    ("~ m\x00", "character"),
    ("~ log(2)", "names no column"),
    ("", "read"),
    ("~", "read"),
    ("~ m +", "read"),
    ("~ )m(", "read"),
    ("~ 1 | subject", "(1 | subject)"),
    ("~ log(1 | subject)", "read"),
    ("~ (1 | a | b)", "(1 | subject)"),
    ("~ m & age", "'&'"),
    ("~ @m", "'@'"),
    ("~ m // age", "FloorDiv"),
]


@pytest.mark.parametrize(("formula", "found"), HOSTILE)
def test_hostile_formulas_are_refused_before_anything_is_evaluated(formula, found, monkeypatch):
    def reached(*args, **kwargs):
        raise AssertionError("formulaic saw the text")

    monkeypatch.setattr("flashmm.formulas.models.Formula", reached)
    with pytest.raises(FormulaError) as error:
        cell_design(CELLS, formula, ["subject"])
    assert found in str(error.value)
    assert len(str(error.value)) < 900


@pytest.mark.parametrize(("text", "found"), [h for h in HOSTILE if "|" not in h[0]])
def test_hostile_random_terms_and_covariates_are_refused(text, found):
    with pytest.raises(FormulaError):
        cell_design(CELLS, "~ 1", [text])
    with pytest.raises(FormulaError):
        evaluate_covariate(text.removeprefix("~ "), CELLS)


def test_no_text_of_a_formula_is_compiled(monkeypatch):
    """Formulaic's own evaluation of Python text is never reached."""

    def reached(*args, **kwargs):
        raise AssertionError("text was evaluated")

    monkeypatch.setattr("formulaic.materializers.base.stateful_eval", reached)
    formula = "~ scale(m) * cell_type + C(cell_type, contr.sum):age + poly(age, 2)"
    assert cell_design(CELLS, formula, ["subject"]).X.shape[1] > 5


@given(st.text(max_size=30))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_design_or_an_error_of_ours(text):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FlashmmWarning)
        for call in (
            lambda: cell_design(CELLS, text, ["subject"]).X.to_numpy(),
            lambda: cell_design(CELLS, "~ 1", [text]).Z.toarray(),
            lambda: evaluate_covariate(text, CELLS),
        ):
            try:
                assert np.isfinite(call()).all()
            except (FormulaError, InputError, DesignError):
                continue


WORDS = (
    "m age cell_type condition log( scale( poly( C( ) ) ( , + - * / : ^ 0 1 2 | || ~ . contr.sum "
    "`percent.mito` 'x' [ ] = < subject"
)
PIECES = st.sampled_from(WORDS.split(" "))


@given(st.lists(PIECES, max_size=12))
@settings(max_examples=500, deadline=None)
def test_any_pieces_of_formulas_are_a_design_or_an_error_of_ours(pieces):
    text = " ".join(pieces)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FlashmmWarning)
        for formula, random in ((text, ["subject"]), ("~ 1", [text])):
            try:
                assert np.isfinite(cell_design(CELLS, formula, random).X.to_numpy()).all()
            except (FormulaError, InputError, DesignError):
                continue


# --- names that are not plain words -----------------------------------------------------------


@pytest.mark.parametrize("name", ["percent.mito", "n counts", "class", "größe", "µ", "a:b", "1st"])
def test_backticks_name_any_column(name):
    cells = CELLS.assign(**{name: CELLS["m"] + 10})
    design = cell_design(cells, f"~ `{name}` + `{name}`:condition", ["subject"])
    assert list(design.X.columns) == ["Intercept", name, f"{name}:condition[T.stim]"]
    assert design.coefficient_columns[1] == {name}
    np.testing.assert_array_equal(design.X[name], cells[name])
    np.testing.assert_array_equal(
        cell_design(cells, f"~ log(`{name}`)", ["subject"]).X.iloc[:, 1], np.log(cells[name])
    )
    np.testing.assert_array_equal(evaluate_covariate(name, cells), cells[name])


def test_plain_words_of_other_alphabets_need_no_backticks():
    cells = CELLS.assign(**{"größe": CELLS["m"], "µ": CELLS["age"]})
    design = cell_design(cells, "~ größe + log(µ)", ["subject"])
    assert list(design.X.columns) == ["Intercept", "größe", "log(µ)"]


def test_columns_may_be_called_like_functions():
    cells = CELLS.assign(log=CELLS["m"], contr=CELLS["condition"])
    design = cell_design(cells, "~ log + log(age) + C(contr, contr.sum)", ["subject"])
    assert list(design.X.columns) == [
        "Intercept",
        "log",
        "log(age)",
        "C(contr, contr.sum)[S.ctrl]",
    ]


def test_lines_may_be_broken():
    folded = "~ 0 + cell_type\n    + cell_type:condition\n"
    plain = "~ 0 + cell_type + cell_type:condition"
    left, right = (cell_design(CELLS, f, ["subject"]).X for f in (folded, plain))
    pd.testing.assert_frame_equal(left, right)
