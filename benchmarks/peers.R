# Models of R packages, timed like the steps of steps.py: `Rscript peers.R PACKAGE cells.csv formula`.
#
# The table holds the columns of the formula and, last, one column per gene whose name begins with
# "gene_". Each line that arrives has the first gene fitted; the answer is seconds and peak memory.

arguments <- commandArgs(trailingOnly = TRUE)
package <- sub("-sums", "", arguments[1]) # FLASHMM-sums fits from sums that are made before
cells <- read.csv(arguments[2], stringsAsFactors = TRUE)
genes <- grep("^gene_", names(cells))
formula <- arguments[3]
suppressPackageStartupMessages(library(package, character.only = TRUE))

memory_mb <- function(field) {
  lines <- tryCatch(readLines("/proc/self/status"), error = function(e) character(), warning = function(w) character())
  line <- grep(paste0("^", field), lines, value = TRUE)
  if (length(line)) as.numeric(gsub("[^0-9]", "", line)) * 1024 / 1e6 else sum(gc()[, 6])
}

# Seconds per gene, over all genes of the table; those of edgeR for all of them.
fit_lme4 <- function() {
  for (gene in genes) {
    model <- as.formula(paste(names(cells)[gene], formula))
    suppressMessages(suppressWarnings(lme4::lmer(model, data = cells, REML = TRUE)))
  }
}

# FLASHMM takes matrices; its Z has the levels of all random terms side by side.
parts <- strsplit(formula, " + (1 | ", fixed = TRUE)[[1]]
prepare_flashmm <- function() {
  terms <- sub(")", "", parts[-1], fixed = TRUE)
  Z <- lapply(terms, function(term) {
    level <- interaction(cells[strsplit(term, ":", fixed = TRUE)[[1]]], drop = TRUE)
    model.matrix(~ 0 + level)
  })
  list(
    Y = t(as.matrix(cells[genes])), X = model.matrix(as.formula(parts[1]), cells),
    Z = do.call(cbind, Z), d = vapply(Z, ncol, 1L)
  )
}
if (package == "FLASHMM") matrices <- prepare_flashmm()
fit_FLASHMM <- function() {
  with(matrices, suppressWarnings(suppressMessages(FLASHMM::lmmfit(Y, X, Z, d = d))))
}
if (arguments[1] == "FLASHMM-sums") {
  sums <- with(matrices, list(
    XX = crossprod(X), XY = t(Y %*% X), ZX = crossprod(Z, X), ZY = t(Y %*% Z), ZZ = crossprod(Z),
    Ynorm = rowSums(Y^2), n = nrow(X), d = d
  ))
  fit_FLASHMM <- function() suppressWarnings(suppressMessages(do.call(FLASHMM::lmm, sums)))
}

# edgeR on sums of counts: its quasi-likelihood F tests of the condition in each cell type.
fit_edgeR <- function() {
  for (type in unique(cells$cell_type)) {
    rows <- cells$cell_type == type
    design <- model.matrix(~condition, cells[rows, ])
    sums <- edgeR::DGEList(t(as.matrix(cells[rows, genes])))
    sums <- sums[edgeR::filterByExpr(sums, design), , keep.lib.sizes = FALSE]
    sums <- edgeR::estimateDisp(edgeR::calcNormFactors(sums), design)
    edgeR::glmQLFTest(edgeR::glmQLFit(sums, design, robust = TRUE))
  }
}

fit <- get(paste0("fit_", package))
shared <- if (package == "edgeR") 1 else length(genes)
cat(sprintf('{"n_genes": %d}\n', length(genes)))
calls <- file("stdin", "r")
while (length(readLines(calls, 1))) {
  start_mb <- memory_mb("VmRSS")
  took <- system.time(fit())
  cat(sprintf(
    '{"seconds": %f, "cpu": %f, "peak_mb": %f, "start_mb": %f}\n', took[["elapsed"]] / shared,
    (took[["user.self"]] + took[["sys.self"]]) / shared, memory_mb("VmHWM"), start_mb
  ))
}
