"""Tables of tests of several levels as one, with a column that says which level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from flashmm.inference.table import TestTable
from flashmm.options import Status
from flashmm.within import FitsWithin, joined_notes

# What has a value for each gene and contrast, and what for each contrast.
_BY_GENE = (
    *("estimate", "std_error", "statistic", "df", "conf_low", "conf_high"),
    *("p_value", "log10_p", "adj_p_value", "status"),
)
_BY_CONTRAST = ("df_num", "between_df", "prior_df", "prior_variance")


def join_levels(
    fits: FitsWithin, tables: Mapping[str, TestTable], refused: Mapping[str, Status]
) -> TestTable:
    """Put the tests of all levels beside each other.

    Parameters
    ----------
    fits : FitsWithin
        What was tested.
    tables : mapping of str to TestTable
        By level; at least one.
    refused : mapping of str to Status
        Levels without tests, and why; they have rows without numbers.

    Returns
    -------
    TestTable
        (genes, levels × contrasts), levels in their order; p-values are adjusted per level and
        contrast as before.
    """
    first = next(iter(tables.values()))
    parts = {
        level: tables[level] if level in tables else _without_numbers(first, refused[level])
        for level in fits.levels
    }
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts.values()], axis=axis)
        for names, axis in ((_BY_GENE, 1), (_BY_CONTRAST, 0))
        for name in names
    }
    priors = {level: part.prior for level, part in parts.items() if part.prior is not None}
    return replace(
        first,
        **columns,
        contrasts=tuple(contrast for part in parts.values() for contrast in part.contrasts),
        within=fits.column,
        levels=tuple(level for level, part in parts.items() for _ in part.contrasts),
        notes=fits.notes + joined_notes({level: table.notes for level, table in tables.items()}),
        prior=priors or None,
    )


def _without_numbers(like: TestTable, status: Status) -> TestTable:
    """A table of the same contrasts without a test."""
    nothing = np.full(like.p_value.shape, np.nan)
    by_gene: dict[str, Any] = {name: nothing for name in _BY_GENE if name != "status"}
    by_contrast: dict[str, Any] = {
        name: np.full(len(like.contrasts), np.nan) for name in _BY_CONTRAST[1:]
    }
    state = np.full(nothing.shape, str(status), dtype=object).astype(str)
    return replace(like, **by_gene, **by_contrast, status=state, prior=None, notes=())
