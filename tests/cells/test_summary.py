"""summarise against a pandas groupby of the dense values, whatever the layout or the file."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import product
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import xxhash
from blood_cells import blood_cells
from covering import pairwise
from hypothesis import given, settings
from hypothesis import strategies as st
from references import real_counts
from scipy import sparse

from flashmm.cells import running_sums, summary
from flashmm.cells.groups import GroupStatistics, merge
from flashmm.cells.summary import summarise
from flashmm.cells.transforms import TRANSFORMS
from flashmm.kernels import threads as kernel_threads
from flashmm.options import FlashmmWarning, FormulaError, InputError
from flashmm.storage import chunks

BY = ["subject", "cell_type", "condition"]
COVARIATES = ["log(libsize)", "x", "x:log(libsize)"]
FORMULAS = {
    "log2p1": lambda y, size: np.log2(1 + y),
    "log1p": lambda y, size: np.log(1 + y),
    "log1p_cp10k": lambda y, size: np.log(1 + 1e4 * y / size),
    "none": lambda y, size: y,
}


def cells(n_cells: int = 80, n_genes: int = 6, seed: int = 0, libsize: bool = True) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.5, 2.0, n_genes), (n_cells, n_genes))
    counts[:, 0] += 1  # no cell without counts
    obs = pd.DataFrame(
        {
            "subject": rng.choice(["S1", "S2", "S10"], n_cells),
            "cell_type": pd.Categorical(rng.choice(["T", "B"], n_cells), ["T", "NK", "B"]),
            "condition": rng.choice(["ctrl", "stim"], n_cells),
            "age": rng.choice([31, 47], n_cells),
            "x": rng.normal(size=n_cells),
        },
        index=[f"c{i}" for i in range(n_cells)],
    )
    if libsize:
        obs["libsize"] = rng.lognormal(8, 0.5, n_cells)
    var = pd.DataFrame(index=[f"g{j}" for j in range(n_genes)])
    return ad.AnnData(counts.astype(float), obs=obs.astype({"subject": "category"}), var=var)


def oracle(adata: ad.AnnData, transform: str, by: list[str]) -> dict[str, pd.DataFrame]:
    """All sums by pandas, from the dense values."""
    raw = adata.to_df().astype(float)
    size = adata.obs["libsize"] if "libsize" in adata.obs else raw.sum(axis=1)
    y = FORMULAS[transform](raw, size.to_numpy()[:, None])
    log_size = np.log(size)
    x = {"log(libsize)": log_size, "x": adata.obs["x"], "x:log(libsize)": adata.obs["x"] * log_size}

    def grouped(frame: pd.DataFrame | pd.Series) -> pd.DataFrame:
        return frame.groupby([adata.obs[b] for b in by], observed=True).sum()

    moments = {"n_cells": grouped(pd.Series(1, index=raw.index))}
    moments |= {f"sum:{name}": grouped(values) for name, values in x.items()}
    names = list(x)
    for j, first in enumerate(names):
        for second in names[j:]:
            moments[f"sum:{first}*{second}"] = grouped(x[first] * x[second])
    crossed = {f"sum:{name}": grouped(y.mul(values, axis=0)) for name, values in x.items()}
    return {
        "obs": pd.DataFrame(moments),
        "sum": grouped(y),
        "sumsq": grouped(y**2),
        "counts": grouped(raw),
        "expressing": grouped((raw > 0).astype(float)),
    } | crossed


def assert_is_oracle(groups: GroupStatistics, expected: dict[str, pd.DataFrame]) -> None:
    moments = groups.obs[expected["obs"].columns]
    np.testing.assert_allclose(moments, expected["obs"], rtol=1e-12)
    index = expected["obs"].index
    keys = [key if isinstance(key, tuple) else (key,) for key in index]
    assert list(groups.obs.index) == ["|".join(map(str, key)) for key in keys]
    for name, values in groups.gene_sums().items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-12, atol=1e-12, err_msg=name)


def assert_equal(a: GroupStatistics, b: GroupStatistics) -> None:
    """Equal to the last bit."""
    pd.testing.assert_frame_equal(a.obs, b.obs, check_exact=True)
    pd.testing.assert_index_equal(a.genes, b.genes)
    for name, values in a.gene_sums().items():
        np.testing.assert_array_equal(values, b.gene_sums()[name], err_msg=name)


def stored(adata: ad.AnnData, path: Path, **options: object) -> Path:
    adata.copy().write_h5ad(path, **options)
    return path


@cache
def in_memory(
    libsize: bool = True,
    transform: str = "log2p1",
    rows: tuple[int, int] = (0, 80),
) -> GroupStatistics:
    """The sums of `cells`, or of a range of them, from a dense matrix in memory."""
    return summarise(cells(libsize=libsize)[slice(*rows)].copy(), BY, COVARIATES, transform)


LAYOUTS = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": np.asarray}


# ---- what the sums are


@pytest.mark.parametrize("transform", list(FORMULAS))
@pytest.mark.parametrize("libsize", [True, False])
def test_sums_are_those_of_the_dense_values(transform: str, libsize: bool) -> None:
    adata = cells(libsize=libsize)
    groups = summarise(adata, BY, COVARIATES, transform)
    assert_is_oracle(groups, oracle(adata, transform, BY))
    assert list(groups.covariate_sums) == list(groups.covariates) == COVARIATES
    assert (groups.by, groups.transform, groups.n_cells) == (tuple(BY), transform, 80)
    assert groups.sum.dtype == groups.counts.dtype == np.float64
    assert groups.obs["n_cells"].dtype == np.int64
    assert groups.notes == ()


def test_one_column_and_one_covariate_may_be_given_as_text() -> None:
    groups = summarise(cells(), "age", "x")
    assert (groups.by, groups.covariates) == (("age",), ("x",))
    assert list(groups.obs.columns) == ["age", "n_cells", "sum:x", "sum:x*x"]


SOURCES: dict[str, Callable[[ad.AnnData, Path], tuple[object, str | None]]] = {
    "memory": lambda adata, folder: (adata, None),
    "view": lambda adata, folder: (adata[:, :], None),
    "layer": lambda adata, folder: (adata, "counts"),
    "file": lambda adata, folder: (stored(adata, folder / "a.h5ad"), None),
    "gzip": lambda adata, folder: (stored(adata, folder / "a.h5ad", compression="gzip"), "counts"),
    "text": lambda adata, folder: (str(stored(adata, folder / "a.h5ad")), "counts"),
}


@pytest.mark.parametrize(
    ("layout", "source", "chunk_nnz", "libsize", "transform"),
    pairwise(LAYOUTS, SOURCES, (1, 37, 10**6), (True, False), ("log2p1", "log1p_cp10k")),
)
def test_layouts_files_layers_and_block_sizes_change_nothing(
    layout: str, source: str, chunk_nnz: int, libsize: bool, transform: str, tmp_path: Path
) -> None:
    other = cells(libsize=libsize)
    values = other.X
    other.X = LAYOUTS[layout](values.astype(np.float32))
    other.layers["counts"] = LAYOUTS[layout](values.astype(np.int32))
    data, layer = SOURCES[source](other, tmp_path)
    groups = summarise(data, BY, COVARIATES, transform, layer=layer, chunk_nnz=chunk_nnz)
    assert_equal(groups, in_memory(libsize, transform))


def test_a_view_has_the_sums_of_its_own_cells_and_genes() -> None:
    adata = cells()
    adata.X = sparse.csr_matrix(adata.X)
    view = adata[20:70, ["g4", "g1"]]
    assert_is_oracle(summarise(view, BY, COVARIATES), oracle(view.copy(), "log2p1", BY))


def test_several_files_are_one(tmp_path: Path) -> None:
    adata = cells()
    adata.X = sparse.csr_matrix(adata.X)
    whole = summarise(adata, BY, COVARIATES)
    shards = [adata[:30].copy(), adata[30:31].copy(), adata[31:].copy()]
    files = [stored(shard, tmp_path / f"{i}.h5ad") for i, shard in enumerate(shards[:2])]
    # the last is in memory, with its genes in another order
    mixed = [*files, shards[2][:, ["g3", "g0", "g1", "g5", "g4", "g2"]].copy()]
    groups = summarise(mixed, BY, COVARIATES)
    assert_equal(groups, whole)
    assert [entry["n_cells"] for entry in groups.provenance["inputs"]] == [30, 1, 49]


@cache
def forty_cells() -> tuple[ad.AnnData, GroupStatistics]:
    adata = cells(40)
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str)
    return adata, summarise(adata, BY, COVARIATES)


@settings(max_examples=12, deadline=None)
@given(
    order=st.permutations(list(range(40))),
    cuts=st.lists(st.integers(0, 40), max_size=3),
    layout=st.sampled_from([sparse.csr_matrix, sparse.csc_matrix, np.asarray]),
)
@pytest.mark.filterwarnings("ignore::flashmm.options.FlashmmWarning")
def test_merge_of_any_split_in_any_order_is_the_whole(
    order: list[int], cuts: list[int], layout: type
) -> None:
    adata, whole = forty_cells()
    adata = adata.copy()
    adata.X = layout(adata.X)
    pieces = [piece for piece in np.split(np.array(order), sorted(cuts)) if len(piece)]
    merged = merge([summarise(adata[piece], BY, COVARIATES) for piece in pieces])
    pd.testing.assert_frame_equal(merged.obs, whole.obs, rtol=1e-12)
    for name, values in merged.gene_sums().items():
        np.testing.assert_allclose(values, whole.gene_sums()[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "path", [None, *real_counts("kang2", "glioblastoma5")], ids=lambda path: path and path.stem
)
def test_counts_of_an_experiment(path: Path | None, tmp_path: Path) -> None:
    path = path or stored(blood_cells(), tmp_path / "simulated.h5ad", compression="gzip")
    adata = ad.read_h5ad(path)
    adata.obs["x"] = np.linspace(-1, 1, adata.n_obs)
    groups = summarise(path, BY, "log(libsize)", chunk_nnz=50_000)
    expected = oracle(adata, "log2p1", BY)
    assert_is_oracle(groups, expected | {"obs": expected["obs"].iloc[:, [0, 1, 4]]})
    assert list(groups.genes) == list(adata.var_names)


# ---- columns and levels


def test_columns_keep_their_types_and_levels() -> None:
    adata = cells()
    adata.obs["text"] = np.where(adata.obs["age"] > 40, "old", "Young").astype(object)
    adata.obs["flag"] = adata.obs["age"] > 40
    adata.obs["maybe"] = pd.array(adata.obs["age"] > 40, dtype="boolean")
    adata.obs["years"] = pd.array(adata.obs["age"], dtype="Int64")
    adata.obs["real"] = adata.obs["age"] / 2
    adata.obs["objects"] = adata.obs["age"].astype(object)
    adata.obs["string"] = adata.obs["text"].astype("string")
    adata.obs["ordered"] = pd.Categorical(adata.obs["age"], [47, 31], ordered=True)
    by = ["cell_type", "text", "flag", "maybe", "years", "real", "objects", "string", "ordered"]
    obs = summarise(adata, by).obs
    assert list(obs["cell_type"].cat.categories) == ["T", "B"]  # declared order, unused level gone
    assert list(obs["text"].cat.categories) == list(obs["string"].cat.categories)
    assert list(obs["text"].cat.categories) == ["Young", "old"]
    assert list(obs["ordered"].cat.categories) == [47, 31]
    assert obs["ordered"].cat.ordered
    kinds = [obs[c].dtype.kind for c in ("flag", "maybe", "years", "real", "objects")]
    assert kinds == ["b", "b", "i", "f", "i"]
    assert obs.index[0] == "T|Young|False|False|31|15.5|31|Young|31"
    assert list(obs["cell_type"]) == ["T", "T", "B", "B"]


def test_groups_come_in_the_order_of_the_levels() -> None:
    index = summarise(cells(), ["cell_type", "age", "subject"]).obs.index
    cell_type, age, subject = zip(*(name.split("|") for name in index), strict=True)
    assert list(dict.fromkeys(cell_type)) == ["T", "B"]
    assert list(dict.fromkeys(age)) == ["31", "47"]
    assert list(dict.fromkeys(subject)) == ["S1", "S10", "S2"]


def test_declared_levels_hold_over_files() -> None:
    adata = cells()
    levels = ["stim", "ctrl", "never"]
    adata.obs["condition"] = pd.Categorical(adata.obs["condition"], levels)
    parts = [adata[adata.obs["condition"] == level].copy() for level in ("ctrl", "stim")]
    for part in parts:  # a subset has lost them; a file written shard by shard has not
        part.obs["condition"] = part.obs["condition"].cat.set_categories(levels)
        part.obs["cell_type"] = part.obs["cell_type"].astype(str)
    groups = summarise(parts, ["condition"])
    assert list(groups.obs["condition"].cat.categories) == ["stim", "ctrl"]
    assert groups.notes == ()


def test_sorted_levels_of_many_files_need_no_note() -> None:
    parts = [cells(30, seed=seed) for seed in range(3)]
    for name, part in zip(["S3", "S1", "S2"], parts, strict=True):
        part.obs["subject"] = name
    groups = summarise(parts, "subject")
    assert list(groups.obs.index) == ["S1", "S2", "S3"]
    assert groups.notes == ()


def test_columns_of_different_kinds_over_files() -> None:
    first, second = cells(), cells(seed=1)
    second.obs["age"] = second.obs["age"].astype(str)
    with pytest.raises(InputError, match="'age' is numeric and categorical"):
        summarise([first, second], "age")


# ---- library sizes


def test_another_column_of_library_sizes() -> None:
    adata = cells()
    adata.obs["depth"] = adata.obs["libsize"] * 2
    groups = summarise(adata, BY, "log(depth)", "log1p_cp10k", libsize="depth")
    renamed = adata.copy()
    renamed.obs["libsize"] = renamed.obs["depth"]
    expected = summarise(renamed, BY, "log(libsize)", "log1p_cp10k")
    np.testing.assert_array_equal(groups.sum, expected.sum)
    np.testing.assert_array_equal(groups.moment(1, 1), expected.moment(1, 1))


def test_a_counted_library_size_is_said() -> None:
    adata, without = cells(), cells(libsize=False)
    counted = summarise(without, BY, "log(libsize)")
    assert counted.provenance["inputs"][0]["libsize"] == "counted"
    with pytest.warns(FlashmmWarning, match="no column 'depth' in obs"):
        groups = summarise(adata, BY, "log(depth)", libsize="depth")
    np.testing.assert_array_equal(groups.moment(0, 1), counted.moment(0, 1))
    assert len(groups.notes) == 1


def test_library_sizes_of_two_kinds_are_said() -> None:
    first, second = cells(libsize=False), cells(seed=1)
    with pytest.warns(FlashmmWarning, match="counted in 'the AnnData, X'"):
        groups = summarise([first, second], BY, "log(libsize)")
    assert len(groups.notes) == 1
    assert summarise([first, second], BY).notes == ()  # not used


@pytest.mark.parametrize("layout", [sparse.csr_matrix, sparse.csc_matrix])
def test_cells_without_counts(layout: type) -> None:
    adata = cells(libsize=False)
    values = adata.X.copy()
    values[[3, 50]] = 0
    adata.X = layout(values)
    with pytest.raises(InputError, match="2 of 80 cells have no counts at all"):
        summarise(adata, BY, "log(libsize)")
    groups = summarise(adata, BY, transform="log1p_cp10k")  # log(1 + 0) of these cells is zero
    assert groups.n_cells == 80
    assert np.isfinite(groups.sum).all()


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_library_sizes_divide(value: float) -> None:
    adata = cells()
    adata.obs.loc["c7", "libsize"] = value
    with pytest.raises(InputError, match="'libsize' is not a positive number in 1 of 80"):
        summarise(adata, BY, transform="log1p_cp10k")


# ---- missing values


def with_holes() -> ad.AnnData:
    adata = cells()
    adata.obs["condition"] = adata.obs["condition"].astype(object)
    adata.obs.loc[["c1", "c2"], "condition"] = None
    adata.obs.loc[["c2", "c9"], "x"] = np.nan
    return adata


def test_missing_values_are_an_error_with_column_and_count() -> None:
    with pytest.raises(InputError, match=r"3 of 80 cells .*'condition' \(2\), 'x' \(2\).*drop"):
        summarise(with_holes(), BY, COVARIATES)
    assert summarise(with_holes(), "subject").n_cells == 80  # they are in no column in use


@pytest.mark.parametrize("libsize", [True, False])
@pytest.mark.parametrize("layout", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_cells_with_missing_values_are_dropped_on_request(layout: type, libsize: bool) -> None:
    adata = with_holes()
    if not libsize:
        del adata.obs["libsize"]
    kept = adata[adata.obs["condition"].notna() & adata.obs["x"].notna()].copy()
    adata.X = layout(adata.X)
    with pytest.warns(FlashmmWarning, match="3 of 80 cells left out"):
        groups = summarise(adata, BY, COVARIATES, missing="drop", chunk_nnz=1)
    assert_equal(groups, summarise(kept, BY, COVARIATES))
    assert groups.notes[0].endswith("values missing in 'condition' (2), 'x' (2).")
    assert groups.provenance["inputs"][0]["n_cells_left_out"] == 3


def test_no_cell_left() -> None:
    adata = cells()
    adata.obs["x"] = np.nan
    with pytest.raises(InputError, match="no cell is left"):
        summarise(adata, BY, "x", missing="drop")


# ---- counts


def test_values_that_are_no_counts_have_no_sums_of_counts() -> None:
    for change in (0.5, -3.0):
        adata = cells()
        adata.X[70, 0] += change
        adata.X[70, 0] = min(adata.X[70, 0], change) if change < 0 else adata.X[70, 0]
        for layout in (sparse.csr_matrix, sparse.csc_matrix, np.asarray):
            other = adata.copy()
            other.X = layout(adata.X)
            groups = summarise(other, BY, transform="none", chunk_nnz=20)
            assert groups.counts is None
            assert groups.expressing is None
            expected = adata.to_df().groupby([adata.obs[b] for b in BY], observed=True).sum()
            np.testing.assert_allclose(groups.sum, expected, rtol=1e-12)


@pytest.mark.parametrize("transform", ["log2p1", "log1p", "log1p_cp10k"])
def test_transforms_of_counts_need_counts(transform: str) -> None:
    adata = cells()
    adata.X[5, 2] = -1
    with pytest.raises(InputError, match=r"'c5' and gene 'g2' is negative.*transform='none'"):
        summarise(adata, BY, transform=transform)
    adata.X = sparse.csr_matrix(np.log1p(np.abs(adata.X)))
    with pytest.raises(InputError, match=r"is not an integer.*logarithms.*transform='none'"):
        summarise(adata, BY, transform=transform)


@pytest.mark.parametrize("transform", ["log2p1", "log1p", "log1p_cp10k"])
@pytest.mark.parametrize("layout", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
@pytest.mark.parametrize("chunk_nnz", [11, None])
def test_fractional_counts_are_taken_with_a_note(
    transform: str, layout: type, chunk_nnz: int | None
) -> None:
    """Sums and numbers of expressing cells are those of the dense values."""
    adata = cells()
    adata.X[:, 1] += 60  # there is a gene of many counts in every real matrix
    taken = np.random.default_rng(3).uniform(0, 0.3, adata.shape) * (adata.X > 0)
    values = np.where(np.arange(adata.n_obs)[:, None] < 9, adata.X, adata.X - taken)
    made = ad.AnnData(layout(values), obs=adata.obs, var=adata.var)
    with pytest.warns(FlashmmWarning, match="holds counts that are fractional"):
        found = summarise(made, BY, transform=transform, chunk_nnz=chunk_nnz)
    keys = [adata.obs[b] for b in BY]
    frame = pd.DataFrame(values, adata.obs.index)
    expected = frame.groupby(keys, observed=True).sum()
    np.testing.assert_allclose(found.counts, expected, rtol=1e-12)
    numbers = (frame > 0).groupby(keys, observed=True).sum()
    np.testing.assert_array_equal(found.expressing, numbers)
    assert "fractional" in found.notes[-1]


@pytest.mark.parametrize(("value", "fault"), [(np.nan, "not a number"), (np.inf, "infinite")])
@pytest.mark.parametrize("transform", ["log2p1", "none"])
def test_values_are_finite(transform: str, value: float, fault: str) -> None:
    adata = cells()
    adata.X[5, 2] = value
    adata.X = sparse.csr_matrix(adata.X)
    with pytest.raises(InputError, match=f"'c5' and gene 'g2' is {fault}"):
        summarise(adata, BY, transform=transform)


# ---- other bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by": []}, "by is empty"),
        ({"by": ["subject", "subject"]}, "by names something twice"),
        ({"covariates": ["x", "x"]}, "covariates names something twice"),
        ({"by": ["subject", "donor"]}, r"no column 'donor' in obs; it has 'subject', 'cell_type'"),
        ({"covariates": ["log(depth)"]}, "no column 'depth' in obs"),
        ({"covariates": ["condition"]}, "condition"),
        ({"transform": "log"}, "transform='log' is not known"),
        ({"missing": "fill"}, "missing='fill' is not known"),
        ({"layer": "raw"}, "no layer 'raw'"),
        ({"chunk_nnz": 0}, "chunk_nnz=0"),
        ({"data": []}, "data is an empty list"),
        ({"data": 3}, "data is a int"),
        ({"data": "nowhere.h5ad"}, r"no file 'nowhere\.h5ad'"),
    ],
)
def test_arguments_that_cannot_be_used(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        summarise(**({"data": cells(), "by": BY} | arguments))


@pytest.mark.parametrize("name", ["n_cells", "sum:x"])
def test_names_kept_for_results(name: str) -> None:
    adata = cells()
    adata.obs[name] = "a"
    with pytest.raises(InputError, match=f"'{name}', a name kept for results"):
        summarise(adata, name)


@pytest.mark.parametrize("covariate", ["scale(x)", "__import__('os')", "x.mean", "x +"])
def test_covariates_are_simple_expressions(covariate: str) -> None:
    with pytest.raises(FormulaError):
        summarise(cells(), BY, covariate)


def test_values_of_mixed_types_make_no_groups() -> None:
    adata = cells()
    adata.obs["mixed"] = pd.Series(["a", 1] * 40, dtype=object).to_numpy()
    adata.obs["date"] = pd.Timestamp("2020-01-01")
    with pytest.raises(InputError, match="'mixed' holds values of the type mixed-integer"):
        summarise(adata, "mixed")
    with pytest.raises(InputError, match="'date' holds values of the type datetime64"):
        summarise(adata, "date")


def test_files_with_other_genes(tmp_path: Path) -> None:
    adata = cells()
    other = adata[:, ["g0", "g1", "g2", "g3", "g4"]].copy()
    files = [stored(adata, tmp_path / "a.h5ad"), stored(other, tmp_path / "b.h5ad")]
    with pytest.raises(InputError, match=r"b\.h5ad', X has not the same genes as .*a\.h5ad'.*'g5'"):
        summarise(files, BY)


def test_data_given_twice(tmp_path: Path) -> None:
    adata = cells()
    path = stored(adata, tmp_path / "a.h5ad")
    (tmp_path / "sub").mkdir()
    for twice in ([adata, adata], [path, str(tmp_path / "sub" / ".." / "a.h5ad")]):
        with pytest.raises(InputError, match="twice"):
            summarise(twice, BY)


def test_a_damaged_file_is_found_among_several(tmp_path: Path) -> None:
    files = [stored(cells(seed=i), tmp_path / f"{i}.h5ad") for i in range(2)]
    files[1].write_bytes(files[1].read_bytes()[:5_000])
    with pytest.raises(InputError, match=r"1\.h5ad' cannot be read"):
        summarise(files, BY)


def test_cells_that_are_all_groups_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert summarise(cells(), ["subject", "x"]).n_groups == 80
    monkeypatch.setattr(summary, "_MOST_SINGLE_CELLS", 50)
    with pytest.raises(InputError, match=r"80 cells is a group of its own, by the column 'x'"):
        summarise(cells(), ["subject", "x"])


# ---- provenance, progress


def test_provenance_names_inputs_by_content(tmp_path: Path) -> None:
    path = stored(cells(), tmp_path / "cells.h5ad")
    groups = summarise(path, BY, COVARIATES)
    record = json.loads(json.dumps(groups.provenance))
    assert record == groups.provenance
    assert record["options"] == {"by": BY, "covariates": COVARIATES, "transform": "log2p1"}
    (entry,) = record["inputs"]
    assert entry["digest"] == f"xxh3_128:{xxhash.xxh3_128(path.read_bytes()).hexdigest()}"
    assert (entry["file"], entry["n_cells"], entry["n_genes"]) == ("cells.h5ad", 80, 6)
    assert record["flashmm"] == entry["flashmm"] != ""
    assert str(tmp_path) not in json.dumps(record)  # the same result in every folder


def test_the_digest_of_an_anndata_in_memory_is_that_of_its_values() -> None:
    def digest(adata: ad.AnnData, **options: int) -> str:
        return str(summarise(adata, BY, **options).provenance["inputs"][0]["digest"])

    adata, changed = cells(), cells()
    as_sparse = cells()
    as_sparse.X = sparse.csc_matrix(as_sparse.X)
    changed.X[3, 3] += 1
    assert digest(adata) == digest(as_sparse) == digest(adata, chunk_nnz=7)
    assert digest(adata) != digest(changed)


def test_progress_is_shown_on_request(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = stored(cells(), tmp_path / "cells.h5ad")
    summarise(path, BY, progress=False)
    summarise(path, BY)  # no terminal here
    assert capfd.readouterr().err == ""
    summarise(path, BY, progress=True, chunk_nnz=50)
    shown = capfd.readouterr().err
    assert "cells.h5ad: 100%" in shown


def test_the_input_is_left_as_it_was() -> None:
    adata = cells()
    before = adata.copy()
    summarise(adata, BY, COVARIATES)
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    np.testing.assert_array_equal(adata.X, before.X)


# ---- compressed files


FILTERS: dict[str, dict[str, object]] = {
    "gzip": {"compression": "gzip"},
    "shuffle": {"compression": "gzip", "shuffle": True},
    "checksum": {"compression": "gzip", "fletcher32": True},
    "lzf": {"compression": "lzf"},
    "unfiltered": {},
    "one piece": {"chunks": None},
}
STORED_TYPES = [("<f4", "<i4"), ("<f8", "<i8"), ("<u2", "<i4"), (">i4", ">i8")]


def rewritten(path: Path, types: tuple[str, str], options: dict[str, object]) -> Path:
    """Store the values and their positions in another way."""
    with h5py.File(path, "r+") as file:
        for name, kind in zip(("X/data", "X/indices"), types, strict=True):
            content = file[name][:].astype(kind)
            del file[name]
            file.create_dataset(name, data=content, **({"chunks": (13,)} | options))
    return path


@pytest.mark.parametrize(
    ("how", "types", "layout", "chunk_nnz"),
    pairwise(FILTERS, STORED_TYPES, ("csr", "csc"), (20, 60, 10**6)),
    ids=str,
)
def test_filters_chunks_and_types_change_nothing(
    how: str, types: tuple[str, str], layout: str, chunk_nnz: int, tmp_path: Path
) -> None:
    adata = cells(libsize=False)
    adata.X = LAYOUTS[layout](adata.X)
    path = rewritten(stored(adata, tmp_path / "cells.h5ad"), types, FILTERS[how])
    groups = summarise(path, BY, COVARIATES, chunk_nnz=chunk_nnz)
    assert_equal(groups, in_memory(libsize=False))


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_the_number_of_threads_changes_nothing(
    threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adata = cells(300, 40)
    adata.X = sparse.csr_matrix(adata.X.astype(np.float32))
    expected = summarise(adata, BY, COVARIATES)
    path = stored(adata, tmp_path / "cells.h5ad", compression="gzip")
    monkeypatch.setattr(chunks, "THREADS", threads)
    for chunk_nnz in (100, 1000):
        assert_equal(summarise(path, BY, COVARIATES, chunk_nnz=chunk_nnz), expected)


@pytest.mark.filterwarnings("ignore::flashmm.options.FlashmmWarning")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_added_in_two_threads_are_added_in_their_order(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (running_sums, kernel_threads):
        monkeypatch.setattr(module, "thread_count", lambda: 2)
    for size, pieces in (((50, 8), (1,)), ((300, 40), (500, 10**6))):
        adata = cells(*size)
        adata.X = LAYOUTS[layout](adata.X)
        adata.obs.loc[adata.obs_names[::7], "x"] = np.nan
        monkeypatch.setattr(running_sums, "WORTH_THREADS", np.inf)
        expected = summarise(adata, BY, COVARIATES, missing="drop")
        monkeypatch.setattr(running_sums, "WORTH_THREADS", 0)
        path = stored(adata, tmp_path / "cells.h5ad")
        for data, chunk_nnz in product((adata, path), pieces):
            again = summarise(data, BY, COVARIATES, missing="drop", chunk_nnz=chunk_nnz)
            assert_equal(again, expected)


@pytest.mark.parametrize("transform", list(FORMULAS))
def test_sums_are_added_cell_by_cell(transform: str, tmp_path: Path) -> None:
    """Equal to the last bit to the transform of each value and one addition after another."""
    adata = cells(200)
    raw = adata.X
    if transform == "log1p_cp10k":  # compiled: the log1p of C, whose last bit is not numpy's
        y = np.vectorize(math.log1p)(1e4 * raw / adata.obs["libsize"].to_numpy()[:, None])
    else:
        y = TRANSFORMS[transform].apply(raw, np.empty(0))
    adata.X = sparse.csr_matrix(raw)
    groups = summarise(stored(adata, tmp_path / "a.h5ad", compression="gzip"), BY, "x", transform)
    names = adata.obs[BY].astype(str).agg("|".join, axis=1)
    at = groups.obs.index.get_indexer(names)
    x = adata.obs["x"].to_numpy()[:, None]
    terms = {"sum": y, "sumsq": y * y, "sum:x": x * y, "counts": raw, "expressing": raw > 0}
    for name, values in terms.items():
        total = np.zeros((groups.n_groups, adata.n_vars))
        np.add.at(total, at, values)
        np.testing.assert_array_equal(groups.gene_sums()[name], total, err_msg=name)


@pytest.mark.parametrize("transform", ["log2p1", "none", "log1p_cp10k"])
@pytest.mark.parametrize("layout", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_counts_too_large_for_a_table(layout: type, transform: str) -> None:
    adata = cells()
    adata.X[[3, 60], [2, 2]] = [2.0**21, 2.0**40]
    expected = oracle(adata, transform, BY)
    adata.X = layout(adata.X)
    for chunk_nnz in (30, 10**6):
        groups = summarise(adata, BY, COVARIATES, transform, chunk_nnz=chunk_nnz)
        assert_is_oracle(groups, expected)


@pytest.mark.parametrize("transform", ["log2p1", "log1p_cp10k"])
@pytest.mark.parametrize("layout", [sparse.csr_matrix, sparse.csc_matrix])
def test_stored_zeros_and_read_only_arrays(layout: type, transform: str) -> None:
    adata = cells(libsize=False)
    adata.X[[3, 50]] = 0  # cells without counts
    expected = summarise(adata, BY, "x", transform)
    matrix = layout(adata.X + 1)
    matrix.data -= 1
    matrix.data.setflags(write=False)
    matrix.indices.setflags(write=False)
    adata.X = matrix
    assert_equal(summarise(adata, BY, "x", transform, chunk_nnz=50), expected)


@pytest.mark.parametrize("fault", [np.nan, 0.5])
def test_no_thread_is_left_behind_by_an_error(fault: float, tmp_path: Path) -> None:
    adata = cells(300, 40)
    adata.X[2, 2] = fault
    adata.X = sparse.csr_matrix(adata.X)
    path = stored(adata, tmp_path / "cells.h5ad", compression="gzip")
    before = threading.active_count()
    with pytest.raises(InputError, match="'c2' and gene 'g2'"):
        summarise(path, BY, chunk_nnz=200)
    assert threading.active_count() == before


# ---- ranges of cells


@pytest.mark.parametrize(
    ("layout", "libsize", "where"), pairwise(LAYOUTS, (True, False), ("file", "memory"))
)
def test_shards_put_together_are_the_whole(
    layout: str, libsize: bool, where: str, tmp_path: Path
) -> None:
    adata = cells(libsize=libsize)
    adata.X = LAYOUTS[layout](adata.X)
    # a level that only the last shard has, and orders that a shard alone cannot know
    adata.obs["site"] = pd.Categorical(["z"] * 75 + ["a"] * 5, ["z", "m", "a"])
    data = adata if where == "memory" else stored(adata, tmp_path / "a.h5ad", compression="gzip")
    by = [*BY, "site"]
    whole = summarise(data, by, COVARIATES, "log1p_cp10k")
    parts = [
        summarise(data, by, COVARIATES, "log1p_cp10k", shard=(i, 5), chunk_nnz=40)
        for i in range(1, 6)
    ]
    assert sum(part.n_cells for part in parts) == 80
    for merged in (merge(parts), merge([merge(parts[:2]), merge(parts[2:4]), parts[4]])):
        pd.testing.assert_frame_equal(merged.obs, whole.obs, rtol=1e-13)
        np.testing.assert_array_equal(merged.counts, whole.counts)
        for name, values in merged.gene_sums().items():
            np.testing.assert_allclose(values, whole.gene_sums()[name], rtol=1e-13, atol=1e-13)
        assert merged.notes == whole.notes == ()


@pytest.mark.parametrize(
    ("stored_as", "rows", "chunk_nnz"),
    pairwise(
        (("csr", None), ("csc", None), ("dense", None), ("dense", (7, 2))),
        ((0, 1), (13, 52), (79, 80), (0, 80)),
        (15, 60, 10**6),
    ),
    ids=str,
)
def test_a_range_is_the_same_as_its_cells_alone(
    stored_as: tuple[str, tuple[int, int] | None],
    rows: tuple[int, int],
    chunk_nnz: int,
    tmp_path: Path,
) -> None:
    layout, chunks = stored_as
    adata = cells()
    adata.X = LAYOUTS[layout](adata.X)
    path = stored(adata, tmp_path / "a.h5ad")
    if chunks:
        with h5py.File(path, "r+") as file:
            attributes = dict(file["X"].attrs)
            del file["X"]
            file.create_dataset("X", data=adata.X, chunks=chunks).attrs.update(attributes)
    groups = summarise(path, BY, COVARIATES, cells=rows, chunk_nnz=chunk_nnz)
    assert_equal(groups, in_memory(rows=rows))


def test_ranges_that_are_not_there(tmp_path: Path) -> None:
    adata = cells()
    for wrong in ((0, 81), (5, 5), (-1, 3), (50, 40)):
        with pytest.raises(InputError, match=r"cells=\(.*0 <= start < stop <= 80"):
            summarise(adata, BY, cells=wrong)
    for wrong in ((0, 2), (3, 2), (1, 81)):
        with pytest.raises(InputError, match=r"shard=\(.*number of cells, 80"):
            summarise(adata, BY, shard=wrong)
    for options in ({"cells": (1, 2, 3)}, {"shard": "ab"}, {"shard": 2}):
        with pytest.raises(InputError, match="must be 2 whole numbers"):
            summarise(adata, BY, **options)
    with pytest.raises(InputError, match="give one of them"):
        summarise(adata, BY, cells=(0, 5), shard=(1, 2))
    with pytest.raises(InputError, match="one input; data holds 2"):
        summarise([adata, cells(seed=1)], BY, shard=(1, 2))


def test_checks_of_a_range_concern_its_cells(tmp_path: Path) -> None:
    adata = cells()
    adata.X[70, 2] = 0.5
    adata.obs.loc["c75", "x"] = np.nan
    path = stored(adata, tmp_path / "a.h5ad")
    summarise(path, BY, "x", shard=(1, 2))
    with pytest.raises(InputError, match="cells 40 to 74: the value of cell 'c70' and gene 'g2'"):
        summarise(path, BY, "x", cells=(40, 75))
    with pytest.raises(InputError, match=r"cells 71 to 79: 1 of 9 cells have missing values"):
        summarise(path, BY, "x", cells=(71, 80))

    adata = cells()
    adata.obs_names = [*adata.obs_names[:-1], "c60"]
    for shard in ((1, 4), (4, 4)):
        with pytest.raises(InputError, match="more than one of the cells"):
            summarise(adata, BY, shard=shard)


def test_ranges_record_what_they_read_and_do_not_count_double(tmp_path: Path) -> None:
    path = stored(cells(), tmp_path / "a.h5ad", compression="gzip")
    parts = [summarise(path, BY, shard=(i, 3)) for i in (1, 2, 3)]
    whole = summarise(path, BY)
    content, begin = path.read_bytes(), 0
    for part in parts:  # their digests are those of the whole file, once
        (record,) = json.loads(json.dumps(part.provenance))["inputs"]
        assert record["bytes"][0] == begin
        begin = record["bytes"][1]
        digest = xxhash.xxh3_128(content[slice(*record["bytes"])]).hexdigest()
        assert record["digest"] == f"xxh3_128:{digest}"
        assert record["file_id"] == whole.provenance["inputs"][0]["file_id"]
    assert begin == len(content)
    assert parts[1].provenance["inputs"][0]["cells"] == [26, 53]
    with pytest.raises(InputError, match=r"cells 50 to 52\) .* \(shard 2 of 3, cells 26 to 52\)"):
        merge([*parts, summarise(path, BY, cells=(50, 53))])
    with pytest.raises(InputError, match=r"'a\.h5ad'.*count double"):
        merge([whole, parts[0]])
    copied = tmp_path / "b.h5ad"
    copied.write_bytes(content)
    with pytest.raises(InputError, match=r"'b\.h5ad' holds cells of 'a\.h5ad'|'a.* of 'b"):
        merge([whole, summarise(copied, BY)])


def test_shards_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = stored(cells(), tmp_path / "a.h5ad")
    other = stored(cells(seed=1, n_genes=4), tmp_path / "b.h5ad")
    with pytest.raises(InputError, match=r"part 2, 'b\.h5ad' .* as the first part, 'a\.h5ad'"):
        merge([summarise(path, BY), summarise(other, BY)])
    with pytest.raises(InputError, match=r"'by'.*'a\.h5ad' \(shard 1 of 2.*part 2, 'b\.h5ad'"):
        merge([summarise(path, BY, shard=(1, 2)), summarise(other, BY[:2])])


@pytest.mark.parametrize("layout", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
@pytest.mark.parametrize("compression", ["gzip", None])
def test_files_that_are_cut_are_named(layout: type, compression: str, tmp_path: Path) -> None:
    adata = cells(400, 50)
    adata.X = layout(adata.X)
    content = stored(adata, tmp_path / "a.h5ad", compression=compression).read_bytes()
    path = tmp_path / "cut.h5ad"
    for share in (0.0, 0.1, 0.5, 0.9, 0.999):
        path.write_bytes(content[: int(share * len(content))])
        for options in ({}, {"shard": (2, 3)}):
            with pytest.raises(InputError, match=r"^.*cut\.h5ad' .*$"):
                summarise(path, BY, **options)


@pytest.mark.parametrize("alone", [True, False])
def test_a_file_that_is_replaced_while_it_is_in_use(
    alone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, last = stored(cells(), tmp_path / "a.h5ad"), stored(cells(), tmp_path / "c.h5ad")
    other = stored(cells(seed=1), tmp_path / "b.h5ad")
    opened = summary.open_counts
    seen = []

    @contextmanager
    def replacing(*given: object, **named: object) -> Iterator[object]:
        seen.append(given)
        if not alone and len(seen) == 3:  # between the table and the counts of the first
            os.replace(other, path)
        with opened(*given, **named) as source:
            if alone:
                os.replace(other, path)
            yield source

    monkeypatch.setattr(summary, "open_counts", replacing)
    with pytest.raises(InputError, match=r"a\.h5ad' was replaced or changed while it was read"):
        summarise(path if alone else [path, last], BY)


# ---- memory


def test_sums_on_disk_are_those_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stored(cells(), tmp_path / "a.h5ad", compression="gzip")
    expected = summarise(path, BY, COVARIATES)
    monkeypatch.setenv("FLASHMM_MEMORY_MB", "0")
    with pytest.warns(FlashmmWarning, match="group statistics take .* temporary file"):
        groups = summarise(path, BY, COVARIATES)
    assert_equal(groups, expected)
    assert groups.notes == ()


_MEASURE = """
import resource, sys
import flashmm
def peak(file, **options):
    flashmm.summarise(file, ["subject"], chunk_nnz=2**16, **options)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
