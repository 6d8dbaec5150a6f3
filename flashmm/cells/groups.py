"""Statistics of groups of cells: the record that every design is fitted from, and its merge.

A group is the finest cell of all group-level columns in use (subject x cell type x condition ...).
Sums over its cells are all that is kept of them (`docs/model.md`, from cells to a fit), so the
groups of different files, shards or sites are merged by addition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from flashmm.cells.levels import (
    align_tables,
    distinct,
    drop_unused_levels,
    group_rows,
    kind_of,
    merge_levels,
    note_references,
    sum_by_group,
    unsorted_columns,
)
from flashmm.cells.moments import N_CELLS as N_CELLS
from flashmm.cells.moments import moment_name as moment_name
from flashmm.cells.moments import moment_names as moment_names
from flashmm.cells.moments import moved_moments, moved_sums
from flashmm.names import listed
from flashmm.options import InputError, checked, note
from flashmm.shown import Shown
from flashmm.storage.workspace import zeros

# Sums that groups have where the input is counts, and what they are called.
OF_COUNTS = {"counts": "Sums of raw counts", "expressing": "Numbers of expressing cells"}


@dataclass(frozen=True, eq=False)
class GroupStatistics(Shown):
    """Sums over the cells of each group, per gene.

    Attributes
    ----------
    obs : pandas.DataFrame
        (groups, ...) The `by` columns with their own dtypes, then `n_cells`, `sum:<x>` per
        covariate and `sum:<x>*<z>` per pair of covariates, squares included. The index holds the
        `by` values joined by ``|``.
    genes : pandas.Index
        (genes,) Names of the genes.
    sum, sumsq : numpy.ndarray
        (groups, genes) Sums of y and of y squared, y being the transformed value of a cell.
    covariate_sums : dict of str to numpy.ndarray
        For each covariate x the (groups, genes) sums of x times y.
    counts : numpy.ndarray or None
        (groups, genes) Sums of the raw counts; None where the input does not hold counts.
    by, covariates : tuple of str
        Columns that define the groups; cell-level covariates as they were written.
    transform : str
        The transform of the counts, a key of `flashmm.cells.counts.TRANSFORMS`.
    provenance : dict
        Package version, options and inputs (name, digest, cells, genes); can be written as JSON.
    notes : tuple of str
        What was decided for the user on the way.
    expressing : numpy.ndarray or None
        (groups, genes) Numbers of cells with a count above zero; None where the input does not hold
        counts, and for files of groups that were written without them.
    origin : numpy.ndarray or None
        (genes,) What was subtracted from y before `sum`, `sumsq` and `covariate_sums` were taken:
        the mean of genes that vary little beside it, zero of the others. None where it is zero for
        all genes, as it is for counts.
    covariate_origin : numpy.ndarray or None
        (covariates,) What was subtracted from each covariate before any sum with it was taken: the
        mean of those that vary little beside it, zero of the others. None where all are zero.
    """

    obs: pd.DataFrame
    genes: pd.Index
    sum: np.ndarray
    sumsq: np.ndarray
    covariate_sums: dict[str, np.ndarray]
    counts: np.ndarray | None
    by: tuple[str, ...]
    covariates: tuple[str, ...]
    transform: str
    provenance: dict[str, Any]
    notes: tuple[str, ...] = ()
    expressing: np.ndarray | None = None
    origin: np.ndarray | None = None
    covariate_origin: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Check that columns and shapes agree with each other."""
        lacking = [c for c in (*self.by, *moment_names(self.covariates)) if c not in self.obs]
        if lacking:
            raise InputError(f"The table of groups lacks the column(s) {listed(lacking)}.")
        if set(self.covariate_sums) != set(self.covariates):
            raise InputError(
                f"Covariates are {listed(self.covariates)}, "
                f"their sums with the genes are given for {listed(self.covariate_sums)}."
            )
        for name, values in self.gene_sums().items():
            if values.shape != (self.n_groups, self.n_genes):
                raise InputError(
                    f"'{name}' has the shape {values.shape}; "
                    f"{self.n_groups} groups x {self.n_genes} genes are needed."
                )
        if self.origin is not None and self.origin.shape != (self.n_genes,):
            raise InputError(f"'origin' has the shape {self.origin.shape}, not ({self.n_genes},).")
        if self.covariate_origin is not None and len(self.covariate_origin) != len(self.covariates):
            raise InputError("'covariate_origin' has not one number for each covariate.")

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(self.obs)

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return len(self.genes)

    @property
    def n_cells(self) -> int:
        """Number of cells in all groups together."""
        return int(self.obs[N_CELLS].sum())

    def moment(self, k: int, l: int) -> np.ndarray:  # noqa: E741 - the axes of a matrix
        """Sum of x_k x_l over the cells of each group; x_0 = 1, then the covariates in order.

        Covariates with an origin are x - origin here.

        Returns
        -------
        numpy.ndarray
            (groups,) float64; `moment(0, 0)` is the number of cells.
        """
        factors = (self.covariates[i - 1] for i in sorted((k, l)) if i > 0)
        return self.obs[moment_name(*factors)].to_numpy(dtype=np.float64)

    def cross_sum(self, k: int) -> np.ndarray:
        """Sum of x_k (y - origin) over the cells of each group: (groups, genes); x_0 = 1."""
        return self.sum if k == 0 else self.covariate_sums[self.covariates[k - 1]]

    def totals(self, genes: Any = slice(None)) -> np.ndarray:
        """Sum of y over the cells of each group, of some genes: (groups, genes)."""
        if self.origin is None:
            return self.sum[:, genes]
        return np.asarray(
            self.sum[:, genes] + np.multiply.outer(self.moment(0, 0), self.origin[genes])
        )

    def from_zero(self) -> GroupStatistics:
        """The same statistics with sums of y itself, whose squares may have lost digits."""
        if self.origin is None:
            return self
        return self._with(
            self.obs, self.genes, with_origin(self, self.gene_sums(), None), origin=None
        )

    def subset(self, groups: Any) -> GroupStatistics:
        """Statistics of some of the groups; levels that no group has any more are dropped.

        Parameters
        ----------
        groups : array_like
            A boolean mask over groups, integer positions, a slice, or names of groups.
        """
        rows = self._positions(groups)
        obs = self.obs.iloc[rows]
        obs = obs.assign(**{column: drop_unused_levels(obs[column]) for column in self.by})
        whole = self.gene_sums()
        sums = zeros((len(whole), len(rows), self.n_genes), "chosen group statistics")
        for values, out in zip(whole.values(), sums, strict=True):
            np.take(values, rows, axis=0, out=out, mode="clip")  # other modes need a buffer
        return self._with(obs, self.genes, dict(zip(whole, sums, strict=True)))

    def facts(self) -> dict[str, str]:
        """What defines the groups, and what is stored."""
        levels = ", ".join(f"{name} ({self.obs[name].nunique()})" for name in self.by)
        return {
            "groups of": levels,
            "covariates": ", ".join(self.covariates) or "none",
            "transform": self.transform,
            "raw counts": "not stored" if self.counts is None else "stored",
        }

    def preview(self) -> pd.DataFrame:
        """The first groups."""
        return self.obs[[*self.by, N_CELLS]]

    def __repr__(self) -> str:
        return (
            f"GroupStatistics({self.n_groups} groups of {', '.join(self.by)} × {self.n_genes} genes"
            f", {self.n_cells} cells, {self.transform})"
        )

    def __add__(self, other: GroupStatistics) -> GroupStatistics:
        """Merge with other statistics of the same genes."""
        if not isinstance(other, GroupStatistics):
            return NotImplemented
        return merge([self, other])

    def _positions(self, groups: Any) -> np.ndarray:
        if isinstance(groups, slice):
            return np.arange(self.n_groups)[groups]
        wanted = np.atleast_1d(np.asarray(groups))
        if wanted.dtype == bool and wanted.shape != (self.n_groups,):
            raise InputError(
                f"A mask of shape {wanted.shape} cannot choose among {self.n_groups} groups."
            )
        if wanted.dtype.kind in "biu" or wanted.size == 0:
            return np.arange(self.n_groups)[wanted if wanted.size else []]
        rows = self.obs.index.get_indexer(pd.Index(wanted))
        if (rows < 0).any():
            raise InputError(f"There is no group {listed(wanted[rows < 0])}.")
        return rows

    def gene_sums(self) -> dict[str, np.ndarray]:
        """All (groups, genes) arrays by name: sum, sumsq, sum:<x>, those `OF_COUNTS` if any."""
        crossed = {moment_name(x): values for x, values in self.covariate_sums.items()}
        counted = {name: getattr(self, name) for name in OF_COUNTS}
        there = {name: values for name, values in counted.items() if values is not None}
        return {"sum": self.sum, "sumsq": self.sumsq} | crossed | there

    def with_sums(self, genes: pd.Index, sums: Mapping[str, np.ndarray]) -> GroupStatistics:
        """Return the same groups with the sums of other genes, named as in `gene_sums`."""
        return self._with(self.obs, genes, sums)

    def _with(
        self, obs: pd.DataFrame, genes: pd.Index, sums: Mapping[str, np.ndarray], **changes: Any
    ) -> GroupStatistics:
        """Return the same record over other groups or genes; `sums` is named as in `_gene_sums`."""
        return replace(
            self,
            obs=obs,
            genes=genes,
            sum=sums["sum"],
            sumsq=sums["sumsq"],
            covariate_sums={x: sums[moment_name(x)] for x in self.covariates},
            counts=sums.get("counts"),
            expressing=sums.get("expressing"),
            **({"origin": self._origin_of(genes)} | changes),
        )

    def _origin_of(self, genes: pd.Index) -> np.ndarray | None:
        """Origins of some of the genes; None where all are zero."""
        if self.origin is None or genes.equals(self.genes):
            return self.origin
        origin = self.origin[self.genes.get_indexer(genes)]
        return origin if origin.any() else None


