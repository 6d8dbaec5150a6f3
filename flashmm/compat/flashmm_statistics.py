"""Cross-products in FLASHMM's orientation and names, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from flashmm.compat.rlist import RList
from flashmm.design.from_matrices import summary_statistics_from_matrices
from flashmm.design.statistics import SummaryStatistics
from flashmm.options import InputError


def bare_matrix(values: Any) -> Any:
    """Bare array or sparse matrix of a matrix-like argument; a vector is one row."""
    if isinstance(values, pd.DataFrame):
        values = values.to_numpy()
    return values if sparse.issparse(values) else np.atleast_2d(np.asarray(values))


def names_of(values: Any, axis: str) -> list[str] | None:
    """Names of the rows ("index") or "columns" of a data frame; None where it is none."""
    return [str(v) for v in getattr(values, axis)] if isinstance(values, pd.DataFrame) else None


def component_sizes(d: int | Sequence[int] | None) -> list[int]:
    """Columns of Z per component as whole numbers."""
    if d is None:
        raise InputError("d, the number of columns of Z per component, is missing.")
    return [int(v) for v in np.atleast_1d(d)]


def statistics_of(
    Y: Any,
    X: Any,
    Z: Any,
    sizes: list[int],
    n_blocks: int | None,
) -> SummaryStatistics:
    """Cross-products of matrices of cells, in at most `n_blocks` blocks of cells."""
    values = bare_matrix(Y)
    options = {}
    if n_blocks is not None:
        options["block"] = max(1, -(-np.shape(X)[0] // n_blocks))
    return summary_statistics_from_matrices(
        values.T,
        X,
        Z,
        component_sizes=sizes,
        genes=names_of(Y, "index") or [f"Gene{i + 1}" for i in range(values.shape[0])],
        components=[f"var{k + 1}" for k in range(len(sizes))],
        **options,
    )


def as_list(stats: SummaryStatistics) -> RList:
    """Cross-products in FLASHMM's orientation."""
    x, z, genes = list(stats.coefficients), list(stats.Z_levels), list(stats.genes)
    stats = stats.from_zero().uncentred()
    ZZ = stats.ZtZ.toarray() if sparse.issparse(stats.ZtZ) else stats.ZtZ
    return RList(
        XX=pd.DataFrame(stats.XtX, x, x),
        XY=pd.DataFrame(stats.YtX.T, x, genes),
        ZX=pd.DataFrame(stats.ZtX, z, x),
        ZY=pd.DataFrame(stats.YtZ.T, z, genes),
        ZZ=pd.DataFrame(ZZ, z, z),
        Ynorm=pd.Series(stats.yty, genes),
        n=stats.n_cells,
    )


def from_list(given: Mapping[str, Any], d: int | Sequence[int] | None) -> SummaryStatistics:
    """Cross-products back from FLASHMM's orientation, shapes checked."""
    missing = [
        name for name in ("XX", "XY", "ZX", "ZY", "ZZ", "Ynorm", "n") if given.get(name) is None
    ]
    if missing:
        raise InputError(f"These summary statistics are missing: {', '.join(missing)}.")
    values = {name: _dense(given[name]) for name in ("XX", "XY", "ZX", "ZY", "ZZ")}
    norm = np.atleast_1d(np.asarray(given["Ynorm"], dtype=np.float64))
    p, q, G = len(values["XX"]), len(values["ZZ"]), len(norm)
    sizes = component_sizes(d)
    if sum(sizes) != q:
        raise InputError(
            f"d must sum to the {q} columns of Z; found {sizes}, which sum to {sum(sizes)}."
        )
    shapes = {"XX": (p, p), "XY": (p, G), "ZX": (q, p), "ZY": (q, G), "ZZ": (q, q)}
    for name, shape in shapes.items():
        if values[name].shape == (shape[0],) and G == 1:
            values[name] = values[name][:, None]
        if values[name].shape != shape:
            raise InputError(f"{name} must have shape {shape}; found {values[name].shape}.")
        if not np.isfinite(values[name]).all():
            raise InputError(f"{name} holds values that are not finite.")
    genes = names_of(given["XY"], "columns") or [f"Gene{i + 1}" for i in range(G)]
    return SummaryStatistics(
        XtX=values["XX"],
        YtX=values["XY"].T,
        ZtX=values["ZX"],
        ZtZ=values["ZZ"],
        yty=norm,
        n_cells=int(given["n"]),
        X_sum=None,
        Z_sum=None,
        component_sizes=tuple(sizes),
        genes=pd.Index(genes),
        coefficients=tuple(names_of(given["XX"], "columns") or [f"X{j + 1}" for j in range(p)]),
        components=tuple(f"var{k + 1}" for k in range(len(sizes))),
        Z_levels=pd.Index(names_of(given["ZZ"], "columns") or [f"Z{j + 1}" for j in range(q)]),
        coefficient_columns=(frozenset(),) * p,
        products_YtZ=values["ZY"].T,
    )


def _dense(values: Any) -> np.ndarray:
    values = values.to_numpy() if isinstance(values, pd.DataFrame) else values
    values = values.toarray() if hasattr(values, "toarray") else values
    return np.asarray(values, dtype=np.float64)
