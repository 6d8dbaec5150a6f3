"""Contrasts of fixed effects: text, dictionaries and matrices to weights of the coefficients."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Number
from typing import Any, NoReturn, Protocol

import numpy as np
import pandas as pd

from flashmm.names import listed, near_names
from flashmm.options import FormulaError

_NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_OPERATOR = re.compile(r"\s[-+*/]\s")
_WORD_CHARACTER = re.compile(r"[\w.]")

# How alike a name is to be named to the user: coefficients are long and are typed from memory.
_LIKENESS = 0.4
# Weight, relative to the largest of the contrast, that is rounding.
SPAN_TOLERANCE = 1e-7


@dataclass(frozen=True)
class Difference:
    """What a contrast compares: a level of a column with another."""

    column: str
    level: str
    reference: str

    @property
    def comparison(self) -> str:
        """In words, "stim vs ctrl"."""
        return f"{self.level} vs {self.reference}"


@dataclass(frozen=True)
class AllPairs:
    """To ask for the differences between all pairs of levels of a column."""

    column: str


class LevelDifferences(Protocol):
    """Who knows the levels of the columns of a design (`flashmm.design.differences`)."""

    def has(self, column: str, numbers: bool = False) -> bool:
        """Whether a column of the fixed effects has levels; its numbers count where asked for."""

    def levels(self, column: str) -> list[str]:
        """The levels of a column, the reference first."""

    def between(
        self, column: str, level: str | None = None, reference: str | None = None
    ) -> tuple[Contrast, ...]:
        """Differences of one level, or of each, from a reference."""


@dataclass(frozen=True, eq=False)
class Contrast:
    """A hypothesis: every row of `matrix` times the coefficients is zero.

    Attributes
    ----------
    name : str
        What the table of tests calls it.
    matrix : numpy.ndarray
        (rows, coefficients); several rows are one F test.
    difference : Difference or None
        The levels that are compared; None for contrasts in coefficients.
    family : str or None
        Of all pairs of levels: where they are compared, such as "cell_type[B cells]:"; None for
        others. The pairs of a family are adjusted together.
    """

    name: str
    matrix: np.ndarray
    difference: Difference | None = None
    family: str | None = None

    @cached_property
    def basis(self) -> np.ndarray:
        """Independent rows with the same hypothesis: orthonormal, or the longest one of rank one.

        A test depends on the span of its rows only, an estimate on the row.
        """
        if len(self.matrix) == 1:
            return self.matrix
        _, values, vectors = np.linalg.svd(self.matrix, full_matrices=False)
        rank = int((values > values[0] * 1e-10).sum())
        if rank > 1:
            return vectors[:rank]
        return self.matrix[[np.abs(self.matrix).sum(1).argmax()]]


def without_columns(
    XtX: np.ndarray, kept: np.ndarray, dropped: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Weights that contrasts miss in dropped columns of X.

    Parameters
    ----------
    XtX : (p, p) array
        Cross-product of the design.
    kept, dropped : (p,) bool arrays
        Independent columns, and some that are linear combinations of them, X_d = X_k B.
    rows : (C, p) array
        Contrasts of both.

    Returns
    -------
    (C, dropped) array
        c_d - B'c_k for columns of length one, relative to the contrast; zero where it can be
        estimated from the kept columns.
    """
    length = np.sqrt(np.diag(XtX))
    length = np.where(length > 0, length, 1.0)
    cross, rows = XtX / length / length[:, None], rows / length
    B = np.linalg.solve(cross[np.ix_(kept, kept)], cross[np.ix_(kept, dropped)])
    gap = rows[:, dropped] - rows[:, kept] @ B
    gap /= np.abs(rows).max(1, keepdims=True)
    return np.asarray(np.where(np.abs(gap) > SPAN_TOLERANCE, gap, 0.0))


# --------------------------------------------------------------------------------------------
# Expressions
# --------------------------------------------------------------------------------------------


