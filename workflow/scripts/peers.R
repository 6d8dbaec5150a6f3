# Rscript peers.R counts.tsv design.tsv method min_counts out.tsv
# Pseudobulk tests, each cell type alone. counts: a row per gene (first column `gene`), a column per
# sample; design: `sample, cell_type, condition`, one row per column of the counts, levels of the
# condition in order of appearance; method: edgeR-QL, limma-voom, voom-qw or DESeq2; genes with
# fewer counts in a type are left out there. out: gene, cell_type, estimate (log2), p_value.
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

one_type <- function(counts, sheet, test, min_counts) {
  counts <- counts[rowSums(counts) >= min_counts, , drop = FALSE]
  X <- model.matrix(~factor(sheet$condition, unique(sheet$condition)))
  found <- suppressMessages(suppressWarnings(test(counts, X)))
  cbind(gene = rownames(counts), cell_type = sheet$cell_type[1], found)
}

main <- function(counts_file, design_file, method, min_counts, out) {
  stop_unless_installed(method)
  table <- read.delim(counts_file, check.names = FALSE, colClasses = c(gene = "character"))
  counts <- as.matrix(table[, -1, drop = FALSE])
  rownames(counts) <- table$gene
  storage.mode(counts) <- "integer"
  sheet <- read.delim(design_file, colClasses = "character")
  stopifnot(identical(colnames(counts), sheet$sample))
  found <- lapply(unique(sheet$cell_type), function(type) {
    own <- sheet$cell_type == type
    one_type(counts[, own], sheet[own, ], tests[[method]], as.numeric(min_counts))
  })
  write.table(do.call(rbind, found), out, sep = "\t", quote = FALSE, row.names = FALSE, na = "")
}

do.call(main, as.list(commandArgs(TRUE)))
