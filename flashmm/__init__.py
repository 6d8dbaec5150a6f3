"""flashmm: mixed models for multi-subject single-cell data, fitted from summary statistics."""

from pathlib import Path
from typing import TYPE_CHECKING

from flashmm.names import on_demand
from flashmm.storage.compiled import cache_compiled_code

if TYPE_CHECKING:
    from flashmm.benchmark import (
        CalibrationMethod,
        Evaluation,
        calibrate,
        compare_fits,
        evaluate,
        fit_mixedlm,
        pooled_tests,
        power_gains,
        pseudobulk_tests,
    )
    from flashmm.cells.bulk_tables import read_bulk
    from flashmm.cells.effective_libsize import with_size_factors
    from flashmm.cells.groups import GroupStatistics, merge
    from flashmm.cells.inspection import DataCheck, check
    from flashmm.cells.read_cells import read_cells
    from flashmm.cells.size_factors import size_factors
    from flashmm.cells.summary import summarise
    from flashmm.de import de
    from flashmm.design.contrasts import Contrast
    from flashmm.design.from_groups import summary_statistics
    from flashmm.design.from_matrices import summary_statistics_from_matrices
    from flashmm.design.statistics import SummaryStatistics
    from flashmm.inference.advice import advise
    from flashmm.inference.empirical_bayes import VarianceRatioPrior
    from flashmm.inference.explained import VarianceExplained, variance_explained
    from flashmm.inference.gene_sets import gene_set_tests
    from flashmm.inference.heterogeneity import HeterogeneityTable, heterogeneity
    from flashmm.inference.influence import InfluenceTable, influence, jackknife
    from flashmm.inference.pairs import pairwise
    from flashmm.inference.permutation import PermutationTable, permutation_tests
    from flashmm.inference.posterior import posterior_of
    from flashmm.inference.power import PowerTable, power
    from flashmm.inference.table import TestTable
    from flashmm.inference.testing import contrast_tests
    from flashmm.inference.variance import VarianceTable, variance_tests
    from flashmm.io import (
        join_fits,
        merge_files,
        read_fit,
        read_gmt,
        read_groups,
        read_kinship_file,
        read_provenance,
        read_size_factors,
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
    from flashmm.simulate import (
        GaussianSimulation,
        Simulation,
        SimulationSpec,
        simulate_counts,
        simulate_gaussian_groups,
    )
    from flashmm.storage.version import __version__ as __version__
    from flashmm.subject_level.bulk import bulk_tests, heritability
    from flashmm.subject_level.means import SubjectMeans, subject_means
    from flashmm.subject_level.models import kinship_by_trait, multitrait_by_gene
    from flashmm.within import FitsWithin, fit_within

__all__ = [
    "CalibrationMethod",
    "Contrast",
    "DataCheck",
    "DesignError",
    "Evaluation",
    "FitsWithin",
    "FlashmmError",
    "FlashmmWarning",
    "FormulaError",
    "GaussianSimulation",
    "GroupStatistics",
    "HeterogeneityTable",
    "InfluenceTable",
    "InputError",
    "KinshipFactor",
    "KinshipFit",
    "KinshipRotation",
    "KinshipSimulation",
    "LMMFit",
    "MultiTraitFit",
    "PermutationTable",
    "PowerTable",
    "Simulation",
    "SimulationSpec",
    "Status",
    "SubjectMeans",
    "SummaryStatistics",
    "TestTable",
    "TraitScan",
    "VarianceExplained",
    "VarianceRatioPrior",
    "VarianceTable",
    "advise",
    "bulk_tests",
    "calibrate",
    "check",
    "compare_fits",
    "contrast_tests",
    "de",
    "evaluate",
    "fit_kinship_lmm",
    "fit_lmm",
    "fit_mixedlm",
    "fit_multitrait_lmm",
    "fit_within",
    "gene_set_tests",
    "heritability",
    "heterogeneity",
    "influence",
    "jackknife",
    "join_fits",
    "kinship_by_trait",
    "kinship_factor",
    "kinship_root",
    "merge",
    "merge_files",
    "multitrait_by_gene",
    "pairwise",
    "permutation_tests",
    "pooled_tests",
    "posterior_of",
    "power",
    "power_gains",
    "pseudobulk_tests",
    "read_bulk",
    "read_cells",
    "read_fit",
    "read_gmt",
    "read_groups",
    "read_kinship_file",
    "read_provenance",
    "read_size_factors",
    "read_table",
    "rotate_by_kinship",
    "simulate_counts",
    "simulate_gaussian_groups",
    "simulate_kinship_traits",
    "size_factors",
    "subject_means",
    "summarise",
    "summary_statistics",
    "summary_statistics_from_matrices",
    "variance_explained",
    "variance_tests",
    "with_size_factors",
    "write_fit",
    "write_groups",
    "write_table",
]

cache_compiled_code(Path(__file__).parent)
on_demand(__name__)
