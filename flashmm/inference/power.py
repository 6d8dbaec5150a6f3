"""Power of studies of other sizes, from the variance components of a fitted one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from flashmm.design.contrasts import Contrast
from flashmm.design.differences import contrasts_of
from flashmm.inference.empirical_bayes import RatioPosterior, ratio_posterior
from flashmm.inference.planned_design import PlannedDesign
from flashmm.inference.table import TestTable
from flashmm.kernels.expected_log import shift_of_fold_change
from flashmm.kernels.mixture_power import mixture_power
from flashmm.kernels.t_power import t_power
from flashmm.lmm import LMMFit
from flashmm.names import listed
from flashmm.options import FlashmmError, InputError, checked, is_number, note
from flashmm.shown import Shown
from flashmm.within import FitsWithin

SUBJECTS = (3, 4, 5, 6, 8, 10, 12, 15, 20, 30)
# Genes of a model that power is averaged over, evenly over mean expression: a mean needs no more.
MOST_GENES = 1000
# Transforms of counts with log(1 + count), and their unit in natural logarithms.
UNITS = {"log2p1": np.log(2.0), "log1p": 1.0}
# Quantiles over genes beside the mean, and the power that is asked for most.
QUANTILES = {"power_low": 0.1, "power_high": 0.9}
USUAL = 0.8
# Levels at which power is taken to find that of a false discovery rate, and their smallest,
# relative to the rate.
LEVELS, SMALLEST_LEVEL = 12, 1e-5
# Tests whose power is known.
TESTS = ("empirical-bayes", "kenward-roger")


@dataclass(frozen=True, eq=False)
class PowerTable(Shown):
    """Power of planned studies, on average over the genes of a pilot.

    Attributes
    ----------
    frame : pandas.DataFrame
        One row per (level of `within`,) comparison, fold change, number of cells and of subjects:
        `comparison`, `log2_fc` or `effect`, `cells`, `subjects`, `df`, `power` (mean over genes),
        `power_low` and `power_high` (10 % and 90 % of the genes), `genes_at_80` (share of genes
        with power of at least 0.8), `n_genes`, `alpha` (level of the tests).
    ddf : str
        The test.
    alpha : float
        Level of the two-sided tests; NaN with a false discovery rate.
    paired : bool
        Whether `subjects` are pairs, each in both conditions, or subjects of each of two arms.
    subject : str
        The column that names the subjects.
    within : str or None
        The column whose levels have models of their own.
    notes : tuple of str
        What was decided for the user.
    fdr : float or None
        False discovery rate that the lists of genes have, instead of a level.
    """

    frame: pd.DataFrame
    ddf: str
    alpha: float
    paired: bool
    subject: str
    within: str | None = None
    notes: tuple[str, ...] = ()
    fdr: float | None = None

    def to_frame(self) -> pd.DataFrame:
        """The table, a copy."""
        return self.frame.copy()

    @property
    def size(self) -> str:
        """The column with what is to be found: `log2_fc`, or `effect`."""
        return "log2_fc" if "log2_fc" in self.frame else "effect"

    @checked
    def needed(self, power: float = USUAL) -> pd.DataFrame:
        """The fewest subjects of the table with a mean power.

        Parameters
        ----------
        power : float
            Between 0 and 1.

        Returns
        -------
        pandas.DataFrame
            One row per (level,) comparison, fold change and number of cells; `subjects` is missing
            where no number of the table is enough.
        """
        if not (is_number(power) and 0 < power < 1):
            raise InputError(f"power is a probability between 0 and 1; found {power!r}.")
        labels = [] if self.within is None else [self.within]
        keys = [*labels, "comparison", self.size, "cells"]
        enough = self.frame["subjects"].where(self.frame["power"] >= power)
        fewest = self.frame.assign(subjects=enough).groupby(keys, sort=False, observed=True)
        return fewest["subjects"].min().astype("Int64").reset_index()

    @property
    def criterion(self) -> str:
        """The level of the tests, or the false discovery rate, in words."""
        return f"level {self.alpha:g}" if self.fdr is None else f"FDR {self.fdr:g}"

    def preview(self) -> pd.DataFrame:
        """The fewest subjects for a power of 80%."""
        return self.needed()

    def __repr__(self) -> str:
        best = self.frame["power"]
        unit = "pairs" if self.paired else "subjects per arm"
        return (
            f"PowerTable({len(self.frame)} designs in {unit}, {self.criterion}: "
            f"power {best.min():.2f} to {best.max():.2f})"
        )


@dataclass(frozen=True)
class _Asked:
    """The studies that are asked about, checked."""

    sizes: tuple[float, ...]
    subjects: tuple[int, ...]
    cells: tuple[float, ...] | None
    cells_cv: float | None
    alpha: float
    is_fold_change: bool
    ddf: str
    fdr: float | None = None
    changed: float = 0.1


@checked
def power(
    pilot: TestTable | LMMFit | FitsWithin,
    contrast: Any = None,
    *,
    log2_fc: float | Sequence[float] = (0.5, 1.0),
    effect: float | Sequence[float] | None = None,
    subjects: float | Sequence[float] = SUBJECTS,
    cells: float | Sequence[float] | None = None,
    cells_cv: float | None = None,
    paired: bool | None = None,
    alpha: float = 0.05,
    fdr: float | None = None,
    changed: float = 0.1,
    ddf: str | None = None,
) -> PowerTable:
    """How often studies of other sizes would find a fold change, from fitted variance components.

    Parameters
    ----------
    pilot : TestTable, LMMFit or FitsWithin
        A fitted study: the table of `de` or `contrast_tests`, whose contrasts are taken, or fits.
    contrast : optional
        With a fit, what is tested, as in `contrast_tests`: a difference of two levels of a column.
    log2_fc : float or sequence of float
        Log2 fold changes of the expected counts; for models of log2(1 + count) or log(1 + count).
    effect : float or sequence of float, optional
        Effects in the unit of the estimates, instead of fold changes.
    subjects : int or sequence of int
        Subjects in each of two arms; in paired studies pairs.
    cells : float or sequence of float, optional
        Cells of a subject (paired: of a subject in one condition) of the cell type, on average;
        None takes those of the pilot.
    cells_cv : float, optional
        Coefficient of variation of these; None takes that of the pilot.
    paired : bool, optional
        Whether subjects are measured in both conditions; None as in the pilot.
    alpha : float
        Level of the two-sided tests.
    fdr : float, optional
        False discovery rate by Benjamini-Hochberg, instead of a level: `power` is then the share of
        the changed genes that the list will hold, and each design has the level that this comes to.
    changed : float
        With `fdr`: the share of the genes that change, all by the fold change or effect.
    ddf : {"empirical-bayes", "kenward-roger"}, optional
        The test of the planned study; None takes that of the pilot's table: empirical Bayes where
        it has it, as the tests of one model per level do, else Kenward-Roger.

    Returns
    -------
    PowerTable

    Raises
    ------
    InputError
        Numbers out of range, a pilot without groups of cells, or fold changes for values that are
        not logarithms of counts.
    DesignError
        A contrast that is no difference of two levels, or random terms other than those of
        subjects and of subjects in a condition.

    Notes
    -----
    With n subjects of m_i cells in an arm the difference has the variance 2 / Σ 1/(σ²_s + σ²/m_i).
    Kenward-Roger's test of it is a t test with 2n - 2 degrees of freedom (n - 1 for pairs), fewer
    where the pilot has other effects between subjects; with few subjects of very unequal numbers of
    cells the test is conservative, and has less power than this. That of empirical Bayes averages
    over the posterior of σ²_s in the planned study, under the prior of the pilot. In both, a gene's
    own variances are averaged over what the pilot and genes of like mean expression say of them, as
    estimates from few subjects are often zero or far off. A fold change becomes a difference of
    mean log(1 + count) by the negative binomial distribution with the gene's mean count and mean of
    the transformed values. Genes that were not fitted (rare ones) do not count. With a share π of
    genes changed, Benjamini-Hochberg's list at the rate q has the largest level a with
    a = q((1 - π)a + π power(a)), for many genes.
    """
    asked = _asked(log2_fc, effect, subjects, cells, cells_cv, alpha, _test_of(pilot, ddf))
    asked = replace(asked, fdr=_rate("fdr", fdr), changed=_rate("changed", changed) or 0.1)
    rows: list[pd.DataFrame] = []
    planned: list[PlannedDesign] = []
    faults: list[tuple[str, FlashmmError]] = []
    for level, fit, one in _models(pilot, contrast):
        try:
            design = PlannedDesign.of(fit, one).as_paired(paired)
            found = _power_of(fit, design, asked)
        except FlashmmError as error:
            faults.append((level, error))
            continue
        planned.append(design)
        rows.append(found if not level else found.assign(**{_within(pilot): level}))
    if not rows:
        raise faults[0][1] if faults else InputError("The pilot has no model that was fitted.")
    frame = pd.concat(rows, ignore_index=True)
    within = _within(pilot) or None
    if within is not None:
        frame.insert(0, within, frame.pop(within))
    notes = tuple(note(f"{level}: {error}") for level, error in faults)
    alpha, about = asked.alpha if asked.fdr is None else np.nan, planned[0]
    return PowerTable(
        frame, asked.ddf, alpha, about.paired, about.subject, within, notes, asked.fdr
    )


def _rate(argument: str, value: Any) -> float | None:
    if value is None:
        return None
    if not (is_number(value) and 0 < value < 1):
        raise InputError(f"{argument} is a rate between 0 and 1, such as 0.05; found {value!r}.")
    return float(value)


def _asked(
    log2_fc: Any,
    effect: Any,
    subjects: Any,
    cells: Any,
    cells_cv: float | None,
    alpha: float,
    ddf: str,
) -> _Asked:
    """Check numbers, and put single ones into tuples."""
    is_fold_change = effect is None
    sizes = _numbers("log2_fc", log2_fc) if is_fold_change else _numbers("effect", effect)
    if not (is_number(alpha) and 0 < alpha < 1):
        raise InputError(f"alpha is a level between 0 and 1, such as 0.05; found {alpha!r}.")
    if cells_cv is not None and not (is_number(cells_cv) and 0 <= cells_cv < np.inf):
        raise InputError(f"cells_cv is a coefficient of variation from 0 on; found {cells_cv!r}.")
    numbers = _numbers("subjects", subjects)
    if not all(n >= 2 and n == int(n) for n in numbers):
        raise InputError(f"subjects are whole numbers of at least 2; found {listed(numbers)}.")
    each = None if cells is None else _numbers("cells", cells)
    if each is not None and not all(m >= 1 for m in each):
        raise InputError(f"cells are numbers of at least 1; found {listed(each)}.")
    whole = tuple(sorted({int(n) for n in numbers}))
    return _Asked(sizes, whole, each, cells_cv, float(alpha), is_fold_change, ddf)


def _test_of(pilot: Any, ddf: str | None) -> str:
    """The test that was asked for, or that of the pilot."""
    if ddf is None:
        of_table = isinstance(pilot, TestTable) and pilot.ddf == TESTS[0]
        return TESTS[0] if of_table or isinstance(pilot, FitsWithin) else TESTS[1]
    if ddf not in TESTS:
        raise InputError(f"ddf: power is known for {listed(TESTS)}; found {ddf!r}.")
    return ddf


def _numbers(argument: str, given: Any) -> tuple[float, ...]:
    values = (given,) if is_number(given) else tuple(given)
    if not values or not all(is_number(v) and np.isfinite(v) for v in values):
        raise InputError(f"{argument} is a number, or several of them; found {given!r}.")
    return tuple(map(float, values))


def _within(pilot: Any) -> str:
    """The column whose levels have models; "" where there is one model."""
    if isinstance(pilot, TestTable):
        return pilot.within or ""
    return pilot.column if isinstance(pilot, FitsWithin) else ""


def _models(pilot: Any, contrast: Any) -> Iterator[tuple[str, LMMFit, Contrast]]:
    """Yield every level (or ""), its fit and each of its contrasts."""
    if isinstance(pilot, TestTable) and contrast is None:
        levels = pilot.levels or ("",) * len(pilot.contrasts)
        for level, one in zip(levels, pilot.contrasts, strict=True):
            fit = _fit_of(pilot.tested, level)
            if fit is not None and one.matrix.shape[1] == len(fit.coefficients):
                yield level, fit, one
        return
    fits = pilot.tested if isinstance(pilot, TestTable) else pilot
    if contrast is None:
        raise InputError("contrast: say which difference, such as ('condition', 'stim', 'ctrl').")
    for level in fits.fits if isinstance(fits, FitsWithin) else ("",):
        fit = _fit_of(fits, level)
        assert fit is not None
        for one in contrasts_of(contrast, fit.coefficients, fit.coefficient_columns, fit.stats):
            yield level, fit, one


def _fit_of(tested: Any, level: str) -> LMMFit | None:
    fit = tested.fits.get(level) if isinstance(tested, FitsWithin) else tested
    if fit is not None and not isinstance(fit, LMMFit):
        raise InputError(
            f"Power needs a mixed model of cells (LMMFit, FitsWithin, or their tests); found "
            f"{type(fit).__name__}."
        )
    return fit


def _power_of(fit: LMMFit, design: PlannedDesign, asked: _Asked) -> pd.DataFrame:
    """Power of every study for the genes of one model."""
    genes = _chosen_genes(fit)
    known = ratio_posterior(fit)
    cv = design.cells_cv if asked.cells_cv is None else asked.cells_cv
    per_unit = (design.cells,) if asked.cells is None else asked.cells
    residual = np.sqrt(fit.theta[genes, -1])
    name = "log2_fc" if asked.is_fold_change else "effect"
    rows = []
    for size, m, n in product(asked.sizes, per_unit, asked.subjects):
        df = design.df(n)
        if df < 1:
            continue
        effect = _effect(fit, genes, size) if asked.is_fold_change else np.full(len(genes), size)
        variance = design.variance(known.points, n, m, cv)
        each, alpha = _power_at_rate(effect / residual, known, genes, variance, df, asked)
        rows.append(
            {
                "comparison": design.comparison.text,
                name: size,
                "cells": m,
                "subjects": n,
                "df": df,
                "power": each.mean(),
                **{column: np.quantile(each, q) for column, q in QUANTILES.items()},
                "genes_at_80": (each >= USUAL).mean(),
                "n_genes": len(genes),
                "alpha": alpha,
            }
        )
    if not rows:
        raise InputError(
            f"subjects: {max(asked.subjects)} leave no degrees of freedom, as other effects of the "
            f"model take {design.other_df}."
        )
    return pd.DataFrame(rows)


def _power_at_rate(
    effect: np.ndarray,
    known: RatioPosterior,
    genes: np.ndarray,
    variance: np.ndarray,
    df: int,
    asked: _Asked,
) -> tuple[np.ndarray, float]:
    """Power of each gene (genes,), and the level that it is at."""

    def at(alpha: float) -> np.ndarray:
        return _power_of_genes(effect, known, genes, variance, df, replace(asked, alpha=alpha))

    if asked.fdr is None:
        return at(asked.alpha), asked.alpha
    levels = asked.fdr * np.logspace(np.log10(SMALLEST_LEVEL), 0, LEVELS)
    alpha = level_of_rate(
        levels, np.array([at(a).mean() for a in levels]), asked.fdr, asked.changed
    )
    return at(alpha), alpha


def level_of_rate(levels: np.ndarray, power: np.ndarray, fdr: float, changed: float) -> float:
    """The largest level a at which q((1 - π)a + π power(a)) is at least a, of a rising grid.

    Power is interpolated linearly in log a; the smallest level where lists are as good as empty.
    """
    fine = np.linspace(np.log(levels[0]), np.log(levels[-1]), 4000)
    found = np.interp(fine, np.log(levels), power)
    a = np.exp(fine)
    kept = np.flatnonzero(fdr * ((1 - changed) * a + changed * found) >= a)
    return float(a[kept[-1]] if len(kept) else a[0])


def _power_of_genes(
    effect: np.ndarray,
    known: RatioPosterior,
    genes: np.ndarray,
    variance: np.ndarray,
    df: int,
    asked: _Asked,
) -> np.ndarray:
    """Power of each gene, averaged over what is known of its variances, (genes,)."""
    weights, stratum = known.weights[genes], known.stratum[genes]
    if asked.ddf != TESTS[0] or known.prior is None:
        variance = variance if len(variance) == 1 else variance[genes]
        noncentrality = effect[:, None] / np.sqrt(variance)
        return np.asarray((t_power(noncentrality, df, asked.alpha) * weights).sum(1))
    each = np.empty(len(genes))
    for one in np.unique(stratum):
        own, prior = stratum == one, known.prior[one]
        each[own] = mixture_power(effect[own], weights[own], prior, variance[0], df, asked.alpha)
    return each


def _chosen_genes(fit: LMMFit) -> np.ndarray:
    """Fitted genes with counts, at most a thousand of them, evenly over mean expression."""
    with np.errstate(invalid="ignore"):
        usable = fit.fitted & (fit.theta[:, -1] > 0)
    groups = None if fit.stats.groups is None else fit.stats.groups
    total = fit.stats.yty if groups is None or groups.counts is None else groups.counts.sum(0)
    genes = np.flatnonzero(usable & (total > 0))
    if len(genes) == 0:
        raise InputError("No gene of the pilot has a fit.")
    order = genes[np.argsort(total[genes], kind="stable")]
    evenly = np.linspace(0, len(order) - 1, min(MOST_GENES, len(order))).round().astype(int)
    return np.sort(order[evenly])


def _effect(fit: LMMFit, genes: np.ndarray, log2_fc: float) -> np.ndarray:
    """What a fold change of the counts is in the unit of the estimates, (genes,)."""
    groups = fit.stats.groups
    assert groups is not None
    if groups.transform not in UNITS or groups.counts is None:
        raise InputError(
            f"log2_fc: the pilot has the transform {groups.transform!r}; fold changes are known "
            f"for {listed(UNITS)} of raw counts. Give the effect in the unit of the estimates: "
            "effect=."
        )
    unit = UNITS[groups.transform]
    mean = groups.counts[:, genes].sum(0) / groups.n_cells
    logs = groups.totals(genes).sum(0) * unit / groups.n_cells
    return shift_of_fold_change(mean, logs, log2_fc) / unit
