"""From fits to tests.

Contrasts with their degrees of freedom, permutation, tests of variance components, and advice about
what a design can say.
"""

from flashmm.inference.advice import advise
from flashmm.inference.explained import VarianceExplained, variance_explained
from flashmm.inference.influence import InfluenceTable, influence, jackknife
from flashmm.inference.permutation import PermutationTable, permutation_tests
from flashmm.inference.posterior import posterior_of
from flashmm.inference.table import TestTable
from flashmm.inference.testing import contrast_tests
from flashmm.inference.variance import VarianceTable, variance_tests

__all__ = [
    "InfluenceTable",
    "PermutationTable",
    "TestTable",
    "VarianceExplained",
    "VarianceTable",
    "advise",
    "contrast_tests",
    "influence",
    "jackknife",
    "permutation_tests",
    "posterior_of",
    "variance_explained",
    "variance_tests",
]
