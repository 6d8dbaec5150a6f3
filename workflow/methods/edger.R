# Rscript edger.R {groups} {design} {out}: edgeR's quasi-likelihood F test on pseudobulk.
arguments <- commandArgs(TRUE)
here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE)))
source(file.path(here, "common.R"))
needs("edgeR")

pseudobulk(arguments, function(counts, X, tested, samples) {
  y <- edgeR::estimateDisp(normalised(counts, X), X)
  found <- edgeR::glmQLFTest(edgeR::glmQLFit(y, X), coef = tested)$table
  data.frame(gene = rownames(found), p_value = found$PValue, log2_fc = found$logFC)
})
