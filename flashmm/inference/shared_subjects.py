"""Correlation of the estimates of separate models whose cells come from the same subjects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from flashmm.inference.influence import some_genes
from flashmm.inference.jackknife import estimates_without
from flashmm.inference.subjects import independent_subjects
from flashmm.inference.table import TestTable
from flashmm.lmm import LMMFit
from flashmm.options import InputError
from flashmm.within import FitsWithin

# More genes make the mean over genes no better that matters.
MOST_GENES = 1000


class _Changes(NamedTuple):
    """What leaving out each subject changes in an estimate: names, and (subjects, genes)."""

    subjects: pd.Index
    change: np.ndarray


def error_correlation(table: TestTable, columns: Sequence[int]) -> np.ndarray | None:
    """Mean correlation over the genes of the errors of estimates of separate models.

    Parameters
    ----------
    table : TestTable
        Tests of `fit_within`.
    columns : sequence of int
        Single contrasts, each of another level.

    Returns
    -------
    (columns, columns) array or None
        None where the subjects behind the fits are not known.

    Notes
    -----
    A subject that is left out changes the estimates of all models that have it. The sums over
    subjects of the products of these changes are the covariances of the estimates, for models that
    know nothing of each other (Pipper, Ritz & Bisgaard 2012, J. R. Stat. Soc. C 61:315, by the
    jackknife). That of one gene rests on few subjects, so the correlations are averaged over up
    to 1,000 genes. Models without a common subject have zero.
    """
    fits = table.tested
    if not isinstance(fits, FitsWithin):
        return None
    tested = np.flatnonzero(np.isfinite(table.std_error[:, columns]).sum(1) > 1)
    genes = tested[np.unique(np.linspace(0, len(tested) - 1, MOST_GENES).astype(int))]
    try:
        found = [_changes(fits, table, j, genes) for j in columns if len(genes)]
    except InputError:  # no groups, or terms that cross the subjects
        return None
    correlation = np.eye(len(columns))
    for a, first in enumerate(found):
        for b, second in enumerate(found[:a]):
            correlation[a, b] = correlation[b, a] = _mean_correlation(first, second)
    return correlation


def _changes(fits: FitsWithin, table: TestTable, column: int, genes: np.ndarray) -> _Changes:
    """Changes of one contrast of some genes; NaN where there is no estimate without a subject."""
    fit = fits.fits.get(table.levels[column])
    if not isinstance(fit, LMMFit):
        return _Changes(pd.Index([]), np.zeros((0, len(genes))))
    subjects = independent_subjects(fit.stats)
    rows = table.contrasts[column].matrix
    without = estimates_without(some_genes(fit, genes), subjects, rows, refits=False)
    estimates = np.array([estimate[:, 0] for estimate, _ in without])
    return _Changes(subjects.names, estimates - table.estimate[genes, column])


def _mean_correlation(first: _Changes, second: _Changes) -> float:
    """Mean over genes of the correlation of the changes by the subjects of both."""
    common = first.subjects.intersection(second.subjects)
    a, b = (np.nan_to_num(part.change) for part in (first, second))
    shared = a[first.subjects.get_indexer(common)] * b[second.subjects.get_indexer(common)]
    size = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    fine = size > 0
    return float((shared.sum(0)[fine] / size[fine]).mean()) if fine.any() else 0.0
