"""Cells taken as replicates: the Wilcoxon rank-sum test, the first that is tried on single cells.

The control that must fail for effects between subjects, as `baselines.pooled_tests`.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from flashmm.benchmark.comparison import Comparison
from flashmm.cells.sparse_counts import SparseCounts
from flashmm.inference.table import adjust_p_values
from flashmm.options import Status

# Values of cells × genes that are dense at one time.
_BLOCK = 2**24
_PER = 1e4


def wilcoxon_tests(cells: SparseCounts, asked: Comparison) -> pd.DataFrame:
    """Compare the cells of two levels by their ranks, in each cell type.

    Parameters
    ----------
    cells : SparseCounts
        Counts, with the columns of the comparison and library sizes.
    asked : Comparison
        Each level is compared with the first.

    Returns
    -------
    DataFrame
        `gene`, the cell type, `contrast`, `estimate` (the difference of mean log₂(1 + counts per
        10,000)), `p_value` and the other columns of a table of tests.

    Notes
    -----
    Mann and Whitney 1947, normal approximation with the correction for ties, of log-normalised
    counts; as scanpy's and Seurat's default test.
    """
    factor = cells.obs[asked.factor].astype(str).to_numpy()
    types = None if asked.cell_type is None else cells.obs[asked.cell_type].astype(str).to_numpy()
    size = cells.obs["libsize"].to_numpy(dtype=float)
    scaled = sparse.diags(_PER / size) @ cells.values
    parts = []
    for level, contrast in zip(asked.levels[1:], asked.contrasts, strict=True):
        for name in asked.types:
            here = np.ones(len(factor), bool) if types is None else types == name
            low, high = (scaled[here & (factor == side)] for side in (asked.levels[0], level))
            frame = _frame(cells.genes, contrast, _ranked(low.tocsc(), high.tocsc()))
            if asked.cell_type is not None:
                frame.insert(1, asked.cell_type, name)
            parts.append(frame)
    return pd.concat(parts, ignore_index=True)


def _ranked(low: sparse.csc_matrix, high: sparse.csc_matrix) -> dict[str, np.ndarray]:
    """Differences of means and p-values of all genes, some of them dense at a time."""
    n, n_genes = low.shape[0] + high.shape[0], low.shape[1]
    nothing = np.full(n_genes, np.nan)
    if not low.shape[0] or not high.shape[0]:
        return {"estimate": nothing, "p": nothing}
    step = max(_BLOCK // n, 1)
    parts = [_block(low, high, slice(i, i + step)) for i in range(0, n_genes, step)]
    return {key: np.concatenate([part[key] for part in parts]) for key in ("estimate", "p")}


def _block(low: sparse.csc_matrix, high: sparse.csc_matrix, genes: slice) -> dict[str, Any]:
    from scipy import stats

    x, y = (np.log2(1 + side[:, genes].toarray()) for side in (high, low))
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        # genes without a count are all ties
        warnings.simplefilter("ignore", RuntimeWarning)
        p = stats.mannwhitneyu(x, y, axis=0, method="asymptotic").pvalue
    p = np.where((x == x[0]).all(0) & (y == x[0]).all(0), np.nan, p)
    return {"estimate": x.mean(0) - y.mean(0), "p": p}


def _frame(genes: pd.Index, contrast: str, test: dict[str, np.ndarray]) -> pd.DataFrame:
    p = test["p"]
    with np.errstate(divide="ignore"):
        log10_p = np.log10(p)
    return pd.DataFrame(
        {
            "gene": np.asarray(genes, dtype=object),
            "contrast": contrast,
            "estimate": test["estimate"],
            "p_value": p,
            "log10_p": log10_p,
            "adj_p_value": adjust_p_values(p),
            "status": np.where(np.isnan(p), str(Status.NOT_ESTIMABLE), str(Status.OK)),
        }
    )
