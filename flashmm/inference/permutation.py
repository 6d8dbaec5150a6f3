"""Permute the labels of subjects: p-values that hold whatever the distribution of the cells.

A label that every subject has once (a condition, a genotype) is given to the subjects anew, the
design follows from the groups, and the model of every gene is fitted again. With B relabellings of
which b have a statistic at least as extreme as the observed one, p = (b + 1)/(B + 1); where all
distinct relabellings are fewer, each is used once, which is the same formula.

Two hypotheses. That labels have no effect at all: y and X(π), the design of other labels. That one
contrast is zero, c'β = 0, and other effects of the labels (in other cell types) are what they are:
these are taken out first, y - Xβ̃ with the fit β̃ under c'β = 0, and the rest meets X(π) (Freedman
& Lane 1983). Where the factor has one effect in all, the two are the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import combinations, product
from math import factorial, prod
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from flashmm.cells.groups import GroupStatistics
from flashmm.design.columns import group_design
from flashmm.design.contrasts import Contrast, resolve_contrasts, without_columns
from flashmm.design.derived import replace_fixed, subtract_means
from flashmm.design.statistics import SummaryStatistics
from flashmm.inference.subjects import Subjects, require_groups, subject_column
from flashmm.inference.table import adjust_p_values
from flashmm.inference.testing import ALTERNATIVES
from flashmm.inference.wald import row_tests
from flashmm.lmm import FITTED, LMMFit, fit_lmm, hold, refit
from flashmm.options import DesignError, FlashmmWarning, InputError, Status, is_number, note

# Relabellings, the observed one among them, below which no p-value can reach 0.05.
FEWEST = 20
# Difference of statistics, relative to 1 + |t|, that is rounding: they are equal.
TIE = 1e-7
STATISTICS = ("kenward-roger", "wald")
NULLS = ("contrast", "factor")


@dataclass(frozen=True, eq=False)
class PermutationTable:
    """Permutation tests of contrasts for every gene.

    Attributes
    ----------
    estimate, statistic : (genes, contrasts) arrays
        c'β̂ and its t with the labels as they are.
    p_value, adj_p_value : (genes, contrasts) arrays
        (b + 1)/(B + 1) of the gene's own relabellings; adjusted per contrast by
        Benjamini-Hochberg.
    fdr : (genes, contrasts) array
        Permutation false discovery rate: with the gene's |t| as the threshold, the mean number of
        genes above it over all relabellings (the observed one among them), divided by the number
        observed; the smallest over all lower thresholds. No gene is taken to be null or not.
    status : (genes, contrasts) array of str
        The gene's `Status`, "not_estimable" or "too_few_relabellings".
    n_permutations : (contrasts,) array of int
        Relabellings that were used, B.
    n_distinct : int
        Distinct relabellings that there are, the observed one among them.
    enumerated : bool
        Whether each distinct relabelling was used once.
    genes : pandas.Index
        Names of the genes.
    contrasts : tuple of Contrast
        What was tested.
    factor, alternative, method : str
        The permuted column, the direction, and the statistic.
    notes : tuple of str
        What was decided for the user.
    """

    estimate: np.ndarray
    statistic: np.ndarray
    p_value: np.ndarray
    adj_p_value: np.ndarray
    fdr: np.ndarray
    status: np.ndarray
    n_permutations: np.ndarray
    n_distinct: int
    enumerated: bool
    genes: pd.Index
    contrasts: tuple[Contrast, ...]
    factor: str
    alternative: str
    method: str
    notes: tuple[str, ...] = ()

    @property
    def contrast_names(self) -> tuple[str, ...]:
        """Names of the contrasts."""
        return tuple(contrast.name for contrast in self.contrasts)

    def to_frame(self) -> pd.DataFrame:
        """One row per contrast and gene.

        Returns
        -------
        pandas.DataFrame
            Columns gene, contrast, estimate, statistic, p_value, adj_p_value, fdr,
            n_permutations, n_distinct, status; contrasts one after another, genes in their order.
        """
        G, C = self.p_value.shape
        columns: dict[str, Any] = {
            "gene": np.tile(np.asarray(self.genes, dtype=object), C),
            "contrast": np.repeat(np.array(self.contrast_names, dtype=object), G),
        }
        for name in ("estimate", "statistic", "p_value", "adj_p_value", "fdr"):
            columns[name] = getattr(self, name).T.ravel()
        columns["n_permutations"] = np.repeat(self.n_permutations, G)
        # the number of relabellings of many subjects is larger than an integer may be
        exact = self.n_distinct < 2**63
        columns["n_distinct"] = self.n_distinct if exact else float(self.n_distinct)
        columns["status"] = self.status.T.ravel()
        return pd.DataFrame(columns)

    def __repr__(self) -> str:
        how = "all" if self.enumerated else f"{self.n_permutations.max(initial=0)} of"
        return (
            f"PermutationTable({len(self.genes)} genes × {len(self.contrasts)} contrasts, "
            f"{self.factor!r} relabelled in {how} {self.n_distinct} ways: "
            f"{int((self.fdr < 0.05).sum())} with FDR < 0.05)"
        )


def permutation_tests(
    model: SummaryStatistics | LMMFit,
    contrasts: Any = None,
    factor: str = "condition",
    strata: str | Sequence[str] | None = None,
    n_permutations: int = 999,
    seed: int = 0,
    *,
    statistic: str | None = None,
    alternative: str = "two-sided",
    refit: bool = True,
    null: str = "contrast",
    subject: str | None = None,
    progress: bool | None = None,
) -> PermutationTable:
    """Test contrasts of a factor between subjects by giving its labels to the subjects anew.

    Parameters
    ----------
    model : SummaryStatistics or LMMFit
        Statistics from groups, or a fit of them, whose method and options are used.
    contrasts : optional
        Single contrasts as in `contrast_tests`; default every coefficient that holds `factor`.
    factor : str
        A column of the groups with one value per subject that the formula holds.
    strata : str or sequence of str, optional
        Columns with one value per subject, such as batch or sex: labels change places only
        between subjects that agree in all of them.
    n_permutations : int
        Random relabellings, at least 19. Where there are no more distinct ones besides the
        observed one, each is used once and the seed has no effect.
    seed : int
        Of the random relabellings.
    statistic : {"kenward-roger", "wald"}, optional
        t with the variance of Kenward & Roger (default for REML), or with the plain one.
    alternative : {"two-sided", "less", "greater"}
        Direction of the alternative.
    refit : bool
        Whether variance components are estimated anew for every relabelling. False holds them at
        their estimates under the hypothesis, for all relabellings alike.
    null : {"contrast", "factor"}
        The hypothesis. "contrast", the contrast is zero, whatever the labels do elsewhere; each
        contrast has its own fits. This is what a p-value beside a contrast is read as, and so the
        default. "factor", labels have no effect at all; one fit of a relabelling serves all
        contrasts, but where another of them is not zero the p-values say nothing about this one.
    subject : str, optional
        The column that names the subjects; by default that of the first random term with one.
    progress : bool, optional
        Whether to show a bar; by default in a terminal only.

    Returns
    -------
    PermutationTable
        Statistics, p-values, their Benjamini-Hochberg adjustment, and a permutation FDR.

    Raises
    ------
    InputError
        There are no groups, the factor is not in the formula or varies within subjects, a stratum
        varies within subjects, a contrast is joint or not one of the factor, or an unknown option.
    FormulaError, DesignError
        As `contrast_tests` and `fit_lmm`.

    Notes
    -----
    Exact where labels are exchangeable between the subjects of a stratum, as when they were drawn
    by lot, and either the factor has one effect in the model or ``null="factor"``; numbers of cells
    and distributions of the values may differ. With several effects ``null="contrast"`` estimates
    the others, and is near its level rather than exact (Freedman & Lane 1983). p as Phipson & Smyth
    2010; the FDR pools the relabellings of all genes (Tusher, Tibshirani & Chu 2001; Storey &
    Tibshirani 2003) with the proportion of null genes set to one. Relabellings whose design cannot
    estimate a contrast are left out for it.
    """
    plan = _plan(model, contrasts, factor, strata, subject)
    _check_options(plan, statistic, alternative, null)
    _check_numbers(n_permutations, seed)
    method = statistic or STATISTICS[0 if plan.fit.options.method == "REML" else 1]
    draw = partial(plan.relabellings, n_permutations, seed)
    rounds = 1 if null == "factor" else len(plan.rows)
    total = rounds * min(plan.n_distinct - 1, n_permutations)
    disable = None if progress is None else not progress
    results = []
    with tqdm(total=total, desc="permute", disable=disable) as bar:
        for family in _families(plan, null, refit):
            tally = _Tally.start(family, method, alternative)
            for codes in draw():
                tally.add(codes)
                bar.update()
            results.append(tally.results())
    notes = plan.fit.notes + _note_few(plan, alternative)
    return PermutationTable(
        **_joined(results),
        n_distinct=plan.n_distinct,
        enumerated=plan.n_distinct - 1 <= n_permutations,
        genes=plan.fit.genes,
        contrasts=plan.contrasts,
        factor=factor,
        alternative=alternative,
        method=method,
        notes=notes,
    )


def _joined(results: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Contrasts beside each other."""
    return {name: np.concatenate([r[name] for r in results], axis=-1) for name in results[0]}


