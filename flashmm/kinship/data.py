"""Kinship matrices, traits and covariates as users have them: checked, and matched by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flashmm.names import first_of
from flashmm.options import InputError, checked, note
from flashmm.shown import Shown

# Largest asymmetry, relative to the largest diagonal element, that is taken as rounding.
ASYMMETRY = 1e-8
# Negative eigenvalues, relative to the largest: rounding of the decomposition, and of the file.
EIGEN_ROUNDING, EIGEN_REFUSED = 1e-12, 1e-6
# Distance of the mean diagonal of K from one at which it is worth saying.
DIAGONAL_TOLERANCE = 0.1
# Squares of larger values, summed, may be no numbers.
LARGEST_VALUE = 1e100


@dataclass(frozen=True, eq=False, repr=False)
class KinshipFactor(Shown):
    """A kinship matrix K = GG' by its factor.

    Attributes
    ----------
    G : (individuals, r) array
        The factor.
    individuals : pandas.Index or None
        Their names.
    notes : tuple of str
        What was decided for the user.
    """

    G: np.ndarray
    individuals: pd.Index | None = None
    notes: tuple[str, ...] = ()

    def matrix(self) -> np.ndarray:
        """K, (individuals, individuals)."""
        return self.G @ self.G.T


@checked
def kinship_factor(genotypes: Any) -> KinshipFactor:
    """Factor of the realised kinship of genotypes, without forming individuals × individuals.

    Parameters
    ----------
    genotypes : (individuals, markers) array or DataFrame
        Allele counts 0, 1, 2 or dosages. NaN is replaced by the marker's mean; markers that do not
        vary are left out. The index of a DataFrame names the individuals.

    Returns
    -------
    KinshipFactor
        G = standardised genotypes / √markers, so that K = GG' has mean diagonal one.

    Raises
    ------
    InputError
        Values that are infinite or no numbers, or no marker that varies.

    Notes
    -----
    The genomic relationship of VanRaden 2008 (J. Dairy Sci. 91:4414) with each marker scaled by
    its own standard deviation (Yang et al. 2010, Nat. Genet. 42:565).
    """
    table = Table.of(genotypes, "genotypes")
    values = table.values
    if np.isinf(values).any():
        raise InputError("genotypes: infinite values; write missing genotypes as NaN.")
    missing = np.isnan(values)
    counted = np.maximum((~missing).sum(0), 1)
    centred = np.where(missing, 0.0, values)
    centred = np.where(missing, 0.0, centred - centred.sum(0) / counted)
    sd = np.sqrt((centred**2).mean(0))
    varies = sd > 1e-9 * np.abs(np.nan_to_num(values)).max(initial=1.0)
    if not varies.any():
        raise InputError("genotypes: no marker varies between the individuals.")
    notes = []
    if missing.any():
        notes.append(note(f"{missing.sum()} missing genotypes took the mean of their marker."))
    if not varies.all():
        notes.append(
            note(f"{(~varies).sum()} of {len(varies)} markers do not vary and were left out.")
        )
    G = centred[:, varies] / (sd[varies] * np.sqrt(varies.sum()))
    return KinshipFactor(G, table.index, tuple(notes))


@checked
def kinship_root(K: Any) -> KinshipFactor:
    """Root G of a kinship matrix, K = GG', for models that take a factor.

    Parameters
    ----------
    K : (individuals, individuals) array, DataFrame or KinshipFactor
        The kinship; a factor is given back as it is.

    Returns
    -------
    KinshipFactor
        Eigenvectors times the roots of their eigenvalues, those at zero left out.

    Raises
    ------
    InputError
        K is not a covariance matrix.
    """
    if isinstance(K, KinshipFactor):
        return K
    table, _ = read_kinship(K, None)
    matrix, notes = nonnegative_kinship(table.values)
    values, vectors = np.linalg.eigh(matrix)
    kept = values > EIGEN_ROUNDING * values[-1]
    return KinshipFactor(vectors[:, kept] * np.sqrt(values[kept]), table.index, notes)


# --------------------------------------------------------------------------------------------
# Tables
# --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Table:
    """A matrix of numbers with the names that came with it.

    Attributes
    ----------
    name : str
        The argument it was given as.
    values : (rows, columns) array
        float64.
    ids : tuple of str or None
        Names of the rows.
    columns : tuple of str or None
        Names of the columns.
    """

    name: str
    values: np.ndarray
    ids: tuple[str, ...] | None
    columns: tuple[str, ...] | None

    @classmethod
    def of(cls, value: Any, name: str) -> Table:
        """Read an array, DataFrame or Series; an index that only counts is no name."""
        frame = value.to_frame() if isinstance(value, pd.Series) else value
        if not isinstance(frame, pd.DataFrame):
            return cls(name, _matrix(value, name), None, None)
        if frame.empty:
            raise InputError(f"{name} has {frame.shape[0]} rows and {frame.shape[1]} columns.")
        columns = None
        if not isinstance(frame.columns, pd.RangeIndex):
            columns = tuple(str(column) for column in frame.columns)
            _check_unique(columns, f"{name}: the column name")
        ids = None
        if not isinstance(frame.index, pd.RangeIndex):
            ids = tuple(str(i) for i in frame.index)
            _check_unique(ids, f"{name}: the individual")
        return cls(name, _frame_numbers(frame, name), ids, columns)

    @property
    def index(self) -> pd.Index | None:
        """Names of the rows."""
        return None if self.ids is None else pd.Index(self.ids, dtype=object)


def as_numbers(value: Any, name: str) -> np.ndarray:
    """Float64 of an argument, or an error that names it."""
    try:
        if np.iscomplexobj(value):
            raise TypeError("complex")
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: {type(value).__name__} holds no real numbers.") from error


def _matrix(value: Any, name: str) -> np.ndarray:
    array = as_numbers(value.toarray() if hasattr(value, "toarray") else value, name)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or not array.size:
        raise InputError(
            f"{name} must have rows (individuals) and columns; found the shape {np.shape(value)}."
        )
    return array


def _frame_numbers(frame: pd.DataFrame, name: str) -> np.ndarray:
    """Values of a data frame; an error names the first column that holds something else."""
    try:
        return np.asarray(frame.to_numpy(dtype=np.float64, na_value=np.nan))
    except (TypeError, ValueError) as error:
        for column in frame.columns:
            try:
                frame[column].to_numpy(dtype=np.float64, na_value=np.nan)
            except (TypeError, ValueError):
                raise InputError(
                    f"{name}: column {column!r} has the type {frame[column].dtype}; numbers are "
                    "needed (code a factor as indicator columns)."
                ) from error
        raise InputError(f"{name} holds values that are no numbers.") from error


def _check_unique(names: Sequence[str], what: str) -> None:
    index = pd.Index(names)
    if index.has_duplicates:
        repeated = index[index.duplicated()].unique()
        raise InputError(
            f"{what} {repeated[0]!r} is there more than once (repeated names: {len(repeated)}); "
            "names must be unique."
        )


# --------------------------------------------------------------------------------------------
# Who is who
# --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Matching:
    """The individuals that every table has.

    Attributes
    ----------
    rows : dict of (individuals,) int arrays
        Table to the rows of the individuals.
    individuals : pandas.Index
        Their names; numbers from zero where no table has names.
    notes : tuple of str
        Who was left out.
    """

    rows: Mapping[str, np.ndarray]
    individuals: pd.Index
    notes: tuple[str, ...]


def match_individuals(tables: Sequence[Table]) -> Matching:
    """Match rows by name, or by position where names are lacking.

    Parameters
    ----------
    tables : sequence of Table
        The first with names gives the order, and its names stand for tables without.

    Returns
    -------
    Matching
        In the order of the first table with names.

    Raises
    ------
    InputError
        Tables without names of different length, or no individual in common.
    """
    named = [table for table in tables if table.ids is not None]
    first = named[0] if named else tables[0]
    n = len(first.values)
    for table in tables:
        if table.ids is None and len(table.values) != n:
            raise InputError(
                f"{table.name} has {len(table.values)} rows and {first.name} has {n}: without "
                f"names in both, row i must be the same individual.{_transposed(first, table)}"
            )
    if first.ids is None:
        everyone = np.arange(n)
        return Matching({table.name: everyone for table in tables}, pd.RangeIndex(n), ())
    indices = {table.name: pd.Index(table.ids or first.ids, dtype=object) for table in tables}
    common = indices[first.name]
    for table in named:
        shared = common[common.isin(indices[table.name])]
        if not len(shared):
            raise InputError(_nothing_shared(first, table))
        common = shared
    rows = {name: index.get_indexer(common) for name, index in indices.items()}
    return Matching(rows, common, _left_out(indices, common))


def _left_out(indices: Mapping[str, pd.Index], common: pd.Index) -> tuple[str, ...]:
    lost = {name: index[~index.isin(common)] for name, index in indices.items()}
    said = [f"{len(ids)} of {name} ({first_of(ids)})" for name, ids in lost.items() if len(ids)]
    if not said:
        return ()
    where = " and ".join(indices)
    return (note(f"{len(common)} individuals are in {where}; left out were {', '.join(said)}."),)


def _nothing_shared(first: Table, table: Table) -> str:
    ids = first.ids or ()
    text = (
        f"{first.name} and {table.name} have no individual in common: {first_of(ids, 3)} in "
        f"{first.name}, {first_of(table.ids or (), 3)} in {table.name}."
    )
    for one, other in ((first, table), (table, first)):
        if one.columns and other.ids and set(one.columns) & set(other.ids):
            return f"{text} The columns of {one.name} are individuals: pass {one.name}.T."
    return text


def _transposed(first: Table, table: Table) -> str:
    for one, other in ((first, table), (table, first)):
        if one.name in "Yy" and one.values.shape[1] == len(other.values):
            return f" {one.name} is individuals × traits: pass {one.name}.T."
    return ""


# --------------------------------------------------------------------------------------------
# The kinship matrix
# --------------------------------------------------------------------------------------------


def read_kinship(K: Any, G: Any) -> tuple[Table, bool]:
    """Kinship matrix or factor as a table, and whether it is a factor.

    Raises
    ------
    InputError
        None or both were given, or the matrix is not square, symmetric and finite.
    """
    if (K is None) == (G is None):
        raise InputError("give a kinship matrix K or a factor G with K = GG', one of the two.")
    if isinstance(K, KinshipFactor) or G is not None:
        return _read_factor(K if G is None else G), True
    table = Table.of(K, "K")
    n, m = table.values.shape
    if n != m:
        raise InputError(
            f"K must be square, individuals × individuals; found {n} × {m}. A factor with "
            "K = GG' is given as G."
        )
    _check_finite(table)
    if table.ids is not None and table.columns is not None and table.columns != table.ids:
        table = _same_order(table)
    _check_symmetric(table)
    return Table("K", (table.values + table.values.T) / 2, table.ids, None), False


def _read_factor(G: Any) -> Table:
    ids = G.individuals if isinstance(G, KinshipFactor) else None
    table = Table.of(G.G if isinstance(G, KinshipFactor) else G, "G")
    _check_finite(table)
    if not table.values.any():
        raise InputError("G holds only zeros.")
    return Table("G", table.values, table.ids if ids is None else tuple(map(str, ids)), None)


def _check_finite(table: Table) -> None:
    bad = ~np.isfinite(table.values)
    if bad.any():
        row = int(np.flatnonzero(bad.any(1))[0])
        who = table.ids[row] if table.ids else f"row {row}"
        raise InputError(
            f"{table.name} has {bad.sum()} values that are missing or infinite, the first of "
            f"{who}; leave those individuals out."
        )
    largest = np.abs(table.values).max(initial=0.0)
    if largest > LARGEST_VALUE:
        raise InputError(
            f"{table.name} has values up to {largest:.3g}, whose squares are no numbers any more; "
            f"{LARGEST_VALUE:.0e} is the most: rescale them."
        )


def _same_order(table: Table) -> Table:
    """Columns of K in the order of its rows."""
    rows, columns = pd.Index(table.ids or ()), pd.Index(table.columns or ())
    unknown = rows.symmetric_difference(columns)
    if len(unknown):
        raise InputError(
            f"K: rows and columns name different individuals: {first_of(unknown)} are on one side."
        )
    order = np.asarray(columns.get_indexer(rows))
    return Table("K", table.values[:, order], table.ids, None)


def _check_symmetric(table: Table) -> None:
    K = table.values
    gap = np.abs(K - K.T)
    if gap.max(initial=0.0) > ASYMMETRY * np.abs(np.diag(K)).max(initial=0.0):
        i, j = np.unravel_index(int(gap.argmax()), K.shape)
        names = table.ids or tuple(map(str, range(len(K))))
        raise InputError(
            f"K is not symmetric: K[{names[i]}, {names[j]}] = {K[i, j]:.6g} and "
            f"K[{names[j]}, {names[i]}] = {K[j, i]:.6g}. Fill both triangles."
        )


def nonnegative_kinship(K: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """K with eigenvalues that rounding made negative set to zero, and what is to be said.

    Raises
    ------
    InputError
        An eigenvalue too negative for rounding.
    """
    values = np.linalg.eigvalsh(K)
    largest, smallest = values[-1], values[0]
    if smallest < -EIGEN_REFUSED * max(largest, 0.0) or largest <= 0:
        raise InputError(
            f"K is not positive semi-definite: eigenvalues from {smallest:.3g} to {largest:.3g}, "
            f"{(values < 0).sum()} of {len(values)} negative. A covariance matrix has none: "
            "check how K was made (pairwise deletion of missing genotypes?)."
        )
    if smallest >= 0:
        return K, ()
    text = (
        f"{(values < 0).sum()} of {len(values)} eigenvalues of K are negative by rounding "
        f"(down to {smallest:.2g}) and count as zero."
    )
    if smallest >= -EIGEN_ROUNDING * largest:
        return K, (text,)  # rounding of the decomposition itself needs no warning
    values, vectors = np.linalg.eigh(K)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    return root @ root.T, (note(text),)


def scale_of(diagonal: np.ndarray, scale: bool) -> tuple[float, tuple[str, ...]]:
    """Divisor of K, and what is to be said about its mean diagonal."""
    mean = float(diagonal.mean())
    if abs(mean - 1.0) <= (1e-12 if scale else DIAGONAL_TOLERANCE):
        return 1.0, ()
    if scale:
        return mean, (note(f"K was divided by its mean diagonal {mean:.6g}."),)
    return 1.0, (
        note(
            f"The mean diagonal of K is {mean:.6g}, not 1: h2 is a share of the variance of an "
            "average individual only after scale=True. Likelihoods and tests do not change."
        ),
    )
