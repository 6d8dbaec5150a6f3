"""The tables that designs are made on: cells, or groups of cells with stored covariates.

For groups, a factor that varies between the cells of a group is not a value but a linear form in
the stored covariates.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from flashmm.cells.covariates import numbers, require_complete, require_finite
from flashmm.formulas import (
    DATA_DEPENDENT,
    Factor,
    call_name,
    called,
    evaluate,
    plain_name,
    quoted_name,
    read_covariate,
)
from flashmm.names import did_you_mean
from flashmm.options import DesignError, FormulaError, note


@dataclass(frozen=True, eq=False)
class Rows:
    """The table that a design is made on.

    `layers` gives each stored covariate, as a sorted tuple of factors, its index k in x_k; () is
    x_0 = 1. `moments` is (1 + m, 1 + m): Σ x_k x_l over all cells. `origin` has the rows that
    transforms learn from (means, knots), where these are others. `shifts` (1 + m,) is what was
    subtracted from each x_k in the sums and `moments`; forms are in the covariates themselves.
    """

    table: pd.DataFrame
    cells: np.ndarray
    kind: str
    layers: Mapping[tuple[str, ...], int] = field(default_factory=lambda: {(): 0})
    moments: np.ndarray = field(default_factory=lambda: np.ones((1, 1)))
    notes: list[str] = field(default_factory=list)
    cache: dict[str, pd.Series] = field(default_factory=dict)
    origin: Rows | None = None
    shifts: np.ndarray | None = None

    @property
    def n_cells(self) -> int:
        """Number of cells in all rows together."""
        return int(self.cells.sum())

    def labels(self, name: str) -> pd.Series:
        """Return a complete column; what is not numeric as a categorical without unused levels."""
        if name not in self.cache:
            self.cache[name] = self._labels(name)
        return self.cache[name]

    def _labels(self, name: str) -> pd.Series:
        if name not in self.table.columns:
            raise FormulaError(self._absent(name))
        series = self.table[name].reset_index(drop=True)
        require_complete(series, self.kind)
        if isinstance(series.dtype, pd.CategoricalDtype):
            used = series.cat.remove_unused_categories()
            unused = series.cat.categories.difference(used.cat.categories, sort=False)
            if len(unused):
                text = f"column {name!r}: no cell has the levels {list(unused)}; they are left out."
                self.notes.append(note(text))
            return used
        if pd.api.types.is_numeric_dtype(series) or pd.api.types.is_bool_dtype(series):
            return series
        return series.astype(object).astype("category")

    def _absent(self, name: str) -> str:
        near = did_you_mean(name, map(str, self.table.columns))
        if self.kind != "groups":
            return f"there is no column {name!r}{near} The columns are {list(self.table.columns)}."
        return (
            f"{name!r} is not among the columns of the groups{near} Add it to by=[...] if it is "
            f"constant within groups, or store it: covariates=[{quoted_name(name)!r}] if it varies "
            f"between cells. The columns are {list(self.table.columns)}."
        )

    def column(self, name: str, labels: bool = False) -> Any:
        """Return a column as float64 numbers, or as `labels`."""
        series = self.labels(name)
        return series if labels else numbers(series, self.kind)

    def repeated(self, name: str, labels: bool = False) -> Any:
        """Return the column as the cells have it."""
        return np.repeat(self.column(name, labels), self.cells)

    def value(self, factor: Factor) -> Any:
        """Return the value of a factor in every row, as formulaic takes it."""
        if isinstance(factor.node, ast.Name):
            values: Any = self.labels(factor.name)
            if isinstance(values.dtype, pd.CategoricalDtype):
                return values
            values = numbers(values, self.kind)
        else:
            values = self._called(factor)
            if "C" in called(factor.node):
                return values
        # a spline basis is a dictionary of columns
        parts = list(values.values()) if isinstance(values, dict) else [values]
        for part in parts:
            require_finite(np.asarray(part, dtype=np.float64), factor.name, self.kind)
        return values

    def _called(self, factor: Factor) -> Any:
        """Evaluate a call; what it learns from the data (means, knots) it learns from the cells."""
        states: dict[str, Any] = {}
        if self.kind == "groups" and called(factor.node) & set(DATA_DEPENDENT):
            evaluate(factor, (self.origin or self).repeated, states)
        return evaluate(factor, self.column, states)

    # Linear forms Σ_k c_k x_k in the stored covariates

    def form(self, factor: Factor) -> np.ndarray | None:
        """Coefficients of a factor that varies between cells; None where it is constant in rows."""
        if self.kind == "cells" or factor.columns <= set(self.table.columns):
            return None
        return self._form(factor.node, factor)

    def _form(self, node: ast.expr, factor: Factor) -> np.ndarray:
        layer = self.layers.get((ast.unparse(node),))
        if layer is not None:
            return np.eye(len(self.moments))[layer]
        if isinstance(node, ast.Call) and call_name(node) in ("scale", "center"):
            return self._standardised(self._form(node.args[0], factor), node)
        raise FormulaError(self._not_stored(node, factor))

    def _not_stored(self, node: ast.expr, factor: Factor) -> str:
        if isinstance(node, ast.Name):
            return self._absent(plain_name(node.id))
        stored = [":".join(key) for key in self.layers if key]
        learned = sorted(called(node) & {*DATA_DEPENDENT, "C"})
        if learned:
            return (
                f"`{factor.name}`: {', '.join(learned)} of a column that varies between cells "
                "cannot be made from sums over groups, where only scale() and center() of a stored "
                f"covariate can. For a column that is constant within groups, add "
                f"{sorted(factor.columns - set(self.table.columns))} to by=[...]."
            )
        return (
            f"`{factor.name}` varies between cells and is not stored"
            f"{did_you_mean(factor.name, stored)} Store it: covariates=[{ast.unparse(node)!r}]. "
            f"Stored are {stored}."
        )

    def _standardised(self, form: np.ndarray, node: ast.Call) -> np.ndarray:
        """scale() or center() of a form, from Σ x_k and Σ x_k x_l, equal to formulaic's."""
        center, scale, ddof = _standardising(node)
        n, total = self.moments[0, 0], form @ self.moments @ form
        # center = Σ x / n,   scale = √(Σ (x - center)² / (n - ddof))
        summed = self.from_means(form)
        shift = _number(center, summed @ self.moments[0] / n)
        form, summed = (f - shift * np.eye(len(f))[0] for f in (form, summed))
        squares = summed @ self.moments @ summed
        if scale is True and not squares > 1e-13 * total:
            raise DesignError(f"`{ast.unparse(node)}`: the covariate is constant over the cells.")
        return form / _number(scale, np.sqrt(max(squares, 0.0) / (n - ddof)), absent=1.0)

    def from_means(self, form: np.ndarray) -> np.ndarray:
        """A form (1 + m, ...) in the covariates, in what the sums are of."""
        if self.shifts is None:
            return form
        constant = form[:1] + np.tensordot(self.shifts, form, 1)[None]
        return np.concatenate([constant, form[1:]])

    def product(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Product of two forms, where the products of their covariates are stored."""
        keys = list(self.layers)
        out = np.zeros_like(left)
        for i in np.flatnonzero(left):
            for j in np.flatnonzero(right):
                key = tuple(sorted(keys[i] + keys[j]))
                if key not in self.layers:
                    raise FormulaError(
                        f"the product of {' and '.join(key)} varies between cells and is not "
                        f"stored. Store it: covariates=[{':'.join(key)!r}]."
                    )
                out[self.layers[key]] += left[i] * right[j]
        return out


def _standardising(node: ast.Call) -> tuple[Any, Any, float]:
    """Return the arguments (center, scale, ddof) of a call of scale() or center()."""

    def scale(center: Any = True, scale: Any = True, ddof: float = 1) -> tuple[Any, Any, float]:
        return center, scale, ddof

    def center() -> tuple[Any, Any, float]:
        return True, False, 1

    def number(argument: ast.expr) -> Any:
        return ast.literal_eval(argument)

    try:
        function = scale if call_name(node) == "scale" else center
        options = {str(k.arg): number(k.value) for k in node.keywords}
        return function(*map(number, node.args[1:]), **options)
    except (TypeError, ValueError) as error:
        raise FormulaError(f"`{ast.unparse(node)}`: {error}") from error


def _number(option: Any, computed: float, absent: float = 0.0) -> float:
    """Return what an argument of scale() asks for: True the computed number, False none."""
    if isinstance(option, bool):
        return computed if option else absent
    return float(option)


def layers_of(covariates: Sequence[str]) -> dict[tuple[str, ...], int]:
    """Index of each stored covariate by its sorted factors."""
    layers: dict[tuple[str, ...], int] = {(): 0}
    for k, name in enumerate(covariates, start=1):
        try:
            key = tuple(sorted(ast.unparse(f.node) for f in read_covariate(name)))
        except FormulaError:  # a column whose name is not a plain word
            key = (f"`{name}`",)
        layers[key] = k
    return layers