def _check_options(plan: _Plan, statistic: str | None, alternative: str, null: str) -> None:
    if null not in NULLS:
        raise InputError(f"null must be one of {', '.join(NULLS)}; found {null!r}.")
    if alternative not in ALTERNATIVES:
        raise InputError(
            f"alternative must be one of {', '.join(ALTERNATIVES)}; found {alternative!r}."
        )
    if statistic not in (None, *STATISTICS):
        raise InputError(f"statistic must be one of {', '.join(STATISTICS)}; found {statistic!r}.")
    if statistic == "kenward-roger" and plan.fit.options.method != "REML":
        raise InputError(
            "statistic='kenward-roger' is defined for REML fits and this one is ML: use 'wald'."
        )


def _check_numbers(n_permutations: int, seed: int) -> None:
    whole = is_number(n_permutations) and n_permutations == int(n_permutations)
    if not whole or n_permutations < FEWEST - 1:
        raise InputError(
            f"n_permutations must be a whole number from {FEWEST - 1} on, or no p-value could "
            f"reach 0.05; found {n_permutations!r}."
        )
    if not (isinstance(seed, Integral) and seed >= 0):
        raise InputError(f"seed must be a whole number from 0 on; found {seed!r}.")


# --------------------------------------------------------------------------------------------
# What is permuted
# --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Plan:
    """What was asked for, checked.

    `labels` and `stratum` are codes of the subjects; `designs` is (labels, 1 + m, groups,
    coefficients): the fixed design if all subjects had a label.
    """

    fit: LMMFit
    contrasts: tuple[Contrast, ...]
    subjects: Subjects
    factor: str
    labels: np.ndarray
    stratum: np.ndarray
    designs: np.ndarray

    @cached_property
    def rows(self) -> np.ndarray:
        """Contrasts, (C, p)."""
        return np.vstack([contrast.matrix for contrast in self.contrasts])

    @property
    def members(self) -> list[np.ndarray]:
        """Numbers of the subjects of each stratum."""
        return [np.flatnonzero(self.stratum == s) for s in np.unique(self.stratum)]

    @property
    def n_distinct(self) -> int:
        """Distinct relabellings: a product of multinomial coefficients."""
        return prod(
            factorial(len(who)) // prod(factorial(n) for n in np.bincount(self.labels[who]))
            for who in self.members
        )

    def design(self, codes: np.ndarray) -> np.ndarray:
        """The fixed design (1 + m, groups, coefficients) with other labels of the subjects."""
        groups = np.arange(len(self.subjects.codes))
        return np.moveaxis(self.designs[codes[self.subjects.codes], :, groups], 0, 1)

    def null_design(self) -> np.ndarray:
        """Mean design over all relabellings: labels have no effect in it."""
        L = len(self.designs)
        share = np.zeros((len(self.labels), L))
        for who in self.members:
            share[who] = np.bincount(self.labels[who], minlength=L) / len(who)
        return np.einsum("gl,lkgp->kgp", share[self.subjects.codes], self.designs)

    def relabellings(self, number: int, seed: int) -> Iterator[np.ndarray]:
        """Each distinct relabelling where there are no more than `number`, else random ones.

        None where there are too few for a p-value.
        """
        if self.n_distinct < FEWEST:
            return iter(())
        if self.n_distinct - 1 <= number:
            return self.all_labels()
        return self.random_labels(number, seed)

    def all_labels(self) -> Iterator[np.ndarray]:
        """Each distinct relabelling but the observed one."""
        ways = [list(_arrangements(self.labels[who])) for who in self.members]
        for chosen in product(*ways):
            codes = self.labels.copy()
            for who, labels in zip(self.members, chosen, strict=True):
                codes[who] = labels
            if (codes != self.labels).any():
                yield codes

    def random_labels(self, number: int, seed: int) -> Iterator[np.ndarray]:
        """Relabellings drawn independently, each with equal probability."""
        rng = np.random.default_rng(seed)
        for _ in range(number):
            codes = self.labels.copy()
            for who in self.members:
                codes[who] = rng.permutation(self.labels[who])
            yield codes


