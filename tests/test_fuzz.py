"""Tiny designs against a dense likelihood of other code (`make fuzz` has thousands of them)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def fuzz(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import fuzz

    yield fuzz
    for name in ("fuzz", "fuzz_reference", "reliability", "common"):
        sys.modules.pop(name, None)


def test_fits_are_the_best_maxima_of_a_dense_likelihood(fuzz):
    rows = fuzz.run([2, 3, 10, 12, 95])
    fits = rows[rows.status.isin(fuzz.FITTED)]
    assert set(fits.components) == {1, 2, 3} and set(fits.engine) == set(fuzz.ENGINES)
    assert fits.below.notna().sum() > 12
    failed = fuzz.failures(rows)
    assert failed.empty, failed.to_string()
