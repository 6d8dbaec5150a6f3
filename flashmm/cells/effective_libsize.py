"""Library sizes times size factors, in the stored sums and without the cells.

A size factor f belongs to a group. The covariate x = log(libsize) becomes x + log f, the covariate
libsize becomes f · libsize, and a product of one of them with z changes likewise; with x_0 = 1 that
is one linear map x' = A x for each group, and

    Σ x' x'ᵀ = A (Σ x xᵀ) Aᵀ,        Σ x' y = A (Σ x y).
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from flashmm.cells.groups import GroupStatistics, moment_name
from flashmm.cells.size_factors import CELL_TYPE, LIBSIZE, RECORD, checked_factors, size_factors
from flashmm.formulas import Factor, call_name, plain_name, read_covariate
from flashmm.names import listed
from flashmm.options import FormulaError, InputError, checked
from flashmm.storage.workspace import zeros

_LOGARITHMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"log": np.log, "log2": np.log2}


@checked
def with_size_factors(
    groups: GroupStatistics, factors: pd.Series | Sequence[float] | np.ndarray
) -> GroupStatistics:
    """Multiply the library sizes of the cells of each group by its size factor.

    Parameters
    ----------
    groups : GroupStatistics
        With log(libsize), log2(libsize) or libsize among the covariates, also divided or multiplied
        by a number, or in products with other stored covariates.
    factors : pandas.Series or array
        (groups,) A series by name of the group, as from `size_factors`, or values in the order of
        the groups.

    Returns
    -------
    GroupStatistics
        Equal, up to rounding, to the statistics of cells whose `libsize` was multiplied. Its
        `provenance` and notes say so.

    Raises
    ------
    InputError
        Factors are not one positive number for each group, they have been applied before, no
        covariate is a function of the library size, or one is of another kind.
    """
    if RECORD in groups.provenance:
        raise InputError(
            "These groups have size factors already; apply others to the groups as summarised."
        )
    f = checked_factors(groups, factors)
    attributes = getattr(factors, "attrs", {})
    recipe = attributes.get(RECORD, {"method": "given", "within": None})
    A = _maps(groups, f, optional=recipe["method"] == "total")
    record = recipe | {"factors": dict(zip(map(str, groups.obs.index), f.tolist(), strict=True))}
    return replace(
        groups,
        obs=groups.obs.assign(**_moments(groups, A)),
        covariate_sums={
            x: _mapped(groups, A[:, i]) for i, x in enumerate(groups.covariates, start=1)
        },
        provenance=groups.provenance | {RECORD: record},
        notes=tuple(dict.fromkeys((*groups.notes, *attributes.get("notes", ())))),
    )


def apply_size_factors(
    groups: GroupStatistics, factors: str | pd.Series | Sequence[float] | np.ndarray | None
) -> GroupStatistics:
    """Groups with size factors by name of the method, or with given ones.

    Parameters
    ----------
    groups : GroupStatistics
        As summarised.
    factors : str, pandas.Series, array or None
        A method or column of `size_factors`, taken within the levels of `cell_type` where the
        groups have that column; factors as for `with_size_factors`; or None for the same groups.

    Returns
    -------
    GroupStatistics
        With the record of what was done in its `provenance`; "total" changes no number.

    Raises
    ------
    InputError
        As `size_factors` and `with_size_factors`.
    """
    if factors is None:
        return groups
    if isinstance(factors, str):
        within = CELL_TYPE if CELL_TYPE in groups.by else None
        factors = size_factors(groups, within, factors)
    return with_size_factors(groups, factors)


def describe(record: Mapping[str, Any]) -> str:
    """Say in a sentence what a record of size factors in `provenance` holds."""
    f = list(record["factors"].values())
    among = "" if record["within"] is None else f" within {record['within']}"
    if record["method"] == "total":
        return "Library sizes are the total counts (size factors 'total')."
    return (
        f"Library sizes are multiplied by size factors, {record['method']}{among}: "
        f"{min(f):.3g} to {max(f):.3g}."
    )


def libsize_columns(groups: GroupStatistics) -> set[str]:
    """Names of the column of library sizes: the usual one, and what the inputs called it."""
    inputs = groups.provenance.get("inputs", [])
    recorded = {record.get("libsize") for record in inputs if isinstance(record, dict)}
    return {LIBSIZE} | {name for name in recorded if name not in (None, "counted")}


def _maps(groups: GroupStatistics, f: np.ndarray, optional: bool) -> np.ndarray:
    """Return A (groups, 1 + covariates, 1 + covariates): the changed covariates are A x.

    Unless it is `optional`, at least one covariate is a function of the library size.
    """
    names = libsize_columns(groups)
    A = np.tile(np.eye(1 + len(groups.covariates)), (groups.n_groups, 1, 1))
    found = optional
    for i, covariate in enumerate(groups.covariates, start=1):
        factors = _factors_of(covariate)
        sized = [factor for factor in factors if factor.columns & names]
        if not sized:
            continue
        found = True
        if len(sized) > 1 or not _is_linear(sized[0], names):
            raise InputError(
                f"The covariate '{covariate}' cannot be changed by size factors: of the library "
                "size, log(libsize), log2(libsize), libsize, and products of one of these with "
                "other covariates can."
            )
        if isinstance(sized[0].node, ast.Call):
            rest = [factor for factor in factors if factor is not sized[0]]
            logarithm = _LOGARITHMS[call_name(sized[0].node)]
            place = _place(groups, covariate, rest)
            A[:, i, place] += logarithm(f)
            if place and groups.covariate_origin is not None:  # of x, not of x - origin
                A[:, i, 0] += logarithm(f) * groups.covariate_origin[place - 1]
        else:
            A[:, i, i] = f
    if not found:
        raise InputError(
            "Size factors change the library size, and none of the stored covariates is a function "
            f"of it (found {listed(groups.covariates)}). Summarise with "
            "covariates=['log(libsize)'] and put log(libsize) into the formula."
        )
    return A


def _factors_of(covariate: str) -> tuple[Factor, ...]:
    """Read a covariate; a column whose name is no expression is no function of the library size."""
    try:
        return read_covariate(covariate)
    except FormulaError:
        return ()


def _is_linear(factor: Factor, names: set[str]) -> bool:
    """Whether a factor of f · libsize is a multiple of, or a shift from, that of libsize."""
    node = factor.node
    if isinstance(node, ast.Call):
        one = len(node.args) == 1 and not node.keywords and call_name(node) in _LOGARITHMS
        return one and _is_multiple(node.args[0], names)
    return isinstance(node, ast.Name)


def _is_multiple(node: ast.expr, names: set[str]) -> bool:
    """Whether a checked tree is the library size, times or divided by numbers."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        sides = [(node.left, node.right), (node.right, node.left)]
        return any(isinstance(c, ast.Constant) and _is_multiple(x, names) for c, x in sides)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return isinstance(node.right, ast.Constant) and _is_multiple(node.left, names)
    return isinstance(node, ast.Name) and plain_name(node.id) in names