def _arrangements(labels: np.ndarray) -> Iterator[np.ndarray]:
    """Distinct orders of labels, of which several may be equal."""
    values, counts = np.unique(labels, return_counts=True)
    if len(values) < 2:
        yield labels
        return
    for places in combinations(range(len(labels)), int(counts[0])):
        free = np.delete(np.arange(len(labels)), places)
        for others in _arrangements(np.repeat(values[1:], counts[1:])):
            order = np.empty_like(labels)
            order[list(places)], order[free] = values[0], others
            yield order


def _plan(
    model: SummaryStatistics | LMMFit,
    contrasts: Any,
    factor: str,
    strata: str | Sequence[str] | None,
    subject: str | None,
) -> _Plan:
    if not isinstance(model, SummaryStatistics | LMMFit):
        raise InputError(
            "permutation_tests takes SummaryStatistics or a fit of fit_lmm; found "
            f"{type(model).__name__}."
        )
    stats = model.stats if isinstance(model, LMMFit) else model
    groups, design = require_groups(stats, "A permutation")
    if stats.model is None:
        raise InputError(
            "These statistics have lost their formula (a term was dropped), so the design cannot "
            "be made for other labels: make them anew with summary_statistics."
        )
    column = subject or subject_column(design)
    _require_column(groups, column, "subject")
    subjects = Subjects.of(groups, column)
    labels, levels = _values_of_subjects(groups, subjects, factor, "factor")
    _check_factor(stats, subjects, factor, levels)
    stratum = np.zeros(len(subjects), dtype=np.int64)
    for name in [strata] if isinstance(strata, str) else list(strata or ()):
        codes, found = _values_of_subjects(groups, subjects, name, "strata")
        stratum = np.unique(stratum * len(found) + codes, return_inverse=True)[1].reshape(-1)
    wanted = factor if contrasts is None else contrasts
    resolved = resolve_contrasts(wanted, stats.coefficients, stats.coefficient_columns)
    designs = _designs(stats, factor, levels)
    fit = model if isinstance(model, LMMFit) else fit_lmm(model)
    plan = _Plan(fit, resolved, subjects, factor, labels, stratum, designs)
    _check_designs(plan)
    _check_contrasts(plan)
    return plan


