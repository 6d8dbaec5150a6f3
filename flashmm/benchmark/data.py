"""What a method of a benchmark is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from flashmm.cells.groups import GroupStatistics
from flashmm.design.derived import take_genes
from flashmm.design.from_groups import summary_statistics
from flashmm.design.statistics import SummaryStatistics
from flashmm.lmm import LMMFit, fit_lmm
from flashmm.storage.files import PathLike
from flashmm.within import SIZE_FACTORS, FitsWithin, fit_within

NONE: Mapping[str, Any] = MappingProxyType({})


def size_factors_of(asked: str | None, within: str | None) -> str | None:
    """Size factors as a sheet of methods has them, the word "none" for none.

    Parameters
    ----------
    asked : str or None
        The cell of the sheet.
    within : str or None
        The column whose levels have models of their own; factors are the default there.

    Returns
    -------
    str or None
        As `fit_within` and `summary_statistics` take them.
    """
    if asked is None:
        return None if within is None else SIZE_FACTORS
    return None if asked == "none" else asked


@dataclass(frozen=True, eq=False)
class DataSet:
    """What every method of a benchmark is given.

    Attributes
    ----------
    groups : GroupStatistics
        Of the cells, in the transform that the method asks for.
    cells : AnnData, path or None
        The cells themselves, for methods that take no groups.
    layer : str or None
        Layer of the counts in `cells`.
    truth : DataFrame or None
        `gene, cell_type, log_fc` of the true effects; for the positive control alone.
    peers : path or None
        The folder of the scripts of R that run other packages.
    """

    groups: GroupStatistics
    cells: Any = None
    layer: str | None = None
    truth: pd.DataFrame | None = None
    peers: PathLike | None = None
    _fits: dict[tuple[Any, ...], Any] = field(default_factory=dict, init=False, repr=False)

    def has(self, part: str) -> bool:
        """Whether it holds "cells", "truth", "peers" or "counts" (of its groups)."""
        held = self.groups.counts if part == "counts" else getattr(self, part)
        return held is not None

    def statistics(
        self,
        fixed: str,
        random: Sequence[str],
        genes: int | None = None,
        size_factors: str | None = None,
    ) -> SummaryStatistics:
        """Statistics of a model, of all genes or of some, spread evenly."""
        stats = summary_statistics(self.groups, fixed, list(random) or None, size_factors)
        if genes is None or genes >= stats.n_genes:
            return stats
        return take_genes(stats, np.linspace(0, stats.n_genes - 1, genes).round().astype(int))

    def fit(
        self,
        fixed: str,
        random: Sequence[str],
        genes: int | None = None,
        options: Mapping[str, Any] = NONE,
        size_factors: str | None = None,
    ) -> LMMFit:
        """The fit of a model; methods that share one fit it once."""
        key = (fixed, tuple(random), genes, tuple(sorted(options.items())), size_factors)
        if key not in self._fits:
            stats = self.statistics(fixed, random, genes, size_factors)
            self._fits[key] = fit_lmm(stats, **options)
        fit: LMMFit = self._fits[key]
        return fit

    def fit_within(
        self,
        within: str,
        fixed: str,
        random: Sequence[str],
        size_factors: str | None,
        min_counts: float | None,
        options: Mapping[str, Any] = NONE,
    ) -> FitsWithin:
        """The fits of a model for each level of a column; methods that share them fit once."""
        chosen = tuple(sorted(options.items()))
        key = (within, fixed, tuple(random), size_factors, min_counts, chosen)
        if key not in self._fits:
            self._fits[key] = fit_within(
                self.groups,
                within,
                fixed,
                list(random) or None,
                size_factors=size_factors,
                min_counts=min_counts,
                **options,
            )
        fits: FitsWithin = self._fits[key]
        return fits


@dataclass(frozen=True, eq=False)
class Request:
    """What is asked of every method.

    Attributes
    ----------
    fixed : str
        The formula of the fixed effects, for methods that have none of their own.
    contrasts : optional
        What is tested, as in `contrast_tests`.
    factor, subject, cell_type : str
        Columns of the groups: what is compared, the replicates, and where.
    level : float
        Coverage of the confidence intervals.
    seed : int
        Of everything that is random.
    """

    fixed: str
    contrasts: Any = "condition"
    factor: str = "condition"
    subject: str = "subject"
    cell_type: str = "cell_type"
    level: float = 0.95
    seed: int = 0


@dataclass(frozen=True, eq=False)
class MethodResult:
    """What a method found.

    Attributes
    ----------
    tests : DataFrame
        Tidy tests: `gene, contrast, p_value`, and as far as the method has them the other columns
        of `TestTable.to_frame`.
    tables : mapping
        Name to what else the method says, such as its fits.
    notes : tuple of str
        What was decided for the user.
    """

    tests: pd.DataFrame
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