def _place(groups: GroupStatistics, covariate: str, rest: Sequence[Factor]) -> int:
    """Number of the covariate that is the product of `rest`; 0 for none of them."""
    if not rest:
        return 0
    wanted = sorted(factor.name for factor in rest)
    for j, other in enumerate(groups.covariates, start=1):
        if sorted(factor.name for factor in _factors_of(other)) == wanted:
            return j
    product = ":".join(factor.name for factor in rest)
    raise InputError(
        f"To change '{covariate}' by size factors, '{product}' has to be stored beside it: "
        "name it among the covariates of summarise."
    )


def _moments(groups: GroupStatistics, A: np.ndarray) -> dict[str, np.ndarray]:
    """Gene-free sums after the map, by their column names: A (Σ x xᵀ) Aᵀ."""
    size = A.shape[1]
    stored = np.array([[groups.moment(j, k) for k in range(size)] for j in range(size)])
    changed = np.einsum("gij,jkg,glk->ilg", A, stored, A, optimize=True)
    names = ("", *groups.covariates)
    columns = {}
    for i in range(1, size):
        columns[moment_name(names[i])] = changed[0, i]
        for j in range(i, size):
            columns[moment_name(names[i], names[j])] = changed[i, j]
    return columns


def _mapped(groups: GroupStatistics, row: np.ndarray) -> np.ndarray:
    """Σ x' y (groups, genes) of one covariate, whose row of the map is (groups, 1 + covariates)."""
    used = np.flatnonzero(row.any(axis=0))
    if len(used) == 1 and (row[:, used[0]] == 1).all():
        return groups.cross_sum(int(used[0]))
    total = zeros((groups.n_groups, groups.n_genes), "sums with size factors")
    for k in map(int, used):
        for out, weight, values in zip(total, row[:, k], groups.cross_sum(k), strict=True):
            out += weight * values
    return total
