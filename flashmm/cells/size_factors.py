"""Size factors of groups: by how much the library size of a sample misleads.

A total of counts follows the genes that change. The factors that correct it are taken from the
samples' sums of raw counts (`flashmm.kernels.composition`), and are then applied to the stored sums
(`flashmm.cells.effective_libsize`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from flashmm.cells.groups import GroupStatistics, moment_name
from flashmm.kernels.composition import expected_genes, tmm_factors
from flashmm.names import did_you_mean, listed
from flashmm.options import InputError, checked, note

LIBSIZE = "libsize"
CELL_TYPE = "cell_type"
NAME = "size_factor"
# Key of the record in `GroupStatistics.provenance`, and in the attributes of the factors.
RECORD = "size_factors"
# Key of the number of all genes, in the provenance of groups that were read for some of them only.
GENES = "genes_of_file"

# A sample needs this many genes of which it is expected to have as many counts.
MIN_GENES = 10
MIN_EXPECTED = 3.0
# Library sizes and totals of the stored genes that differ by more are of other sets of genes.
_MOST_RATIO = 1.25


def _of_expressed_genes(counts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return tmm_factors(counts, sizes, MIN_EXPECTED)


# Factors (samples,) of counts (samples, genes) and library sizes (samples,).
METHODS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "tmm": tmm_factors,
    "tmm-expressed": _of_expressed_genes,
    "total": lambda counts, sizes: np.ones(len(counts)),
}


@checked
def size_factors(
    groups: GroupStatistics,
    within: str | None = None,
    method: str = "tmm",
    samples: Sequence[str] | None = None,
) -> pd.Series:
    """Give each group the factor by which its library sizes mislead.

    Parameters
    ----------
    groups : GroupStatistics
        With sums of raw counts.
    within : str, optional
        A `by` column, such as "cell_type": samples are compared with those of the same level only.
    method : {"tmm", "tmm-expressed", "total"} or a column
        Trimmed means of M-values over all genes, as edgeR's `calcNormFactors`; the same over genes
        that are not rare in a sample, which keeps the factors of small samples free of bias;
        the total counts as they are (all factors 1); or a column of `obs` that holds factors.
    samples : sequence of str, optional
        The `by` columns that define a sample; groups that differ in others only (and not in
        `within`) are added and have one factor. By default each group is a sample.

    Returns
    -------
    pandas.Series
        (groups,) Positive factors by name of the group; with trimmed means, those of the samples
        of each level have geometric mean 1. Samples with too few counts, which have fewer than ten
        genes with three expected counts, have factor 1 and are left out of all comparisons. `attrs`
        holds how they were made.

    Raises
    ------
    InputError
        There are no sums of raw counts, a column is not there, or it holds factors that are not
        positive numbers.

    Notes
    -----
    Factors of "tmm" rise where a sample has few counts, since of its rare genes only those with a
    count are compared. Where one condition has fewer cells in a type, they differ between the
    conditions, and so do then all genes that follow the library size; "tmm-expressed" has no such
    bias and is otherwise as good.

    The library size that the factors belong to is the total of the stored genes, or the sum of
    `libsize` where that is stored as a covariate. Where `libsize` counts other genes too, store it:
    ``summarise(..., covariates=["log(libsize)", "libsize"])``.
    """
    if method not in METHODS:
        return _column(groups, method)
    columns = _columns_of_samples(groups, within, samples)
    recipe = {"method": method, "within": within, "samples": list(columns)}
    if method == "total":
        return _series(groups, np.ones(groups.n_groups), recipe, ())
    if groups.counts is None:
        raise InputError(
            f"Size factors by method={method!r} need the sums of raw counts, which these groups do "
            "not have: the input was not counts, or a part that was merged was not. Summarise raw "
            "counts (layer=), or give a column with factors of your own as method."
        )
    if GENES in groups.provenance:
        raise InputError(
            f"Size factors need all genes, and these groups hold {groups.n_genes} of the "
            f"{groups.provenance[GENES]} of their file: take them with read_size_factors(path)."
        )
    sample = groups.obs.groupby(columns, observed=True, sort=True).ngroup().to_numpy()
    level = (
        np.zeros(groups.n_groups, int) if within is None else pd.factorize(groups.obs[within])[0]
    )
    factors, compared = np.ones(groups.n_groups), np.zeros(groups.n_groups, bool)
    sizes = library_sizes(groups)
    for one in range(level.max() + 1):
        rows = np.flatnonzero(level == one)
        factors[rows], compared[rows] = _factors(
            groups.counts[rows], sizes[rows], sample[rows], METHODS[method]
        )
    return _series(groups, factors, recipe, _notes(groups, compared))


def library_sizes(groups: GroupStatistics) -> np.ndarray:
    """Library size of each group: Σ libsize where it is stored, else the total of its counts.

    Parameters
    ----------
    groups : GroupStatistics
        With sums of raw counts, unless `libsize` is one of its covariates.

    Returns
    -------
    numpy.ndarray
        (groups,).
    """
    stored = moment_name(LIBSIZE)
    if stored in groups.obs:
        return groups.obs[stored].to_numpy(dtype=np.float64)
    if groups.counts is None:
        raise InputError(
            "Library sizes of these groups are not known: neither 'libsize' nor counts are stored."
        )
    return groups.counts.sum(axis=1)


def recorded_factors(record: Mapping[str, Any]) -> pd.Series:
    """Return the size factors that a record in `provenance` holds, as `size_factors` does."""
    series = pd.Series(record["factors"], name=NAME, dtype=np.float64)
    series.attrs = {RECORD: {key: value for key, value in record.items() if key != "factors"}}
    return series


def _series(
    groups: GroupStatistics, factors: np.ndarray, recipe: dict[str, Any], notes: Sequence[str]
) -> pd.Series:
    series = pd.Series(factors, index=groups.obs.index, name=NAME)
    series.attrs = {RECORD: recipe, "notes": list(notes)}
    return series


def _column(groups: GroupStatistics, column: str) -> pd.Series:
    """Take factors from a column of `obs`."""
    if column not in groups.obs:
        known = [*METHODS, *groups.by]
        raise InputError(
            f"method={column!r} is neither one of {listed(METHODS)} nor a column of the groups"
            f"{did_you_mean(str(column), known)}"
        )
    values = groups.obs[column]
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        raise InputError(
            f"Column '{column}' holds {values.dtype} values; size factors are positive numbers."
        )
    factors = checked_factors(groups, values.to_numpy(dtype=np.float64), f"column '{column}'")
    return _series(groups, factors, {"method": column, "within": None}, ())


def _columns_of_samples(
    groups: GroupStatistics, within: str | None, samples: Sequence[str] | None
) -> list[str]:
    """Name the columns whose combinations are the samples, that of `within` among them."""
    if isinstance(samples, str):
        samples = (samples,)
    chosen = groups.by if samples is None else tuple(samples)
    columns = list(dict.fromkeys((*chosen, *(() if within is None else (within,)))))
    for name in columns:
        if name not in groups.by:
            argument = "within" if name == within else "samples"
            raise InputError(
                f"{argument}={name!r} is not a column that defines the groups"
                f"{did_you_mean(name, groups.by)} They are {listed(groups.by)}."
            )
    if not columns:
        raise InputError("samples is empty: name the columns that define a sample, or None.")
    return columns


def _factors(
    counts: np.ndarray,
    sizes: np.ndarray,
    sample: np.ndarray,
    method: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Factors (groups,) of the groups of one level, and whether each has counts enough for one."""
    names, place = np.unique(sample, return_inverse=True)
    if len(names) < len(counts):
        pooled = np.zeros((len(names), counts.shape[1]))
        np.add.at(pooled, place, counts)
        counts, sizes = pooled, np.bincount(place, sizes)
    factors = np.ones(len(counts))
    enough = (sizes > 0) & (counts.sum(axis=1) > 0)
    enough[enough] = expected_genes(counts[enough], sizes[enough], MIN_EXPECTED) >= MIN_GENES
    if enough.any():
        factors[enough] = method(counts[enough], sizes[enough])
    return factors[place], enough[place]


