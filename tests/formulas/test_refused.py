"""Formulas that had errors of other packages."""

from __future__ import annotations

import pytest

from flashmm.formulas.models import read_model
from flashmm.options import FormulaError


@pytest.mark.parametrize(
    ("formula", "words"),
    [
        ("~ 0x1", "found the number `0x1`. Numbers are decimal"),
        ("~ 0b1 + x", "found the number `0b1`"),
        ("~ x + 1_0", "found the number `1_0`"),
        ("~ C(x, 50)", "C takes a coding second, such as contr.sum"),
        ("~ C(x, contrasts=50)", "C takes a coding second"),
        ("~ bs(bs(x, df=4), df=3)", "made of a column of numbers, not of another basis"),
        ("~ bs(scale(bs(x, df=4)), df=3)", "made of a column of numbers, not of another basis"),
        ("~ poly(log(cr(x, df=4)), 2)", "made of a column of numbers, not of another basis"),
        ("~ x + " + "+".join(["(1|s)"] * 1_500), "more terms than|text that cannot be read"),
    ],
)
def test_formulas_with_errors_of_other_packages(formula: str, words: str) -> None:
    with pytest.raises(FormulaError) as caught:
        read_model(formula, None)
    assert any(word in str(caught.value) for word in words.split("|"))
