"""Ranks of scores, and how well they tell true effects from none: the ROC curve and its areas."""

from __future__ import annotations

import numpy as np


def average_ranks(score: np.ndarray) -> np.ndarray:
    """Rank of each score from 1, ties sharing their average; an infinite score is a score."""
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - (count - 1) / 2)[place])


def roc_curve(de: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates as ever lower scores are called, from (0, 0) to (1, 1).

    Parameters
    ----------
    de : (tests,) bool array
        Whether the effect is true; of some tests, and not of all.
    score : (tests,) array
        Larger ones are called first, tied ones together. Points on a line between their neighbours
        are left out.

    Returns
    -------
    tuple of arrays
        (points,) rates of false and of true positives.
    """
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    true = np.cumsum(de[order])[last]
    false = last + 1 - true
    corner = np.ones(len(last), dtype=bool)
    corner[1:-1] = (np.diff(false, 2) != 0) | (np.diff(true, 2) != 0)
    return (
        np.append(0, false[corner]) / false[-1],
        np.append(0, true[corner]) / true[-1],
    )


def area_under_roc(de: np.ndarray, score: np.ndarray) -> float:
    """Probability that a true effect has a higher score than none, ties counting half."""
    n_true, n_false = int(de.sum()), int((~de).sum())
    # Mann and Whitney: (Σ ranks of true effects - n (n + 1) / 2) / (n · number of others)
    above = average_ranks(score)[de].sum() - n_true * (n_true + 1) / 2
    return float(above / (n_true * n_false))


def partial_area(de: np.ndarray, score: np.ndarray, most: float) -> float:
    """Area under the curve up to a false positive rate, scaled so that chance is a half.

    Source: McClish, Medical Decision Making 9 (1989) 190-195: with A the area up to m,
    (1 + (A - m²/2) / (m - m²/2)) / 2.
    """
    fpr, tpr = roc_curve(de, score)
    inside = np.searchsorted(fpr, most, side="right")
    x = np.append(fpr[:inside], most)
    y = np.append(tpr[:inside], np.interp(most, fpr, tpr))
    area, chance = float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2)), most**2 / 2
    return 0.5 * (1 + (area - chance) / (most - chance))
