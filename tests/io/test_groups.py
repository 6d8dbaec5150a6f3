"""Statistics of groups as files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from awkward_groups import BY, assert_equal, cells, make_groups
from flipped_bits import flipped
from scipy import sparse

from flashmm.cells.groups import GroupStatistics, merge
from flashmm.cells.summary import summarise
from flashmm.io.groups import merge_files, read_groups, read_size_factors, write_groups
from flashmm.options import FlashmmWarning, InputError


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


def test_groups_that_cannot_be_written_leave_no_file(tmp_path: Path) -> None:
    groups = make_groups()
    groups.obs["age"] = [1, "a", None]  # of no type that the format knows
    with pytest.raises(Exception, match="age"):
        write_groups(groups, tmp_path / "groups.h5ad")
    assert list(tmp_path.iterdir()) == []


def test_a_range_of_genes_is_read_alone(tmp_path: Path) -> None:
    groups = make_groups()
    write_groups(groups, tmp_path / "groups.h5ad")
    for start, stop in ((0, 1), (1, 3), (0, 4)):
        part = read_groups(tmp_path / "groups.h5ad", genes=(start, stop))
        sums = {name: values[:, start:stop] for name, values in groups.gene_sums().items()}
        expected = groups.with_sums(groups.genes[start:stop], sums)
        if stop - start < groups.n_genes:  # size factors need all genes
            said = groups.provenance | {"genes_of_file": groups.n_genes}
            expected = replace(expected, provenance=said)
        assert_equal(part, expected)
    for wrong in ((0, 5), (2, 2), (-1, 2)):
        with pytest.raises(InputError, match=r"genes=.*groups\.h5ad'.* <= 4, the number of genes"):
            read_groups(tmp_path / "groups.h5ad", genes=wrong)


def test_many_groups_and_genes_come_back(tmp_path: Path) -> None:
    """More than one chunk each way, and none of them full."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"subject": np.arange(1_500), "n_cells": 1})
    obs.index = obs.index.astype(str)
    sums = {name: rng.random((1_500, 150)) for name in ("sum", "sumsq")}
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


# --- what is read is what was written -------------------------------------------------------------


def rewritten(path: Path, place: str, change: Callable[[np.ndarray], object]) -> None:
    """Change a dataset of a file in place."""
    with h5py.File(path, "r+") as file:
        values = file[place][()]
        changed = change(values)
        file[place][()] = values if changed is None else changed


def test_a_flipped_bit_is_never_another_number(tmp_path: Path) -> None:
    """Whole files, ranges of genes, size factors and merges; of every dataset one bit."""
    groups = replace(summarise(cells(), BY, "x"), notes=("a note",))
    write_groups(groups, tmp_path / "groups.h5ad")
    found = []
    for name, path in flipped(tmp_path / "groups.h5ad"):
        for read in (read_groups, lambda path: merge_files([path])):
            try:
                assert_equal(read(path), groups)
            except InputError as error:
                found.append(name)
                assert "flipped.groups.h5ad'" in str(error)
    tables = {"obs/n_cells", "obs/sum:x", "obs/subject/codes", "obs/_index", "var/_index"}
    sums = {"X", "layers/sum", "layers/sumsq", "layers/sum:x", "layers/expressing"}
    # newer versions of anndata keep texts as values and a mask
    places = {name.removesuffix("/values") for name in found}
    assert places >= tables | sums | {"uns/flashmm/provenance", "uns/flashmm/checksums"}


def test_a_range_of_genes_does_not_answer_for_the_others(tmp_path: Path) -> None:
    path = tmp_path / "groups.h5ad"
    write_groups(make_groups(), path)
    rewritten(path, "X", lambda values: values.__setitem__((1, 2), values[1, 2] + 1))
    read_groups(path, genes=(0, 2))
    for read in (read_groups, lambda path: read_groups(path, (2, 4)), read_size_factors):
        with pytest.raises(InputError, match=r"groups\.h5ad' is damaged or was changed: 'counts'"):
            read(path)


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        ("uns/flashmm/digest", None, "has no digest of its content: an earlier version"),
        ("uns/flashmm/checksums", None, "has no digest of its content: an earlier version"),
        ("uns/flashmm/digest", lambda _: "0" * 64, "is damaged or was changed: its table"),
        ("uns/flashmm/transform", lambda _: "log1p", "is damaged or was changed: its table"),
        ("obs/n_cells", lambda values: -values, "is damaged or was changed: its table"),
        ("obs/subject/codes", lambda values: 1 - values, "is damaged or was changed: its table"),
    ],
)
def test_files_with_another_content(
    place: str, change: Callable | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "groups.h5ad"
    write_groups(make_groups(), path)
    if change is not None:
        rewritten(path, place, change)
    else:
        with h5py.File(path, "r+") as file:
            del file[place]
    with pytest.raises(InputError, match=rf"groups\.h5ad' {message}"):
        read_groups(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.obs.assign(n_cells=[3, -1, 1]), "'n_cells' holds values below zero"),
        (lambda g: g.obs.assign(n_cells=[3, 1.5, 1]), "'n_cells' holds values that are no whole"),
        (lambda g: g.obs.iloc[[0, 0, 2]], r"1 groups come more than once: 'S2\|7\|a/b'"),
    ],
)
def test_groups_that_no_cells_make_are_not_written(
    change: Callable, message: str, tmp_path: Path
) -> None:
    groups = make_groups()
    with pytest.raises(InputError, match=f"The statistics: {message}"):
        write_groups(replace(groups, obs=change(groups)), tmp_path / "groups.h5ad")
    assert not list(tmp_path.iterdir())


def test_sums_that_no_cells_make_are_not_written(tmp_path: Path) -> None:
    groups = make_groups()
    twice = replace(groups, genes=groups.genes[[0, 1, 1, 3]])
    with pytest.raises(InputError, match="1 genes come more than once: 'g/2'"):
        write_groups(twice, tmp_path / "groups.h5ad")
    groups.sum[1, 2] = np.nan
    with pytest.raises(InputError, match="'sum' holds values that are missing or infinite"):
        write_groups(groups, tmp_path / "groups.h5ad")


_FULL = """
import resource, sys
from pathlib import Path
sys.path[:0] = [sys.argv[2]]
from awkward_groups import make_groups
from flashmm.io.groups import write_groups
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
        str(Path(__file__).parents[1]),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.search(
        r"^flashmm.*InputError: .*g\.h5ad' cannot be written: there is no room", done.stderr, re.M
    )
    assert list(tmp_path.iterdir()) == []
