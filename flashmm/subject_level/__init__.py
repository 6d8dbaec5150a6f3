"""Models with a row per subject: means of groups, and kinship and multi-trait models of them."""

from typing import TYPE_CHECKING

from flashmm.names import on_demand

if TYPE_CHECKING:
    from flashmm.subject_level.bulk import bulk_tests, heritability
    from flashmm.subject_level.means import SubjectMeans, subject_means
    from flashmm.subject_level.models import kinship_by_trait, multitrait_by_gene

__all__ = [
    "SubjectMeans",
    "bulk_tests",
    "heritability",
    "kinship_by_trait",
    "multitrait_by_gene",
    "subject_means",
]

on_demand(__name__)
