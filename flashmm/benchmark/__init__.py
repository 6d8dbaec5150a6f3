"""Methods and how they are evaluated.

A method is a row of a sheet: its name, a test (`methods.PROCEDURES`) and the settings of that test.
Its tests are evaluated against the truth of a simulation: rates of errors, power, curves, and the
numbers of two methods against each other. `calibrate` does so for all methods of a study, and
`criteria` holds the criteria of a default test.
"""

from typing import TYPE_CHECKING

from flashmm.names import on_demand

if TYPE_CHECKING:
    from flashmm.benchmark.agreement import compare_fits, fit_frame, pair_fits
    from flashmm.benchmark.baselines import pooled_tests, pseudobulk_tests
    from flashmm.benchmark.calibration import CalibrationMethod, calibrate, scenario_table
    from flashmm.benchmark.controls import control_table, permute_labels
    from flashmm.benchmark.data import DataSet, MethodResult, Request
    from flashmm.benchmark.evaluation import Evaluation, evaluate
    from flashmm.benchmark.methods import PROCEDURES, Method, Procedure
    from flashmm.benchmark.metrics import average_metrics
    from flashmm.benchmark.mixedlm import MixedLMResult, choose_genes, fit_mixedlm
    from flashmm.benchmark.power import power_gains
    from flashmm.benchmark.truth import contrast_cell_types

__all__ = [
    "PROCEDURES",
    "CalibrationMethod",
    "DataSet",
    "Evaluation",
    "Method",
    "MethodResult",
    "MixedLMResult",
    "Procedure",
    "Request",
    "average_metrics",
    "calibrate",
    "choose_genes",
    "compare_fits",
    "contrast_cell_types",
    "control_table",
    "evaluate",
    "fit_frame",
    "fit_mixedlm",
    "pair_fits",
    "permute_labels",
    "pooled_tests",
    "power_gains",
    "pseudobulk_tests",
    "scenario_table",
]

on_demand(__name__)