def _require_column(groups: GroupStatistics, name: str, argument: str) -> None:
    if name not in groups.by:
        raise InputError(
            f"{argument}={name!r} is not among the columns of the groups; they are "
            f"{', '.join(groups.by)}."
        )


def _values_of_subjects(
    groups: GroupStatistics, subjects: Subjects, name: str, argument: str
) -> tuple[np.ndarray, pd.Series]:
    """Codes (subjects,) of a column with one value per subject, and its distinct values."""
    _require_column(groups, name, argument)
    codes, _ = pd.factorize(groups.obs[name], sort=True)
    pairs = np.unique(np.column_stack([subjects.codes, codes]), axis=0)
    if (codes < 0).any():
        raise InputError(f"{argument}={name!r} has missing values; fill them or leave these out.")
    if len(pairs) > len(subjects):
        twice = subjects.names[np.flatnonzero(np.bincount(pairs[:, 0]) > 1)[0]]
        raise InputError(
            f"{argument}={name!r} varies within {subjects.column}s (such as {str(twice)!r}); a "
            f"permutation gives whole {subjects.column}s a label. For an effect within "
            f"{subjects.column}s use contrast_tests."
        )
    first = np.unique(codes, return_index=True)[1]
    return pairs[:, 1].astype(np.int64), groups.obs[name].iloc[first]