def _notes(groups: GroupStatistics, compared: np.ndarray) -> list[str]:
    notes = []
    if not compared.all():
        names = groups.obs.index[~compared]
        notes.append(
            note(
                f"{len(names)} of {groups.n_groups} groups have too few counts for a size factor "
                f"(fewer than {MIN_GENES} genes with {MIN_EXPECTED:g} expected counts) and keep "
                f"their library size: {listed(names, 3)}."
            )
        )
    ratio = _libsize_ratio(groups)
    if not 1 / _MOST_RATIO < ratio < _MOST_RATIO:
        notes.append(
            note(
                f"libsize is {ratio:.3g} times the total of the stored genes: size factors are "
                "relative to that total. Store the sums of libsize, which are then used instead: "
                "summarise(..., covariates=['log(libsize)', 'libsize'])."
            )
        )
    return notes


def _libsize_ratio(groups: GroupStatistics) -> float:
    """Median over groups of library sizes by the totals of counts; 1 where that is not known."""
    x = moment_name(f"log({LIBSIZE})")
    if x not in groups.obs or moment_name(LIBSIZE) in groups.obs or groups.counts is None:
        return 1.0
    n, first = groups.moment(0, 0), groups.obs[x].to_numpy()
    second = groups.obs[moment_name(f"log({LIBSIZE})", f"log({LIBSIZE})")].to_numpy()
    # mean of a log-normal variable: exp(m + s²/2)
    size = np.exp(first / n + np.maximum(second / n - (first / n) ** 2, 0) / 2) * n
    total = groups.counts.sum(axis=1)
    return float(np.median(size[total > 0] / total[total > 0])) if total.any() else 1.0


def checked_factors(
    groups: GroupStatistics, factors: Any, origin: str = "the size factors"
) -> np.ndarray:
    """Return one positive number for each group, in their order."""
    if isinstance(factors, pd.Series):
        lacking = groups.obs.index[~groups.obs.index.isin(factors.index)]
        if len(lacking) or not factors.index.is_unique:
            raise InputError(
                f"The size factors must have one value for each group by its name; they lack "
                f"{len(lacking)} of {groups.n_groups} ({listed(lacking, 3)})."
            )
        factors = factors.loc[groups.obs.index]
    values = np.asarray(factors, dtype=np.float64)
    if values.shape != (groups.n_groups,):
        raise InputError(
            f"{groups.n_groups} size factors are needed, one for each group; found an array of "
            f"the shape {values.shape}."
        )
    bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if len(bad):
        raise InputError(
            f"Size factors are positive numbers; {origin} is {values[bad[0]]:g} for group "
            f"'{groups.obs.index[bad[0]]}' ({len(bad)} of {groups.n_groups} are not positive)."
        )
    return values
