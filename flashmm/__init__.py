"""flashmm: mixed models for multi-subject single-cell data, fitted from summary statistics."""

from flashmm.benchmark.baselines import pooled_tests, pseudobulk_tests
from flashmm.benchmark.calibration import CalibrationMethod, calibrate
from flashmm.benchmark.evaluation import Evaluation, compare_fits, evaluate, power_gains
from flashmm.benchmark.mixedlm import fit_mixedlm
from flashmm.cells.groups import GroupStatistics, merge
from flashmm.cells.summary import summarise
from flashmm.de import de
from flashmm.design.contrasts import Contrast
from flashmm.design.from_groups import summary_statistics
from flashmm.design.from_matrices import summary_statistics_from_matrices
from flashmm.design.statistics import SummaryStatistics
from flashmm.inference.advice import advise
from flashmm.inference.influence import InfluenceTable, influence, jackknife
from flashmm.inference.permutation import PermutationTable, permutation_tests
from flashmm.inference.table import TestTable
from flashmm.inference.testing import contrast_tests
from flashmm.inference.variance import (
    VarianceExplained,
    VarianceTable,
    variance_explained,
    variance_tests,
)
from flashmm.io.files import (
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
from flashmm.kinship.data import KinshipFactor, kinship_factor, kinship_root
from flashmm.kinship.fit import KinshipFit, fit_kinship_lmm
from flashmm.kinship.rotation import KinshipRotation, rotate_by_kinship
from flashmm.kinship.simulation import KinshipSimulation, simulate_kinship_traits
from flashmm.lmm import LMMFit, fit_lmm
from flashmm.multitrait.fit import MultiTraitFit, fit_multitrait_lmm
from flashmm.multitrait.scan import TraitScan
from flashmm.options import (
    DesignError,
    FlashmmError,
    FlashmmWarning,
    FormulaError,
    InputError,
    Status,
)
from flashmm.simulate.counts import (
    GaussianSimulation,
    Simulation,
    SimulationSpec,
    simulate_counts,
    simulate_gaussian_groups,
)
from flashmm.subject_level.means import SubjectMeans, subject_means
from flashmm.subject_level.models import kinship_by_trait, multitrait_by_gene

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
