"""Runs of the workflow in folders of their own."""

from __future__ import annotations

import copy
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import sparse
from snakemake_runs import run_snakemake

ROOT = Path(__file__).resolve().parents[2]
TEST_CONFIG = yaml.safe_load((ROOT / "config" / "test.yaml").read_text())


@dataclass(frozen=True)
class Workflow:
    """A folder in which the workflow runs."""

    folder: Path

    def run(self, config: Mapping[str, Any], *options: str) -> subprocess.CompletedProcess:
        """Run Snakemake with a config; the answer holds everything that was printed in `stdout`."""
        (self.folder / "config.yaml").write_text(yaml.safe_dump(dict(config)))
        output = self.folder / "printed.txt"
        arguments = ["--snakefile", str(ROOT / "Snakefile"), "--configfile", "config.yaml"]
        arguments += ["--cores", "2", *options]
        code = run_snakemake(self.folder, arguments, output)
        return subprocess.CompletedProcess(arguments, code, output.read_text())

    def planned(self, config: Mapping[str, Any]) -> dict[str, int]:
        """Rule to number of jobs that a dry run plans."""
        done = self.run(config, "--dry-run")
        assert done.returncode == 0, done.stdout
        return jobs_in(done.stdout)

    def files(self, pattern: str) -> dict[str, bytes]:
        """Path to content of the files that match."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in sorted(self.folder.glob(pattern))
        }


def jobs_in(printed: str) -> dict[str, int]:
    """Rule to number of jobs, as Snakemake prints them before it does them."""
    lines = re.findall(r"^(\w+) +(\d+)$", printed, re.MULTILINE)
    return {rule: int(jobs) for rule, jobs in lines if rule not in ("default", "total")}


@pytest.fixture
def workflow(tmp_path) -> Workflow:
    return Workflow(tmp_path)


@pytest.fixture
def config() -> dict[str, Any]:
    """A copy of the test config that a test may change."""
    return copy.deepcopy(TEST_CONFIG)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Workflow:
    """The test config, run to its end once."""
    workflow = Workflow(tmp_path_factory.mktemp("finished"))
    done = workflow.run(TEST_CONFIG)
    assert done.returncode == 0, done.stdout
    return workflow


@pytest.fixture
def counts() -> ad.AnnData:
    return made_counts()


def made_counts() -> ad.AnnData:
    """Counts of four subjects in both conditions and one cell type with a comma in its name."""
    rng = np.random.default_rng(3)
    n = 160
    obs = pd.DataFrame(
        {
            "subject": [f"S{i % 4}" for i in range(n)],
            "condition": ["ctrl" if i % 8 < 4 else "treated" for i in range(n)],
            "cell_type": "Glioblastoma, WHO Grade IV",
            "libsize": rng.integers(500, 2000, n).astype(float),
        },
        index=[f"cell{i}" for i in range(n)],
    )
    values = rng.poisson(3, size=(n, 12)).astype(np.float32)
    values[obs["condition"] == "treated", 0] += 12
    genes = pd.DataFrame(index=["<b>&up</b>", *(f"gene{i}" for i in range(1, 12))])
    return ad.AnnData(sparse.csr_matrix(values), obs=obs, var=genes)
