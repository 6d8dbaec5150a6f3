"""What statistics of groups have to be, so that cells can have made them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from flashmm.cells.groups import N_CELLS, OF_COUNTS, GroupStatistics, moment_names
from flashmm.cells.transforms import TRANSFORMS
from flashmm.names import listed
from flashmm.options import InputError

# Sums and numbers that cannot be negative, whatever the values of the cells.
_FROM_ZERO = (N_CELLS, "sumsq", *OF_COUNTS)


def check_groups(groups: GroupStatistics, name: str) -> None:
    """Raise an InputError for sums that no cells can have, or groups or genes that come twice.

    Parameters
    ----------
    groups : GroupStatistics
        With its sums.
    name : str
        What messages call it.
    """
    check_header(groups, name)
    for what, values in groups.gene_sums().items():
        _check_values(values, what, name)


def check_header(groups: GroupStatistics, name: str) -> None:
    """Check all but the sums of the genes, as `check_groups` does."""
    if groups.transform not in TRANSFORMS:
        raise InputError(
            f"{name}: no transform is called '{groups.transform}'; there are {listed(TRANSFORMS)}."
        )
    names = groups.obs.index
    _check_unique(groups.obs.duplicated(list(groups.by)).to_numpy(), names, "groups", name)
    _check_unique(groups.genes.duplicated(), groups.genes, "genes", name)
    for moment in moment_names(groups.covariates):
        _check_values(groups.obs[moment].to_numpy(dtype=np.float64)[:, None], moment, name)
    n_cells = groups.obs[N_CELLS].to_numpy()
    if (n_cells != np.floor(n_cells)).any():
        raise InputError(f"{name}: '{N_CELLS}' holds values that are no whole numbers.")


def _check_unique(twice: np.ndarray, names: pd.Index, what: str, name: str) -> None:
    if twice.any():
        raise InputError(
            f"{name}: {np.count_nonzero(twice)} {what} come more than once: "
            f"{listed(map(str, names[twice]), 3)}."
        )


def _check_values(values: np.ndarray, what: str, name: str) -> None:
    """Raise an InputError unless all are finite, and none negative of what counts or is squared."""
    for row in values:
        if not np.isfinite(row).all():
            raise InputError(f"{name}: '{what}' holds values that are missing or infinite.")
        if what in _FROM_ZERO and (row < 0).any():
            raise InputError(f"{name}: '{what}' holds values below zero, which no cells have.")
