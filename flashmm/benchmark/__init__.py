"""Methods and how they are judged.

The truth, metrics and curves, other people's methods, and the calibration study.
"""

from flashmm.benchmark.baselines import pooled_tests, pseudobulk_tests
from flashmm.benchmark.calibration import CalibrationMethod, calibrate
from flashmm.benchmark.evaluation import Evaluation, compare_fits, evaluate, power_gains
from flashmm.benchmark.mixedlm import fit_mixedlm

__all__ = [
    "CalibrationMethod",
    "Evaluation",
    "calibrate",
    "compare_fits",
    "evaluate",
    "fit_mixedlm",
    "pooled_tests",
    "power_gains",
    "pseudobulk_tests",
]
