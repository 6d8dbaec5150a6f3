# TMM factors of the counts in this folder, for their totals and for library sizes of their own:
# Rscript factors.R
suppressMessages(library(edgeR))
options(digits = 17)
files <- setdiff(sort(list.files(".", pattern = "[.]tsv$")), "factors.tsv")
rows <- lapply(files, function(file) {
  counts <- as.matrix(read.delim(file, row.names = 1))
  totals <- colSums(counts)
  larger <- round(totals * 1.1 + 10 * seq_along(totals))
  data.frame(
    case = sub("[.]tsv$", "", file), sample = colnames(counts),
    factor = sprintf("%.17g", calcNormFactors(counts, method = "TMM")),
    library_size = larger,
    factor_of_library_size = sprintf("%.17g", calcNormFactors(counts, lib.size = larger, method = "TMM"))
  )
})
write.table(do.call(rbind, rows), "factors.tsv", sep = "\t", quote = FALSE, row.names = FALSE)
cat(R.version.string, "edgeR", as.character(packageVersion("edgeR")), "\n")
