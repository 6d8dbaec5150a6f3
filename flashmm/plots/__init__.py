"""Figures, from tidy tables."""

from flashmm.plots.calibration import coverage_plot, gain_plot, rejection_plot
from flashmm.plots.figures import (
    agreement_plot,
    dense_agreement_plot,
    fdr_tpr_plot,
    fpr_plot,
    gene_moments,
    heritability_plot,
    heritability_strips,
    method_colours,
    p_histogram,
    qq_plot,
    roc_plot,
    save_figure,
    simulation_plot,
    time_memory_plot,
    trait_correlation_plot,
    volcano_plot,
)

__all__ = [
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
    "qq_plot",
    "rejection_plot",
    "roc_plot",
    "save_figure",
    "simulation_plot",
    "time_memory_plot",
    "trait_correlation_plot",
    "volcano_plot",
]
