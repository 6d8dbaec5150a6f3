"""What can be tested: the one place where the status of a contrast of a gene is decided.

A gene without a fit has the status of its fit. A contrast that no gene can be tested for is found
here, before anything is computed. Where only the numbers can tell (no variance is left, a subject
cannot be left out), the method of the test says so in `Tests.failures`, and it is written here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from flashmm.design.contrasts import Contrast, without_columns
from flashmm.design.differences import is_factor
from flashmm.inference.between_subjects import SubjectDesign, columns_of
from flashmm.inference.grouped_design import GroupedDesign
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
        status = np.broadcast_to(own[:, None], self.shape).copy()
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
    contrasts, missing = on_kept_columns(fit, contrasts)
    confounded = {name: others for name, others in missing.items() if others}
    alone = {} if design is None else _resting_on_one_subject(fit, contrasts, design)
    between_df = np.full(len(contrasts), np.nan)
    verdicts: list[Status | None] = [None] * len(contrasts)
    for j, contrast in enumerate(contrasts):
        if contrast.name in missing:
            verdicts[j] = Status.NOT_ESTIMABLE
        elif contrast.name in alone:
            verdicts[j] = Status.TOO_FEW_SUBJECTS
        elif design is not None:
            between_df[j] = design.between_df(contrast.matrix)
            if needs_between_df and between_df[j] < 1:
                verdicts[j] = Status.TOO_FEW_SUBJECTS
    alone = {name: said for name, said in alone.items() if name not in missing}
    notes = _note_confounded(confounded) + _note_alone(alone)
    return Screened(fit, contrasts, tuple(verdicts), between_df, design, notes)


def on_kept_columns(
    fit: ModelFit, contrasts: tuple[Contrast, ...]
) -> tuple[tuple[Contrast, ...], dict[str, list[str]]]:
    """Contrasts in the coefficients that were estimated, and those that have no estimate.

    A contrast has one where it is in the row space of X, whichever of dependent columns were
    dropped: with coefficient zero for these, c'β is that of the kept ones. The others keep their
    weights; said of them are the dropped coefficients that are part of what the kept ones estimate.
    """
    dropped = ~fit.estimable
    if not dropped.any():
        return contrasts, {}
    found, missing = [], {}
    for contrast in contrasts:
        asked = (contrast.matrix[:, dropped] != 0).any()
        part = asked if fit.stats is None else _missing_part(fit, contrast.matrix, dropped)
        if np.any(part):
            names = [] if asked else [fit.coefficients[j] for j in np.flatnonzero(dropped)[part]]
            missing[contrast.name] = names
        elif asked:
            contrast = replace(contrast, matrix=np.where(dropped, 0.0, contrast.matrix))
        found.append(contrast)
    return tuple(found), missing


def _missing_part(fit: ModelFit, matrix: np.ndarray, dropped: np.ndarray) -> np.ndarray:
    """Dropped coefficients, (dropped,) bool, of which a contrast has a part that is not in X."""
    assert fit.stats is not None
    rows = fit.stats.of_products(matrix)
    return np.asarray(without_columns(fit.stats.XtX, fit.estimable, dropped, rows).any(0))


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
    """Contrasts that have no estimate without one of their units -> what that unit is."""
    groups = require_groups(fit.stats, "Counting subjects")[0]
    found: dict[str, str] = {}
    for contrast in contrasts:
        view, needed = design.needed(contrast.matrix)
        if len(needed) and view.subjects.column not in columns_of(fit, contrast):
            found[contrast.name] = _level_of_one(
                groups.obs, view, contrast.matrix, needed
            ) or _one_by_one(view, needed)
    return found


def _level_of_one(
    obs: pd.DataFrame, view: GroupedDesign, matrix: np.ndarray, needed: np.ndarray
) -> str:
    """The level that one unit has among the cells that bear a contrast, in words; else nothing."""
    bearing = view.support(matrix)
    for column in [c for c in view.fixed if c not in view.varying and is_factor(obs[c])]:
        values = obs[column]
        for unit in needed:
            level = values[view.subjects.codes == unit].iloc[0]
            own = (values == level).to_numpy() & bearing
            if own.any() and (view.subjects.codes[own] == unit).all() and not own[bearing].all():
                place = _place(obs[bearing], view.varying)
                return f"level {str(level)!r} of {column!r} has one {view.subjects.column}{place}"
    return ""


def _place(bearing: pd.DataFrame, varying: Iterable[str]) -> str:
    """The kind of cells that bears a contrast, where it is one level of some column."""
    single = [f"{c} {str(bearing[c].iloc[0])!r}" for c in varying if bearing[c].nunique() == 1]
    return f" with cells of {' and '.join(single)}" if single else ""


def _one_by_one(view: GroupedDesign, needed: np.ndarray) -> str:
    subject, names = view.subjects.column, some_names(view.subjects.names[needed])
    if len(needed) == 1:
        return f"only the {subject} {names} shows the effect"
    return f"{subject}s and effect are confounded: none of {names} can be left out"


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