def regrouped(groups: GroupStatistics, by: Sequence[str]) -> GroupStatistics:
    """Add up groups that differ in other columns only.

    Parameters
    ----------
    groups : GroupStatistics
        Defined by these columns and perhaps others.
    by : sequence of str
        The columns that stay.

    Returns
    -------
    GroupStatistics
        The same cells in coarser groups.

    Raises
    ------
    InputError
        A column does not define the groups.
    """
    if set(by) == set(groups.by):
        return groups
    lacking = [column for column in by if column not in groups.by]
    if lacking:
        raise InputError(
            f"Groups of {listed(by)} are needed; these are of {listed(groups.by)}. Summarise by "
            "these columns."
        )
    others = [column for column in groups.by if column not in by]
    return merge([replace(groups, by=tuple(by), obs=groups.obs.drop(columns=others))])


@checked
def merge(parts: Iterable[GroupStatistics], genes: str = "same") -> GroupStatistics:
    """Add the statistics of several files, shards or sites.

    Groups with equal `by` values are added, others are put beside each other; the result has its
    groups in the order of the levels. Partial sums are added in the order given.

    Parameters
    ----------
    parts : iterable of GroupStatistics
        At least one; all with the same `by`, covariates and transform.
    genes : {"same", "intersection"}
        Whether all parts must have the same set of genes (the order may differ), or the genes that
        they share are kept. The order of the first part is kept.

    Returns
    -------
    GroupStatistics
        Equal to the statistics of all the cells together, up to rounding. A categorical column has
        the longest order of levels when it contains all others, else the sorted union.

    Raises
    ------
    InputError
        Where parts differ in `by`, covariates, transform, kinds of columns, or genes, or hold the
        same cells of one file; the message names the files.
    """
    parts = list(parts)
    return merge_headers(parts, lambda number: parts[number].gene_sums(), genes)


