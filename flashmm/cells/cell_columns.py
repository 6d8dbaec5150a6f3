"""Columns of the cells on their way into groups: which cells are complete, and what groups them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from flashmm.options import InputError, note


def complete_cells(
    columns: pd.DataFrame, missing: str, name: str, unlisted: int
) -> tuple[np.ndarray, list[str]]:
    """Find the cells without missing values.

    Parameters
    ----------
    columns : DataFrame
        (cells, columns) The columns in use.
    missing : {"error", "drop"}
        Whether missing values are an error, or their cells are left out.
    name : str
        What messages call the cells.
    unlisted : int
        Number of cells that the sheet beside them has no row for.

    Returns
    -------
    kept : numpy.ndarray
        (cells,) bool.
    notes : list of str
        What is said of the others.
    """
    absent = columns.isna()
    counts = absent.sum()
    kept = ~absent.any(axis=1).to_numpy()
    if kept.all():
        return kept, []
    found = ", ".join(f"'{column}' ({n})" for column, n in counts[counts > 0].items())
    found += f"; {unlisted} cells have no row in obs" if unlisted else ""
    n_lost = np.count_nonzero(~kept)
    if missing == "error":
        raise InputError(
            f"{name}: {n_lost} of {len(kept)} cells have missing values in the column(s) {found} "
            "(the text 'nan' is one); fill them in, or use missing='drop' to leave these cells out."
        )
    if not kept.any():
        raise InputError(f"{name}: no cell is left, all have missing values in {found}.")
    text = f"{name}: {n_lost} of {len(kept)} cells left out, values missing in {found}."
    return kept, [note(text)]


def grouping_key(column: pd.Series, name: str) -> pd.Series:
    """Return a `by` column as what it is grouped by: categories, booleans or numbers."""
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype) or dtype.kind in "biuf":
        plain = getattr(dtype, "numpy_dtype", None)  # nullable, without missing values by now
        return column if plain is None else column.astype(plain)
    kind = pd.api.types.infer_dtype(column, skipna=False)
    if kind == "string":
        return column.astype(pd.CategoricalDtype(sorted(column.unique())))
    if kind in ("boolean", "integer", "floating"):
        return column.infer_objects()
    raise InputError(
        f"{name}: the column '{column.name}' holds values of the type {kind}; "
        "use text, categories, numbers or booleans in 'by'."
    )
