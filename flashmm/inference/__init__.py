"""From fits to tests.

Contrasts with their degrees of freedom, permutation, tests of variance components, and advice about
what a design can say.
"""

from typing import TYPE_CHECKING

from flashmm.names import on_demand

if TYPE_CHECKING:
    from flashmm.inference.advice import advise
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

__all__ = [
    "HeterogeneityTable",
    "InfluenceTable",
    "PermutationTable",
    "PowerTable",
    "TestTable",
    "VarianceExplained",
    "VarianceTable",
    "advise",
    "contrast_tests",
    "gene_set_tests",
    "heterogeneity",
    "influence",
    "jackknife",
    "pairwise",
    "permutation_tests",
    "posterior_of",
    "power",
    "variance_explained",
    "variance_tests",
]

on_demand(__name__)