def _with_origin_of(
    parts: Sequence[GroupStatistics], sums_of: Callable[[int], dict[str, np.ndarray]]
) -> tuple[list[GroupStatistics], Callable[[int], dict[str, np.ndarray]]]:
    """Parts whose covariates are differences from the constants of the first of them."""
    zero = np.zeros(len(parts[0].covariates))
    own = [zero if p.covariate_origin is None else p.covariate_origin for p in parts]
    steps = [origin - own[0] for origin in own]
    if not any(step.any() for step in steps):
        return list(parts), sums_of

    def moved(number: int) -> dict[str, np.ndarray]:
        return moved_sums(sums_of(number), parts[number].covariates, steps[number])

    return [
        replace(
            part,
            obs=part.obs.assign(**moved_moments(part.obs, part.covariates, step)),
            covariate_origin=parts[0].covariate_origin,
        )
        for part, step in zip(parts, steps, strict=True)
    ], moved


def merge_headers(
    parts: Sequence[GroupStatistics],
    sums_of: Callable[[int], dict[str, np.ndarray]],
    genes: str = "same",
) -> GroupStatistics:
    """Merge parts whose gene sums are asked for one part after another, as `merge` does.

    Parameters
    ----------
    parts : sequence of GroupStatistics
        Of their gene sums only the names are used.
    sums_of : callable
        Gives the gene sums of the part of a number from 0, as `GroupStatistics.gene_sums`.
    genes : {"same", "intersection"}
        As in `merge`.
    """
    if not parts:
        raise InputError("There is nothing to merge: the list of group statistics is empty.")
    first = parts[0]
    _check_alike(parts)
    parts, sums_of = _with_origin_of(parts, sums_of)
    _refuse_double_counts(parts)
    kept = _shared_genes(parts, genes)
    keys = [_keys(part) for part in parts]
    codes, obs = group_rows(pd.concat(align_tables(keys), ignore_index=True))
    # ranges of a file lack levels by chance, which changes nothing where all orders are sorted
    named = unsorted_columns(keys) if all(map(_is_range, parts)) else first.by
    notes = note_references(keys, obs, named) + _notes_of_losses(parts, kept)

    # rows of the result to which the groups of each part belong
    rows = np.split(codes, np.cumsum([part.n_groups for part in parts])[:-1])
    for name in moment_names(first.covariates):
        moments = np.concatenate([part.obs[name].to_numpy() for part in parts])
        obs[name] = sum_by_group(codes, moments, len(obs))
    origin = _shared_origin(parts, kept)
    return first._with(
        obs,
        kept,
        _added(parts, sums_of, rows, kept, len(obs), origin),
        origin=origin,
        provenance=first.provenance | {"inputs": _inputs(parts)},
        notes=distinct([*(text for part in parts for text in part.notes), *notes]),
    )


