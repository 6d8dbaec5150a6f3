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


def holm(log10_p: np.ndarray) -> np.ndarray:
    """Holm's adjusted p-values of each row of (genes, tests), on a log scale; NaN stay NaN."""
    m = np.isfinite(log10_p).sum(1, keepdims=True)
    order = np.argsort(np.where(np.isnan(log10_p), np.inf, log10_p), axis=1, kind="stable")
    rising = np.take_along_axis(log10_p, order, axis=1)
    # max over i <= j of (m - i + 1) p_(i)
    left = np.maximum(m - np.arange(log10_p.shape[1]), 1)
    stepped = np.minimum(np.maximum.accumulate(rising + np.log10(left), axis=1), 0.0)
    adjusted = np.empty_like(log10_p)
    np.put_along_axis(adjusted, order, stepped, axis=1)
    return np.where(np.isnan(log10_p), np.nan, adjusted)


def adjust_columns(p: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg adjusted p-values of every column of (genes, tests)."""
    return np.column_stack([adjust_p_values(column) for column in p.T])
