"""Files: exact round trips, nothing half-written, and errors that name the file."""

from __future__ import annotations

import hashlib
import json
from importlib import metadata
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import flashmm
from flashmm.files import atomic_path, file_digest, package_version, reading
from flashmm.groups import GroupStatistics, moment_names
from flashmm.io import read_groups, read_provenance, read_table, write_groups, write_table
from flashmm.options import DesignError, InputError

KEYS = {
    "subject": pd.Categorical(["S2", "S10", "S2"], ["S2", "S10"]),
    "batch": pd.Categorical([7, 1, 1], [7, 1], ordered=True),
    "site/lab": pd.Categorical(["a/b", "c", "c"]),
    "age": [47, 31, 31],
    "weight": [70.5, 81.25, 81.25],
    "treated": [True, False, True],
}


def make_groups(
    covariates: tuple[str, ...] = ("log(libsize / 10000)", "x"), counts: bool = True
) -> GroupStatistics:
    rng = np.random.default_rng(0)
    moments = {name: rng.normal(size=3) for name in moment_names(covariates)}
    obs = pd.DataFrame(KEYS | moments | {"n_cells": [3, 2**40, 1]})
    obs.index = pd.Index(["S2|7|a/b", "S10|1|c", "S2|1|c"])
    return GroupStatistics(
        obs=obs,
        genes=pd.Index(["HLA-A", "g/2", "MT-CO1", "x y"]),
        sum=rng.normal(size=(3, 4)),
        sumsq=rng.normal(size=(3, 4)) * 1e300,
        covariate_sums={x: rng.normal(size=(3, 4)) for x in covariates},
        counts=rng.poisson(5, (3, 4)).astype(float) if counts else None,
        by=tuple(KEYS),
        covariates=covariates,
        transform="log2p1",
        provenance={"flashmm": "1", "inputs": [{"file": "a.h5ad", "layer": None, "n_cells": 3}]},
        notes=("Levels differ.", "Two: 'α'.") if counts else (),
    )


def assert_equal(a: GroupStatistics, b: GroupStatistics) -> None:
    pd.testing.assert_frame_equal(a.obs, b.obs, check_exact=True)
    pd.testing.assert_index_equal(a.genes, b.genes)
    assert list(a.gene_sums()) == list(b.gene_sums())
    for name, values in a.gene_sums().items():
        np.testing.assert_array_equal(values, b.gene_sums()[name], strict=True)
    for field in ("by", "covariates", "transform", "provenance", "notes"):
        assert getattr(a, field) == getattr(b, field), field


# ---- groups


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("covariates", [("log(libsize / 10000)", "x"), ()])
def test_groups_come_back_as_they_were(
    covariates: tuple[str, ...], counts: bool, tmp_path: Path
) -> None:
    groups = make_groups(covariates, counts)
    write_groups(groups, tmp_path / "groups.h5ad")
    assert_equal(read_groups(tmp_path / "groups.h5ad"), groups)
    assert [path.name for path in tmp_path.iterdir()] == ["groups.h5ad"]


def test_a_file_of_groups_is_an_anndata(tmp_path: Path) -> None:
    groups = make_groups()
    write_groups(groups, tmp_path / "groups.h5ad")
    adata = ad.read_h5ad(tmp_path / "groups.h5ad")
    np.testing.assert_array_equal(adata.X, groups.counts)
    assert list(adata.obs_names) == ["S2|7|a/b", "S10|1|c", "S2|1|c"]
    assert list(adata.var_names) == list(groups.genes)
    assert list(adata.obs.columns) == [
        *("subject", "batch", "site_lab", "age", "weight", "treated", "n_cells"),
        *("sum:log(libsize _ 10000)", "sum:x"),
        "sum:log(libsize _ 10000)*log(libsize _ 10000)",
        *("sum:log(libsize _ 10000)*x", "sum:x*x"),
    ]
    assert set(adata.layers) - {None} == {"sum", "sumsq", "sum:log(libsize _ 10000)", "sum:x"}
    np.testing.assert_array_equal(adata.layers["sum:x"], groups.covariate_sums["x"])
    recipe = adata.uns["flashmm"]
    assert list(recipe["by"]) == list(groups.by)
    assert list(recipe["covariates"]) == ["log(libsize / 10000)", "x"]
    assert recipe["transform"] == "log2p1"
    assert json.loads(recipe["provenance"]) == groups.provenance

    write_groups(make_groups(counts=False), tmp_path / "groups.h5ad")
    assert ad.read_h5ad(tmp_path / "groups.h5ad").X is None


def test_names_that_become_equal_without_their_slash(tmp_path: Path) -> None:
    groups = make_groups(("a/b", "a_b", "a_b_"))
    write_groups(groups, tmp_path / "groups.h5ad")
    assert_equal(read_groups(tmp_path / "groups.h5ad"), groups)


