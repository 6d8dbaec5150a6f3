"""Differences between the levels of a column, whatever the coding of the design.

The difference between two levels is that of the rows of the design of cells that differ in nothing
else. Where the effect depends on other factors (cell_type:condition), there is a difference for
each of their combinations; where it depends on a number, each coefficient is one.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd

from flashmm.design.contrasts import AllPairs, Contrast, Difference, resolve_contrasts
from flashmm.design.counterfactual import designs_by_level
from flashmm.design.statistics import SummaryStatistics
from flashmm.formulas import Factor, call_name, read_model
from flashmm.names import did_you_mean, listed
from flashmm.options import FormulaError


def contrasts_of(
    spec: object,
    coefficients: tuple[str, ...],
    coefficient_columns: tuple[frozenset[str], ...],
    stats: SummaryStatistics | None,
) -> tuple[Contrast, ...]:
    """Contrasts of a model as asked for; names of factors mean differences between their levels.

    Parameters
    ----------
    spec : object
        As `resolve_contrasts` takes it, differences ``(column, level, reference)``, or `AllPairs`.
    coefficients, coefficient_columns
        As of a fit.
    stats : SummaryStatistics or None
        What was fitted. Without groups and a formula no levels are known, and the name of a column
        means the coefficients that hold it.

    Returns
    -------
    tuple of Contrast
        In the order asked for.

    Raises
    ------
    FormulaError
        As `resolve_contrasts`; a level that there is not.
    """
    known = None if stats is None or stats.model is None else Differences(stats)
    if isinstance(spec, AllPairs):
        if known is None:
            raise FormulaError(
                f"pairs of levels of {spec.column!r} need groups and a formula, and this fit has "
                "none: make the statistics with summary_statistics."
            )
        return known.pairs(spec.column)
    return resolve_contrasts(spec, coefficients, coefficient_columns, known)


@dataclass(frozen=True)
class Differences:
    """Differences between levels of the columns of a design (`contrasts.LevelDifferences`).

    Attributes
    ----------
    stats : SummaryStatistics
        From groups, with their formula.
    """

    stats: SummaryStatistics

    def has(self, column: str, numbers: bool = False) -> bool:
        """Whether a column of the fixed effects has levels: labels, truth values, two numbers.

        With `numbers` those of any column that defines the groups, such as time of poly(time, 2).
        """
        groups, _ = self.stats.require_source()
        held = set().union(*self.stats.coefficient_columns)
        of_groups = column in held and column in groups.by
        return of_groups and (numbers or is_factor(groups.obs[column]))

    def levels(self, column: str) -> list[str]:
        """The levels of a column as text, the reference first."""
        return [str(level) for level in self._levels(column)]

    def between(
        self, column: str, level: str | None = None, reference: str | None = None
    ) -> tuple[Contrast, ...]:
        """Differences of one level, or of each, from a reference; by default the first level.

        Raises
        ------
        FormulaError
            There is no such level, or both are the same.
        """
        names = self.levels(column)
        if len(names) < 2:
            raise FormulaError(
                f"column {column!r} has the single level {names[0]!r}: there is no difference to "
                "test."
            )
        for name in (level, reference):
            if name is not None and name not in names:
                raise FormulaError(
                    f"column {column!r} has no level {name!r}{did_you_mean(name, names)} "
                    f"The levels are {listed(names)}."
                )
        base = names[0] if reference is None else reference
        if level == base:
            raise FormulaError(f"column {column!r}: {level!r} is compared with itself.")
        first, kind = self._kinds(column)
        designs = designs_by_level(self.stats, column, self._levels(column), first)
        wanted = [name for name in names if name != base] if level is None else [level]
        start = designs[names.index(base)]
        return tuple(
            contrast
            for name in wanted
            for contrast in self._contrasts(
                designs[names.index(name)] - start, Difference(column, name, base), kind
            )
        )

    def pairs(self, column: str) -> tuple[Contrast, ...]:
        """Differences between all pairs of levels, later minus earlier, in families.

        Raises
        ------
        FormulaError
            The column does not define the groups, has less than two levels, or its effect depends
            on a number by several coefficients.
        """
        groups, _ = self.stats.require_source()
        held = set().union(*self.stats.coefficient_columns)
        if column not in held or column not in groups.by:
            known = sorted(held & set(groups.by))
            raise FormulaError(
                f"pairs: {column!r} is no column of the groups in the fixed effects"
                f"{did_you_mean(column, known)} These are {listed(known)}."
            )
        levels, names = self._levels(column), self.levels(column)
        if len(names) < 2:
            raise FormulaError(f"pairs: {column!r} has the single level {names[0]!r}.")
        designs = designs_by_level(self.stats, column, levels)
        return tuple(
            Contrast(
                f"{place}{column}[{names[j]} vs {names[i]}]{beside}",
                (rows[j] - rows[i])[None],
                Difference(column, names[j], names[i]),
                f"{place}{beside}",
            )
            for place, beside, rows in self._families(designs - designs[0], column)
            for i, j in combinations(range(len(names)), 2)
        )

    def _families(self, changes: np.ndarray, column: str) -> Iterator[tuple[str, str, np.ndarray]]:
        """Effects (levels, coefficients) of all levels in each place where they differ.

        `changes` (levels, 1 + m, groups, coefficients) is the design less that of the first level.
        """
        for part, numbers in self._level_parts(changes, column):
            stacked = np.moveaxis(part, 0, 1).reshape(part.shape[1], -1)
            rows, first = np.unique(stacked, axis=0, return_index=True)
            rows = rows[np.argsort(first)]
            rows = rows[rows.any(axis=1)]
            for row in rows:
                own = (stacked == row).all(axis=1)
                place = self._place(column, own) if len(rows) > 1 else ""
                if numbers and len(rows) > 1 and not place:
                    raise FormulaError(
                        f"pairs: the effect of {column!r} depends on {numbers} by several "
                        "coefficients, so that a pair has no single difference; name contrasts of "
                        "the coefficients."
                    )
                yield place, numbers and f":{numbers}", row.reshape(len(part), -1)

    def _level_parts(self, changes: np.ndarray, column: str) -> Iterator[tuple[np.ndarray, str]]:
        """Split changes by the numbers in a term: (levels, groups, coefficients), and the numbers.

        Changes with numbers are divided by the largest weight of the group.
        """
        numeric = self._with_numbers(column)
        plain = changes[:, 0] * ~numeric
        if plain.any():
            yield np.round(plain, 12), ""
        terms = np.array(self.stats.coefficient_terms)
        factors = self._labels | set(self._coded)
        for term in dict.fromkeys(terms[numeric]):
            others = [part for part in term.split(":") if part not in factors]
            numbers = ":".join(part for part in others if column not in part)
            for layer in np.moveaxis(changes, 1, 0):
                part = layer * (terms == term)
                size = np.abs(part).max(axis=(0, 2), keepdims=True)
                if size.any():
                    part = np.divide(part, size, out=np.zeros_like(part), where=size > 0)
                    sign = np.sign(part.sum(axis=(0, 2), keepdims=True))
                    yield np.round(part * np.where(sign < 0, -1.0, 1.0), 12), numbers

    def _kinds(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """Groups that fixed effects tell apart without a column: the first of each kind, the kinds.

        Where a term may depend on how values are spread (a spline), each group is of its own kind.
        """
        groups, _ = self.stats.require_source()
        factors = self._factors
        everyone = np.arange(groups.n_groups)
        if not all(isinstance(f.node, ast.Name) or f.name in groups.covariates for f in factors):
            return everyone, everyone
        held = sorted({c for factor in factors for c in factor.columns} & set(groups.by) - {column})
        if not held:
            return everyone[:1], np.zeros_like(everyone)
        kind = groups.obs.groupby(held, observed=True, sort=False).ngroup().to_numpy()
        return np.unique(kind, return_index=True)[1], kind

    def _levels(self, column: str) -> pd.Series:
        """Distinct values of a column, one row each, in the order of the levels."""
        groups, _ = self.stats.require_source()
        values = groups.obs[column]
        return values.drop_duplicates().sort_values().reset_index(drop=True)

    def _contrasts(
        self, change: np.ndarray, difference: Difference, kind: np.ndarray
    ) -> Iterator[Contrast]:
        """Contrasts of a change (1 + m, kinds, coefficients) of the design."""
        for part, numeric in self._parts(change, difference.column):
            rows = _distinct(part)
            rows = rows[rows.any(axis=1)]
            if numeric and len(rows) > np.count_nonzero(rows.any(axis=0)):
                rows = np.eye(part.shape[1])[part.any(axis=0)]
            for row in rows:
                own = (part == row).all(axis=1)[kind]
                yield self._named(row, difference, own, several=len(rows) > 1)

    def _parts(self, change: np.ndarray, column: str) -> Iterator[tuple[np.ndarray, bool]]:
        """Split a change by the numbers that stand with the column in a term.

        Yields (groups, coefficients) arrays, those with numbers scaled to a largest weight of one.
        """
        plain = change[0] * ~self._with_numbers(column)
        if plain.any():
            yield np.round(plain, 12), False
        terms = np.array(self.stats.coefficient_terms)
        for term in dict.fromkeys(terms[self._with_numbers(column)]):
            for layer in change:
                part = layer * (terms == term)
                size = np.abs(part).max(axis=1, keepdims=True)
                if size.any():
                    part = np.divide(part, size, out=np.zeros_like(part), where=size > 0)
                    yield np.round(_same_sign(part), 12), True

    def _with_numbers(self, column: str) -> np.ndarray:
        """Coefficients in whose term a number stands beside the column."""
        factors = self._labels | {column}
        return np.array([bool(held - factors) for held in self.stats.coefficient_columns])

    @cached_property
    def _coded(self) -> dict[str, frozenset[str]]:
        """Factors of the formula that make levels of numbers, "C(time)", and their columns."""
        coded = [
            f for f in self._factors if isinstance(f.node, ast.Call) and call_name(f.node) == "C"
        ]
        return {f.name: frozenset(f.columns) for f in coded}

    @property
    def _factors(self) -> list[Factor]:
        """All factors of the fixed effects."""
        model = self.stats.require_model()
        return [f for term in read_model(model.fixed, model.random)[0] for f in term]

    @cached_property
    def _labels(self) -> set[str]:
        """Columns of the groups that stand in the model by their levels alone."""
        groups, _ = self.stats.require_source()
        by_value = set().union(*(f.columns for f in self._factors if f.name not in self._coded))
        levels = set().union(*self._coded.values()) - by_value
        return {c for c in groups.by if is_factor(groups.obs[c]) or c in levels}

    def _named(
        self, row: np.ndarray, difference: Difference, own: np.ndarray, several: bool
    ) -> Contrast:
        """Name a contrast after its one coefficient, else after its levels."""
        held = np.flatnonzero(row)
        if len(held) == 1 and row[held[0]] == 1:
            return Contrast(self.stats.coefficients[held[0]], row[None], difference)
        place = self._place(difference.column, own) if several else ""
        name = f"{place}{difference.column}[{difference.comparison}]"
        return Contrast(name, row[None], difference)

    def _place(self, column: str, own: np.ndarray) -> str:
        """Levels of the other factors by which some groups differ from the rest, as a prefix."""
        groups, _ = self.stats.require_source()
        beside = set().union(*(c for c in self.stats.coefficient_columns if column in c)) - {column}
        named = []
        for other in sorted(beside & set(groups.by)):
            values = groups.obs[other]
            if other in self._labels and values[own].nunique() == 1:
                named.append(f"{other}[{values[own].iloc[0]}]:")
        return "".join(named)


def _distinct(rows: np.ndarray) -> np.ndarray:
    """Rows that differ, in the order in which they come."""
    if len(rows) == 1:
        return rows
    distinct, first = np.unique(rows, axis=0, return_index=True)
    return distinct[np.argsort(first)]


def is_factor(values: pd.Series) -> bool:
    """Whether values are labels, truth values, or two numbers, so that differences have a name."""
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    return not numeric or values.nunique() == 2


def _same_sign(rows: np.ndarray) -> np.ndarray:
    """Rows with a positive first weight: a slope is the same seen from either side."""
    first = np.take_along_axis(rows, (rows != 0).argmax(axis=1)[:, None], axis=1)
    return np.where(first < 0, -rows, rows)
