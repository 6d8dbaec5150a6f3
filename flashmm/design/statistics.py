"""Cross-products of design and values: all that a linear mixed model needs to know of the cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
import scipy.sparse as sp

from flashmm.cells.groups import GroupStatistics
from flashmm.design.centring import independent, of_centred, to_centred
from flashmm.design.columns import GroupDesign
from flashmm.design.products import layers
from flashmm.kernels.rotation import constant_of
from flashmm.options import InputError
from flashmm.shown import Shown


@dataclass(frozen=True)
class ModelFormula:
    """The formulas of a model, as they were asked for.

    Attributes
    ----------
    fixed : str
        Formula of the fixed effects; random terms may stand in it.
    random : tuple of str or None
        Random terms beside the formula.
    reference : tuple of (str, str)
        Columns and the reference levels that were asked for.
    """

    fixed: str
    random: tuple[str, ...] | None = None
    reference: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, eq=False)
class GroupSource:
    """What statistics from groups were made of.

    Attributes
    ----------
    groups : GroupStatistics
        Sums over the cells of each group.
    design : GroupDesign
        The design on the groups.
    model : ModelFormula or None
        The formulas that made the design; None where it was changed since.
    """

    groups: GroupStatistics
    design: GroupDesign
    model: ModelFormula | None = None


@dataclass(frozen=True, eq=False)
class SummaryStatistics(Shown):
    """Cross-products of fixed design X, random design Z and the values Y of all genes.

    Attributes
    ----------
    XtX : numpy.ndarray
        (coefficients, coefficients).
    YtX : numpy.ndarray
        (genes, coefficients).
    ZtX : numpy.ndarray
        (levels, coefficients).
    ZtZ : numpy.ndarray or scipy.sparse.csr_array
        (levels, levels); sparse above 2,000 levels.
    yty : numpy.ndarray
        (genes,) sums of squares.
    n_cells : int
        Number of cells.
    X_sum, Z_sum : numpy.ndarray or None
        (coefficients,) and (levels,) column sums; None where they were not given.
    component_sizes : tuple of int
        Levels of each random term.
    genes : pandas.Index
        (genes,).
    coefficients : tuple of str
        Names of the columns of X.
    components : tuple of str
        Names of the random terms, the residual not among them.
    Z_levels : pandas.Index
        (levels,) names of the columns of Z.
    coefficient_columns : tuple of frozenset of str
        The data columns that each coefficient holds; empty for matrices.
    products_YtZ : numpy.ndarray or None
        (genes, levels); None where they are made from the groups when asked for.
    source : GroupSource or None
        The groups and the design on them; None where the statistics were made from matrices.
    notes : tuple of str
        What was decided for the user.
    coefficient_terms : tuple of str
        The term of the formula that made each coefficient; empty for matrices.
    origin : numpy.ndarray or None
        (genes,) What was subtracted from the values of each gene before the products were taken,
        where X can make a constant: the mean of genes that vary little beside it, zero of the
        others. Fits add it again. None where it is zero for all genes.
    centring : numpy.ndarray or None
        (coefficients, coefficients) C: `XtX`, `YtX`, `ZtX` and `X_sum` are those of X - XC, in
        which columns that lie far from zero have a constant subtracted (`flashmm.design.centring`).
        Fits give the coefficients of X. None where it is zero.
    """

    XtX: np.ndarray
    YtX: np.ndarray
    ZtX: np.ndarray
    ZtZ: np.ndarray | sp.csr_array
    yty: np.ndarray
    n_cells: int
    X_sum: np.ndarray | None
    Z_sum: np.ndarray | None
    component_sizes: tuple[int, ...]
    genes: pd.Index
    coefficients: tuple[str, ...]
    components: tuple[str, ...]
    Z_levels: pd.Index
    coefficient_columns: tuple[frozenset[str], ...]
    products_YtZ: np.ndarray | None = None
    source: GroupSource | None = None
    notes: tuple[str, ...] = ()
    coefficient_terms: tuple[str, ...] = ()
    origin: np.ndarray | None = None
    centring: np.ndarray | None = None

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return len(self.genes)

    @property
    def YtZ(self) -> np.ndarray:
        """(genes, levels), made from the groups where it is not stored."""
        return self.YtZ_block(0, self.n_genes)

    def YtZ_block(self, start: int, stop: int) -> np.ndarray:
        """Y'Z of the genes start .. stop - 1.

        Returns
        -------
        numpy.ndarray
            (stop - start, levels).
        """
        if self.products_YtZ is not None:
            return self.products_YtZ[start:stop]
        groups, _ = self.require_source()
        block = np.zeros(
            (len(self.Z_levels), len(range(*slice(start, stop).indices(self.n_genes))))
        )
        for k, weights in enumerate(self._layers):
            if weights is not None:
                block += weights.T @ groups.cross_sum(k)[:, start:stop]
        return block.T

    @cached_property
    def _layers(self) -> list[sp.csr_array | None]:
        """The matrices over groups that Z is made of (`products.layers`)."""
        return layers(self.require_source()[1].random)

    def from_origin(self, values: np.ndarray) -> np.ndarray:
        """Values of the genes, (genes,), counted from zero instead of the `origin`."""
        return values if self.origin is None else values + self.origin

    def constant(self) -> np.ndarray | None:
        """Coefficients a of a constant, Xa = 1, (coefficients,); None where X cannot make one."""
        if self.X_sum is None:
            return None
        return constant_of(self.XtX, self.X_sum, self.n_cells, self.independent())

    def independent(self) -> np.ndarray:
        """Columns of X that are estimated, (coefficients,) bool; others follow from these."""
        return independent(self.XtX, self.centring)

    def of_products(self, contrasts: np.ndarray) -> np.ndarray:
        """Contrasts (C, p) of the coefficients as those of the columns that `XtX` is made of."""
        return of_centred(contrasts, self.centring)

    def uncentred(self) -> SummaryStatistics:
        """The same statistics of X itself, whose products may have lost digits."""
        if self.centring is None:
            return self
        # X = X̃ + X̃C, as CC = 0
        U = to_centred(np.eye(len(self.XtX)), self.centring).T
        return replace(
            self,
            XtX=U.T @ self.XtX @ U,
            YtX=self.YtX @ U,
            ZtX=self.ZtX @ U,
            X_sum=None if self.X_sum is None else self.X_sum @ U,
            centring=None,
        )

    def from_zero(self) -> SummaryStatistics:
        """The same statistics of the values themselves, whose squares may have lost digits."""
        a = self.constant()
        if self.origin is None or a is None or self.X_sum is None or self.Z_sum is None:
            return self
        # Σ (y - c) = (Y'X) a, as Xa = 1
        sums, c = self.YtX @ a, self.origin
        return replace(
            self,
            YtX=self.YtX + np.outer(c, self.X_sum),
            products_YtZ=self.YtZ + np.outer(c, self.Z_sum),
            yty=self.yty + c * (2 * sums + self.n_cells * c),
            origin=None,
        )

    @property
    def groups(self) -> GroupStatistics | None:
        """The groups that the statistics were made from; None for matrices."""
        return None if self.source is None else self.source.groups

    @property
    def design(self) -> GroupDesign | None:
        """The design on the groups; None for matrices."""
        return None if self.source is None else self.source.design

    @property
    def model(self) -> ModelFormula | None:
        """The formulas that made the design; None where it has none."""
        return None if self.source is None else self.source.model

    def require_model(self) -> ModelFormula:
        """Return the formulas that made the design.

        Raises
        ------
        InputError
            A term was dropped or the design was changed since, or there are no groups.
        """
        if self.model is None:
            raise InputError(
                "These statistics have no formula: they were made from matrices, or a term was "
                "dropped. Make them anew with summary_statistics."
            )
        return self.model

    def require_source(self) -> tuple[GroupStatistics, GroupDesign]:
        """Return the groups and the design on them.

        Raises
        ------
        InputError
            The statistics were made from matrices.
        """
        if self.source is None:
            raise InputError(
                "These statistics were made from matrices, and this needs groups of cells: "
                "summarise the cells and use summary_statistics."
            )
        return self.source.groups, self.source.design

    def facts(self) -> dict[str, str]:
        """Coefficients and random terms."""
        sizes = zip(self.components, self.component_sizes, strict=True)
        return {
            "coefficients": ", ".join(self.coefficients[:12]),
            "random terms": ", ".join(f"{name} ({size} levels)" for name, size in sizes),
        }

    def __repr__(self) -> str:
        sizes = ", ".join(
            f"{n} ({size})" for n, size in zip(self.components, self.component_sizes, strict=True)
        )
        return (
            f"SummaryStatistics({self.n_genes} genes, {self.n_cells} cells, "
            f"{len(self.coefficients)} coefficients, random: {sizes})"
        )