def _check_alike(parts: Sequence[GroupStatistics]) -> None:
    for field in ("by", "covariates", "transform"):
        value = getattr(parts[0], field)
        for number, part in enumerate(parts[1:], start=2):
            if getattr(part, field) != value:
                raise InputError(
                    f"Group statistics with different '{field}' cannot be merged: {value!r} of "
                    f"{_origin(parts[0], 1)} and {getattr(part, field)!r} of "
                    f"{_origin(part, number)}. Summarise all parts in the same way."
                )

    factored = [number for number, part in enumerate(parts) if "size_factors" in part.provenance]
    if factored and len(parts) > 1:
        raise InputError(
            f"{_origin(parts[factored[0]], factored[0] + 1)} has size factors, which belong to the "
            "samples that were compared. Merge the groups as summarised, then take size factors."
        )


def _origin(part: GroupStatistics, number: int) -> str:
    """Name a part by its files, or by its number where it has come from memory."""
    inputs = part.provenance.get("inputs", [])
    where = "the first part" if number == 1 else f"part {number}"
    named = [_input_name(record) for record in inputs if record.get("file")]
    if not named:
        return where
    more = f" and {len(named) - 1} more" if len(named) > 1 else ""
    return f"{where}, {named[0]}{more}"


def _input_name(record: Mapping[str, Any]) -> str:
    """Name one input: its file, and which of its cells."""
    which = []
    if "shard" in record:
        which.append(f"shard {record['shard'][0]} of {record['shard'][1]}")
    if "cells" in record:
        which.append(f"cells {record['cells'][0]} to {record['cells'][1] - 1}")
    return f"'{record['file']}'" + (f" ({', '.join(which)})" if which else "")


