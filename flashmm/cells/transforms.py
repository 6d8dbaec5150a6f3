"""Transforms of counts, and what they need of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flashmm.names import listed
from flashmm.options import InputError


@dataclass(frozen=True)
class Transform:
    """A transform of counts that keeps zero at zero, so that it needs the nonzero values only.

    Attributes
    ----------
    apply : callable
        Values and the library sizes of their cells, both (values,), to transformed values.
    needs_counts : bool
        Whether it is meant for counts (integers from 0) only.
    scale : float, optional
        The sum to which the counts of a cell are scaled; None where library sizes are not used.
    """

    apply: Callable[[np.ndarray, np.ndarray], np.ndarray]
    needs_counts: bool = True
    scale: float | None = None

    @property
    def needs_libsize(self) -> bool:
        """Whether it divides by the library size."""
        return self.scale is not None

    def table(self, largest: int) -> np.ndarray:
        """Transformed values of the counts 0, 1, ..., largest; without library sizes."""
        counts = np.arange(largest + 1.0)
        return self.apply(counts, np.ones(len(counts)))


TRANSFORMS = {
    "log2p1": Transform(lambda y, _: np.log2(1.0 + y)),
    "log1p": Transform(lambda y, _: np.log1p(y)),
    "log1p_cp10k": Transform(lambda y, size: np.log1p(1e4 * y / size), scale=1e4),
    "none": Transform(lambda y, _: y, needs_counts=False),
}


def find_transform(name: str) -> Transform:
    """Look a transform up by name; an InputError lists the names there are."""
    if name not in TRANSFORMS:
        raise InputError(f"transform={name!r} is not known; use one of {listed(TRANSFORMS)}.")
    return TRANSFORMS[name]


def check_libsize(sizes: np.ndarray, column: str, name: str) -> None:
    """Raise an InputError unless library sizes, by which counts are divided, are positive."""
    bad = ~(np.isfinite(sizes) & (sizes > 0))
    if bad.any():
        raise InputError(
            f"{name}: '{column}' is not a positive number in {np.count_nonzero(bad)} of {len(bad)} "
            "cells, and the transform divides by it; leave these cells out."
        )


def is_counts(values: np.ndarray) -> bool:
    """Whether all values are integers from 0."""
    return bool((values >= 0).all() and (values == np.floor(values)).all())
