# Rscript flashmm.R {matrix} {design} {out}: FLASHMM's own program: one model of log2(1 + count) of all
# cells, a random intercept per subject, components unbounded, n - p degrees of freedom.
arguments <- commandArgs(TRUE)
here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE)))
source(file.path(here, "common.R"))
needs("FLASHMM")
design <- read_design(arguments[2])
data <- read_cells(arguments[1], design)
cells <- data$samples

X <- joint_matrix(cells)
Z <- stats::model.matrix(~ 0 + subject, transform(cells, subject = factor(subject)))
Y <- data$counts
Y@x <- log2(1 + Y@x)
fit <- FLASHMM::lmmfit(Y, X, Z, d = ncol(Z))

parts <- list()
for (name in unique(cells$cell_type)) {
  for (level in design$level[-1]) {
    row <- joint_column(X, name, level)
    if (!length(row)) next
    parts[[length(parts) + 1]] <- tests(colnames(fit$coef), name, level, design, fit$p[row, ],
                                        estimate = fit$coef[row, ])
  }
}
write_tests(parts, arguments[3])
