"""Summary statistics from groups of cells and formulas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from flashmm.cells.effective_libsize import apply_size_factors, describe, libsize_columns
from flashmm.cells.groups import GroupStatistics
from flashmm.cells.reference import with_reference
from flashmm.cells.size_factors import RECORD
from flashmm.design.centring import centred, centring_of_groups, independent
from flashmm.design.columns import GroupDesign, group_design
from flashmm.design.products import cross, gram, layers, weighted
from flashmm.design.statistics import GroupSource, ModelFormula, SummaryStatistics
from flashmm.kernels.rotation import constant_of
from flashmm.options import checked, note

# Without an intercept a constant that is taken from y is no model of y any more.
NO_CONSTANT = (
    "{} genes vary less than a hundredth of their mean, and the fixed effects have no intercept, "
    "so that digits of what varies are lost: add an intercept, or subtract a constant."
)


@checked
def summary_statistics(
    groups: GroupStatistics,
    fixed: str,
    random: str | Sequence[str] | None = None,
    size_factors: str | pd.Series | Sequence[float] | np.ndarray | None = None,
    reference: Mapping[str, Any] | None = None,
) -> SummaryStatistics:
    """Make the statistics of a model from groups of cells, without the cells.

    Parameters
    ----------
    groups : GroupStatistics
        Sums over the cells of each group.
    fixed : str
        Formula of the fixed effects, such as "~ 0 + log(libsize) + cell_type"; random terms may
        stand in it as in lme4, "(1 | subject)". See `flashmm.design.columns.group_design`.
    random : sequence of str, optional
        Random terms, such as ["subject", "subject:cell_type"].
    size_factors : {"tmm", "tmm-expressed", "total"}, column, pandas.Series or array, optional
        Factors by which the library sizes of each group are multiplied, so that log(libsize) does
        not follow the genes that change: a method of `flashmm.size_factors`, taken within the
        levels of `cell_type` where the groups have that column, or its result. None leaves the
        groups as they are.
    reference : mapping of str to str, optional
        Reference level of some columns, such as ``{"condition": "ctrl"}``; by default the first of
        the declared order, else of the sorted levels.

    Returns
    -------
    SummaryStatistics
        Equal, up to rounding, to those of the design of the cells themselves; its `groups` are
        those with size factors.

    Raises
    ------
    FormulaError, InputError, DesignError
        As `flashmm.design.columns.group_design`, and as `flashmm.size_factors` and
        `flashmm.with_size_factors`.
    """
    groups = with_reference(apply_size_factors(groups, size_factors), reference)
    design = group_design(groups, fixed, random)
    centring = centring_of_groups(groups, design.fixed)
    columns = centred(design.fixed, centring.matrix)
    X, Z = list(columns), layers(design.random)
    sizes = tuple(len(c.levels) for c in design.random)
    ones = np.ones((groups.n_groups, 1))
    XtX, X_sum = weighted(groups, X, X), weighted(groups, [ones], X)[0]
    XtX = (XtX + XtX.T) / 2
    kept = independent(XtX, centring.matrix)
    groups, notes = without_origin(groups, constant_of(XtX, X_sum, groups.n_cells, kept))
    notes += centring.notes(design.coefficients)
    return SummaryStatistics(
        XtX=XtX,
        YtX=cross(groups, columns),
        ZtX=weighted(groups, Z, X),
        ZtZ=gram(weighted(groups, Z, Z)),
        yty=groups.sumsq.sum(axis=0, dtype=np.float64),
        n_cells=groups.n_cells,
        X_sum=X_sum,
        Z_sum=weighted(groups, Z, [ones])[:, 0],
        component_sizes=sizes,
        genes=groups.genes,
        coefficients=design.coefficients,
        components=tuple(c.name for c in design.random),
        Z_levels=pd.Index([v for c in design.random for v in c.levels], dtype=object),
        coefficient_columns=design.coefficient_columns,
        source=GroupSource(groups, design, ModelFormula(fixed, _terms(random), _pairs(reference))),
        notes=(*design.notes, *_notes_of_size_factors(groups, design), *notes),
        coefficient_terms=design.coefficient_terms,
        origin=groups.origin,
        centring=centring.matrix,
    )


def without_origin(
    groups: GroupStatistics, constant: np.ndarray | None
) -> tuple[GroupStatistics, list[str]]:
    """Groups as they are where X can make a constant, else from zero; and what has to be said."""
    if groups.origin is None or constant is not None:
        return groups, []
    return groups.from_zero(), [note(NO_CONSTANT.format(np.count_nonzero(groups.origin)))]


def _notes_of_size_factors(groups: GroupStatistics, design: GroupDesign) -> list[str]:
    """Say which size factors the groups have, and where the formula does not hold them."""
    record = groups.provenance.get(RECORD)
    if record is None:
        return []
    names = libsize_columns(groups)
    used = any(columns & names for columns in design.coefficient_columns)
    if used or record["method"] == "total":
        return [describe(record)]
    return [note("Size factors change nothing: the formula has no log(libsize); add it.")]


def _terms(random: str | Sequence[str] | None) -> tuple[str, ...] | None:
    return (random,) if isinstance(random, str) else None if random is None else tuple(random)


def _pairs(reference: Mapping[str, Any] | None) -> tuple[tuple[str, str], ...]:
    return tuple((column, str(level)) for column, level in (reference or {}).items())
