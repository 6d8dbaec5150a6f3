"""Fits as files, whole and of ranges of genes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from awkward_groups import BY, cells
from flipped_bits import flipped

from flashmm.cells.groups import GroupStatistics
from flashmm.cells.size_factors import size_factors
from flashmm.cells.summary import summarise
from flashmm.design.from_groups import summary_statistics
from flashmm.inference.testing import contrast_tests
from flashmm.io.fits import join_fits, read_fit, write_fit
from flashmm.io.groups import read_groups, read_size_factors, write_groups
from flashmm.lmm import LMMFit, fit_lmm
from flashmm.options import InputError
from flashmm.within import FitsWithin, fit_within

GENE_RANGES = ((0, 9), (9, 10), (10, 30))


def fit_of(groups: GroupStatistics, fixed: str = "~ x + condition", **options: str) -> LMMFit:
    return fit_lmm(summary_statistics(groups, fixed, ["subject"]), **options)


@pytest.fixture(scope="module")
def fitted_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fits of three ranges of the genes of `groups.h5ad`, beside it."""
    folder = tmp_path_factory.mktemp("fitted")
    write_groups(summarise(cells(), BY, "x"), folder / "groups.h5ad")
    for i, genes in enumerate(GENE_RANGES):
        groups = read_groups(folder / "groups.h5ad", genes=genes)
        write_fit(fit_of(groups), folder / f"fit{i}.h5ad", folder / "groups.h5ad")
    return folder


@pytest.fixture
def shards(fitted_folder: Path, tmp_path: Path) -> list[Path]:
    """The fits of `fitted_folder`, which a test may change, and `groups.h5ad` beside them."""
    shutil.copytree(fitted_folder, tmp_path, dirs_exist_ok=True)
    return [tmp_path / f"fit{i}.h5ad" for i in range(3)]


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


def test_groups_that_have_changed_since_the_fit(shards: list[Path], tmp_path: Path) -> None:
    groups = read_groups(tmp_path / "groups.h5ad")
    write_fit(fit_of(groups), shards[0], tmp_path / "groups.h5ad")
    read_fit(shards[0])
    groups.sumsq[3, 7] += 1e-9
    write_groups(groups, tmp_path / "groups.h5ad")
    with pytest.raises(InputError, match=r"is not the groups file that '.*fit0\.h5ad'"):
        read_fit(shards[0])


@pytest.mark.filterwarnings("ignore:Observation names are not unique")  # of AnnData, on the way
def test_a_flipped_bit_is_never_another_number(shards: list[Path], tmp_path: Path) -> None:
    found = set()
    for name, path in flipped(shards[0]):
        with pytest.raises(InputError, match=r"flipped\.fit0\.h5ad'"):
            read_fit(path)
        with pytest.raises(InputError, match=r"flipped\.fit0\.h5ad'"):
            join_fits([path, *shards[1:]], tmp_path / "joined.h5ad")
        found.add(name)
    assert found >= {"obsm/coef", "obs/loglik", "obs/status/codes", "uns/flashmm/options"}


def test_a_fit_without_digest(shards: list[Path]) -> None:
    with h5py.File(shards[0], "r+") as file:
        del file["uns/flashmm/digest"]
    with pytest.raises(InputError, match=r"fit0\.h5ad' has no digest .* Fit again"):
        read_fit(shards[0])


