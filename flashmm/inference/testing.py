"""Test contrasts of the fixed effects, with degrees of freedom that know about subjects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flashmm.design.differences import contrasts_of
from flashmm.inference.advice import advise_contrasts, advise_fit
from flashmm.inference.ddf import ddf_method
from flashmm.inference.finish import finish, moderate_tests
from flashmm.inference.model_fit import ModelFit
from flashmm.inference.plan import TestPlan
from flashmm.inference.replication import borrowed_variances
from flashmm.inference.screening import screen
from flashmm.inference.table import TestTable
from flashmm.inference.within import join_levels
from flashmm.names import listed
from flashmm.options import FormulaError, InputError, Status, checked, note
from flashmm.within import FitsWithin

# What tests of one model per level take where nothing is asked for.
DEFAULT_WITHIN = "empirical-bayes"


@checked
def contrast_tests(
    fit: ModelFit | FitsWithin,
    contrasts: Any = None,
    ddf: str | None = None,
    alternative: str = "two-sided",
    *,
    level: float = 0.95,
    lfc: float = 0.0,
    moderate: bool = False,
    prior: Any = None,
) -> TestTable:
    """Test coefficients and contrasts of every gene.

    Parameters
    ----------
    fit : LMMFit, KinshipFit or FitsWithin
        The fitted models; of `fit_within` the models of every level, whose tests are one table.
    contrasts : optional
        None tests every coefficient. A string is a column name (every coefficient whose term holds
        the column) or an expression in coefficient names; a list holds several; a dictionary maps
        names to expressions, to ``{coefficient: weight}``, or to lists of them for a joint F test;
        a matrix has R's shape, coefficients × contrasts.
    ddf : str, optional
        Denominator degrees of freedom; default "kenward-roger" for REML (pbkrtest's test),
        "satterthwaite" for ML, and "empirical-bayes" for the REML fits of `fit_within`: the
        mixture of t over what genes of like mean expression say of the variance ratios; below 50
        genes its tests are those of "kenward-roger-2". "kenward-roger-2", which the configurations
        of the workflow take, lowers Kenward-Roger's for their being estimated with the variance,
        the more the smaller the p-value: those of the table belong to its p-values, those of an
        interval to its level; joint F tests are Kenward-Roger's. "kenward-roger-floor" raises
        Kenward-Roger's to the degrees of freedom between subjects where they are lower,
        "between-within" takes these; both leave contrasts that vary within subjects to
        Kenward-Roger. "residual" is n - rank(X) as in FLASHMM: with few subjects it rejects too
        often for effects between subjects. "jackknife" takes the variance from leaving out one
        subject at a time, components held (see `flashmm.jackknife`); "jackknife-refit" estimates
        them anew.
    alternative : {"two-sided", "less", "greater"}
        Direction of the alternative of single contrasts.
    level : float
        Coverage of the confidence intervals.
    lfc : float
        Test |effect| > lfc (effect > lfc, effect < -lfc) instead of an effect other than zero; in
        units of the estimate, log₂ for the transform log2p1.
    moderate : bool
        Shrink the variances of a contrast across genes by empirical Bayes.
    prior : VarianceRatioPrior, TestTable or dict of these by level, optional
        Of "empirical-bayes": a prior that was estimated elsewhere (`TestTable.prior`, of another
        study, say) instead of one from these genes.

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
    if isinstance(fit, FitsWithin):
        ddf = ddf or (DEFAULT_WITHIN if fit.options.method == "REML" else None)
        asked = {"alternative": alternative, "level": level, "lfc": lfc, "moderate": moderate}
        return _tests_within(fit, contrasts, ddf, asked, prior)
    method = ddf_method(ddf, fit.options.method)
    plan = TestPlan(alternative, level, lfc, moderate, _prior_of(prior))
    method.check(fit, plan)
    resolved = contrasts_of(contrasts, fit.coefficients, fit.coefficient_columns, fit.stats)
    plan.check_joint(resolved)
    screened = screen(fit, resolved, method.subject_design(fit), method.needs_between_df)
    tests = moderate_tests(plan, screened.contrasts, method.test(plan, screened))
    tests = finish(plan, tests, screened.df_num)
    notes = fit.notes + screened.notes + tests.notes + advise_fit(fit)
    if contrasts is not None:
        robust = method.leaves_out_subjects
        tested = tuple(c for c, ok in zip(screened.contrasts, screened.testable, strict=True) if ok)
        notes += advise_contrasts(fit, tested, screened.design, robust)
        notes += borrowed_variances(tested, screened.design) if tests.prior is not None else ()
    return TestTable.of(screened, plan, tests, method.name, notes)


def _tests_within(
    fits: FitsWithin, contrasts: Any, ddf: str | None, asked: dict[str, Any], prior: Any
) -> TestTable:
    """Tests of all levels; a contrast that a level does not have is said, and tested elsewhere."""
    tables: dict[str, TestTable] = {}
    refused = dict.fromkeys(fits.refused, Status.TOO_FEW_SUBJECTS)
    faults: dict[str, FormulaError] = {}
    for level, fit in fits.fits.items():
        try:
            tables[level] = contrast_tests(
                fit, contrasts, ddf, prior=_prior_of(prior, level), **asked
            )
        except FormulaError as error:
            faults[level], refused[level] = error, Status.NOT_ESTIMABLE
    if not tables:
        raise next(iter(faults.values()))
    table = join_levels(fits, tables, refused)
    notes = tuple(note(f"{fits.column} {level!r}: {error}") for level, error in faults.items())
    return replace(table, notes=table.notes + notes)


def _prior_of(prior: Any, level: str | None = None) -> Any:
    """The prior of a table, or that of a level where there is one for each."""
    found = prior.prior if isinstance(prior, TestTable) else prior
    if isinstance(found, Mapping) and level is not None:
        if level not in found:
            raise InputError(
                f"prior: there is none for {level!r}; it has those of {listed(found)}."
            )
        return found[level]
    return found
