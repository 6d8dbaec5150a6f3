"""The whole path in one call, for a notebook: cells -> groups -> statistics -> fit -> tests."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import anndata
import pandas as pd

from flashmm.cells.counts import open_counts
from flashmm.cells.groups import GroupStatistics, align_tables
from flashmm.cells.sheet import Sheet, sheets_of
from flashmm.cells.summary import Data, summarise
from flashmm.design.differences import is_factor
from flashmm.design.from_groups import summary_statistics
from flashmm.formulas import DATA_DEPENDENT, Factor, Term, call_name, called, read_model
from flashmm.inference.table import TestTable
from flashmm.inference.testing import contrast_tests
from flashmm.kernels.expression_filter import MIN_TOTAL
from flashmm.lmm import fit_lmm
from flashmm.names import listed
from flashmm.options import FormulaError, InputError, checked, note
from flashmm.within import SIZE_FACTORS, check_min_counts, fit_within, without_rare_genes

# Functions whose result, on a cell-level column, follows from the stored sums of their argument.
STANDARDISING = ("scale", "center")
# A column of at most so many distinct whole numbers, each with so many cells in a random grouping,
# defines groups of cells though it varies within the grouping.
FEW_NUMBERS = 12
FEW_CELLS = 5


@checked
def de(
    data: Data | Sequence[Data],
    formula: str,
    contrasts: Any = None,
    *,
    within: str | None = None,
    random: Sequence[str] | None = None,
    transform: str = "log2p1",
    obs: Sheet | Sequence[Sheet] | None = None,
    layer: str | None = None,
    gene_names: str | None = None,
    duplicate_genes: str | None = None,
    libsize: str = "libsize",
    missing: str = "error",
    chunk_nnz: int | None = None,
    progress: bool | None = None,
    size_factors: Any = "auto",
    min_counts: float | None = MIN_TOTAL,
    reference: Mapping[str, Any] | None = None,
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
    data : AnnData (cells, genes), path, or several of them
        Counts in `X` or a layer, and the columns that the formula names in `obs`; the path is that
        of an `.h5ad` file, a zarr store, or a `.h5` file or folder of 10x, as in `summarise`.
    formula : str
        One-sided formula; random terms in bars, such as ``(1|subject)``, or in `random`.
    contrasts : optional
        What to test, as in `contrast_tests`; None tests every coefficient.
    within : str, optional
        A column such as "cell_type", each level of which has a model of its own: the recommended
        way to effects within cell types, as `fit_within`. The formula does not name the column.
    random : sequence of str, optional
        Random terms, where the formula has no bars.
    transform, obs, layer, gene_names, duplicate_genes, libsize, missing, chunk_nnz, progress
        As in `summarise`.
    size_factors : {"auto", "tmm", "total"}, column, pandas.Series, array or None
        As in `summary_statistics`; "auto" is that of `fit_within` with `within` where there are raw
        counts, else None.
    min_counts : float or None
        Rare genes have the status `low_expression` and no test, as in `fit_within`; None tests all.
        Values that are not counts have no such filter.
    reference : mapping of str to str, optional
        Reference level of some columns, ``{"condition": "ctrl"}``; by default the first one.
    method : {"REML", "ML"}
        Restricted or full maximum likelihood.
    ddf, alternative, level, lfc, moderate
        As in `contrast_tests`.

    Returns
    -------
    TestTable
        ``.to_frame()`` is tidy; with `within` it has a column of that name.

    Raises
    ------
    FlashmmError
        As of the steps: `summarise`, `summary_statistics` or `fit_within`, `fit_lmm`,
        `contrast_tests`.

    Notes
    -----
    Numeric columns that vary between the cells of a subject are read as covariates, but for few
    whole numbers that many cells share (0 and 1, or visits); all other columns define the groups.
    With `within`, a factor that varies within subjects (before and after a treatment, say) has a
    random term of its own, subject:factor, which is said in the notes. For other formulas on the
    same cells, `summarise` once and go on from the groups.
    """
    check_min_counts(min_counts)
    by, covariates = split_columns(
        _columns_of(data, formula, random, within, obs, layer), formula, random
    )
    groups = summarise(
        data,
        by=list(dict.fromkeys([*by, *([] if within is None else [within])])),
        covariates=covariates,
        transform=transform,
        obs=obs,
        layer=layer,
        gene_names=gene_names,
        duplicate_genes=duplicate_genes,
        libsize=libsize,
        missing=missing,
        chunk_nnz=chunk_nnz,
        progress=progress,
    )
    counted = groups.counts is not None
    if isinstance(size_factors, str) and size_factors == "auto":
        size_factors = SIZE_FACTORS if within is not None and counted else None
    asked: dict[str, Any] = {
        "alternative": alternative,
        "level": level,
        "lfc": lfc,
        "moderate": moderate,
    }
    if within is None:
        stats = summary_statistics(groups, formula, random, size_factors, reference)
        fit = without_rare_genes(fit_lmm(stats, method=method), groups, formula, random, min_counts)
        return _with_notes(contrast_tests(fit, contrasts, ddf, **asked), groups)
    fixed, terms, notes = with_subject_terms(groups, formula, random)
    fits = fit_within(
        groups,
        within,
        fixed,
        terms,
        size_factors=size_factors,
        min_counts=min_counts if counted else None,
        reference=reference,
        method=method,
    )
    fits = replace(fits, notes=fits.notes + notes)
    return _with_notes(contrast_tests(fits, contrasts, ddf, **asked), groups)


def _with_notes(table: TestTable, groups: GroupStatistics) -> TestTable:
    """A table that says what was decided when the cells were read, too."""
    return replace(table, notes=tuple(dict.fromkeys([*groups.notes, *table.notes])))


