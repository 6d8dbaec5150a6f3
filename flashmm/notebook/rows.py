"""Rows of a table of tests that figures and words are about."""

from __future__ import annotations

from typing import Any

import pandas as pd

from flashmm.inference.comparison import compared_levels
from flashmm.inference.subjects import subjects_of
from flashmm.inference.table import TestTable
from flashmm.lmm import LMMFit
from flashmm.names import did_you_mean, listed
from flashmm.options import InputError
from flashmm.within import FitsWithin

UNITS = {"log2p1": "log₂(1 + count)", "log1p": "ln(1 + count)"}


def tests_of(
    table: TestTable, contrast: str | None, level: str | None, details: bool = False
) -> tuple[pd.DataFrame, str]:
    """Tests of one contrast (and level), and what they are called.

    Raises
    ------
    InputError
        A name that there is not, or several of them and none chosen.
    """
    frame = table.to_frame(details=details and has_groups(table))
    title = []
    columns = [("contrast", contrast)]
    if table.within is not None:
        columns.insert(0, (table.within, level))
    elif level is not None:
        raise InputError("level: the table has one model, which has no levels.")
    for column, chosen in columns:
        names = list(dict.fromkeys(frame[column]))
        argument = "contrast" if column == "contrast" else "level"
        if chosen is None and len(names) > 1:
            raise InputError(
                f"{argument}: the table has {len(names)}; choose one of {listed(names, 12)}."
            )
        if chosen is not None and chosen not in names:
            raise InputError(
                f"{argument}: {chosen!r} is not in the table{did_you_mean(str(chosen), names)} It "
                f"has {listed(names, 12)}."
            )
        one = names[0] if chosen is None else chosen
        frame = frame[frame[column] == one]
        title.append(str(one))
    return frame.reset_index(drop=True), ", ".join(title)


def rows_of_gene(table: TestTable, gene: str) -> pd.DataFrame:
    """All tests of one gene, with intervals, and fold changes where they are known."""
    if gene not in table.genes:
        near = did_you_mean(str(gene), list(map(str, table.genes)))
        raise InputError(f"gene: {gene!r} is not in the table{near}")
    frame = table.to_frame(intervals=True, details=has_groups(table))
    return frame[frame["gene"] == gene].reset_index(drop=True)


def has_groups(table: TestTable) -> bool:
    """Whether the groups of cells behind the tests are known."""
    fits = table.tested.fits.values() if isinstance(table.tested, FitsWithin) else [table.tested]
    return all(
        fit is not None and fit.stats is not None and fit.stats.groups is not None for fit in fits
    )


def fits_of(table: TestTable) -> dict[str, LMMFit]:
    """Fits by level; "" where there is one model."""
    tested: Any = table.tested
    if isinstance(tested, FitsWithin):
        return dict(tested.fits)
    if not isinstance(tested, LMMFit):
        raise InputError("This needs the mixed model of cells behind the tests (LMMFit).")
    return {"": tested}


def subject_means_of(table: TestTable, gene: str) -> tuple[pd.DataFrame, str]:
    """Mean of a gene by level, subject and compared condition, and its unit."""
    rows_of_gene(table, gene)
    if not has_groups(table):
        raise InputError("expression needs the groups of cells behind the tests; there are none.")
    parts, unit = [], ""
    levels = table.levels or ("",) * len(table.contrasts)
    for level, fit in fits_of(table).items():
        own = [c for c, name in zip(table.contrasts, levels, strict=True) if name == level]
        compared = next(filter(None, (compared_levels(fit, c) for c in own)), None)
        subjects, groups = subjects_of(fit.stats), fit.stats.groups
        assert subjects is not None and groups is not None
        unit = UNITS.get(groups.transform, "unit of the input")
        column = None if compared is None else compared.column
        sums = pd.DataFrame(
            {
                "subject": subjects.names[subjects.codes].astype(str),
                "condition": "all" if column is None else groups.obs[column].to_numpy(),
                "value": groups.totals(groups.genes.get_loc(gene)),
                "cells": groups.obs["n_cells"].to_numpy(),
            }
        )
        means = sums.groupby(["condition", "subject"], observed=True, sort=True).sum()
        means["value"] /= means["cells"]
        parts.append(means.reset_index().assign(panel=level or gene))
    return pd.concat(parts, ignore_index=True), f"Mean of {unit}"
