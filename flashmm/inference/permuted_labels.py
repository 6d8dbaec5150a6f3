"""Other labels for the subjects of groups: which there are, and the designs that follow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
from math import factorial, prod
from typing import Any

import numpy as np
import pandas as pd

from flashmm.cells.groups import GroupStatistics
from flashmm.design.centring import centred
from flashmm.design.columns import group_rows
from flashmm.design.contrasts import Contrast
from flashmm.design.counterfactual import designs_by_level
from flashmm.design.differences import contrasts_of
from flashmm.design.statistics import SummaryStatistics
from flashmm.inference.subjects import Subjects, require_groups, subject_column
from flashmm.lmm import LMMFit, fit_lmm
from flashmm.options import InputError

# Permutations, the observed labels among them, below which no p-value can reach 0.05.
FEWEST = 20


@dataclass(frozen=True, eq=False)
class Permutation:
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
        """Distinct permutations: a product of multinomial coefficients."""
        return prod(
            factorial(len(who)) // prod(factorial(n) for n in np.bincount(self.labels[who]))
            for who in self.members
        )

    def design(self, codes: np.ndarray) -> np.ndarray:
        """The fixed design (1 + m, groups, coefficients) with other labels of the subjects."""
        groups = np.arange(len(self.subjects.codes))
        return np.moveaxis(self.designs[codes[self.subjects.codes], :, groups], 0, 1)

    def null_design(self) -> np.ndarray:
        """Mean design over all permutations: labels have no effect in it."""
        L = len(self.designs)
        share = np.zeros((len(self.labels), L))
        for who in self.members:
            share[who] = np.bincount(self.labels[who], minlength=L) / len(who)
        return np.einsum("gl,lkgp->kgp", share[self.subjects.codes], self.designs)

    def other_labels(self, number: int, seed: int) -> Iterator[np.ndarray]:
        """Each distinct permutation where there are no more than `number`, else random ones.

        None where there are too few for a p-value.
        """
        if self.n_distinct < FEWEST:
            return iter(())
        if self.n_distinct - 1 <= number:
            return self.all_labels()
        return self.random_labels(number, seed)

    def all_labels(self) -> Iterator[np.ndarray]:
        """Each distinct permutation but the observed one."""
        ways = [list(_arrangements(self.labels[who])) for who in self.members]
        for chosen in product(*ways):
            codes = self.labels.copy()
            for who, labels in zip(self.members, chosen, strict=True):
                codes[who] = labels
            if (codes != self.labels).any():
                yield codes

    def random_labels(self, number: int, seed: int) -> Iterator[np.ndarray]:
        """Permutations drawn independently, each with equal probability."""
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


def plan_permutation(
    model: SummaryStatistics | LMMFit,
    contrasts: Any,
    factor: str,
    strata: str | Sequence[str] | None,
    subject: str | None,
) -> Permutation:
    """Read and check what `permutation_tests` was asked for.

    Parameters
    ----------
    model : SummaryStatistics or LMMFit
        Statistics from groups, or a fit of them; statistics are fitted.
    contrasts : optional
        Single contrasts; default every coefficient that holds `factor`.
    factor : str
        The column whose labels are permuted.
    strata : str or sequence of str, optional
        Columns within whose values they are.
    subject : str, optional
        The column that names the subjects.

    Returns
    -------
    Permutation
        The fit, its contrasts, and labels and designs to be permuted.

    Raises
    ------
    InputError
        As `permutation_tests`.
    """
    stats = model.stats if isinstance(model, LMMFit) else model
    groups, design = require_groups(stats, "A permutation")
    if stats.model is None:
        raise InputError(
            "These statistics have lost their formula (a term was dropped), so the design cannot "
            "be made for other labels: make them anew with summary_statistics."
        )
    column = subject or subject_column(groups, design, factor)
    _require_column(groups, column, "subject")
    subjects = Subjects.of(groups, column)
    labels, levels = _values_of_subjects(groups, subjects, factor, "factor")
    _check_factor(stats, subjects, factor, levels)
    stratum = np.zeros(len(subjects), dtype=np.int64)
    for name in [strata] if isinstance(strata, str) else list(strata or ()):
        codes, found = _values_of_subjects(groups, subjects, name, "strata")
        stratum = np.unique(stratum * len(found) + codes, return_inverse=True)[1].reshape(-1)
    wanted = factor if contrasts is None else contrasts
    resolved = contrasts_of(wanted, stats.coefficients, stats.coefficient_columns, stats)
    rows = group_rows(groups)
    designs = np.stack([rows.from_means(D) for D in designs_by_level(stats, factor, levels)])
    fit = model if isinstance(model, LMMFit) else fit_lmm(model)
    permutation = Permutation(fit, resolved, subjects, factor, labels, stratum, designs)
    _check_contrasts(permutation)
    return permutation


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


def _check_contrasts(permutation: Permutation) -> None:
    """Refuse joint contrasts, and those that are not zero where labels have no effect."""
    joint = [contrast.name for contrast in permutation.contrasts if len(contrast.matrix) > 1]
    if joint:
        raise InputError(
            f"a permutation tests single contrasts, and {joint[0]!r} is joint; give its rows."
        )
    stats = permutation.fit.stats
    designs = centred(permutation.designs, stats.centring)
    scale = np.sqrt((designs**2).sum((0, 1, 2)))
    scale[scale == 0] = 1.0
    change = ((designs - designs[:1]) / scale).reshape(-1, len(scale))
    values, vectors = np.linalg.eigh(change.T @ change)
    # coefficients with which every label gives the same expectation
    without = vectors[:, values <= 1e-10 * values[-1]]
    rows = stats.of_products(permutation.rows) / scale
    outside = np.abs(rows @ without).max(1, initial=0.0) > 1e-6 * np.abs(rows).max(1)
    outside &= (permutation.rows[:, ~permutation.fit.estimable] == 0).all(1)
    if outside.any():
        name = permutation.contrasts[int(outside.argmax())].name
        raise InputError(
            f"the contrast {name!r} is not one of {permutation.factor!r}: it need not be zero "
            f"where {permutation.factor!r} has no effect, so that permuting its labels cannot test "
            "it."
        )
