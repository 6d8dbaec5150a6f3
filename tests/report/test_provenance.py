"""What made a run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from flashmm.report.provenance import provenance, provenance_blocks
from flashmm.report.r_packages import r_versions
from flashmm.storage.commit import code_commit


def test_a_run_says_its_machine_code_config_and_versions():
    said = provenance({"seed": 3, "by": ["subject"]}, inputs={"a": []})
    assert json.loads(json.dumps(said)) == said
    assert said["seed"] == 3 and said["inputs"] == {"a": []}
    assert set(said["host"]) == {"name", "machine", "cores", "memory_mib"}
    assert said["host"]["cores"] == os.cpu_count()
    assert {"numba", "snakemake", "anndata"} <= set(said["packages"])
    assert len(said["source"]) == 12 and len(said["config_sha256"]) == 64


def test_the_digest_of_a_config_does_not_depend_on_the_order_of_its_keys():
    one, other = provenance({"seed": 1, "x": 2}), provenance({"x": 2, "seed": 1})
    assert one["config_sha256"] == other["config_sha256"]
    assert one["config_sha256"] != provenance({"seed": 2, "x": 2})["config_sha256"]


def test_the_commit_is_that_of_the_package_and_of_no_repository_around_it(tmp_path):
    package = tmp_path / "flashmm"
    package.mkdir()
    (package / "__init__.py").write_text("")
    git = ("git", "-C", str(tmp_path), "-c", "user.name=me", "-c", "user.email=me@example.org")
    run = {"check": True, "capture_output": True, "text": True}
    subprocess.run([*git, "init", "-q"], **run)
    subprocess.run([*git, "commit", "--allow-empty", "-qm", "Begin"], **run)
    assert "changed" not in (code_commit(package) or {})  # it is not part of that repository
    subprocess.run([*git, "add", "."], **run)
    subprocess.run([*git, "commit", "-qm", "All"], **run)
    head = subprocess.run([*git, "rev-parse", "HEAD"], **run).stdout.strip()
    assert code_commit(package) == {"commit": head, "changed": False}
    (package / "__init__.py").write_text("VALUE = 1")
    assert code_commit(package) == {"commit": head, "changed": True}


@pytest.mark.skipif(shutil.which("Rscript") is None, reason="has no Rscript")
def test_versions_of_the_packages_that_scripts_of_r_name(tmp_path):
    script = tmp_path / "method.R"
    script.write_text("needs('stats', \"no.such.package\") # library(boot)\ny <- utils::head(x)\n")
    found = r_versions([["python", "x.R"], ["Rscript", str(script), "{out}"]])
    assert set(found) == {"R", "stats", "utils", "no.such.package"}
    assert found["stats"] == found["R"] and found["no.such.package"] == "not installed"
    said = provenance({"seed": 1}, r_packages=found)
    assert "no.such.package" in json.dumps(list(provenance_blocks(said)), default=vars)


def test_r_is_not_asked_where_no_method_runs_it():
    assert r_versions([["python", "method.R"], []]) == {}
