# Rscript peers.R counts.tsv design.tsv method out.tsv
# Pseudobulk tests of one cell type. counts: a row per gene (first column `gene`), a column per
# subject; design: `sample, condition`, one row per column of the counts, levels in order of
# appearance; method: edgeR-QL, limma-voom, voom-qw or DESeq2; out: gene, estimate (log2), p_value.
needs <- list("edgeR-QL" = "edgeR", "limma-voom" = c("edgeR", "limma"),
              "voom-qw" = c("edgeR", "limma"), "DESeq2" = "DESeq2")

stop_unless_installed <- function(method) {
  if (!method %in% names(needs)) stop("unknown method ", method)
  for (package in needs[[method]]) {
    if (!requireNamespace(package, quietly = TRUE)) stop("R has no package ", package)
  }
}

normalised <- function(counts) edgeR::calcNormFactors(edgeR::DGEList(counts))

quasi_likelihood <- function(counts, X) {
  y <- edgeR::estimateDisp(normalised(counts), X)
  found <- edgeR::glmQLFTest(edgeR::glmQLFit(y, X), coef = 2)$table
  data.frame(estimate = found$logFC, p_value = found$PValue)
}

voomed <- function(transform) function(counts, X) {
  fit <- limma::eBayes(limma::lmFit(transform(normalised(counts), X), X))
  data.frame(estimate = fit$coefficients[, 2], p_value = fit$p.value[, 2])
}

wald <- function(counts, X) {
  sheet <- data.frame(side = factor(X[, 2]), row.names = colnames(counts))
  y <- DESeq2::DESeqDataSetFromMatrix(counts, sheet, ~side)
  every_gene_has_zeros <- all(rowSums(counts == 0) > 0)
  y <- DESeq2::estimateSizeFactors(y, type = if (every_gene_has_zeros) "poscounts" else "ratio")
  found <- DESeq2::results(DESeq2::DESeq(y, quiet = TRUE), independentFiltering = FALSE)
  data.frame(estimate = found$log2FoldChange, p_value = found$pvalue)
}

tests <- list("edgeR-QL" = quasi_likelihood,
              "limma-voom" = voomed(function(y, X) limma::voom(y, X)),
              "voom-qw" = voomed(function(y, X) limma::voomWithQualityWeights(y, X)),
              "DESeq2" = wald)

main <- function(counts_file, design_file, method, out) {
  stop_unless_installed(method)
  table <- read.delim(counts_file, check.names = FALSE, colClasses = c(gene = "character"))
  counts <- as.matrix(table[, -1, drop = FALSE])
  storage.mode(counts) <- "integer"
  sheet <- read.delim(design_file, colClasses = "character")
  stopifnot(identical(colnames(counts), sheet$sample))
  X <- model.matrix(~factor(sheet$condition, unique(sheet$condition)))
  found <- suppressMessages(suppressWarnings(tests[[method]](counts, X)))
  write.table(cbind(gene = table$gene, found), out, sep = "\t", quote = FALSE, row.names = FALSE,
              na = "")
}

do.call(main, as.list(commandArgs(TRUE)))
