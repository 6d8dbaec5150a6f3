"""Ranks and row spaces of designs over groups: what can be estimated from them."""

from __future__ import annotations

import numpy as np

# Singular values below this part of the largest, and weights below this part of theirs, are zero.
NOTHING = 1e-9


def centred(X: np.ndarray, subject: np.ndarray) -> np.ndarray:
    """X minus its mean over the groups of each subject."""
    codes = np.unique(subject, return_inverse=True)[1]
    sums = np.zeros((codes.max() + 1, X.shape[1]))
    np.add.at(sums, codes, X)
    return X - (sums / np.bincount(codes)[:, None])[codes]


def rank(X: np.ndarray, scale: np.ndarray | None = None) -> int:
    """Rank with columns at the length that those of `scale` have."""
    length = np.sqrt(((X if scale is None else scale) ** 2).sum(0))
    values = np.linalg.svd(triangle(X[:, length > 0] / length[length > 0]), compute_uv=False)
    return int((values > NOTHING).sum())


def triangle(X: np.ndarray) -> np.ndarray:
    """R of X = QR, which has the rows' span and the singular values of X."""
    return np.asarray(np.linalg.qr(X, mode="r")) if len(X) > X.shape[1] else X


def overlap(rows: np.ndarray, space: np.ndarray) -> bool:
    """Whether a combination of rows lies in the span of orthonormal rows."""
    if len(rows) == 1:  # the only cosine is a length
        length = float(np.linalg.norm(rows))
        return length > 0 and bool(np.linalg.norm(rows @ space.T) > (1 - NOTHING) * length)
    cosines = np.linalg.svd(row_space(rows) @ space.T, compute_uv=False)
    return bool((cosines > 1 - NOTHING).any())


def row_space(X: np.ndarray) -> np.ndarray:
    """Orthonormal rows that span the rows of X."""
    _, values, vectors = np.linalg.svd(triangle(X), full_matrices=False)
    return vectors[values > NOTHING * max(values.max(initial=0.0), 1.0)]
