# Rscript deseq2.R {groups} {design} {out}: DESeq2's Wald test on pseudobulk. Genes are filtered as
# for edgeR, so that p-values of all methods are of like genes; independent filtering is off.
arguments <- commandArgs(TRUE)
here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE)))
source(file.path(here, "common.R"))
needs("DESeq2", "edgeR")

pseudobulk(arguments, function(counts, X, tested, samples) {
  counts <- counts[kept_genes(counts, X), , drop = FALSE]
  if (nrow(counts) == 0) return(data.frame())
  storage.mode(counts) <- "integer"
  sheet <- data.frame(row.names = colnames(counts), sample = colnames(counts))
  y <- DESeq2::DESeqDataSetFromMatrix(counts, sheet, ~1)
  every_gene_has_zeros <- all(rowSums(counts == 0) > 0)
  y <- DESeq2::estimateSizeFactors(y, type = if (every_gene_has_zeros) "poscounts" else "ratio")
  y <- suppressWarnings(DESeq2::DESeq(y, full = X, betaPrior = FALSE, quiet = TRUE))
  contrast <- as.numeric(seq_len(ncol(X)) == tested)
  found <- DESeq2::results(y, contrast = contrast, independentFiltering = FALSE)
  data.frame(gene = rownames(found), p_value = found$pvalue, log2_fc = found$log2FoldChange)
})
