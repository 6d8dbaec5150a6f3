"""PyDESeq2 on the added counts of subjects; the package comes with the extra `peers`."""

from __future__ import annotations

import warnings
from importlib import import_module, util

import numpy as np
import pandas as pd

from flashmm.benchmark.comparison import CELL_TYPE, CONDITION, SUBJECT, Comparison, groups_files
from flashmm.cells.groups import GroupStatistics
from flashmm.inference.table import adjust_p_values
from flashmm.kernels.expression_filter import expressed
from flashmm.options import DesignError, Status, UnavailableError


def pydeseq2_tests(groups: GroupStatistics, asked: Comparison) -> pd.DataFrame:
    """Wald tests of PyDESeq2 in each cell type, without its independent filtering.

    Parameters
    ----------
    groups : GroupStatistics
        With counts.
    asked : Comparison
        Each level is compared with the first; paired subjects have an effect each.

    Returns
    -------
    DataFrame
        As of `cell_level.wilcoxon_tests`; `estimate` is the log₂ fold change. Genes that are rare
        in a cell type, as for `fit_within`, have the status "low_expression".

    Raises
    ------
    UnavailableError
        PyDESeq2 is not installed.
    DesignError
        No cell type has two samples of two levels.

    Notes
    -----
    Muzellec et al. 2023, Bioinformatics 39:btad547; the method of Love et al. 2014.
    """
    if util.find_spec("pydeseq2") is None:
        raise UnavailableError("PyDESeq2 is not installed; pip install 'flashmm[peers]' has it.")
    files = groups_files(groups, asked)
    counts, samples = files["counts"].set_index("gene").T, files["groups"].set_index("group")
    parts = []
    for name in asked.types:
        here = samples[samples[CELL_TYPE] == name]
        if _comparable(here, asked):
            parts += _tests_of_type(counts.loc[here.index], here, asked, name)
    if not parts:
        raise DesignError("No cell type has two samples of each level.")
    return pd.concat(parts, ignore_index=True)


def _comparable(samples: pd.DataFrame, asked: Comparison) -> bool:
    sizes = samples[CONDITION].value_counts()
    return all(sizes.get(level, 0) >= 2 for level in asked.levels)


def _tests_of_type(
    counts: pd.DataFrame, samples: pd.DataFrame, asked: Comparison, name: str
) -> list[pd.DataFrame]:
    dds, ds = import_module("pydeseq2.dds"), import_module("pydeseq2.ds")
    smallest = int(samples[CONDITION].value_counts().min())
    kept = expressed(counts.to_numpy(), smallest)
    sheet = samples[[SUBJECT, CONDITION, *asked.adjust]].copy()
    # the first category is the reference; names of levels stay out of PyDESeq2's formulas
    sheet[CONDITION] = [f"level{asked.levels.index(level)}" for level in sheet[CONDITION]]
    terms = [*asked.adjust, *([SUBJECT] if asked.paired else []), CONDITION]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = dds.DeseqDataSet(
            counts=counts.loc[:, kept],
            metadata=sheet,
            design="~ " + " + ".join(terms),
            n_cpus=1,
            quiet=True,
        )
        data.deseq2()
        parts = []
        for i, contrast in enumerate(asked.contrasts, start=1):
            test = ds.DeseqStats(
                data,
                contrast=[CONDITION, f"level{i}", "level0"],
                independent_filter=False,
                n_cpus=1,
                quiet=True,
            )
            test.summary()
            parts.append(_frame(counts.columns, test.results_df, asked, contrast, name))
    return parts


def _frame(
    genes: pd.Index, found: pd.DataFrame, asked: Comparison, contrast: str, name: str
) -> pd.DataFrame:
    """Tests of all genes of a cell type; those that were left out have none."""
    found = found.reindex(genes)
    p = found["pvalue"].to_numpy(dtype=float)
    with np.errstate(divide="ignore"):
        log10_p = np.log10(p)
    absent = found["baseMean"].isna().to_numpy()
    missing = np.where(absent, str(Status.LOW_EXPRESSION), str(Status.NOT_ESTIMABLE))
    frame = pd.DataFrame(
        {
            "gene": np.asarray(genes, dtype=object),
            "contrast": contrast,
            "estimate": found["log2FoldChange"].to_numpy(dtype=float),
            "std_error": found["lfcSE"].to_numpy(dtype=float),
            "statistic": found["stat"].to_numpy(dtype=float),
            "p_value": p,
            "log10_p": log10_p,
            "adj_p_value": adjust_p_values(p),
            "status": np.where(np.isnan(p), missing, str(Status.OK)),
        }
    )
    if asked.cell_type is not None:
        frame.insert(1, asked.cell_type, name)
    return frame
