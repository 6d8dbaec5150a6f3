"""The same cells in every container give the same groups, to the last bit."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import cache
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from cell_containers import IDS, N_CELLS, WITH_OBS, WITHOUT_OBS, study, write_10x
from scipy import sparse

import flashmm as fm
from flashmm.cells.counts import open_counts

BY = ["subject", "condition"]
CELLS = study()


def groups_of(data: object, **more: object) -> fm.GroupStatistics:
    return fm.summarise(data, BY, ["log(libsize + 1)"], progress=False, **more)  # type: ignore[arg-type]


EXPECTED = groups_of(CELLS)


def assert_same(found: fm.GroupStatistics, expected: fm.GroupStatistics = EXPECTED) -> None:
    np.testing.assert_array_equal(found.sum, expected.sum)
    np.testing.assert_array_equal(found.sumsq, expected.sumsq)
    np.testing.assert_array_equal(found.counts, expected.counts)
    np.testing.assert_array_equal(found.expressing, expected.expressing)
    assert list(found.genes) == list(expected.genes)
    pd.testing.assert_frame_equal(found.obs, expected.obs)


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], object]:
    """The study in a container of a kind; each is written once."""

    @cache
    def of_kind(kind: str) -> object:
        return {**WITH_OBS, **WITHOUT_OBS}[kind](CELLS, tmp_path_factory.mktemp("study"))

    return of_kind


@pytest.mark.parametrize("kind", WITH_OBS)
def test_containers_with_a_table_of_cells(kind: str, container: Callable[[str], object]) -> None:
    data = container(kind)
    layer = "raw" if kind == "raw" else None
    for chunk_nnz in (7, None):
        assert_same(groups_of(data, chunk_nnz=chunk_nnz, layer=layer))
    with open_counts(data, layer) as source:
        assert source.cell_name(3) == CELLS.obs_names[3]
        assert list(source.column_names()) == ["subject", "condition", "age"]
    if kind == "backed":
        data.file.close()


@pytest.mark.parametrize("kind", WITHOUT_OBS)
def test_containers_with_a_sheet(kind: str, container: Callable[[str], object]) -> None:
    data = container(kind)
    for chunk_nnz in (7, None):
        assert_same(groups_of(data, obs=CELLS.obs, chunk_nnz=chunk_nnz))


@pytest.mark.parametrize("kind", ["zarr 3 csr", "zarr 2 dense", "old h5ad", "10x h5", "mtx.gz"])
def test_shards_of_any_container_make_the_whole(
    kind: str, container: Callable[[str], object]
) -> None:
    data = container(kind)
    parts = [groups_of(data, obs=CELLS.obs, shard=(i, 3)) for i in (1, 2, 3)]
    whole = fm.merge(parts)
    np.testing.assert_array_equal(whole.counts, EXPECTED.counts)
    np.testing.assert_allclose(whole.sum, EXPECTED.sum, rtol=1e-14)


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("cells.tsv", "index"),
        ("cells.csv", "column"),
        ("cells.tsv.gz", "column"),
        ("cells.parquet", "index"),
    ],
)
def test_sheets_are_matched_by_barcode(name: str, where: str, tmp_path: Path) -> None:
    sheet = CELLS.obs.sample(frac=1, random_state=1).rename_axis("barcode")
    if where == "column":
        sheet = sheet.reset_index()[["subject", "barcode", "condition", "age"]]
    sheet = sheet.assign(**{c: sheet[c].astype(str) for c in BY})
    write_10x(CELLS, tmp_path / "cells.h5")
    if name.endswith("parquet"):
        sheet.to_parquet(tmp_path / name)
    else:
        sheet.to_csv(tmp_path / name, sep="," if ".csv" in name else "\t", index=where == "index")
    assert_same(groups_of(tmp_path / "cells.h5", obs=tmp_path / name))
    assert_same(groups_of(tmp_path / "cells.h5", obs=sheet))


def test_what_was_read_is_recorded(tmp_path: Path) -> None:
    write_10x(CELLS, tmp_path / "cells.h5")
    CELLS.obs.to_csv(tmp_path / "cells.csv")
    found = groups_of(tmp_path / "cells.h5", obs=tmp_path / "cells.csv", gene_names="id")
    (record,) = found.provenance["inputs"]
    assert record["obs"]["file"] == "cells.csv" and len(record["obs"]["sha256"]) == 64
    assert record["gene_names"] == "id" and "duplicate_genes" not in record


def test_each_of_several_inputs_has_a_sheet(tmp_path: Path) -> None:
    write_10x(CELLS, tmp_path / "a.h5")
    write_10x(CELLS, tmp_path / "b.h5")
    other = CELLS.obs.assign(subject=CELLS.obs["subject"].astype(str) + "b")
    files = [tmp_path / "a.h5", tmp_path / "b.h5"]
    both = groups_of(files, obs=[CELLS.obs, other])
    assert both.n_cells == 2 * N_CELLS and both.n_groups == 2 * EXPECTED.n_groups
    with pytest.raises(fm.InputError, match="obs is a list of 1 sheets, and data are 2"):
        groups_of(files, obs=[CELLS.obs])
    with pytest.raises(fm.InputError, match="one sheet for several inputs, of which 40 names"):
        groups_of(files, obs=CELLS.obs)


# ---- genes


@pytest.mark.parametrize("kind", ["h5ad csr", "h5ad csc", "zarr 3 dense", "raw"])
@pytest.mark.filterwarnings("ignore:.*names are not unique:UserWarning")
def test_genes_with_one_name(kind: str, tmp_path: Path) -> None:
    cells = CELLS.copy()
    cells.var_names = ["A", "B", "A", "C", "D", "A", "E", "B", "F"]
    data, layer = WITH_OBS[kind](cells, tmp_path), "raw" if kind == "raw" else None
    with pytest.raises(fm.InputError, match=r"2 names .*duplicate_genes='sum'.*gene_names="):
        groups_of(data, layer=layer)
    dense = cells.X.toarray()
    added = np.column_stack([dense[:, cells.var_names == n].sum(1) for n in "ABCDEF"])
    summed = ad.AnnData(added, obs=cells.obs, var=pd.DataFrame(index=list("ABCDEF")))
    with pytest.warns(fm.FlashmmWarning, match="genes with one name were added up, for 2 names"):
        assert_same(groups_of(data, layer=layer, duplicate_genes="sum"), groups_of(summed))
    with pytest.warns(fm.FlashmmWarning, match="2 names that several genes have"):
        told = groups_of(data, layer=layer, duplicate_genes="unique")
    assert list(told.genes)[:3] == ["A_ENSG00000", "B_ENSG00001", "A_ENSG00002"]
    named = groups_of(data, layer=layer, gene_names="gene_ids")
    np.testing.assert_array_equal(named.counts, EXPECTED.counts)
    assert list(named.genes) == IDS


@pytest.mark.filterwarnings("ignore:.*names are not unique:UserWarning")
def test_numbers_of_genes_without_identifiers() -> None:
    cells = ad.AnnData(CELLS.X[:, :4].toarray(), obs=CELLS.obs)
    cells.var_names = ["A", "A", "A-1", "A"]
    with pytest.warns(fm.FlashmmWarning, match="made to differ"):
        found = groups_of(cells, duplicate_genes="unique")
    assert list(found.genes) == ["A", "A-2", "A-1", "A-3"]


def test_symbols_of_10x_that_come_twice(tmp_path: Path) -> None:
    symbols = ["X", "Y", "X", *[f"g{j}" for j in range(3, 9)]]
    write_10x(CELLS, tmp_path / "cells.h5", symbols)
    with pytest.warns(fm.FlashmmWarning, match="made to differ"):
        found = groups_of(tmp_path / "cells.h5", obs=CELLS.obs)
    assert list(found.genes)[:3] == ["X_ENSG00000", "Y", "X_ENSG00002"]
    np.testing.assert_array_equal(found.counts, EXPECTED.counts)
    named = groups_of(tmp_path / "cells.h5", obs=CELLS.obs, gene_names="id")
    assert list(named.genes) == IDS


# ---- into memory


@pytest.mark.parametrize("kind", ["10x h5", "mtx.gz", "zarr 3 csc", "old h5ad"])
def test_cells_of_any_container_in_memory(kind: str, container: Callable[[str], object]) -> None:
    data = container(kind)
    read = fm.read_cells(data, obs=CELLS.obs)
    np.testing.assert_array_equal(read.X.toarray(), CELLS.X.toarray())
    assert read.X.dtype == np.float32 and list(read.obs_names) == list(CELLS.obs_names)
    pd.testing.assert_frame_equal(read.obs, CELLS.obs)
    column = "id" if "id" in read.var else "gene_ids"
    assert list(read.var_names) == list(CELLS.var_names) and list(read.var[column]) == IDS
    with pytest.warns(fm.FlashmmWarning, match="4 of 40 cells have no row in obs; they are left"):
        assert fm.read_cells(data, obs=CELLS.obs[4:][["age"]]).n_obs == N_CELLS - 4


@pytest.mark.parametrize("kind", ["10x h5", "mtx.gz"])
def test_memory_does_not_grow_with_the_number_of_cells(kind: str, tmp_path: Path) -> None:
    def peak(n: int) -> int:
        (folder := tmp_path / str(n)).mkdir()
        obs = pd.DataFrame(index=[f"c{i}" for i in range(n * N_CELLS)])
        many = ad.AnnData(sparse.vstack([CELLS.X] * n, format="csr"), obs=obs, var=CELLS.var)
        with open_counts(WITHOUT_OBS[kind](many, folder)) as source:
            tracemalloc.start()
            for _ in source.blocks(2_000):
                pass
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return peak

    peak(50)  # what is imported at the first use is not counted
    few, many = peak(400), peak(1_100)  # both longer than what pandas reads at once
    # of more cells only where each begins is held, not their values, which take more
    assert many - few < 16 * 700 * N_CELLS


# ---- the whole path, and dask


@pytest.mark.filterwarnings("ignore:.*rests on few subjects")
def test_the_whole_path_from_10x(tmp_path: Path) -> None:
    write_10x(CELLS, tmp_path / "cells.h5")
    CELLS.obs.to_csv(tmp_path / "cells.tsv", sep="\t")
    formula = "~ condition + (1 | subject)"
    found = fm.de(tmp_path / "cells.h5", formula, "condition", obs=tmp_path / "cells.tsv")
    expected = fm.de(CELLS, formula, "condition")
    pd.testing.assert_frame_equal(found.to_frame(), expected.to_frame())
    checked = fm.check(tmp_path / "cells.h5", obs=tmp_path / "cells.tsv")
    assert checked.roles["subject"] == "subject" and checked.matrices == {"X": "counts"}


@pytest.mark.parametrize("chunks", [(7, -1), (-1, -1), (-1, 4), (13, 4)])
@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_dask_arrays(chunks: tuple[int, int], kind: str) -> None:
    array = pytest.importorskip("dask.array", reason="dask is not installed")
    values = CELLS.X.toarray()
    X = array.from_array(values, chunks=chunks)
    if kind == "sparse":
        X = X.map_blocks(sparse.csr_matrix)
    cells = ad.AnnData(X, obs=CELLS.obs, var=CELLS.var)
    assert_same(groups_of(cells))
    assert groups_of(cells, shard=(2, 3)).n_cells == N_CELLS // 3


@pytest.mark.parametrize("kind", ["h5ad csr", "h5ad csc", "zarr 3 csr"])
def test_lazy_anndata(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("dask", reason="dask is not installed")
    pytest.importorskip("xarray", reason="xarray is not installed")
    lazy = ad.experimental.read_lazy(WITH_OBS[kind](CELLS, tmp_path))
    assert_same(groups_of(lazy))
    assert fm.check(lazy).roles["subject"] == "subject"
