"""What good looks like, per figure of the report."""

from __future__ import annotations

CAPTIONS: dict[str, str] = {
    "qq_plot": "Good: the null p-values of a method follow the diagonal inside the grey 95 % "
    "band; above it a test is anti-conservative, below it conservative and short of power.",
    "p_histogram": "Good: null p-values are flat at density 1, within the grey 95 % band; a peak "
    "at zero means too many false positives.",
    "fpr_plot": "Good: intervals cover the dashed nominal levels; above them a method rejects "
    "true null hypotheses too often, below them it is conservative.",
    "roc_plot": "Good: curves rise steeply at the left edge, far above the dotted line of chance; "
    "the right panel shows the part that matters, few false positives.",
    "fdr_tpr_plot": "Good: filled marks (the realised false discovery proportion does not exceed "
    "its nominal level, the dashed line, by more than its error), as high as possible.",
    "agreement_plot": "Good: points lie on the identity line; where log-likelihoods differ, the "
    "method with the higher one has the better fit of the same model.",
    "heritability_plot": "Good: one clear peak, with a shaded interval that is short next to the "
    "range from 0 to 1; a flat curve says that these individuals cannot tell the heritability.",
    "heritability_strips": "Good: dots gather around the black triangles of the truth (where it is "
    "known), and a narrow box (the middle half) says that the estimates are precise.",
    "dense_agreement_plot": "Good: every mark on the line, and differences of the log-likelihood "
    "around 1e-10 or less (either sign), which is rounding; far above zero the dense search "
    "stopped early, far below it ours did.",
    "trait_correlation_plot": "Good: positive correlations between cell types of one lineage; at "
    "rank 1 those that go with GG′ are one or minus one by construction.",
    "prior_plot": "Good: dots move little from one stratum to the next; nearly all weight at zero "
    "says that subjects hardly differ, weight at the right edge that they differ far more than "
    "their cells.",
    "posterior_plot": "Good: a posterior that is narrower than the prior: the gene knows something "
    "of its own variance; with few subjects it looks like the prior, and that is no fault.",
    "time_memory_plot": "Good: far to the left; both axes are logarithmic.",
    "volcano_plot": "Good: a broad base of grey genes around zero, with discoveries of both signs "
    "standing out above it; a lopsided cloud asks for a look at the covariates.",
    "study_size_plot": "Good: a line that crosses the dashed power within the subjects at hand; "
    "where lines of more cells lie on each other, only more subjects help.",
    "simulation_plot": "Good: every subject has cells of every type, library sizes of the "
    "conditions overlap, and the variance of most genes lies above the Poisson line, as in real "
    "counts.",
}
"""What good looks like, by the name of the function that draws the figure."""
