"""Formulas to designs, on cells or on groups of cells.

The terms that `flashmm.formulas` reads are evaluated on the rows of a table and coded into columns
by formulaic. The same steps serve a table of cells (`cell_design`) and a table of groups of cells
(`group_design`). For groups, a factor that varies between the cells of a group is not a value but
a linear form in the stored covariates, and formulaic sees a column of ones in its place.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from formulaic import Formula
from formulaic.errors import FormulaicError
from formulaic.parser.types import Factor as CodedFactor
from formulaic.parser.types import Term as CodedTerm

from flashmm.cells.covariates import numbers, require_complete, require_finite
from flashmm.cells.groups import GroupStatistics
from flashmm.formulas import (
    ALLOWED,
    CONTRASTS,
    DATA_DEPENDENT,
    Factor,
    RandomTerm,
    Term,
    call_name,
    called,
    evaluate,
    plain_name,
    quoted_name,
    read_covariate,
    read_fixed,
    read_model,
)
from flashmm.names import did_you_mean
from flashmm.options import DesignError, FormulaError, note

__all__ = [
    "ALLOWED",
    "CONTRASTS",
    "CellDesign",
    "FixedDesign",
    "GroupDesign",
    "RandomComponent",
    "cell_design",
    "fixed_design",
    "formula_columns",
    "group_design",
]

# --------------------------------------------------------------------------------------------
# Records
# --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class RandomComponent:
    """One random term: a grouping of the cells, with or without a slope.

    Attributes
    ----------
    name : str
        "subject", "subject:cell_type", or "subject|log(libsize)" for a slope.
    levels : pandas.Index
        (levels,) "S1", "S1:B cells", in the order of the categories.
    weights : tuple of (scipy.sparse.csr_array or None)
        1 + m matrices (rows, levels): Z = Σ_k weights[k] · x_k with x_0 = 1; None where it is zero.
    columns : tuple of str
        The grouping columns.
    """

    name: str
    levels: pd.Index
    weights: tuple[sp.csr_array | None, ...]
    columns: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class GroupDesign:
    """The design of a model over groups of cells.

    Attributes
    ----------
    fixed : numpy.ndarray
        (1 + m, groups, coefficients): a column of X is Σ_k fixed[k] · x_k, where x_0 = 1 and
        x_1 .. x_m are the stored covariates.
    coefficients : tuple of str
        formulaic's names, such as "cell_type[B cells]:condition[T.stim]".
    coefficient_columns : tuple of frozenset of str
        The data columns that each coefficient holds.
    random : tuple of RandomComponent
        The random terms.
    notes : tuple of str
        What was decided for the user.
    coefficient_terms : tuple of str
        The term of the formula that made each coefficient; "1" for the intercept.
    """

    fixed: np.ndarray
    coefficients: tuple[str, ...]
    coefficient_columns: tuple[frozenset[str], ...]
    random: tuple[RandomComponent, ...]
    notes: tuple[str, ...] = ()
    coefficient_terms: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class CellDesign:
    """The same design, one row per cell.

    Attributes
    ----------
    X : pandas.DataFrame
        (cells, coefficients), columns named by formulaic.
    Z : scipy.sparse.csr_array
        (cells, levels of all random terms).
    component_sizes : tuple of int
        Levels of each random term.
    components : tuple of str
        Names of the random terms.
    Z_levels : pandas.Index
        (levels of all random terms,).
    coefficient_columns : tuple of frozenset of str
        The data columns that each coefficient holds.
    notes : tuple of str
        What was decided for the user.
    coefficient_terms : tuple of str
        The term of the formula that made each coefficient; "1" for the intercept.
    """

    X: pd.DataFrame
    Z: sp.csr_array
    component_sizes: tuple[int, ...]
    components: tuple[str, ...]
    Z_levels: pd.Index
    coefficient_columns: tuple[frozenset[str], ...]
    notes: tuple[str, ...] = ()
    coefficient_terms: tuple[str, ...] = ()


# --------------------------------------------------------------------------------------------
# Rows: cells, or groups of cells with stored covariates
# --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Rows:
    """The table that a design is made on.

    `layers` gives each stored covariate, as a sorted tuple of factors, its index k in x_k; () is
    x_0 = 1. `moments` is (1 + m, 1 + m): Σ x_k x_l over all cells.
    """

    table: pd.DataFrame
    cells: np.ndarray
    kind: str
    layers: Mapping[tuple[str, ...], int] = field(default_factory=lambda: {(): 0})
    moments: np.ndarray = field(default_factory=lambda: np.ones((1, 1)))
    notes: list[str] = field(default_factory=list)
    cache: dict[str, pd.Series] = field(default_factory=dict)

    @property
    def n_cells(self) -> int:
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
            evaluate(factor, self.repeated, states)
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
        shift = _number(center, form @ self.moments[0] / n)
        form = form - shift * np.eye(len(form))[0]
        squares = form @ self.moments @ form
        if scale is True and not squares > 1e-13 * total:
            raise DesignError(f"`{ast.unparse(node)}`: the covariate is constant over the cells.")
        return form / _number(scale, np.sqrt(max(squares, 0.0) / (n - ddof)), absent=1.0)

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


def _layers(covariates: Sequence[str]) -> dict[tuple[str, ...], int]:
    """Index of each stored covariate by its sorted factors."""
    layers: dict[tuple[str, ...], int] = {(): 0}
    for k, name in enumerate(covariates, start=1):
        try:
            key = tuple(sorted(ast.unparse(f.node) for f in read_covariate(name)))
        except FormulaError:  # a column whose name is not a plain word
            key = (f"`{name}`",)
        layers[key] = k
    return layers


# --------------------------------------------------------------------------------------------
# Terms and rows -> designs
# --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Columns:
    """Columns made from terms: `values` is (1 + m, rows, columns), X = Σ_k values[k] · x_k."""

    values: np.ndarray
    names: tuple[str, ...]
    columns: tuple[frozenset[str], ...]
    terms: tuple[str, ...]


def _columns(rows: _Rows, terms: Sequence[Term]) -> _Columns:
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
    return _Columns(layered, names, data, spelled)


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


def _component(
    name: str, columns: tuple[str, ...], codes: np.ndarray, levels: pd.Index, x: np.ndarray
) -> RandomComponent:
    """Return indicators of the levels, times the column `x` (1 + m, rows)."""
    if not x.any():
        raise DesignError(f"random term {name!r}: its slope is zero in every cell.")
    where = (np.arange(len(codes)), codes)
    shape = (len(codes), len(levels))
    weights = tuple(sp.csr_array((v, where), shape=shape) if v.any() else None for v in x)
    return RandomComponent(name, levels, weights, columns)


def _partition(rows: _Rows, columns: tuple[str, ...]) -> tuple[np.ndarray, pd.Index]:
    """Return the level of every row (codes) and the names of the levels that occur, in order."""
    labels = [rows.labels(name).astype("category") for name in columns]
    codes = np.column_stack([series.cat.codes for series in labels])
    found, inverse = np.unique(codes, axis=0, return_inverse=True)
    words = [np.array([str(c) for c in s.cat.categories], dtype=object) for s in labels]
    names = [":".join(w[c] for w, c in zip(words, level, strict=True)) for level in found]
    return inverse.reshape(-1), pd.Index(names, dtype=object)


def _check_levels(rows: _Rows, name: str, levels: pd.Index) -> None:
    if len(levels) < 2:
        raise DesignError(
            f"random term {name!r} has the single level {levels[0]!r}: a variance between levels "
            "needs at least two."
        )
    if len(levels) >= rows.n_cells:
        raise DesignError(
            f"random term {name!r} has {len(levels)} levels for {rows.n_cells} cells: every cell "
            "is its own level, so its variance cannot be told from the residual's."
        )


def _random_components(rows: _Rows, terms: Sequence[RandomTerm]) -> tuple[RandomComponent, ...]:
    """Make the components of the random terms, leaving out those that repeat an earlier one."""
    components: list[RandomComponent] = []
    seen: dict[tuple[bytes, str], str] = {}
    for term in terms:
        grouping = ":".join(term.columns)
        codes, levels = _partition(rows, term.columns)
        _check_levels(rows, grouping, levels)
        slopes = _slopes(rows, term)
        for j, slope in enumerate(slopes.names):
            name = grouping if slope == "Intercept" else f"{grouping}|{slope}"
            key = (pd.factorize(codes)[0].tobytes(), slope)
            if key in seen:
                text = (
                    f"random term {name!r} groups the cells as {seen[key]!r} does; it is left out."
                )
                rows.notes.append(note(text))
                continue
            seen[key] = name
            x = slopes.values[:, :, j]
            components.append(_component(name, term.columns, codes, levels, x))
    return tuple(components)


def _slopes(rows: _Rows, term: RandomTerm) -> _Columns:
    slopes = _columns(rows, term.slopes)
    if not term.independent and len(slopes.names) > 1:
        raise FormulaError(
            f"random term {term.text!r}: correlated effects {list(slopes.names)} are not fitted; "
            "write || for independent ones."
        )
    return slopes


def group_design(
    groups: GroupStatistics, fixed: str, random: str | Sequence[str] | None = None
) -> GroupDesign:
    """Make the design of a model on groups of cells.

    Parameters
    ----------
    groups : GroupStatistics
        Groups with their cell counts and stored covariates.
    fixed : str
        One-sided formula with R's meaning, "~ 0 + log(libsize) + cell_type + cell_type:condition".
        A term may hold group-level columns and one stored covariate (also its `scale` or
        `center`); products of covariates where these are stored. Random terms may stand in it as
        in lme4, "(1 | subject)".
    random : sequence of str, optional
        Random terms: "subject", "subject:cell_type", "a/b" for a and a:b, "x || subject" for an
        intercept and an independent slope, "0 + x || subject" for the slope alone.

    Returns
    -------
    GroupDesign
        Equal, summed over the cells of each group, to the design of the cells themselves.

    Raises
    ------
    FormulaError
        Where the text is not allowed, or needs a covariate or column that the groups lack.
    InputError
        Where a column that is used has missing values or a transform of it is not finite.
    DesignError
        Where a random term has one level or one level per cell, or no column is left.
    """
    terms, random_terms = read_model(fixed, random)
    rows = _group_rows(groups)
    columns = _columns(rows, terms)
    components = _random_components(rows, random_terms)
    return GroupDesign(
        columns.values,
        columns.names,
        columns.columns,
        components,
        tuple(rows.notes),
        columns.terms,
    )


def _group_rows(groups: GroupStatistics) -> _Rows:
    """Return the groups as rows; the columns of sums are not for formulas."""
    names = [c for c in groups.obs.columns if c != "n_cells" and not str(c).startswith("sum:")]
    m = len(groups.covariates)
    moments = [[groups.moment(k, j).sum() for j in range(m + 1)] for k in range(m + 1)]
    cells = groups.moment(0, 0).astype(np.int64)
    return _Rows(groups.obs[names], cells, "groups", _layers(groups.covariates), np.array(moments))


def cell_design(
    obs: pd.DataFrame, fixed: str, random: str | Sequence[str] | None = None
) -> CellDesign:
    """Make the design of a model on cells, named as `group_design` names it.

    Parameters
    ----------
    obs : pandas.DataFrame
        (cells, columns).
    fixed, random
        As for `group_design`, with any column of `obs`.

    Returns
    -------
    CellDesign
        X, sparse Z and their names.

    Raises
    ------
    FormulaError, InputError, DesignError
        As `group_design`.
    """
    terms, random_terms = read_model(fixed, random)
    rows = _Rows(obs, np.ones(len(obs), dtype=np.int64), "cells")
    columns = _columns(rows, terms)
    components = _random_components(rows, random_terms)
    X = pd.DataFrame(columns.values[0], index=obs.index, columns=list(columns.names))
    blocks = [c.weights[0] for c in components if c.weights[0] is not None]
    Z = sp.csr_array(sp.hstack(blocks, format="csr"))
    return CellDesign(
        X,
        Z,
        tuple(len(c.levels) for c in components),
        tuple(c.name for c in components),
        pd.Index([level for c in components for level in c.levels], dtype=object),
        columns.columns,
        tuple(rows.notes),
        columns.terms,
    )


@dataclass(frozen=True, eq=False)
class FixedDesign:
    """Fixed effects of a model with one row per subject.

    Attributes
    ----------
    X : pandas.DataFrame
        (rows, coefficients), named as `cell_design` names them.
    coefficient_columns : tuple of frozenset of str
        (coefficients,) The data columns that each holds.
    notes : tuple of str
        What was decided for the user.
    """

    X: pd.DataFrame
    coefficient_columns: tuple[frozenset[str], ...]
    notes: tuple[str, ...]


def fixed_design(table: pd.DataFrame, formula: str, kind: str) -> FixedDesign:
    """Make the fixed effects of a model with one row per subject.

    Parameters
    ----------
    table : pandas.DataFrame
        (rows, columns).
    formula : str
        One-sided formula without random terms.
    kind : str
        What a row is, for messages.

    Returns
    -------
    FixedDesign
        Rows as in the table.

    Raises
    ------
    FormulaError, InputError, DesignError
        As `group_design`.
    """
    rows = _Rows(table, np.ones(len(table), dtype=np.int64), kind)
    columns = _columns(rows, read_fixed(formula))
    X = pd.DataFrame(columns.values[0], index=table.index, columns=list(columns.names))
    return FixedDesign(X, columns.columns, tuple(rows.notes))


def formula_columns(formula: str) -> frozenset[str]:
    """Columns of the data that a formula of fixed effects names."""
    return frozenset().union(*(factor.columns for term in read_fixed(formula) for factor in term))
