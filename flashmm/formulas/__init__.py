"""The text of formulas: read, checked, and evaluated without `eval`.

Formulas come from config files of other people, so no part of their text is ever executed:

1. `Words` cuts the text, and `read_tree` turns it into Python's syntax tree and walks it against a
   short list of what may stand there: columns, the operators of formulas, the functions `ALLOWED`.
2. formulaic, which knows R's operators, sees the formula with every column and every call replaced
   by a placeholder, and gives back the terms (`read_model`).
3. `evaluate` is a small interpreter of the checked trees of these columns and calls.
"""

from flashmm.formulas.evaluation import evaluate
from flashmm.formulas.models import RandomTerm, Term, read_covariate, read_fixed, read_model
from flashmm.formulas.trees import Factor, call_name, called, plain_name, quoted_name
from flashmm.formulas.words import ALLOWED, CONTRASTS, DATA_DEPENDENT, ELEMENTWISE

__all__ = [
    "ALLOWED",
    "CONTRASTS",
    "DATA_DEPENDENT",
    "ELEMENTWISE",
    "Factor",
    "RandomTerm",
    "Term",
    "call_name",
    "called",
    "evaluate",
    "plain_name",
    "quoted_name",
    "read_covariate",
    "read_fixed",
    "read_model",
]
