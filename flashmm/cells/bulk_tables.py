"""Bulk expression: tables of genes x samples as people have them, as an AnnData of logarithms."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from flashmm.cells.sheet import Sheet, matched, read_sheet
from flashmm.cells.transforms import is_counts
from flashmm.names import listed
from flashmm.options import InputError, checked, note
from flashmm.storage.files import PathLike

LAYOUTS = ("auto", "wide", "long")
VALUES = ("auto", "counts", "normalised", "logarithms")
# Added to counts, and to their total, before the logarithm of counts per million, as limma does.
OFFSET_COUNT, OFFSET_TOTAL = 0.5, 1.0
# Values above are no logarithms of base two of counts, FPKM or TPM.
LARGEST_LOGARITHM = 20.0
# What other programs write beside the samples (featureCounts, RSEM, Cufflinks), in lower case.
ANNOTATIONS = (
    *("chr", "chrom", "chromosome", "start", "end", "strand", "length", "effective_length"),
    *("entrezid", "entrez_id", "gene_length", "transcript_length"),
)
# How names of files of cells end, with the quote of a message.
OF_CELLS = (".h5ad'", ".h5'", ".zarr'", ".mtx'", ".mtx.gz'")
_SAID = {
    "counts": "counts; X is log2 of counts per million",
    "normalised": "normalised values (FPKM, TPM); X is log2(1 + value)",
    "logarithms": "logarithms; X holds them as they are",
}


@checked
def read_bulk(
    table: pd.DataFrame | PathLike,
    obs: Sheet | None = None,
    *,
    layout: str = "auto",
    values: str = "auto",
) -> ad.AnnData:
    """Read a table of bulk expression as samples x genes.

    Parameters
    ----------
    table : DataFrame or path (CSV, TSV, Parquet; also `.gz`)
        Wide: a row per gene, its name first, and a column per sample (or the other way round, where
        the names of the samples in `obs` tell so). Long: three columns, of genes, samples and
        values.
    obs : DataFrame or path, optional
        What is known of the samples, matched by their names (its index or one of its columns):
        conditions, and individuals where these have several samples.
    layout : {"auto", "wide", "long"}
        How the table is laid out; "auto" takes three columns of which the first two together name
        each row, and the first alone does not, for a long one.
    values : {"auto", "counts", "normalised", "logarithms"}
        What the values are. "auto" takes whole numbers from 0 on for counts, other tables with
        negative values or without any above 20 for logarithms, and the rest for normalised values
        (FPKM, TPM, RPKM).

    Returns
    -------
    anndata.AnnData
        Samples x genes. `X` holds logarithms: log2((count + 0.5) / (total + 1) · 10⁶) of counts,
        log2(1 + value) of normalised values, logarithms as they are; the layer "values" holds what
        the table does, obs the column `sample`, and `libsize` of counts. Models of it take
        ``transform="none"``, as `bulk_tests` does.

    Raises
    ------
    InputError
        The table cannot be read, names come twice, values are missing or no numbers, or samples
        are not those of `obs`.
    """
    for given, known, argument in ((layout, LAYOUTS, "layout"), (values, VALUES, "values")):
        if given not in known:
            raise InputError(f"{argument}={given!r} is not known; use one of {listed(known)}.")
    name = "the table" if isinstance(table, pd.DataFrame) else f"'{table}'"
    if name.endswith(OF_CELLS):
        raise InputError(
            f"{name} is no table of samples, but a file of cells, which flashmm.de (`flashmm de`) "
            "analyses."
        )
    frame = read_sheet(table)
    is_long = layout == "long" or (layout == "auto" and _is_long(frame))
    known_samples = None if obs is None else read_sheet(obs)
    wide, left_out = (_spread(frame, name), []) if is_long else _wide(frame, known_samples)
    notes = [note(f"{name}: {listed(left_out)} are no samples and left out.")] if left_out else []
    expression = _numbers(wide, name)
    samples = pd.DataFrame({"sample": list(expression.columns)}, index=expression.columns)
    if known_samples is not None:
        sheet = matched(known_samples, expression.columns, name, "samples")
        _check_rows(sheet.listed, expression.columns, name)
        others = known_samples.shape[0] - len(samples)
        if others:
            notes.append(note(f"obs has {others} rows of samples that {name} does not have."))
        sheet_columns = sheet.table.set_axis(expression.columns, axis=0)
        samples = samples.join(sheet_columns.rename(columns={"sample": "sample_of_obs"}))
    kind = _kind(expression.to_numpy()) if values == "auto" else values
    notes.append(note(f"{name} is taken to hold {_SAID[kind]} (values={kind!r})."))
    return _as_anndata(expression.T, samples, kind, notes)


def _is_long(frame: pd.DataFrame) -> bool:
    """Whether there are three columns, and the first two together name each row."""
    if frame.shape[1] != 3 or not isinstance(frame.index, pd.RangeIndex):
        return False
    keys = frame.columns[:2]
    return bool(frame[keys[0]].duplicated().any() and not frame[keys].duplicated().any())


def _spread(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """A long table as genes x samples."""
    if frame.shape[1] != 3:
        raise InputError(
            f"{name} has {frame.shape[1]} columns; a long table has three: of genes, samples and "
            f"values. Found {listed(frame.columns)}."
        )
    gene, sample, value = frame.columns
    twice = frame[[gene, sample]].duplicated()
    if twice.any():
        raise InputError(
            f"{name} has {int(twice.sum())} pairs of a gene and a sample more than once, such as "
            f"{listed(map(str, frame.loc[twice, [gene, sample]].iloc[0]))}; add their values up."
        )
    wide = frame.pivot(index=gene, columns=sample, values=value)
    return wide.set_axis(wide.index.astype(str), axis=0).set_axis(wide.columns.astype(str), axis=1)


def _wide(frame: pd.DataFrame, obs: pd.DataFrame | None) -> tuple[pd.DataFrame, list[Any]]:
    """A wide table as genes x samples, its rows named, and the columns that were no samples."""
    if isinstance(frame.index, pd.RangeIndex):
        if frame.shape[1] < 2:
            raise InputError(
                f"The table has {frame.shape[1]} columns: a name and samples are needed."
            )
        frame = frame.set_index(frame.columns[0])
    frame = frame.set_axis(frame.index.astype(str), axis=0)
    frame = frame.set_axis(frame.columns.astype(str), axis=1)
    if obs is not None:
        known = _all_names(obs)
        if frame.index.isin(known).sum() > frame.columns.isin(known).sum():
            frame = frame.T
        others = [column for column in frame if column not in known]
        if len(others) == frame.shape[1]:
            return frame, []
        return _without(frame, [c for c in others if _is_annotation(frame, c)])
    return _without(frame, [c for c in frame if _is_annotation(frame, c)])


def _all_names(obs: pd.DataFrame) -> set[str]:
    """Everything in a sheet that may name a sample."""
    texts = [c for c in obs if not pd.api.types.is_numeric_dtype(obs[c])]
    return set(obs.index.astype(str)).union(*(obs[c].astype(str) for c in texts))


def _is_annotation(frame: pd.DataFrame, column: Any) -> bool:
    numeric = pd.api.types.is_numeric_dtype(frame[column])
    return not numeric or str(column).lower() in ANNOTATIONS


def _without(frame: pd.DataFrame, columns: list[Any]) -> tuple[pd.DataFrame, list[Any]]:
    """The table without columns of annotation, and these; whole where no other would be left."""
    if not columns or len(columns) == frame.shape[1]:
        return frame, []
    return frame.drop(columns=columns), columns


def _numbers(wide: pd.DataFrame, name: str) -> pd.DataFrame:
    """Values as numbers, all there, of names that differ."""
    for what, names, advice in (
        ("genes", wide.index, "Add their rows up, or use identifiers."),
        ("samples", wide.columns, "Rename them."),
    ):
        if names.has_duplicates:
            twice = names[names.duplicated()].unique()
            raise InputError(
                f"{name}: {len(twice)} names are given to more than one of the {what}: "
                f"{listed(twice, 3)}. {advice}"
            )
    wrong = [c for c in wide if not pd.api.types.is_numeric_dtype(wide[c])]
    if wrong:
        raise InputError(
            f"{name} holds text in the column {listed(wrong[:1])}; samples hold numbers, with a "
            "point, not a comma, before their decimals."
        )
    numbers = wide.astype(np.float64)
    missing = int(np.count_nonzero(~np.isfinite(numbers.to_numpy())))
    if missing:
        raise InputError(
            f"{name} has {missing} missing or infinite values of {numbers.size} (pairs of a gene "
            "and a sample that a long table lacks are missing): fill them in, or leave these genes "
            "or samples out."
        )
    if not numbers.size:
        raise InputError(f"{name} holds no values.")
    return numbers


def _check_rows(listed_samples: np.ndarray, names: pd.Index, name: str) -> None:
    if not listed_samples.all():
        raise InputError(
            f"obs has no row of {int((~listed_samples).sum())} of the {len(names)} samples of "
            f"{name}: {listed(names[~listed_samples], 5)}. Add them, or leave these columns out."
        )


def _kind(values: np.ndarray) -> str:
    if is_counts(values):
        return "counts"
    return "logarithms" if values.min() < 0 or values.max() <= LARGEST_LOGARITHM else "normalised"


def _as_anndata(
    expression: pd.DataFrame, samples: pd.DataFrame, kind: str, notes: list[str]
) -> ad.AnnData:
    """Logarithms of the values, samples x genes."""
    raw = expression.to_numpy()
    logs = raw
    if kind != "logarithms" and raw.min() < 0:
        raise InputError(f"values={kind!r}: some values are negative; use values='logarithms'.")
    if kind == "counts":
        samples = samples.assign(libsize=raw.sum(1))
        # y = log₂((count + ½) / (total + 1) · 10⁶)
        logs = np.log2((raw + OFFSET_COUNT) / (raw.sum(1, keepdims=True) + OFFSET_TOTAL) * 1e6)
    elif kind == "normalised":
        logs = np.log2(1 + raw)
    var = pd.DataFrame(index=expression.columns.astype(str).rename(None))
    made = ad.AnnData(logs, obs=samples.rename_axis(None), var=var, layers={"values": raw})
    made.uns["flashmm_bulk"] = {"values": kind, "notes": notes}
    return made
