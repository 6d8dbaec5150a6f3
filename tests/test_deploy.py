"""The workflow in the workflow of somebody else; the image and the locked versions."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from scipy import sparse
from snakemake_runs import run_snakemake

from flashmm.workflow.lock import locked

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions(text: str) -> list[tuple[str, str]]:
    """Name and arguments of each instruction of a Dockerfile."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    whole = re.sub(r"\\\s*\n\s*", " ", "\n".join(lines))
    return [(line.split(None, 1)[0].upper(), line.split(None, 1)[1]) for line in whole.split("\n")]


def faults(text: str) -> list[str]:
    """What is wrong with a Dockerfile, after the rules of hadolint."""
    found = instructions(text)
    base = [rest for name, rest in found if name == "FROM"]
    runs = [rest for name, rest in found if name == "RUN"]
    last = dict(found)
    checks = {
        "the base has no tag, or the tag is latest": all(
            ":" in image and not image.split()[0].endswith(":latest") for image in base
        ),
        "ADD stands where COPY does": not any(name == "ADD" for name, _ in found),
        "pip keeps a cache": all("--no-cache-dir" in run for run in runs if "pip install" in run),
        "pip takes any version": all("--constraint" in run for run in runs if "pip install" in run),
        "apt installs what is only recommended": all(
            "--no-install-recommends" in run for run in runs if "apt-get install" in run
        ),
        "apt leaves its lists": all(
            "rm -rf /var/lib/apt/lists" in run for run in runs if "apt-get install" in run
        ),
        "sudo": not any("sudo" in shlex.split(run) for run in runs),
        "cd stands where WORKDIR does": not any("cd" in shlex.split(run) for run in runs),
        "a relative WORKDIR": all(r.startswith("/") for name, r in found if name == "WORKDIR"),
        "root runs it": last.get("USER", "root") != "root",
        "a shell runs it": all(
            isinstance(json.loads(last.get(name, "0")), list) for name in ("ENTRYPOINT", "CMD")
        ),
    }
    return [fault for fault, is_fine in checks.items() if not is_fine]


def test_the_image_is_well_made():
    assert faults((ROOT / "Dockerfile").read_text()) == []


@pytest.mark.parametrize(
    ("good", "bad", "fault"),
    [
        ("python:3.11-slim-bookworm", "python:latest", "the base has no tag"),
        ("COPY config", "ADD config", "ADD stands"),
        (" --no-cache-dir", "", "pip keeps a cache"),
        (" --constraint constraints.txt", "", "pip takes any version"),
        ("USER flashmm", "USER root", "root runs it"),
        ("WORKDIR /work", "WORKDIR work", "a relative WORKDIR"),
        ("RUN pip", "RUN cd /opt && pip", "cd stands"),
        ("RUN pip", "RUN apt-get install -y git && pip", "apt leaves"),
    ],
)
def test_the_check_finds_faults(good, bad, fault):
    text = (ROOT / "Dockerfile").read_text()
    assert good in text
    assert any(found.startswith(fault) for found in faults(text.replace(good, bad)))


def test_what_the_image_copies_is_there_and_not_ignored():
    allowed = [
        line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")
    ]
    copied = [
        source
        for name, rest in instructions((ROOT / "Dockerfile").read_text())
        if name == "COPY"
        for source in rest.split()[:-1]
    ]
    assert copied
    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert set(copied) == set(allowed)


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_every_dependency_has_a_locked_version_that_it_allows():
    held = constraints()
    for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["workflow"]]:
        needed = Requirement(text)
        assert needed.specifier.contains(held[canonicalize_name(needed.name)]), text


def test_the_lock_names_what_dependencies_need_in_turn():
    found = locked(PROJECT, ("workflow",))
    assert {"jsonschema", "pyyaml", "pygments", "llvmlite"} <= set(found)
    assert "flashmm" not in found and "pytest" not in found
    assert list(found) == sorted(found)


# The workflow as a module