def _is_range(part: GroupStatistics) -> bool:
    inputs = part.provenance.get("inputs", [])
    return bool(inputs) and all("cells" in record for record in inputs)


def _keys(part: GroupStatistics) -> pd.DataFrame:
    """Return the `by` columns, with the order of levels in the files of which they are ranges."""
    keys = part.obs[list(part.by)]
    declared = [record.get("levels", {}) for record in part.provenance.get("inputs", [])]
    for name in part.by:
        orders = [levels[name] for levels in declared if name in levels]
        if orders and kind_of(keys[name]) == "categorical":
            own = keys[name].cat.categories
            levels = merge_levels([own, *(pd.Index(order, dtype=own.dtype) for order in orders)])
            dtype = pd.CategoricalDtype(levels, ordered=keys[name].cat.ordered)
            keys = keys.astype({name: dtype})
    return keys


def _refuse_double_counts(parts: Sequence[GroupStatistics]) -> None:
    """Raise an InputError where two inputs hold the same cells of one file."""
    read: dict[str, list[tuple[int, int, str]]] = {}
    for record in _inputs(parts):
        if record.get("file_id"):
            start, stop = record.get("cells", (0, record["n_cells"]))
            read.setdefault(record["file_id"], []).append((start, stop, _input_name(record)))
    for ranges in read.values():
        for (_, end, one), (begin, _, other) in pairwise(sorted(ranges)):
            if begin < end:
                raise InputError(
                    f"{other} holds cells of {one}, which would count double; give each once."
                )


def _shared_genes(parts: Sequence[GroupStatistics], genes: str) -> pd.Index:
    indices = [part.genes for part in parts]
    if genes == "same":
        for number, part in enumerate(parts[1:], start=2):
            names = _origin(parts[0], 1), _origin(part, number)
            check_same_genes(indices[0], part.genes, *names)
        return indices[0]
    if genes != "intersection":
        raise InputError(f"genes={genes!r} is not known; use 'same' or 'intersection'.")
    kept = indices[0]
    for index in indices[1:]:
        kept = kept[kept.isin(index)]
    if len(kept) == 0:
        raise InputError("The parts share no gene; look at how their genes are named.")
    return kept


def check_same_genes(genes: pd.Index, others: pd.Index, name: str, other_name: str) -> None:
    """Raise an InputError unless both hold the same set of genes, in any order."""
    lacking, extra = genes[~genes.isin(others)], others[~others.isin(genes)]
    if len(lacking) or len(extra):
        raise InputError(
            f"{other_name} has not the same genes as {name}: "
            f"it lacks {len(lacking)} of {len(genes)} ({listed(lacking, 3)}) "
            f"and has {len(extra)} others ({listed(extra, 3)}). "
            "Summarise the parts apart and use merge(..., genes='intersection') "
            "to keep the genes they share."
        )


