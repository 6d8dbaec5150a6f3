"""A table of tests in an AnnData, and in a file."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import pandas as pd

from flashmm.inference.table import TestTable
from flashmm.io.tables import write_table, write_text
from flashmm.notebook.rows import has_groups
from flashmm.options import InputError, checked
from flashmm.storage.files import PathLike

KEY = "flashmm"


@checked
def to_anndata(table: TestTable, adata: ad.AnnData, key: str = KEY) -> ad.AnnData:
    """Put the tests into `varm` and `uns` of an AnnData with these genes, in place.

    Parameters
    ----------
    adata : AnnData
        Its `var_names` hold the genes of the table; genes that were not tested get NaN.
    key : str
        Prefix of the names.

    Returns
    -------
    AnnData
        The same, with ``varm[f"{key}:{name}"]`` a frame (genes, columns of the test) for each test,
        `name` being the contrast or "level: contrast", and ``uns[key]`` with `tests` (their names
        in `varm`), `ddf`, `alternative`, `within` and `notes`. It can be written as `.h5ad`.

    Raises
    ------
    InputError
        The AnnData has none of the genes, or two genes of one name.
    """
    if not adata.var_names.is_unique:
        raise InputError("adata has gene names that come twice: adata.var_names_make_unique().")
    if not table.genes.isin(adata.var_names).any():
        raise InputError("adata has none of the genes of the table; look at how they are named.")
    frame = table.to_frame(intervals=True, details=has_groups(table))
    labels = [] if table.within is None else [table.within]
    tests = []
    for names, rows in frame.groupby([*labels, "contrast"], sort=False, observed=True):
        test = f"{key}:{': '.join(map(str, names))}".replace("/", "_")
        own = rows.set_index("gene").drop(columns=[*labels, "contrast"])
        adata.varm[test] = _writable(own.reindex(adata.var_names))
        tests.append(test)
    adata.uns[key] = {
        "tests": tests,
        "ddf": table.ddf,
        "alternative": table.alternative,
        "within": table.within or "",
        "notes": list(table.notes),
    }
    return adata


def _writable(frame: pd.DataFrame) -> pd.DataFrame:
    """Texts without missing values, and names without slashes, which HDF5 has not."""
    texts = frame.select_dtypes(include=["object", "string"]).columns
    frame = frame.assign(**{name: frame[name].fillna("").astype(str) for name in texts})
    frame.columns = [str(name).replace("/", "_") for name in frame.columns]
    return frame


@checked
def write(table: TestTable, path: PathLike) -> None:
    """Write the tests with intervals and details, as the ending of the path says.

    Parameters
    ----------
    path : path
        `.parquet`, or text: `.tsv`, `.csv`, also with `.gz`.

    Raises
    ------
    InputError
        Another ending.
    """
    frame = table.to_frame(intervals=True, details=has_groups(table))
    made = {"ddf": table.ddf, "alternative": table.alternative, "notes": list(table.notes)}
    name = Path(path).name
    if name.endswith(".parquet"):
        write_table(frame, path, provenance=made)
    elif name.removesuffix(".gz").endswith((".tsv", ".csv")):
        write_text(frame, path)
    else:
        raise InputError(f"'{name}': tests are written as .parquet, .tsv or .csv (.gz).")
