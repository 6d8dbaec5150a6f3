"""What can be tested: the one place where the status of a contrast of a gene is decided.

A gene without a fit has the status of its fit. A contrast that no gene can be tested for is found
here, before anything is computed. Where only the numbers can tell (no variance is left, a subject
cannot be left out), the method of the test says so in `Tests.failures`, and it is written here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from flashmm.design.contrasts import Contrast, without_columns
from flashmm.inference.between_subjects import SubjectDesign, columns_of
from flashmm.inference.model_fit import ModelFit
from flashmm.inference.subjects import require_groups
from flashmm.names import some_names
from flashmm.options import Status, note


@dataclass(frozen=True, eq=False)
class Screened:
    """A fit and its contrasts, with what is known of them before they are tested.

    Attributes
    ----------
    fit : ModelFit
        The fitted models.
    contrasts : tuple of Contrast
        All that was asked for.
    verdicts : tuple of Status or None
        Why no gene can be tested for a contrast; None where that is not so.
    between_df : (contrasts,) array
        Degrees of freedom between subjects; NaN where subjects are not known, for contrasts that
        vary within them, and for those that cannot be estimated.
    design : SubjectDesign or None
        Who the subjects are, where that is known.
    notes : tuple of str
        The verdicts in words.
    """

    fit: ModelFit
    contrasts: tuple[Contrast, ...]
    verdicts: tuple[Status | None, ...]
    between_df: np.ndarray
    design: SubjectDesign | None = None
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """Genes and contrasts: the shape of the arrays of the tests."""
        return len(self.fit.genes), len(self.contrasts)

    @cached_property
    def testable(self) -> np.ndarray:
        """Contrasts that can be tested, (contrasts,) bool."""
        return np.array([verdict is None for verdict in self.verdicts])

    @cached_property
    def df_num(self) -> np.ndarray:
        """Independent rows of each contrast, (contrasts,): one, or the numerator df of F."""
        return np.array([len(c.basis) for c in self.contrasts], dtype=float)

    def status(self, failures: Mapping[Status, np.ndarray]) -> np.ndarray:
        """Status of every test, (genes, contrasts) of str.

        Parameters
        ----------
        failures : mapping of Status to (genes, contrasts) bool array
            Tests that turned out not to exist.
        """
        own = self.fit.status.astype(f"<U{max(map(len, Status))}")
        status = np.repeat(own[:, None], len(self.contrasts), axis=1)
        for j, verdict in enumerate(self.verdicts):
            if verdict == Status.TOO_FEW_SUBJECTS:
                status[self.fit.fitted, j] = verdict
            elif verdict is not None:
                status[:, j] = verdict
        for failure, where in failures.items():
            status[where] = failure
        return status

    def estimates(self, tested: np.ndarray) -> np.ndarray:
        """Estimates (genes, contrasts) of a test, with those of contrasts that have no test."""
        few = [
            j
            for j, (contrast, verdict) in enumerate(zip(self.contrasts, self.verdicts, strict=True))
            if verdict == Status.TOO_FEW_SUBJECTS and len(contrast.basis) == 1
        ]
        if not few:
            return tested
        estimate, kept = tested.copy(), self.fit.estimable
        for j in few:
            estimate[:, j] = self.fit.coef[:, kept] @ self.contrasts[j].basis[0, kept]
        return estimate


def screen(
    fit: ModelFit,
    contrasts: tuple[Contrast, ...],
    design: SubjectDesign | None,
    needs_between_df: bool = False,
) -> Screened:
    """Find the contrasts that can be tested, and say of the others why they cannot.

    Parameters
    ----------
    fit : ModelFit
        The fitted models.
    contrasts : tuple of Contrast
        What to test.
    design : SubjectDesign or None
        The subjects, where they are known.
    needs_between_df : bool
        Whether contrasts between subjects need a degree of freedom between them.

    Returns
    -------
    Screened
        Contrasts with a `Status`, where they cannot be tested, and df between subjects.
    """
    aliased = [bool((c.matrix[:, ~fit.estimable] != 0).any()) for c in contrasts]
    beside = {
        c.name: _confounded_with(fit, c.matrix)
        for c, no in zip(contrasts, aliased, strict=True)
        if not no
    }
    confounded = {name: others for name, others in beside.items() if others}
    alone = {} if design is None else _resting_on_one_subject(fit, contrasts, design)
    between_df = np.full(len(contrasts), np.nan)
    verdicts: list[Status | None] = [None] * len(contrasts)
    for j, contrast in enumerate(contrasts):
        if aliased[j] or contrast.name in confounded:
            verdicts[j] = Status.NOT_ESTIMABLE
        elif contrast.name in alone:
            verdicts[j] = Status.TOO_FEW_SUBJECTS
        elif design is not None:
            between_df[j] = design.between_df(contrast.matrix)
            if needs_between_df and between_df[j] < 1:
                verdicts[j] = Status.TOO_FEW_SUBJECTS
    notes = _note_confounded(confounded) + _note_alone(alone)
    return Screened(fit, contrasts, tuple(verdicts), between_df, design, notes)


def _confounded_with(fit: ModelFit, matrix: np.ndarray) -> list[str]:
    """Dropped coefficients whose effect is part of what a contrast of the kept ones estimates."""
    dropped = ~fit.estimable
    if fit.stats is None or not dropped.any():
        return []
    part = without_columns(fit.stats.XtX, fit.estimable, dropped, matrix).any(0)
    return [fit.coefficients[j] for j in np.flatnonzero(dropped)[part]]


def _note_confounded(found: dict[str, list[str]]) -> tuple[str, ...]:
    if not found:
        return ()
    others = list(dict.fromkeys(name for names in found.values() for name in names))
    return (
        note(
            f"{some_names(list(found))} cannot be told from {some_names(others)}, because they "
            f"always go together in these cells, and {'is' if len(found) == 1 else 'are'} not "
            "tested. Take one of them out of the formula; what is then tested is the effect of "
            "both."
        ),
    )


def _resting_on_one_subject(
    fit: ModelFit, contrasts: tuple[Contrast, ...], design: SubjectDesign
) -> dict[str, str]:
    """Contrasts that need a level, of a column between subjects, that one subject has -> which."""
    groups, subjects = require_groups(fit.stats, "Counting subjects")[0], design.subjects
    found: dict[str, str] = {}
    for column in sorted(set().union(*fit.coefficient_columns) & set(groups.obs.columns)):
        values = groups.obs[column]
        factor = not pd.api.types.is_numeric_dtype(values) and column != subjects.column
        if not factor or subjects.vary(values):
            continue
        touched = [c for c in contrasts if column in columns_of(fit, c)]
        for level in values.unique():
            own = (values == level).to_numpy()
            if len(np.unique(subjects.codes[own])) == 1:
                said = f"level {str(level)!r} of {column!r} has one {subjects.column}"
                found |= {c.name: said for c in touched if design.needs(c.matrix, own)}
    return found


def _note_alone(alone: dict[str, str]) -> tuple[str, ...]:
    """Say each level that one subject has once."""
    named = {said: [n for n, other in alone.items() if other == said] for said in alone.values()}
    return tuple(
        note(
            f"{said}, and an effect between subjects needs at least two per level: "
            f"{some_names(names)} cannot be tested. Leave that level's cells out, or test "
            "something else."
        )
        for said, names in named.items()
    )
