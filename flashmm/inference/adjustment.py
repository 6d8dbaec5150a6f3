"""P-values adjusted for the number of tests."""

from __future__ import annotations

import numpy as np


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
    fine = np.flatnonzero(np.isfinite(p))
    falling = fine[np.argsort(p[fine])][::-1]  # equal ones get one value in any order
    share = np.arange(len(fine), 0, -1) / max(len(fine), 1)
    # of the i-th smallest of m: min over j >= i of m p_(j) / j
    adjusted[falling] = np.minimum(np.minimum.accumulate(p[falling] / share), 1.0)
    return adjusted


def adjust_columns(p: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg adjusted p-values of every column of (genes, tests)."""
    return np.column_stack([adjust_p_values(column) for column in p.T])