def parse_expression(text: str, names: Sequence[str], columns: Sequence[str] = ()) -> np.ndarray:
    """Read a linear combination of coefficients.

    Parameters
    ----------
    text : str
        Names, numbers, ``+ - * /`` and parentheses, such as
        "(cell_type[B cells]:condition[T.stim] - cell_type[NK]:condition[T.stim]) / 2".
    names : sequence of str
        (coefficients,). Names are matched longest first, so they may hold spaces, commas, colons,
        brackets and signs: with coefficients "A10", "A1" and "A10-A1" the text "A10-A1" is the
        third. A match never ends inside a word. Backticks around a name settle any doubt.
    columns : sequence of str, optional
        Data columns, to be suggested with the coefficients where a name is unknown.

    Returns
    -------
    numpy.ndarray
        (coefficients,) weights, not all zero.

    Raises
    ------
    FormulaError
        For an unknown name (with the place and near names), a product of coefficients, a constant
        that is added, or weights that are all zero.
    """
    if not isinstance(text, str):
        raise FormulaError(f"a contrast is a string; found {type(text).__name__}.")
    reader = _Reader(text, tuple(names), tuple(columns))
    try:
        with np.errstate(all="ignore"):
            value = reader.sum()
    except RecursionError as error:
        raise FormulaError("the contrast has too many parentheses.") from error
    reader.skip()
    if reader.at < len(text):
        reader.fail_here()
    if not np.isfinite(value).all():
        reader.fail("its numbers are too large", 0)
    if value[0]:
        reader.fail(f"a constant ({value[0]:g}) is added to the coefficients", 0)
    return _checked(value[1:], text)


