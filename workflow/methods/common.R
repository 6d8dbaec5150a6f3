# What the methods in R share: packages, files and the table of tests (docs/add-a-method.md says what
# the files hold). A method reads arguments, tests each cell type, and writes one table.

skipped <- 77L # the exit code of a method that cannot run here

# Ends with one line where a package is not installed.
needs <- function(...) {
  for (package in c(...)) {
    if (!requireNamespace(package, quietly = TRUE)) {
      message("R has no package ", package, ".")
      quit(status = skipped, save = "no")
    }
  }
}

read_table <- function(path, ...) {
  read.delim(path, quote = "", comment.char = "", check.names = FALSE, ...)
}

# What is compared, as a list: key -> values.
read_design <- function(path) {
  rows <- read_table(path, colClasses = "character")
  split(rows$value, factor(rows$key, unique(rows$key)))
}

# A table of groups or cells: names as text (a type called T is not TRUE), the condition as a factor
# with its reference first, other columns by what they hold.
read_samples <- function(path, design) {
  table <- read_table(path, colClasses = "character", na.strings = character())
  names <- c("group", "cell", "subject", "cell_type", "condition")
  for (other in setdiff(colnames(table), names)) {
    table[[other]] <- utils::type.convert(table[[other]], as.is = TRUE)
  }
  table$condition <- factor(table$condition, design$level)
  for (name in design$adjust) if (is.character(table[[name]])) table[[name]] <- factor(table[[name]])
  table
}

# Sums of counts (genes x groups) and the table of the groups.
read_groups <- function(folder, design) {
  counts <- read_table(file.path(folder, "counts.tsv"), colClasses = c(gene = "character"))
  groups <- read_samples(file.path(folder, "groups.tsv"), design)
  values <- as.matrix(counts[, -1, drop = FALSE])
  dimnames(values) <- list(counts$gene, groups$group)
  list(counts = values, samples = groups)
}

# Counts of cells (genes x cells, sparse) and the table of the cells.
read_cells <- function(folder, design) {
  needs("Matrix")
  counts <- Matrix::readMM(file.path(folder, "matrix.mtx"))
  counts <- methods::as(counts, "CsparseMatrix")
  genes <- read_table(file.path(folder, "genes.tsv"), colClasses = "character")$gene
  cells <- read_samples(file.path(folder, "cells.tsv"), design)
  dimnames(counts) <- list(genes, cells$cell)
  list(counts = counts, samples = cells)
}

# A formula of the columns to adjust for, subjects where they are paired, and the condition. Terms
# that a cell type cannot tell apart, such as a batch that all its samples share, are left out.
sample_formula <- function(samples, design, subjects = design$paired == "true") {
  varies <- function(name) length(unique(samples[[name]])) > 1
  terms <- c(Filter(varies, design$adjust), if (subjects && varies("subject")) "subject")
  stats::reformulate(c(sprintf("`%s`", terms), "condition"))
}

# The design matrix of samples, and the columns of the contrasts in it.
sample_matrix <- function(samples, design) {
  X <- stats::model.matrix(sample_formula(samples, design), droplevels(samples))
  if (qr(X)$rank < ncol(X) || nrow(X) <= ncol(X)) return(NULL)
  tested <- paste0("condition", design$level[-1])
  list(X = X, tested = match(tested, colnames(X)))
}

# Names of the cell types with two samples of each of two conditions; others are said.
testable <- function(samples) {
  enough <- function(part) sum(table(part$condition) >= 2) >= 2
  parts <- split(samples, samples$cell_type)
  found <- vapply(parts, enough, TRUE)
  for (name in names(parts)[!found]) message(name, ": too few samples, not tested.")
  if (!any(found)) stop("no cell type has two samples of two conditions")
  names(parts)[found]
}

# A row per gene of one cell type and one contrast.
tests <- function(gene, cell_type, level, design, p_value, ...) {
  data.frame(gene = gene, cell_type = cell_type, contrast = design$contrast[match(level, design$level) - 1],
             p_value = p_value, ...)
}

write_tests <- function(parts, path) {
  found <- do.call(rbind, parts)
  if (is.null(found)) stop("no cell type could be tested")
  utils::write.table(found, path, sep = "\t", quote = FALSE, row.names = FALSE, na = "NA")
}

# Runs a pseudobulk test in each cell type. `fit` takes counts (genes x samples), the design matrix,
# the column of a contrast and the samples, and gives gene, p_value and log2_fc.
pseudobulk <- function(arguments, fit) {
  design <- read_design(arguments[2])
  data <- read_groups(arguments[1], design)
  set.seed(as.integer(design$seed))
  parts <- list()
  for (name in testable(data$samples)) {
    samples <- droplevels(data$samples[data$samples$cell_type == name, , drop = FALSE])
    model <- sample_matrix(samples, design)
    if (is.null(model)) {
      message(name, ": the design has no degrees of freedom left, not tested.")
      next
    }
    counts <- data$counts[, samples$group, drop = FALSE]
    for (i in which(!is.na(model$tested))) {
      found <- fit(counts, model$X, model$tested[i], samples)
      level <- design$level[i + 1]
      if (nrow(found)) {
        parts[[length(parts) + 1]] <- tests(found$gene, name, level, design, found$p_value,
                                            log2_fc = found$log2_fc)
      }
    }
  }
  write_tests(parts, arguments[3])
}

# One model of the cells of all types: a mean per type, an effect of the condition in each, and the
# logarithm of the library size. Columns of empty cells of the design are left out.
joint_matrix <- function(cells) {
  cells$cell_type <- factor(cells$cell_type)
  cells$size <- log(cells$libsize)
  one_type <- nlevels(cells$cell_type) == 1
  X <- stats::model.matrix(if (one_type) ~ 0 + size + condition else ~ 0 + size + cell_type + cell_type:condition, cells)
  pivoted <- qr(X)
  X[, sort(pivoted$pivot[seq_len(pivoted$rank)]), drop = FALSE]
}

# Which column of it is the effect of a level of the condition in a cell type; none where it is left out.
joint_column <- function(X, name, level) {
  which(colnames(X) %in% c(paste0("condition", level), paste0("cell_type", name, ":condition", level)))
}

# Genes that are tested: as edgeR filters them, or with the argument min_counts=20 those with 20
# counts in all samples of a cell type together.
kept_genes <- function(counts, X, arguments = commandArgs(TRUE)) {
  least <- sub("^min_counts=", "", grep("^min_counts=", arguments, value = TRUE))
  if (length(least)) rowSums(counts) >= as.numeric(least) else edgeR::filterByExpr(edgeR::DGEList(counts), X)
}

# Those genes, library sizes by trimmed means.
normalised <- function(counts, X) {
  y <- edgeR::DGEList(counts)
  edgeR::calcNormFactors(y[kept_genes(counts, X), , keep.lib.sizes = FALSE])
}
