"""Summary statistics from groups of cells and formulas."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from flashmm.cells.groups import GroupStatistics
from flashmm.design.columns import group_design
from flashmm.design.products import cross, gram, layers, weighted
from flashmm.design.statistics import GroupSource, ModelFormula, SummaryStatistics


def summary_statistics(
    groups: GroupStatistics, fixed: str, random: str | Sequence[str] | None = None
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

    Returns
    -------
    SummaryStatistics
        Equal, up to rounding, to those of the design of the cells themselves.

    Raises
    ------
    FormulaError, InputError, DesignError
        As `flashmm.design.columns.group_design`.
    """
    design = group_design(groups, fixed, random)
    X, Z = list(design.fixed), layers(design.random)
    sizes = tuple(len(c.levels) for c in design.random)
    ones = np.ones((groups.n_groups, 1))
    XtX = weighted(groups, X, X)
    return SummaryStatistics(
        XtX=(XtX + XtX.T) / 2,
        YtX=cross(groups, design.fixed),
        ZtX=weighted(groups, Z, X),
        ZtZ=gram(weighted(groups, Z, Z)),
        yty=groups.sumsq.sum(axis=0, dtype=np.float64),
        n_cells=groups.n_cells,
        X_sum=weighted(groups, [ones], X)[0],
        Z_sum=weighted(groups, Z, [ones])[:, 0],
        component_sizes=sizes,
        genes=groups.genes,
        coefficients=design.coefficients,
        components=tuple(c.name for c in design.random),
        Z_levels=pd.Index([v for c in design.random for v in c.levels], dtype=object),
        coefficient_columns=design.coefficient_columns,
        source=GroupSource(groups, design, ModelFormula(fixed, _terms(random))),
        notes=design.notes,
        coefficient_terms=design.coefficient_terms,
    )


def _terms(random: str | Sequence[str] | None) -> tuple[str, ...] | None:
    return (random,) if isinstance(random, str) else None if random is None else tuple(random)
