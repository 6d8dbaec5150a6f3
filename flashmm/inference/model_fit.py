"""What a fit offers to be tested."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import numpy as np
import pandas as pd

from flashmm.design.statistics import SummaryStatistics
from flashmm.kernels.empirical_bayes_points import Points
from flashmm.kernels.engine import VarianceForms
from flashmm.kernels.random_covariance import Pair, find_pairs
from flashmm.options import FitOptions

Result = TypeVar("Result")


class FittedBlock(Protocol):
    """Fitted genes that share a design, with what their tests need.

    Components θ end with the residual. Contrasts are rows (C, p) over all coefficients, zero where
    `kept` is not.
    """

    @property
    def index(self) -> np.ndarray:
        """Which genes of the fit, (block,) int."""

    @property
    def kept(self) -> np.ndarray:
        """Coefficients that the design can estimate, (p,) bool."""

    @property
    def df_residual(self) -> int:
        """Number of observations minus the rank of X."""

    @property
    def theta(self) -> np.ndarray:
        """Variance components, (block, k)."""

    @property
    def data(self) -> Any:
        """The genes in the form of their engine, made when it is asked for."""

    def observed_information(self) -> np.ndarray:
        """Observed information of θ, (block, k, k)."""

    def expected_information(self, theta: np.ndarray) -> np.ndarray:
        """Expected information at other components (block, k), as (block, k, k)."""

    def shared_points(self) -> Points:
        """The design at ratios of components that genes share; it takes `data`."""

    def contrast_columns(self, rows: np.ndarray) -> np.ndarray:
        """Contrasts (C, p) in the basis of these genes, (kept coefficients, C)."""

    def variance_forms(self, left: np.ndarray, right: np.ndarray) -> VarianceForms:
        """Covariances of the rows of `left` and `right` times β̂, and derivatives in θ."""


class ModelFit(Protocol):
    """What a fit offers to be tested; `LMMFit` and `KinshipFit` do."""

    @property
    def genes(self) -> pd.Index:
        """Names of the genes."""

    @property
    def coefficients(self) -> tuple[str, ...]:
        """Names of the coefficients."""

    @property
    def coefficient_columns(self) -> tuple[frozenset[str], ...]:
        """Data columns that each coefficient holds; empty where they are not known."""

    @property
    def coef(self) -> np.ndarray:
        """Fixed effects, (genes, p)."""

    @property
    def theta(self) -> np.ndarray:
        """Variance components, (genes, k); the residual is the last."""

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the components, the residual the last."""

    @property
    def fisher_information(self) -> np.ndarray:
        """Expected information of θ, (genes, k, k)."""

    @property
    def status(self) -> np.ndarray:
        """One `Status` per gene."""

    @property
    def fitted(self) -> np.ndarray:
        """Genes that can be tested, (genes,) bool."""

    @property
    def estimable(self) -> np.ndarray:
        """Coefficients that were estimated for any gene, (p,) bool."""

    @property
    def options(self) -> FitOptions:
        """How it was fitted."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided for the user."""

    @property
    def stats(self) -> SummaryStatistics | None:
        """Statistics of cells that stand behind the fit, if any."""

    def test_blocks(self) -> Iterator[FittedBlock]:
        """Fitted genes in blocks of bounded memory and one design."""

    def over_blocks(self, function: Callable[[Any], Result]) -> list[Result]:
        """What a function gives for each of `test_blocks`, in order, some of them in threads."""


def covariance_pairs(fit: ModelFit) -> tuple[Pair, ...]:
    """Positions of the components that have a covariance, and of this."""
    return () if fit.stats is None else find_pairs(fit.stats.component_sizes)
