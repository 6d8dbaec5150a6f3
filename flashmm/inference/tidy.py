"""Tidy columns: results of all genes as one long frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd


def tidy(
    genes: pd.Index,
    labels: Mapping[str, Sequence[Any]],
    columns: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Columns of a frame with a row per label and gene: labels one after another, genes in order.

    Parameters
    ----------
    genes : pandas.Index
        Names of the genes.
    labels : mapping of str to sequence
        What the second axis of the arrays is, as one column or several, (labels,) each.
    columns : mapping of str to array
        Of the shape (genes, labels), or (labels,) for what all genes share.

    Returns
    -------
    dict of str to array
        `gene`, the labels, the columns, in this order.
    """
    size = len(genes)
    found = {"gene": np.tile(np.asarray(genes, dtype=object), len(next(iter(labels.values()))))}
    found |= {
        name: np.repeat(np.array(list(values), dtype=object), size)
        for name, values in labels.items()
    }
    for name, values in columns.items():
        found[name] = np.repeat(values, size) if values.ndim == 1 else values.T.ravel()
    return found
