"""Which genes have counts enough for a test, judged without a look at any condition.

A gene is kept where, over the samples (the subjects' pseudobulks of one cell type),

    Σ_s y_s >= 15        and        #{s : y_s > 0} >= min(smallest group of samples, 5).

The first is the second half of edgeR's `filterByExpr` (Chen, Lun & Smyth 2016, F1000Research
5:1438). Its first half asks for ten counts per median library in as many samples as the smallest
group has; a mixed model of cells needs fewer, and only asks that the counts come from as many
samples: a gene that is off in one condition is still on in all samples of the other. Sizes of the
groups are used, never which sample belongs to which, so the filter is independent of any effect.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray

# Counts in all samples together, and the most samples with counts that are asked for.
MIN_TOTAL = 15.0
MOST_SAMPLES = 5


def expressed(
    counts: Array, smallest: int, min_total: float = MIN_TOTAL, most: int = MOST_SAMPLES
) -> Array:
    """Genes with enough counts in enough samples.

    Parameters
    ----------
    counts : (samples, genes) array
        Raw counts.
    smallest : int
        Number of samples in the smallest of the groups that are compared.
    min_total : float
        Counts that a gene needs in all samples together.
    most : int
        Samples with counts that a gene needs at most, however large the groups are.

    Returns
    -------
    (genes,) bool array
    """
    enough = counts.sum(axis=0) >= min_total
    return enough & (np.count_nonzero(counts, axis=0) >= min(smallest, most))
