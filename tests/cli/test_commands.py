"""The command line: what is printed and written, exit codes, errors in the words of the flags."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from cell_containers import study, write_10x
from coarse_figures import draw_coarsely
from typer.testing import CliRunner

import flashmm as fm
from flashmm.cli import app
from flashmm.cli.output import in_flags
from flashmm.workflow.plan import read_plan
from flashmm.workflow.sheets import Schemas

SCHEMAS = Schemas.in_folder(Path(__file__).resolve().parents[2] / "workflow" / "schemas")

COMMANDS = (
    *("check", "summarise", "merge", "de", "explain", "bulk", "report", "test", "power"),
    *("simulate", "convert", "evaluate"),
)


def run(*arguments, code=0):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Simulated cells with a truth, and a copy with logarithms in X and counts in .raw."""
    path = tmp_path_factory.mktemp("cells")
    asked = ("--genes", 60, "--cells", 600, "--subjects", 8, "--cell-types", 2, "--changed", 20)
    run("simulate", *asked, "-o", path / "cells.h5ad")
    cells = ad.read_h5ad(path / "cells.h5ad")
    normal = cells.copy()
    normal.raw = cells
    normal.X = cells.X.astype(np.float32)
    totals = np.asarray(cells.X.sum(1)).ravel()
    normal.X.data = np.log1p(normal.X.data / np.repeat(totals, np.diff(normal.X.indptr)) * 1e4)
    normal.write_h5ad(path / "normal.h5ad")
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command):
    assert f"flashmm {command}" in run(command, "--help").output


def test_version_is_that_of_the_package():
    assert fm.__version__ in run("--version").output


def test_check_says_who_can_be_compared(folder):
    found = json.loads(run("check", folder / "cells.h5ad", "--json").stdout)
    assert found["roles"] == {
        "subject": "subject",
        "condition": "condition",
        "within": "cell_type",
    }
    assert [row["df"] for row in found["design"]] == [6, 6] and found["askable"]
    assert "Each subject has one condition" in run("check", folder / "cells.h5ad").stdout


def test_check_writes_a_config_that_says_what_was_found(folder):
    run("check", folder / "normal.h5ad", "--write", folder / "config.yaml")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert read_plan(copy.deepcopy(config), SCHEMAS).runs == [("normal", "within")]
    assert config["layer"] == "raw" and config["reference"] == {"condition": "A"}
    assert config["methods"]["within"]["random"] == ["subject"]
    assert config["datasets"]["normal"]["counts"] == str(folder / "normal.h5ad")


def test_check_exits_with_three_where_nothing_can_be_asked(folder, tmp_path):
    cells = ad.read_h5ad(folder / "cells.h5ad")
    cells[cells.obs["subject"].isin(["A1", "B1"])].write_h5ad(tmp_path / "two.h5ad")
    assert "cannot be asked" in run("check", tmp_path / "two.h5ad", code=3).stdout
    asked = ("--within", "cell_type", "-o", tmp_path / "out")
    assert "No comparison of 'condition'" in run("de", tmp_path / "two.h5ad", *asked, code=3).stderr


def test_de_ends_in_the_tables_of_the_function(folder):
    asked = ("--condition", "condition", "--subject", "subject", "--within", "cell_type")
    said = run("de", folder / "cells.h5ad", *asked, "-o", folder / "out", "--json")
    found = json.loads(said.stdout)["found"]
    assert [row["cell_type"] for row in found] == ["type1", "type2"]
    table = fm.read_table(folder / "out" / "tests.parquet")
    formula = "~ log(libsize) + condition + (1 | subject)"
    with pytest.warns(fm.FlashmmWarning):
        same = fm.de(folder / "cells.h5ad", formula, "condition", within="cell_type")
    pd.testing.assert_series_equal(table["p_value"], same.to_frame()["p_value"])
    assert (folder / "out" / "tests.tsv").is_file()
    assert {row["comparison"] for row in found} == {"B vs A"}
    first = same.top(1)["gene"].item()
    told = json.loads(run("explain", folder / "out", "--top", 1, "--json").stdout)
    assert told == {first: str(same.explain(first))}
    assert "is not in the table" in run("explain", folder / "out", "gene1000", code=1).stderr
    evaluated = run(
        *("evaluate", folder / "out" / "tests.parquet", "--json"),
        *("--truth", folder / "cells.truth.tsv"),
    )
    assert {row["metric"] for row in json.loads(evaluated.stdout)["metrics"]} >= {"tpr", "fpr"}


