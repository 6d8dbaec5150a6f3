"""flashmm: mixed models for multi-subject single-cell data, fitted from summary statistics."""

from flashmm.contrasts import Contrast
from flashmm.crossproducts import (
    SummaryStatistics,
    summary_statistics,
    summary_statistics_from_matrices,
)
from flashmm.de import de
from flashmm.evaluate import Evaluation, compare_fits, evaluate
from flashmm.groups import GroupStatistics, merge
from flashmm.inference import TestTable, contrast_tests
from flashmm.io import (
    join_fits,
    merge_files,
    read_fit,
    read_groups,
    read_provenance,
    read_table,
    write_fit,
    write_groups,
    write_table,
)
from flashmm.lmm import LMMFit, fit_lmm
from flashmm.mixedlm import fit_mixedlm
from flashmm.options import (
    DesignError,
    FlashmmError,
    FlashmmWarning,
    FormulaError,
    InputError,
    Status,
)
from flashmm.simulate import Simulation, SimulationSpec, simulate_counts
from flashmm.summary import summarise

__version__ = "0.1.0"

__all__ = [
    "Contrast",
    "DesignError",
    "Evaluation",
    "FlashmmError",
    "FlashmmWarning",
    "FormulaError",
    "GroupStatistics",
    "InputError",
    "LMMFit",
    "Simulation",
    "SimulationSpec",
    "Status",
    "SummaryStatistics",
    "TestTable",
    "compare_fits",
    "contrast_tests",
    "de",
    "evaluate",
    "fit_lmm",
    "fit_mixedlm",
    "join_fits",
    "merge",
    "merge_files",
    "read_fit",
    "read_groups",
    "read_provenance",
    "read_table",
    "simulate_counts",
    "summarise",
    "summary_statistics",
    "summary_statistics_from_matrices",
    "write_fit",
    "write_groups",
    "write_table",
]
