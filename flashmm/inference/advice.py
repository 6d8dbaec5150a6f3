"""What a run should know of its model, in words: one sentence each, and none where all is well."""

from __future__ import annotations

from typing import Any

import numpy as np

from flashmm.design.contrasts import Contrast
from flashmm.design.differences import contrasts_of
from flashmm.inference.between_subjects import SubjectDesign
from flashmm.inference.model_fit import ModelFit
from flashmm.inference.replication import cells_as_replicates, few_subjects
from flashmm.inference.screening import on_kept_columns
from flashmm.inference.shared_variance import one_variance
from flashmm.inference.slopes import numbers_as_slopes
from flashmm.options import checked, note

# Part of the genes with a component at zero that is said, and genes that this needs.
MOSTLY_ZERO = 0.8
MIN_GENES = 20
# R² of a cell-level covariate on the group-level columns: standard errors are tripled.
COLLINEAR = 0.9


@checked
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
        the design almost explains, numbers that may be levels, cells as replicates, effects within
        cell types by one variance for all of them, too few subjects, subjects confounded with the
        design.

    Notes
    -----
    `contrast_tests` calls it and keeps the sentences in the `notes` of its table.
    """
    notes = advise_fit(fit)
    if contrasts is None:
        return notes
    resolved = contrasts_of(contrasts, fit.coefficients, fit.coefficient_columns, fit.stats)
    kept, missing = on_kept_columns(fit, resolved)
    estimable = tuple(contrast for contrast in kept if contrast.name not in missing)
    return notes + advise_contrasts(fit, estimable, SubjectDesign.of(fit))


def advise_fit(fit: ModelFit) -> tuple[str, ...]:
    """Advice on the model, whatever is tested."""
    return _components_at_zero(fit) + _collinear_covariates(fit) + numbers_as_slopes(fit)


def advise_contrasts(
    fit: ModelFit,
    contrasts: tuple[Contrast, ...],
    design: SubjectDesign | None,
    robust: bool = False,
) -> tuple[str, ...]:
    """Advice on contrasts that can be estimated.

    `robust` tests, as the jackknife's, do not need random terms for what varies within subjects,
    nor equal variances.
    """
    if design is None:
        return ()
    if robust:
        return few_subjects(contrasts, design, robust)
    return (
        *cells_as_replicates(fit, contrasts, design),
        *one_variance(fit, contrasts, design),
        *few_subjects(contrasts, design, robust),
    )


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
