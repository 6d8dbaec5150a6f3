"""One number per gene and test, for programs that look for sets of genes and their regulators."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from flashmm.inference.table import TestTable
from flashmm.io.tables import write_text
from flashmm.kernels.gene_sets import normal_scores
from flashmm.options import InputError, checked
from flashmm.storage.files import PathLike

KINDS = ("z", "t", "estimate")


@checked
def scores(table: TestTable, kind: str = "z", missing: float | None = 0.0) -> pd.DataFrame:
    """Matrix of tests × genes, as decoupler takes it (`mat`).

    Parameters
    ----------
    kind : {"z", "t", "estimate"}
        "z": the normal quantile of the p-value with the sign of the estimate, which is comparable
        between tests of different degrees of freedom; "t": the statistic; "estimate".
    missing : float or None
        What genes without a test have there; None leaves NaN, which decoupler does not take. Genes
        without any test are left out.

    Returns
    -------
    pandas.DataFrame
        (tests, genes); a test is named by its contrast, its level where each has one contrast, or
        "level, contrast".

    Raises
    ------
    InputError
        An unknown kind, joint tests, or one-sided ones.
    """
    if kind not in KINDS:
        raise InputError(f"kind must be one of {', '.join(KINDS)}; found {kind!r}.")
    if (table.df_num > 1).any():
        raise InputError("Joint tests have no direction: give a table of single contrasts.")
    if kind == "z" and (table.alternative != "two-sided" or table.lfc > 0):
        raise InputError("kind='z' is for two-sided tests of no effect; take kind='t'.")
    values = {
        "z": lambda: normal_scores(table.log10_p, np.sign(table.estimate)),
        "t": lambda: table.statistic,
        "estimate": lambda: table.estimate,
    }[kind]()
    values = np.where(np.isfinite(table.p_value), values, np.nan)
    frame = pd.DataFrame(values.T, index=_names(table), columns=table.genes)
    frame = frame.loc[:, frame.notna().any()]
    return frame if missing is None else frame.fillna(missing)


def _names(table: TestTable) -> list[str]:
    """Names of the tests, as short as they can be."""
    if table.within is None:
        return list(table.contrast_names)
    if len(set(table.contrast_names)) == 1:
        return list(table.levels)
    return [f"{a}, {b}" for a, b in zip(table.levels, table.contrast_names, strict=True)]


@checked
def write_ranks(table: TestTable, folder: PathLike, kind: str = "z") -> list[Path]:
    """Write a ranked list of genes for each test, ``.rnk``, as fgsea and GSEA read them.

    Parameters
    ----------
    folder : path
        Where to write; it is made if it is not there.
    kind : {"z", "t", "estimate"}
        As in `scores`.

    Returns
    -------
    list of Path
        A file for each test with genes: names and scores, tab-separated, largest first, without a
        header; genes without a test are left out.

    Raises
    ------
    InputError
        As `scores`; two tests with the same name of a file.
    """
    frame, target = scores(table, kind, missing=None), Path(folder)
    files = [re.sub(r"[^\w.+-]+", "_", str(name)).strip("_") + ".rnk" for name in frame.index]
    if len(set(files)) < len(files):
        raise InputError(f"Two tests would be written to the same file: {sorted(files)}.")
    if target.exists() and not target.is_dir():
        raise InputError(f"folder: '{target}' is a file; give the name of a folder.")
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for file, (_, row) in zip(files, frame.iterrows(), strict=True):
        ranked = row.dropna().sort_values(ascending=False, kind="stable")
        if len(ranked):
            write_text(ranked.reset_index(), target / file, header=False)
            written.append(target / file)
    return written
