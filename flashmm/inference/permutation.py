"""Permute the labels of subjects: p-values that hold whatever the distribution of the cells.

A label that every subject has once (a condition, a genotype) is given to the subjects anew, the
design follows from the groups, and the model of every gene is fitted again. With B permutations of
which b have a statistic at least as extreme as the observed one, p = (b + 1)/(B + 1); where all
distinct permutations are fewer, each is used once, which is the same formula.

Two hypotheses. That labels have no effect at all: y and X(π), the design of other labels. That one
contrast is zero, c'β = 0, and other effects of the labels (in other cell types) are what they are:
these are taken out first, y - Xβ̃ with the fit β̃ under c'β = 0, and the rest meets X(π) (Freedman
& Lane 1983). Where the factor has one effect in all, the two are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from flashmm.design.contrasts import Contrast
from flashmm.design.statistics import SummaryStatistics
from flashmm.inference.permutation_counts import STATISTICS, Tally, hypotheses
from flashmm.inference.permuted_labels import FEWEST, Permutation, plan_permutation
from flashmm.inference.plan import check_alternative
from flashmm.inference.tidy import tidy
from flashmm.lmm import LMMFit
from flashmm.options import InputError, check_seed, checked, is_number, note
from flashmm.shown import Shown

NULLS = ("contrast", "factor")


@dataclass(frozen=True, eq=False)
class PermutationTable(Shown):
    """Permutation tests of contrasts for every gene.

    Attributes
    ----------
    estimate, statistic : (genes, contrasts) arrays
        c'β̂ and its t with the labels as they are.
    p_value, adj_p_value : (genes, contrasts) arrays
        (b + 1)/(B + 1) of the gene's own permutations; adjusted per contrast by
        Benjamini-Hochberg.
    fdr : (genes, contrasts) array
        Permutation false discovery rate: with the gene's |t| as the threshold, the mean number of
        genes above it over all permutations (the observed one among them), divided by the number
        observed; the smallest over all lower thresholds. No gene is taken to be null or not.
    status : (genes, contrasts) array of str
        The gene's `Status`, "not_estimable" or "too_few_permutations".
    n_permutations : (contrasts,) array of int
        Permutations that were used, B.
    n_distinct : int
        Distinct permutations that there are, the observed one among them.
    enumerated : bool
        Whether each distinct permutation was used once.
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
        numbers = ("estimate", "statistic", "p_value", "adj_p_value", "fdr", "n_permutations")
        columns = {name: getattr(self, name) for name in numbers}
        # the number of permutations of many subjects is larger than an integer may be
        exact = self.n_distinct < 2**63
        n_distinct = self.n_distinct if exact else float(self.n_distinct)
        columns["n_distinct"] = np.full(len(self.contrasts), n_distinct)
        columns["status"] = self.status
        return pd.DataFrame(tidy(self.genes, {"contrast": self.contrast_names}, columns))

    def __repr__(self) -> str:
        how = "all" if self.enumerated else f"{self.n_permutations.max(initial=0)} of"
        return (
            f"PermutationTable({len(self.genes)} genes × {len(self.contrasts)} contrasts, "
            f"{self.factor!r} permuted in {how} {self.n_distinct} ways: "
            f"{int((self.fdr < 0.05).sum())} with FDR < 0.05)"
        )


@checked
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
        Random permutations, at least 19. Where there are no more distinct ones besides the
        observed one, each is used once and the seed has no effect.
    seed : int
        Of the random permutations.
    statistic : {"kenward-roger", "wald"}, optional
        t with the variance of Kenward & Roger (default for REML), or with the plain one.
    alternative : {"two-sided", "less", "greater"}
        Direction of the alternative.
    refit : bool
        Whether variance components are estimated anew for every permutation. False holds them at
        their estimates under the hypothesis, for all permutations alike.
    null : {"contrast", "factor"}
        The hypothesis. "contrast", the contrast is zero, whatever the labels do elsewhere; each
        contrast has its own fits. This is what a p-value beside a contrast is read as, and so the
        default. "factor", labels have no effect at all; one fit of a permutation serves all
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
    2010; the FDR pools the permutations of all genes (Tusher, Tibshirani & Chu 2001; Storey &
    Tibshirani 2003) with the proportion of null genes set to one. Permutations whose design cannot
    estimate a contrast are left out for it.
    """
    permutation = plan_permutation(model, contrasts, factor, strata, subject)
    _check_options(permutation, statistic, alternative, null)
    _check_numbers(n_permutations, seed)
    method = statistic or STATISTICS[0 if permutation.fit.options.method == "REML" else 1]
    draw = partial(permutation.other_labels, n_permutations, seed)
    rounds = 1 if null == "factor" else len(permutation.rows)
    total = rounds * min(permutation.n_distinct - 1, n_permutations)
    disable = None if progress is None else not progress
    results = []
    with tqdm(total=total, desc="permute", disable=disable) as bar:
        for family in hypotheses(permutation, null, refit):
            tally = Tally.start(family, method, alternative)
            for codes in draw():
                tally.add(codes)
                bar.update()
            results.append(tally.results())
    notes = permutation.fit.notes + _note_few(permutation, alternative)
    return PermutationTable(
        **_joined(results),
        n_distinct=permutation.n_distinct,
        enumerated=permutation.n_distinct - 1 <= n_permutations,
        genes=permutation.fit.genes,
        contrasts=permutation.contrasts,
        factor=factor,
        alternative=alternative,
        method=method,
        notes=notes,
    )


def _joined(results: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Contrasts beside each other."""
    return {name: np.concatenate([r[name] for r in results], axis=-1) for name in results[0]}


def _check_options(
    permutation: Permutation, statistic: str | None, alternative: str, null: str
) -> None:
    if null not in NULLS:
        raise InputError(f"null must be one of {', '.join(NULLS)}; found {null!r}.")
    check_alternative(alternative)
    if statistic not in (None, *STATISTICS):
        raise InputError(f"statistic must be one of {', '.join(STATISTICS)}; found {statistic!r}.")
    if statistic == "kenward-roger" and permutation.fit.options.method != "REML":
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
    check_seed(seed)


def _note_few(permutation: Permutation, alternative: str) -> tuple[str, ...]:
    """Say the number of distinct permutations where it bounds the p-values."""
    n, who = permutation.n_distinct, f"{len(permutation.subjects)} {permutation.subjects.column}s"
    if n < FEWEST:
        stratified = ", or fewer strata" if len(permutation.members) > 1 else ""
        return (
            note(
                f"The labels of {permutation.factor!r} can be given to the {who} in {n} distinct "
                f"way{'s' if n > 1 else ''}, fewer than {FEWEST}, so that no permutation p-value "
                f"could reach 0.05; p-values are NaN. Use contrast_tests{stratified}."
            ),
        )
    smallest = (2 if alternative == "two-sided" and _is_mirrored(permutation) else 1) / n
    if smallest <= 0.01:
        return ()
    return (
        note(
            f"The labels of {permutation.factor!r} can be given to the {who} in {n} distinct ways: "
            f"no permutation p-value can be below {smallest:.2g}."
        ),
    )


def _is_mirrored(permutation: Permutation) -> bool:
    """Whether exchanging two labels is a permutation, which gives -t for t."""
    counts = [
        np.bincount(permutation.labels[who], minlength=len(permutation.designs))
        for who in permutation.members
    ]
    return len(permutation.designs) == 2 and all(a == b for a, b in counts)
