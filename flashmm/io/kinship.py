"""Files that say how related individuals are: kinship matrices, factors, genotypes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from flashmm.kinship.data import KinshipFactor, kinship_factor
from flashmm.names import listed
from flashmm.options import InputError, checked
from flashmm.storage.files import PathLike, reading


@checked
def read_kinship_file(path: PathLike, kind: str = "kinship") -> pd.DataFrame | KinshipFactor:
    """Read what says how related individuals are.

    Parameters
    ----------
    path : path
        A table with the names of the individuals in its first column (`.tsv`, `.csv`, also with
        `.gz`; `.parquet`), or an `.npz` file of two arrays, `ids` and the numbers.
    kind : {"kinship", "factor", "genotypes"}
        A kinship matrix K with the individuals as columns too; a factor G with K = GG', individuals
        × anything; or allele counts, individuals × markers, from which a factor is made.

    Returns
    -------
    DataFrame or KinshipFactor
        K for `rotate_by_kinship`, its rows and columns named; a factor otherwise.

    Raises
    ------
    InputError
        The file cannot be read, or holds something else.
    """
    if kind not in ("kinship", "factor", "genotypes"):
        raise InputError(f"kind must be kinship, factor or genotypes; found {kind!r}.")
    with reading(path):
        table = _named_rows(Path(path))
    wrong = [name for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    if wrong or not table.size:
        held = f"holds text in the column {wrong[0]!r}" if wrong else "holds no numbers"
        raise InputError(
            f"'{path}' {held}; the first column names the individuals, all others hold numbers."
        )
    if table.index.has_duplicates:
        twice = table.index[table.index.duplicated()][0]
        raise InputError(f"'{path}' has more than one row named {twice!r}.")
    if kind == "genotypes":
        return kinship_factor(table)
    if kind == "factor":
        return KinshipFactor(table.to_numpy(dtype=np.float64), table.index)
    if set(table.columns) != set(table.index):
        raise InputError(
            f"'{path}': the columns of a kinship matrix name the same individuals as its rows "
            f"({table.shape[0]} rows, {table.shape[1]} columns); if it is something else, say "
            "kind: factor or kind: genotypes."
        )
    return table


def _named_rows(path: Path) -> pd.DataFrame:
    """Table with the names of its rows, as text, in the index."""
    endings = [ending.lower() for ending in path.suffixes if ending != ".gz"]
    ending = endings[-1] if endings else ""
    if ending == ".npz":
        return _named_arrays(path)
    if ending == ".parquet":
        table = pd.read_parquet(path)
        if isinstance(table.index, pd.RangeIndex):
            table = table.set_index(table.columns[0])
    elif ending in (".tsv", ".txt", ".csv"):
        table = _named_text(path, "," if ending == ".csv" else "\t")
    else:
        raise InputError(f"'{path}': a table ends in .tsv, .csv, .parquet or .npz.")
    return table.set_axis(table.index.astype(str), axis=0).set_axis(
        table.columns.astype(str), axis=1
    )


def _named_text(path: Path, separator: str) -> pd.DataFrame:
    """Text with the names in its first column, which R's write.table gives no heading."""
    head = pd.read_csv(path, sep=separator, nrows=1)
    if not isinstance(head.index, pd.RangeIndex):
        return pd.read_csv(path, sep=separator)
    names = head.columns[0]
    return pd.read_csv(path, sep=separator, dtype={names: str}).set_index(names)


def _named_arrays(path: Path) -> pd.DataFrame:
    with np.load(path, allow_pickle=False) as arrays:
        values = [name for name in arrays.files if name != "ids"]
        if "ids" not in arrays.files or len(values) != 1:
            raise InputError(
                f"'{path}' must hold two arrays, `ids` and the numbers; found "
                f"{listed(arrays.files)}."
            )
        ids, numbers = arrays["ids"].astype(str), arrays[values[0]]
    if numbers.ndim != 2 or len(numbers) != len(ids):
        raise InputError(f"'{path}': {len(ids)} ids for numbers of the shape {numbers.shape}.")
    square = numbers.shape[0] == numbers.shape[1]
    columns = ids if square else [str(j + 1) for j in range(numbers.shape[1])]
    return pd.DataFrame(numbers, index=pd.Index(ids, dtype=object), columns=columns)
