# Rscript nebula.R {matrix} {design} {out}: NEBULA's negative binomial mixed model of the counts of the
# cells of each cell type, with a random intercept per subject.
arguments <- commandArgs(TRUE)
here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE)))
source(file.path(here, "common.R"))
needs("nebula")
design <- read_design(arguments[2])
data <- read_cells(arguments[1], design)

parts <- list()
for (name in testable(unique(data$samples[c("subject", "cell_type", "condition")]))) {
  cells <- droplevels(data$samples[data$samples$cell_type == name, , drop = FALSE])
  cells <- cells[order(cells$subject), , drop = FALSE]
  X <- stats::model.matrix(sample_formula(cells, design, FALSE), cells)
  counts <- data$counts[, cells$cell, drop = FALSE]
  fit <- nebula::nebula(counts, cells$subject, pred = X, offset = cells$libsize,
                        ncore = as.integer(design$threads), verbose = FALSE)$summary
  for (level in design$level[-1]) {
    p <- fit[[paste0("p_condition", level)]]
    if (is.null(p)) next
    log_fc <- fit[[paste0("logFC_condition", level)]]
    parts[[length(parts) + 1]] <- tests(fit$gene, name, level, design, p, log2_fc = log_fc / log(2))
  }
}
write_tests(parts, arguments[3])
