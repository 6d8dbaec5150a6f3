"""The whole workflow: what it leaves, what a change recomputes, and how bad data end it."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
import zlib

import numpy as np
import pandas as pd
import pytest
import yaml

from .conftest import ROOT, TEST_CONFIG, Workflow, jobs_in, made_counts

COUNTS = ("--config", "counts='my data/my counts.h5ad'")
# one job fits and tests: fits are compared with MixedLM again
AFTER_TESTS = {"fit": 4, "compare": 2, "evaluate": 2, "collect": 1, "report": 1}


# What a run leaves


def test_files_of_a_run(finished):
    wanted = [
        "results/groups/small-1.h5ad",
        "results/fit/small-1/nested.h5ad",
        "results/tests/small-1/nested.parquet",
        "results/tests/small-1/nested.tsv",
        "results/benchmarks/fit/small-1/nested.json",
        "results/evaluation/metrics.parquet",
        "results/evaluation/agreement.parquet",
        "results/report.html",
        "results/provenance.json",
        "logs/fit/small-1/nested.log",
    ]
    assert [path for path in wanted if not (finished.folder / path).is_file()] == []
    pictures = finished.folder / "results" / "figures"
    assert {path.stem for path in pictures.glob("*.svg")} == {
        path.stem for path in pictures.glob("*.png")
    }


def test_a_deleted_table_is_made_again(finished):
    table = finished.folder / "results/tests/small-1/nested.tsv"
    aside = table.rename(table.with_suffix(".aside"))
    planned = finished.planned(TEST_CONFIG)
    aside.rename(table)
    assert planned.get("fit", planned.get("test")) == 1
    assert planned["report"] == 1
    assert "summarise" not in planned


def test_tests_are_tidy(finished):
    tests = pd.read_parquet(finished.folder / "results/tests/small-1/nested.parquet")
    text = pd.read_csv(finished.folder / "results/tests/small-1/nested.tsv", sep="\t")
    assert list(tests.columns) == [
        "gene",
        "contrast",
        "estimate",
        "std_error",
        "conf_low",
        "conf_high",
        "statistic",
        "df",
        "p_value",
        "log10_p",
        "adj_p_value",
        "status",
    ]
    assert len(tests) == len(text) == 20 * 2
    assert all("condition" in name for name in tests["contrast"])


def test_true_effects_are_ranked_first(finished):
    metrics = pd.read_parquet(finished.folder / "results/evaluation/metrics.parquet")
    auc = metrics[(metrics["metric"] == "auc") & (metrics["contrast"] == "all")]
    assert (auc.loc[auc["scenario"] == "small", "value"] > 0.8).all()
    assert set(metrics["method"]) == {"subject", "nested"}


def test_agreement_with_mixedlm(finished):
    agreement = pd.read_parquet(finished.folder / "results/evaluation/agreement.parquet")
    estimate = agreement[agreement["quantity"] == "estimate"]
    assert (estimate["n"] > 0).all()
    assert (estimate["scaled_median"] < 0.05).all()


def test_report_holds_everything_it_shows(finished):
    page = (finished.folder / "results" / "report.html").read_text()
    for part in ("simulation", "accuracy", "agreement", "fits", "performance", "run"):
        assert f'id="{part}"' in page
    assert page.count("<figure>") == page.count('src="data:image/')
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_provenance(finished):
    said = json.loads((finished.folder / "results" / "provenance.json").read_text())
    assert said["simulations"]["small-1"]["seed"] == [7, zlib.crc32(b"small"), 1]
    assert said["config"]["benchmark"]["replicates"] == 1
    assert set(said["inputs"]) == {"small-1", "flat-1"}


def test_nothing_is_left_to_do(finished):
    assert finished.planned(TEST_CONFIG) == {}


def test_same_tables_whatever_the_cores_and_the_other_scenarios(finished, workflow, config):
    del config["benchmark"]["scenarios"]["flat"], config["benchmark"]["reference"]
    made = [f"tests/small-1/{method}.parquet" for method in config["methods"]]
    targets = [f"results/{path}" for path in (*made, "evaluation/small-1/metrics.parquet")]
    done = workflow.run(config, *targets, "--cores", "1")
    assert done.returncode == 0, done.stdout
    for kind in ("tests", "evaluation"):
        pattern = f"results/{kind}/small-1/**/*.parquet"
        tables = workflow.files(pattern)
        assert tables
        assert {path: finished.files(pattern)[path] for path in tables} == tables
    assert finished.files("results/simulations/small-1.*") == workflow.files(
        "results/simulations/small-1.*"
    )


@pytest.mark.parametrize("name", ["r.html", "r.zip"])
def test_snakemake_report(finished, name):
    done = finished.run(TEST_CONFIG, "--report", name)
    assert done.returncode == 0, done.stdout
    assert "Warning" not in done.stdout
    if name.endswith("zip"):
        with zipfile.ZipFile(finished.folder / name) as archive:
            assert any(entry.endswith("report.html") for entry in archive.namelist())
    else:
        assert "tests/small-1/nested.tsv" in (finished.folder / name).read_text()


# What a change recomputes


def test_another_contrast_tests_again(finished, config):
    config["test"] = ["cell_type[type1]:condition[T.B]", "cell_type[type2]:condition[T.B]"]
    assert finished.planned(config) == AFTER_TESTS


def test_another_formula_refits_from_the_groups(finished, config):
    config["methods"]["nested"]["fixed"] = "~ 0 + cell_type + cell_type:condition"
    assert finished.planned(config) == {
        "fit": 2,
        "evaluate": 2,
        "collect": 1,
        "report": 1,
    }


def test_another_ddf_tests_again(finished, config):
    config["methods"]["nested"]["ddf"] = "satterthwaite"
    assert finished.planned(config) == {"fit": 2, "evaluate": 2, "collect": 1, "report": 1}


def test_another_scenario_is_simulated_again_alone(finished, config):
    config["benchmark"]["scenarios"]["flat"]["n_cells"] = 400
    assert finished.planned(config) == {
        "simulate": 1,
        "summarise": 1,
        "fit": 2,
        "reference": 1,
        "compare": 1,
        "evaluate": 1,
        "collect": 1,
        "report": 1,
    }


def test_a_transform_of_one_method_has_groups_of_its_own(finished, config):
    config["methods"]["nested"]["transform"] = "log1p"
    planned = finished.planned(config)
    assert (planned["summarise"], planned["fit"], planned.get("simulate", 0)) == (2, 2, 0)


def test_another_title_writes_the_report_again(finished, config):
    config["report"] = {"title": "Another"}
    assert finished.planned(config) == {"report": 1}


# Real counts


@pytest.fixture(scope="module")
def analysed(tmp_path_factory) -> Workflow:
    """The shipped analysis of subjects with both conditions, and a joint model beside it."""
    workflow = Workflow(tmp_path_factory.mktemp("analysed"))
    counts, rng = made_counts(), np.random.default_rng(6)
    named = np.where(rng.random(counts.n_obs) < 0.5, "B, naive", "Glioblastoma, WHO Grade IV")
    counts.obs["cell_type"] = named
    path = workflow.folder / "my data" / "my counts.h5ad"
    path.parent.mkdir()
    counts.write_h5ad(path)
    config = yaml.safe_load((ROOT / "config" / "analysis.yaml").read_text())
    config["reference"] = {"condition": "treated"}
    config["methods"]["joint"] = TEST_CONFIG["methods"]["subject"]
    done = workflow.run(config, *COUNTS)
    assert done.returncode == 0, done.stdout
    return workflow


def test_a_joint_model_of_counts(analysed):
    tests = pd.read_parquet(analysed.folder / "results/tests/my_counts/joint.parquet")
    assert tests["contrast"].unique().tolist() == [
        "cell_type[B, naive]:condition[T.ctrl]",
        "cell_type[Glioblastoma, WHO Grade IV]:condition[T.ctrl]",
    ]
    assert tests.loc[tests["p_value"].idxmin(), "gene"] == "<b>&up</b>"


def test_a_model_per_cell_type(analysed):
    place = analysed.folder / "results/tests/my_counts/within"
    tests = pd.read_parquet(place.with_suffix(".parquet"))
    assert list(tests.columns[:3]) == ["gene", "cell_type", "contrast"]
    assert set(tests["cell_type"]) == {"B, naive", "Glioblastoma, WHO Grade IV"}
    assert (tests.groupby(["cell_type", "contrast"]).size() == 12).all()
    first = tests.loc[tests.groupby("cell_type")["log10_p"].idxmin()]
    assert set(first["gene"]) == {"<b>&up</b>"}
    assert (first["estimate"] < 0).all()  # the treated cells are the reference
    notes = place.with_suffix(".notes.txt").read_text()
    assert "size factors, tmm-expressed within cell_type" in notes


def test_names_of_counts_are_text_on_the_page(analysed):
    page = (analysed.folder / "results/report.html").read_text()
    assert "&lt;b&gt;&amp;up&lt;/b&gt;" in page and "<b>&up</b>" not in page
    assert "Glioblastoma, WHO Grade IV" in page
    assert "one per cell_type" in page and "B, naive" in page


def test_shards_of_genes_give_the_same(analysed):
    config = yaml.safe_load((analysed.folder / "config.yaml").read_text())
    target = "results/tests/my_counts/within.parquet"
    whole = pd.read_parquet(analysed.folder / target)
    done = analysed.run(config | {"shards": {"cells": 1, "genes": 2}}, target, *COUNTS)
    assert done.returncode == 0, done.stdout
    assert jobs_in(done.stdout) == {"fit_shard": 2, "join": 1, "test": 1}
    pd.testing.assert_frame_equal(pd.read_parquet(analysed.folder / target), whole, rtol=1e-6)


def test_bad_counts(workflow, config, counts):
    del config["benchmark"]
    del config["methods"]["nested"]
    counts.X[0, 0] = np.nan
    counts.write_h5ad(workflow.folder / "counts.h5ad")
    done = workflow.run(config | {"counts": "counts.h5ad"})
    assert done.returncode != 0
    said = [line for line in done.stdout.splitlines() if line.strip().startswith("flashmm: ")]
    assert said and "nan" in said[0], done.stdout
    assert "Traceback" not in done.stdout
    assert not list(workflow.folder.glob("results/**/*.h5ad"))


def test_truncated_file(workflow, config, counts):
    del config["benchmark"]
    path = workflow.folder / "counts.h5ad"
    counts.write_h5ad(path)
    path.write_bytes(path.read_bytes()[:2000])
    done = workflow.run(config | {"counts": "counts.h5ad"})
    assert done.returncode != 0
    assert "flashmm: " in done.stdout and "counts.h5ad" in done.stdout
    assert not list(workflow.folder.glob("results/groups/*"))


def test_default_config_is_complete(workflow):
    """The shipped configs are valid, with their paths relative to the project."""
    shutil.copytree(ROOT / "config", workflow.folder / "config")
    for name in ("config", "heritability"):
        done = workflow.run({}, "--configfile", f"config/{name}.yaml", "--dry-run")
        assert done.returncode == 0, done.stdout
