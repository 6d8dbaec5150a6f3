"""Competitive tests of gene sets: whether their statistics are larger than those of others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse, special

Array = np.ndarray


class SetStatistics(NamedTuple):
    """Differences of mean statistics (sets,) and their t statistics, with genes - 2 df."""

    difference: Array
    statistic: Array


def normal_scores(log10_p: Array, sign: Array) -> Array:
    """Turn two-sided p-values and directions into normal scores of the same p-value.

    Parameters
    ----------
    log10_p : array
        Logarithms of p, for which no p-value is too small.
    sign : array
        Direction of the effect, 1 or -1.

    Returns
    -------
    array
        z with P(|Z| > |z|) = p.
    """
    return -sign * special.ndtri_exp(log10_p * np.log(10.0) - np.log(2.0))


def set_statistics(z: Array, members: sparse.csr_array, correlation: Array) -> SetStatistics:
    """Two-sample t statistics with the variance of the sets' means inflated by correlation.

    Parameters
    ----------
    z : (genes,) array
        Statistics of genes, one scale for all.
    members : (sets, genes) sparse array
        Ones where a gene belongs to a set; a set has at least one gene and leaves one out.
    correlation : (sets,) array
        Mean correlation of the statistics of two genes of a set.

    Returns
    -------
    SetStatistics

    Notes
    -----
    Wu & Smyth (2012), Nucleic Acids Research 40:e133. With m genes in the set and m₂ outside, the
    variance of their mean is s² VIF/m, VIF = 1 + (m - 1)ρ, where s² is the pooled variance.
    """
    n_genes = len(z)
    inside = members.sum(1)
    outside = n_genes - inside
    mean = members @ z / inside
    difference = mean - (z.sum() - members @ z) / outside
    # within both samples: all squares, without those between the two means
    between = difference**2 * inside * outside / n_genes
    pooled = (((z - z.mean()) ** 2).sum() - between) / (n_genes - 2)
    inflation = 1 + (inside - 1) * correlation
    error = np.sqrt(pooled * (inflation / inside + 1 / outside))
    return SetStatistics(difference, difference / error)


def set_correlations(residuals: Array, members: sparse.csr_array) -> Array:
    """Estimate the mean correlation of two genes of each set from independent residuals.

    Parameters
    ----------
    residuals : (d, genes) array
        Independent residual effects: residuals on an orthonormal basis of what X leaves.
    members : (sets, genes) sparse array
        Ones where a gene belongs to a set.

    Returns
    -------
    (sets,) array
        (VIF - 1)/(m - 1), not below zero, where VIF is m times the mean square of the set's mean of
        residuals that are scaled to one per gene; zero for sets of one gene.
    """
    size = np.sqrt((residuals**2).mean(0))
    scaled = residuals / np.where(size > 0, size, 1.0)
    inside = members.sum(1)
    means = members @ scaled.T / inside[:, None]
    inflation = inside * (means**2).mean(1)
    return np.maximum(inflation - 1, 0.0) / np.maximum(inside - 1, 1)
