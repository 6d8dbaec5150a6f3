"""Leave out one subject at a time: tests without a model of the variance, influential subjects.

With the components held, the estimate without subject i is generalised least squares of the other
cells. The variance of a contrast is (m - 1)/m Σ_i (c'β̂_(-i) - c'β̂)², the sandwich CR3 of clusters.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from flashmm.design.derived import leave_groups, take_genes
from flashmm.design.differences import contrasts_of
from flashmm.inference.ddf import row_methods, row_tests
from flashmm.inference.jackknife import stays_estimable
from flashmm.inference.subjects import Subjects, independent_subjects
from flashmm.inference.table import TestTable
from flashmm.inference.testing import contrast_tests
from flashmm.kernels.tails import t_tail
from flashmm.lmm import LMMFit, hold, refit
from flashmm.options import DesignError, InputError, Status, checked
from flashmm.shown import Shown

# Genes of an influence table that nobody has chosen.
TOP_GENES = 20


@checked
def jackknife(
    fit: LMMFit, contrasts: Any = None, refit: bool = False, alternative: str = "two-sided"
) -> TestTable:
    """Test contrasts with variances from leaving out one subject at a time.

    Parameters
    ----------
    fit : LMMFit
        A fit from groups whose random terms are nested in subjects.
    contrasts : optional
        As in `contrast_tests`.
    refit : bool
        Whether the variance components are estimated anew without each subject; else they are held
        (one step), which is many times cheaper and differs little.
    alternative : {"two-sided", "less", "greater"}
        Direction of the alternative of single contrasts.

    Returns
    -------
    TestTable
        As of ``contrast_tests(fit, contrasts, ddf="jackknife")``; df are those between
        subjects of the contrast (`between_df`); where it varies within subjects, the number of
        subjects minus the rank of the fixed effects that are constant within them. Joint tests are
        Hotelling's, with the fewest df of their rows.

    Raises
    ------
    InputError
        The fit has no groups, or a random term crosses the subjects.
    FormulaError, DesignError
        As `contrast_tests`.

    Notes
    -----
    The variance is CR3, deviations taken from the estimate with all subjects (Bell & McCaffrey
    2002; CV3 of MacKinnon, Nielsen & Webb 2023). It holds where the random part of the model is
    wrong, as long as subjects are independent: a subject intercept alone where subjects differ
    by cell type, for example. A contrast that one subject alone makes estimable has the status
    `too_few_subjects`.
    """
    return contrast_tests(fit, contrasts, "jackknife-refit" if refit else "jackknife", alternative)


@dataclass(frozen=True, eq=False)
class InfluenceTable(Shown):
    """What becomes of some tests without each subject.

    Attributes
    ----------
    estimate, std_error, p_value : (genes, contrasts) arrays
        With all subjects.
    estimate_without, p_without : (subjects, genes, contrasts) arrays
        The same without each subject; NaN where that cannot be estimated.
    dfbetas : (subjects, genes, contrasts) array
        Change of the estimate in standard errors: positive where the subject pulls it up.
    status : (subjects, genes, contrasts) array of str
        The gene's `Status`, or "too_few_subjects" where the rest cannot estimate the contrast.
    genes, subjects : pandas.Index
        Names.
    contrasts : tuple of str
        Names of the contrasts.
    column : str
        The column that names the subjects.
    ddf : str
        Degrees of freedom of the p-values.
    """

    estimate: np.ndarray
    std_error: np.ndarray
    p_value: np.ndarray
    estimate_without: np.ndarray
    p_without: np.ndarray
    dfbetas: np.ndarray
    status: np.ndarray
    genes: pd.Index
    subjects: pd.Index
    contrasts: tuple[str, ...]
    column: str
    ddf: str

    def to_frame(self) -> pd.DataFrame:
        """One row per contrast, gene and subject.

        Returns
        -------
        pandas.DataFrame
            Columns gene, contrast, subject, estimate, estimate_without, dfbetas, p_value,
            p_without, status; subjects vary fastest.
        """
        m, G, C = self.dfbetas.shape
        columns: dict[str, Any] = {
            "gene": np.tile(np.repeat(np.asarray(self.genes, dtype=object), m), C),
            "contrast": np.repeat(np.array(self.contrasts, dtype=object), G * m),
            "subject": np.tile(np.asarray(self.subjects, dtype=object), C * G),
        }
        for name in ("estimate", "estimate_without", "dfbetas", "p_value", "p_without", "status"):
            values = getattr(self, name)
            whole = np.broadcast_to(values, (m, G, C))
            columns[name] = whole.transpose(2, 1, 0).ravel()
        return pd.DataFrame(columns)

    def most_influential(self) -> pd.DataFrame:
        """The subject of each test without which its p-value is largest.

        Returns
        -------
        pandas.DataFrame
            One row per contrast and gene: the row of `to_frame` with the largest `p_without`;
            where no subject can be left out, its first row.
        """
        frame = self.to_frame()
        m = len(self.subjects)
        p = frame["p_without"].fillna(-1.0).to_numpy().reshape(-1, m)
        return frame.iloc[np.arange(len(p)) * m + p.argmax(1)].reset_index(drop=True)

    def carriers(self) -> pd.DataFrame:
        """Old name of `most_influential`."""
        warnings.warn(
            "InfluenceTable.carriers() is called most_influential() now",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.most_influential()

    def __repr__(self) -> str:
        return (
            f"InfluenceTable({len(self.genes)} genes × {len(self.contrasts)} contrasts without "
            f"each of {len(self.subjects)} {self.column}s)"
        )


@checked
def influence(
    fit: LMMFit,
    contrasts: Any = None,
    genes: Sequence[str] | None = None,
    ddf: str | None = None,
    refit: bool = False,
) -> InfluenceTable:
    """Say what becomes of tests when one subject is left out.

    Parameters
    ----------
    fit : LMMFit
        A fit from groups whose random terms are nested in subjects.
    contrasts : optional
        As in `contrast_tests`; single contrasts only.
    genes : sequence of str, optional
        Names of the genes; by default the 20 with the smallest p-value of any of the contrasts.
    ddf : {"kenward-roger-2", "kenward-roger", "satterthwaite", "residual"}, optional
        Degrees of freedom of the p-values; default as in `contrast_tests`.
    refit : bool
        Whether variance components are estimated anew without each subject; else they are held.

    Returns
    -------
    InfluenceTable
        Estimates and p-values without each subject, and the change in standard errors.

    Raises
    ------
    InputError
        The fit has no groups, a random term crosses the subjects, a gene is not in the fit, or a
        contrast is joint.
    FormulaError, DesignError
        As `contrast_tests`.
    """
    subjects = independent_subjects(fit.stats)
    if ddf not in (None, *row_methods()):
        raise InputError(
            f"ddf={ddf!r} does not go with leaving out subjects; choose one of "
            f"{', '.join(row_methods())} for the p-values of an influence table."
        )
    resolved = contrasts_of(contrasts, fit.coefficients, fit.coefficient_columns, fit.stats)
    joint = [contrast.name for contrast in resolved if len(contrast.matrix) > 1]
    if joint:
        raise InputError(
            f"An influence table is of single contrasts, and {joint[0]!r} is joint: it has no "
            "estimate that could change. Give its rows one by one."
        )
    chosen = None if genes is None else _numbers(fit.genes, genes)
    tests = contrast_tests(fit, contrasts, ddf)
    index = _leading(tests) if chosen is None else chosen
    rows = np.vstack([contrast.matrix for contrast in resolved])
    some = some_genes(fit, index)
    parts = [
        _without(some, subjects, subject, rows, tests.ddf, refit)
        for subject in range(len(subjects))
    ]
    estimate, p, estimable = (np.stack(values) for values in zip(*parts, strict=True))
    std_error = tests.std_error[index]
    few = ~estimable[:, None, :] & np.isfinite(tests.p_value[index])
    return InfluenceTable(
        estimate=tests.estimate[index],
        std_error=std_error,
        p_value=tests.p_value[index],
        estimate_without=estimate,
        p_without=p,
        dfbetas=(tests.estimate[index] - estimate) / std_error,
        status=np.where(few, str(Status.TOO_FEW_SUBJECTS), tests.status[index]),
        genes=tests.genes[index],
        subjects=subjects.names,
        contrasts=tests.contrast_names,
        column=subjects.column,
        ddf=tests.ddf,
    )


def _leading(tests: TestTable) -> np.ndarray:
    """Numbers of the genes with the smallest p-value of any contrast."""
    smallest = np.where(np.isfinite(tests.p_value), tests.p_value, 2.0).min(1)
    order = np.argsort(smallest, kind="stable")[:TOP_GENES]
    return order[smallest[order] <= 1.0]


def _numbers(known: pd.Index, genes: Sequence[str]) -> np.ndarray:
    """Numbers of the genes that were asked for."""
    names = [genes] if isinstance(genes, str) else list(genes)
    index = np.asarray(known.get_indexer(pd.Index(names)))
    if not len(index) or (index < 0).any():
        unknown = [name for name, at in zip(names, index, strict=True) if at < 0]
        raise InputError(
            f"genes: {len(unknown)} are not in the fit, such as {unknown[0]!r}."
            if unknown
            else "genes is an empty list; leave it out for the genes with the smallest p-values."
        )
    return index


def some_genes(fit: LMMFit, index: np.ndarray) -> LMMFit:
    """The fit of some genes, with the components of the fit of all."""
    names = ("coef", "theta", "fisher_information", "loglik", "status", "n_iter", "decrement")
    arrays = {name: getattr(fit, name)[index] for name in names}
    return replace(fit, **arrays, genes=fit.genes[index], stats=take_genes(fit.stats, index))


def _without(
    fit: LMMFit, subjects: Subjects, subject: int, rows: np.ndarray, ddf: str, refits: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimates and p-values (genes, C) without one subject, and which can be estimated."""
    stats = leave_groups(fit.stats, subjects.codes == subject)
    nothing = np.full((fit.n_genes, len(rows)), np.nan)
    usable = (rows[:, ~fit.model.kept] == 0).all(1)
    try:
        other = refit(stats, fit.options) if refits else hold(fit, stats)
    except DesignError:  # nothing is left that could be fitted
        return nothing, nothing, np.zeros(len(rows), dtype=bool)
    estimable = usable & stays_estimable(stats, fit.model.kept, other.model.kept, rows)
    tests = row_tests(other, rows, ddf)
    p = t_tail(tests["statistic"], tests["df"], "two-sided")[0]
    return np.where(estimable, tests["estimate"], np.nan), np.where(estimable, p, np.nan), estimable
