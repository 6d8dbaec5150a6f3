"""The plan of a run, read without Snakemake's command line."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

from flashmm.workflow.plan import Plan, read_plan
from flashmm.workflow.sheets import ConfigError, Schemas
from flashmm.workflow.sources import Sources

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = Schemas.in_folder(ROOT / "workflow" / "schemas")
TEST_CONFIG = yaml.safe_load((ROOT / "config" / "test.yaml").read_text())


def plan(**changes) -> Plan:
    return read_plan(copy.deepcopy(TEST_CONFIG) | changes, SCHEMAS)


def test_runs_tables_and_targets():
    found = plan()
    assert found.runs == [
        ("small-1", "subject"),
        ("small-1", "nested"),
        ("flat-1", "subject"),
        ("flat-1", "nested"),
    ]
    assert found.targets() == ["results/report.html"]
    assert found.runs_with("agreement") == [("small-1", "subject"), ("flat-1", "subject")]
    assert set(found.parts()["qq"]) == {
        f"results/evaluation/{dataset}/{method}/qq.parquet" for dataset, method in found.runs
    }
    assert found.collected()["pairs"][0]["scenario"] == "small"


def test_seeds_depend_on_the_name_alone():
    scenarios = copy.deepcopy(TEST_CONFIG["benchmark"]["scenarios"])
    alone = plan(benchmark={"scenarios": {"flat": scenarios["flat"]}})
    assert alone.seed("flat", 1) == plan().seed("flat", 1) != plan().seed("small", 1)


def test_shards_split_data_sets():
    assert plan().split == []
    assert plan(shards={"cells": 2}).split == ["small-1", "flat-1"]


def test_a_transform_of_a_method_has_groups_of_its_own():
    methods = copy.deepcopy(TEST_CONFIG["methods"])
    methods["nested"]["transform"] = "log1p"
    found = plan(methods=methods)
    assert found.groups_of("small-1", "nested") == "results/groups/small-1.log1p.h5ad"
    assert found.groups_of("small-1", "subject") == "results/groups/small-1.h5ad"


@pytest.mark.parametrize("name", ["config", "test", "heritability", "calibration", "analysis"])
def test_shipped_configs(name, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    config = yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text())
    if name == "analysis":
        (tmp_path / "my cells.h5ad").touch()
        config["counts"] = str(tmp_path / "my cells.h5ad")
    found = read_plan(config, SCHEMAS)
    assert found.targets()
    if name == "analysis":
        assert list(found.datasets) == ["my_cells"]


def test_calibration_study_knows_what_was_simulated():
    config = yaml.safe_load((ROOT / "config" / "calibration.test.yaml").read_text())
    study = read_plan(config, SCHEMAS).study
    assert study.gaussian == ["strong", "one"] and study.counted == ["counts"]
    assert study.matching("strong") == ["subject", "subject:cell_type"]
    assert study.matching("one") == ["subject"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sed": 3}, "unknown key 'sed'; did you mean 'seed'"),
        ({"datasets": {"small-1": {"counts": "x.h5ad"}}}, "x.h5ad: no such file"),
        ({"counts": "s3://bucket/x.h5ad"}, "there is no storage plugin"),
        ({"kinship": {"subject": "subject"}}, "'file' missing"),
        ({"multitrait": {"subject": "subject"}}, "what makes subjects alike"),
        ({"multitrait": {"column": "batch"}}, "no column is called 'batch'"),
        ({"multitrait": {"column": "family", "trait": "subject"}}, "subject and trait are both"),
        ({"multitrait": {"column": "subject"}}, "tells the subjects apart"),
        ({"multitrait": {"column": "condition", "datasets": ["big"]}}, "no data set is called"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(changes, words):
    with pytest.raises(ConfigError, match=words):
        plan(**changes)


def test_files_in_a_storage_are_not_looked_up():
    config = copy.deepcopy(TEST_CONFIG) | {"counts": "cells.h5ad"}
    found = read_plan(config, SCHEMAS, Sources(in_storage=True))
    assert found.datasets["cells"]["counts"] == ["cells.h5ad"]


def test_addresses_go_to_the_plugin():
    config = copy.deepcopy(TEST_CONFIG) | {"counts": "s3://bucket/cells.h5ad"}
    found = read_plan(config, SCHEMAS, Sources(storage=lambda path: f"stored {path}"))
    assert found.sources.input("s3://bucket/cells.h5ad") == "stored s3://bucket/cells.h5ad"
