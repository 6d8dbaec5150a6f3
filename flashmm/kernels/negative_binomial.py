"""Negative binomial counts with random effects: moments, random streams and draws."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

LARGEST_COUNT = 2**24  # up to here float32 holds every whole number
LARGEST_LOG_COUNT = float(np.log(LARGEST_COUNT))


def reference_parameters(
    n_cells: int, total: Floats, total_of_squares: Floats
) -> tuple[Floats, Floats]:
    """Mean and size of each gene of reference counts, by the method of moments.

    Parameters
    ----------
    n_cells : int
        At least two.
    total, total_of_squares : ndarray, shape (genes,)
        Sums over cells of the counts and of their squares (exact in float64 up to 2^53).

    Returns
    -------
    mean, size : ndarray, shape (genes,)
        size = mean² / (variance − mean), the variance with n − 1; NaN where the mean is 0 or the
        variance does not exceed it, for which there is no negative binomial.
    """
    mean = total / n_cells
    variance = (total_of_squares - total * mean) / (n_cells - 1)
    usable = (mean > 0) & (variance > mean)
    size = np.full(mean.shape, np.nan)
    size[usable] = mean[usable] ** 2 / (variance[usable] - mean[usable])
    return mean, size


def child_seed(seed: np.random.SeedSequence, key: int) -> np.random.SeedSequence:
    """Return the child that `seed.spawn` gives at place `key`, without counting it in `seed`."""
    return np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, key))


def stream(seed: np.random.SeedSequence, key: int) -> np.random.Generator:
    """Return the generator of the child of `seed` at place `key`."""
    return np.random.default_rng(child_seed(seed, key))


def resample(rng: np.random.Generator, available: int, wanted: int) -> Integers:
    """Draw positions, with replacement only where more are wanted than there are.

    Parameters
    ----------
    rng : numpy.random.Generator
    available, wanted : int

    Returns
    -------
    ndarray of int64, shape (wanted,)
        All positions in their order where as many are wanted as there are.
    """
    if wanted == available:
        return np.arange(available)
    return rng.choice(available, size=wanted, replace=wanted > available)


def apportion(rng: np.random.Generator, total: int, weights: Floats) -> Integers:
    """Split a whole number in proportion to weights.

    Parameters
    ----------
    rng : numpy.random.Generator
    total : int
    weights : ndarray, shape (parts,)
        Not negative, not all zero.

    Returns
    -------
    ndarray of int64, shape (parts,)
        Each share rounded down or up at random; its expectation is the share, the sum is `total`.
    """
    shares = total * weights / weights.sum()
    whole = np.floor(shares + 1e-9).astype(np.int64)  # 2.9999999996 is a 3
    left = total - int(whole.sum())
    if left > 0:
        # Systematic sampling: a part gets one more with probability equal to the lost fraction.
        lost = np.clip(shares - whole, 0, None)
        edges = np.concatenate([[0.0], np.cumsum(lost) * (left / lost.sum())])
        whole += np.diff(np.floor(edges + rng.random() + 1e-12).astype(np.int64))
    return whole


def draw_log_fc(
    rng: np.random.Generator, n: int, direction: str, minimum: float, maximum: float
) -> Floats:
    """Draw log fold changes, uniform in absolute value.

    Parameters
    ----------
    rng : numpy.random.Generator
    n : int
    direction : {"both", "up", "down"}
        "both" tosses a fair coin for each sign.
    minimum, maximum : float
        Range of the absolute value.

    Returns
    -------
    ndarray, shape (n,)
    """
    magnitude = rng.uniform(minimum, maximum, size=n)
    if direction == "both":
        return magnitude * rng.choice([-1.0, 1.0], size=n)
    return magnitude if direction == "up" else -magnitude


def draw_effects(
    seed: np.random.SeedSequence, levels: Integers, n_genes: int, variance: float
) -> Floats:
    """Draw the normal effects of some levels (subjects, or subjects x cell types) on every gene.

    Each level has its own random stream, so that its effects are the same in whichever block of
    cells it is met, and none need be kept: memory does not grow with the number of levels.

    Parameters
    ----------
    seed : numpy.random.SeedSequence
        Root of the streams of all levels.
    levels : ndarray of int64, shape (levels,)
        Codes of the levels wanted.
    n_genes : int
    variance : float

    Returns
    -------
    ndarray, shape (levels, genes)
    """
    effects = np.empty((len(levels), n_genes))
    for row, level in zip(effects, levels, strict=True):
        stream(seed, int(level)).standard_normal(out=row)
    effects *= np.sqrt(variance)
    return effects


def draw_negative_binomial(rng: np.random.Generator, mean: Floats, size: Floats) -> Integers:
    """Draw counts with the given mean and variance mean + mean² / size.

    The stream is used gene by gene, so that the first genes keep their counts when the means of
    later genes change.

    Parameters
    ----------
    rng : numpy.random.Generator
    mean : ndarray, shape (cells, genes)
    size : ndarray, shape (genes,)

    Returns
    -------
    ndarray of int64, shape (cells, genes)
    """
    # y | g ~ Poisson(mean · g / size), g ~ Gamma(size): unlike the success probability
    # size / (size + mean), the ratio mean / size keeps its digits when the size is very large.
    rate = rng.standard_gamma(np.broadcast_to(size[:, None], mean.T.shape))
    rate *= mean.T
    rate /= size[:, None]
    return rng.poisson(rate).T


def draw_block(rng: np.random.Generator, log_mean: Floats, size: Floats) -> sparse.csr_matrix:
    """Draw the counts of a block of cells.

    Parameters
    ----------
    rng : numpy.random.Generator
    log_mean : ndarray, shape (cells, genes)
        Natural log of the expected counts.
    size : ndarray, shape (genes,)

    Returns
    -------
    scipy.sparse.csr_matrix of float32, shape (cells, genes)

    Raises
    ------
    OverflowError
        A count of 2^24 or more, which float32 might not hold exactly.
    """
    if log_mean.max() >= LARGEST_LOG_COUNT:
        raise OverflowError(f"an expected count of exp({log_mean.max():.4g})")
    counts = draw_negative_binomial(rng, np.exp(log_mean), size)
    if counts.max() >= LARGEST_COUNT:
        raise OverflowError(f"a count of {counts.max():,}")
    return sparse.csr_matrix(counts.astype(np.float32))