def test_the_same_groups_give_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write_groups(make_groups(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("uns/flashmm", r"does not hold statistics of groups.*'by'"),
        ("uns/flashmm/transform", r"does not hold statistics of groups.*'transform'"),
        ("layers/sumsq", r"lacks the layer\(s\) 'sumsq'; it has 'sum"),
        ("layers/sum:x", r"lacks the layer\(s\) 'sum:x'"),
        ("obs/n_cells", r"lacks the obs column\(s\) 'n_cells'"),
    ],
)
def test_a_file_with_something_else(removed: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "groups.h5ad"
    write_groups(make_groups(), path)
    with h5py.File(path, "r+") as file:
        del file[removed]
        columns = [name for name in file["obs"].attrs["column-order"] if name in file["obs"]]
        file["obs"].attrs["column-order"] = columns
    with pytest.raises(InputError, match=rf"groups\.h5ad' {message}"):
        read_groups(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "groups.h5ad"
    with pytest.raises(InputError, match=r"no file '.*groups\.h5ad'"):
        read_groups(path)
    write_groups(make_groups(), path)
    path.write_bytes(path.read_bytes()[:3_000])
    with pytest.raises(InputError, match=r"groups\.h5ad' cannot be read"):
        read_groups(path)


def test_damaged_provenance(tmp_path: Path) -> None:
    path = tmp_path / "groups.h5ad"
    write_groups(make_groups(), path)
    with h5py.File(path, "r+") as file:
        file["uns/flashmm/provenance"][()] = "{"
    with pytest.raises(InputError, match=r"groups\.h5ad' cannot be read"):
        read_groups(path)


def test_groups_that_another_tool_stored_sparse(tmp_path: Path) -> None:
    path = tmp_path / "groups.h5ad"
    write_groups(make_groups(), path)
    adata = ad.read_h5ad(path)
    adata.X = sparse.csr_matrix(adata.X)
    adata.layers["sum"] = sparse.csr_matrix(adata.layers["sum"])
    adata.write_h5ad(path)
    assert_equal(read_groups(path), make_groups())


def test_errors_of_our_own_pass_while_a_file_is_read() -> None:
    with pytest.raises(DesignError, match="constant"), reading("fit.h5ad"):
        raise DesignError("the subject column is constant")


# ---- writing whole files


def test_atomic_path_writes_in_place(tmp_path: Path) -> None:
    target = tmp_path / "new" / "table.tsv.gz"
    with atomic_path(target) as path:
        path.write_text("all")
        assert path.parent == target.parent
        assert path.name.endswith("table.tsv.gz")
        assert not target.exists()
    assert target.read_text() == "all"
    assert [path.name for path in target.parent.iterdir()] == ["table.tsv.gz"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_atomic_path_leaves_nothing_half_written(
    error: type[BaseException], tmp_path: Path
) -> None:
    target = tmp_path / "table.tsv"
    target.write_text("old")

    def interrupted() -> None:
        with atomic_path(target) as path:
            path.write_text("ha")
            raise error

    with pytest.raises(error):
        interrupted()
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["table.tsv"]


def test_groups_that_cannot_be_written_leave_no_file(tmp_path: Path) -> None:
    groups = make_groups()
    groups.obs["age"] = [1, "a", None]  # of no type that the format knows
    with pytest.raises(Exception, match="age"):
        write_groups(groups, tmp_path / "groups.h5ad")
    assert list(tmp_path.iterdir()) == []


# ---- tables, digests, version


def test_tables_come_back_as_they_were(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "gene": ["A", "B", "C"],
            "estimate": [0.1, np.nan, 1e-300],
            "n": [1, 2, 3],
            "status": pd.Categorical(["ok", "boundary", "ok"]),
        },
        index=[5, 1, 9],
    )
    write_table(frame, tmp_path / "t.parquet", tsv=tmp_path / "t.tsv.gz")
    pd.testing.assert_frame_equal(
        read_table(tmp_path / "t.parquet"), frame.reset_index(drop=True), check_exact=True
    )
    text = pd.read_csv(tmp_path / "t.tsv.gz", sep="\t")
    np.testing.assert_array_equal(text["estimate"], frame["estimate"])
    assert list(text.columns) == list(frame.columns)

    write_table(frame, tmp_path / "u.parquet", tsv=tmp_path / "u.tsv")
    assert (tmp_path / "u.tsv").read_text().splitlines()[2] == "B\tNA\t2\tboundary"
    assert (tmp_path / "t.parquet").read_bytes() == (tmp_path / "u.parquet").read_bytes()
    assert len(list(tmp_path.iterdir())) == 4


def test_tables_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file '.*t\.parquet'"):
        read_table(tmp_path / "t.parquet")
    (tmp_path / "t.parquet").write_text("gene")
    with pytest.raises(InputError, match=r"t\.parquet' cannot be read"):
        read_table(tmp_path / "t.parquet")


def test_file_digest(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content" * 100_000)
    assert file_digest(tmp_path / "file") == hashlib.sha256(b"content" * 100_000).hexdigest()
    with pytest.raises(InputError, match="no file"):
        file_digest(tmp_path / "nowhere")


def test_package_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", lambda name: f"{name} 9")
    assert package_version() == "flashmm 9"
    monkeypatch.setattr(metadata, "version", absent)
    assert package_version() == flashmm.__version__


def test_tables_carry_what_made_them(tmp_path):
    frame = pd.DataFrame({"gene": ["a", "b"], "p_value": [0.1, np.nan]})
    write_table(frame, tmp_path / "t.parquet", provenance={"rule": "test", "params": {"ddf": None}})
    made = read_provenance(tmp_path / "t.parquet")
    assert made == {"flashmm": package_version(), "rule": "test", "params": {"ddf": None}}
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.parquet"), frame)
    frame.to_parquet(tmp_path / "other.parquet")
    assert read_provenance(tmp_path / "other.parquet") == {}
