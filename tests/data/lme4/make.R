# Simulates data sets of eleven shapes and fits them by lmer, with the tests of lmerTest and pbkrtest.
#
#   Rscript tests/data/lme4/make.R
#
# writes one folder per data set beside this file. Needs lme4, lmerTest, pbkrtest and jsonlite. Each
# data set has a seed of its own, so that one can change without the others.

suppressPackageStartupMessages({
  library(lme4)
  library(lmerTest)
  library(pbkrtest)
})

here <- dirname(normalizePath(sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE))))

# Tighter than lmer's defaults: the numbers are compared at 1e-5 and better.
control <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-9, maxfun = 1e5))

effects <- function(groups, sd) {
  groups <- factor(groups)
  rnorm(nlevels(groups), 0, sd)[as.integer(groups)]
}

# --- The data sets -------------------------------------------------------------------------------

single <- function() {
  data <- expand.grid(cell = 1:5, batch = LETTERS[1:6])
  data$y <- round(1500 + effects(data$batch, 40) + rnorm(nrow(data), 0, 50), 1)
  data[c("batch", "y")]
}

# Equal means of the batches, up to little: less between them than the noise would give.
boundary <- function() {
  data <- expand.grid(cell = 1:5, batch = LETTERS[1:6])
  noise <- rnorm(nrow(data), 0, 3)
  data$y <- round(5 + noise - 0.9 * ave(noise, data$batch), 3)
  data[c("batch", "y")]
}

nested <- function() {
  data <- expand.grid(cell = 1:2, cask = letters[1:3], batch = LETTERS[1:10])
  data$sample <- paste(data$batch, data$cask, sep = ":")
  data$y <- round(60 + effects(data$batch, 1.5) + effects(data$sample, 2) + rnorm(nrow(data)), 2)
  data[c("batch", "sample", "y")]
}

crossed <- function() {
  data <- expand.grid(sample = LETTERS[1:6], plate = letters[1:24])
  data$y <- round(23 + effects(data$plate, 0.8) + effects(data$sample, 1.8) +
                    rnorm(nrow(data), 0, 0.55), 2)
  data[c("plate", "sample", "y")]
}

longitudinal <- function() {
  data <- expand.grid(day = 0:9, subject = sprintf("S%02d", 1:18))
  data$y <- round(250 + 10 * data$day + effects(data$subject, 35) + rnorm(nrow(data), 0, 30), 2)
  data[c("subject", "day", "y")]
}

random_slope <- function() {
  data <- expand.grid(day = 0:7, subject = sprintf("S%02d", 1:20))
  data <- data[sort(sample(nrow(data), 140)), ]
  data$y <- round(250 + 10 * data$day + effects(data$subject, 25) +
                    effects(data$subject, 6) * data$day + rnorm(nrow(data), 0, 25), 2)
  data[c("subject", "day", "y")]
}

# Effects of the subjects on level and slope, correlated by `r`.
slopes <- function(subject, day, sd, r) {
  subject <- factor(subject)
  level <- rnorm(nlevels(subject))
  slope <- r * level + sqrt(1 - r^2) * rnorm(nlevels(subject))
  code <- as.integer(subject)
  sd[1] * level[code] + sd[2] * slope[code] * day
}

correlated <- function() {
  data <- expand.grid(day = 0:7, subject = sprintf("S%02d", 1:20))
  data <- data[sort(sample(nrow(data), 140)), ]
  data$dose <- as.integer(factor(data$subject)) %% 2
  data$y <- round(250 + 10 * data$day + 5 * data$dose * data$day +
                    slopes(data$subject, data$day, c(25, 6), -0.5) + rnorm(nrow(data), 0, 25), 2)
  data[c("subject", "day", "dose", "y")]
}

correlated_singular <- function() {
  data <- expand.grid(day = 0:4, subject = sprintf("S%02d", 1:8))
  data$y <- round(40 + 2 * data$day + slopes(data$subject, data$day, c(2, 0.8), 1) +
                    rnorm(nrow(data), 0, 2), 2)
  data[c("subject", "day", "y")]
}

correlated_crossed <- function() {
  data <- expand.grid(day = 0:3, subject = sprintf("S%02d", 1:15))
  data$plate <- sample(letters[1:6], nrow(data), TRUE)
  data$y <- round(60 + 3 * data$day + slopes(data$subject, data$day, c(2, 1.5), 0.4) +
                    effects(data$plate, 1.5) + rnorm(nrow(data), 0, 1.5), 2)
  data[c("subject", "plate", "day", "y")]
}

