"""Advice on what replicates a contrast: cells where it should be subjects, or few subjects."""

from __future__ import annotations

import numpy as np

from flashmm.cells.groups import N_CELLS
from flashmm.design.contrasts import Contrast
from flashmm.inference.between_subjects import SubjectDesign, columns_of
from flashmm.inference.grouped_design import GroupedDesign
from flashmm.inference.model_fit import ModelFit
from flashmm.inference.subjects import require_groups
from flashmm.names import some_names
from flashmm.options import note

# Degrees of freedom between subjects below which a contrast has too few subjects: at three and
# three subjects there are four.
FEW_DF = 4


def cells_as_replicates(
    fit: ModelFit, contrasts: tuple[Contrast, ...], design: SubjectDesign
) -> tuple[str, ...]:
    """Say which tested columns vary within subjects without a random term that holds them."""
    found: dict[tuple[str, str], None] = {}
    single: dict[tuple[str, ...], bool] = {}  # many contrasts are of the same columns
    for contrast in contrasts:
        if design.cells_replicate(contrast.matrix):
            view = _innermost(contrast.matrix, design)
            columns = tuple(c for c in view.varying if c in columns_of(fit, contrast))
            by = (view.subjects.column, *columns)
            if by not in single:
                single[by] = _of_single_cells(fit, by)
            if not single[by]:  # else a random term of single cells is the residual
                missing = _missing(fit, contrast.matrix, design, view, columns)
                found |= {(name, view.subjects.column): None for name in missing}
    return tuple(note(_as_replicates(column, subject)) for column, subject in found)


def _innermost(matrix: np.ndarray, design: SubjectDesign) -> GroupedDesign:
    """The finest grouping by one column within which a contrast varies."""
    single = [view for view in design.views if ":" not in view.subjects.column]
    within = [view for view in single if view.varies_within(matrix)]
    return within[-1] if within else design.main


def _of_single_cells(fit: ModelFit, by: tuple[str, ...]) -> bool:
    """Whether groups by some columns are single cells, as samples of bulk are."""
    obs = require_groups(fit.stats, "Advice")[0].obs
    return bool(obs.groupby(list(by), observed=True)[N_CELLS].sum().max() == 1)


def _missing(
    fit: ModelFit,
    matrix: np.ndarray,
    design: SubjectDesign,
    view: GroupedDesign,
    columns: tuple[str, ...],
) -> list[str]:
    """Columns that hold a contrast in a random term with the subjects; else all of them as one."""
    obs = require_groups(fit.stats, "Advice")[0].obs
    subject = view.subjects.column
    holding = []
    for column in columns:
        if not design.cells_replicate(matrix, (design.partition(obs, (subject, column)),)):
            holding.append(column)
    return holding or ([":".join(columns)] if columns else [])


def _as_replicates(column: str, subject: str) -> str:
    return (
        f"{column!r} varies within {subject}s and no random term holds it, so its tests take "
        f"cells as replicates and reject too often where its effect differs between "
        f"{subject}s. A random term such as '{subject}:{column}' makes {subject}s the "
        "replicates."
    )


def few_subjects(
    contrasts: tuple[Contrast, ...], design: SubjectDesign, robust: bool
) -> tuple[str, ...]:
    """Contrasts with few degrees of freedom of subjects, or none (`robust` tests say so)."""
    found: dict[str, tuple[str, float]] = {}
    for contrast in contrasts:
        subject, df = design.subjects.column, design.between_df(contrast.matrix)
        unit = design.unit(contrast.matrix)
        if np.isnan(df) and not robust:
            df = replicating_df(contrast, design)
        elif unit is not None:
            subject = unit.subjects.column
        found[contrast.name] = subject, df
    notes = []
    for subject in dict.fromkeys(subject for subject, _ in found.values()):
        dfs = {name: df for name, (who, df) in found.items() if who == subject}
        none = [name for name, df in dfs.items() if df < 1]
        few = {name: int(df) for name, df in dfs.items() if 1 <= df < FEW_DF}
        notes += [] if robust or not none else [note(_confounded(none, subject))]
        notes += [note(_few(few, subject))] if few else []
    return tuple(notes)


def replicating_df(contrast: Contrast, design: SubjectDesign) -> float:
    """Degrees of freedom of the subjects of a contrast: between them, else of its differences."""
    df = design.between_df(contrast.matrix)
    return design.within_df(contrast.matrix) if np.isnan(df) else df


def borrowed_variances(
    contrasts: tuple[Contrast, ...], design: SubjectDesign | None
) -> tuple[str, ...]:
    """Say what p-values of few subjects rest on, where genes share what they say of variances."""
    if design is None:
        return ()
    few = [c.name for c in contrasts if 1 <= replicating_df(c, design) < FEW_DF]
    return (note(_borrowed(few, design.subjects.column)),) if few else ()


def _borrowed(names: list[str], subject: str) -> str:
    return (
        f"P-values of {some_names(names)} rest on how genes of like expression vary between "
        f"{subject}s (empirical Bayes), and hardly on replication: however small, take them as an "
        "order of candidates, expect more false ones than the nominal rate, and confirm them in "
        f"other {subject}s."
    )


def _confounded(names: list[str], subject: str) -> str:
    return (
        f"The fixed effects hold as many columns that are constant within {subject}s as there are "
        f"{subject}s behind {some_names(names)}: {subject}s and effect are confounded, and the "
        "test rests on the model alone. Take columns out, or do not test it."
    )


def _few(few: dict[str, int], subject: str) -> str:
    fewest = min(few.values())
    return (
        f"{some_names(list(few))} rest{'s' if len(few) == 1 else ''} on few {subject}s "
        f"({fewest} degree{'s' if fewest > 1 else ''} of freedom between {subject}s): only "
        f"large effects can be found, and more {subject}s help where more cells do not."
    )
