"""Fits with other labels, and how often they are as extreme as the observed one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from flashmm.design.contrasts import without_columns
from flashmm.design.derived import replace_fixed, subtract_means
from flashmm.design.statistics import SummaryStatistics
from flashmm.inference.adjustment import adjust_columns
from flashmm.inference.ddf import row_tests
from flashmm.inference.permuted_labels import FEWEST, Permutation
from flashmm.inference.subjects import require_groups
from flashmm.lmm import FITTED, LMMFit, hold, refit
from flashmm.options import DesignError, Status

# Difference of statistics, relative to 1 + |t|, that is rounding: they are equal.
TIE = 1e-7
STATISTICS = ("kenward-roger", "wald")


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """A hypothesis about the contrasts `rows` (C, p).

    `stats` are of the values that meet other labels, `status` (genes,) says where they are to be
    had. `held` is the fit whose components all permutations have, None where they are estimated.
    """

    permutation: Permutation
    rows: np.ndarray
    stats: SummaryStatistics
    status: np.ndarray
    held: LMMFit | None

    def fit(self, stats: SummaryStatistics, informed: bool) -> LMMFit:
        """Fit other labels."""
        if self.held is None:
            return refit(stats, self.permutation.fit.options)
        return hold(self.held, stats, informed)


def hypotheses(permutation: Permutation, null: str, refits: bool) -> Iterator[Hypothesis]:
    """One hypothesis for all contrasts, or one after another for each."""
    fit = permutation.fit
    if null == "factor":
        held = None
        if not refits:
            held = refit(replace_fixed(fit.stats, permutation.null_design()), fit.options)
        yield Hypothesis(
            permutation, permutation.rows, fit.stats, _joint_status(fit, held or fit), held
        )
        return
    for row in permutation.rows:
        yield _hypothesis_of(permutation, row, refits)


def _hypothesis_of(permutation: Permutation, row: np.ndarray, refits: bool) -> Hypothesis:
    """The hypothesis that one contrast is zero: residuals of the fit under it."""
    fit = permutation.fit
    if not _estimable(fit, row[None]).all():  # it will not be tested
        return Hypothesis(permutation, row[None], fit.stats, fit.status, None)
    fixed = _design_without(require_groups(fit.stats, "A permutation")[1].fixed, row)
    fixed[:, :, ~fit.model.kept] = 0.0
    if not fixed.any() and refits:  # the contrast is the whole of the fixed effects
        return Hypothesis(permutation, row[None], fit.stats, fit.status, None)
    null = refit(replace_fixed(fit.stats, fixed), fit.options)
    means = np.where(np.isfinite(null.coef), null.coef, 0.0) @ fixed.swapaxes(1, 2)
    stats = subtract_means(fit.stats, np.moveaxis(means, -1, 1))
    return Hypothesis(
        permutation, row[None], stats, _joint_status(fit, null), None if refits else null
    )


def _joint_status(fit: LMMFit, null: LMMFit) -> np.ndarray:
    """Status of the fit, or of the one under the hypothesis where only that failed, (genes,)."""
    return np.where(fit.fitted & ~null.fitted, null.status, fit.status)


def _design_without(fixed: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Columns that span Xβ with c'β = 0: X_k - (c_k/c_j) X_j, c_j being the largest."""
    pivot = int(np.abs(row).argmax())
    return fixed - fixed[:, :, [pivot]] * (row / row[pivot])


