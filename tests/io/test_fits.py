"""Fits as files, whole and of ranges of genes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from awkward_groups import BY, cells

from flashmm.cells.groups import GroupStatistics
from flashmm.cells.summary import summarise
from flashmm.design.from_groups import summary_statistics
from flashmm.inference.testing import contrast_tests
from flashmm.io.fits import join_fits, read_fit, write_fit
from flashmm.io.groups import read_groups, write_groups
from flashmm.lmm import LMMFit, fit_lmm
from flashmm.options import InputError
from flashmm.storage import files

GENE_RANGES = ((0, 9), (9, 10), (10, 30))


def fit_of(groups: GroupStatistics, fixed: str = "~ x + condition", **options: str) -> LMMFit:
    return fit_lmm(summary_statistics(groups, fixed, ["subject"]), **options)


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Fits of three ranges of the genes of `groups.h5ad`, beside it."""
    write_groups(summarise(cells(), BY, "x"), tmp_path / "groups.h5ad")
    paths = [tmp_path / f"fit{i}.h5ad" for i in range(3)]
    for path, genes in zip(paths, GENE_RANGES, strict=True):
        groups = read_groups(tmp_path / "groups.h5ad", genes=genes)
        write_fit(fit_of(groups), path, tmp_path / "groups.h5ad")
    return paths


def test_fits_of_ranges_join_to_that_of_all_genes(shards: list[Path], tmp_path: Path) -> None:
    whole = fit_of(read_groups(tmp_path / "groups.h5ad"))
    joined = tmp_path / "results" / "fit.h5ad"
    join_fits(shards[::-1], joined)
    fit = read_fit(joined)
    for name in ("coef", "theta", "fisher_information", "loglik", "decrement"):
        np.testing.assert_allclose(getattr(fit, name), getattr(whole, name), rtol=1e-8, atol=1e-12)
    assert list(fit.genes) == list(whole.genes) == list(fit.stats.genes)
    assert list(fit.status) == list(whole.status)
    tests = contrast_tests(fit, "condition").to_frame()
    expected = contrast_tests(whole, "condition").to_frame()
    pd.testing.assert_frame_equal(tests, expected, rtol=1e-7)

    part = read_fit(shards[2])
    assert list(part.stats.genes) == list(part.genes) == list(whole.genes[10:])
    np.testing.assert_allclose(part.blup(), whole.blup()[10:], rtol=1e-8, atol=1e-10)


def test_fits_that_do_not_belong_together(shards: list[Path], tmp_path: Path) -> None:
    groups_path, joined = tmp_path / "groups.h5ad", tmp_path / "joined.h5ad"
    groups = read_groups(groups_path, genes=(9, 10))
    for message, fit in {
        r"fit1\.h5ad' and .*fit0\.h5ad' .* the model": fit_of(groups, "~ condition"),
        r"fit1\.h5ad' and .*fit0\.h5ad' .* the options": fit_of(groups, method="ML"),
        r"fit1\.h5ad' holds 1 genes of .*fit0\.h5ad' \('g3'\)": fit_of(
            read_groups(groups_path, genes=(3, 4))
        ),
    }.items():
        write_fit(fit, shards[1], groups_path)
        with pytest.raises(InputError, match=message):
            join_fits(shards, joined)
    with pytest.raises(InputError, match=r"1 of the 30 genes of .* in none of the 2 fits \('g9'\)"):
        join_fits([shards[0], shards[2]], joined)
    with pytest.raises(InputError, match="nothing to join"):
        join_fits([], joined)
    with pytest.raises(InputError, match=r"groups\.h5ad' does not hold a fit"):
        join_fits([groups_path], joined)
    write_groups(summarise(cells(1), BY, "x"), tmp_path / "other.h5ad")
    other = fit_of(read_groups(tmp_path / "other.h5ad", genes=(9, 10)))
    write_fit(other, shards[1], tmp_path / "other.h5ad")
    with pytest.raises(InputError, match=r"fit1\.h5ad' .* the groups that were fitted"):
        join_fits(shards, joined)
    assert not joined.exists()


@pytest.mark.parametrize("limit", [0, 2**30])
def test_groups_that_have_changed_since_the_fit(
    limit: int, shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the file is too large to be hashed as a whole."""
    monkeypatch.setattr(files, "_PIECE", limit)
    groups = read_groups(tmp_path / "groups.h5ad")
    write_fit(fit_of(groups), shards[0], tmp_path / "groups.h5ad")
    read_fit(shards[0])
    groups.sumsq[3, 7] += 1e-9
    write_groups(groups, tmp_path / "groups.h5ad")
    with pytest.raises(InputError, match=r"is not the groups file that '.*fit0\.h5ad'"):
        read_fit(shards[0])
