"""flashmm: mixed models for multi-subject single-cell data, fitted from summary statistics."""

from flashmm.advice import advise
from flashmm.baselines import pooled_tests, pseudobulk_tests
from flashmm.calibration import CalibrationMethod, calibrate
from flashmm.contrasts import Contrast
from flashmm.crossproducts import (
    SummaryStatistics,
    summary_statistics,
    summary_statistics_from_matrices,
)
from flashmm.de import de
from flashmm.evaluate import Evaluation, compare_fits, evaluate, power_gains
from flashmm.groups import GroupStatistics, merge
from flashmm.inference import contrast_tests
from flashmm.io import (
    join_fits,
    merge_files,
    read_fit,
    read_groups,
    read_kinship_file,
    read_provenance,
    read_table,
    write_fit,
    write_groups,
    write_table,
)
from flashmm.jackknife import InfluenceTable, influence, jackknife
from flashmm.kinship import KinshipFit, fit_kinship_lmm
from flashmm.kinship_data import KinshipFactor, kinship_factor, kinship_root
from flashmm.kinship_rotation import KinshipRotation, rotate_by_kinship
from flashmm.kinship_simulation import KinshipSimulation, simulate_kinship_traits
from flashmm.lmm import LMMFit, fit_lmm
from flashmm.mixedlm import fit_mixedlm
from flashmm.multitrait import MultiTraitFit, fit_multitrait_lmm
from flashmm.options import (
    DesignError,
    FlashmmError,
    FlashmmWarning,
    FormulaError,
    InputError,
    Status,
)
from flashmm.permutation import PermutationTable, permutation_tests
from flashmm.simulate import (
    GaussianSimulation,
    Simulation,
    SimulationSpec,
    simulate_counts,
    simulate_gaussian_groups,
)
from flashmm.subject_models import kinship_by_trait, multitrait_by_gene
from flashmm.subject_rows import SubjectMeans, subject_means
from flashmm.summary import summarise
from flashmm.testtable import TestTable
from flashmm.traitscan import TraitScan
from flashmm.variance import (
    VarianceExplained,
    VarianceTable,
    variance_explained,
    variance_tests,
)

__version__ = "0.1.0"

__all__ = [
    "CalibrationMethod",
    "Contrast",
    "DesignError",
    "Evaluation",
    "FlashmmError",
    "FlashmmWarning",
    "FormulaError",
    "GaussianSimulation",
    "GroupStatistics",
    "InfluenceTable",
    "InputError",
    "KinshipFactor",
    "KinshipFit",
    "KinshipRotation",
    "KinshipSimulation",
    "LMMFit",
    "MultiTraitFit",
    "PermutationTable",
    "Simulation",
    "SimulationSpec",
    "Status",
    "SubjectMeans",
    "SummaryStatistics",
    "TestTable",
    "TraitScan",
    "VarianceExplained",
    "VarianceTable",
    "advise",
    "calibrate",
    "compare_fits",
    "contrast_tests",
    "de",
    "evaluate",
    "fit_kinship_lmm",
    "fit_lmm",
    "fit_mixedlm",
    "fit_multitrait_lmm",
    "influence",
    "jackknife",
    "join_fits",
    "kinship_by_trait",
    "kinship_factor",
    "kinship_root",
    "merge",
    "merge_files",
    "multitrait_by_gene",
    "permutation_tests",
    "pooled_tests",
    "power_gains",
    "pseudobulk_tests",
    "read_fit",
    "read_groups",
    "read_kinship_file",
    "read_provenance",
    "read_table",
    "rotate_by_kinship",
    "simulate_counts",
    "simulate_gaussian_groups",
    "simulate_kinship_traits",
    "subject_means",
    "summarise",
    "summary_statistics",
    "summary_statistics_from_matrices",
    "variance_explained",
    "variance_tests",
    "write_fit",
    "write_groups",
    "write_table",
]
