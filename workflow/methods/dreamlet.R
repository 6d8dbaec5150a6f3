# Rscript dreamlet.R {groups} {design} {out}: dreamlet's weighted regression of pseudobulk, voom with
# the precision of the sums, by the functions of variancePartition that it is made of (1.33 or newer).
arguments <- commandArgs(TRUE)
here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE)))
source(file.path(here, "common.R"))
needs("variancePartition", "edgeR")

pseudobulk(arguments, function(counts, X, tested, samples) {
  y <- normalised(counts, X)
  rownames(samples) <- samples$group
  design <- read_design(arguments[2])
  formula <- sample_formula(samples, design)
  # cells per sample say how precise its sums are
  voomed <- variancePartition::voomWithDreamWeights(y, formula, samples, weights = samples$n_cells)
  fit <- variancePartition::eBayes(variancePartition::dream(voomed, formula, samples))
  found <- variancePartition::topTable(fit, coef = colnames(X)[tested], number = Inf, sort.by = "none")
  data.frame(gene = rownames(found), p_value = found$P.Value, log2_fc = found$logFC)
})
