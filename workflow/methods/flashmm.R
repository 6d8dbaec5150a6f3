# Rscript flashmm.R {matrix} {design} {out}: FLASHMM's own program: one model of log2(1 + count) of all
# cells, a random intercept per subject, components unbounded, n - p degrees of freedom.
arguments <- commandArgs(TRUE)
here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE)))
source(file.path(here, "common.R"))
needs("FLASHMM")
design <- read_design(arguments[2])
data <- read_cells(arguments[1], design)
cells <- data$samples
cells$cell_type <- factor(cells$cell_type)
cells$size <- log(cells$libsize)

one_type <- nlevels(cells$cell_type) == 1
formula <- if (one_type) ~ 0 + size + condition else ~ 0 + size + cell_type + cell_type:condition
X <- stats::model.matrix(formula, cells)
X <- X[, qr(X)$pivot[seq_len(qr(X)$rank)], drop = FALSE]
Z <- stats::model.matrix(~ 0 + subject, transform(cells, subject = factor(subject)))
fit <- FLASHMM::lmmfit(as.matrix(log2(1 + data$counts)), X, Z, d = ncol(Z))

parts <- list()
for (name in levels(cells$cell_type)) {
  for (level in design$level[-1]) {
    row <- if (one_type) paste0("condition", level) else paste0("cell_type", name, ":condition", level)
    if (!row %in% rownames(fit$coef)) next
    parts[[length(parts) + 1]] <- tests(colnames(fit$coef), name, level, design, fit$p[row, ],
                                        estimate = fit$coef[row, ])
  }
}
write_tests(parts, arguments[3])
