"""A wrong config ends the run before any rule, with one line that says what is wrong where.

What is said of which mistake is in `mistakes.txt`; here is how the workflow says it.
"""

from __future__ import annotations

import pytest


def refusal(workflow, config, *options):
    """The line with which the run ended."""
    done = workflow.run(config, *options)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout
    assert not (workflow.folder / "results").exists()
    lines = [line for line in done.stdout.splitlines() if line.startswith("flashmm: ")]
    assert len(lines) == 1, done.stdout
    return lines[0]


def test_an_address_without_a_plugin(workflow, config):
    config["datasets"] = {"x": {"counts": "no://where.h5ad"}}
    line = refusal(workflow, config)
    assert all(word in line for word in ("datasets: x", "no://where", "plugin")), line


def test_a_key_that_stands_twice_in_the_file(workflow, config):
    (workflow.folder / "twice.yaml").write_text("seed: 1\ncounts: cells.h5ad\nseed: 2\n")
    line = refusal(workflow, config, "--configfile", "twice.yaml")
    assert "twice.yaml: line 3: 'seed' is there twice, first in line 1" in line


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reference": {"condition": "control"}}, ["no level 'control'", "'ctrl', 'treated'"]),
        ({"by": ["subject", "cell_type", "condition", "batch"]}, ["no column 'batch' in obs"]),
    ],
)
def test_what_the_cells_do_not_have(workflow, config, counts, change, words):
    del config["benchmark"]
    counts.write_h5ad(workflow.folder / "cells.h5ad")
    line = refusal(workflow, config | {"counts": "cells.h5ad"} | change)
    assert line.startswith("flashmm: datasets: cells: ")
    assert all(word in line for word in words), line