# Whole plots are subject:treatment, in each of which all times are seen.
split_plot <- function() {
  data <- expand.grid(time = c("t1", "t2", "t3", "t4"), treatment = c("A", "B", "C"),
                      subject = sprintf("S%02d", 1:12))
  data$plot <- paste(data$subject, data$treatment, sep = ":")
  data$y <- round(30 + 1.5 * as.integer(data$time) + 2 * (data$treatment == "B") +
                    effects(data$subject, 5) + effects(data$plot, 2.5) +
                    rnorm(nrow(data), 0, 4), 2)
  data[c("subject", "plot", "treatment", "time", "y")]
}

# Each student rates 4 to 14 of 40 lecturers, on a scale of 1 to 5.
partially_crossed <- function() {
  rated <- lapply(sprintf("s%02d", 1:70), function(student) {
    data.frame(student, lecturer = sprintf("d%02d", sort(sample(40, sample(4:14, 1)))))
  })
  data <- do.call(rbind, rated)
  data$service <- rbinom(nrow(data), 1, 0.4)
  score <- 3.3 - 0.2 * data$service + effects(data$student, 0.5) + effects(data$lecturer, 0.4) +
    rnorm(nrow(data), 0, 1.1)
  data$y <- pmin(5, pmax(1, round(score)))
  data
}

# `slopes`: components of a random slope, by the name that VarCorr gives them: grouping and covariate.
cases <- list(
  single = list(
    seed = 11, simulate = single, formula = y ~ 1 + (1 | batch),
    description = "balanced one-way layout: 6 batches of 5"),
  boundary = list(
    seed = 12, simulate = boundary, formula = y ~ 1 + (1 | batch),
    description = "one-way layout whose component between batches is at the boundary 0"),
  nested = list(
    seed = 13, simulate = nested, formula = y ~ 1 + (1 | batch) + (1 | sample),
    description = "3 samples in each of 10 batches, 2 cells of each sample"),
  crossed = list(
    seed = 14, simulate = crossed, formula = y ~ 1 + (1 | plate) + (1 | sample),
    description = "two crossed factors: 24 plates, 6 samples"),
  longitudinal = list(
    seed = 15, simulate = longitudinal, formula = y ~ day + (1 | subject),
    description = "18 subjects at 10 days, random intercept"),
  random_slope = list(
    seed = 16, simulate = random_slope, formula = y ~ day + (1 | subject) + (0 + day | subject),
    slopes = list(subject.1 = c("subject", "day")),
    description = "20 subjects, 140 of 160 days, independent random intercept and slope"),
  correlated = list(
    seed = 19, simulate = correlated, formula = y ~ day * dose + (1 + day | subject),
    slopes = list(subject.1 = c("subject", "day")),
    description = "20 subjects, 140 of 160 days, correlated random intercept and slope"),
  correlated_singular = list(
    seed = 29, simulate = correlated_singular, formula = y ~ day + (1 + day | subject),
    slopes = list(subject.1 = c("subject", "day")),
    description = "8 subjects at 5 days, the correlation at the boundary 1"),
  correlated_crossed = list(
    seed = 21, simulate = correlated_crossed,
    formula = y ~ day + (1 + day | subject) + (1 | plate),
    slopes = list(subject.1 = c("subject", "day")),
    description = "15 subjects at 4 days, correlated intercept and slope, crossed with 6 plates"),
  split_plot = list(
    seed = 17, simulate = split_plot,
    formula = y ~ treatment * time + (1 | subject) + (1 | plot),
    description = "split plot: treatments of plots within subjects, times within plots"),
  partially_crossed = list(
    seed = 18, simulate = partially_crossed,
    formula = y ~ 1 + service + (1 | student) + (1 | lecturer),
    description = "unbalanced, partially crossed: 70 students, 40 lecturers, ratings of 1 to 5")
)

# --- What is written -----------------------------------------------------------------------------

# 17 significant digits, from which the double is recovered exactly.
digits17 <- function(x) if (is.double(x)) sprintf("%.17g", x) else as.character(x)

write_table <- function(table, folder, name) {
  table[] <- lapply(table, digits17)
  write.csv(table, file.path(folder, paste0(name, ".csv")), row.names = FALSE, quote = FALSE)
}

