"""Formulas to designs, on cells or on groups of cells.

The terms that `flashmm.formulas` reads are evaluated on the rows of a table (`design.rows`) and
coded into columns by formulaic (`design.coding`). The same steps serve a table of cells
(`cell_design`) and a table of groups of cells (`group_design`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.sparse as sp

from flashmm.cells.groups import GroupStatistics
from flashmm.design.coding import CodedColumns, coded_columns
from flashmm.design.records import CellDesign, FixedDesign, GroupDesign, RandomComponent
from flashmm.design.rows import Rows, layers_of
from flashmm.formulas import RandomTerm, read_fixed, read_model
from flashmm.options import DesignError, FormulaError, note

__all__ = [
    "CellDesign",
    "FixedDesign",
    "GroupDesign",
    "RandomComponent",
    "cell_design",
    "fixed_design",
    "formula_columns",
    "group_design",
]


def _component(
    name: str, columns: tuple[str, ...], codes: np.ndarray, levels: pd.Index, x: np.ndarray
) -> RandomComponent:
    """Return indicators of the levels, times the column `x` (1 + m, rows)."""
    if not x.any():
        raise DesignError(f"random term {name!r}: its slope is zero in every cell.")
    where = (np.arange(len(codes)), codes)
    shape = (len(codes), len(levels))
    weights = tuple(sp.csr_array((v, where), shape=shape) if v.any() else None for v in x)
    return RandomComponent(name, levels, weights, columns)


def _partition(rows: Rows, columns: tuple[str, ...]) -> tuple[np.ndarray, pd.Index]:
    """Return the level of every row (codes) and the names of the levels that occur, in order."""
    labels = [rows.labels(name).astype("category") for name in columns]
    codes = np.column_stack([series.cat.codes for series in labels])
    found, inverse = np.unique(codes, axis=0, return_inverse=True)
    words = [np.array([str(c) for c in s.cat.categories], dtype=object) for s in labels]
    names = [":".join(w[c] for w, c in zip(words, level, strict=True)) for level in found]
    return inverse.reshape(-1), pd.Index(names, dtype=object)


def _check_levels(rows: Rows, name: str, levels: pd.Index) -> None:
    if len(levels) < 2:
        raise DesignError(
            f"random term {name!r} has the single level {levels[0]!r}: a variance between levels "
            "needs at least two."
        )
    if len(levels) >= rows.n_cells:
        raise DesignError(
            f"random term {name!r} has {len(levels)} levels for {rows.n_cells} cells: every cell "
            "is its own level, so its variance cannot be told from the residual's."
        )


def _random_components(rows: Rows, terms: Sequence[RandomTerm]) -> tuple[RandomComponent, ...]:
    """Make the components of the random terms, leaving out those that repeat an earlier one."""
    components: list[RandomComponent] = []
    seen: dict[tuple[bytes, str], str] = {}
    for term in terms:
        grouping = ":".join(term.columns)
        codes, levels = _partition(rows, term.columns)
        _check_levels(rows, grouping, levels)
        slopes = _slopes(rows, term)
        correlated = not term.independent and len(slopes.names) > 1
        for j, slope in enumerate(slopes.names):
            name = grouping if slope == "Intercept" else f"{grouping}|{slope}"
            key = (pd.factorize(codes)[0].tobytes(), slope)
            if key in seen:
                _check_repeated(term, name, seen[key], correlated)
                text = (
                    f"random term {name!r} groups the cells as {seen[key]!r} does; it is left out."
                )
                rows.notes.append(note(text))
                continue
            seen[key] = name
            x = rows.from_means(slopes.values[:, :, j])
            components.append(_component(name, term.columns, codes, levels, x))
        if correlated:
            components.append(_covariance(*components[-2:]))
    return tuple(components)


def _check_repeated(term: RandomTerm, name: str, other: str, correlated: bool) -> None:
    """Refuse correlated effects of which one is in the model already."""
    if correlated:
        raise FormulaError(
            f"random term {term.text!r}: {name!r} groups the cells as {other!r} does, which is in "
            "the model already; leave the other term out, or write || for independent effects."
        )


def _covariance(first: RandomComponent, second: RandomComponent) -> RandomComponent:
    """The covariance of two effects of the same levels, a component without columns of Z."""
    name, nothing = f"cov({first.name}, {second.name})", pd.Index([], dtype=object)
    return RandomComponent(name, nothing, (None,) * len(first.weights), first.columns)


def _slopes(rows: Rows, term: RandomTerm) -> CodedColumns:
    """What varies between the levels of a random term, two effects at most if they correlate."""
    slopes = coded_columns(rows, term.slopes)
    if not term.independent and len(slopes.names) > 2:
        raise FormulaError(
            f"random term {term.text!r}: {len(slopes.names)} correlated effects "
            f"{list(slopes.names)} are not fitted, only two, such as (1 + time | subject); write "
            "|| for independent ones."
        )
    return slopes


def group_design(
    groups: GroupStatistics, fixed: str, random: str | Sequence[str] | None = None
) -> GroupDesign:
    """Make the design of a model on groups of cells.

    Parameters
    ----------
    groups : GroupStatistics
        Groups with their cell counts and stored covariates.
    fixed : str
        One-sided formula with R's meaning, "~ 0 + log(libsize) + cell_type + cell_type:condition".
        A term may hold group-level columns and one stored covariate (also its `scale` or
        `center`); products of covariates where these are stored. Random terms may stand in it as
        in lme4, "(1 | subject)".
    random : sequence of str, optional
        Random terms: "subject", "subject:cell_type", "a/b" for a and a:b, "x || subject" for an
        intercept and an independent slope, "0 + x || subject" for the slope alone, and
        "1 + x | subject" for both with a covariance; it follows them as a component of its own,
        "cov(subject, subject|x)".

    Returns
    -------
    GroupDesign
        Equal, summed over the cells of each group, to the design of the cells themselves.

    Raises
    ------
    FormulaError
        Where the text is not allowed, or needs a covariate or column that the groups lack.
    InputError
        Where a column that is used has missing values or a transform of it is not finite.
    DesignError
        Where a random term has one level or one level per cell, or no column is left.
    """
    terms, random_terms = read_model(fixed, random)
    rows = group_rows(groups)
    columns = coded_columns(rows, terms)
    components = _random_components(rows, random_terms)
    return GroupDesign(
        rows.from_means(columns.values),
        columns.names,
        columns.columns,
        components,
        tuple(rows.notes),
        columns.terms,
    )


def group_rows(groups: GroupStatistics, learn_from: GroupStatistics | None = None) -> Rows:
    """Return the groups as rows; the columns of sums are not for formulas.

    The cells of `learn_from`, by default those of the groups, give means and knots to scale, poly,
    bs and cr.
    """
    names = [c for c in groups.obs.columns if c != "n_cells" and not str(c).startswith("sum:")]
    m = len(groups.covariates)
    moments = [[groups.moment(k, j).sum() for j in range(m + 1)] for k in range(m + 1)]
    cells = groups.moment(0, 0).astype(np.int64)
    layers = layers_of(groups.covariates)
    origin = None if learn_from is None else group_rows(learn_from)
    shifts = groups.covariate_origin
    return Rows(
        groups.obs[names],
        cells,
        "groups",
        layers,
        np.array(moments),
        origin=origin,
        shifts=None if shifts is None else np.append(0.0, shifts),
    )


def cell_design(
    obs: pd.DataFrame, fixed: str, random: str | Sequence[str] | None = None
) -> CellDesign:
    """Make the design of a model on cells, named as `group_design` names it.

    Parameters
    ----------
    obs : pandas.DataFrame
        (cells, columns).
    fixed, random
        As for `group_design`, with any column of `obs`.

    Returns
    -------
    CellDesign
        X, sparse Z and their names.

    Raises
    ------
    FormulaError, InputError, DesignError
        As `group_design`.
    """
    terms, random_terms = read_model(fixed, random)
    rows = Rows(obs, np.ones(len(obs), dtype=np.int64), "cells")
    columns = coded_columns(rows, terms)
    components = _random_components(rows, random_terms)
    X = pd.DataFrame(columns.values[0], index=obs.index, columns=list(columns.names))
    blocks = [c.weights[0] for c in components if c.weights[0] is not None]
    Z = sp.csr_array(sp.hstack(blocks, format="csr"))
    return CellDesign(
        X,
        Z,
        tuple(len(c.levels) for c in components),
        tuple(c.name for c in components),
        pd.Index([level for c in components for level in c.levels], dtype=object),
        columns.columns,
        tuple(rows.notes),
        columns.terms,
    )


def fixed_design(table: pd.DataFrame, formula: str, kind: str) -> FixedDesign:
    """Make the fixed effects of a model with one row per subject.

    Parameters
    ----------
    table : pandas.DataFrame
        (rows, columns).
    formula : str
        One-sided formula without random terms.
    kind : str
        What a row is, for messages.

    Returns
    -------
    FixedDesign
        Rows as in the table.

    Raises
    ------
    FormulaError, InputError, DesignError
        As `group_design`.
    """
    rows = Rows(table, np.ones(len(table), dtype=np.int64), kind)
    columns = coded_columns(rows, read_fixed(formula))
    X = pd.DataFrame(columns.values[0], index=table.index, columns=list(columns.names))
    return FixedDesign(X, columns.columns, tuple(rows.notes))


def formula_columns(formula: str) -> frozenset[str]:
    """Columns of the data that a formula of fixed effects names."""
    return frozenset().union(*(factor.columns for term in read_fixed(formula) for factor in term))
