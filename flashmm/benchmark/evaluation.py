"""Evaluate tests against a known truth.

Conventions, the same for every metric:

* A test that has no p-value (NaN) is never a discovery. It stays in the denominator of the true
  positive rate and is ranked last in ROC curves and AUC; rates and quantiles *of null p-values*
  (false positive rate, genomic inflation, QQ) use the tests that have one. Every metric says in `n`
  what it is a share of, and the tests without a p-value are counted by status.
* Monte Carlo standard errors treat genes as clusters, because the tests of one gene in several cell
  types share its cells' subjects and residual variance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from flashmm.benchmark.curves import draw_curves
from flashmm.benchmark.error_rates import slice_metrics, untested_pairs
from flashmm.benchmark.metrics import metrics_frame, valid_levels
from flashmm.benchmark.truth import ALL, add_effects, prepare_tests, slices
from flashmm.options import checked
from flashmm.shown import Shown


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Shown):
    """How the tests of one method did.

    Attributes
    ----------
    metrics : DataFrame
        Tidy: `metric, level, value, std_error, n, contrast` (``"all"`` pools them), `cell_type`
        where each has a model of its own, `group` where one was asked for, `maximise` (True, False,
        or None where a target value is best), `label`.
    curves : dict of DataFrame
        ``"qq"`` (`contrast, expected, observed, lower, upper`, all −log10 p), ``"p_histogram"``
        (`contrast, left, right, density, n`) and, with a truth, ``"roc"`` (`contrast, fpr, tpr`)
        and ``"fdp_tpr"`` (`contrast, log10_p, fdp, tpr`); with `cell_type` as in `metrics`.
    notes : tuple of str
        What was noticed and said while evaluating.
    """

    metrics: pd.DataFrame
    curves: dict[str, pd.DataFrame]
    notes: tuple[str, ...] = ()

    def value(
        self, metric: str, level: float | None = None, contrast: str = ALL, cell_type: str = ALL
    ) -> float:
        """Return one number of `metrics`; a KeyError names what is not there."""
        rows = self.metrics[(self.metrics.metric == metric) & (self.metrics.contrast == contrast)]
        if "group" in rows:
            rows = rows[rows.group == ALL]
        if "cell_type" in rows:
            rows = rows[rows.cell_type == cell_type]
        if level is not None:
            rows = rows[np.isclose(rows.level, level)]
        if len(rows) != 1:
            raise KeyError(f"{len(rows)} rows have metric={metric!r}, level={level}, {contrast=}")
        return float(rows.value.iloc[0])


@checked
def evaluate(
    table: pd.DataFrame,
    truth: pd.DataFrame | None = None,
    *,
    contrast_map: Mapping[str, str] | None = None,
    cell_type: str = "cell_type",
    levels: Sequence[float] = (0.05, 0.01, 0.001),
    fdr: Sequence[float] = (0.05, 0.10),
    group: str | None = None,
    same_unit: bool = False,
    pooled: bool = False,
) -> Evaluation:
    """Evaluate a table of tests against the truth of a simulation.

    Parameters
    ----------
    table : DataFrame
        One row per test: `gene, contrast, p_value`, and where they are there `log10_p` (used to
        rank p-values that underflow), `adj_p_value` (Benjamini-Hochberg per contrast; made when
        absent), `status`, and `conf_low, conf_high`, whose coverage is then given. A column named
        as `cell_type` says, as tests of one model per cell type have, gives the cell type of each
        row: then each contrast is one test per cell type, and each row tests an effect there.
    truth : DataFrame or None
        `gene, cell_type` of the differentially expressed pairs (and `log_fc`, for `same_unit`);
        every other tested pair is null, so an empty frame says that all are. None says that the
        truth is not known (real data): then genomic inflation, QQ and histogram are those of all
        tests, and nothing is said about errors.
    contrast_map : mapping, optional
        Contrast to cell type, for contrasts whose name does not say it (see `contrast_cell_types`).
    cell_type : str
        Name of the cell type column: of `table`, where it has one, else in coefficient names.
    levels : sequence of float
        Levels at which unadjusted p-values are evaluated.
    fdr : sequence of float
        Levels at which adjusted p-values are evaluated.
    group : str, optional
        A column of `table` (a stratum of expression, say); metrics are then also given per value.
    same_unit : bool
        Whether `log_fc` of the truth is in the unit of the estimates (Gaussian simulations), so
        that an interval can be said to cover it; else only intervals of null tests are evaluated.
    pooled : bool
        Only the metrics of all contrasts together, and no curves: cheap for very many tests.

    Returns
    -------
    Evaluation

    Raises
    ------
    InputError
        A column is missing, a test or true pair appears twice, a p-value is outside [0, 1], or a
        contrast cannot be assigned to a cell type.

    Notes
    -----
    * ``fpr``: share of the null tests with p ≤ level.
    * ``fdp``: V / max(R, 1), V of the R discoveries being null; ``tpr``: discovered share of the
      differentially expressed tests. Discoveries have an adjusted p-value ≤ level, adjusted per
      contrast (``fdp``, ``tpr``) or once over all contrasts (``fdp_global``, ``tpr_global``).
      Note that FPR / (FPR + TPR), sometimes called a false discovery rate, is not one.
    * ``power``: share of the differentially expressed tests with p ≤ level. ``power_at_fpr``: the
      same share at the threshold that rejects this part of the null tests of the table, whatever
      its p-values say (the ROC curve at that false positive rate; its standard error allows for the
      threshold being estimated). It compares methods that do not keep the same level.
    * ``coverage``: share of the tests whose interval holds the true effect, ``coverage_null`` those
      of null tests that hold zero.
    * ``auc`` with the standard error of DeLong (1988), clustered by gene (Obuchowski 1997);
      ``pauc`` is the area up to an FPR of 0.05, standardised after McClish (1989) so that chance is
      0.5 and perfection 1.
    * ``lambda_gc``: upper chi-squared(1) quantile of the median p, over that of 0.5; from p and not
      from the statistic, so that few degrees of freedom are not read as inflation. Its standard
      error is that of the median of uniform p-values.
    """
    levels, fdr = valid_levels(levels, "levels"), valid_levels(fdr, "fdr")
    notes: list[str] = []
    tests = prepare_tests(table, truth, contrast_map, cell_type, group, notes)
    known = truth is not None
    if same_unit:
        add_effects(tests, truth)
    rows = [
        row | labels
        for labels, part in slices(tests, group, pooled)
        for row in slice_metrics(part, known, levels, fdr)
    ]
    if truth is not None:
        everything = {"group": ALL, "cell_type": ALL, "contrast": ALL}
        rows.append(untested_pairs(tests, truth) | everything)
    typed = cell_type in table
    curves = {} if pooled else draw_curves(tests, known, typed)
    return Evaluation(metrics_frame(rows, group, typed), curves, tuple(notes))