write_data <- function(data, folder) {
  write.csv(data, file.path(folder, "data.csv"), row.names = FALSE, quote = FALSE)
}

square <- function(matrix) {
  matrix <- as.matrix(matrix)
  data.frame(term = rownames(matrix), as.data.frame(matrix), check.names = FALSE)
}

# Columns of lmerTest's table: estimate, standard error, df, t, p.
fixed_effects <- function(fit, reml) {
  columns <- function(ddf) coef(summary(fit, ddf = ddf))
  table <- columns("Satterthwaite")
  result <- data.frame(term = rownames(table), estimate = table[, 1], se = table[, 2],
                       df_satterthwaite = table[, 3], t = table[, 4], p_satterthwaite = table[, 5])
  if (reml) {
    table <- columns("Kenward-Roger")
    result <- cbind(result, se_kenward_roger = table[, 2], df_kenward_roger = table[, 3],
                    t_kenward_roger = table[, 4], p_kenward_roger = table[, 5])
  }
  result
}

# Of correlated effects the intercept has the name of the grouping, the slope that with ".1", and
# their covariance "cov"; a grouping with independent ones has these names from lmer.
variances <- function(fit) {
  table <- as.data.frame(VarCorr(fit))
  correlated <- table$grp %in% table$grp[!is.na(table$var2)]
  slope <- correlated & is.na(table$var2) & table$var1 != "(Intercept)"
  group <- ifelse(slope, paste0(table$grp, ".1"), ifelse(is.na(table$var2), table$grp, "cov"))
  data.frame(group, variance = table$vcov)
}

# Modes of the random effects; of a grouping with two components both, in the order of VarCorr.
blups <- function(fit, slopes) {
  modes <- ranef(fit, condVar = FALSE)
  groups <- variances(fit)$group
  tables <- lapply(setdiff(groups, c("cov", "Residual")), function(group) {
    term <- if (is.null(slopes[[group]])) c(group, "(Intercept)") else slopes[[group]]
    mode <- modes[[term[1]]]
    data.frame(group, level = rownames(mode), blup = mode[[term[2]]])
  })
  do.call(rbind, tables)
}

# Tests of type III.
anova_table <- function(fit, ddf) {
  table <- anova(fit, type = 3, ddf = ddf)
  data.frame(term = rownames(table), as.data.frame(table), check.names = FALSE)
}

write_fit <- function(fit, case, folder, method) {
  write <- function(table, name) write_table(table, folder, paste(name, method, sep = "_"))
  write(fixed_effects(fit, method == "reml"), "fixef")
  write(square(vcov(fit)), "vcov")
  write(variances(fit), "varcomp")
  write(blups(fit, case$slopes), "ranef")
  if (method == "reml" && length(labels(terms(fit))) > 0) {
    write(anova_table(fit, "Satterthwaite"), "anova_satterthwaite")
    write(anova_table(fit, "Kenward-Roger"), "anova_kenward_roger")
  }
}

summary_of <- function(case, name, data, fits) {
  version <- function(package) as.character(packageVersion(package))
  list(
    name = name, description = case$description, formula = deparse1(case$formula),
    seed = case$seed, n = nrow(data), slopes = case$slopes,
    lme4 = version("lme4"), lmerTest = version("lmerTest"), pbkrtest = version("pbkrtest"),
    r_version = R.version.string,
    logLik_reml = digits17(as.numeric(logLik(fits$reml))), singular_reml = isSingular(fits$reml),
    logLik_ml = digits17(as.numeric(logLik(fits$ml))), singular_ml = isSingular(fits$ml)
  )
}

make <- function(name) {
  case <- cases[[name]]
  set.seed(case$seed)
  data <- case$simulate()
  folder <- file.path(here, name)
  dir.create(folder, showWarnings = FALSE)
  write_data(data, folder)
  data <- read.csv(file.path(folder, "data.csv"))  # fitted as it is read back
  fits <- lapply(c(reml = TRUE, ml = FALSE), function(reml) {
    lmerTest::lmer(case$formula, data, REML = reml, control = control)
  })
  X <- getME(fits$reml, "X")
  write_table(as.data.frame(X), folder, "X")
  for (method in names(fits)) write_fit(fits[[method]], case, folder, method)
  json <- jsonlite::toJSON(summary_of(case, name, data, fits), auto_unbox = TRUE, pretty = TRUE,
                           null = "null")
  writeLines(json, file.path(folder, "case.json"))
}

for (name in names(cases)) make(name)
