"""The table of methods that test contrasts: one row for each value of the option `ddf`.

A method is a function from what is asked (`TestPlan`) and what can be tested (`Screened`) to
`Tests`. To add one, write that function in a module of its own and give it a row here; the error
texts follow, and a test holds the schemas of the workflow and the tables of the guides to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from flashmm.inference.between_subjects import SubjectDesign
from flashmm.inference.empirical_bayes import empirical_bayes_tests
from flashmm.inference.jackknife import jackknife_tests
from flashmm.inference.model_fit import ModelFit
from flashmm.inference.plan import TestPlan, Tests
from flashmm.inference.screening import Screened
from flashmm.inference.subjects import independent_subjects
from flashmm.inference.wald import Wald
from flashmm.lmm import LMMFit
from flashmm.options import InputError


@dataclass(frozen=True)
class DdfMethod:
    """A way to test contrasts.

    Attributes
    ----------
    name : str
        The value of `ddf`.
    what : str
        What it computes, a sentence of the guide.
    when : str
        When to take it, a sentence of the guide.
    test : callable
        Tests of all contrasts of a fit. Of tests by t and F it gives estimate, standard error,
        statistic and df; a method with p-values and limits of its own gives `Tests.tails` too.
    rows : callable, optional
        T tests of the rows of a contrast matrix, for methods that need nothing but one gene's fit,
        so that they can be made for fits without a subject, or with other labels.
    default_for : {"REML", "ML"}, optional
        The likelihood whose fits it tests where nothing is asked for.
    needs_reml : bool
        Whether it is defined for REML fits only.
    needs_subjects : bool
        Whether it counts subjects, so that the fit must come from groups.
    needs_between_df : bool
        Whether a contrast between subjects needs a degree of freedom between them.
    leaves_out_subjects : bool
        Whether it fits without each subject: the fit must be of `fit_lmm` from groups, with
        subjects that no random term crosses. Its tests need no random term for what varies
        within them.
    moderates : bool
        Whether its variances can be moderated across genes.
    shares_prior : bool
        Whether it takes a prior of variance ratios that was estimated elsewhere.
    """

    name: str
    what: str
    when: str
    test: Callable[[TestPlan, Screened], Tests]
    rows: Callable[[ModelFit, np.ndarray], dict[str, np.ndarray]] | None = None
    default_for: str | None = None
    needs_reml: bool = False
    needs_subjects: bool = False
    needs_between_df: bool = False
    leaves_out_subjects: bool = False
    moderates: bool = True
    shares_prior: bool = False

    @classmethod
    def wald(cls, name: str, rule: Wald, what: str, when: str, default_for: str = "") -> DdfMethod:
        """Row of a test by t and F with a variance of the model."""
        by_subjects = rule.between != "no"
        return cls(
            name,
            what,
            when,
            test=rule.test,
            rows=None if by_subjects else rule.rows,
            default_for=default_for or None,
            needs_reml=rule.adjusted,
            needs_subjects=by_subjects,
            needs_between_df=rule.between == "instead",
        )

    @property
    def guide_row(self) -> str:
        """The row of the method in the guide's table, markdown."""
        default = self.default_for and f"**default of `contrast_tests` for {self.default_for}**; "
        return f"| `{self.name}` | {self.what} | {default or ''}{self.when} |"

    def check(self, fit: ModelFit, plan: TestPlan) -> None:
        """Refuse a likelihood that it is not defined for, and variances that are shared already."""
        if self.needs_reml and fit.options.method != "REML":
            raise InputError(
                f"ddf={self.name!r} is defined for REML fits and this one is ML: fit with "
                f"method='REML', or use ddf={DEFAULT_DDF['ML']!r}."
            )
        if plan.prior is not None and not self.shares_prior:
            raise InputError(f"ddf={self.name!r} takes no prior; leave it out.")
        if plan.moderate and not self.moderates:
            raise InputError(
                f"moderate=True does not go with ddf={self.name!r}, which shares what genes say "
                "of variances itself; leave it out."
            )

    def subject_design(self, fit: ModelFit) -> SubjectDesign | None:
        """The design between subjects; None where they are neither known nor needed."""
        if self.leaves_out_subjects and not isinstance(fit, LMMFit):
            raise InputError(
                f"The jackknife leaves out subjects of a fit of fit_lmm; this is a "
                f"{type(fit).__name__}. Use ddf={DEFAULT_DDF['REML']!r}."
            )
        subjects = independent_subjects(fit.stats) if self.leaves_out_subjects else None
        design = SubjectDesign.of(fit, subjects)
        if design is None and self.needs_subjects:
            raise InputError(
                f"ddf={self.name!r} counts the subjects of groups of cells, and this fit has no "
                f"groups (matrices or a kinship): use {DEFAULT_DDF['REML']!r}, or fit from groups."
            )
        return design


