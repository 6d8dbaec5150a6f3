"""Tests of gene sets on the statistics of a table, with correlation between genes (camera)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from flashmm.inference.adjustment import adjust_p_values
from flashmm.inference.table import TestTable
from flashmm.kernels import gene_sets as kernel
from flashmm.kernels.tails import t_tail
from flashmm.lmm import LMMFit
from flashmm.names import listed
from flashmm.options import InputError, checked, is_number
from flashmm.within import FitsWithin

# What most sets of co-regulated genes have between subjects (limma's preset).
CORRELATION = 0.01

TOO_FEW = "too_few_genes"


@checked
def gene_set_tests(
    table: TestTable,
    sets: Mapping[str, Collection[str]],
    *,
    correlation: float | str = CORRELATION,
    min_genes: int = 5,
) -> pd.DataFrame:
    """Test whether the genes of a set change more, in one direction, than the other genes.

    Parameters
    ----------
    table : TestTable
        Two-sided tests of single contrasts; of several levels or contrasts each is taken by itself.
    sets : mapping of str to collection of str
        Name of each set to its genes, such as `flashmm.read_gmt` returns; genes that were not
        tested are left out.
    correlation : float or "estimated"
        Mean correlation between the genes of a set. The default keeps the level of sets that are
        little co-expressed; sets of co-expressed genes need about 0.05. "estimated" takes it, set
        by set, from the residuals of the means of the groups, and is conservative.
    min_genes : int
        The number of tested genes that a set needs.

    Returns
    -------
    pandas.DataFrame
        One row per contrast and set: gene_set, (the column of the levels,) contrast, n_genes,
        correlation, difference (of the mean normal score inside and outside the set), statistic,
        df, p_value (two-sided), adj_p_value (per contrast, Benjamini-Hochberg), direction ("up" or
        "down"), status ("ok", or "too_few_genes", with NaN).

    Raises
    ------
    InputError
        No sets, joint or one-sided tests, a correlation outside [0, 1), `correlation="estimated"`
        without groups behind the tests or with no residual degree of freedom, none of the genes in
        any set.

    Notes
    -----
    Wu & Smyth (2012), Nucleic Acids Research 40:e133 (camera). Genes are ranked by normal scores of
    their p-values, so that different degrees of freedom do not matter. The df are those of the
    genes, or, where the correlation is estimated, of its residuals, if these are fewer.
    """
    _check(table, sets, correlation, min_genes)
    members = _members(table.genes, sets)
    if not members.nnz:
        raise InputError(
            f"sets: none of their genes is among the {len(table.genes)} genes of the table, which "
            f"are called {listed(map(str, table.genes), 3)}; use the same kind of names."
        )
    frames = []
    for k, contrast in enumerate(table.contrast_names):
        labels: dict[str, Any] = {"gene_set": list(sets)}
        if table.within is not None:
            labels[table.within] = table.levels[k]
        labels["contrast"] = contrast
        found = _tests_of_contrast(table, k, members, correlation, min_genes)
        frames.append(pd.DataFrame(labels | found))
    return pd.concat(frames, ignore_index=True)


def _check(
    table: TestTable, sets: Mapping[str, Collection[str]], correlation: float | str, min_genes: int
) -> None:
    if not sets:
        raise InputError("sets is a mapping of names to genes with at least one set.")
    if (table.df_num > 1).any():
        raise InputError("Joint tests have no direction: give a table of single contrasts.")
    if table.alternative != "two-sided":
        raise InputError(
            f"The tests are one-sided ({table.alternative!r}), which tells effects of the other "
            "direction apart from none no more: give a table of two-sided tests."
        )
    if correlation != "estimated" and not (is_number(correlation) and 0 <= correlation < 1):
        raise InputError(
            f"correlation is from 0 to below 1, or 'estimated'; found {correlation!r}."
        )
    if not is_number(min_genes) or min_genes < 1:
        raise InputError(f"min_genes is a number of genes from 1 on; found {min_genes!r}.")


def _members(genes: pd.Index, sets: Mapping[str, Collection[str]]) -> sparse.csr_array:
    """Ones where a gene belongs to a set, (sets, genes)."""
    columns = [np.flatnonzero(genes.isin(list(chosen))) for chosen in sets.values()]
    sizes = [0, *(len(found) for found in columns)]
    values = np.concatenate(columns)
    return sparse.csr_array(
        (np.ones(len(values)), values, np.cumsum(sizes)), shape=(len(sets), len(genes))
    )


def _tests_of_contrast(
    table: TestTable, k: int, members: sparse.csr_array, correlation: float | str, min_genes: int
) -> dict[str, np.ndarray]:
    """Columns of all sets for one contrast."""
    tested = np.isfinite(table.log10_p[:, k])
    n_genes = members[:, tested].sum(1).astype(int)
    # a set of all genes has no others to be compared with; s² needs three genes
    fine = (n_genes >= min_genes) & (n_genes < tested.sum()) & (tested.sum() > 2)
    columns = ("correlation", "difference", "statistic", "df", "p_value")
    numbers = {name: np.full(len(n_genes), np.nan) for name in columns}
    if fine.any():
        chosen = members[fine][:, tested]
        rho, df = np.full(chosen.shape[0], correlation), tested.sum() - 2.0
        if correlation == "estimated":
            residuals = _residuals(table, k)[:, tested]
            rho, df = kernel.set_correlations(residuals, chosen), min(df, len(residuals))
        z = kernel.normal_scores(table.log10_p[tested, k], np.sign(table.estimate[tested, k]))
        found = kernel.set_statistics(z, chosen, rho)
        p = t_tail(found.statistic, np.full(len(rho), df), "two-sided")[0]
        for name, values in zip(columns, (rho, *found, df, p), strict=True):
            numbers[name][fine] = values
    direction = np.where(numbers["difference"] > 0, "up", "down").astype(object)
    direction[~fine] = None
    return {
        "n_genes": n_genes,
        **numbers,
        "adj_p_value": adjust_p_values(numbers["p_value"]),
        "direction": direction,
        "status": np.where(fine, "ok", TOO_FEW).astype(object),
    }


def _residuals(table: TestTable, k: int) -> np.ndarray:
    """Means of the groups on an orthonormal basis of what the fixed effects leave, (d, genes)."""
    fit = table.tested
    if isinstance(fit, FitsWithin):
        fit = fit.fits[table.levels[k]]
    source = fit.stats.source if isinstance(fit, LMMFit) else None
    if source is None:
        raise InputError(
            "correlation='estimated' needs the groups behind the tests; give a number."
        )
    groups, fixed = source.groups, source.design.fixed
    n_cells = groups.moment(0, 0)
    # Σ_k fixed[k] · mean of x_k in the group
    X = sum(part * (groups.moment(i, 0) / n_cells)[:, None] for i, part in enumerate(fixed))
    left, size, _ = np.linalg.svd(X)
    rank = int((size > size[0] * len(X) * np.finfo(float).eps).sum())
    if rank == len(X):
        raise InputError(
            f"correlation='estimated' needs more groups than fixed effects; there are {rank} each."
        )
    return left[:, rank:].T @ (groups.totals() / n_cells[:, None])
