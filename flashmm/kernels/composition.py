"""Size factors of samples that a few changed genes do not move: trimmed means of M-values.

A sample s and a reference r, with counts y and library sizes N, differ in a gene by

    M = log2 (y_s/N_s) / (y_r/N_r),        A = ½ [log2 (y_s/N_s) + log2 (y_r/N_r)],

and log2 of the size factor of s is the mean of M over the genes that are left when the most extreme
ones in M and in A are cut off, weighted by the inverse of the (binomial) variance of M. The library
size times the factor is the effective library size: the one that a gene which does not change
follows (Robinson & Oshlack 2010, Genome Biology 11:R25; the details are those of edgeR's
`calcNormFactors(method = "TMM")`, whose numbers the tests hold).

Only genes with counts in both samples have an M-value, and a rare gene that has a count in a small
library is one that has too many there. So factors of small libraries are too large, the more so
the more rare genes there are. Without the genes of which a sample is expected to have fewer than
three counts (`expected`) nothing is left of this.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray

# Shares of the genes cut off at each end of M and of A.
TRIM_M = 0.3
TRIM_A = 0.05
# The reference is chosen by this quantile of the counts.
QUANTILE = 0.75
# Quantiles (as shares of the library) below this are zero; M-values below that are no difference.
_NO_COUNTS = 1e-20
_NO_DIFFERENCE = 1e-6


def tmm_factors(counts: Array, library_sizes: Array | None = None, expected: float = 0.0) -> Array:
    """Size factors by trimmed means of M-values.

    Parameters
    ----------
    counts : (samples, genes) array
        Raw counts, not negative.
    library_sizes : (samples,) array, optional
        Positive library sizes N; the totals of `counts` where they are not given.
    expected : float
        A sample is compared with the reference in the genes of which the smaller of the two
        libraries is expected to have at least so many counts; 0 takes all genes, as edgeR does.

    Returns
    -------
    (samples,) array
        Positive factors with geometric mean 1; all 1 for a single sample or without counts.
    """
    sizes = counts.sum(axis=1) if library_sizes is None else library_sizes
    counts = counts[:, counts.any(axis=0)]
    if min(counts.shape) == 0 or len(counts) == 1:
        return np.ones(len(counts))
    r = reference_sample(counts, sizes)
    share = pooled_share(counts, sizes)
    log_factors = np.zeros(len(counts))
    for s, (y, size) in enumerate(zip(counts, sizes, strict=True)):
        used = share * min(size, sizes[r]) >= expected
        log_factors[s] = _trimmed_mean(y[used], size, counts[r][used], sizes[r])
    return np.exp2(log_factors - log_factors.mean())


def pooled_share(counts: Array, library_sizes: Array) -> Array:
    """Share of each gene in the libraries of all samples together, Σ_s y_s / Σ_s N_s: (genes,)."""
    return counts.sum(axis=0) / library_sizes.sum()


def expected_genes(counts: Array, library_sizes: Array, expected: float) -> Array:
    """Count the genes of which each sample is expected to have `expected` counts: (samples,)."""
    falling = np.sort(pooled_share(counts, library_sizes))[::-1]
    # genes with share · N_s >= expected
    return np.searchsorted(-falling, -expected / library_sizes, side="right")


def reference_sample(counts: Array, library_sizes: Array) -> int:
    """Position of the sample whose upper quartile, as a share of its library, is nearest the mean.

    Parameters
    ----------
    counts : (samples, genes) array
        Genes without any count left out.
    library_sizes : (samples,) array
        Positive.

    Returns
    -------
    int
        The first of several. Where more than half of the upper quartiles are zero, the sample with
        the largest sum of square roots of counts.
    """
    quartiles = np.quantile(counts, QUANTILE, axis=1) / library_sizes
    if np.median(quartiles) < _NO_COUNTS:
        return int(np.argmax(np.sqrt(counts).sum(axis=1)))
    return int(np.argmin(np.abs(quartiles - quartiles.mean())))


def _trimmed_mean(y: Array, size: float, y_ref: Array, size_ref: float) -> float:
    """Weighted trimmed mean of the M-values of the genes that both samples have."""
    both = (y > 0) & (y_ref > 0)
    y, y_ref = y[both], y_ref[both]
    share, share_ref = y / size, y_ref / size_ref
    # M = log2 (y_s/N_s)/(y_r/N_r),  A = ½ (log2 y_s/N_s + log2 y_r/N_r)
    m = np.log2(share / share_ref)
    a = (np.log2(share) + np.log2(share_ref)) / 2
    if not (np.abs(m) >= _NO_DIFFERENCE).any():
        return 0.0
    kept = within_ranks(m, TRIM_M) & within_ranks(a, TRIM_A)
    if not kept.any():
        return 0.0
    # Var M ∝ (N_s - y_s)/(N_s y_s) + (N_r - y_r)/(N_r y_r)
    variance = (size - y) / size / y + (size_ref - y_ref) / size_ref / y_ref
    return float((m[kept] / variance[kept]).sum() / (1 / variance[kept]).sum())


def within_ranks(values: Array, share: float) -> Array:
    """Values that are left when a share of them is cut off at each end.

    Parameters
    ----------
    values : (n,) array
        Equal values have the mean of their ranks, so they stay or go together.
    share : float
        The ranks k .. n + 1 - k stay, k = ⌊n share⌋ + 1.

    Returns
    -------
    (n,) bool array
    """
    ordered = np.sort(values)
    k = int(np.floor(len(values) * share)) + 1
    return (values >= _from_rank(ordered, k)) & (values <= -_from_rank(-ordered[::-1], k))


def _from_rank(ordered: Array, k: int) -> float:
    """Return the smallest of the sorted values whose mean rank (from 1) is at least k."""
    first, last = np.searchsorted(ordered, ordered[k - 1], "left") + 1, _ties_end(ordered, k)
    if first + last >= 2 * k:
        return float(ordered[k - 1])
    return float(ordered[last]) if last < len(ordered) else np.inf


def _ties_end(ordered: Array, k: int) -> int:
    """Rank of the last of the values that equal the k-th."""
    return int(np.searchsorted(ordered, ordered[k - 1], "right"))