@pytest.mark.slow  # the figures of a page
def test_report_of_the_folder_of_de_is_a_page(folder, monkeypatch):
    draw_coarsely(monkeypatch)
    run("de", folder / "cells.h5ad", "-o", folder / "paged")
    run("report", folder / "paged", "--title", "Genes <b> of a study")
    page = (folder / "paged" / "report.html").read_text()
    assert "Genes &lt;b&gt; of a study" in page and "gene60" in page


def test_report_of_another_folder_is_refused(folder):
    assert "wrote" in run("report", folder, code=1).stderr
    assert "none is no folder" in run("report", folder / "none", code=1).stderr
    assert "wrote" in run("explain", folder, code=1).stderr


def test_groups_of_shards_are_merged_and_tested(folder):
    by = ("--by", "subject", "--by", "cell_type", "--by", "condition")
    for part in (1, 2):
        run(
            "summarise",
            folder / "cells.h5ad",
            *by,
            "--shard",
            f"{part}/2",
            "-o",
            folder / f"{part}.h5ad",
        )
    run("merge", folder / "1.h5ad", folder / "2.h5ad", "-o", folder / "groups.h5ad")
    model = ("--formula", "~ log(libsize) + condition + (1 | subject)", "--contrast", "condition")
    run("test", folder / "groups.h5ad", *model, "--within", "cell_type", "-o", folder / "tested")
    assert len(fm.read_table(folder / "tested" / "tests.parquet")) == 120


def test_power_of_a_pilot_is_a_table_and_figures(folder):
    sizes = ("--subjects", "4,16", "--cells", 50, "--log2-fc", "1")
    said = run("power", folder / "cells.h5ad", *sizes, "-o", folder / "power", "--json")
    found = json.loads(said.stdout)
    assert [row["subjects"] for row in found["power"]] == [4, 16] and not found["paired"]
    assert (folder / "power" / "figures" / "power.svg").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("de", "normal.h5ad", "-o", "x"), "--layer raw"),
        (("de", "cells.h5ad", "--subject", "donor", "-o", "x"), "--subject donor is not a column"),
        (("check", "none.h5ad"), "There is no file"),
        (("de", "cells.h5ad", "--within", "celltype", "-o", "x"), "did you mean 'cell_type'"),
        (("de", "cells.h5ad", "--ddf", "kr", "-o", "x"), "ddf must be one of"),
        (("bulk", "cells.h5ad", "-o", "x"), "a file of cells"),
        (("summarise", "cells.h5ad", "--by", "subject", "--shard", "x", "-o", "x"), "--shard is"),
        (("power", "cells.h5ad", "--subjects", "four", "-o", "x"), "--subjects takes numbers"),
    ],
)
def test_faults_are_said_in_the_words_of_the_flags(folder, monkeypatch, arguments, words):
    monkeypatch.chdir(folder)
    result = run(*arguments, code=1)
    assert words in result.stderr and "Traceback" not in result.output


def test_unknown_flags_exit_with_two():
    assert "No such option: --nothing" in run("check", "--nothing", code=2).stderr


def test_arguments_are_flags_in_messages():
    assert in_flags("ask for layer='raw', or transform='none'") == (
        "ask for --layer raw, or --transform none"
    )
    assert in_flags("Give the effect: effect=.") == "Give the effect: --effect."
    assert in_flags("x = 1, a=b") == "x = 1, a=b"


@pytest.fixture(scope="module")
def bulk(tmp_path_factory):
    """FPKM of related individuals, a table of them, and their kinship."""
    path = tmp_path_factory.mktemp("bulk")
    sim = fm.simulate_kinship_traits(40, 30, 0.5, 200, 1)
    sim.K.to_csv(path / "kinship.tsv", sep="\t")
    np.exp2(5 + sim.Y.T).rename_axis("gene").to_csv(path / "fpkm.csv")
    samples = pd.DataFrame({"sex": ["f", "m"] * 20}, index=sim.Y.index)
    samples.rename_axis("individual").to_csv(path / "samples.csv")
    return path


