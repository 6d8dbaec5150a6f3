"""Test contrasts of the fixed effects, with degrees of freedom that know about subjects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from flashmm.design.contrasts import Contrast, resolve_contrasts, without_columns
from flashmm.inference.advice import advise_contrasts, advise_fit, note_cell_df
from flashmm.inference.between_subjects import SubjectDesign, columns_of
from flashmm.inference.jackknife import fill_jackknife
from flashmm.inference.model_fit import ModelFit
from flashmm.inference.subjects import independent_subjects, require_groups, subjects_of
from flashmm.inference.table import TestTable, adjust_p_values
from flashmm.inference.wald import (
    BY_SUBJECTS,
    DEFAULT_DDF,
    KENWARD_ROGER,
    SECOND_ORDER,
    fill_wald,
)
from flashmm.kernels import ddf as kernels
from flashmm.kernels import moderation, student
from flashmm.lmm import LMMFit
from flashmm.names import some_names
from flashmm.options import InputError, Status, is_number, note

JACKKNIFE = ("jackknife", "jackknife-refit")
DDF = (*KENWARD_ROGER, "satterthwaite", "residual", *JACKKNIFE)
ALTERNATIVES = ("two-sided", "less", "greater")


def contrast_tests(
    fit: ModelFit,
    contrasts: Any = None,
    ddf: str | None = None,
    alternative: str = "two-sided",
    *,
    level: float = 0.95,
    lfc: float = 0.0,
    moderate: bool = False,
) -> TestTable:
    """Test coefficients and contrasts of every gene.

    Parameters
    ----------
    fit : LMMFit or KinshipFit
        The fitted models.
    contrasts : optional
        None tests every coefficient. A string is a column name (every coefficient whose term holds
        the column) or an expression in coefficient names; a list holds several; a dictionary maps
        names to expressions, to ``{coefficient: weight}``, or to lists of them for a joint F test;
        a matrix has R's shape, coefficients × contrasts.
    ddf : {"kenward-roger-2", "kenward-roger", "satterthwaite", "residual", ...}, optional
        Denominator degrees of freedom; default "kenward-roger" for REML (pbkrtest's test),
        "satterthwaite" for ML. "kenward-roger-2", which the configurations of the workflow take,
        lowers Kenward-Roger's for their being estimated with the variance, the more the smaller the
        p-value: those of the table belong to its p-values, those of an interval to its level; joint
        F tests are Kenward-Roger's. "kenward-roger-floor" raises Kenward-Roger's to the degrees of
        freedom between subjects where they are lower, "between-within" takes these; both leave
        contrasts that vary within subjects to Kenward-Roger. "residual" is n - rank(X) as in
        FLASHMM: with few subjects it rejects too often for effects between subjects. "jackknife"
        takes the variance from leaving out one subject at a time, components held (see
        `flashmm.jackknife`); "jackknife-refit" estimates them anew.
    alternative : {"two-sided", "less", "greater"}
        Direction of the alternative of single contrasts.
    level : float
        Coverage of the confidence intervals.
    lfc : float
        Test |effect| > lfc (effect > lfc, effect < -lfc) instead of an effect other than zero; in
        units of the estimate, log₂ for the transform log2p1.
    moderate : bool
        Shrink the variances of a contrast across genes by empirical Bayes.

    Returns
    -------
    TestTable
        Estimates, intervals, statistics, df, p-values and a status, genes × contrasts.

    Raises
    ------
    InputError
        An unknown option, Kenward-Roger for an ML fit, degrees of freedom between subjects for a
        fit without groups, or a joint test that is one-sided, moderated or of a minimum effect.
    FormulaError
        A contrast that cannot be read.

    Notes
    -----
    Kenward & Roger 1997 (as pbkrtest), to the second order as Welch 1947 and Aspin 1948 for two
    variances; Satterthwaite as lmerTest (Kuznetsova 2017). Kenward-Roger keeps components at zero
    in the information, so that a singular fit does not return to cell-level df. Minimum effects as
    McCarthy & Smyth 2009, moderation after Smyth 2004.
    """
    plan = _Plan(_checked_ddf(fit, ddf), alternative, level, lfc, moderate)
    resolved = resolve_contrasts(contrasts, fit.coefficients, fit.coefficient_columns)
    plan.check_joint(resolved)
    table = _empty_table(fit, resolved)
    design = _subject_design(fit, plan.ddf)
    verdicts, notes = _verdicts(fit, resolved, design)
    estimable = np.array([verdict is None for verdict in verdicts])
    if design is not None:
        fine = zip(resolved, estimable, strict=True)
        table["between_df"][:] = [design.between_df(c.matrix) if f else np.nan for c, f in fine]
    if plan.ddf == "between-within":
        for j in np.flatnonzero(table["between_df"] < 1):
            verdicts[j], estimable[j] = Status.TOO_FEW_SUBJECTS, False
    _fill_verdicts(table, fit, resolved, verdicts)
    notes = fit.notes + notes
    if plan.ddf in JACKKNIFE and isinstance(fit, LMMFit) and design is not None:
        refits = plan.ddf == "jackknife-refit"
        notes += fill_jackknife(table, fit, resolved, estimable, design, refits)
    else:
        fill_wald(table, fit, resolved, estimable, plan.ddf)
    notes += note_cell_df(fit, table["df"], plan.ddf)
    loss = table.pop("df_loss")
    if plan.ddf == SECOND_ORDER and (moderate or plan.lfc > 0):
        table["df"] = kernels.lowered_df(table["df"], loss, plan.z2)
        loss = np.zeros_like(loss)
    if moderate:
        notes += _moderate(table, resolved)
    _fill_intervals(table, loss, plan)
    table["df"] = kernels.second_order_df(table["statistic"], table["df"], loss)
    _fill_p_values(table, plan)
    notes += advise_fit(fit)
    if contrasts is not None:
        notes += advise_contrasts(fit, resolved, table["between_df"], plan.ddf in JACKKNIFE)
    return TestTable(
        **table,
        genes=fit.genes,
        contrasts=resolved,
        ddf=plan.ddf,
        alternative=alternative,
        notes=notes,
        level=float(plan.level),
        lfc=float(plan.lfc),
    )


@dataclass(frozen=True)
class _Plan:
    """How to test, as asked for."""

    ddf: str
    alternative: str
    level: float
    lfc: float
    moderate: bool

    def __post_init__(self) -> None:
        if self.alternative not in ALTERNATIVES:
            raise InputError(
                f"alternative must be one of {', '.join(ALTERNATIVES)}; found {self.alternative!r}."
            )
        if not (is_number(self.level) and 0 < self.level < 1):
            raise InputError(
                f"level is a coverage between 0 and 1, such as 0.95; found {self.level!r}."
            )
        if not (is_number(self.lfc) and 0 <= self.lfc < np.inf):
            raise InputError(f"lfc is a minimum effect, zero or above; found {self.lfc!r}.")
        if not isinstance(self.moderate, bool):
            raise InputError(f"moderate is True or False; found {self.moderate!r}.")

    @property
    def z2(self) -> float:
        """Square of the normal quantile of the intervals."""
        sides = 2 if self.alternative == "two-sided" else 1
        return float(special.ndtri((1 - self.level) / sides) ** 2)

    def check_joint(self, contrasts: tuple[Contrast, ...]) -> None:
        """Joint F tests have no direction, no minimum and no single variance."""
        asked = {
            f"alternative={self.alternative!r}": self.alternative != "two-sided",
            f"lfc={self.lfc:g}": self.lfc > 0,
            "moderate=True": self.moderate,
        }
        joint = [c.name for c in contrasts if len(c.matrix) > 1]
        for option, is_asked in asked.items():
            if joint and is_asked:
                raise InputError(
                    f"Joint F tests have no direction, minimum effect or moderation; {option} was "
                    f"asked for, and {joint[0]!r} is one. Test its rows as contrasts of their own."
                )


def _checked_ddf(fit: ModelFit, ddf: str | None) -> str:
    reml = fit.options.method == "REML"
    ddf = ddf or DEFAULT_DDF[fit.options.method]
    if ddf not in DDF:
        raise InputError(f"ddf must be one of {', '.join(DDF)}; found {ddf!r}.")
    if ddf in KENWARD_ROGER and not reml:
        raise InputError(
            f"ddf={ddf!r} is defined for REML fits and this one is ML: fit with "
            "method='REML', or use ddf='satterthwaite'."
        )
    return ddf


def _subject_design(fit: ModelFit, ddf: str) -> SubjectDesign | None:
    """The design between subjects; None where they are neither known nor needed."""
    if ddf in JACKKNIFE and not isinstance(fit, LMMFit):
        raise InputError(
            f"The jackknife leaves out subjects of a fit of fit_lmm; this is a "
            f"{type(fit).__name__}. Use ddf='kenward-roger'."
        )
    subjects = independent_subjects(fit.stats) if ddf in JACKKNIFE else subjects_of(fit.stats)
    if subjects is None and ddf in BY_SUBJECTS:
        raise InputError(
            f"ddf={ddf!r} counts the subjects of groups of cells, and this fit has no groups "
            "(matrices or a kinship): use 'kenward-roger', or fit from groups."
        )
    return None if subjects is None else SubjectDesign.of(fit, subjects)


def _verdicts(
    fit: ModelFit, contrasts: tuple[Contrast, ...], design: SubjectDesign | None
) -> tuple[list[Status | None], tuple[str, ...]]:
    """Why each contrast cannot be tested for any gene, None where it can; and that in words."""
    rows = [contrast.matrix for contrast in contrasts]
    aliased = [bool((matrix[:, ~fit.estimable] != 0).any()) for matrix in rows]
    beside = [[] if no else _confounded_with(fit, m) for no, m in zip(aliased, rows, strict=True)]
    alone = {} if design is None else _resting_on_one_subject(fit, contrasts, design)
    verdicts: list[Status | None] = [None] * len(contrasts)
    for j, contrast in enumerate(contrasts):
        if aliased[j] or beside[j]:
            verdicts[j] = Status.NOT_ESTIMABLE
        elif contrast.name in alone:
            verdicts[j] = Status.TOO_FEW_SUBJECTS
    found = {c.name: other for c, other in zip(contrasts, beside, strict=True) if other}
    return verdicts, _note_confounded(found) + _note_alone(alone)


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


def _fill_verdicts(
    table: dict[str, Any],
    fit: ModelFit,
    contrasts: tuple[Contrast, ...],
    verdicts: list[Status | None],
) -> None:
    """Fill the status, and estimates that have no test."""
    status = fit.status.astype(f"<U{max(map(len, Status))}")
    table["status"] = np.repeat(status[:, None], len(contrasts), axis=1)
    for j, (contrast, verdict) in enumerate(zip(contrasts, verdicts, strict=True)):
        if verdict is not None:
            table["status"][:, j] = verdict
        if verdict == Status.TOO_FEW_SUBJECTS:
            table["status"][~fit.fitted, j] = fit.status[~fit.fitted]
            if len(contrast.basis) == 1:
                kept = fit.estimable
                table["estimate"][:, j] = fit.coef[:, kept] @ contrast.basis[0, kept]


def _empty_table(fit: ModelFit, contrasts: tuple[Contrast, ...]) -> dict[str, Any]:
    shape = (len(fit.genes), len(contrasts))
    t_test = ("estimate", "std_error", "conf_low", "conf_high", "statistic", "df")
    names = (*t_test, "p_value", "log10_p", "adj_p_value")
    table: dict[str, Any] = {name: np.full(shape, np.nan) for name in names}
    table["df_loss"] = np.zeros(shape)
    for name in ("between_df", "prior_df", "prior_variance"):
        table[name] = np.full(len(contrasts), np.nan)
    table["df_num"] = np.array([len(c.basis) for c in contrasts], dtype=float)
    return table


def _moderate(table: dict[str, Any], contrasts: tuple[Contrast, ...]) -> tuple[str, ...]:
    """Shrink the variances of each contrast across genes; df, statistic and std_error follow."""
    few = []
    for j, contrast in enumerate(contrasts):
        variance, df = table["std_error"][:, j] ** 2, table["df"][:, j]
        prior = moderation.fit_prior(variance, df)
        if prior is None:
            few.append(contrast.name)
            continue
        table["prior_variance"][j], table["prior_df"][j] = prior
        variance, table["df"][:, j] = moderation.posterior(variance, df, prior)
        table["std_error"][:, j] = np.sqrt(variance)
        table["statistic"][:, j] = table["estimate"][:, j] / table["std_error"][:, j]
    if not few:
        return ()
    return (
        note(
            f"Fewer than {moderation.MIN_GENES} genes have a test of "
            f"{some_names(few)}: too few to moderate variances, which are left as "
            "they are."
        ),
    )


def _fill_intervals(table: dict[str, Any], loss: np.ndarray, plan: _Plan) -> None:
    single = table["df_num"] <= 1
    estimate, std_error, df = (table[name][:, single] for name in ("estimate", "std_error", "df"))
    df = kernels.lowered_df(df, loss[:, single], plan.z2)
    table["conf_low"][:, single], table["conf_high"][:, single] = student.confidence_limits(
        estimate, std_error, df, plan.level, plan.alternative
    )


def _fill_p_values(table: dict[str, Any], plan: _Plan) -> None:
    joint = table["df_num"] > 1
    single = np.flatnonzero(~joint)
    estimate, std_error, statistic, df = (
        table[name][:, single] for name in ("estimate", "std_error", "statistic", "df")
    )
    if plan.lfc > 0:
        statistic, p, log10_p = student.minimum_effect_test(
            estimate, std_error, df, plan.lfc, plan.alternative
        )
        table["statistic"][:, single] = statistic
    else:
        p, log10_p = kernels.t_tail(statistic, df, plan.alternative)
    table["p_value"][:, single], table["log10_p"][:, single] = p, log10_p
    table["p_value"][:, joint], table["log10_p"][:, joint] = kernels.f_tail(
        table["statistic"][:, joint], table["df_num"][joint], table["df"][:, joint]
    )
    table["adj_p_value"] = np.column_stack([adjust_p_values(p) for p in table["p_value"].T])
