"""What a fitted model says about studies of other sizes: who replicates, and with which variances.

A planned study has n subjects in each of two conditions, or n subjects in both, and as many cells
of each as is asked for. Given the variance between subjects of a cell of it, the estimate of the
difference has a variance that needs no design matrix.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import special

from flashmm.design.contrasts import Contrast
from flashmm.inference.between_subjects import SubjectDesign
from flashmm.inference.comparison import Comparison, compared_levels
from flashmm.inference.subjects import require_groups
from flashmm.lmm import LMMFit
from flashmm.names import listed
from flashmm.options import DesignError, InputError

# Multiples of it, modulo one, spread evenly in any order.
GOLDEN = (np.sqrt(5) - 1) / 2


@dataclass(frozen=True, eq=False)
class PlannedDesign:
    """The kind of study that a contrast of a fit is a pilot of.

    Attributes
    ----------
    comparison : Comparison
        The two levels.
    subject : str
        The column that names the subjects.
    paired : bool
        Whether subjects have both levels.
    between, within : (K,) bool arrays
        Random terms that are constant in a subject's cells of both levels, and those that are not.
    other_df : int
        Degrees of freedom that other fixed effects take from those between the units.
    cells : float
        Mean number of cells of a unit: a subject, or a subject in one condition.
    cells_cv : float
        Coefficient of variation of these numbers.
    """

    comparison: Comparison
    subject: str
    paired: bool
    between: np.ndarray
    within: np.ndarray
    other_df: int
    cells: float
    cells_cv: float

    @classmethod
    def of(cls, fit: LMMFit, contrast: Contrast) -> PlannedDesign:
        """Read it from a fit.

        Raises
        ------
        InputError
            The fit has no groups behind it.
        DesignError
            The contrast is no difference of two levels, or a random term is not one of subjects, or
            of subjects in a condition.
        """
        groups, design = require_groups(fit.stats, "Power")
        comparison = compared_levels(fit, contrast)
        if comparison is None:
            raise DesignError(
                f"contrast {contrast.name!r} is no difference between two levels of a column, and "
                "power is that of such a difference: give (column, level, reference)."
            )
        seen = SubjectDesign.of(fit)
        assert seen is not None  # there are groups
        paired, subject = seen.main.varies_within(contrast.matrix), seen.subjects.column
        within = np.array([comparison.column in term.columns for term in design.random])
        odd = [t.name for t in design.random if subject not in t.columns or "|" in t.name]
        if odd:
            raise DesignError(
                f"Power knows random terms of {subject!r} and of {subject}:{comparison.column}; "
                f"this model has {listed(odd)}. Fit one model per cell type (within=) with those."
            )
        units = [subject, comparison.column] if paired else [subject]
        rows = groups.obs[comparison.groups]
        n_cells = rows.groupby(units, observed=True)["n_cells"].sum().to_numpy(float)
        left = seen.within_df(contrast.matrix) if paired else seen.between_df(contrast.matrix)
        n_subjects = rows[subject].nunique()
        most = _pairs(rows, subject, comparison.column) - 1 if paired else n_subjects - 2
        return cls(
            comparison,
            subject,
            paired,
            ~within,
            within,
            int(max(most - left, 0)) if np.isfinite(left) else 0,
            float(n_cells.mean()),
            float(n_cells.std() / n_cells.mean()),
        )

    def as_paired(self, paired: bool | None) -> PlannedDesign:
        """The same variances in the other kind of study, where that is asked for."""
        if paired is None or paired == self.paired:
            return self
        if paired:
            raise InputError(
                f"paired=True: the subjects of this fit have one {self.comparison.column} each, so "
                "it does not know how differences vary between subjects."
            )
        return replace(self, paired=False, other_df=0)

    def df(self, n: int) -> int:
        """Degrees of freedom with n pairs, or n subjects in each of two arms."""
        return (n - 1 if self.paired else 2 * n - 2) - self.other_df

    def variance(self, ratio: np.ndarray, n: int, cells: float, cells_cv: float) -> np.ndarray:
        """Variance of the difference relative to the residual variance.

        Parameters
        ----------
        ratio : (..., K) array
            Random terms relative to the residual variance.
        n : int
            Pairs, or subjects in each arm.
        cells, cells_cv : float
            Mean and coefficient of variation of the cells of a unit.

        Returns
        -------
        (...) array
        """
        noise = 1.0 / cells_of_units(n, cells, cells_cv)
        if self.paired:
            # the numbers of cells of a pair are as if independent
            noise = (noise + noise[np.argsort(np.arange(n) * GOLDEN % 1)]) / 2
        apart = ratio @ (self.within if self.paired else self.between | self.within).astype(float)
        # weights of generalised least squares: var = 2 / Σ_i 1/(σ²_b + σ²/m_i)
        return np.asarray(2.0 / (1.0 / (apart[..., None] + noise)).sum(-1))


def cells_of_units(n: int, mean: float, cv: float) -> np.ndarray:
    """Numbers of cells of n units, at quantiles of a log-normal distribution, (n,), at least one.

    Their mean is `mean` whatever the n, and they are the less even the larger `cv` is.
    """
    # CV² = exp(s²) - 1
    s = np.sqrt(np.log1p(cv**2))
    weights = np.exp(s * special.ndtri((np.arange(n) + 0.5) / n))
    return np.asarray(np.maximum(mean * weights / weights.mean(), 1.0))


def _pairs(rows: pd.DataFrame, subject: str, column: str) -> int:
    """Subjects with both levels."""
    return int((rows.groupby(subject, observed=True)[column].nunique() > 1).sum())