MODELS = {
    "within": {"fixed": "~ log(libsize) + condition", "random": "subject", "within": "cell_type"}
}
USED = {"counts": "data/cells.h5ad", "methods": MODELS}
UPSTREAM = """
rule counts:
    output:
        "data/cells.h5ad",
    shell:
        "mv made.h5ad {output}"
"""
PREFIXED = """
rule wanted:
    input:
        "de/results/tests/cells/within.tsv",

module flashmm:
    snakefile: {snakefile}
    config: config["differences"]
    prefix: "de"

use rule * from flashmm as flashmm_*
"""
# what `snakedeploy deploy-workflow` writes
DEPLOYED = """
from snakemake.utils import min_version

min_version("9.19")

configfile: "config/config.yaml"

module flashmm:
    snakefile:
        github("somebody/flashmm", path="workflow/Snakefile", tag="v1.0.0")
    config:
        config

use rule * from flashmm
"""


def snakemake(folder: Path, snakefile: str, *options: str, **environment: str) -> tuple[int, str]:
    """Exit code of a run with this Snakefile in a folder, and what it printed."""
    (folder / "Snakefile").write_text(snakefile)
    printed = folder / "printed.txt"
    code = run_snakemake(folder, ["--cores", "2", *options], printed, environment)
    return code, printed.read_text()


@pytest.fixture
def hosted(tmp_path):
    """Environment in which the tag of an address of GitHub is that of a repository here."""
    repository = tmp_path / "hosted"
    shutil.copytree(ROOT / "workflow", repository / "workflow")
    git = ("git", "-C", str(repository), "-c", "user.name=me", "-c", "user.email=me@example.org")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "All"], ["tag", "v1.0.0"]):
        subprocess.run([*git, *command], check=True)
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{repository}.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://github.com/somebody/flashmm",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }


@pytest.fixture
def cells_of_subjects() -> ad.AnnData:
    """Counts of four subjects in two conditions."""
    n = np.arange(120)
    obs = pd.DataFrame({"subject": [f"S{i % 4}" for i in n], "cell_type": "B"})
    obs["condition"] = np.where(n % 4 < 2, "ctrl", "stim")
    counts = np.random.default_rng(1).poisson(3, (len(n), 8)).astype(np.float32)
    return ad.AnnData(sparse.csr_matrix(counts), obs=obs.rename(index=str))


def test_a_module_takes_what_another_rule_makes(tmp_path, cells_of_subjects):
    """A real run: own first rule, own config, results in a folder, inputs where they are said."""
    cells_of_subjects.write_h5ad(tmp_path / "made.h5ad")
    config = {1: "another key of ours", "differences": USED}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    module = PREFIXED.format(snakefile=repr(str(ROOT / "workflow" / "Snakefile")))
    snakefile = "configfile: 'config.yaml'\n" + module + UPSTREAM
    code, printed = snakemake(tmp_path, snakefile)
    assert code == 0, printed
    assert (tmp_path / "de/results/tests/cells/within.tsv").is_file()
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "de/results/report.html").exists()  # nobody wanted it
    code, printed = snakemake(tmp_path, snakefile, "--dry-run")
    assert code == 0 and "Nothing to be done" in printed


def test_the_shape_of_the_catalogue(tmp_path, hosted):
    (tmp_path / "config").mkdir()
    path = tmp_path / "config/config.yaml"
    path.write_text(yaml.safe_dump(USED))
    code, printed = snakemake(tmp_path, DEPLOYED, "--dry-run", **hosted)
    assert code != 0 and "data/cells.h5ad" in printed and "MissingInput" in printed
    code, printed = snakemake(tmp_path, DEPLOYED + UPSTREAM, "--dry-run", **hosted)
    assert code == 0, printed
    assert re.search(r"^report +1$", printed, re.MULTILINE), printed
    path.write_text(path.read_text() + "counts: other.h5ad\n")
    code, printed = snakemake(tmp_path, DEPLOYED, "--dry-run", **hosted)
    assert code != 0 and "'counts' is there twice" in printed


def test_a_missing_package_is_said_with_where_it_is(tmp_path, hosted):
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").write_text("{}")
    (tmp_path / "Snakefile").write_text(DEPLOYED)
    (tmp_path / "none").mkdir()
    (tmp_path / "none/flashmm.py").write_text("raise ModuleNotFoundError('no flashmm')")
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--dry-run"],
        cwd=tmp_path,
        env={**os.environ, **hosted, "PYTHONPATH": str(tmp_path / "none")},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0 and "Traceback" not in done.stderr
    wanted = "-m pip install 'flashmm[workflow] @ git+https://github.com/somebody/flashmm@v1.0.0'"
    assert wanted in done.stderr