few, many = sys.argv[1:]
peak(few, shard=(1, 20))
few = peak(few)
print(peak(many) - few)
"""


def write_many(path: Path, n_cells: int) -> None:
    """Counts in 2,000 genes, of which each cell has 300."""
    rng = np.random.default_rng(0)
    genes = np.sort(np.argsort(rng.random((1_000, 2_000)), axis=1)[:, :300], axis=1)
    indices = np.tile(genes.ravel(), n_cells // 1_000).astype(np.int32)
    values = rng.integers(1, 5, len(indices)).astype(np.float32)
    counts = sparse.csr_matrix((values, indices, np.arange(0, len(indices) + 1, 300)))
    obs = pd.DataFrame({"subject": np.arange(n_cells) % 10}, [f"c{i}" for i in range(n_cells)])
    adata = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"g{j}" for j in range(2_000)]))
    adata.write_h5ad(path, compression="gzip", compression_opts=1)


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss in KiB")
def test_memory_does_not_grow_with_the_values(tmp_path: Path) -> None:
    """Four times the values take no more memory; they would take 7 and 29 MB uncompressed."""
    files = tmp_path / "few.h5ad", tmp_path / "many.h5ad"
    for path, n_cells in zip(files, (3_000, 12_000), strict=True):
        write_many(path, n_cells)
    command = [sys.executable, "-c", _MEASURE, *map(str, files)]
    grown = int(subprocess.run(command, check=True, capture_output=True).stdout) / 1024
    assert grown < 10
