# Rscript lmer.R {matrix} {design} {out}: lme4's mixed model of log2(1 + count) of the cells of each
# cell type with a random intercept per subject, tested by lmerTest with Satterthwaite's df.
arguments <- commandArgs(TRUE)
here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE)))
source(file.path(here, "common.R"))
needs("lme4", "lmerTest")
design <- read_design(arguments[2])
data <- read_cells(arguments[1], design)

tested <- function(gene, cells, model) {
  cells$y <- log2(1 + data$counts[gene, cells$cell])
  if (length(unique(cells$y)) < 2) return(NULL)
  quiet <- lme4::lmerControl(check.conv.singular = "ignore", calc.derivs = FALSE)
  fit <- try(suppressMessages(suppressWarnings(lmerTest::lmer(model, cells, control = quiet))), TRUE)
  if (inherits(fit, "try-error")) NULL else summary(fit)$coefficients
}

parts <- list()
for (name in testable(unique(data$samples[c("subject", "cell_type", "condition")]))) {
  cells <- droplevels(data$samples[data$samples$cell_type == name, , drop = FALSE])
  cells$size <- log(cells$libsize)
  model <- stats::update(sample_formula(cells, design, FALSE), y ~ . + size + (1 | subject))
  for (gene in rownames(data$counts)) {
    found <- tested(gene, cells, model)
    for (level in design$level[-1]) {
      row <- paste0("condition", level)
      if (!row %in% rownames(found)) next
      parts[[length(parts) + 1]] <- tests(gene, name, level, design, found[row, "Pr(>|t|)"],
                                          estimate = found[row, "Estimate"])
    }
  }
}
write_tests(parts, arguments[3])
