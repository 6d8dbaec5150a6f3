"""Subjects as rows: means of the cells of each subject, one trait per cell type.

Models between subjects (`flashmm.subject_models`) take one value per subject and trait. It is made
here, from the sums of groups that every other model is fitted from, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from flashmm.cells.groups import N_CELLS, GroupStatistics
from flashmm.design.columns import FixedDesign, fixed_design, formula_columns
from flashmm.names import did_you_mean, listed
from flashmm.options import DesignError, InputError, checked, note
from flashmm.shown import Shown


@dataclass(frozen=True, eq=False, repr=False)
class SubjectMeans(Shown):
    """Mean transformed expression of the cells of each subject and trait.

    Attributes
    ----------
    values : (subjects, traits, genes) array
        Σy/n over the cells, in the unit of the transform; NaN where a subject has too few cells.
    n_cells : pandas.DataFrame
        (subjects, traits) Numbers of cells.
    genes : pandas.Index
        Names of the genes.
    obs : pandas.DataFrame
        (subjects, columns) The other columns of the groups, where they are constant in subjects.
    varying : tuple of str
        Columns of the groups that differ within a subject.
    subject, trait : str
        The columns that subjects and traits come from.
    notes : tuple of str
        What was decided for the user.
    """

    values: np.ndarray
    n_cells: pd.DataFrame
    genes: pd.Index
    obs: pd.DataFrame
    varying: tuple[str, ...]
    subject: str
    trait: str
    notes: tuple[str, ...] = ()

    @property
    def subjects(self) -> pd.Index:
        """Names of the subjects, as text."""
        return self.n_cells.index

    @property
    def traits(self) -> pd.Index:
        """Names of the traits, as text."""
        return self.n_cells.columns

    @checked
    def of_gene(self, gene: str) -> pd.DataFrame:
        """Means of one gene, subjects × traits.

        Raises
        ------
        InputError
            There is no such gene.
        """
        if gene not in self.genes:
            raise InputError(f"there is no gene {gene!r}{did_you_mean(gene, self.genes)}")
        values = self.values[:, :, self.genes.get_loc(gene)]
        return pd.DataFrame(values, index=self.subjects, columns=self.traits)

    def take(self, subjects: np.ndarray) -> SubjectMeans:
        """Return the means of some subjects, by a mask or positions."""
        return SubjectMeans(
            self.values[subjects],
            self.n_cells.iloc[subjects],
            self.genes,
            self.obs.iloc[subjects],
            self.varying,
            self.subject,
            self.trait,
            self.notes,
        )

    @checked
    def column(self, name: str) -> pd.Series:
        """A column that says one thing of each subject.

        Raises
        ------
        InputError
            The groups do not have the column.
        DesignError
            It differs within a subject.
        """
        if name in self.varying:
            raise DesignError(
                f"column {name!r} differs within subjects, who have one row each here: choose one "
                f"level with keep={{{name!r}: [...]}}, or leave it out."
            )
        if name not in self.obs:
            raise InputError(
                f"column {name!r} is not known of the subjects; known are "
                f"{listed(self.obs.columns)}. Add it to `by`."
            )
        return self.obs[name]

    def design(self, formula: str) -> FixedDesign:
        """Covariates of the subjects from a formula, one row per subject.

        Raises
        ------
        FormulaError, InputError, DesignError
            A formula that cannot be read, or a column that is not one of the subjects'.
        """
        for name in sorted(formula_columns(formula)):
            self.column(name)
        return fixed_design(self.obs, formula, "subjects")

    @checked
    def most_variable(self, n: int) -> list[str]:
        """Return the `n` genes whose means differ most between subjects, averaged over traits."""
        counted = np.isfinite(self.values[:, :, :1]).sum(0) > 1
        values = self.values[:, counted[:, 0]]
        if not values.shape[1]:
            raise DesignError("no trait has two subjects, so no gene varies between subjects.")
        variance = np.nanvar(values, axis=0).mean(0)
        chosen = np.sort(np.argsort(-variance, kind="stable")[:n])
        return [str(name) for name in self.genes[chosen]]


@checked
def subject_means(
    groups: GroupStatistics,
    subject: str = "subject",
    trait: str = "cell_type",
    *,
    keep: Mapping[str, Sequence[Any]] | None = None,
    traits: Sequence[str] | None = None,
    min_cells: int = 10,
) -> SubjectMeans:
    """Average the cells of each subject and trait.

    Parameters
    ----------
    groups : GroupStatistics
        Of `summarise`, with both columns in `by`.
    subject, trait : str
        Columns whose levels become the rows and the traits.
    keep : mapping of str to sequence, optional
        Column to the levels whose cells count, such as ``{"condition": ["ctrl"]}``.
    traits : sequence of str, optional
        Traits to use; all by default.
    min_cells : int
        The mean of fewer cells counts as missing.

    Returns
    -------
    SubjectMeans
        Subjects and traits in the order of their levels; those without a mean are left out.

    Raises
    ------
    InputError
        Columns or levels that the groups do not have, or nothing is left.
    """
    _check_columns(groups, [subject, trait, *(keep or {})])
    wanted = {**(keep or {}), **({trait: traits} if traits is not None else {})}
    rows = np.flatnonzero(_chosen(groups.obs, wanted))
    obs = groups.obs.iloc[rows]
    s, subjects = _levels(obs[subject])
    t, names = _levels(obs[trait])
    cells = np.zeros((len(subjects), len(names)), dtype=np.int64)
    np.add.at(cells, (s, t), obs[N_CELLS].to_numpy(dtype=np.int64))
    values = _sums(groups.totals(), rows, s * len(names) + t, cells.size)
    enough = cells >= max(1, min_cells)
    with np.errstate(divide="ignore", invalid="ignore"):
        values /= np.where(enough, cells, np.nan).reshape(-1, 1)
    known, varying = _subject_columns(obs, s, [c for c in groups.by if c not in (subject, trait)])
    used_subjects, used_traits = np.flatnonzero(enough.any(1)), np.flatnonzero(enough.any(0))
    if not len(used_subjects):
        raise InputError(f"no subject has {min_cells} cells of any {trait}; lower min_cells.")
    table = pd.DataFrame(cells, index=subjects, columns=names)
    return SubjectMeans(
        values.reshape(*cells.shape, -1)[np.ix_(used_subjects, used_traits)],
        table.iloc[used_subjects, used_traits],
        groups.genes,
        known.set_axis(subjects, axis=0).iloc[used_subjects],
        varying,
        subject,
        trait,
        _notes_of_losses(table, enough, trait, min_cells),
    )


def _check_columns(groups: GroupStatistics, columns: Sequence[str]) -> None:
    lacking = [name for name in columns if name not in groups.by]
    if lacking:
        raise InputError(
            f"the groups have no column {lacking[0]!r}; they are made by {listed(groups.by)}. "
            "Add it to `by`."
        )


def _chosen(obs: pd.DataFrame, wanted: Mapping[str, Sequence[Any]]) -> np.ndarray:
    """Rows whose levels are wanted."""
    chosen = np.full(len(obs), True)
    for column, levels in wanted.items():
        found, names = obs[column].astype(str), [str(level) for level in levels]
        unknown = [name for name in names if name not in set(found)]
        if unknown:
            raise InputError(
                f"column {column!r} has no level {unknown[0]!r}; there are "
                f"{listed(dict.fromkeys(found))}."
            )
        chosen &= found.isin(names).to_numpy()
    if not chosen.any():
        raise InputError(f"no group of cells has the chosen levels of {listed(wanted)}.")
    return chosen


def _levels(column: pd.Series) -> tuple[np.ndarray, pd.Index]:
    """Codes of the rows, and the levels in their order as text."""
    codes, levels = pd.factorize(column, sort=True)
    return codes, pd.Index([str(level) for level in levels], dtype=object)


def _sums(sums: np.ndarray, rows: np.ndarray, codes: np.ndarray, n: int) -> np.ndarray:
    """Sums of the chosen groups with the same code, (n, genes)."""
    ones = np.ones(len(rows))
    return np.asarray(sp.csr_array((ones, (codes, rows)), shape=(n, len(sums))) @ sums)


def _subject_columns(
    obs: pd.DataFrame, codes: np.ndarray, columns: Sequence[str]
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Columns that are constant within subjects, one row per subject, and the others' names."""
    grouped = obs[list(columns)].groupby(codes, observed=True)
    constant = [name for name in columns if (grouped[name].nunique(dropna=False) == 1).all()]
    varying = tuple(name for name in columns if name not in constant)
    _, first = np.unique(codes, return_index=True)
    return obs[constant].iloc[first], varying


def _notes_of_losses(
    cells: pd.DataFrame, enough: np.ndarray, trait: str, min_cells: int
) -> tuple[str, ...]:
    said = []
    few = int((~enough & (cells.to_numpy() > 0)).sum())
    none = int((cells.to_numpy() == 0).sum())
    if few or none:
        said.append(
            f"Of {cells.size} means of a subject and {trait}, {few} have fewer than {min_cells} "
            f"cells and {none} have none; they are missing."
        )
    for axis, names, what in ((1, cells.index, "subject"), (0, cells.columns, trait)):
        lost = names[np.flatnonzero(~enough.any(axis))]
        if len(lost):
            said.append(f"Without a mean, and left out: {what} {listed(lost)}.")
    return tuple(note(text) for text in said)
