"""From groups and formulas to cross-products.

Columns of the design, summary statistics, and contrasts of its coefficients.
"""

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
