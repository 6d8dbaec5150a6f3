"""From groups and formulas to cross-products.

Tables of cells or groups (`rows`), their columns (`coding`, `columns`), summary statistics of a
model (`from_groups`, `from_matrices`), and contrasts of its coefficients.
"""

from typing import TYPE_CHECKING

from flashmm.names import on_demand

if TYPE_CHECKING:
    from flashmm.design.contrasts import Contrast
    from flashmm.design.from_groups import summary_statistics
    from flashmm.design.from_matrices import summary_statistics_from_matrices
    from flashmm.design.statistics import SummaryStatistics

__all__ = [
    "Contrast",
    "SummaryStatistics",
    "summary_statistics",
    "summary_statistics_from_matrices",
]

on_demand(__name__)
