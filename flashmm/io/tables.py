"""Tables as Parquet and text, with what made them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from flashmm.options import checked
from flashmm.storage.files import PathLike, atomic_path, package_version, reading

# Key of the metadata of a Parquet schema.
_PROVENANCE = b"flashmm"


@checked
def write_table(
    frame: pd.DataFrame,
    path: PathLike,
    tsv: PathLike | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write the columns of a table (not its index) as Parquet, and as text where `tsv` is given.

    Parameters
    ----------
    frame : pandas.DataFrame
        A tidy table.
    path : path
        The Parquet file.
    tsv : path, optional
        A tab-separated file for people; with an ending such as `.tsv.gz` it is compressed.
    provenance : mapping, optional
        What made the table; kept as JSON under ``flashmm`` in the metadata of the Parquet schema,
        with the version of the package (`read_provenance`).
    """
    table = pa.Table.from_pandas(frame, preserve_index=False)
    recipe = json.dumps({"flashmm": package_version()} | dict(provenance or {}), default=str)
    metadata = {**(table.schema.metadata or {}), _PROVENANCE: recipe}
    with atomic_path(path) as unfinished:
        parquet.write_table(table.replace_schema_metadata(metadata), unfinished)
    if tsv is not None:
        write_text(frame, tsv)


def write_text(frame: pd.DataFrame, path: PathLike, header: bool = True) -> None:
    """Write the columns of a table as text: separated by commas for `.csv`, else by tabs."""
    comma = Path(path).name.removesuffix(".gz").endswith(".csv")
    with atomic_path(path) as unfinished:
        frame.to_csv(
            unfinished,
            sep="," if comma else "\t",
            header=header,
            index=False,
            na_rep="NA",
            lineterminator="\n",
        )


@checked
def read_provenance(path: PathLike) -> dict[str, Any]:
    """Read what made a Parquet table that `write_table` wrote."""
    with reading(path):
        metadata = parquet.read_schema(path).metadata or {}
    return dict(json.loads(metadata.get(_PROVENANCE, b"{}")))


@checked
def read_table(path: PathLike) -> pd.DataFrame:
    """Read a Parquet table that `write_table` wrote."""
    with reading(path):
        return pd.read_parquet(path)
