"""Pages: the report of a run, and that of a calibration study.

A page is made of sections, a section of blocks (`page`), and the template draws each kind of block.
Each module but `page`, `inputs` and `provenance` holds sections that belong together.
"""

from typing import TYPE_CHECKING

from flashmm.names import on_demand

if TYPE_CHECKING:
    from flashmm.report.calibration import write_calibration_report
    from flashmm.report.inputs import Inputs, Run
    from flashmm.report.run import write_report

__all__ = ["Inputs", "Run", "write_calibration_report", "write_report"]

on_demand(__name__)
