# Rscript lmer.R {matrix} {design} {out} [joint]: lme4's mixed model of log2(1 + count) with a random
# intercept per subject, tested by lmerTest with Satterthwaite's df: of the cells of each cell type, or
# with `joint` one model of all cells.
arguments <- commandArgs(TRUE)
here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE)))
source(file.path(here, "common.R"))
needs("lme4", "lmerTest")
design <- read_design(arguments[2])
data <- read_cells(arguments[1], design)
quiet <- lme4::lmerControl(check.conv.singular = "ignore", calc.derivs = FALSE)

# Estimates and p-values of columns of X, of one gene.
tested <- function(y, X, subject, columns) {
  nothing <- list(estimate = rep(NA_real_, length(columns)), p = rep(NA_real_, length(columns)))
  if (length(unique(y)) < 2) return(nothing)
  fit <- try(suppressMessages(suppressWarnings(
    lmerTest::lmer(y ~ 0 + X + (1 | subject), control = quiet))), TRUE)
  if (inherits(fit, "try-error")) return(nothing)
  test <- function(column) lmerTest::contest1D(fit, as.numeric(seq_len(ncol(X)) == column))
  found <- lapply(columns, function(column) try(test(column), TRUE))
  number <- function(name) vapply(found, function(one) if (is.list(one)) one[[name]] else NA_real_, 0)
  list(estimate = number("Estimate"), p = number("Pr(>|t|)"))
}

# Tests of every gene: a row of `asked` for each column of X that is tested.
tests_of <- function(cells, X, asked) {
  rows <- lapply(rownames(data$counts), function(gene) {
    found <- tested(log2(1 + data$counts[gene, cells$cell]), X, cells$subject, asked$column)
    data.frame(gene = gene, asked, p_value = found$p, estimate = found$estimate)
  })
  rows <- do.call(rbind, rows)
  tests(rows$gene, rows$cell_type, rows$level, design, rows$p_value, estimate = rows$estimate)
}

asked_of <- function(name, level, column) data.frame(cell_type = name, level = level, column = column)

if ("joint" %in% arguments) {
  X <- joint_matrix(data$samples)
  asked <- list()
  for (name in unique(data$samples$cell_type)) {
    for (level in design$level[-1]) {
      column <- joint_column(X, name, level)
      if (length(column)) asked[[length(asked) + 1]] <- asked_of(name, level, column)
    }
  }
  parts <- list(tests_of(data$samples, X, do.call(rbind, asked)))
} else {
  parts <- lapply(testable(unique(data$samples[c("subject", "cell_type", "condition")])), function(name) {
    cells <- droplevels(data$samples[data$samples$cell_type == name, , drop = FALSE])
    cells$size <- log(cells$libsize)
    X <- stats::model.matrix(stats::update(sample_formula(cells, design, FALSE), ~ . + size), cells)
    level <- intersect(design$level[-1], levels(cells$condition)[-1])
    tests_of(cells, X, asked_of(name, level, match(paste0("condition", level), colnames(X))))
  })
}
write_tests(parts, arguments[3])