def test_bulk_tests_and_heritabilities(bulk, tmp_path):
    files = (bulk / "fpkm.csv", "--obs", bulk / "samples.csv")
    found = json.loads(run("bulk", *files, "--condition", "sex", "-o", tmp_path, "--json").stdout)
    assert found["found"][0]["comparison"] == "m vs f" and found["found"][0]["tested"] == 30
    assert len(found["top"]) == 5 and found["top"][0]["p_value"] <= found["top"][1]["p_value"]
    assert any("least squares" in text for text in found["notes"])
    assert len(pd.read_csv(tmp_path / "tests.tsv", sep="\t")) == 30
    related = ("--kinship", bulk / "kinship.tsv")
    assert "Heritable genes" in run("bulk", *files, *related, "-o", tmp_path / "h2").output
    table = pd.read_parquet(tmp_path / "h2" / "heritability.parquet")
    assert table["h2"].between(0, 1).all()


def test_bulk_says_what_it_needs_in_flags(bulk, tmp_path):
    table = bulk / "fpkm.csv"
    assert "(--condition), or say how" in run("bulk", table, "-o", tmp_path, code=3).output
    wrong = run("bulk", table, "-o", tmp_path, "--individual", "who", "--condition", "x", code=1)
    assert "--individual who is not a column" in wrong.output
    tall = run("bulk", table, "-o", tmp_path, "--layout", "tall", code=1)
    assert "--layout tall is not known" in tall.output
    bare = run("bulk", table, "-o", tmp_path, "--condition", "sex", code=1).output
    assert "--condition sex is not a column" in bare and "with --obs" in bare


def test_files_of_10x_take_their_columns_from_a_table(tmp_path):
    cells = study()
    write_10x(cells, tmp_path / "cells.h5")
    cells.obs.to_csv(tmp_path / "cells.tsv", sep="\t")
    said = run("de", tmp_path / "cells.h5", "-o", tmp_path / "out", code=1).output
    assert "give a table of them, a row per barcode, with --obs" in said
    assert (
        "Problem: The cells have no columns" in run("check", tmp_path / "cells.h5", code=3).output
    )
    run("de", tmp_path / "cells.h5", "--obs", tmp_path / "cells.tsv", "-o", tmp_path / "out")
    table = pd.read_parquet(tmp_path / "out" / "tests.parquet")
    assert list(table["gene"]) == list(cells.var_names)
    sheet = ("--obs", tmp_path / "cells.tsv")
    said = run("convert", tmp_path / "cells.h5", *sheet, "-o", tmp_path / "cells.h5ad").output
    assert "40 cells x 9 genes, 3 columns" in said
    assert f"--obs {tmp_path / 'cells.tsv'}" in run("check", tmp_path / "cells.h5", *sheet).stderr
    pilot = ("--subjects", "4,8", "--log2-fc", "1", "--json")
    power = [
        json.loads(run("power", tmp_path / name, *beside, *pilot, "-o", tmp_path / "n").stdout)
        for name, beside in (("cells.h5", sheet), ("cells.h5ad", ()))
    ]
    assert power[0] == power[1]
    found = ad.read_h5ad(tmp_path / "cells.h5ad")
    np.testing.assert_array_equal(found.X.toarray(), cells.X.toarray())


def test_logarithms_are_analysed_without_a_library_size(folder, tmp_path):
    normal = ad.read_h5ad(folder / "normal.h5ad")
    del normal.raw
    normal.write_h5ad(tmp_path / "logs.h5ad")
    refused = run("de", tmp_path / "logs.h5ad", "-o", tmp_path / "out", code=1).output
    assert "or use --transform none" in refused
    run("de", tmp_path / "logs.h5ad", "--transform", "none", "-o", tmp_path / "out")
    groups = fm.read_groups(tmp_path / "out" / "groups.h5ad")
    assert groups.covariates == () and groups.counts is None
