"""P-values adjusted for the number of tests."""

from __future__ import annotations

import numpy as np
from statsmodels.stats.multitest import multipletests


def adjust_p_values(p: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg adjusted p-values.

    Parameters
    ----------
    p : (tests,) array
        p-values; NaN are left out of the number of tests and stay NaN.

    Returns
    -------
    (tests,) array
        Adjusted p-values.
    """
    adjusted = np.full(len(p), np.nan)
    fine = np.isfinite(p)
    if fine.any():
        adjusted[fine] = multipletests(p[fine], method="fdr_bh")[1]
    return adjusted


def adjust_columns(p: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg adjusted p-values of every column of (genes, tests)."""
    return np.column_stack([adjust_p_values(column) for column in p.T])