@dataclass
class _Reader:
    """Recursive descent over a contrast; a value is (constant, weight of each coefficient)."""

    text: str
    names: tuple[str, ...]
    columns: tuple[str, ...] = ()
    at: int = 0
    longest_first: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.longest_first = sorted(range(len(self.names)), key=lambda i: -len(self.names[i]))

    def sum(self) -> np.ndarray:
        value = self.product()
        while sign := self.take("+-"):
            other = self.product()
            value = value + other if sign == "+" else value - other
        return value

    def product(self) -> np.ndarray:
        start = self.at
        value = self.signed()
        while operator := self.take("*/"):
            other = self.signed()
            if operator == "*" and not value[1:].any():
                value, other = other, value
            if other[1:].any():
                self.fail("the contrast is not linear in the coefficients", start)
            if operator == "/" and not other[0]:
                self.fail("a division by zero", start)
            value = value * other[0] if operator == "*" else value / other[0]
        return value

    def signed(self) -> np.ndarray:
        if sign := self.take("+-"):
            return -self.signed() if sign == "-" else self.signed()
        return self.single()

    def single(self) -> np.ndarray:
        """Read a name, a number, or a sum in parentheses; names first, as they may hold either."""
        self.skip()
        value = np.zeros(1 + len(self.names))
        name = self.name()
        if name is not None:
            value[1 + name] = 1.0
            return value
        if match := _NUMBER.match(self.text, self.at):
            value[0], self.at = float(match.group()), match.end()
            return value
        start = self.at
        if not self.take("("):
            self.fail_here()
        value = self.sum()
        if not self.take(")"):
            self.fail("a parenthesis that is not closed", start)
        return value

    def name(self) -> int | None:
        """Index of the longest name that stands here and does not end inside a word."""
        for i in self.longest_first:
            for written in (self.names[i], f"`{self.names[i]}`"):
                end = self.at + len(written)
                inside = _WORD_CHARACTER.match(written[-1:]) and _WORD_CHARACTER.match(
                    self.text[end : end + 1]
                )
                if written and self.text.startswith(written, self.at) and not inside:
                    self.at = end
                    return i
        return None

    def take(self, characters: str) -> str:
        """Step over one of `characters` if it is next, and return it."""
        self.skip()
        if self.at < len(self.text) and self.text[self.at] in characters:
            self.at += 1
            return self.text[self.at - 1]
        return ""

    def skip(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def fail(self, reason: str, at: int | None = None) -> NoReturn:
        """Raise an error that shows the place."""
        at = self.at if at is None else at
        raise FormulaError(
            f"contrast {self.text!r}: {reason}, at character {at + 1}: "
            f"{self.text[:at]}>>>{self.text[at:]}"
        )

    def fail_here(self) -> NoReturn:
        """Raise an error about what stands here, where a name, number or operator should."""
        if self.at >= len(self.text):
            self.fail("the end, where a coefficient should follow")
        if self.text[self.at] == ")":
            self.fail("a parenthesis that was not opened or holds nothing")
        # the whole run of text between operators, of which a part may have been read as a name
        starts = (m.end() for m in _OPERATOR.finditer(self.text, 0, self.at))
        word = _OPERATOR.split(self.text[max(starts, default=0) :])[0].strip(" (")
        names = dict.fromkeys((*self.columns, *self.names))
        near = near_names(word, names, likeness=_LIKENESS)
        known = "near names are" if near else "the coefficients are"
        self.fail(f"no coefficient is called {word!r} ({known} {listed(near or self.names, 12)})")


def _checked(weights: np.ndarray, name: str) -> np.ndarray:
    """Return the weights if they are finite and, in each row, not all zero."""
    if not np.isfinite(weights).all():
        raise FormulaError(f"contrast {name!r} has weights that are not finite numbers.")
    if not np.atleast_2d(weights).any(axis=1).all():
        raise FormulaError(f"contrast {name!r} gives every coefficient the weight zero.")
    return weights


# --------------------------------------------------------------------------------------------
# Everything else that may be asked for
# --------------------------------------------------------------------------------------------


def resolve_contrasts(
    spec: Any,
    coefficients: Sequence[str],
    coefficient_columns: Sequence[frozenset[str]] | None = None,
    differences: LevelDifferences | None = None,
) -> tuple[Contrast, ...]:
    """Bring every way of asking for contrasts into one form.

    Parameters
    ----------
    spec : None, str, list, dict, array_like or DataFrame
        None: every coefficient by itself. A string: the name of a data column, for the difference
        of each of its levels from the reference (of a number: for each coefficient that holds it),
        or an expression (`parse_expression`). Three strings (column, level, reference): one
        difference. A list of strings: each so.
        A matrix or DataFrame: R's shape, (coefficients, contrasts); a DataFrame whose index holds
        names is brought into their order. A vector or Series: one contrast. A dictionary: names to
        an expression, a dictionary {coefficient: weight}, a vector (coefficients,), or, for a
        joint F test, a matrix (coefficients, rows) or a list of expressions; a data column stands
        there for all coefficients that hold it.
    coefficients : sequence of str
        (coefficients,) names.
    coefficient_columns : sequence of frozenset of str, optional
        The data columns that each coefficient holds.
    differences : LevelDifferences, optional
        Who knows the levels of the columns; without it the name of a data column means the
        coefficients that hold it.

    Returns
    -------
    tuple of Contrast
        In the order asked for.

    Raises
    ------
    FormulaError
        Where a name is unknown, a shape does not fit, or a contrast is empty, zero or not linear.
    """
    model = _Coefficients(tuple(coefficients), tuple(coefficient_columns or ()), differences)
    if spec is None:
        return model.each(range(len(model.names)))
    if isinstance(spec, str):
        return model.from_text(spec)
    if isinstance(spec, Mapping):
        found = tuple(Contrast(str(name), model.rows(v, str(name))) for name, v in spec.items())
    elif model.is_difference(spec):
        found = model.difference(spec)
    elif isinstance(spec, list | tuple) and any(model.is_difference(item) for item in spec):
        found = tuple(
            contrast
            for item in spec
            for contrast in (
                model.difference(item) if model.is_difference(item) else model.from_text(item)
            )
        )
    elif isinstance(spec, list | tuple) and all(isinstance(item, str) for item in spec):
        found = tuple(contrast for item in spec for contrast in model.from_text(item))
    else:
        found = model.from_matrix(spec)
    if not found:
        raise FormulaError("no contrast is asked for: the list or dictionary is empty.")
    _check_different([contrast.name for contrast in found])
    return found


def _check_different(names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise FormulaError(f"contrasts have the same name: {listed(repeated, 12)}.")


@dataclass(frozen=True)
class _Coefficients:
    """Names of the coefficients and the data columns that each holds."""

    names: tuple[str, ...]
    columns: tuple[frozenset[str], ...]
    differences: LevelDifferences | None = None

    def is_difference(self, item: Any) -> bool:
        """Whether an item is (column, level, reference) of a column with levels."""
        if self.differences is None or not isinstance(item, list | tuple) or len(item) != 3:
            return False
        column, *levels = item
        if not isinstance(column, str) or not self.differences.has(column, numbers=True):
            return False
        # a list of three names of columns or coefficients is three contrasts
        return isinstance(item, tuple) or not any(
            str(level) in self.names or self.holding(str(level)) for level in levels
        )

    def difference(self, item: Any) -> tuple[Contrast, ...]:
        column, level, reference = item
        assert self.differences is not None
        return self.differences.between(column, str(level), str(reference))

    def each(self, which: Sequence[int]) -> tuple[Contrast, ...]:
        eye = np.eye(len(self.names))
        return tuple(Contrast(self.names[i], eye[i : i + 1]) for i in which)

    def holding(self, column: str) -> list[int]:
        """Coefficients whose term holds a data column."""
        return [i for i, columns in enumerate(self.columns) if column in columns]

    def from_text(self, text: str) -> tuple[Contrast, ...]:
        if self.differences is not None and self.differences.has(text):
            return self.differences.between(text)
        return self.each(self.holding(text)) or (Contrast(text, self.expression(text)),)

    def expression(self, text: str) -> np.ndarray:
        columns = sorted(frozenset().union(*self.columns))
        return parse_expression(text, self.names, columns)[None]

    def rows(self, value: Any, name: str) -> np.ndarray:
        """(rows, coefficients) of one entry of a dictionary."""
        if isinstance(value, str):
            return self.text_rows(value)
        if isinstance(value, Mapping):
            return self.weighted(value, name)
        if self.is_difference(value):
            return np.concatenate([contrast.matrix for contrast in self.difference(value)])
        if isinstance(value, list | tuple) and any(isinstance(v, str | Mapping) for v in value):
            return np.concatenate([self.rows(v, name) for v in value])
        return _checked(self.matrix(value, name).T, name)

    def text_rows(self, text: str) -> np.ndarray:
        """Return a row per coefficient of a data column, or the row of an expression."""
        if self.differences is not None and self.differences.has(text):
            return np.concatenate([c.matrix for c in self.differences.between(text)])
        held = [] if text in self.names else self.holding(text)
        return np.eye(len(self.names))[held] if held else self.expression(text)

    def weighted(self, weights: Mapping[str, float], name: str) -> np.ndarray:
        row = np.zeros((1, len(self.names)))
        for coefficient, weight in weights.items():
            if coefficient not in self.names:
                near = near_names(str(coefficient), self.names, likeness=_LIKENESS)
                raise FormulaError(
                    f"contrast {name!r}: no coefficient is called {coefficient!r}; "
                    f"near names: {listed(near or self.names, 12)}."
                )
            if not isinstance(weight, Number):
                raise FormulaError(f"contrast {name!r}: the weight {weight!r} is not a number.")
            row[0, self.names.index(coefficient)] = weight
        return _checked(row, name)

    def from_matrix(self, spec: Any) -> tuple[Contrast, ...]:
        """Contrasts of the columns of a matrix in R's shape; a vector is one contrast."""
        matrix = self.matrix(spec, "contrasts")
        names = [f"contrast{j + 1}" for j in range(matrix.shape[1])]
        if isinstance(spec, pd.DataFrame):
            names = [str(column) for column in spec.columns]
        elif isinstance(spec, pd.Series) and spec.name is not None:
            names = [str(spec.name)]
        rows = [_checked(matrix[:, j][None], name) for j, name in enumerate(names)]
        return tuple(Contrast(name, row) for name, row in zip(names, rows, strict=True))

    def matrix(self, value: Any, name: str) -> np.ndarray:
        """(coefficients, rows) float64 of a vector, matrix, Series or DataFrame."""
        if isinstance(value, pd.DataFrame | pd.Series) and not isinstance(
            value.index, pd.RangeIndex
        ):
            value = self.ordered(value, name)
        try:
            matrix = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise FormulaError(
                f"contrast {name!r}: {type(value).__name__} is no vector or matrix of numbers."
            ) from error
        matrix = matrix[:, None] if matrix.ndim == 1 else matrix
        p = len(self.names)
        if matrix.ndim != 2 or matrix.shape[0] != p or not matrix.shape[1]:
            raise FormulaError(
                f"contrast {name!r} has the shape {np.shape(value)}; needed are {p} weights, or a "
                f"matrix of {p} rows (coefficients) with a column for each contrast."
            )
        return matrix

    def ordered(self, value: pd.DataFrame | pd.Series, name: str) -> pd.DataFrame | pd.Series:
        """Rows in the order of the coefficients; the index names each of them once."""
        index = pd.Index([str(i) for i in value.index])
        unknown = [i for i in index if i not in self.names]
        lacking = [i for i in self.names if i not in set(index)]
        if unknown or lacking or index.has_duplicates:
            raise FormulaError(
                f"contrast {name!r}: its index must name every coefficient once; unknown: "
                f"{listed(unknown, 12)}; lacking: {listed(lacking, 12)}."
            )
        return value.set_axis(index, axis=0).loc[list(self.names)]
