"""Size factors of groups, and the stored sums with them, against cells of other library sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from references import real_counts

import flashmm as fm
from flashmm.cells.groups import GroupStatistics, merge
from flashmm.cells.size_factors import library_sizes
from flashmm.kernels.composition import tmm_factors
from flashmm.options import FlashmmWarning, InputError

BY = ["subject", "cell_type", "condition"]
COVARIATES = ["log(libsize)", "x", "x:log(libsize)", "log2(libsize / 10000)"]
FIXED = "~ log(libsize) + condition"


def cells(n_cells: int = 400, n_genes: int = 40, seed: int = 0, subjects: int = 4) -> ad.AnnData:
    """Subjects with one condition each, two cell types, counts with a depth of their own."""
    rng = np.random.default_rng(seed)
    subject = rng.integers(subjects, size=n_cells)
    obs = pd.DataFrame(
        {
            "subject": [f"S{i}" for i in subject],
            "cell_type": rng.choice(["B", "T"], n_cells),
            "condition": np.where(subject % 2, "stim", "ctrl"),
            "x": rng.normal(size=n_cells),
        },
        index=[f"c{i}" for i in range(n_cells)],
    )
    share = rng.gamma(1.0, 1.0, n_genes)
    depth = rng.lognormal(4, 0.4, n_cells)
    counts = rng.poisson(np.outer(depth, share / share.sum())).astype(float)
    counts[:, 0] += 1  # no cell without counts
    obs["libsize"] = counts.sum(axis=1)
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"g{j}" for j in range(n_genes)]))


def summarised(adata: ad.AnnData, covariates: list[str] | None = None) -> GroupStatistics:
    return fm.summarise(adata, BY, COVARIATES if covariates is None else covariates)


def multiplied(adata: ad.AnnData, factors: pd.Series) -> ad.AnnData:
    """The cells with their library size times the factor of their group."""
    names = adata.obs[BY].astype(str).agg("|".join, axis=1)
    libsize = adata.obs["libsize"] * factors.loc[names].to_numpy()
    return ad.AnnData(adata.X, obs=adata.obs.assign(libsize=libsize), var=adata.var)


def assert_same(a: GroupStatistics, b: GroupStatistics) -> None:
    pd.testing.assert_frame_equal(a.obs, b.obs, rtol=1e-12, atol=1e-12)
    for name, values in a.gene_sums().items():
        scale = np.abs(b.gene_sums()[name]).max()
        np.testing.assert_allclose(
            values, b.gene_sums()[name], rtol=1e-12, atol=1e-12 * scale, err_msg=name
        )


@pytest.fixture(scope="module")
def adata() -> ad.AnnData:
    return cells()


@pytest.fixture(scope="module")
def groups(adata: ad.AnnData) -> GroupStatistics:
    return summarised(adata)


# --------------------------------------------------------------------------------------------
# Factors
# --------------------------------------------------------------------------------------------


def test_factors_within_types_are_those_of_each_type_alone(groups: GroupStatistics) -> None:
    factors = fm.size_factors(groups, within="cell_type")
    assert list(factors.index) == list(groups.obs.index)
    for level in ("B", "T"):
        rows = (groups.obs["cell_type"] == level).to_numpy()
        np.testing.assert_allclose(factors[rows], tmm_factors(groups.counts[rows]), rtol=1e-14)
        alone = fm.size_factors(groups.subset(rows))
        np.testing.assert_allclose(factors[rows], alone, rtol=1e-14)
    assert factors.nunique() == groups.n_groups
    assert not np.allclose(factors, fm.size_factors(groups))


def test_a_column_with_one_level_is_no_column(groups: GroupStatistics) -> None:
    one = groups.subset(groups.obs["cell_type"] == "B")
    pd.testing.assert_series_equal(fm.size_factors(one, within="cell_type"), fm.size_factors(one))


def test_factors_of_merged_parts_are_those_of_the_whole(
    adata: ad.AnnData, groups: GroupStatistics
) -> None:
    merged = merge([summarised(adata[:150].copy()), summarised(adata[150:].copy())])
    for method in ("tmm", "tmm-expressed"):
        pd.testing.assert_series_equal(
            fm.size_factors(merged, "cell_type", method),
            fm.size_factors(groups, "cell_type", method),
            rtol=1e-12,
        )


def test_groups_of_one_sample_are_added(adata: ad.AnnData, groups: GroupStatistics) -> None:
    rng = np.random.default_rng(3)
    lanes = ad.AnnData(
        adata.X, obs=adata.obs.assign(lane=rng.choice(["a", "b"], adata.n_obs)), var=adata.var
    )
    fine = fm.summarise(lanes, [*BY, "lane"], COVARIATES)
    shared = fm.size_factors(fine, "cell_type", samples=["subject"])
    whole = fm.size_factors(groups, "cell_type")
    names = fine.obs[BY].astype(str).agg("|".join, axis=1)
    np.testing.assert_allclose(shared, whole.loc[names], rtol=1e-12)
    assert fm.size_factors(fine, "cell_type").nunique() == fine.n_groups


def test_total_is_the_library_size_as_it_is(groups: GroupStatistics) -> None:
    assert (fm.size_factors(groups, "cell_type", "total") == 1).all()
    plain = fm.summary_statistics(groups, FIXED, ["subject"])
    total = fm.summary_statistics(groups, FIXED, ["subject"], size_factors="total")
    np.testing.assert_array_equal(total.YtX, plain.YtX)
    np.testing.assert_array_equal(total.XtX, plain.XtX)
    assert "total" in total.notes[-1]


def test_library_sizes_are_those_of_the_covariate_where_they_are_stored(
    adata: ad.AnnData,
) -> None:
    other = ad.AnnData(adata.X, obs=adata.obs.assign(libsize=adata.obs["libsize"] * 3 + 50))
    groups = summarised(other, ["log(libsize)"])
    with pytest.warns(FlashmmWarning, match="times the total of the stored genes"):
        of_totals = fm.size_factors(groups)
    np.testing.assert_allclose(of_totals, tmm_factors(groups.counts), rtol=1e-14)
    stored = summarised(other, ["log(libsize)", "libsize"])
    sizes = other.obs.groupby(BY, observed=True)["libsize"].sum().to_numpy()
    np.testing.assert_allclose(library_sizes(stored), sizes)
    np.testing.assert_allclose(
        fm.size_factors(stored), tmm_factors(stored.counts, sizes), rtol=1e-12
    )


def test_groups_with_too_few_counts_keep_their_library_size(groups: GroupStatistics) -> None:
    counts = groups.counts.copy()
    counts[1] = 0
    counts[2] = np.minimum(counts[2], np.arange(counts.shape[1]) < 5)
    poor = replace(groups, counts=counts)
    with pytest.warns(FlashmmWarning, match="2 of 8 groups have too few counts"):
        factors = fm.size_factors(poor)
    assert factors.iloc[[1, 2]].tolist() == [1.0, 1.0]
    rich = [0, 3, 4, 5, 6, 7]
    np.testing.assert_allclose(factors.iloc[rich], tmm_factors(counts[rich]), rtol=1e-14)
    with pytest.warns(FlashmmWarning, match="too few"):
        stats = fm.summary_statistics(poor, FIXED, ["subject"], size_factors="tmm")
    assert any("too few counts" in text for text in stats.groups.notes)


def test_all_groups_too_small() -> None:
    small = summarised(cells(n_genes=9))
    with pytest.warns(FlashmmWarning, match="8 of 8 groups have too few counts"):
        factors = fm.size_factors(small, "cell_type")
    assert (factors == 1).all()


@pytest.mark.parametrize(
    "path", [None, *real_counts("onek1k20")], ids=lambda path: path and path.stem
)
def test_factors_of_a_file(path: Path | None, tmp_path: Path) -> None:
    if path is None:
        path = tmp_path / "cells.h5ad"
        cells().write_h5ad(path)
    groups = fm.summarise(path, ["subject", "cell_type"], ["log(libsize)"])
    factors = fm.size_factors(groups, "cell_type")
    for level in groups.obs["cell_type"].unique():
        rows = (groups.obs["cell_type"] == level).to_numpy()
        np.testing.assert_allclose(factors[rows], tmm_factors(groups.counts[rows]), rtol=1e-14)


# --------------------------------------------------------------------------------------------
# In the stored sums
# --------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), n_cells=st.integers(1, 80))
def test_sums_are_those_of_cells_with_other_library_sizes(seed: int, n_cells: int) -> None:
    adata = cells(n_cells, n_genes=5, seed=seed)
    covariates = [*COVARIATES, "libsize", "libsize:x"]
    groups = summarised(adata, covariates)
    f = np.random.default_rng(seed).lognormal(0, 0.5, groups.n_groups)
    factors = pd.Series(f, index=groups.obs.index)
    changed = fm.with_size_factors(groups, factors.sample(frac=1, random_state=seed))
    assert_same(changed, summarised(multiplied(adata, factors), covariates))
    assert_same(fm.with_size_factors(groups, f), changed)
    assert changed.provenance["size_factors"]["factors"] == pytest.approx(factors.to_dict())


def test_a_fit_is_that_of_cells_with_other_library_sizes(
    adata: ad.AnnData, groups: GroupStatistics
) -> None:
    stats = fm.summary_statistics(groups, FIXED, ["subject"], size_factors="tmm")
    factors = fm.size_factors(groups, within="cell_type")
    direct = fm.summary_statistics(summarised(multiplied(adata, factors)), FIXED, ["subject"])
    for name in ("XtX", "YtX", "ZtX", "ZtZ", "yty", "YtZ", "X_sum"):
        np.testing.assert_allclose(getattr(stats, name), getattr(direct, name), rtol=1e-12)
    np.testing.assert_allclose(fm.fit_lmm(stats).coef, fm.fit_lmm(direct).coef, rtol=1e-8)
    record = stats.groups.provenance["size_factors"]
    assert (record["method"], record["within"]) == ("tmm", "cell_type")
    assert stats.notes[-1].startswith("Library sizes are multiplied by size factors, tmm within")
    plain = fm.summary_statistics(groups, FIXED, ["subject"])
    assert "size_factors" not in plain.groups.provenance
    assert not np.allclose(plain.XtX, stats.XtX)


def test_parts_with_given_factors(adata: ad.AnnData, groups: GroupStatistics) -> None:
    """A subset of groups with factors is the subset, with its factors."""
    factors = fm.size_factors(groups)
    rows = (groups.obs["cell_type"] == "T").to_numpy()
    one = fm.with_size_factors(groups, factors).subset(rows)
    assert_same(one, fm.with_size_factors(groups.subset(rows), factors[rows]))


def test_files_keep_the_factors(groups: GroupStatistics, tmp_path: Path) -> None:
    plain, changed = tmp_path / "plain.h5ad", tmp_path / "changed.h5ad"
    fm.write_groups(groups, plain)
    stats = fm.summary_statistics(groups, FIXED, ["subject"], size_factors="tmm")
    fm.write_groups(stats.groups, changed)
    fit = fm.fit_lmm(stats)
    assert fm.read_groups(changed).provenance == stats.groups.provenance
    for source in (plain, changed):
        fm.write_fit(fit, tmp_path / "fit.h5ad", source)
        again = fm.read_fit(tmp_path / "fit.h5ad")
        np.testing.assert_array_equal(again.stats.YtX, fit.stats.YtX)
        assert again.stats.groups.provenance["size_factors"]["within"] == "cell_type"


def test_jobs_of_some_genes_take_the_factors_of_all(
    groups: GroupStatistics, tmp_path: Path
) -> None:
    path = tmp_path / "groups.h5ad"
    fm.write_groups(groups, path)
    factors = fm.read_size_factors(path, within="cell_type")
    pd.testing.assert_series_equal(factors, fm.size_factors(groups, within="cell_type"))
    some = fm.read_groups(path, genes=(10, 25))
    with pytest.raises(InputError, match=r"hold 15 of the 40 of their file.*read_size_factors"):
        fm.size_factors(some)
    whole = fm.summary_statistics(groups, FIXED, ["subject"], size_factors="tmm")
    stats = fm.summary_statistics(some, FIXED, ["subject"], size_factors=factors)
    np.testing.assert_allclose(stats.YtX, whole.YtX[10:25], rtol=1e-14)
    fm.write_fit(fm.fit_lmm(stats), tmp_path / "fit.h5ad", path)
    again = fm.read_fit(tmp_path / "fit.h5ad")
    np.testing.assert_array_equal(again.stats.YtX, stats.YtX)
    without = fm.with_size_factors(fm.read_groups(path), np.ones(groups.n_groups))
    assert_same(without, groups)


def test_factors_of_a_column(adata: ad.AnnData) -> None:
    f = adata.obs["subject"].map({"S0": 0.5, "S1": 2.0, "S2": 1.0, "S3": 1.25})
    wide = ad.AnnData(adata.X, obs=adata.obs.assign(f=f), var=adata.var)
    groups = fm.summarise(wide, [*BY, "f"], COVARIATES)
    stats = fm.summary_statistics(groups, FIXED, ["subject"], size_factors="f")
    direct = ad.AnnData(wide.X, obs=wide.obs.assign(libsize=wide.obs["libsize"] * f), var=wide.var)
    assert_same(stats.groups, fm.summarise(direct, [*BY, "f"], COVARIATES))
    assert stats.groups.provenance["size_factors"]["method"] == "f"


# --------------------------------------------------------------------------------------------
# What cannot be used
# --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "tmn"}, r"'tmn' is neither one of 'tmm'.*did you mean 'tmm'"),
        ({"within": "celltype"}, r"within='celltype'.*did you mean 'cell_type'"),
        ({"samples": ["donor"]}, r"samples='donor' is not a column that defines the groups"),
        ({"samples": []}, "samples is empty"),
        ({"method": "condition"}, "Column 'condition' holds category values"),
        ({"method": "sum:x"}, r"Size factors are positive.*column 'sum:x' is -"),
    ],
)
def test_arguments_that_cannot_be_used(
    groups: GroupStatistics, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fm.size_factors(groups, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_factors_are_positive_numbers(groups: GroupStatistics, value: float) -> None:
    factors = fm.size_factors(groups)
    factors.iloc[3] = value
    with pytest.raises(InputError, match=rf"is {value:g} for group '{factors.index[3]}' \(1 of 8"):
        fm.with_size_factors(groups, factors)


def test_factors_belong_to_the_groups(groups: GroupStatistics) -> None:
    with pytest.raises(InputError, match="they lack 1 of 8"):
        fm.with_size_factors(groups, fm.size_factors(groups).iloc[1:])
    with pytest.raises(InputError, match=r"found an array of the shape \(7,\)"):
        fm.with_size_factors(groups, np.ones(7))


def test_counts_are_needed(groups: GroupStatistics) -> None:
    scaled = replace(groups, counts=None)
    with pytest.raises(InputError, match=r"need the sums of raw counts.*Summarise raw counts"):
        fm.size_factors(scaled)
    with pytest.raises(InputError, match="need the sums of raw counts"):
        fm.summary_statistics(scaled, FIXED, ["subject"], size_factors="tmm")


def test_factors_are_applied_once_and_after_a_merge(groups: GroupStatistics) -> None:
    changed = fm.with_size_factors(groups, fm.size_factors(groups))
    with pytest.raises(InputError, match="have size factors already"):
        fm.with_size_factors(changed, np.ones(8))
    with pytest.raises(InputError, match="Merge the groups as summarised"):
        merge([groups, changed])


@pytest.mark.parametrize(
    ("covariates", "message"),
    [
        (["x"], r"none of the stored covariates is a function of it \(found 'x'\)"),
        ([], r"found none"),
        (["sqrt(libsize)"], r"'sqrt\(libsize\)' cannot be changed"),
        (["log(libsize + x * x)"], "cannot be changed"),
        (["log(libsize):libsize"], "cannot be changed"),
        (["x:log(libsize)"], "'x' has to be stored beside it"),
    ],
)
def test_covariates_that_do_not_take_factors(
    adata: ad.AnnData, covariates: list[str], message: str
) -> None:
    groups = summarised(adata, covariates)
    with pytest.raises(InputError, match=message):
        fm.with_size_factors(groups, np.full(8, 1.5))


def test_a_formula_without_the_library_size_is_told(groups: GroupStatistics) -> None:
    with pytest.warns(FlashmmWarning, match=r"change nothing: the formula has no log\(libsize\)"):
        fm.summary_statistics(groups, "~ condition", ["subject"], size_factors="tmm")