def with_subject_terms(
    groups: GroupStatistics, formula: str, random: Sequence[str] | None
) -> tuple[str, list[str] | None, tuple[str, ...]]:
    """Give factors that vary within subjects random terms, where the subject is the only one.

    Parameters
    ----------
    groups : GroupStatistics
        The groups of the model.
    formula, random
        The model.

    Returns
    -------
    formula, random
        The model with further terms ``(1|subject:factor)``.
    notes : tuple of str
        Which were added.
    """
    terms, random_terms = read_model(formula, random)
    given = None if random is None else list(random)
    if len(random_terms) != 1:
        return formula, given, ()
    only = random_terms[0]
    if only.slopes != ((),) or len(only.columns) != 1:
        return formula, given, ()
    subject = only.columns[0]
    columns = {c for term in terms for factor in term for c in factor.columns}
    factors = [c for c in groups.by if c in columns and c != subject]
    varying = [c for c in factors if is_factor(groups.obs[c]) and _varies(groups.obs, c, subject)]
    if not varying:
        return formula, given, ()
    added = [f"{subject}:{column}" for column in varying]
    words = note(
        f"{listed(varying)} varies within subjects: the random term {listed(added)} was added, so "
        "that subjects are the replicates of its effect."
    )
    if given is None:
        return formula + "".join(f" + (1|{term})" for term in added), None, (words,)
    return formula, [*given, *added], (words,)


def _varies(obs: pd.DataFrame, column: str, subject: str) -> bool:
    return bool((obs.groupby(subject, observed=True)[column].nunique() > 1).any())


def _columns_of(
    data: Any,
    formula: str,
    random: Sequence[str] | None,
    within: str | None,
    obs: Any,
    layer: str | None,
) -> pd.DataFrame:
    """Columns of the cells that a model names, of all inputs: (cells, columns)."""
    terms, random_terms = read_model(formula, random)
    named = {c for term in _all_terms(terms, random_terms) for f in term for c in f.columns}
    named |= {c for term in random_terms for c in term.columns}
    named |= set() if within is None else {within}
    several = isinstance(data, Iterable) and not isinstance(data, str | anndata.AnnData)
    items = list(data) if several else [data]
    if not items:
        raise InputError("data is an empty list: give at least one AnnData or file.")
    tables = []
    for item, sheet in zip(items, sheets_of(obs, len(items)), strict=True):
        with open_counts(item, layer, obs=sheet) as source:
            there = source.column_names()
            tables.append(source.columns([name for name in there if name in named]))
    return pd.concat(align_tables(tables), ignore_index=True) if len(tables) > 1 else tables[0]


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
        Expressions over numeric columns that vary between the cells of a random grouping, and over
        columns that obs lacks (the library size is counted). Few whole numbers that many cells
        share, such as visits, define groups, and so do any numbers that many cells share in poly(),
        bs(), cr() or C().

    Raises
    ------
    FormulaError
        A spline, polynomial or levels of a number that hardly two cells of a subject share.
    """
    terms, random_terms = read_model(formula, random)
    coded = [f for term in _all_terms(terms, random_terms) for f in term if _is_coded(f)]
    by = [column for term in random_terms for column in term.columns]
    groupings = [list(term.columns) for term in random_terms]
    varying = {c for term in _all_terms(terms, random_terms) for f in term for c in f.columns}
    in_coded = frozenset().union(*(factor.columns for factor in coded))
    varying = {c for c in varying if _varies_within(obs, c, groupings, c in in_coded)}
    for factor in coded:
        _check_coded(factor, varying)
    covariates: list[str] = []
    for term in _all_terms(terms, random_terms):
        cell_level = [f for f in term if f.columns & varying]
        by += [c for f in term if f not in cell_level for c in sorted(f.columns)]
        if cell_level:
            covariates.append(":".join(_stored(factor) for factor in cell_level))
    return list(dict.fromkeys(by)), list(dict.fromkeys(covariates))


def _all_terms(terms: list[Term], random_terms: list[Any]) -> list[Term]:
    return terms + [slope for term in random_terms for slope in term.slopes]


def _is_coded(factor: Factor) -> bool:
    """Whether a factor makes several columns of its values, which sums over groups cannot."""
    return bool(called(factor.node) & {"C", *(set(DATA_DEPENDENT) - set(STANDARDISING))})


def _check_coded(factor: Factor, varying: set[str]) -> None:
    """Refuse columns of values that differ from cell to cell."""
    for column in sorted(factor.columns & varying):
        raise FormulaError(
            f"`{factor.name}` needs {column!r} to define groups of cells, and hardly two cells of "
            f"a subject share a value of it: round it, such as obs[{column!r}].round(1), until "
            f"groups have {FEW_CELLS} cells or more on average."
        )


def _varies_within(
    obs: pd.DataFrame, column: str, groupings: list[list[str]], in_coded: bool
) -> bool:
    """Whether a column is a number of the cell rather than a property of groups of cells."""
    named = {name for grouping in groupings for name in grouping}
    if column not in obs.columns or not named <= set(obs.columns):
        return column not in obs.columns
    values = obs[column]
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        return False
    distinct = [obs.groupby(g, observed=True)[column].nunique() for g in groupings]
    few = values.nunique() <= FEW_NUMBERS and bool((values.dropna() % 1 == 0).all())
    few = few or in_coded
    of_groups = any(
        ((numbers == 1).all() or few) and len(obs) >= FEW_CELLS * numbers.sum()
        for numbers in distinct
    )
    return bool((distinct[0] > 1).any()) and not of_groups


def _stored(factor: Factor) -> str:
    """The covariate behind a factor: the argument of scale() or center(), else itself."""
    node = factor.node
    if isinstance(node, ast.Call) and call_name(node) in STANDARDISING:
        return ast.unparse(node.args[0])
    return factor.name
