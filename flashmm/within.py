"""One model for each level of a column, such as each cell type, from groups that were read once.

On real counts the residual variance and the variance between subjects of a gene follow its mean,
and that differs by cell type: a model with one of each for all types has tests that are far too
anti-conservative. A model of one type has neither problem, and is the cheapest there is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from flashmm.cells.effective_libsize import with_size_factors
from flashmm.cells.groups import GroupStatistics
from flashmm.cells.reference import with_reference
from flashmm.cells.size_factors import size_factors as factors_of_groups
from flashmm.design.from_groups import summary_statistics
from flashmm.formulas import read_model
from flashmm.kernels.expression_filter import MIN_TOTAL, expressed
from flashmm.lmm import LMMFit, fit_lmm
from flashmm.names import did_you_mean, listed
from flashmm.options import DesignError, FitOptions, InputError, Status, checked, note
from flashmm.shown import Shown

# The size factors that models of levels have.
SIZE_FACTORS = "tmm-expressed"
# More levels than this are taken for a mistake, and said.
MANY_LEVELS = 100


@dataclass(frozen=True, eq=False)
class FitsWithin(Shown):
    """Fits of the same genes, one for each level of a column.

    Attributes
    ----------
    column : str
        The column whose levels have models of their own.
    fits : dict of str to LMMFit
        By level, in the order of the levels; those that could be fitted.
    refused : dict of str to str
        Why other levels could not be fitted, in a sentence.
    levels : tuple of str
        All levels, fitted or not.
    genes : pandas.Index
        Names of the genes.
    options : FitOptions
        How the models were fitted.
    notes : tuple of str
        What was decided for the user; those of one level begin with its name.
    reference : tuple of (str, str)
        Columns and the reference levels that were asked for.
    """

    column: str
    fits: dict[str, LMMFit]
    refused: dict[str, str]
    levels: tuple[str, ...]
    genes: pd.Index
    options: FitOptions
    notes: tuple[str, ...] = ()
    reference: tuple[tuple[str, str], ...] = ()

    def __getitem__(self, level: str) -> LMMFit:
        """The fit of a level."""
        if level in self.fits:
            return self.fits[level]
        if level in self.refused:
            raise InputError(f"{self.column} {level!r} has no fit: {self.refused[level]}")
        raise InputError(
            f"{self.column} has no level {level!r}{did_you_mean(level, self.levels)} "
            f"The levels are {listed(self.levels)}."
        )

    def facts(self) -> dict[str, str]:
        """How the fits of each level ended, or why there is none."""

        def said(level: str) -> str:
            if level in self.refused:
                return f"no fit: {self.refused[level]}"
            counts = pd.Series(self.fits[level].status).value_counts().items()
            return ", ".join(f"{n} {status}" for status, n in counts)

        return {level: said(level) for level in self.levels}

    def __repr__(self) -> str:
        return (
            f"FitsWithin({len(self.genes)} genes, {len(self.fits)} of {len(self.levels)} levels of "
            f"{self.column}, {self.options.method})"
        )


@dataclass(frozen=True)
class _Model:
    """What every level is fitted with."""

    fixed: str
    random: tuple[str, ...] | None
    min_counts: float
    options: dict[str, Any] = field(default_factory=dict)


@checked
def fit_within(
    groups: GroupStatistics,
    within: str,
    fixed: str,
    random: str | Sequence[str] | None = None,
    *,
    size_factors: str | pd.Series | Sequence[float] | np.ndarray | None = SIZE_FACTORS,
    min_counts: float | None = MIN_TOTAL,
    reference: Mapping[str, Any] | None = None,
    **options: Any,
) -> FitsWithin:
    """Fit one model for each level of a column, from groups.

    Parameters
    ----------
    groups : GroupStatistics
        Sums over the cells of each group; `within` is one of the columns that define them.
    within : str
        The column, such as "cell_type".
    fixed : str
        Formula of the fixed effects, without the column: "~ log(libsize) + condition"; random terms
        may stand in it, "(1 | subject)".
    random : sequence of str, optional
        Random terms, such as ["subject", "subject:condition"]. A term that equals another one, as
        the second where each subject has one condition, is dropped with a note.
    size_factors : {"tmm-expressed", "tmm", "total"}, column, pandas.Series, array or None
        By what the library sizes are multiplied, as in `summary_statistics`; groups are compared
        within a level. "tmm" is edgeR's; it compares the genes that both samples have counts of,
        and gives samples of few counts too large a factor, which the default, of genes that are not
        rare, does not.
    min_counts : float or None
        Genes with fewer counts in a level, or with counts in fewer groups than the smallest
        condition has (at most five), are not tested there and have the status `low_expression`;
        None keeps all genes.
    reference : mapping of str to str, optional
        Reference level of some columns, as in `summary_statistics`.
    **options
        As of `fit_lmm`: method, nonnegative, engine, max_iter, tol, block_size.

    Returns
    -------
    FitsWithin
        `contrast_tests` takes it and gives one table with a column `within`.

    Raises
    ------
    InputError
        The column does not define the groups, an option is not known, or there are no raw counts
        for size factors or for the filter.
    FormulaError
        The formula cannot be read.
    DesignError
        The formula holds the column, or no level can be fitted.

    Notes
    -----
    A level that cannot be fitted, for want of subjects, say, does not stop the others: its tests
    have the status `too_few_subjects`, and a note says why.
    """
    terms = (random,) if isinstance(random, str) else None if random is None else tuple(random)
    _check_column(groups, within, fixed, terms)
    FitOptions(**options)
    _check_filter(groups, min_counts)
    notes = _note_levels(groups, within)
    if size_factors is not None:
        if isinstance(size_factors, str):
            size_factors = factors_of_groups(groups, within, size_factors)
        groups = with_size_factors(groups, size_factors)
    groups = with_reference(groups, reference)
    model = _Model(fixed, terms, min_counts or 0.0, options)
    fits: dict[str, LMMFit] = {}
    refused: dict[str, str] = {}
    for level, part in parts_within(groups, within):
        try:
            fits[level] = _fit(part, model)
        except DesignError as error:
            refused[level] = str(error)
    if not fits:
        level, reason = next(iter(refused.items()))
        raise DesignError(f"No level of {within!r} can be fitted; {level!r}: {reason}")
    notes += tuple(note(f"{within} {name!r} is not tested: {why}") for name, why in refused.items())
    notes += joined_notes({level: fit.stats.notes for level, fit in fits.items()})
    levels = tuple(level for level, _ in _levels(groups, within))
    options_used = next(iter(fits.values())).options
    chosen = tuple((name, str(value)) for name, value in (reference or {}).items())
    return FitsWithin(within, fits, refused, levels, groups.genes, options_used, notes, chosen)


def parts_within(groups: GroupStatistics, within: str) -> Iterator[tuple[str, GroupStatistics]]:
    """Yield the name of each level of a column, and its groups."""
    for level, rows in _levels(groups, within):
        yield level, groups.subset(rows)


def _levels(groups: GroupStatistics, within: str) -> list[tuple[str, np.ndarray]]:
    values = groups.obs[within]
    order = values.cat.categories if isinstance(values.dtype, pd.CategoricalDtype) else None
    found = sorted(values.unique()) if order is None else [v for v in order if (values == v).any()]
    return [(str(level), (values == level).to_numpy()) for level in found]


def _fit(groups: GroupStatistics, model: _Model) -> LMMFit:
    """Fit one level; genes that are too rare there have a status instead of estimates."""
    stats = summary_statistics(groups, model.fixed, model.random)
    fit = fit_lmm(stats, **model.options)
    return without_rare_genes(fit, groups, model.fixed, model.random, model.min_counts)


def without_rare_genes(
    fit: LMMFit,
    groups: GroupStatistics,
    fixed: str,
    random: Sequence[str] | None,
    min_counts: float | None = MIN_TOTAL,
) -> LMMFit:
    """Give genes that are too rare for a test the status `low_expression`.

    Parameters
    ----------
    fit : LMMFit
        Of all genes of the groups.
    groups : GroupStatistics
        What was fitted; without raw counts, nothing is rare.
    fixed, random
        The model.
    min_counts : float or None
        As in `fit_within`.
    """
    if not min_counts or groups.counts is None:
        return fit
    kept = expressed(groups.counts, _smallest_condition(groups, fixed, random), min_counts)
    few = ~kept & (fit.status != str(Status.ALL_ZERO))
    return replace(fit, status=np.where(few, str(Status.LOW_EXPRESSION), fit.status))


def _smallest_condition(groups: GroupStatistics, fixed: str, random: Sequence[str] | None) -> int:
    """Groups in the smallest combination of the factors among the fixed effects."""
    terms, _ = read_model(fixed, random)
    columns = {c for term in terms for factor in term for c in factor.columns} & set(groups.by)
    factors = [c for c in sorted(columns) if groups.obs[c].nunique() < groups.n_groups]
    if not factors:
        return groups.n_groups
    return int(groups.obs.groupby(factors, observed=True).size().min())


def _check_column(
    groups: GroupStatistics, within: str, fixed: str, random: tuple[str, ...] | None
) -> None:
    if within not in groups.by:
        raise InputError(
            f"within={within!r} is not a column that defines the groups"
            f"{did_you_mean(str(within), groups.by)} They are {listed(groups.by)}."
        )
    terms, random_terms = read_model(fixed, random)
    used = {c for term in terms for factor in term for c in factor.columns}
    used |= {c for term in random_terms for c in term.columns}
    if within in used:
        raise DesignError(
            f"within={within!r} gives each level a model of its own, in which {within!r} is "
            "constant: take it out of the formula and of the random terms."
        )


def check_min_counts(min_counts: float | None) -> None:
    """Refuse what is no number of counts."""
    if min_counts is None:
        return
    if isinstance(min_counts, bool) or not np.isfinite(min_counts) or min_counts < 0:
        raise InputError(f"min_counts is a number of counts from 0 on; found {min_counts!r}.")


def _check_filter(groups: GroupStatistics, min_counts: float | None) -> None:
    check_min_counts(min_counts)
    if groups.counts is None and min_counts:
        raise InputError(
            "Rare genes are found by the sums of raw counts, which these groups do not have: "
            "summarise raw counts (layer=), or keep all genes with min_counts=None."
        )


def _note_levels(groups: GroupStatistics, within: str) -> tuple[str, ...]:
    n_levels = groups.obs[within].nunique()
    if n_levels == 1:
        return (note(f"{within!r} has one level, so there is one model."),)
    if n_levels > MANY_LEVELS:
        return (
            note(
                f"{within!r} has {n_levels} levels, each with a model of its own: is it the "
                "column that was meant?"
            ),
        )
    return ()


def joined_notes(notes: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Notes of the levels, each said once with the levels that it is of."""
    levels: dict[str, list[str]] = {}
    for level, said in notes.items():
        for text in said:
            levels.setdefault(text, []).append(level)
    return tuple(
        text if len(of) == len(notes) else f"{listed(of)}: {text}" for text, of in levels.items()
    )
