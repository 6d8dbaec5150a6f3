"""The whole path in one call, for a notebook: cells -> groups -> statistics -> fit -> tests."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

import anndata
import pandas as pd

from flashmm.cells.summary import summarise
from flashmm.design.from_groups import summary_statistics
from flashmm.formulas import Factor, Term, call_name, read_model
from flashmm.inference.table import TestTable
from flashmm.inference.testing import contrast_tests
from flashmm.lmm import fit_lmm

# Functions whose result, on a cell-level column, follows from the stored sums of their argument.
STANDARDISING = ("scale", "center")


def de(
    adata: anndata.AnnData,
    formula: str,
    contrasts: Any = None,
    *,
    random: Sequence[str] | None = None,
    transform: str = "log2p1",
    layer: str | None = None,
    libsize: str = "libsize",
    method: str = "REML",
    ddf: str | None = None,
    alternative: str = "two-sided",
    level: float = 0.95,
    lfc: float = 0.0,
    moderate: bool = False,
) -> TestTable:
    """Test differential expression between groups of subjects.

    Parameters
    ----------
    adata : AnnData (cells, genes)
        Counts in `X` or a layer; the columns that the formula names in `obs`.
    formula : str
        One-sided formula; random terms in bars, such as ``(1|subject)``, or in `random`.
    contrasts : optional
        What to test, as in `contrast_tests`; None tests every coefficient.
    random : sequence of str, optional
        Random terms, where the formula has no bars.
    transform, layer, libsize
        As in `summarise`.
    method : {"REML", "ML"}
        Restricted or full maximum likelihood.
    ddf, alternative, level, lfc, moderate
        As in `contrast_tests`.

    Returns
    -------
    TestTable
        ``.to_frame()`` is tidy.

    Raises
    ------
    FlashmmError
        As of the steps: `summarise`, `summary_statistics`, `fit_lmm`, `contrast_tests`.

    Notes
    -----
    Numeric columns that vary between the cells of a subject are read as covariates, all other
    columns define the groups. For other formulas on the same cells, `summarise` once and go on
    from the groups.
    """
    by, covariates = split_columns(adata.obs, formula, random)
    groups = summarise(
        adata, by=by, covariates=covariates, transform=transform, layer=layer, libsize=libsize
    )
    fit = fit_lmm(summary_statistics(groups, formula, random), method=method)
    return contrast_tests(fit, contrasts, ddf, alternative, level=level, lfc=lfc, moderate=moderate)


def split_columns(
    obs: pd.DataFrame, formula: str, random: Sequence[str] | None = None
) -> tuple[list[str], list[str]]:
    """Columns that define groups, and covariates to store, for a model on these cells.

    Parameters
    ----------
    obs : DataFrame (cells, columns)
        The sheet of cells.
    formula, random
        The model.

    Returns
    -------
    by : list of str
        Grouping columns, those of the random terms first.
    covariates : list of str
        Expressions over numeric columns that vary within the first random grouping, and over
        columns that obs lacks (the library size is counted).
    """
    terms, random_terms = read_model(formula, random)
    by = [column for term in random_terms for column in term.columns]
    subject = list(random_terms[0].columns)
    varying = {c for term in _all_terms(terms, random_terms) for f in term for c in f.columns}
    varying = {column for column in varying if _varies_within(obs, column, subject)}
    covariates: list[str] = []
    for term in _all_terms(terms, random_terms):
        cell_level = [f for f in term if f.columns & varying]
        by += [c for f in term if f not in cell_level for c in sorted(f.columns)]
        if cell_level:
            covariates.append(":".join(_stored(factor) for factor in cell_level))
    return list(dict.fromkeys(by)), list(dict.fromkeys(covariates))


def _all_terms(terms: list[Term], random_terms: list[Any]) -> list[Term]:
    return terms + [slope for term in random_terms for slope in term.slopes]


def _varies_within(obs: pd.DataFrame, column: str, subject: list[str]) -> bool:
    """Whether a column is a number of the cell rather than a property of its subject."""
    if column not in obs.columns or not set(subject) <= set(obs.columns):
        return column not in obs.columns
    values = obs[column]
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        return False
    return bool((obs.groupby(subject, observed=True)[column].nunique() > 1).any())


def _stored(factor: Factor) -> str:
    """The covariate behind a factor: the argument of scale() or center(), else itself."""
    node = factor.node
    if isinstance(node, ast.Call) and call_name(node) in STANDARDISING:
        return ast.unparse(node.args[0])
    return factor.name
