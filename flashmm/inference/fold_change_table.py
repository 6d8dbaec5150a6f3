"""The record of log2 fold changes, and its tidy columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from flashmm.design.contrasts import Contrast
from flashmm.inference.comparison import Comparison

# Fields with a value for each gene and contrast.
BY_GENE = (
    *("log2_fc", "std_error", "df", "log2_fc_low", "log2_fc_high"),
    *("mean_expression", "fraction_expressing", "shrunken", "shrunken_sd", "false_sign_rate"),
)


@dataclass(frozen=True, eq=False)
class FoldChanges:
    """Log2 fold changes of contrasts for every gene, with what they rest on.

    Attributes
    ----------
    log2_fc, std_error, df : (genes, contrasts) arrays
        Log2 of the ratio of expected counts at equal library size, its standard error and degrees
        of freedom. NaN where there is none (`notes`), for joint contrasts, and for genes without
        counts.
    log2_fc_low, log2_fc_high : (genes, contrasts) arrays
        Confidence limits at `level`; NaN where one subject decides the contrast alone.
    mean_expression : (genes, contrasts) array
        Mean count of the cells that are compared; of all cells where no two levels are.
    fraction_expressing : (genes, contrasts) array
        Share of these cells with a count above zero; NaN where the groups do not know it.
    n_subjects : (contrasts,) array
        Subjects with such cells.
    fraction_by_level : dict of str to (genes, contrasts) array
        Fractions of the cells of each level; NaN for contrasts that do not compare it.
    subjects_by_level : dict of str to (contrasts,) array
        Subjects with cells of each level.
    comparisons : tuple of (Comparison or None)
        What each contrast compares; None where it is no difference of two levels of a column.
    contrasts : tuple of Contrast
        The contrasts.
    genes : pandas.Index
        Names of the genes.
    shrunken, shrunken_sd, false_sign_rate : (genes, contrasts) arrays or None
        Posterior mean and sd of log2 fold changes and the probability that their sign is another,
        from a normal mixture over the genes of a contrast; None unless asked for.
    level : float
        Coverage of the intervals.
    notes : tuple of str
        What was decided for the user.
    """

    log2_fc: np.ndarray
    std_error: np.ndarray
    df: np.ndarray
    log2_fc_low: np.ndarray
    log2_fc_high: np.ndarray
    mean_expression: np.ndarray
    fraction_expressing: np.ndarray
    n_subjects: np.ndarray
    fraction_by_level: dict[str, np.ndarray]
    subjects_by_level: dict[str, np.ndarray]
    comparisons: tuple[Comparison | None, ...]
    contrasts: tuple[Contrast, ...]
    genes: pd.Index
    shrunken: np.ndarray | None = None
    shrunken_sd: np.ndarray | None = None
    false_sign_rate: np.ndarray | None = None
    level: float = 0.95
    notes: tuple[str, ...] = ()

    def columns(self) -> dict[str, np.ndarray]:
        """Columns of a tidy table: contrasts one after another, genes in their order.

        Returns
        -------
        dict of str to (contrasts · genes,) array
            `comparison` (text, empty where no two levels are compared), `log2_fc`, its limits and,
            where asked for, `log2_fc_shrunken`, `log2_fc_sd` and `false_sign_rate`; then
            `mean_expression`, `fraction_expressing` and ``fraction_expressing[level]``,
            `n_subjects` and ``n_subjects[level]``.
        """
        n_genes = len(self.genes)
        texts = ["" if c is None else c.text for c in self.comparisons]
        shrunken = {
            "log2_fc_shrunken": self.shrunken,
            "log2_fc_sd": self.shrunken_sd,
            "false_sign_rate": self.false_sign_rate,
        }
        by_gene = {
            "log2_fc": self.log2_fc,
            "log2_fc_low": self.log2_fc_low,
            "log2_fc_high": self.log2_fc_high,
            **{name: values for name, values in shrunken.items() if values is not None},
            "mean_expression": self.mean_expression,
            "fraction_expressing": self.fraction_expressing,
            **{f"fraction_expressing[{k}]": v for k, v in self.fraction_by_level.items()},
        }
        by_contrast = {
            "n_subjects": self.n_subjects,
            **{f"n_subjects[{level}]": n for level, n in self.subjects_by_level.items()},
        }
        return {
            "comparison": np.repeat(np.array(texts, dtype=object), n_genes),
            **{name: values.T.ravel() for name, values in by_gene.items()},
            **{name: np.repeat(values, n_genes) for name, values in by_contrast.items()},
        }

    def without_numbers(self) -> FoldChanges:
        """NaN for the same contrasts, such as of a level of cells without a fit."""
        nothing, n = np.full(self.log2_fc.shape, np.nan), np.full(len(self.contrasts), np.nan)
        blank: dict[str, Any] = {
            name: nothing for name in BY_GENE if getattr(self, name) is not None
        }
        return replace(
            self,
            **blank,
            n_subjects=n,
            fraction_by_level={},
            subjects_by_level={},
            comparisons=(None,) * len(self.contrasts),
            notes=(),
        )


def beside(parts: Sequence[FoldChanges], notes: tuple[str, ...]) -> FoldChanges:
    """Put the contrasts of several records of the same genes beside each other."""
    first = parts[0]
    names = list(dict.fromkeys(name for part in parts for name in part.subjects_by_level))
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts], axis=1)
        for name in BY_GENE
        if getattr(first, name) is not None
    }
    return replace(
        first,
        **joined,
        n_subjects=np.concatenate([part.n_subjects for part in parts]),
        fraction_by_level=_by_level(parts, "fraction_by_level", names),
        subjects_by_level=_by_level(parts, "subjects_by_level", names),
        comparisons=tuple(c for part in parts for c in part.comparisons),
        contrasts=tuple(c for part in parts for c in part.contrasts),
        notes=notes,
    )


def _by_level(
    parts: Sequence[FoldChanges], field: str, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Arrays by level, NaN for the contrasts of parts that do not have the level."""
    like = {"fraction_by_level": "log2_fc", "subjects_by_level": "n_subjects"}[field]
    blank = [np.full(getattr(part, like).shape, np.nan) for part in parts]
    return {
        name: np.concatenate(
            [getattr(p, field).get(name, none) for p, none in zip(parts, blank, strict=True)], -1
        )
        for name in names
    }
