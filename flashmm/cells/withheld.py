"""Groups of few cells, which stay where they are when sums are given away."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from flashmm.cells.groups import N_CELLS, GroupStatistics
from flashmm.options import InputError, note


def check_minimum(minimum_cells: int | None, whole: bool = True) -> None:
    """Raise an InputError for a minimum that is no number of cells, or of parts of groups.

    Parameters
    ----------
    minimum_cells : int or None
        None withholds nothing.
    whole : bool
        Whether the groups have all of their cells; those of a range of a file do not.
    """
    if minimum_cells is None:
        return
    if minimum_cells < 1:
        raise InputError(f"minimum_cells={minimum_cells} is below 1.")
    if not whole:
        raise InputError(
            "minimum_cells: a range of the cells (cells, shard) holds parts of groups. Merge the "
            "ranges first, then withhold: write_groups(merged, path, minimum_cells=...)."
        )


def without_small_groups(groups: GroupStatistics, minimum_cells: int) -> GroupStatistics:
    """Leave out groups of fewer cells, and note how many there were.

    Parameters
    ----------
    groups : GroupStatistics
        Of whole groups.
    minimum_cells : int
        The fewest cells of a group that stays; 1 or more.

    Returns
    -------
    GroupStatistics
        Without the sums, names and levels of the groups that are withheld; the note has their
        number and that of their cells only.

    Raises
    ------
    InputError
        No group has so many cells.
    """
    check_minimum(minimum_cells)
    n_cells = groups.obs[N_CELLS].to_numpy()
    kept = n_cells >= minimum_cells
    if not kept.any():
        raise InputError(
            f"minimum_cells={minimum_cells}: no group has so many cells, the largest has "
            f"{n_cells.max():g}. Summarise by fewer columns, or ask for fewer cells."
        )
    if kept.all():
        return groups
    text = note(
        f"{np.count_nonzero(~kept)} of {groups.n_groups} groups are withheld, with "
        f"{n_cells[~kept].sum():g} of {groups.n_cells} cells: they have fewer than "
        f"{minimum_cells} cells each."
    )
    return replace(groups.subset(kept), notes=(*groups.notes, text))
