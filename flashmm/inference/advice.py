"""What a run should know of its model, in words: one sentence each, and none where all is well."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from flashmm.design.contrasts import Contrast
from flashmm.design.differences import contrasts_of
from flashmm.inference.between_subjects import SubjectDesign, columns_of
from flashmm.inference.model_fit import ModelFit
from flashmm.inference.subjects import require_groups, subjects_of
from flashmm.names import some_names
from flashmm.options import note

# Degrees of freedom between subjects below which a contrast has too few subjects: at three and
# three subjects there are four.
FEW_DF = 4
# Part of the genes with a component at zero that is said, and genes that this needs.
MOSTLY_ZERO = 0.8
MIN_GENES = 20
# R² of a cell-level covariate on the group-level columns: standard errors are tripled.
COLLINEAR = 0.9


def advise(fit: ModelFit, contrasts: Any = None) -> tuple[str, ...]:
    """Say what in a model threatens its tests; every sentence is also a `FlashmmWarning`.

    Parameters
    ----------
    fit : LMMFit or KinshipFit
        The fitted models; most of the advice needs groups of cells.
    contrasts : optional
        What is to be tested, as in `contrast_tests`; None looks at the model alone.

    Returns
    -------
    tuple of str
        One sentence for each of: a component at zero in most genes, a cell-level covariate that
        the design almost explains, an effect within cell types without subject × cell type,
        cells as replicates, too few subjects, subjects confounded with the design.

    Notes
    -----
    `contrast_tests` calls it and keeps the sentences in the `notes` of its table.
    """
    notes = advise_fit(fit)
    if contrasts is None:
        return notes
    resolved = contrasts_of(contrasts, fit.coefficients, fit.coefficient_columns, fit.stats)
    design = SubjectDesign.of(fit)
    between = [np.nan if design is None else design.between_df(c.matrix) for c in resolved]
    return notes + advise_contrasts(fit, resolved, np.array(between))


def advise_fit(fit: ModelFit) -> tuple[str, ...]:
    """Advice on the model, whatever is tested."""
    return _components_at_zero(fit) + _collinear_covariates(fit)


def advise_contrasts(
    fit: ModelFit,
    contrasts: tuple[Contrast, ...],
    between_df: np.ndarray,
    robust: bool = False,
) -> tuple[str, ...]:
    """Advice on contrasts with their degrees of freedom between subjects, (contrasts,).

    `robust` tests, as the jackknife's, do not need random terms for what varies within subjects.
    """
    missing = () if robust else _missing_random_terms(fit, contrasts)
    return missing + _few_subjects(fit, contrasts, between_df, robust)


def _components_at_zero(fit: ModelFit) -> tuple[str, ...]:
    """Components at zero in most of at least twenty genes."""
    stats = fit.stats
    theta = [block.theta for block in fit.test_blocks()] if stats is not None else []
    if stats is None or sum(map(len, theta)) < MIN_GENES:
        return ()
    zero = (np.concatenate(theta)[:, :-1] == 0).mean(0)
    said = [
        f"{name!r} ({share:.0%})"
        for name, share in zip(stats.components, zero, strict=True)
        if share >= MOSTLY_ZERO
    ]
    if not said:
        return ()
    return (
        note(
            f"The variance of {', '.join(said)} is estimated as zero in most genes: the data show "
            "little of it, Kenward-Roger tests that rest on it are conservative, and the model can "
            "do without, unless it is how the cells were collected (subjects always stay)."
        ),
    )


def _collinear_covariates(fit: ModelFit) -> tuple[str, ...]:
    """Cell-level covariates that the group-level columns almost explain."""
    stats = fit.stats
    if stats is None or stats.design is None or stats.X_sum is None:
        return ()
    cell_level = stats.design.fixed[1:].any((0, 1))
    group_level = np.flatnonzero(fit.estimable & ~cell_level)
    # products like condition:log(libsize) are near their own parts by construction
    parts = stats.coefficient_terms
    simple = [int(j) for j in np.flatnonzero(fit.estimable & cell_level) if ":" not in parts[j]]
    r2 = {j: _r_squared(stats.XtX, stats.X_sum, stats.n_cells, j, group_level) for j in simple}
    return tuple(
        note(
            f"{stats.coefficients[j]!r} is almost a function of the other fixed effects (R² = "
            f"{value:.2f}): their tests then ask what is left at equal {stats.coefficients[j]!r}, "
            "with large standard errors. Leave it out if it follows from condition or cell type."
        )
        for j, value in r2.items()
        if value > COLLINEAR
    )


def _r_squared(
    XtX: np.ndarray, X_sum: np.ndarray, n: int, column: int, others: np.ndarray
) -> float:
    """R² of a column of X on an intercept and other columns, from centred cross-products."""
    centred = XtX - np.outer(X_sum, X_sum) / n
    left = centred[others, column]
    within = np.linalg.pinv(centred[np.ix_(others, others)], rcond=1e-10, hermitian=True)
    total = float(centred[column, column])
    return float(left @ within @ left) / total if total > 1e-12 * XtX[column, column] else 0.0


def _missing_random_terms(fit: ModelFit, contrasts: tuple[Contrast, ...]) -> tuple[str, ...]:
    """Tested columns that vary within subjects and that no random term holds."""
    subjects = subjects_of(fit.stats)
    if subjects is None:
        return ()
    groups, design = require_groups(fit.stats, "Advice")
    obs, subject = groups.obs, subjects.column
    held = frozenset().union(*(component.columns for component in design.random))
    tested = frozenset().union(*(columns_of(fit, contrast) for contrast in contrasts))
    words = [c for c in sorted(tested & set(obs)) if not pd.api.types.is_numeric_dtype(obs[c])]
    factors = [c for c in words if obs[c].nunique() > 1]
    varying = {c for c in factors if subjects.vary(obs[c])} - held
    notes = []
    for column in sorted(varying):
        beside = _between_beside(fit, contrasts, column, set(factors) - varying - held)
        text = _asked_within(column, beside, subject) if beside else _as_replicates(column, subject)
        notes.append(note(text))
    return tuple(notes)


def _between_beside(
    fit: ModelFit, contrasts: tuple[Contrast, ...], column: str, between: set[str]
) -> list[str]:
    """Columns between subjects that stand in one tested coefficient with `column`."""
    used = np.any([(c.matrix != 0).any(0) for c in contrasts], axis=0)
    together = [c for c, is_used in zip(fit.coefficient_columns, used, strict=True) if is_used]
    return sorted(set().union(*(c & between for c in together if column in c)))


def _as_replicates(column: str, subject: str) -> str:
    return (
        f"{column!r} varies within {subject}s and no random term holds it, so its tests take "
        f"cells as replicates and reject too often where its effect differs between "
        f"{subject}s. A random term such as '{subject}:{column}' makes {subject}s the "
        "replicates."
    )


def _asked_within(column: str, beside: list[str], subject: str) -> str:
    return (
        f"The effect of {' and '.join(map(repr, beside))} is asked within levels of {column!r}, "
        f"but the model takes a {subject} to deviate alike in all of them: where that is not so, "
        f"tests reject too often, whatever the degrees of freedom. Add the random term "
        f"'{subject}:{column}'."
    )


def _few_subjects(
    fit: ModelFit, contrasts: tuple[Contrast, ...], between_df: np.ndarray, robust: bool
) -> tuple[str, ...]:
    """Contrasts with few degrees of freedom between subjects, or none (`robust` tests say so)."""
    subjects = subjects_of(fit.stats)
    if subjects is None:
        return ()
    subject = subjects.column
    none = [c.name for c, df in zip(contrasts, between_df, strict=True) if df < 1]
    few = {c.name: int(df) for c, df in zip(contrasts, between_df, strict=True) if 1 <= df < FEW_DF}
    notes = []
    if none and not robust:
        notes.append(
            note(
                f"The fixed effects hold as many columns that are constant within {subject}s as "
                f"there are {subject}s behind {some_names(none)}: {subject}s and effect are "
                "confounded, and the test rests on the model alone. Take columns out, or do not "
                "test it."
            )
        )
    if few:
        fewest = min(few.values())
        notes.append(
            note(
                f"{some_names(list(few))} rest{'s' if len(few) == 1 else ''} on few {subject}s "
                f"({fewest} degree{'s' if fewest > 1 else ''} of freedom between {subject}s): only "
                f"large effects can be found, and more {subject}s help where more cells do not."
            )
        )
    return tuple(notes)