def _notes_of_losses(parts: Sequence[GroupStatistics], kept: pd.Index) -> list[str]:
    notes = []
    n_lost = len(set().union(*(part.genes for part in parts))) - len(kept)
    if n_lost:
        notes.append(note(f"{n_lost} genes that are not in all parts are left out of the merge."))
    for name, what in OF_COUNTS.items():
        present = [getattr(part, name) is not None for part in parts]
        if any(present) and not all(present):
            notes.append(note(f"{what} are left out: some of the parts do not have them."))
    return notes


def _added(
    parts: Sequence[GroupStatistics],
    sums_of: Callable[[int], dict[str, np.ndarray]],
    rows: Sequence[np.ndarray],
    genes: pd.Index,
    n_groups: int,
    origin: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """Add up the parts; `rows` says where the groups of each part go in the result."""
    names = [name for name in parts[0].gene_sums() if all(name in p.gene_sums() for p in parts)]
    sums = zeros((len(names), n_groups, len(genes)), "merged group statistics")
    for number, part in enumerate(parts):
        same = part.genes.equals(genes)
        columns = slice(None) if same else part.genes.get_indexer(genes)
        values = with_origin(part, sums_of(number), _in_order_of(part, genes, origin))
        for total, name in zip(sums, names, strict=True):
            for row, value in zip(rows[number], values[name], strict=True):
                total[row] += value[columns]
    return dict(zip(names, sums, strict=True))


def with_origin(
    groups: GroupStatistics, sums: Mapping[str, np.ndarray], origin: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Sums as if another constant had been subtracted from the values of each gene.

    Parameters
    ----------
    groups : GroupStatistics
        The groups; of their gene sums only the names are used.
    sums : mapping of str to numpy.ndarray
        Their gene sums, as `GroupStatistics.gene_sums`, from the `origin` of the groups.
    origin : (genes,) array or None
        The new origin, None for zero. The nearer it is to the old one, the more digits stay.

    Returns
    -------
    dict of str to numpy.ndarray
        The gene sums; those of genes whose origin is the same are the same.
    """
    zero = np.zeros(groups.n_genes)
    old, new = (zero if o is None else o for o in (groups.origin, origin))
    changed = np.flatnonzero(old != new)
    if not len(changed):
        return dict(sums)
    # y - b = (y - a) + d with d = a - b:  Σ x (y - b) = Σ x (y - a) + d Σ x
    d, n = (old - new)[changed], groups.moment(0, 0)[:, None]
    moved = dict(sums)
    names = {"sum": 0} | {moment_name(x): k for k, x in enumerate(groups.covariates, start=1)}
    for name, k in names.items():
        moved[name] = np.array(sums[name])
        moved[name][:, changed] += groups.moment(0, k)[:, None] * d
    moved["sumsq"] = np.array(sums["sumsq"])
    squares = moved["sumsq"][:, changed] + d * (2 * sums["sum"][:, changed] + d * n)
    moved["sumsq"][:, changed] = np.maximum(squares, 0.0)
    return moved


def _shared_origin(parts: Sequence[GroupStatistics], genes: pd.Index) -> np.ndarray | None:
    """Origin of each gene: that of the first part in which it is not zero; None for all zero."""
    origin = np.zeros(len(genes))
    for part in parts:
        if part.origin is not None:
            own = part.origin[part.genes.get_indexer(genes)]
            origin = np.where(origin == 0, own, origin)
    return origin if origin.any() else None


def _in_order_of(
    part: GroupStatistics, genes: pd.Index, origin: np.ndarray | None
) -> np.ndarray | None:
    """The origins of `genes` in the order of a part; its own for genes that are not among them."""
    if origin is None:
        return part.origin
    place = genes.get_indexer(part.genes)
    own = np.zeros(part.n_genes) if part.origin is None else part.origin
    return np.where(place < 0, own, origin[place])


def _inputs(parts: Sequence[GroupStatistics]) -> list[Any]:
    return [entry for part in parts for entry in part.provenance.get("inputs", [])]
