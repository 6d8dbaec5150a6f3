"""A wrong config ends the run before any rule, with one line that says what is wrong where."""

from __future__ import annotations

import pytest

SHEET = "name\tfixed\trandom\tmax_iter\n"


def refusal(workflow, config):
    """The line with which the run ended."""
    done = workflow.run(config)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout
    assert not (workflow.folder / "results").exists()
    lines = [line for line in done.stdout.splitlines() if line.startswith("flashmm: ")]
    assert len(lines) == 1, done.stdout
    return lines[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sed": 3}, ["'sed'", "did you mean 'seed'?"]),
        ({"test": {"a": 3}}, ["'test'", "a column"]),
        ({"methods": {"a": {"fixed": "~ 1", "ddf": "kr"}}}, ["'kr'", "kenward-roger"]),
        ({"datasets": {"x": {"counts": "nowhere.h5ad"}}}, ["x", "nowhere.h5ad", "no such file"]),
        ({"datasets": {"x": {"counts": "no://where.h5ad"}}}, ["x", "no://where", "plugin"]),
        ({"shards": {"cells": 10**8}}, ["'shards'", "'cells'", "100000000", "from 1 to 10000"]),
        ({"shards": {"genes": -2}}, ["'shards'", "'genes'", "-2"]),
        ({"shards": {"genes": "two"}}, ["'shards'", "'genes'", "'two'"]),
        ({"shards": {"cell": 2}}, ["'shards'", "did you mean 'cells'?"]),
        ({"shards": 4}, ["'shards'", "4", "a mapping"]),
    ],
)
def test_a_wrong_key_or_value(workflow, config, change, words):
    line = refusal(workflow, config | change)
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"relicates": 3}, ["'relicates'", "did you mean 'replicates'?"]),
        ({"scenarios": {"a": {"n_gene": 3}}}, ["a", "did you mean 'n_genes'?"]),
        ({"scenarios": {"a": {"reference": "nowhere.h5ad"}}}, ["a", "nowhere.h5ad"]),
        ({"reference": {"methods": ["nestd"]}}, ["'nestd'", "did you mean 'nested'?"]),
    ],
)
def test_a_wrong_benchmark_section(workflow, config, change, words):
    config["benchmark"] |= change
    line = refusal(workflow, config)
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("sheet", "words"),
    [
        ("name\trandom\na\tsubject\n", ["a", "'fixed' missing"]),
        (SHEET + "a\t~ 1\tsubject\tten\n", ["a", "'max_iter'", "'ten'"]),
        (SHEET + "a\t~ 1\tsubject\t\na\t~ 1\tsubject\t\n", ["a name is used twice"]),
    ],
)
def test_a_wrong_sheet(workflow, config, sheet, words):
    (workflow.folder / "methods.tsv").write_text(sheet)
    line = refusal(workflow, config | {"methods": "methods.tsv"})
    assert "methods.tsv" in line
    assert all(word in line for word in words), line


def test_a_config_without_data(workflow, config):
    del config["benchmark"]
    assert "nothing to do" in refusal(workflow, config)


def test_an_unknown_method_of_a_data_set(workflow, config, counts):
    counts.write_h5ad(workflow.folder / "counts.h5ad")
    config["datasets"] = {"x": {"counts": "counts.h5ad", "methods": ["subjct"]}}
    assert "did you mean 'subject'?" in refusal(workflow, config)


@pytest.mark.parametrize(
    ("formulas", "words"),
    [
        ({"fixed": "~ exp(x) + (1|s)"}, ["a call of `exp`"]),
        ({"fixed": "~ x", "random": "x | s | t"}, ["x | s | t"]),
        ({"fixed": "~ x"}, ["random term"]),
    ],
)
def test_a_formula_that_is_not_allowed(workflow, config, formulas, words):
    line = refusal(workflow, config | {"methods": dict.fromkeys(("subject", "nested"), formulas)})
    assert line.startswith("flashmm: methods: ")
    assert all(word in line for word in words), line
