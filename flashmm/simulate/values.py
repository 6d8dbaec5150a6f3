"""Single values of a spec: what they may be, and how they are named and written down."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from os import PathLike
from typing import Any

import anndata
import numpy as np
import pandas as pd

from flashmm.names import listed
from flashmm.options import InputError, is_number

GROUPINGS = ("subject", "cell_type", "condition")


def check_whole(name: str, value: Any, minimum: int) -> None:
    """Refuse what is not a whole number of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise InputError(f"{name}: a whole number of at least {minimum} expected, found {value!r}")


def check_not_negative(name: str, value: Any) -> None:
    """Refuse what is not a finite number of at least zero."""
    if not is_number(value) or not 0 <= value < np.inf:
        raise InputError(f"{name}: a finite number of at least 0 expected, found {value!r}")


def check_positive(name: str, value: Any) -> None:
    """Refuse what is not a finite number above zero."""
    if not is_number(value) or not 0 < value < np.inf:
        raise InputError(f"{name}: a finite number above 0 expected, found {value!r}")


def check_share(name: str, value: Any) -> None:
    """Refuse what is not a number from 0 to 1."""
    if not is_number(value) or not 0 <= value <= 1:
        raise InputError(f"{name}: a number from 0 to 1 expected, found {value!r}")


def check_type_names(field: str, named: Mapping[str, Any], types: list[str]) -> None:
    """Refuse names that are no cell types."""
    unknown = [name for name in named if name not in types]
    if unknown:
        raise InputError(f"{field}: no cell type {listed(unknown)}; there are {listed(types)}")


def check_metadata(metadata: pd.DataFrame) -> None:
    """Refuse sheets of cells without the groupings, with gaps, or with impossible libsizes."""
    if not isinstance(metadata, pd.DataFrame) or metadata.empty:
        raise InputError("metadata: a DataFrame with one row per cell expected")
    missing = [name for name in GROUPINGS if name not in metadata]
    if missing:
        raise InputError(f"metadata: no column {listed(missing)}; found {listed(metadata.columns)}")
    for name in (*GROUPINGS, "libsize"):
        absent = metadata[name].isna().sum() if name in metadata else 0
        if absent:
            raise InputError(f"metadata: column {name!r} has {absent} missing values; fill or drop")
    if "libsize" in metadata:
        _check_libsize(metadata["libsize"])


def _check_libsize(libsize: pd.Series) -> None:
    if not pd.api.types.is_numeric_dtype(libsize):
        raise InputError(f"metadata: column 'libsize' must hold numbers, found {libsize.dtype}")
    values = libsize.to_numpy(np.float64)
    bad = ~np.isfinite(values) | (values <= 0)
    if bad.any():
        raise InputError(
            f"metadata: column 'libsize' has {bad.sum()} values that are not positive and finite "
            f"(first {values[bad][0]}); their logarithm is the offset"
        )


def labels(prefix: str, n: int) -> list[str]:
    """`prefix` and the numbers 1 to n, padded so that they sort as they count."""
    return [f"{prefix}{number:0{len(str(n))}d}" for number in range(1, n + 1)]


def categorical(values: pd.Series) -> pd.Categorical:
    """Observed levels as text: the declared order, else sorted."""
    return pd.Categorical(values).remove_unused_categories().rename_categories(str)


def plain(value: Any) -> Any:
    """A value of the spec or the seed as JSON can hold it."""
    if isinstance(value, anndata.AnnData):
        return f"AnnData, {value.n_obs} cells x {value.n_vars} genes"
    if isinstance(value, pd.DataFrame):
        return f"DataFrame, {len(value)} cells, columns {', '.join(map(str, value.columns))}"
    if isinstance(value, np.random.SeedSequence):
        return {"entropy": plain(value.entropy), "spawn_key": list(value.spawn_key)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, PathLike):
        return str(value)
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return list(map(plain, value)) if isinstance(value, list | tuple) else value
