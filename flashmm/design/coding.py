"""Terms of formulas coded into columns by formulaic, over cells or groups of cells.

A factor that varies between the cells of a group is a column of ones to formulaic; its linear form
in the stored covariates multiplies the coded column afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
from formulaic import Formula
from formulaic.errors import FormulaicError
from formulaic.parser.types import Factor as CodedFactor
from formulaic.parser.types import Term as CodedTerm

from flashmm.design.rows import Rows
from flashmm.formulas import Term
from flashmm.options import DesignError, FormulaError, note


@dataclass(frozen=True, eq=False)
class CodedColumns:
    """Columns made from terms: `values` is (1 + m, rows, columns), X = Σ_k values[k] · x_k."""

    values: np.ndarray
    names: tuple[str, ...]
    columns: tuple[frozenset[str], ...]
    terms: tuple[str, ...]


def coded_columns(rows: Rows, terms: Sequence[Term]) -> CodedColumns:
    """Code the terms with formulaic; a factor that varies between cells is a one there."""
    factors = {f.name: f for t in terms for f in t}
    forms = {name: rows.form(f) for name, f in factors.items()}
    ones = np.ones(len(rows.table))
    values = {n: rows.value(f) if forms[n] is None else ones for n, f in factors.items()}
    matrix, names, parts = _coded_terms(terms, values, len(rows.table))
    used = [held for part in parts for held in _held_factors(part)]
    for part in (p for p in parts if not p.columns):
        text = f"the term {part.term} makes no column: a factor of it has a single level."
        rows.notes.append(note(text))
    layered = np.empty((len(rows.moments), *matrix.shape))
    for j, held in enumerate(used):
        varying = (form for n in held if (form := forms[n]) is not None)
        form = reduce(rows.product, varying, np.eye(len(rows.moments))[0])
        layered[:, :, j] = np.multiply.outer(form, matrix[:, j])
    data = tuple(frozenset().union(*(factors[n].columns for n in held)) for held in used)
    spelled = tuple(str(part.term) for part in parts for _ in part.columns)
    return CodedColumns(layered, names, data, spelled)


def _coded_terms(
    terms: Sequence[Term], values: Mapping[str, Any], n_rows: int
) -> tuple[np.ndarray, tuple[str, ...], list[Any]]:
    """Return formulaic's model matrix, its names, and its structure by terms."""
    try:
        matrix = Formula([_coded_term(t) for t in terms]).get_model_matrix(
            pd.DataFrame(index=range(n_rows)), context=values, output="numpy", na_action="raise"
        )
    except (FormulaicError, ValueError, TypeError, KeyError) as error:
        raise FormulaError(f"the terms cannot be coded: {error}") from error
    spec = matrix.model_spec
    names = tuple(map(str, spec.column_names))
    if not names:
        raise DesignError("the formula makes no column: every term was removed.")
    repeated = sorted({n for n in names if names.count(n) > 1})
    if repeated:
        raise DesignError(f"two coefficients have the same name: {repeated}; rename the levels.")
    return np.asarray(matrix, dtype=np.float64), names, spec.structure


def _coded_term(term: Term) -> CodedTerm:
    if not term:
        return CodedTerm([CodedFactor("1", eval_method="literal")])
    return CodedTerm([CodedFactor(f.name, eval_method="lookup") for f in term])


def _held_factors(part: Any) -> list[tuple[str, ...]]:
    """Return the factors of each column of one term of formulaic's structure.

    A term may be completed by parts of lower order (`~ a:b` has columns of a alone); these follow
    each other, and a column belongs to the first part whose factors spell its name.
    """
    parts = [tuple(s.factor.expr for s in scoped.factors) for scoped in part.scoped_terms]
    spelled = [
        ":".join(re.escape(f) + r"(\[.*\])?" for f in names) or "Intercept" for names in parts
    ]
    held, current = [], 0
    for name in part.columns:
        while current < len(parts) - 1 and not re.fullmatch(spelled[current], name, re.DOTALL):
            current += 1
        held.append(parts[current])
    return held