def _check_factor(
    stats: SummaryStatistics, subjects: Subjects, factor: str, levels: pd.Series
) -> None:
    """Refuse factors that the model does not hold, or holds in a random term."""
    if len(levels) < 2:
        raise InputError(
            f"factor={factor!r} has the same value {levels.iloc[0]!r} in all "
            f"{subjects.column}s: there is nothing to permute."
        )
    if not any(factor in columns for columns in stats.coefficient_columns):
        raise InputError(f"the fixed formula does not hold factor={factor!r}: nothing to test.")
    for component in require_groups(stats, "A permutation")[1].random:
        # levels such as subject:condition stay the same sets of cells, whatever their names
        if factor in component.columns and not subjects.hold(component):
            raise InputError(
                f"the random term {component.name!r} holds factor={factor!r} and crosses the "
                f"{subjects.column}s, so it would change with the labels. Take it out."
            )


def _designs(stats: SummaryStatistics, factor: str, levels: pd.Series) -> np.ndarray:
    """The fixed design over groups if all had each of the labels."""
    groups, _ = require_groups(stats, "A permutation")
    model = stats.require_model()
    L, n = len(levels), groups.n_groups
    obs = pd.concat([groups.obs] * L, ignore_index=True)
    obs[factor] = levels.iloc[np.repeat(np.arange(L), n)].to_numpy(copy=True)
    if isinstance(levels.dtype, pd.CategoricalDtype):
        obs[factor] = obs[factor].astype(levels.dtype)
    nothing = np.zeros((L * n, 0))
    stacked = replace(
        groups,
        obs=obs,
        genes=pd.Index([]),
        sum=nothing,
        sumsq=nothing,
        covariate_sums=dict.fromkeys(groups.covariates, nothing),
        counts=None,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FlashmmWarning)  # said when the statistics were made
        design = group_design(stacked, model.fixed, model.random)
    if design.coefficients != stats.coefficients:
        raise InputError(
            f"the design has other coefficients when {factor!r} is permuted; code it by its plain "
            "name in the formula."
        )
    return np.moveaxis(design.fixed.reshape(len(design.fixed), L, n, -1), 0, 1)


def _check_designs(plan: _Plan) -> None:
    """Refuse columns that depend on all values of the factor, such as a centred one."""
    observed = require_groups(plan.fit.stats, "A permutation")[1].fixed
    scale = np.abs(observed).max((0, 1), initial=1e-300)
    gap = np.abs(plan.design(plan.labels) - observed).max((0, 1)) / scale
    if (gap > 1e-9).any():
        name = plan.fit.coefficients[int(gap.argmax())]
        raise InputError(
            f"the column {name!r} depends on the data beyond the labels (center, scale), so it "
            "cannot be made for other labels. Store the transformed values as a column."
        )


