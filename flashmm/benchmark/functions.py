"""Built-in functions: tests that a row of the sheet of methods names by a word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from flashmm.benchmark.comparison import Comparison
from flashmm.benchmark.data import DataSet, Request
from flashmm.benchmark.methods import FIT_OPTIONS, PROCEDURES, Method
from flashmm.benchmark.truth import contrast_cell_types
from flashmm.kernels.expression_filter import MIN_TOTAL
from flashmm.names import did_you_mean, listed
from flashmm.options import InputError, UnavailableError


@dataclass(frozen=True)
class Function:
    """A test of `PROCEDURES`, by the name that a sheet has for it.

    Attributes
    ----------
    test : str
        The test.
    settings : mapping
        Its settings where the sheet says nothing.
    """

    test: str
    settings: Mapping[str, Any] = field(default_factory=dict)


FUNCTIONS: Mapping[str, Function] = {
    "wilcoxon": Function("wilcoxon"),
    "ols": Function("pooled"),
    "pseudobulk-t": Function("pseudobulk_tmm", {"moderate": True, "min_counts": MIN_TOTAL}),
    "pydeseq2": Function("pydeseq2"),
    "mixedlm": Function("mixedlm"),
    "permutation": Function("permutation"),
    "permuted-labels": Function("permuted_labels"),
    "truth": Function("truth"),
    "random": Function("random"),
}
# Those that look at the cells themselves, or at the truth.
OF_CELLS = frozenset(
    name for name, function in FUNCTIONS.items() if "cells" in PROCEDURES[function.test].requires
)
OF_TRUTH = frozenset({"truth"})
# Settings that a cell type column of the data set decides, where a sheet says nothing.
_SHARED = ("name", "function", "fixed", "transform")


def function_method(row: Mapping[str, Any]) -> Method:
    """The method of a row of the sheet that names a function.

    Parameters
    ----------
    row : mapping
        `name`, `function`, perhaps `fixed` and `transform`, and settings of the function.

    Returns
    -------
    Method

    Raises
    ------
    InputError
        There is no such function, or it has no use for a column of the row.
    """
    name = str(row["function"])
    if name not in FUNCTIONS:
        raise InputError(
            f"function: {name!r} is not known{did_you_mean(name, FUNCTIONS)} "
            f"There are {listed(FUNCTIONS, 20)}."
        )
    function = FUNCTIONS[name]
    known = set(PROCEDURES[function.test].settings)
    known |= set(FIT_OPTIONS) if "options" in known else set()
    for column in row:
        if column not in known and column not in _SHARED:
            raise InputError(f"the function {name!r} has no use for {column!r}; leave it empty.")
    own = {column: value for column, value in row.items() if column in known}
    return Method.of({"name": row["name"], "test": function.test, **function.settings, **own})


def joint_formula(asked: Comparison) -> str:
    """The formula of one model of all cells, where a sheet has none."""
    factor = asked.factor
    terms = [*asked.covariates, *asked.adjust]
    if asked.cell_type is not None:
        terms = ["0", *terms, asked.cell_type, f"{asked.cell_type}:{factor}"]
    else:
        terms = [*terms, factor]
    return "~ " + " + ".join(terms)


def run_function(
    method: Method, data: DataSet, asked: Comparison, seed: int = 0
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Test a data set by a function.

    Parameters
    ----------
    method : Method
        Of `function_method`.
    data : DataSet
        What is tested.
    asked : Comparison
        What is asked.
    seed : int
        Of what is random.

    Returns
    -------
    tests : DataFrame
        Tidy tests, with a column of the cell type where the comparison has one.
    notes : tuple of str
        What was decided.

    Raises
    ------
    UnavailableError
        The data set has not what the function needs, or a package is not installed.
    """
    if lacking := method.lacks(data):
        raise UnavailableError(f"the data set has no {' and no '.join(lacking)}")
    request = Request(
        asked.fixed or joint_formula(asked),
        contrasts=asked.factor,
        factor=asked.factor,
        subject=asked.subject,
        cell_type=asked.cell_type or "",
        seed=seed,
    )
    found = method.run(data, request)
    return typed(found.tests, asked), found.notes


def typed(tests: pd.DataFrame, asked: Comparison) -> pd.DataFrame:
    """Tests of a joint model as tests within cell types are named.

    Parameters
    ----------
    tests : DataFrame
        With contrasts such as ``cell_type[B]:condition[T.stim]``, or with a column of cell types.
    asked : Comparison
        What was asked.

    Returns
    -------
    DataFrame
        With a column of cell types and contrasts such as ``condition[T.stim]``.
    """
    column = asked.cell_type
    if column is None or column in tests:
        return tests
    names = tests["contrast"].unique()
    types = contrast_cell_types(names, asked.types, cell_type=column)
    # what is left of an interaction is the contrast within the type
    short = {name: next((c for c in asked.contrasts if name.endswith(c)), name) for name in names}
    named = tests.assign(contrast=tests["contrast"].map(short))
    named.insert(1, column, tests["contrast"].map(types).to_numpy())
    return named
