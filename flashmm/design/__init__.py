"""From groups and formulas to cross-products.

Columns of the design, summary statistics, and contrasts of its coefficients.
"""

from flashmm.design.contrasts import Contrast
from flashmm.design.statistics import (
    SummaryStatistics,
    summary_statistics,
    summary_statistics_from_matrices,
)

__all__ = [
    "Contrast",
    "SummaryStatistics",
    "summary_statistics",
    "summary_statistics_from_matrices",
]
