"""The mixed model of related individuals.

Kinship and its factors (`data`), traits rotated by it (`rotation`), heritability and fixed effects
of many traits at once (`fit`, `estimates`), and traits with a known heritability (`simulation`).
"""

from typing import TYPE_CHECKING

from flashmm.names import on_demand

if TYPE_CHECKING:
    from flashmm.kinship.data import KinshipFactor, kinship_factor, kinship_root
    from flashmm.kinship.fit import KinshipFit, fit_kinship_lmm
    from flashmm.kinship.rotation import KinshipRotation, rotate_by_kinship
    from flashmm.kinship.simulation import KinshipSimulation, simulate_kinship_traits

__all__ = [
    "KinshipFactor",
    "KinshipFit",
    "KinshipRotation",
    "KinshipSimulation",
    "fit_kinship_lmm",
    "kinship_factor",
    "kinship_root",
    "rotate_by_kinship",
    "simulate_kinship_traits",
]

on_demand(__name__)
