"""What methods from elsewhere are asked: the comparison, and the files that they read.

The columns are called `subject`, `cell_type` and `condition` in all files, whatever they are called
in the data, so that a method is written once (`docs/add-a-method.md`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from flashmm.cells.groups import N_CELLS, GroupStatistics
from flashmm.cells.levels import group_rows
from flashmm.cells.sparse_counts import SparseCounts
from flashmm.design.columns import formula_columns
from flashmm.names import listed
from flashmm.options import DesignError, InputError

SUBJECT, CELL_TYPE, CONDITION = "subject", "cell_type", "condition"
#: The cell type where the data have none.
ALL_CELLS = "all"


@dataclass(frozen=True, eq=False)
class Comparison:
    """Levels of a column that are compared between subjects, within cell types.

    Attributes
    ----------
    factor : str
        The column.
    levels : tuple of str
        Its levels; the others are compared with the first.
    subject : str
        The column of the replicates.
    cell_type : str or None
        The column within whose levels is compared.
    types : tuple of str
        Those levels.
    genes : Index
        Names of the genes that are tested.
    fixed : str or None
        The formula of the fixed effects that was asked for.
    adjust : tuple of str
        Columns of the groups that this formula names beside the others.
    covariates : tuple of str
        Covariates of cells that groups hold.
    paired : bool
        Whether a subject has several of the levels.
    alternative : str
        "two-sided", "less" or "greater".
    transform : str
        Of the groups.
    """

    factor: str
    levels: tuple[str, ...]
    subject: str
    cell_type: str | None
    types: tuple[str, ...]
    genes: pd.Index
    fixed: str | None = None
    adjust: tuple[str, ...] = ()
    covariates: tuple[str, ...] = ()
    paired: bool = False
    alternative: str = "two-sided"
    transform: str = "log2p1"

    @property
    def contrasts(self) -> tuple[str, ...]:
        """Names of the contrasts, as of treatment coding."""
        return tuple(f"{self.factor}[T.{level}]" for level in self.levels[1:])

    @property
    def columns(self) -> dict[str, str]:
        """Columns of the data to what they are called in the files."""
        named = {self.subject: SUBJECT, self.factor: CONDITION}
        return named if self.cell_type is None else named | {self.cell_type: CELL_TYPE}


def comparison_of(
    groups: GroupStatistics,
    factor: str,
    *,
    subject: str = SUBJECT,
    cell_type: str | None = CELL_TYPE,
    fixed: str | None = None,
    alternative: str = "two-sided",
) -> Comparison:
    """Say what is compared in groups.

    Parameters
    ----------
    groups : GroupStatistics
        Its first level of `factor` is the reference.
    factor, subject : str
        Columns of the groups.
    cell_type : str or None
        Column of the groups; None compares all cells of a subject together.
    fixed : str, optional
        The formula of the fixed effects.
    alternative : str
        Direction of the tests.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        There is no such column, or groups have no counts.
    DesignError
        The column has fewer than two levels.
    """
    named = [factor, subject, *([] if cell_type is None else [cell_type])]
    for column in named:
        if column not in groups.by:
            raise InputError(
                f"The groups have no column {column!r}; they have {listed(groups.by)}."
            )
    levels = _levels(groups.obs[factor])
    if len(levels) < 2:
        raise DesignError(f"{factor!r} has one level, {levels[0]!r}; there is nothing to compare.")
    several = groups.obs.groupby(subject, observed=True)[factor].nunique() > 1
    used = formula_columns(fixed) if fixed else set()
    return Comparison(
        factor=factor,
        levels=levels,
        subject=subject,
        cell_type=cell_type,
        types=(ALL_CELLS,) if cell_type is None else _levels(groups.obs[cell_type]),
        genes=pd.Index(np.asarray(groups.genes).astype(str)),
        fixed=fixed,
        adjust=tuple(c for c in groups.by if c in used and c not in named),
        covariates=groups.covariates,
        paired=bool(several.any()),
        alternative=alternative,
        transform=groups.transform,
    )


def _levels(values: pd.Series) -> tuple[str, ...]:
    """Levels in their order: that of the categories, else sorted."""
    found = pd.Categorical(values).remove_unused_categories().categories
    return tuple(map(str, found))


# ----------------------------------------------------------------------------------------------
# Files


def groups_files(groups: GroupStatistics, asked: Comparison) -> dict[str, pd.DataFrame]:
    """The folder ``{groups}``: sums of counts, and the table of the groups.

    Parameters
    ----------
    groups : GroupStatistics
        With counts.
    asked : Comparison
        Its genes are written; groups are added up to subject × cell type × condition and the
        columns that the formula names.

    Returns
    -------
    dict
        `counts` (`gene`, a column per group) and `groups` (`group, subject, cell_type, condition`,
        other columns, `n_cells`, `libsize`: the counts of all genes).

    Raises
    ------
    InputError
        The groups hold no counts.
    """
    if groups.counts is None:
        raise InputError("The values are no counts, and sums of counts are asked for.")
    named = list(dict.fromkeys((*asked.columns, *asked.adjust)))
    code, table = group_rows(groups.obs[named].reset_index(drop=True))
    member = sparse.csr_matrix((np.ones(len(code)), (code, np.arange(len(code)))))
    sums = member @ groups.counts
    chosen = pd.Index(np.asarray(groups.genes).astype(str)).get_indexer(asked.genes)
    names = [f"group{i + 1}" for i in range(len(table))]
    counts = pd.DataFrame(np.rint(sums[:, chosen].T).astype(np.int64), columns=names)
    counts.insert(0, "gene", np.asarray(asked.genes, dtype=object))
    described = _described(table, asked)
    described.insert(0, "group", names)
    described["n_cells"] = (member @ groups.obs[N_CELLS].to_numpy()).astype(np.int64)
    described["libsize"] = np.rint(sums.sum(axis=1)).astype(np.int64)
    return {"counts": counts, "groups": described}


def cells_table(cells: SparseCounts, asked: Comparison) -> pd.DataFrame:
    """The file ``{obs}``: `cell, subject, cell_type, condition`, other columns, `libsize`."""
    table = _described(cells.obs.drop(columns="libsize").reset_index(drop=True), asked)
    table.insert(0, "cell", cells.obs.index.astype(str))
    return table.assign(libsize=cells.obs["libsize"].to_numpy())


def matrix_files(cells: SparseCounts, asked: Comparison) -> dict[str, Any]:
    """The folder ``{matrix}``: counts of cells as genes × cells, and the names of both."""
    return {
        "matrix": cells.values.T.tocoo(),
        "genes": pd.DataFrame({"gene": np.asarray(cells.genes, dtype=object)}),
        "cells": cells_table(cells, asked),
    }


def cells_file(cells: SparseCounts, asked: Comparison) -> ad.AnnData:
    """The file ``{cells}``: an AnnData with the counts in `X` and the table of cells in `obs`."""
    obs = cells_table(cells, asked).set_index("cell")
    return ad.AnnData(cells.values, obs=obs, var=pd.DataFrame(index=cells.genes))


def design_table(asked: Comparison, *, seed: int, threads: int) -> pd.DataFrame:
    """The file ``{design}``: a `key` and a `value` a row; keys of several values are repeated."""
    rows = [("factor", asked.factor), *(("level", level) for level in asked.levels)]
    rows += [("contrast", contrast) for contrast in asked.contrasts]
    rows += [("cell_type", name) for name in asked.types if asked.cell_type is not None]
    rows += [("column", f"{name}={column}") for column, name in asked.columns.items()]
    rows += [("paired", str(asked.paired).lower()), ("alternative", asked.alternative)]
    rows += [("fixed", asked.fixed)] if asked.fixed else []
    rows += [("adjust", column) for column in asked.adjust]
    rows += [("covariate", covariate) for covariate in asked.covariates]
    rows += [("transform", asked.transform), ("seed", str(seed)), ("threads", str(threads))]
    return pd.DataFrame(rows, columns=["key", "value"])


def _described(table: pd.DataFrame, asked: Comparison) -> pd.DataFrame:
    """Columns by the names that they have in files, the known ones first."""
    others = [column for column in table if column not in asked.columns]
    known = table[list(asked.columns)].rename(columns=asked.columns).astype(str)
    if asked.cell_type is None:
        known[CELL_TYPE] = ALL_CELLS
    clashing = [column for column in others if column in known]
    rest = table[others].rename(columns={column: f"{column}_" for column in clashing})
    return pd.concat([known[[SUBJECT, CELL_TYPE, CONDITION]], rest], axis=1)
