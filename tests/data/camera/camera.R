# limma's camera on rounded random numbers: genes.tsv (z, 12 samples of y, two sets), expected.tsv
suppressMessages(library(limma))
set.seed(4)
G <- 60; n <- 12
y <- matrix(rnorm(G * n), G)
y[1:20, ] <- y[1:20, ] + outer(rep(.6, 20), rnorm(n))
y[1:10, 7:12] <- y[1:10, 7:12] + .8
y <- round(y, 3); z <- round(rnorm(G) + rep(c(.7, 0), c(20, 40)), 3)
sets <- list(first = 1:20, mixed = c(5:15, 40:45), tail = 46:60)
X <- cbind(1, rep(0:1, each = 6))
fit <- eBayes(lmFit(y, X))
zt <- zscoreT(fit$t[, 2], fit$df.total, approx = FALSE)
of <- function(found, what) data.frame(case = what, gene_set = rownames(found), p_value = found$PValue)
estimated <- camera(y, sets, X, 2, inter.gene.cor = NA, use.ranks = FALSE, sort = FALSE)
expected <- rbind(
  of(cameraPR(z, sets, use.ranks = FALSE, inter.gene.cor = .01, sort = FALSE), "0.01"),
  of(cameraPR(z, sets, use.ranks = FALSE, inter.gene.cor = .1, sort = FALSE), "0.1"),
  of(estimated, "estimated"))
expected$correlation <- c(rep(.01, 3), rep(.1, 3), estimated$Correlation)
inside <- sapply(sets, function(s) as.integer(1:G %in% s))
write.table(data.frame(z = z, zt = format(zt, digits = 17), inside, y), "genes.tsv", sep = "\t", row.names = FALSE, quote = FALSE)
write.table(format(expected, digits = 15), "expected.tsv", sep = "\t", row.names = FALSE, quote = FALSE)
