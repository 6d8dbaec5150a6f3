"""The table of tests, and p-values adjusted for the number of genes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from flashmm.design.contrasts import Contrast
from flashmm.options import InputError

# Names of the tidy columns in the words of pertpy's linear models.
PERTPY_NAMES = {"gene": "variable", "estimate": "log_fc", "std_error": "sd", "statistic": "t_value"}


@dataclass(frozen=True, eq=False)
class TestTable:
    """Tests of contrasts for every gene.

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

    @property
    def contrast_names(self) -> tuple[str, ...]:
        """Names of the contrasts."""
        return tuple(contrast.name for contrast in self.contrasts)

    def to_frame(self, names: str = "flashmm", *, intervals: bool = False) -> pd.DataFrame:
        """One row per contrast and gene.

        Parameters
        ----------
        names : {"flashmm", "pertpy"}
            Column names: the package's own, or those of pertpy's linear models.
        intervals : bool
            Whether to have the confidence limits beside the standard errors.

        Returns
        -------
        pandas.DataFrame
            Columns gene, contrast, estimate, std_error, (conf_low, conf_high,) statistic, df,
            (df_num, if any test is joint,) p_value, log10_p, adj_p_value, status; contrasts one
            after another, genes in their order.
        """
        if names not in ("flashmm", "pertpy"):
            raise InputError(f"names must be 'flashmm' or 'pertpy'; found {names!r}.")
        G, C = self.p_value.shape
        columns: dict[str, Any] = {
            "gene": np.tile(np.asarray(self.genes, dtype=object), C),
            "contrast": np.repeat(np.array(self.contrast_names, dtype=object), G),
        }
        limits = ("conf_low", "conf_high") if intervals else ()
        for name in ("estimate", "std_error", *limits, "statistic", "df"):
            columns[name] = getattr(self, name).T.ravel()
        if (self.df_num > 1).any():
            columns["df_num"] = np.repeat(self.df_num, G)
        for name in ("p_value", "log10_p", "adj_p_value", "status"):
            columns[name] = getattr(self, name).T.ravel()
        frame = pd.DataFrame(columns)
        return frame if names == "flashmm" else frame.rename(columns=PERTPY_NAMES)

    def __repr__(self) -> str:
        hits = int((self.adj_p_value < 0.05).sum())
        return (
            f"TestTable({len(self.genes)} genes × {len(self.contrasts)} contrasts, {self.ddf}, "
            f"{self.alternative}: {hits} with adjusted p < 0.05)"
        )


def adjust_p_values(p: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg adjusted p-values.

    Parameters
    ----------
    p : (tests,) array
        p-values; NaN are left out of the number of tests and stay NaN.

    Returns
    -------
    (tests,) array
        Adjusted p-values.
    """
    adjusted = np.full(len(p), np.nan)
    fine = np.isfinite(p)
    if fine.any():
        adjusted[fine] = multipletests(p[fine], method="fdr_bh")[1]
    return adjusted