def test_groups_that_are_replaced_while_a_fit_is_read(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "groups.h5ad", tmp_path / "other.h5ad"
    shutil.copyfile(path, other)

    def replacing(*given: object) -> GroupStatistics:
        os.replace(other, path)
        return read_groups(*given)

    monkeypatch.setattr("flashmm.io.fits.read_groups", replacing)
    with pytest.raises(InputError, match=r"groups\.h5ad' was replaced or changed while"):
        read_fit(shards[0])


# --- a model for each level of a column -----------------------------------------------------------

# notes say that a random term was dropped and a level refused, which is not the question
quiet = pytest.mark.filterwarnings("ignore::flashmm.options.FlashmmWarning")
ARRAYS = ("coef", "cov", "theta", "fisher_information", "loglik", "decrement")


def counted_groups() -> GroupStatistics:
    """Two cell types, one of them of a single subject; genes differ between subjects."""
    rng = np.random.default_rng(4)
    n = 900
    subject = rng.integers(0, 8, n)
    obs = pd.DataFrame(
        {
            "subject": [f"S{i}" for i in subject],
            "condition": np.where(subject < 4, "stim", "ctrl"),
            "cell_type": np.where((subject == 0) & (rng.random(n) < 0.5), "rare, A+", "B/b"),
        },
        index=[f"c{i}" for i in range(n)],
    )
    obs["libsize"] = rng.integers(300, 900, n).astype(float)
    means = rng.gamma(1, 2, 30) * np.exp(rng.normal(0, 0.3, (8, 30)))
    means[:, 7] = 0.002  # too rare to be tested
    X = rng.poisson(means[subject] * (obs["libsize"].to_numpy() / 600)[:, None])
    genes = pd.DataFrame(index=[f"g{i}" for i in range(30)])
    adata = ad.AnnData(X.astype(np.float32), obs=obs, var=genes)
    return summarise(adata, BY_TYPE, "log(libsize)")


BY_TYPE = ["subject", "cell_type", "condition"]
REFERENCE = {"condition": "stim"}


def within_of(groups: GroupStatistics, factors: object = "tmm", **options: object) -> FitsWithin:
    return fit_within(
        groups,
        "cell_type",
        "~ log(libsize) + condition",
        ["subject", "subject:condition"],
        size_factors=factors,
        reference=REFERENCE,
        **options,
    )


def assert_same_fits(found: FitsWithin, expected: FitsWithin, rtol: float) -> None:
    assert list(found.fits) == list(expected.fits)
    for name in ("column", "refused", "levels", "notes", "reference", "options"):
        assert getattr(found, name) == getattr(expected, name), name
    for level, fit in expected.fits.items():
        for name in ARRAYS:
            np.testing.assert_allclose(
                getattr(found[level], name), getattr(fit, name), rtol=rtol, atol=1e-11
            )
        assert list(found[level].status) == list(fit.status)
        assert found[level].coefficients == fit.coefficients


@quiet
def test_fits_within_levels_are_read_as_they_were_written(tmp_path: Path) -> None:
    groups = counted_groups()
    write_groups(groups, tmp_path / "groups.h5ad")
    fits = within_of(groups)
    assert list(fits.fits) == ["B/b"] and list(fits.refused) == ["rare, A+"]
    assert "low_expression" in fits["B/b"].status
    write_fit(fits, tmp_path / "fit.h5ad", tmp_path / "groups.h5ad")
    found = read_fit(tmp_path / "fit.h5ad")
    assert isinstance(found, FitsWithin)
    assert_same_fits(found, fits, rtol=1e-12)
    tests, expected = (contrast_tests(f, "condition", "kenward-roger-2") for f in (found, fits))
    pd.testing.assert_frame_equal(tests.to_frame(), expected.to_frame(), rtol=1e-9)
    assert tests.notes == expected.notes


@quiet
def test_ranges_of_genes_within_levels_join_to_all_genes(tmp_path: Path) -> None:
    path = tmp_path / "groups.h5ad"
    write_groups(counted_groups(), path)
    factors = read_size_factors(path, "cell_type", "tmm")
    pd.testing.assert_series_equal(factors, size_factors(read_groups(path), "cell_type"))
    assert factors.std() > 0
    paths = [tmp_path / f"part{i}.h5ad" for i in range(3)]
    for part, genes in zip(paths, GENE_RANGES, strict=True):
        write_fit(within_of(read_groups(path, genes), factors), part, path)
    join_fits(paths[::-1], tmp_path / "fit.h5ad")
    joined, whole = read_fit(tmp_path / "fit.h5ad"), within_of(read_groups(path))
    assert_same_fits(joined, whole, rtol=1e-7)
    tests, expected = (contrast_tests(f, "condition", "kenward-roger") for f in (joined, whole))
    pd.testing.assert_frame_equal(tests.to_frame(), expected.to_frame(), rtol=1e-6)


@quiet
def test_fits_within_levels_that_do_not_belong_together(tmp_path: Path) -> None:
    path = tmp_path / "groups.h5ad"
    write_groups(counted_groups(), path)
    factors = read_size_factors(path, "cell_type", "tmm")
    first, second = tmp_path / "0.h5ad", tmp_path / "1.h5ad"
    write_fit(within_of(read_groups(path, (0, 10)), factors), first, path)
    rest = read_groups(path, (10, 30))
    joint = fit_lmm(
        summary_statistics(rest, "~ log(libsize) + condition", ["subject"], factors, REFERENCE)
    )
    for message, fit in {
        "the size factors": within_of(rest, factors**2),
        "the options": within_of(rest, factors, method="ML"),
        "the model|the levels": joint,
    }.items():
        write_fit(fit, second, path)
        with pytest.raises(InputError, match=message):
            join_fits([first, second], tmp_path / "joined.h5ad")
    with pytest.raises(InputError, match="read_size_factors"):
        within_of(rest)