def _check_contrasts(plan: _Plan) -> None:
    """Refuse joint contrasts, and those that are not zero where labels have no effect."""
    joint = [contrast.name for contrast in plan.contrasts if len(contrast.matrix) > 1]
    if joint:
        raise InputError(
            f"a permutation tests single contrasts, and {joint[0]!r} is joint; give its rows."
        )
    p = plan.designs.shape[-1]
    scale = np.sqrt((plan.designs**2).sum((0, 1, 2)))
    scale[scale == 0] = 1.0
    change = ((plan.designs - plan.designs[:1]) / scale).reshape(-1, p)
    values, vectors = np.linalg.eigh(change.T @ change)
    # coefficients with which every label gives the same expectation
    without = vectors[:, values <= 1e-10 * values[-1]]
    rows = plan.rows / scale
    outside = np.abs(rows @ without).max(1, initial=0.0) > 1e-6 * np.abs(rows).max(1)
    outside &= (plan.rows[:, ~plan.fit.estimable] == 0).all(1)
    if outside.any():
        name = plan.contrasts[int(outside.argmax())].name
        raise InputError(
            f"the contrast {name!r} is not one of {plan.factor!r}: it need not be zero where "
            f"{plan.factor!r} has no effect, so that permuting its labels cannot test it."
        )


def _note_few(plan: _Plan, alternative: str) -> tuple[str, ...]:
    """Say the number of distinct relabellings where it bounds the p-values."""
    n, who = plan.n_distinct, f"{len(plan.subjects)} {plan.subjects.column}s"
    if n < FEWEST:
        stratified = ", or fewer strata" if len(plan.members) > 1 else ""
        return (
            note(
                f"The labels of {plan.factor!r} can be given to the {who} in {n} distinct "
                f"way{'s' if n > 1 else ''}, fewer than {FEWEST}, so that no permutation p-value "
                f"could reach 0.05; p-values are NaN. Use contrast_tests{stratified}."
            ),
        )
    smallest = (2 if alternative == "two-sided" and _is_mirrored(plan) else 1) / n
    if smallest <= 0.01:
        return ()
    return (
        note(
            f"The labels of {plan.factor!r} can be given to the {who} in {n} distinct ways: no "
            f"permutation p-value can be below {smallest:.2g}."
        ),
    )


def _is_mirrored(plan: _Plan) -> bool:
    """Whether exchanging two labels is a relabelling, which gives -t for t."""
    counts = [np.bincount(plan.labels[who], minlength=len(plan.designs)) for who in plan.members]
    return len(plan.designs) == 2 and all(a == b for a, b in counts)


# --------------------------------------------------------------------------------------------
# Designs of a hypothesis
# --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Family:
    """A hypothesis about the contrasts `rows` (C, p).

    `stats` are of the values that meet other labels, `status` (genes,) says where they are to be
    had. `held` is the fit whose components all relabellings have, None where they are estimated.
    """

    plan: _Plan
    rows: np.ndarray
    stats: SummaryStatistics
    status: np.ndarray
    held: LMMFit | None

    def fit(self, stats: SummaryStatistics, informed: bool) -> LMMFit:
        """Fit other labels."""
        if self.held is None:
            return refit(stats, self.plan.fit.options)
        return hold(self.held, stats, informed)


def _families(plan: _Plan, null: str, refits: bool) -> Iterator[_Family]:
    """One hypothesis for all contrasts, or one after another for each."""
    fit = plan.fit
    if null == "factor":
        held = None
        if not refits:
            held = refit(replace_fixed(fit.stats, plan.null_design()), fit.options)
        yield _Family(plan, plan.rows, fit.stats, _joint_status(fit, held or fit), held)
        return
    for row in plan.rows:
        yield _family_of_contrast(plan, row, refits)


def _family_of_contrast(plan: _Plan, row: np.ndarray, refits: bool) -> _Family:
    """The hypothesis that one contrast is zero: residuals of the fit under it."""
    fit = plan.fit
    if not _estimable(fit, row[None]).all():  # it will not be tested
        return _Family(plan, row[None], fit.stats, fit.status, None)
    fixed = _design_without(require_groups(fit.stats, "A permutation")[1].fixed, row)
    fixed[:, :, ~fit.model.kept] = 0.0
    if not fixed.any() and refits:  # the contrast is the whole of the fixed effects
        return _Family(plan, row[None], fit.stats, fit.status, None)
    null = refit(replace_fixed(fit.stats, fixed), fit.options)
    means = np.where(np.isfinite(null.coef), null.coef, 0.0) @ fixed.swapaxes(1, 2)
    stats = subtract_means(fit.stats, np.moveaxis(means, -1, 1))
    return _Family(plan, row[None], stats, _joint_status(fit, null), None if refits else null)


