"""The table of tests, and p-values adjusted for the number of genes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from flashmm.design.contrasts import Contrast
from flashmm.inference.adjustment import adjust_columns, adjust_p_values
from flashmm.inference.details import detail_columns
from flashmm.inference.model_fit import ModelFit
from flashmm.inference.plan import TestPlan, Tests
from flashmm.inference.screening import Screened
from flashmm.inference.tidy import tidy
from flashmm.names import did_you_mean, listed
from flashmm.options import InputError, checked, is_number
from flashmm.shown import Shown, attached
from flashmm.within import FitsWithin

__all__ = ["TestTable", "adjust_columns", "adjust_p_values", "frame_columns"]

# Names of the tidy columns in the words of pertpy's linear models.
PERTPY_NAMES = {"gene": "variable", "estimate": "log_fc", "std_error": "sd", "statistic": "t_value"}


@dataclass(frozen=True, eq=False)
class TestTable(Shown):
    """Tests of contrasts for every gene.

    Beside the methods below, ``table.plot.volcano()`` (`ma`, `qq`, `forest`, `expression`),
    ``table.explain(gene)``, ``table.to_anndata(adata)``, ``table.write(path)``, ``table.scores()``
    (for decoupler) and ``table.write_ranks(folder)`` (for fgsea, GSEA) are those of
    `flashmm.notebook`.

    Attributes
    ----------
    estimate, std_error : (genes, contrasts) arrays
        c'β̂ and its standard error (Kenward-Roger's where asked for); NaN for joint F tests.
    statistic : (genes, contrasts) array
        t, or F for joint tests; of the minimum effect where there is one.
    df : (genes, contrasts) array
        Denominator degrees of freedom.
    conf_low, conf_high : (genes, contrasts) arrays
        Confidence limits of the estimate at `level`, from the same standard error and df; one of
        them infinite for a one-sided alternative, NaN for joint F tests.
    df_num : (contrasts,) array
        Numerator degrees of freedom; one for single contrasts.
    p_value, log10_p, adj_p_value : (genes, contrasts) arrays
        `log10_p` is finite where p underflows; adjusted per contrast by Benjamini-Hochberg.
    status : (genes, contrasts) array of str
        The gene's `Status`, or "not_estimable".
    genes : pandas.Index
        Names of the genes.
    contrasts : tuple of Contrast
        What was tested.
    ddf, alternative : str
        How it was tested.
    notes : tuple of str
        What was decided for the user.
    level : float
        Coverage of the confidence intervals.
    lfc : float
        The minimum effect that was tested; zero is the usual test.
    between_df : (contrasts,) array
        Degrees of freedom between subjects; NaN for contrasts that vary within subjects, and where
        subjects are not known.
    prior_df, prior_variance : (contrasts,) arrays
        Prior of moderated variances, d₀ and s₀²; NaN without moderation.
    prior : object or None
        What the method learnt of the genes together, where it has something to say; of several
        levels a dictionary.
    within : str or None
        The column whose levels have models of their own (`flashmm.fit_within`).
    levels : tuple of str
        (contrasts,) The level of each contrast; empty where there is one model.
    tested : ModelFit, FitsWithin or None
        The fit that the tests are of.
    """

    __test__ = False  # the name begins with "Test": pytest must not collect it

    estimate: np.ndarray
    std_error: np.ndarray
    statistic: np.ndarray
    df: np.ndarray
    df_num: np.ndarray
    conf_low: np.ndarray
    conf_high: np.ndarray
    p_value: np.ndarray
    log10_p: np.ndarray
    adj_p_value: np.ndarray
    status: np.ndarray
    genes: pd.Index
    contrasts: tuple[Contrast, ...]
    ddf: str
    alternative: str
    between_df: np.ndarray
    prior_df: np.ndarray
    prior_variance: np.ndarray
    notes: tuple[str, ...] = ()
    level: float = 0.95
    lfc: float = 0.0
    prior: object | None = None
    within: str | None = None
    levels: tuple[str, ...] = ()
    tested: ModelFit | FitsWithin | None = None

    # of later rooms, by name
    plot = attached("flashmm.notebook.figures", "TablePlots")
    explain = attached("flashmm.notebook.words", "explain")
    to_anndata = attached("flashmm.notebook.export", "to_anndata")
    write = attached("flashmm.notebook.export", "write")
    scores = attached("flashmm.notebook.scores", "scores")
    write_ranks = attached("flashmm.notebook.scores", "write_ranks")

    @classmethod
    def of(
        cls, screened: Screened, plan: TestPlan, tests: Tests, ddf: str, notes: tuple[str, ...]
    ) -> TestTable:
        """Table of finished tests: status, and p-values adjusted per contrast."""
        if tests.tails is None:
            raise TypeError("tests have no p-values yet: see inference.finish")
        nothing = np.full(len(screened.contrasts), np.nan)
        return cls(
            estimate=screened.estimates(tests.estimate),
            std_error=tests.std_error,
            statistic=tests.statistic,
            df=tests.df,
            df_num=screened.df_num,
            conf_low=tests.tails.conf_low,
            conf_high=tests.tails.conf_high,
            p_value=tests.tails.p_value,
            log10_p=tests.tails.log10_p,
            adj_p_value=adjust_columns(tests.tails.p_value),
            status=screened.status(tests.failures),
            genes=screened.fit.genes,
            contrasts=screened.contrasts,
            ddf=ddf,
            alternative=plan.alternative,
            between_df=screened.between_df,
            prior_df=nothing if tests.prior_df is None else tests.prior_df,
            prior_variance=nothing if tests.prior_variance is None else tests.prior_variance,
            notes=notes,
            level=float(plan.level),
            lfc=float(plan.lfc),
            prior=tests.prior,
            tested=screened.fit,
        )

    @property
    def contrast_names(self) -> tuple[str, ...]:
        """Names of the contrasts."""
        return tuple(contrast.name for contrast in self.contrasts)

    @checked
    def to_frame(
        self,
        names: str = "flashmm",
        *,
        intervals: bool = False,
        details: bool = False,
        shrink: bool = False,
    ) -> pd.DataFrame:
        """One row per contrast and gene.

        Parameters
        ----------
        names : {"flashmm", "pertpy"}
            Column names: the package's own, or those of pertpy's linear models.
        intervals : bool
            Whether to have the confidence limits beside the standard errors.
        details : bool
            Whether to have what is compared and what it rests on: `comparison` ("stim vs ctrl"),
            `log2_fc` of the counts with its limits, `mean_expression`, `fraction_expressing` and
            `n_subjects` (also by level), `adj_p_global` (adjusted over all contrasts and levels).
            In pertpy's names `log_fc` is then the fold change of the counts.
        shrink : bool
            With details: whether to have shrunken fold changes and their local false sign rate.

        Returns
        -------
        pandas.DataFrame
            Columns gene, (that of the levels, where each has a model,) contrast, estimate,
            std_error, (conf_low, conf_high,) statistic, df, (df_num, if any test is joint,)
            p_value, log10_p, adj_p_value, status; contrasts one after another, genes in order.
        """
        if names not in ("flashmm", "pertpy"):
            raise InputError(f"names must be 'flashmm' or 'pertpy'; found {names!r}.")
        wanted = frame_columns(intervals, bool((self.df_num > 1).any()))
        columns = {name: getattr(self, name) for name in wanted}
        labels = {} if self.within is None else {self.within: self.levels}
        labels["contrast"] = self.contrast_names
        frame = pd.DataFrame(tidy(self.genes, labels, columns))
        if shrink and not details:
            raise InputError("shrink=True goes with details=True: it shrinks their fold changes.")
        if details:
            if self.tested is None:
                raise InputError("details=True needs the fit behind the tests; there is none.")
            options = {"level": self.level, "shrink": shrink}
            columns = detail_columns(self.tested, self.contrasts, self.levels, options)
            adjusted = adjust_p_values(self.p_value.T.ravel())
            frame = frame.assign(**columns, adj_p_global=adjusted)
        return frame if names == "flashmm" else frame.rename(columns=_pertpy_names(details))

    @checked
    def found(self, fdr: float = 0.05) -> pd.Index:
        """The genes found: those with an adjusted p-value up to `fdr` in any of the tests."""
        if not (is_number(fdr) and 0 < fdr < 1):
            raise InputError(f"fdr is a rate between 0 and 1, such as 0.05; found {fdr!r}.")
        with np.errstate(invalid="ignore"):
            hits: np.ndarray = np.any(self.adj_p_value <= fdr, axis=1)
        return self.genes[hits]

    @checked
    def top(
        self,
        n: int = 10,
        contrast: str | None = None,
        level: str | None = None,
        *,
        details: bool = False,
    ) -> pd.DataFrame:
        """The tests with the smallest p-values.

        Parameters
        ----------
        n : int
            How many.
        contrast, level : str, optional
            Only those of a contrast, or of a level of `within`.
        details : bool
            As in `to_frame`.
        """
        frame = self.to_frame(details=details)
        chosen = {"contrast": contrast, self.within or "level": level}
        for column, name in chosen.items():
            if name is None:
                continue
            known = [] if column not in frame else list(dict.fromkeys(frame[column]))
            if name not in known:
                argument = "contrast" if column == "contrast" else "level"
                raise InputError(
                    f"{argument}: {name!r} is not in the table{did_you_mean(str(name), known)} It "
                    f"has {listed(known)}."
                )
            frame = frame[frame[column] == name]
        order = ["log10_p", "p_value"]
        return frame.sort_values(order, kind="stable", na_position="last").head(n)

    def wide(self, *values: str) -> pd.DataFrame:
        """One row per gene, a column per test; several values make columns of two levels.

        Parameters
        ----------
        *values : str
            Columns of `to_frame`; by default "estimate".
        """
        wanted = values or ("estimate",)
        frame = self.to_frame(intervals=True, details=not set(wanted) <= set(frame_columns(True)))
        lacking = [name for name in wanted if name not in frame]
        if lacking:
            raise InputError(f"values: {listed(lacking)} is not a column; choose {listed(frame)}.")
        labels = ["contrast"] if self.within is None else [self.within, "contrast"]
        if self.within is not None and len(set(self.contrast_names)) == 1:
            labels = [self.within]
        # tests one after another, genes in their order
        tests = frame[labels].astype(str).agg(", ".join, axis=1)[:: len(self.genes)]
        shape = len(self.contrasts), len(self.genes)
        columns = {
            (name, test): values
            for name in wanted
            for test, values in zip(tests, frame[name].to_numpy().reshape(shape), strict=True)
        }
        table = pd.DataFrame(columns, index=self.genes.rename("gene"))
        return table if len(wanted) > 1 else table.droplevel(0, axis=1)

    def facts(self) -> dict[str, str]:
        """Genes found by test, and how they were tested."""
        with np.errstate(invalid="ignore"):
            hits = (self.adj_p_value <= 0.05).sum(0)
        names = self.contrast_names
        if self.within is not None:
            names = tuple(f"{a}: {b}" for a, b in zip(self.levels, names, strict=True))
        shown = dict(zip(names[:12], (f"{n} genes found" for n in hits), strict=False))
        return {"test": f"{self.ddf}, {self.alternative}", **shown}

    def preview(self) -> pd.DataFrame:
        """The tests with the smallest p-values."""
        return self.top(5)

    def __repr__(self) -> str:
        return (
            f"TestTable({len(self.genes)} genes × {len(self.contrasts)} contrasts, {self.ddf}, "
            f"{self.alternative}: {len(self.found())} genes found at a false discovery rate of 5%)"
        )


def _pertpy_names(details: bool) -> dict[str, str]:
    """Pertpy's names; its log fold change is that of the counts, where it is there."""
    if not details:
        return PERTPY_NAMES
    return {k: v for k, v in PERTPY_NAMES.items() if k != "estimate"} | {"log2_fc": "log_fc"}


def frame_columns(intervals: bool = False, joint: bool = False) -> tuple[str, ...]:
    """Tidy columns of tests, behind gene and contrast: with limits, with numerator df."""
    limits = ("conf_low", "conf_high") if intervals else ()
    t_test = ("estimate", "std_error", *limits, "statistic", "df")
    df_num = ("df_num",) if joint else ()
    return (*t_test, *df_num, "p_value", "log10_p", "adj_p_value", "status")
