"""The values of checked syntax trees: a small interpreter, so that no text is executed."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from formulaic import transforms as formulaic_transforms

from flashmm.formulas.trees import Factor, call_name, plain_name
from flashmm.formulas.words import ARITHMETIC, CONTRASTS, DATA_DEPENDENT, ELEMENTWISE, RULE
from flashmm.options import FormulaError, InputError

_Column = Callable[..., Any]  # (name, labels=False) -> values; numbers unless labels are asked for


def _evaluate(node: ast.expr, column: _Column, states: dict[str, Any]) -> Any:
    """Value of a checked tree.

    `column` gives the values of a named column. `states` keeps what data-dependent transforms
    learn the first time (means, knots), so that a second evaluation applies it to other rows.
    """

    def value(child: ast.expr) -> Any:
        return _evaluate(child, column, states)

    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return column(plain_name(node.id))
        case ast.Attribute():
            return CONTRASTS[node.attr]
        case ast.List() | ast.Tuple():
            return [value(item) for item in node.elts]
        case ast.UnaryOp():
            return -value(node.operand) if isinstance(node.op, ast.USub) else value(node.operand)
        case ast.BinOp():
            left, right = np.float64(1) * value(node.left), np.float64(1) * value(node.right)
            return ARITHMETIC[type(node.op)](left, right)
        case ast.Call():
            options = {str(k.arg): value(k.value) for k in node.keywords}
            name = call_name(node)
            if name == "C":
                labels = column(plain_name(node.args[0].id), labels=True)  # type: ignore[attr-defined]
                return _coded(labels, *map(value, node.args[1:]), **options)
            if name in DATA_DEPENDENT:
                options["_state"] = states.setdefault(ast.dump(node), {})
            function = (ELEMENTWISE | DATA_DEPENDENT).get(name) or value(node.func)
            return function(*map(value, node.args), **options)
    raise FormulaError(f"`{ast.unparse(node)}` has no value. {RULE}")


def _coded(labels: pd.Series, *contrasts: Any, **options: Any) -> Any:
    """Return `labels` marked as categorical for formulaic, every label among the `levels`."""
    levels = options.get("levels")
    strange = [] if levels is None else sorted(set(labels.unique()) - set(levels), key=str)
    if strange:
        raise FormulaError(
            f"C({labels.name}, levels=...): the levels {strange} occur but are not listed."
        )
    return formulaic_transforms.C(labels, *contrasts, **options)


def evaluate(factor: Factor, column: _Column, states: dict[str, Any]) -> Any:
    """Value of a factor, with the errors of the functions that it calls made readable."""
    try:
        with np.errstate(all="ignore"):
            return _evaluate(factor.node, column, states)
    except (TypeError, ValueError, LookupError, ArithmeticError) as error:
        if isinstance(error, FormulaError | InputError):
            raise
        raise FormulaError(f"`{factor.name}` cannot be evaluated: {error}") from error
