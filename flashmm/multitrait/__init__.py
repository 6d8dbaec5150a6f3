"""Several traits in one model, and the scan of many candidates."""

from flashmm.multitrait.fit import MultiTraitFit, fit_multitrait_lmm
from flashmm.multitrait.scan import TraitScan

__all__ = [
    "MultiTraitFit",
    "TraitScan",
    "fit_multitrait_lmm",
]