def _joint_status(fit: LMMFit, null: LMMFit) -> np.ndarray:
    """Status of the fit, or of the one under the hypothesis where only that failed, (genes,)."""
    return np.where(fit.fitted & ~null.fitted, null.status, fit.status)


def _design_without(fixed: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Columns that span Xβ with c'β = 0: X_k - (c_k/c_j) X_j, c_j being the largest."""
    pivot = int(np.abs(row).argmax())
    return fixed - fixed[:, :, [pivot]] * (row / row[pivot])


# --------------------------------------------------------------------------------------------
# Counting
# --------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Tally:
    """Counts over relabellings; statistics are (genes, contrasts), more extreme is larger."""

    family: _Family
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
    def start(cls, family: _Family, method: str, alternative: str) -> _Tally:
        """Statistics of the labels as they are, and nothing counted."""
        fit = family.plan.fit
        if family.held is not None:
            fit = family.fit(fit.stats, method == STATISTICS[0])
        # the residual df are not used: its variance is the plain one
        ddf = "kenward-roger" if method == "kenward-roger" else "residual"
        observed = row_tests(fit, family.rows, ddf)
        missing = ~np.isin(family.status, FITTED)
        for values in observed.values():
            values[missing] = np.nan
        extreme = _extreme(observed["statistic"], alternative)
        shape, C = extreme.shape, len(family.rows)
        return cls(
            family,
            ddf,
            alternative,
            observed,
            _estimable(fit, family.rows),
            extreme,
            np.zeros(C, dtype=np.int64),
            np.zeros(shape, dtype=np.int64),
            [np.sort(column[np.isfinite(column)]) for column in extreme.T],
            [np.zeros(int(np.isfinite(c).sum()) + 1, dtype=np.int64) for c in extreme.T],
        )

    def add(self, codes: np.ndarray) -> None:
        """Count one relabelling."""
        if not self.estimable.any():
            return
        stats = replace_fixed(self.family.stats, self.family.plan.design(codes))
        try:
            fit = self.family.fit(stats, self.ddf == STATISTICS[0])
        except DesignError:  # these labels leave nothing to estimate
            return
        estimable = _estimable(fit, self.family.rows)
        t = _extreme(row_tests(fit, self.family.rows, self.ddf)["statistic"], self.alternative)
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
        status = np.repeat(np.asarray(self.family.status, dtype=object)[:, None], C, axis=1)
        status[:, ~self.estimable] = str(Status.NOT_ESTIMABLE)
        status[np.isfinite(self.extreme) & few] = str(Status.TOO_FEW_RELABELLINGS)
        p = np.where(valid, (self.above + 1.0) / (self.used + 1.0), np.nan)
        fdr = np.full((G, C), np.nan)
        for j in np.flatnonzero(self.estimable & ~few):
            fdr[valid[:, j], j] = self._fdr(int(j))
        shown = self.estimable & np.ones((G, 1), dtype=bool)
        return {
            "estimate": np.where(shown, self.observed["estimate"], np.nan),
            "statistic": np.where(shown, self.observed["statistic"], np.nan),
            "p_value": p,
            "adj_p_value": np.column_stack([adjust_p_values(column) for column in p.T]),
            "fdr": fdr,
            "status": status.astype(str),
            "n_permutations": self.used.copy(),
        }

    def _fdr(self, j: int) -> np.ndarray:
        """Permutation FDR of the genes with a statistic of one contrast."""
        values, n = self.order[j], len(self.order[j])
        # how many are at or above each observed value: relabelled, and observed
        relabelled = np.cumsum(self.pooled[j][::-1])[::-1][1:]
        observed = n - np.searchsorted(values, values, side="left")
        rate = (relabelled + observed) / (self.used[j] + 1.0) / observed
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
    apart = ~without_columns(fit.stats.XtX, kept, ~kept, rows).any(1)
    return apart & (rows[:, ~kept] == 0).all(1)
