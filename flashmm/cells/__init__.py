"""From cells to groups.

Readers of counts, transforms, covariates, and the one pass that sums the cells of each group.
"""

from typing import TYPE_CHECKING

from flashmm.names import on_demand

if TYPE_CHECKING:
    from flashmm.cells.bulk_tables import read_bulk
    from flashmm.cells.groups import GroupStatistics, merge
    from flashmm.cells.inspection import DataCheck, check
    from flashmm.cells.read_cells import read_cells
    from flashmm.cells.summary import summarise
    from flashmm.cells.withheld import without_small_groups

__all__ = [
    "DataCheck",
    "GroupStatistics",
    "check",
    "merge",
    "read_bulk",
    "read_cells",
    "summarise",
    "without_small_groups",
]

on_demand(__name__)