METHODS = (
    DdfMethod.wald(
        "kenward-roger-2",
        Wald(adjusted=True, second_order=True),
        what="`kenward-roger` with its df lowered for being estimated with the variance, the more "
        "the smaller the p-value (Welch 1947, Aspin 1948)",
        when="**recommended, and what the workflow takes**; few subjects, unequal cells",
    ),
    DdfMethod(
        "empirical-bayes",
        what="mixture of t distributions over the posterior of the variance ratios, whose prior is "
        "made by all genes of like mean expression (Ignatiadis & Sen 2025)",
        when="**recommended for one model per cell type** (`fit_within`), and its default; as "
        "powerful with few subjects as if the variances were known; at least 50 genes",
        test=empirical_bayes_tests,
        needs_reml=True,
        shares_prior=True,
        moderates=False,
    ),
    DdfMethod.wald(
        "kenward-roger",
        Wald(adjusted=True),
        what="variance adjusted for estimating θ, df from the expected information of all "
        "components (Kenward & Roger 1997; equal to pbkrtest)",
        when="to compare with pbkrtest; twenty subjects or more, where it hardly differs from "
        "`kenward-roger-2`",
        default_for="REML",
    ),
    DdfMethod.wald(
        "kenward-roger-floor",
        Wald(adjusted=True, between="floor"),
        what="as `kenward-roger`, the df raised to those between subjects (below) where they are "
        "lower",
        when="few subjects with rather unequal cells; slightly anti-conservative",
    ),
    DdfMethod.wald(
        "between-within",
        Wald(adjusted=True, between="instead"),
        what="the variance of `kenward-roger`, the df between subjects",
        when="to compare with such an analysis",
    ),
    DdfMethod.wald(
        "satterthwaite",
        Wald(information="observed"),
        what="df from the observed information, components at zero left out (equal to lmerTest)",
        when="to compare with lmerTest; anti-conservative in genes whose component is at zero",
        default_for="ML",
    ),
    DdfMethod.wald(
        "residual",
        Wald(information="none"),
        what="n − rank X: cells are replicates (FLASHMM)",
        when="only to reproduce FLASHMM; anti-conservative for effects between subjects",
    ),
    DdfMethod(
        "jackknife",
        what="variance from leaving out one subject at a time, the components held; df from the "
        "number of subjects",
        when="the random part of the model may be wrong; conservative with few subjects",
        test=jackknife_tests,
        leaves_out_subjects=True,
    ),
    DdfMethod(
        "jackknife-refit",
        what="as `jackknife`, the components estimated anew without each subject",
        when="to see that this changes little",
        test=partial(jackknife_tests, refits=True),
        leaves_out_subjects=True,
    ),
)
DDF = tuple(method.name for method in METHODS)
# What is taken where nothing is asked for, by the likelihood.
DEFAULT_DDF = {method.default_for: method.name for method in METHODS if method.default_for}


def ddf_method(name: str | None, likelihood: str = "REML") -> DdfMethod:
    """The row of a name, or of the default for the fits of a likelihood.

    Parameters
    ----------
    name : str or None
        A value of `ddf`.
    likelihood : {"REML", "ML"}
        How the models were fitted.

    Returns
    -------
    DdfMethod
        A row of `METHODS`.

    Raises
    ------
    InputError
        For a name that is not in the table.
    """
    name = name or DEFAULT_DDF[likelihood]
    found = [method for method in METHODS if method.name == name]
    if not found:
        known = ", ".join(method.name for method in METHODS)
        raise InputError(f"ddf must be one of {known}; found {name!r}.")
    return found[0]


def row_tests(fit: ModelFit, rows: np.ndarray, ddf: str) -> dict[str, np.ndarray]:
    """t tests of the rows (C, p) of a contrast matrix by a method that has `DdfMethod.rows`.

    Parameters
    ----------
    fit : ModelFit
        The fitted models.
    rows : (C, p) array
        Contrasts, zero where a coefficient is aliased.
    ddf : str
        The name of a method.

    Returns
    -------
    dict of str to (genes, C) arrays
        estimate, std_error, statistic and df; NaN for genes without a fit.

    Raises
    ------
    InputError
        For a method that tests whole tables only.
    """
    method = ddf_method(ddf)
    if method.rows is None:
        raise InputError(f"ddf must be one of {', '.join(row_methods())}; found {ddf!r}.")
    return method.rows(fit, rows)


def row_methods() -> tuple[str, ...]:
    """Names of the methods that have `DdfMethod.rows`."""
    return tuple(method.name for method in METHODS if method.rows is not None)
