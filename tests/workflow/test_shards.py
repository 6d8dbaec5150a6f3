"""Shards of files, cells and genes: same results, resumed one by one, bad ones named."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import anndata as ad
import numpy as np
import pytest
import yaml

from flashmm.cells.summary import summarise
from flashmm.design.from_groups import summary_statistics
from flashmm.inference.testing import contrast_tests
from flashmm.io.tables import read_table
from flashmm.lmm import fit_lmm
from flashmm.options import FlashmmWarning

from .conftest import ROOT, jobs_in

TESTS = "results/tests/x/subject.parquet"


@pytest.fixture
def sharded(config):
    """Two files of one data set, each in two shards, and the genes too."""
    del config["benchmark"], config["methods"]["nested"]
    config["datasets"] = {"x": {"counts": ["a.h5ad", "b.h5ad"]}}
    return config | {"shards": {"cells": 2, "genes": 2}}


@pytest.fixture
def halves(workflow, counts) -> list[ad.AnnData]:
    parts = [counts[:80].copy(), counts[80:].copy()]
    for name, part in zip("ab", parts, strict=True):
        part.write_h5ad(workflow.folder / f"{name}.h5ad")
    return parts


def kill_at_second_shard(workflow, config) -> None:
    """Start a run, one job at a time; kill it and all that it started when the second job logs."""
    (workflow.folder / "config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    run = subprocess.Popen(
        [*command, "--configfile", "config.yaml", "--cores", "1", TESTS],
        cwd=workflow.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while len(list(workflow.folder.glob("logs/summarise/x/*.log"))) < 2:
        assert run.poll() is None, "the run ended before it could be interrupted"
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()


def test_an_interrupted_run_goes_on_by_shard(workflow, sharded, halves, tmp_path_factory):
    kill_at_second_shard(workflow, sharded)
    (done,) = workflow.folder.glob("results/shards/groups/x/*.h5ad")
    made = done.stat().st_mtime_ns
    assert workflow.run(sharded, "--unlock").returncode == 0
    resumed = workflow.run(sharded, TESTS)
    assert resumed.returncode == 0, resumed.stdout
    jobs = jobs_in(resumed.stdout)
    assert (jobs["summarise_shard"], jobs["merge"], jobs["fit_shard"]) == (3, 1, 2)
    assert done.stat().st_mtime_ns == made
    assert len(list(done.parent.iterdir())) == 4  # and nothing unfinished

    # as one process, up to the order in which sums are added
    groups = summarise(halves, ["subject", "cell_type", "condition"], ["log(libsize)"])
    method = sharded["methods"]["subject"]
    whole = fit_lmm(summary_statistics(groups, method["fixed"], method["random"]))
    with pytest.warns(FlashmmWarning, match="cells as replicates"):
        expected = contrast_tests(whole, "condition").to_frame()
    found = read_table(workflow.folder / TESTS)
    assert found["gene"].tolist() == expected["gene"].tolist()
    for column in ("estimate", "std_error", "df", "log10_p"):
        np.testing.assert_allclose(found[column], expected[column], rtol=1e-6, atol=1e-9)

    # and byte for byte in another folder, with other numbers of jobs
    other = type(workflow)(tmp_path_factory.mktemp("other"))
    for name in ("a.h5ad", "b.h5ad"):
        shutil.copy(workflow.folder / name, other.folder)
    assert other.run(sharded, "--cores", "1", TESTS).returncode == 0
    assert other.files("results/tests/**/*.*") == workflow.files("results/tests/**/*.*")

    parts = [read_measured(path) for path in other.folder.glob("results/benchmarks/fit/x/*/*.json")]
    joined = read_measured(other.folder / "results/benchmarks/fit/x/subject.json")
    assert len(parts) == 2
    assert joined["genes"] == 12 and joined["cells"] == 160
    assert joined["seconds"] == pytest.approx(sum(part["seconds"] for part in parts))
    assert joined["peak_memory_mib"] == max(part["peak_memory_mib"] for part in parts)


def read_measured(path) -> dict[str, float]:
    return json.loads(path.read_text())


def test_a_shard_with_more_parts_than_genes(workflow, sharded, halves):
    sharded["datasets"]["x"]["counts"] = "a.h5ad"
    done = workflow.run(sharded | {"shards": {"genes": 13}}, TESTS)
    assert "shards: genes is 13" in said(done) and "has 12 genes" in said(done)


def said(done) -> str:
    """The first line with which a failed run said what is wrong."""
    assert done.returncode != 0
    assert "Traceback" not in done.stdout
    lines = [line for line in done.stdout.splitlines() if line.strip().startswith("flashmm: ")]
    assert lines, done.stdout
    return lines[0]


def with_other_genes(workflow, part) -> None:
    part.var_names = [*part.var_names[:-1], "another"]
    part.write_h5ad(workflow.folder / "b.h5ad")


def without_condition(workflow, part) -> None:
    part.obs = part.obs.drop(columns="condition")
    part.write_h5ad(workflow.folder / "b.h5ad")


def cut_short(workflow, part) -> None:
    path = workflow.folder / "b.h5ad"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("spoil", "word"),
    [(with_other_genes, "another"), (without_condition, "condition"), (cut_short, "cut short")],
)
def test_a_bad_file_of_several_is_named(workflow, sharded, halves, spoil, word):
    del sharded["shards"]
    spoil(workflow, halves[1])
    line = said(workflow.run(sharded, TESTS))
    assert "b.h5ad" in line and word in line
    assert not (workflow.folder / "results/groups").exists()
