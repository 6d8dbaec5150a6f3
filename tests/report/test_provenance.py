"""What made a run."""

from __future__ import annotations

import json
import os

from flashmm.report.provenance import provenance


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
