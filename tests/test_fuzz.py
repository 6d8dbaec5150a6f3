"""Tiny designs against a dense likelihood of other code (`make fuzz` has thousands of them)."""

from __future__ import annotations

import sys
from functools import wraps
from pathlib import Path

import numpy as np
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


def test_designs_that_are_done_are_not_done_again(fuzz, tmp_path, monkeypatch):
    whole = fuzz.run([2, 3])
    monkeypatch.setattr(fuzz, "check", checked_once(fuzz.check, stop_before=3))
    with pytest.raises(KeyboardInterrupt):
        fuzz.run([2, 3], parts=tmp_path / "parts")
    monkeypatch.setattr(fuzz, "check", checked_once(fuzz.check.__wrapped__))
    resumed = fuzz.run([2, 3], parts=tmp_path / "parts")
    assert fuzz.check.seeds == [3]
    assert fuzz.summary(resumed) == fuzz.summary(whole)


def checked_once(check, stop_before=None):
    """The checks of a design, with the seeds that were asked for."""

    @wraps(check)
    def recorded(design, seed):
        if seed == stop_before:
            raise KeyboardInterrupt
        recorded.seeds.append(seed)
        return check(design, seed)

    recorded.seeds = []
    return recorded


@pytest.mark.parametrize("seed", [1441, 1520])
def test_searches_that_missed_a_maximum_once(fuzz, seed):
    """Slopes with nearly collinear X by elimination; components that may be negative."""
    design = fuzz.random_design(seed)
    one, other = (fuzz.fitted(design, engine) for engine in ("dense", "eliminated"))
    assert list(one.status) == list(other.status) == ["ok", "ok"]
    np.testing.assert_allclose(one.loglik, other.loglik, rtol=1e-7)
    np.testing.assert_allclose(one.loglik[1], {1441: 15.976004, 1520: 23.085940}[seed], rtol=1e-6)
