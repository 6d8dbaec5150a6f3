"""The filter of rare genes: by hand, and without a look at any condition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashmm.kernels.expression_filter import expressed


@pytest.mark.parametrize(
    ("counts", "smallest", "kept"),
    [
        ([5, 5, 5, 0, 0, 0], 3, True),  # off in one of two conditions
        ([5, 5, 4, 0, 0, 0], 3, False),  # 14 counts
        ([50, 50, 0, 0, 0, 0], 3, False),  # two samples of three
        ([15, 0, 0, 0, 0, 0], 1, True),
        ([3] * 5 + [0] * 30, 20, True),  # never more than five samples
        ([4] * 4 + [0] * 30, 20, False),
    ],
)
def test_rule(counts, smallest, kept):
    assert expressed(np.array([counts], dtype=float).T, smallest).tolist() == [kept]


@given(seed=st.integers(0, 10**6))
def test_labels_of_samples_do_not_count_and_more_counts_never_hurt(seed):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.5, 3, 50), (8, 50)).astype(float)
    kept = expressed(counts, 4)
    np.testing.assert_array_equal(expressed(counts[rng.permutation(8)], 4), kept)
    assert (expressed(counts + rng.poisson(1, counts.shape), 4) >= kept).all()
    assert (expressed(counts, 3) >= kept).all()
