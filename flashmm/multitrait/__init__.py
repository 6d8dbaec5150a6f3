"""Several traits in one model, and the scan of many candidates.

The inputs are checked and matched (`inputs`), rotated into a model in unit scales (`model`), fitted
(`fit`), and candidates are tested one after another against the fitted covariances (`scan`).
"""

from typing import TYPE_CHECKING

from flashmm.names import on_demand

if TYPE_CHECKING:
    from flashmm.multitrait.fit import MultiTraitFit, fit_multitrait_lmm
    from flashmm.multitrait.scan import TraitScan

__all__ = [
    "MultiTraitFit",
    "TraitScan",
    "fit_multitrait_lmm",
]

on_demand(__name__)
