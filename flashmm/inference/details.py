"""What tests rest on: fold changes of the counts, and who was compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from flashmm.design.contrasts import Contrast
from flashmm.inference.fold_changes import fold_changes
from flashmm.inference.model_fit import ModelFit
from flashmm.within import FitsWithin

# Columns of text; what is missing there is empty, not NaN.
_TEXT = ("comparison",)


def detail_columns(
    tested: ModelFit | FitsWithin,
    contrasts: Sequence[Contrast],
    levels: Sequence[str],
    options: Mapping[str, Any],
) -> dict[str, np.ndarray]:
    """Columns beside tests, contrasts one after another, genes in their order.

    Parameters
    ----------
    tested : ModelFit or FitsWithin
        The fit that was tested.
    contrasts : sequence of Contrast
        Of all levels, one after another.
    levels : sequence of str
        (contrasts,) The level of each; empty where there is one model.
    options : mapping
        `level` and `shrink` of `fold_changes`.

    Returns
    -------
    dict of str to (contrasts · genes,) array
        Those of `FoldChanges.columns`; what a level does not have is NaN there.
    """
    if not isinstance(tested, FitsWithin):
        return fold_changes(tested, tuple(contrasts), **options).columns()
    parts = []
    for name in tested.levels:
        own = tuple(c for c, level in zip(contrasts, levels, strict=True) if level == name)
        parts.append(_of_level(tested, name, own, options))
    whole = pd.concat(parts, ignore_index=True)
    for text in _TEXT:
        whole[text] = whole[text].fillna("")
    return {str(name): whole[name].to_numpy() for name in whole}


def _of_level(
    fits: FitsWithin, level: str, contrasts: tuple[Contrast, ...], options: Mapping[str, Any]
) -> pd.DataFrame:
    """Columns of one level; rows without columns where it has no fit or no such contrast."""
    fit = fits.fits.get(level)
    if fit is None or any(c.matrix.shape[1] != len(fit.coefficients) for c in contrasts):
        return pd.DataFrame(index=range(len(contrasts) * len(fits.genes)))
    return pd.DataFrame(fold_changes(fit, contrasts, **options).columns())
