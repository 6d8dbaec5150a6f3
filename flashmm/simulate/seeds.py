"""What a seed means: one random stream per purpose."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from flashmm.kernels.negative_binomial import child_seed
from flashmm.options import InputError

Seed = int | Sequence[int] | np.random.SeedSequence


class GeneStream(IntEnum):
    """Places of the streams below that of genes; a number that is given stays."""

    PARAMETERS = 0
    RESAMPLED = 1
    VARIANCES = 2
    MARKERS = 3
    MODULES = 4
    RATIOS = 5


class Streams(NamedTuple):
    """One seed per purpose, so that no purpose disturbs another."""

    cells: np.random.SeedSequence
    libsize: np.random.SeedSequence
    genes: np.random.SeedSequence
    de: np.random.SeedSequence
    subject: np.random.SeedSequence
    pair: np.random.SeedSequence
    counts: np.random.SeedSequence
    subject_condition: np.random.SeedSequence

    @classmethod
    def from_seed(cls, seed: Seed) -> Streams:
        """Return the streams of a seed, which is left as it was."""
        root = seed_sequence(seed)
        return cls(*(child_seed(root, purpose) for purpose in range(len(cls._fields))))


def seed_sequence(seed: Seed) -> np.random.SeedSequence:
    """Return the seed as numpy's; InputError where it is none that can be repeated."""
    if isinstance(seed, np.random.SeedSequence):
        return seed
    try:
        if seed is None:
            raise TypeError("no seed")
        return np.random.SeedSequence(seed)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"seed: whole numbers of at least 0 expected, so that the simulation can be repeated; "
            f"found {seed!r}"
        ) from error
