"""Designs as records: of groups of cells, of cells, and of subjects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp


@dataclass(frozen=True, eq=False)
class RandomComponent:
    """One random term: a grouping of the cells, with or without a slope.

    Attributes
    ----------
    name : str
        "subject", "subject:cell_type", "subject|log(libsize)" for a slope, or
        "cov(subject, subject|time)" for the covariance of the two components before it.
    levels : pandas.Index
        (levels,) "S1", "S1:B cells", in the order of the categories; none for a covariance.
    weights : tuple of (scipy.sparse.csr_array or None)
        1 + m matrices (rows, levels): Z = Σ_k weights[k] · x_k with x_0 = 1; None where it is zero.
    columns : tuple of str
        The grouping columns.
    """

    name: str
    levels: pd.Index
    weights: tuple[sp.csr_array | None, ...]
    columns: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class GroupDesign:
    """The design of a model over groups of cells.

    Attributes
    ----------
    fixed : numpy.ndarray
        (1 + m, groups, coefficients): a column of X is Σ_k fixed[k] · x_k, where x_0 = 1 and
        x_1 .. x_m are the stored covariates.
    coefficients : tuple of str
        formulaic's names, such as "cell_type[B cells]:condition[T.stim]".
    coefficient_columns : tuple of frozenset of str
        The data columns that each coefficient holds.
    random : tuple of RandomComponent
        The random terms.
    notes : tuple of str
        What was decided for the user.
    coefficient_terms : tuple of str
        The term of the formula that made each coefficient; "1" for the intercept.
    """

    fixed: np.ndarray
    coefficients: tuple[str, ...]
    coefficient_columns: tuple[frozenset[str], ...]
    random: tuple[RandomComponent, ...]
    notes: tuple[str, ...] = ()
    coefficient_terms: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class CellDesign:
    """The same design, one row per cell.

    Attributes
    ----------
    X : pandas.DataFrame
        (cells, coefficients), columns named by formulaic.
    Z : scipy.sparse.csr_array
        (cells, levels of all random terms).
    component_sizes : tuple of int
        Levels of each random term.
    components : tuple of str
        Names of the random terms.
    Z_levels : pandas.Index
        (levels of all random terms,).
    coefficient_columns : tuple of frozenset of str
        The data columns that each coefficient holds.
    notes : tuple of str
        What was decided for the user.
    coefficient_terms : tuple of str
        The term of the formula that made each coefficient; "1" for the intercept.
    """

    X: pd.DataFrame
    Z: sp.csr_array
    component_sizes: tuple[int, ...]
    components: tuple[str, ...]
    Z_levels: pd.Index
    coefficient_columns: tuple[frozenset[str], ...]
    notes: tuple[str, ...] = ()
    coefficient_terms: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class FixedDesign:
    """Fixed effects of a model with one row per subject.

    Attributes
    ----------
    X : pandas.DataFrame
        (rows, coefficients), named as `cell_design` names them.
    coefficient_columns : tuple of frozenset of str
        (coefficients,) The data columns that each holds.
    notes : tuple of str
        What was decided for the user.
    """

    X: pd.DataFrame
    coefficient_columns: tuple[frozenset[str], ...]
    notes: tuple[str, ...]
