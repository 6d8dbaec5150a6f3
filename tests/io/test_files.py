"""Files: exact round trips, nothing half-written, and errors that name the file."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import flashmm
from flashmm.cells.groups import GroupStatistics, merge, moment_names
from flashmm.cells.summary import summarise
from flashmm.design.from_groups import summary_statistics
from flashmm.inference.testing import contrast_tests
from flashmm.io.files import (
    join_fits,
    merge_files,
    read_fit,
    read_groups,
    read_provenance,
    read_table,
    write_fit,
    write_groups,
    write_table,
)
from flashmm.lmm import LMMFit, fit_lmm
from flashmm.options import DesignError, FlashmmWarning, InputError
from flashmm.storage import files
from flashmm.storage.files import atomic_path, file_digest, package_version, reading

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
        expressing=rng.integers(0, 4, (3, 4)).astype(float) if counts else None,
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
    crossed = {"sum:log(libsize _ 10000)", "sum:x"}
    assert set(adata.layers) - {None} == {"sum", "sumsq", "expressing"} | crossed
    np.testing.assert_array_equal(adata.layers["expressing"], groups.expressing)
    np.testing.assert_array_equal(adata.layers["sum:x"], groups.covariate_sums["x"])
    recipe = adata.uns["flashmm"]
    assert list(recipe["by"]) == list(groups.by)
    assert list(recipe["covariates"]) == ["log(libsize / 10000)", "x"]
    assert recipe["transform"] == "log2p1"
    assert json.loads(recipe["provenance"]) == groups.provenance

    write_groups(make_groups(counts=False), tmp_path / "groups.h5ad")
    assert ad.read_h5ad(tmp_path / "groups.h5ad").X is None


def test_files_without_numbers_of_expressing_cells_have_none(tmp_path: Path) -> None:
    groups = replace(make_groups(), expressing=None)
    write_groups(groups, tmp_path / "earlier.h5ad")
    assert_equal(read_groups(tmp_path / "earlier.h5ad"), groups)


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
        ("layers/sumsq", r"lacks the layer\(s\) 'sumsq'; it has 'expressing', 'sum"),
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


# ---- genes in ranges


BY = ["subject", "condition"]
GENE_RANGES = ((0, 9), (9, 10), (10, 30))


def cells(seed: int = 0) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame(
        {
            "subject": [f"S{i % 6}" for i in range(240)],
            "condition": ["a" if i % 6 < 3 else "b" for i in range(240)],
            "x": rng.normal(size=240),
        },
        index=[f"c{seed}_{i}" for i in range(240)],
    )
    counts = rng.poisson(np.exp(rng.normal(size=6))[np.arange(240) % 6, None], (240, 30))
    var = pd.DataFrame(index=[f"g{j}" for j in range(30)])
    return ad.AnnData(counts.astype(float), obs=obs, var=var)


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


def test_a_range_of_genes_is_read_alone(tmp_path: Path) -> None:
    groups = make_groups()
    write_groups(groups, tmp_path / "groups.h5ad")
    for start, stop in ((0, 1), (1, 3), (0, 4)):
        part = read_groups(tmp_path / "groups.h5ad", genes=(start, stop))
        sums = {name: values[:, start:stop] for name, values in groups.gene_sums().items()}
        assert_equal(part, groups.with_sums(groups.genes[start:stop], sums))
    for wrong in ((0, 5), (2, 2), (-1, 2)):
        with pytest.raises(InputError, match=r"genes=.*groups\.h5ad'.* <= 4, the number of genes"):
            read_groups(tmp_path / "groups.h5ad", genes=wrong)


def test_many_groups_and_genes_come_back(tmp_path: Path) -> None:
    """More than one chunk each way, and none of them full."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"subject": np.arange(1_500), "n_cells": 1})
    obs.index = obs.index.astype(str)
    sums = {name: rng.normal(size=(1_500, 150)) for name in ("sum", "sumsq")}
    groups = GroupStatistics(
        **sums,
        obs=obs,
        genes=pd.Index([f"g{j}" for j in range(150)]),
        covariate_sums={},
        counts=None,
        by=("subject",),
        covariates=(),
        transform="log2p1",
        provenance={},
    )
    write_groups(groups, tmp_path / "groups.h5ad")
    assert_equal(read_groups(tmp_path / "groups.h5ad"), groups)
    part = read_groups(tmp_path / "groups.h5ad", genes=(60, 130))
    np.testing.assert_array_equal(part.sumsq, groups.sumsq[:, 60:130])


def test_groups_on_disk_are_those_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_groups(make_groups(), tmp_path / "groups.h5ad")
    monkeypatch.setenv("FLASHMM_MEMORY_MB", "0")
    with pytest.warns(FlashmmWarning, match=r"statistics of '.*groups\.h5ad' take"):
        groups = read_groups(tmp_path / "groups.h5ad")
    assert_equal(groups, make_groups())
    write_groups(groups, tmp_path / "again.h5ad")
    assert (tmp_path / "again.h5ad").read_bytes() == (tmp_path / "groups.h5ad").read_bytes()


def test_files_are_merged_as_what_they_hold(tmp_path: Path) -> None:
    parts = [summarise(cells(seed), BY, "x") for seed in range(3)]
    parts[1] = parts[1].with_sums(
        parts[1].genes[::-1], {k: v[:, ::-1] for k, v in parts[1].gene_sums().items()}
    )
    paths = [tmp_path / f"{i}.h5ad" for i in range(3)]
    for part, path in zip(parts, paths, strict=True):
        write_groups(part, path)
    assert_equal(merge_files(paths), merge(parts))
    with pytest.raises(InputError, match="nothing to merge"):
        merge_files([])
    paths[1].write_bytes(paths[1].read_bytes()[:-100])
    with pytest.raises(InputError, match=r"1\.h5ad' cannot be read"):
        merge_files(paths)


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


def test_file_identity(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"some" * 100)
    assert files.file_identity(path) == file_digest(path)
    with pytest.raises(InputError, match="no file"):
        files.file_identity(tmp_path / "nowhere")
    content = np.random.default_rng(0).bytes(5 * 2**20)
    seen = set()
    for changed in (content, content[:-1], b"x" + content[1:], content[:-1] + b"x"):
        path.write_bytes(changed)
        seen.add(files.file_identity(path))
    assert len(seen) == 4


_FULL = """
import resource, sys
from pathlib import Path
sys.path[:0] = [sys.argv[2]]
from test_files import make_groups
from flashmm.io.files import write_groups
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
write_groups(make_groups(), sys.argv[1])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no limits of resources")
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        _FULL,
        str(tmp_path / "g.h5ad"),
        str(Path(__file__).parent),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.search(
        r"^flashmm.*InputError: .*g\.h5ad' cannot be written: there is no room", done.stderr, re.M
    )
    assert list(tmp_path.iterdir()) == []
