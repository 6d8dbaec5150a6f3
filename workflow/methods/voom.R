# Rscript voom.R {groups} {design} {out} [weights]: limma-voom on pseudobulk; with the word weights
# the samples have quality weights.
arguments <- commandArgs(TRUE)
here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE)))
source(file.path(here, "common.R"))
needs("edgeR", "limma")
voom <- if ("weights" %in% arguments) limma::voomWithQualityWeights else limma::voom

pseudobulk(arguments, function(counts, X, tested, samples) {
  fit <- limma::eBayes(limma::lmFit(voom(normalised(counts, X), X), X))
  data.frame(gene = rownames(fit), p_value = fit$p.value[, tested], log2_fc = fit$coefficients[, tested])
})
