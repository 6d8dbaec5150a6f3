"""Figures, from tidy tables.

Every function takes tidy frames and returns a matplotlib `Figure`, drawn in one style (`style`);
`save_figure` writes it as SVG and PNG, and `CAPTIONS` says for each what good looks like.
"""

from typing import TYPE_CHECKING

from flashmm.names import on_demand

if TYPE_CHECKING:
    from flashmm.plots.agreement import agreement_plot, time_memory_plot
    from flashmm.plots.calibration import coverage_plot, gain_plot, rejection_plot
    from flashmm.plots.captions import CAPTIONS
    from flashmm.plots.error_rates import fpr_plot, p_histogram, qq_plot
    from flashmm.plots.heritability import (
        dense_agreement_plot,
        heritability_plot,
        heritability_strips,
        trait_correlation_plot,
    )
    from flashmm.plots.power import fdr_tpr_plot, roc_plot
    from flashmm.plots.prior import posterior_plot, prior_plot
    from flashmm.plots.simulation import gene_moments, simulation_plot
    from flashmm.plots.study_size import study_size_plot
    from flashmm.plots.style import method_colours, save_figure
    from flashmm.plots.volcano import volcano_plot

__all__ = [
    "CAPTIONS",
    "agreement_plot",
    "coverage_plot",
    "dense_agreement_plot",
    "fdr_tpr_plot",
    "fpr_plot",
    "gain_plot",
    "gene_moments",
    "heritability_plot",
    "heritability_strips",
    "method_colours",
    "p_histogram",
    "posterior_plot",
    "prior_plot",
    "qq_plot",
    "rejection_plot",
    "roc_plot",
    "save_figure",
    "simulation_plot",
    "study_size_plot",
    "time_memory_plot",
    "trait_correlation_plot",
    "volcano_plot",
]

on_demand(__name__)
