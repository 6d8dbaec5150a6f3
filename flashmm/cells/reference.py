"""The level of a column that the others are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from flashmm.cells.groups import GroupStatistics
from flashmm.names import did_you_mean, listed
from flashmm.options import InputError


def with_reference(groups: GroupStatistics, reference: Mapping[str, Any] | None) -> GroupStatistics:
    """Groups whose columns have other reference levels.

    Parameters
    ----------
    groups : GroupStatistics
        As summarised.
    reference : mapping of str to str, optional
        Column to its reference level, such as ``{"condition": "ctrl"}``; None changes nothing.

    Returns
    -------
    GroupStatistics
        The same numbers; the reference is the first level of its column.

    Raises
    ------
    InputError
        There is no such column or level, or the column holds numbers.
    """
    if not reference:
        return groups
    changed = {column: _moved(groups, column, str(level)) for column, level in reference.items()}
    return replace(groups, obs=groups.obs.assign(**changed))


def _moved(groups: GroupStatistics, column: str, level: str) -> pd.Series:
    """The column with one of its levels in front."""
    if column not in groups.by:
        raise InputError(
            f"reference: {column!r} is not a column that defines the groups"
            f"{did_you_mean(str(column), groups.by)} They are {listed(groups.by)}."
        )
    values = groups.obs[column]
    if not isinstance(values.dtype, pd.CategoricalDtype):
        raise InputError(
            f"reference: column {column!r} holds {values.dtype} values, which have no reference "
            "level; make them text."
        )
    named = {str(name): name for name in values.cat.categories}
    if level not in named:
        raise InputError(
            f"reference: column {column!r} has no level {level!r}{did_you_mean(level, named)} "
            f"The levels are {listed(named)}."
        )
    rest = [name for name in values.cat.categories if name != named[level]]
    return values.cat.reorder_categories([named[level], *rest])