@dataclass(eq=False)
class Tally:
    """Counts over permutations; statistics are (genes, contrasts), more extreme is larger."""

    hypothesis: Hypothesis
    ddf: str
    alternative: str
    observed: dict[str, np.ndarray]
    estimable: np.ndarray
    extreme: np.ndarray
    used: np.ndarray
    above: np.ndarray
    order: list[np.ndarray] = field(default_factory=list)
    pooled: list[np.ndarray] = field(default_factory=list)

    @classmethod
    def start(cls, hypothesis: Hypothesis, method: str, alternative: str) -> Tally:
        """Statistics of the labels as they are, and nothing counted."""
        fit = hypothesis.permutation.fit
        if hypothesis.held is not None:
            fit = hypothesis.fit(fit.stats, method == STATISTICS[0])
        # the residual df are not used: its variance is the plain one
        ddf = "kenward-roger" if method == "kenward-roger" else "residual"
        observed = row_tests(fit, hypothesis.rows, ddf)
        missing = ~np.isin(hypothesis.status, FITTED)
        for values in observed.values():
            values[missing] = np.nan
        extreme = _extreme(observed["statistic"], alternative)
        shape, C = extreme.shape, len(hypothesis.rows)
        return cls(
            hypothesis,
            ddf,
            alternative,
            observed,
            _estimable(fit, hypothesis.rows),
            extreme,
            np.zeros(C, dtype=np.int64),
            np.zeros(shape, dtype=np.int64),
            [np.sort(column[np.isfinite(column)]) for column in extreme.T],
            [np.zeros(int(np.isfinite(c).sum()) + 1, dtype=np.int64) for c in extreme.T],
        )

    def add(self, codes: np.ndarray) -> None:
        """Count one permutation."""
        if not self.estimable.any():
            return
        stats = replace_fixed(self.hypothesis.stats, self.hypothesis.permutation.design(codes))
        try:
            fit = self.hypothesis.fit(stats, self.ddf == STATISTICS[0])
        except DesignError:  # these labels leave nothing to estimate
            return
        estimable = _estimable(fit, self.hypothesis.rows)
        t = _extreme(row_tests(fit, self.hypothesis.rows, self.ddf)["statistic"], self.alternative)
        # what could not be fitted counts against the gene
        t = np.where(np.isnan(t), np.inf, t)
        self.used += estimable
        self.above += estimable & (t >= self.extreme - TIE * (1.0 + np.abs(self.extreme)))
        fitted = np.isfinite(self.extreme)
        for j in np.flatnonzero(estimable & self.estimable):
            at = self.order[j] - TIE * (1.0 + np.abs(self.order[j]))
            place = np.searchsorted(at, t[fitted[:, j], j], side="right")
            self.pooled[j] += np.bincount(place, minlength=len(self.pooled[j]))

    def results(self) -> dict[str, np.ndarray]:
        """Estimates, statistics, p-values, FDR and status."""
        G, C = self.extreme.shape
        few = (self.used + 1 < FEWEST) & self.estimable
        valid = np.isfinite(self.extreme) & self.estimable & ~few
        status = np.repeat(np.asarray(self.hypothesis.status, dtype=object)[:, None], C, axis=1)
        status[:, ~self.estimable] = str(Status.NOT_ESTIMABLE)
        status[np.isfinite(self.extreme) & few] = str(Status.TOO_FEW_PERMUTATIONS)
        p = np.where(valid, (self.above + 1.0) / (self.used + 1.0), np.nan)
        fdr = np.full((G, C), np.nan)
        for j in np.flatnonzero(self.estimable & ~few):
            fdr[valid[:, j], j] = self._fdr(int(j))
        shown = self.estimable & np.ones((G, 1), dtype=bool)
        return {
            "estimate": np.where(shown, self.observed["estimate"], np.nan),
            "statistic": np.where(shown, self.observed["statistic"], np.nan),
            "p_value": p,
            "adj_p_value": adjust_columns(p),
            "fdr": fdr,
            "status": status.astype(str),
            "n_permutations": self.used.copy(),
        }

    def _fdr(self, j: int) -> np.ndarray:
        """Permutation FDR of the genes with a statistic of one contrast."""
        values, n = self.order[j], len(self.order[j])
        # how many are at or above each observed value: permuted, and observed
        permuted = np.cumsum(self.pooled[j][::-1])[::-1][1:]
        observed = n - np.searchsorted(values, values, side="left")
        rate = (permuted + observed) / (self.used[j] + 1.0) / observed
        best = np.minimum.accumulate(np.minimum(rate, 1.0))
        column = self.extreme[:, j]
        # equal values have the rate of the last of them
        place = np.searchsorted(values, column[np.isfinite(column)], side="right") - 1
        return best[place]


def _extreme(statistic: np.ndarray, alternative: str) -> np.ndarray:
    if alternative == "two-sided":
        return np.abs(statistic)
    return statistic if alternative == "greater" else -statistic


def _estimable(fit: LMMFit, rows: np.ndarray) -> np.ndarray:
    """Contrasts that avoid aliased coefficients and can be told from them, (C,) bool."""
    kept = fit.model.kept
    apart = ~without_columns(fit.stats.XtX, kept, ~kept, fit.stats.of_products(rows)).any(1)
    return apart & (rows[:, ~kept] == 0).all(1)
