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
    kept = found.kept_tables()
    assert "results/tests/flat-1/nested.tsv" in kept
    assert {*found.tables().values(), *found.tables_for_people()} <= set(kept)
    assert found.datasets_with("agreement") == ["small-1", "flat-1"]
    assert found.parts()["qq"] == [
        "results/evaluation/small-1/qq.parquet",
        "results/evaluation/flat-1/qq.parquet",
    ]
    assert found.collected()["pairs"][0]["scenario"] == "small"


def test_a_named_report_has_a_folder_of_its_own():
    assert plan(report={"name": "may-14"}).targets() == ["results/reports/may-14/report.html"]
    with pytest.raises(ConfigError, match="name"):
        plan(report={"name": "../elsewhere"})


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


SHIPPED = ["config", "test", "smoke", "paper", "heritability", "calibration", "analysis"]


@pytest.mark.parametrize("name", SHIPPED)
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


# --- a model per cell type ------------------------------------------------------------------------

WITHIN = {"fixed": "~ log(libsize) + condition", "random": "subject", "within": "cell_type"}
JOINT = {"fixed": "~ cell_type", "random": "subject"}


def plan_of(method, **changes) -> Plan:
    """The plan of one method called `m`, without the comparison with MixedLM."""
    benchmark = copy.deepcopy(TEST_CONFIG["benchmark"])
    del benchmark["reference"]
    return plan(**{"methods": {"m": dict(method)}, "benchmark": benchmark} | changes)


def model_in(found: Plan) -> dict:
    return found.methods_of("small-1")["m"]


def test_defaults_of_a_model_per_cell_type():
    model = model_in(plan_of(WITHIN))
    assert model["within"] == "cell_type" and model["min_counts"] == 15
    assert model["size_factors"] == {"method": "tmm-expressed", "within": "cell_type"}
    assert model["ddf"] is None  # the tests decide
    assert not model["moderate"]
    moderated = {"ddf": "kenward-roger-2", "moderate": True}
    assert model_in(plan_of(WITHIN | moderated))["moderate"]
    joint = model_in(plan_of(JOINT))
    assert (joint["within"], joint["size_factors"], joint["min_counts"]) == (None, None, None)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"size_factors": "none"}, None),
        ({"size_factors": "total"}, {"method": "total", "within": "cell_type"}),
    ],
)
def test_size_factors_that_are_asked_for(chosen, expected):
    assert model_in(plan_of(WITHIN | chosen))["size_factors"] == expected


def test_size_factors_of_a_joint_model_are_taken_within_cell_types():
    model = model_in(plan_of(JOINT | {"size_factors": "tmm"}))
    assert model["size_factors"] == {"method": "tmm", "within": "cell_type"}
    untyped = plan_of(
        {"fixed": "~ condition", "random": "subject", "size_factors": "tmm"},
        by=["subject", "condition"],
    )
    assert model_in(untyped)["size_factors"] == {"method": "tmm", "within": None}


def test_a_sheet_has_the_columns_of_a_model_per_cell_type(tmp_path):
    sheet = tmp_path / "methods.tsv"
    sheet.write_text(
        "name\tfixed\trandom\twithin\tsize_factors\tmin_counts\n"
        "m\t~ log(libsize) + condition\tsubject\tcell_type\tbatch\t0\n"
    )
    found = plan_of({}, methods=str(sheet), by=["subject", "cell_type", "condition", "batch"])
    model = model_in(found)
    assert model["size_factors"] == {"method": "batch", "within": "cell_type"}
    assert model["min_counts"] == 0


def test_reference_levels_of_the_config_and_of_a_data_set(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.h5ad").touch()
    datasets = {name: {"counts": str(tmp_path / f"{name}.h5ad")} for name in ("a", "b")}
    datasets["b"]["reference"] = {"condition": "healthy"}
    found = plan_of(WITHIN, datasets=datasets, reference={"condition": "ctrl"})
    assert found.datasets["a"]["reference"] == {"condition": "ctrl"}
    assert found.datasets["b"]["reference"] == {"condition": "healthy"}
    assert plan().datasets["small-1"]["reference"] == {}


@pytest.mark.parametrize(
    ("method", "changes", "words"),
    [
        ({"within": "celltype"}, {}, "m: within: .*'celltype'; did you mean 'cell_type'"),
        ({"within": ["cell_type"]}, {}, "'within': .* is not allowed; expected the name"),
        ({"fixed": "~ condition + cell_type"}, {}, "m: within gives .*'cell_type'.* constant"),
        ({"random": "subject; subject:cell_type"}, {}, "take it out of the formulas"),
        ({"random": "subject; 0 + cell_type || subject"}, {}, "take it out of the formulas"),
        ({"moderate": True}, {}, "`moderate: true` does not go with `ddf: empirical-bayes`"),
        ({"size_factors": "tmn"}, {}, "size_factors: no method or column .*did you mean 'tmm'"),
        ({"size_factors": "depth"}, {}, "size_factors: no method or column is called 'depth'"),
        ({"fixed": "~ condition"}, {"covariates": []}, "tmm.* correct .*add log.libsize."),
        ({"min_counts": -1}, {}, "'min_counts': -1 is not allowed; expected the number"),
        ({"min_counts": "few"}, {}, "'min_counts': 'few' is not allowed"),
        (JOINT | {"within": None, "min_counts": 5}, {}, "'within': None is not allowed"),
        ({"fixed": "~ log(libsize) + age"}, {}, "m: the columns of `by` and .*'age'"),
        ({"random": "sbject"}, {}, "'sbject'; did you mean 'subject'"),
        ({"fixed": "~ log(libsiz)"}, {}, "'libsiz'; did you mean 'libsize'"),
        ({"withn": "cell_type"}, {}, "unknown key 'withn'; did you mean 'within'"),
        ({}, {"test": "cell_type[type1]:condition[T.B]"}, "names 'cell_type', which is constant"),
        ({}, {"test": {"one": {"cell_type[T.b]": 1}}}, "names 'cell_type', which is constant"),
        ({}, {"test": ["condition", "cell_type"]}, "names 'cell_type', which is constant"),
        ({}, {"reference": {"conditon": "A"}}, "reference: .*did you mean 'condition'"),
        ({}, {"reference": "A"}, "'reference': 'A' is not allowed; expected a mapping"),
        ({}, {"reference": {"condition": ["A"]}}, "'reference': 'condition': .* expected the name"),
    ],
)
def test_mistakes_in_a_model_per_cell_type(method, changes, words):
    with pytest.raises(ConfigError, match=words):
        plan_of(WITHIN | method, **changes)


def test_a_filter_without_cell_types_is_refused():
    with pytest.raises(ConfigError, match=r"m: min_counts .* needs `within`"):
        plan_of(JOINT | {"min_counts": 5})


def test_mixedlm_is_not_compared_with_models_per_cell_type():
    benchmark = copy.deepcopy(TEST_CONFIG["benchmark"]) | {"reference": {"methods": ["m"]}}
    with pytest.raises(ConfigError, match="reference: methods: 'm' has a model for each level"):
        plan_of(WITHIN, benchmark=benchmark)


def test_a_data_set_names_its_own_method_in_the_message(tmp_path):
    (tmp_path / "a.h5ad").touch()
    own = {"counts": str(tmp_path / "a.h5ad"), "methods": {"w": WITHIN | {"within": "type"}}}
    with pytest.raises(ConfigError, match=r"^datasets: x: methods: w: within"):
        plan(datasets={"x": own})
