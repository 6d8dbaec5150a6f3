"""What each part of the model explains of the variance of the cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from flashmm.design.centring import to_centred
from flashmm.design.statistics import SummaryStatistics
from flashmm.inference.tidy import tidy
from flashmm.kernels.random_covariance import RandomCovariance
from flashmm.lmm import LMMFit
from flashmm.options import InputError, checked
from flashmm.shown import Shown


@dataclass(frozen=True, eq=False)
class VarianceExplained(Shown):
    """What each part of the model explains of the variance of the cells, per gene.

    Attributes
    ----------
    fixed : (genes, terms) array
        Variance over the cells of the columns of a fixed term times their estimates.
    fixed_total : (genes,) array
        Variance over the cells of Xβ̂; terms that are correlated do not add up to it.
    random : (genes, K) array
        Expected variance over the cells of Z_k b_k; negative components count as zero. That of a
        covariance is twice the covariance over the cells of the two terms before it.
    residual : (genes,) array
        σ̂².
    r2_marginal, r2_conditional : (genes,) arrays
        R² of Nakagawa & Schielzeth (2013): of the fixed effects, and of fixed and random effects.
    status : (genes,) array of str
        One `Status` per gene; numbers are NaN where the fit cannot be used.
    genes : pandas.Index
        Names of the genes.
    terms, components : tuple of str
        Names of the fixed terms, and of the components without the residual.
    """

    fixed: np.ndarray
    fixed_total: np.ndarray
    random: np.ndarray
    residual: np.ndarray
    r2_marginal: np.ndarray
    r2_conditional: np.ndarray
    status: np.ndarray
    genes: pd.Index
    terms: tuple[str, ...]
    components: tuple[str, ...]

    @property
    def total(self) -> np.ndarray:
        """Variance of all parts together, (genes,)."""
        return self.fixed_total + self.random.sum(1) + self.residual

    def to_frame(self) -> pd.DataFrame:
        """One row per part and gene.

        Returns
        -------
        pandas.DataFrame
            Columns gene, part ("fixed", "fixed total", "random", "residual"), term, variance,
            fraction (of the sum of fixed total, random and residual), status; parts one after
            another, genes in their order.
        """
        parts = (
            [("fixed", term) for term in self.terms]
            + [("fixed total", "fixed")]
            + [("random", name) for name in self.components]
            + [("residual", "residual")]
        )
        variance = np.column_stack([self.fixed, self.fixed_total, self.random, self.residual])
        labels = {"part": [part for part, _ in parts], "term": [term for _, term in parts]}
        columns = {
            "variance": variance,
            "fraction": variance / self.total[:, None],
            "status": np.repeat(self.status[:, None], len(parts), axis=1),
        }
        return pd.DataFrame(tidy(self.genes, labels, columns))

    def r2_to_frame(self) -> pd.DataFrame:
        """One row per gene: gene, r2_marginal, r2_conditional, status."""
        names = ("r2_marginal", "r2_conditional", "status")
        return pd.DataFrame(
            {"gene": np.asarray(self.genes, dtype=object)} | {n: getattr(self, n) for n in names}
        )

    def __repr__(self) -> str:
        return (
            f"VarianceExplained({len(self.genes)} genes: fixed {', '.join(self.terms)}; random "
            f"{', '.join(self.components)})"
        )


@checked
def variance_explained(
    fit: LMMFit, terms: Mapping[str, str | Sequence[str]] | None = None
) -> VarianceExplained:
    """Divide the variance of the cells among the parts of the model.

    Parameters
    ----------
    fit : LMMFit
        The fitted models.
    terms : mapping of str to sequence of str, optional
        Names of fixed parts and the coefficients that each holds; by default the terms of the
        formula, or each coefficient where the design is a matrix. The intercept explains nothing
        and is left out.

    Returns
    -------
    VarianceExplained
        `to_frame()` makes it tidy.

    Raises
    ------
    InputError
        A coefficient that is not in the fit, or statistics without the sums of X and Z.

    Notes
    -----
    With centred cross-products G = X'X - X'11'X/n, a term j explains β_j'G_jj β_j/(n - 1), all
    fixed effects β'Gβ/(n - 1), and component k σ²_k (tr Z_k'Z_k - |Z_k'1|²/n)/(n - 1), a covariance
    2σ_12 (tr Z_1'Z_2 - 1'Z_1Z_2'1/n)/(n - 1). Nakagawa's
    R² takes σ²_k tr(Z_k'Z_k)/n for it, as Johnson (2014) does for slopes. All are plug-in values:
    the variance of Xβ̂ holds the estimation error of β̂ too, which few subjects make large.
    """
    stats = fit.stats
    if stats.X_sum is None or stats.Z_sum is None:
        raise InputError(
            "variance_explained needs the column sums of X and Z (X_sum, Z_sum), which these "
            "statistics do not have; make them with summary_statistics_from_matrices."
        )
    groups = _term_positions(fit, terms)
    n = stats.n_cells
    beta = np.where(fit.estimable, fit.coef, 0.0)
    beta[~fit.fitted] = np.nan
    gram = stats.XtX - np.outer(stats.X_sum, stats.X_sum) / n
    back = to_centred(np.eye(len(gram)), stats.centring)
    of_columns = back @ gram @ back.T

    def explained(columns: list[int]) -> np.ndarray:
        part = beta[:, columns]
        return np.einsum("gp,pq,gq->g", part, of_columns[np.ix_(columns, columns)], part) / (n - 1)

    signed = np.append(np.array(stats.component_sizes) == 0, False)
    theta = np.where(signed, fit.theta, np.maximum(fit.theta, 0.0))
    theta[~fit.fitted] = np.nan
    diagonals, random = mean_diagonals(stats), RandomCovariance(stats.component_sizes)
    centred = diagonals * n - random.squares(stats.Z_sum[None])[0] / n
    moved = to_centred(beta, stats.centring)
    total = np.einsum("gp,pq,gq->g", moved, gram, moved) / (n - 1)
    effects = theta[:, :-1] @ diagonals
    whole = total + effects + theta[:, -1]
    return VarianceExplained(
        fixed=np.column_stack([explained(columns) for columns in groups.values()])
        if groups
        else np.empty((fit.n_genes, 0)),
        fixed_total=total,
        random=theta[:, :-1] * centred / (n - 1),
        residual=theta[:, -1],
        r2_marginal=total / whole,
        r2_conditional=(total + effects) / whole,
        status=fit.status,
        genes=fit.genes,
        terms=tuple(groups),
        components=fit.components[:-1],
    )


def _term_positions(fit: LMMFit, terms: Mapping[str, Sequence[str]] | None) -> dict[str, list[int]]:
    """Columns of X of each fixed term, in the order of the design."""
    if terms is not None:
        return {name: _coefficient_positions(fit, name, held) for name, held in terms.items()}
    found: dict[str, list[int]] = {}
    for j, term in enumerate(fit.stats.coefficient_terms or fit.coefficients):
        if term not in ("1", "Intercept", "(Intercept)"):
            found.setdefault(term, []).append(j)
    return found


def _coefficient_positions(fit: LMMFit, term: str, held: Sequence[str]) -> list[int]:
    names = [held] if isinstance(held, str) else list(held)
    unknown = [name for name in names if name not in fit.coefficients]
    if unknown or not names:
        raise InputError(
            f"terms: {term!r} names {', '.join(map(repr, unknown)) or 'no coefficient'}; the "
            f"coefficients are {list(fit.coefficients)}."
        )
    return [fit.coefficients.index(name) for name in names]


def mean_diagonals(stats: SummaryStatistics) -> np.ndarray:
    """Mean diagonal of ZD_kZ' over the cells, tr(Z_k'Z_k)/n, (K,): one for groupings."""
    return RandomCovariance(stats.component_sizes).shared_traces(stats.ZtZ) / stats.n_cells
