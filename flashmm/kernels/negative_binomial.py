"""Negative binomial counts with random effects: moments, random streams and draws."""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

LARGEST_COUNT = 2**24  # up to here float32 holds every whole number
LARGEST_LOG_COUNT = float(np.log(LARGEST_COUNT))
OFTEN = 0.35  # mean from which inversion is faster than points
LARGEST_INVERTED = 20  # mean up to which inversion is faster than a gamma and a Poisson number
AT_A_TIME = 2**14  # probabilities of zero to compute: few, to stay in the cache
STEPS = 8  # of an inversion that are made for all values; the few that need more start again
NEGLIGIBLE = 2.0**-60  # probability beyond the digits of a uniform number
PIECE = 64  # genes per piece of the line: short, so that places on it keep their digits
GAPS = 64  # exponential numbers drawn at a time
U64 = np.uint64  # numba turns sums of unsigned and plain whole numbers into floating point


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


def reference_parameters_by_type(
    n_cells: Integers, total: Floats, total_of_squares: Floats
) -> tuple[Floats, Floats]:
    """Mean of each gene in each cell type and one size for all types, by the method of moments.

    Parameters
    ----------
    n_cells : ndarray of int64, shape (types,)
        At least one each, and two in one of them.
    total, total_of_squares : ndarray, shape (types, genes)
        Sums over the cells of a type of the counts and of their squares.

    Returns
    -------
    mean : ndarray, shape (types, genes)
    size : ndarray, shape (genes,)
        Σ_t (n_t − 1) mean_t² / Σ_t (n_t − 1)(variance_t − mean_t): the variance within types, so
        that differences between them do not count; NaN where either sum is not above 0.
    """
    n = n_cells[:, None]
    mean = total / n
    excess = (total_of_squares - total * mean - (n - 1) * mean).sum(axis=0)
    squares = ((n - 1) * mean**2).sum(axis=0)
    usable = (squares > 0) & (excess > 0)
    size = np.full(excess.shape, np.nan)
    size[usable] = squares[usable] / excess[usable]
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
    seed: np.random.SeedSequence,
    levels: Integers,
    n_genes: int,
    variance: Floats | float,
    module: Integers | None = None,
    correlation: float = 0.0,
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
    variance : float or ndarray, shape (genes,)
    module : ndarray of int64, shape (genes,), optional
        The module of each gene; without it all effects are independent.
    correlation : float
        Correlation of the effects of two genes of a module, 0 to 1; those of other genes are
        independent.

    Returns
    -------
    ndarray, shape (levels, genes)
    """
    effects = np.empty((len(levels), n_genes))
    for row, level in zip(effects, levels, strict=True):
        stream(seed, int(level)).standard_normal(out=row)
        if module is not None:
            # √(1 − ρ) z_gene + √ρ z_module
            shared = stream(child_seed(seed, int(level)), 0).standard_normal(module.max() + 1)
            row *= np.sqrt(1 - correlation)
            row += np.sqrt(correlation) * shared[module]
    effects *= np.sqrt(variance)
    return effects


def draw_negative_binomial(rng: np.random.Generator, mean: Floats, size: Floats) -> Integers:
    """Draw counts with the given mean and variance mean + mean² / size.

    The streams are used gene by gene, so that the first genes keep their counts when there are
    other or more genes after them.

    Parameters
    ----------
    rng : numpy.random.Generator
        Two children of it are used.
    mean : ndarray, shape (cells, genes)
    size : ndarray, shape (genes,)

    Returns
    -------
    ndarray of int64, shape (cells, genes)
    """
    # y | g ~ Poisson(mean · g / size), g ~ Gamma(size): unlike the success probability
    # size / (size + mean), the ratio mean / size keeps its digits when the size is very large.
    gammas, counts = rng.spawn(2)
    rate = gammas.standard_gamma(np.broadcast_to(size[:, None], mean.T.shape))
    rate *= mean.T
    rate /= size[:, None]
    return counts.poisson(rate).T


def draw_block(
    rng: np.random.Generator,
    log_mean: Floats,
    size: Floats,
    level: Integers | None = None,
    offset: Floats | None = None,
) -> sparse.csr_matrix:
    """Draw the counts of a block of cells.

    The first genes keep their counts when there are other or more genes after them.

    Parameters
    ----------
    rng : numpy.random.Generator
    log_mean : ndarray, shape (levels, genes)
        Natural log of the expected counts, without the offset. A level is a set of cells that
        differ by their offset only.
    size : ndarray, shape (genes,)
    level : ndarray of int64, shape (cells,), optional
        Level of each cell; without it each level is one cell.
    offset : ndarray, shape (cells,), optional
        What to add to the logarithms of each cell; zero without it.

    Returns
    -------
    scipy.sparse.csr_matrix of float32, shape (cells, genes)

    Raises
    ------
    OverflowError
        A count of 2^24 or more, which float32 might not hold exactly.
    """
    level = np.arange(len(log_mean)) if level is None else level
    offset = np.zeros(len(level)) if offset is None else offset
    largest = (log_mean.max(axis=1)[level] + offset).max()
    if largest >= LARGEST_LOG_COUNT:
        raise OverflowError(f"an expected count of exp({largest:.4g})")
    counts = _draw(rng, np.exp(log_mean), size, level, np.exp(offset))
    if counts.nnz and counts.data.max() >= LARGEST_COUNT:
        raise OverflowError(f"a count of {counts.data.max():,.0f}")
    return counts


def _draw(
    rng: np.random.Generator, rate: Floats, size: Floats, level: Integers, depth: Floats
) -> sparse.csr_matrix:
    """Counts with mean rate · depth, of each gene in the way that is fastest for it."""
    point_seeds, uniform_seeds = rng.integers(2**64, size=(2, len(level), 4), dtype=np.uint64)
    average = np.bincount(level, depth, len(rate)) @ rate / len(level)
    often = average > OFTEN
    if not often.any():
        return draw_points(point_seeds, rate, size, level, depth)
    large = often & (rate.max(axis=0) * depth.max() > LARGEST_INVERTED)
    inverted, large = np.flatnonzero(often & ~large), np.flatnonzero(large)
    counts = draw_by_inversion(uniform_seeds, rate[:, inverted], size[inverted], level, depth)
    counts = _spread(counts, inverted, len(size))
    if len(large):
        mean = rate[:, large][level] * depth[:, None]
        values = draw_negative_binomial(rng, mean, size[large])
        counts = counts + _spread(sparse.csr_matrix(values.astype(np.float32)), large, len(size))
    if not often.all():
        rate[:, often] = 0
        counts = counts + draw_points(point_seeds, rate, size, level, depth)
    return counts


def _spread(counts: sparse.csr_matrix, genes: Integers, n_genes: int) -> sparse.csr_matrix:
    """Counts of some genes among those of all genes."""
    if len(genes) == n_genes:
        return counts
    columns = genes.astype(np.int32)[counts.indices]
    return sparse.csr_matrix((counts.data, columns, counts.indptr), (counts.shape[0], n_genes))


def draw_by_inversion(
    seeds: NDArray[np.uint64], rate: Floats, size: Floats, level: Integers, depth: Floats
) -> sparse.csr_matrix:
    """Draw negative binomial counts of moderate means: the least y with P(<= y) above a uniform.

    Parameters
    ----------
    seeds : ndarray of uint64, shape (cells, 4)
        Seed of the random stream of each cell; overwritten.
    rate : ndarray, shape (levels, genes)
        Mean of a cell of depth 1; all means at most some hundred, so that P(0) is above 0.
    size : ndarray, shape (genes,)
    level : ndarray of int64, shape (cells,)
    depth : ndarray, shape (cells,)

    Returns
    -------
    scipy.sparse.csr_matrix of float32, shape (cells, genes)
    """
    shape = len(level), len(size)
    counts, genes, row_ends = _room(shape)
    n_cells = max(1, AT_A_TIME // max(1, shape[1]))
    for first in range(0, shape[0], n_cells):
        cells = slice(first, first + n_cells)
        x = rate[level[cells]]
        x *= depth[cells, None]
        x /= size
        zero = np.log1p(x)
        zero *= -size
        np.exp(zero, out=zero)  # P(0) = (1 + x)^-size
        _invert(seeds[cells], zero, x, size, counts, genes, row_ends[first:])
    return _matrix(counts, genes, row_ends, shape)


def _room(
    shape: tuple[int, int],
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int32]]:
    """Room for all values of a sparse matrix; the system gives memory only for what is written."""
    n = shape[0] * shape[1]
    return np.empty(n, np.float32), np.empty(n, np.int32), np.zeros(shape[0] + 1, np.int32)


def _matrix(
    counts: NDArray[np.float32],
    genes: NDArray[np.int32],
    row_ends: NDArray[np.int32],
    shape: tuple[int, int],
) -> sparse.csr_matrix:
    n = row_ends[-1]
    return sparse.csr_matrix((counts[:n].copy(), genes[:n].copy(), row_ends), shape)


@numba.njit(nogil=True, cache=True)
def _invert(
    seeds: NDArray[np.uint64],
    zero: Floats,
    x: Floats,
    size: Floats,
    counts: NDArray[np.float32],
    genes: NDArray[np.int32],
    row_ends: NDArray[np.int32],
) -> None:
    """Fill in the values, columns and row ends of some rows; x becomes q = x / (1 + x)."""
    n, n_genes = row_ends[0], len(size)
    uniform, count = np.empty(n_genes), np.empty(n_genes, np.int32)
    for cell in range(len(zero)):
        q = x[cell]
        q /= 1 + q
        fill_uniform(seeds[cell], uniform)
        count_steps(uniform, zero[cell], q, size, count)
        for gene in range(n_genes):
            if count[gene] == STEPS:
                count[gene] = invert(uniform[gene], zero[cell, gene], q[gene], size[gene])
            counts[n], genes[n] = count[gene], gene
            n += count[gene] > 0  # a zero is overwritten by the next
        row_ends[cell + 1] = n


@numba.njit(nogil=True, cache=True)
def count_steps(
    uniform: Floats, zero: Floats, q: Floats, size: Floats, count: NDArray[np.int32]
) -> None:
    """Count the y below STEPS with P(<= y) at most the uniform number; no branches, all genes."""
    for gene in range(len(count)):
        probability, below, steps = zero[gene], zero[gene], 0
        for y in range(STEPS):
            steps += uniform[gene] >= below
            probability *= q[gene] * (size[gene] + y) * (1 / (y + 1))
            below += probability
        count[gene] = steps


@numba.njit(nogil=True, cache=True)
def invert(uniform: float, zero: float, q: float, size: float) -> int:
    """Return the least y with P(<= y) above a uniform number."""
    y, probability, below = 0, zero, zero
    while uniform >= below and (y < STEPS or probability > NEGLIGIBLE):
        probability *= q * (size + y) / (y + 1)  # P(y + 1) from P(y)
        y += 1
        below += probability
    return y


def draw_points(
    seeds: NDArray[np.uint64], rate: Floats, size: Floats, level: Integers, depth: Floats
) -> sparse.csr_matrix:
    """Draw negative binomial counts at a cost that grows with their sum, not with their number.

    A negative binomial count is the sum of a Poisson number of clusters whose sizes follow the
    logarithmic series (Quenouille, Biometrics 5:162, 1949): clusters of k come at the rate
    size · qᵏ / k, where q = x / (1 + x) and x = mean / size. All together come at the rate
    size · log(1 + x), which is less than the mean. So the genes of a cell are laid side by side on
    a line, each on a stretch as long as its mean, points fall on the line at rate 1, that is with
    exponential gaps, and the place of a point within its stretch says of which cluster it is, or
    of none.

    Parameters
    ----------
    seeds : ndarray of uint64, shape (cells, 4)
        Seed of the random stream of each cell; overwritten.
    rate : ndarray, shape (levels, genes)
        Mean of a cell of depth 1.
    size : ndarray, shape (genes,)
    level : ndarray of int64, shape (cells,)
    depth : ndarray, shape (cells,)

    Returns
    -------
    scipy.sparse.csr_matrix of float32, shape (cells, genes)
    """
    shape = len(level), len(size)
    counts, genes, row_ends = _room(shape)
    _drop_points(seeds, _lay_stretches(rate), 1 / size, level, depth, counts, genes, row_ends)
    return _matrix(counts, genes, row_ends, shape)


@numba.njit(nogil=True, cache=True)
def _lay_stretches(rate: Floats) -> Floats:
    """Where each stretch ends, counted from the start of its piece; the last piece is filled up."""
    n_levels, n_genes = rate.shape
    ends = np.empty((n_levels, -(-n_genes // PIECE) * PIECE))
    for level in range(n_levels):
        end = 0.0
        for gene in range(ends.shape[1]):
            if gene % PIECE == 0:
                end = 0.0
            if gene < n_genes:
                end += rate[level, gene]
            ends[level, gene] = end
    return ends


@numba.njit(nogil=True, cache=True)
def _drop_points(
    seeds: NDArray[np.uint64],
    ends: Floats,
    per_size: Floats,
    level: Integers,
    depth: Floats,
    counts: NDArray[np.float32],
    genes: NDArray[np.int32],
    row_ends: NDArray[np.int32],
) -> None:
    """Fill the values, columns and row pointers of a matrix in compressed sparse rows."""
    n, gaps = 0, np.empty(GAPS)
    for cell in range(len(level)):
        end, per_depth = ends[level[cell]], 1 / depth[cell]
        fill_exponential(seeds[cell], gaps)
        used, place = 0, gaps[0] * per_depth  # of the next point, from the start of the piece
        for first in range(0, len(end), PIECE):
            length = end[first + PIECE - 1]
            while place < length:
                gene, step = first, PIECE // 2
                while step:  # bisection without branches
                    gene += step * (end[gene + step - 1] <= place)
                    step //= 2
                start = end[gene - 1] if gene > first else 0.0
                scale = depth[cell] * per_size[gene]
                x, count = (end[gene] - start) * scale, 0
                while place < end[gene]:
                    count += cluster((place - start) * scale, x)
                    used += 1
                    if used == GAPS:
                        fill_exponential(seeds[cell], gaps)
                        used = 0
                    place += gaps[used] * per_depth
                if count:
                    counts[n], genes[n] = count, gene
                    n += 1
            place -= length
        row_ends[cell + 1] = n


@numba.njit(nogil=True, cache=True)
def cluster(place: float, x: float) -> int:
    """Size of the cluster at a place in [0, x): k on a stretch of qᵏ / k, q = x / (1 + x).

    These stretches, side by side, end at log(1 + x); the size of what lies beyond is 0.
    """
    q = x / (1 + x)
    if place < q:
        return 1
    # a bound before the logarithm, which takes longer: log(1 + x) <= x (6 + x) / (6 + 4 x)
    if place * (6 + 4 * x) >= x * (6 + x) or place >= math.log1p(x):
        return 0
    k, power, end = 1, q, q
    while end <= place and k < LARGEST_COUNT:
        k += 1
        power *= q
        end += power / k
    return k


@numba.njit(nogil=True, cache=True)
def fill_exponential(state: NDArray[np.uint64], values: Floats) -> None:
    """Fill with standard exponential numbers, and move the state of the random stream on."""
    fill_uniform(state, values)
    for i in range(len(values)):
        values[i] = -math.log(1 - values[i])  # exact: 1 - u has 53 bits too


@numba.njit(nogil=True, cache=True)
def fill_uniform(state: NDArray[np.uint64], values: Floats) -> None:
    """Fill with uniform numbers in [0, 1) of 53 bits, and move the state of the stream on.

    The generator is xoshiro256++ (Blackman and Vigna, ACM Trans Math Softw 47:36, 2021); its state
    is four words that are not all zero.
    """
    a, b, c, d = state
    for i in range(len(values)):
        total = a + d
        bits = ((total << U64(23)) | (total >> U64(41))) + a
        values[i] = (bits >> U64(11)) * 2.0**-53
        shifted = b << U64(17)
        c ^= a
        d ^= b
        b ^= c
        a ^= d
        c ^= shifted
        d = (d << U64(45)) | (d >> U64(19))
    state[0], state[1], state[2], state[3] = a, b, c, d
