"""Estimated effects beside the simulated ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from flashmm.benchmark.truth import contrast_cell_types


def true_and_estimated(
    table: pd.DataFrame, truth: pd.DataFrame, cell_type: str = "cell_type"
) -> pd.DataFrame:
    """Pair the estimates of one method with the true effects.

    Parameters
    ----------
    table : DataFrame
        Tests with `gene, contrast` and `log2_fc` or `estimate`, one row per gene and contrast, or
        per cell type where a column named as `cell_type` says so.
    truth : DataFrame
        `gene, cell_type, log_fc` (natural log) of the pairs with an effect.
    cell_type : str
        Name of the column.

    Returns
    -------
    DataFrame
        `gene, cell_type, true` (log₂ fold change) and `estimate` (log₂ fold change where the table
        has it); pairs without an estimate are left out.
    """
    name = next((name for name in ("log2_fc", "estimate") if name in table), None)
    empty = pd.DataFrame(columns=["gene", "cell_type", "true", "estimate"])
    if name is None or truth.empty:
        return empty
    tests = pd.DataFrame({"gene": table["gene"].astype(str), "estimate": table[name]})
    if cell_type in table:
        tests["cell_type"] = table[cell_type].astype(str).to_numpy()
    else:
        types = contrast_cell_types(
            table["contrast"].unique(), truth["cell_type"].unique(), cell_type=cell_type
        )
        tests["cell_type"] = table["contrast"].map(types).to_numpy()
    wanted = truth[["gene", "cell_type", "log_fc"]].astype({"gene": str, "cell_type": str})
    pairs = wanted.merge(tests.dropna(), on=["gene", "cell_type"])
    pairs["true"] = pairs["log_fc"] / np.log(2)
    return pairs[list(empty.columns)]


def effect_agreement(pairs: pd.DataFrame) -> dict[str, Any]:
    """Say in numbers how estimates follow true effects.

    Parameters
    ----------
    pairs : DataFrame
        Of `true_and_estimated`.

    Returns
    -------
    dict
        Words to numbers: pairs, correlation, slope of the regression through zero, and the share of
        right signs.
    """
    true, estimate = pairs["true"].to_numpy(), pairs["estimate"].to_numpy()
    varied = len(pairs) > 1 and np.ptp(true) > 0 and np.ptp(estimate) > 0
    return {
        "Effects": len(pairs),
        "Correlation": float(np.corrcoef(true, estimate)[0, 1]) if varied else np.nan,
        # slope of y = b x: Σxy / Σx²
        "Slope": float(true @ estimate / (true @ true)) if len(pairs) else np.nan,
        "Right sign": float(np.mean(np.sign(true) == np.sign(estimate))) if len(pairs) else np.nan,
    }
