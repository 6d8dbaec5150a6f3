"""Digests of what files hold."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from flashmm.storage.digests import ContentDigest, column_checksums


def test_every_bit_and_place_of_a_column_counts() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 3))
    whole = column_checksums(values)
    assert len(set(whole)) == 3
    for bit in range(64):
        changed = values.copy()
        changed.view(np.uint64)[rng.integers(40), 1] ^= np.uint64(1 << bit)
        assert list(column_checksums(changed) != whole) == [False, True, False]
    signs = values.copy()
    signs[[3, 30], 2] *= -1  # two changes of the highest bit do not cancel
    assert column_checksums(signs)[2] != whole[2]
    assert column_checksums(values[::-1])[0] != whole[0]
    np.testing.assert_array_equal(column_checksums(values[:, 1:]), whole[1:])


def test_checksums_do_not_depend_on_layout_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).normal(size=(50, 7))
    whole = column_checksums(values)
    np.testing.assert_array_equal(column_checksums(np.asfortranarray(values)), whole)
    monkeypatch.setattr("flashmm.storage.digests._BLOCK", 20)
    np.testing.assert_array_equal(column_checksums(values), whole)
    zeros = np.zeros((3, 2))
    np.testing.assert_array_equal(column_checksums(-zeros), column_checksums(zeros))
    assert column_checksums(np.zeros((0, 4))).shape == (4,)


TABLE = pd.DataFrame(
    {"a": [1, 2], "b": [0.5, 1.5], "c": pd.Categorical(["x", "y"]), "d": ["t", "u"]}, ["i", "j"]
)


@pytest.mark.parametrize(
    "other",
    [
        TABLE.assign(a=[1, 3]),
        TABLE.assign(a=[1.0, 2.0]),
        TABLE.assign(b=[0.5, np.nextafter(1.5, 2)]),
        TABLE.assign(c=TABLE["c"].cat.rename_categories(["y", "x"])),
        TABLE.assign(c=TABLE["c"].cat.as_ordered()),
        TABLE.assign(c=TABLE["c"].cat.add_categories(["z"])),
        TABLE.assign(d=["t", "v"]),
        TABLE.set_axis(["i", "k"]),
        TABLE[["a", "b", "d", "c"]],
    ],
)
def test_tables_that_differ_have_other_digests(other: pd.DataFrame) -> None:
    digests = []
    for table in (TABLE, TABLE.copy(), other):
        digest = ContentDigest()
        digest.table("table", table)
        digests.append(digest.hexdigest())
    assert digests[0] == digests[1] != digests[2]


def test_texts_are_not_run_together() -> None:
    digests = set()
    for texts in (["ab", "c"], ["a", "bc"], ["abc"], ["ab", "c", ""], ["ab", None, "c"]):
        digest = ContentDigest()
        digest.texts("names", texts)
        digests.add(digest.hexdigest())
    assert len(digests) == 5
