"""A small calibration study from its config to its page, and what is refused."""

from __future__ import annotations

import copy

import pandas as pd
import pytest
import yaml

from flashmm.benchmark.calibration import scenario_table
from flashmm.workflow.plan import read_plan
from flashmm.workflow.sheets import ConfigError

from .conftest import ROOT
from .test_plan import SCHEMAS

STUDY = yaml.safe_load((ROOT / "config" / "calibration.test.yaml").read_text())


@pytest.fixture
def study():
    return copy.deepcopy(STUDY)


def test_a_study(workflow, study):
    done = workflow.run(study)
    assert done.returncode == 0, done.stdout
    left = {
        path.relative_to(workflow.folder).as_posix() for path in workflow.folder.rglob("*.h5ad")
    }
    assert left == set()  # values are drawn again where they are needed
    metrics = pd.read_parquet(workflow.folder / "results/calibration/metrics.parquet")
    assert set(metrics["scenario"]) == set(study["calibration"]["scenarios"])
    methods = metrics.groupby("scenario")["method"].agg(set)
    assert "nested_kr" not in methods["one"] and "pseudobulk_cpm" not in methods["strong"]
    assert methods["counts"] == set(study["calibration"]["methods"])
    fpr = metrics[(metrics["metric"] == "fpr") & (metrics["level"] == 0.05)]
    pooled = fpr[fpr["method"] == "pooled"].set_index("scenario")["value"]
    assert (pooled > 0.2).all()
    page = (workflow.folder / "results/calibration/report.html").read_text()
    for part in ("criteria", "rejection", "intervals", "power", "scenarios"):
        assert f'id="{part}"' in page
    assert not (workflow.folder / "results/report.html").exists()

    # another title writes the page again, and nothing else
    titled = study | {"report": {"title": "Another"}}
    assert workflow.planned(titled) == {"calibration_report": 1}


def test_the_sheets_of_the_study_are_what_their_names_say():
    sheet = pd.read_csv(ROOT / "config" / "calibration.scenarios.tsv", sep="\t")
    table = scenario_table(read_rows(sheet)).set_index("scenario")
    assert (table["paired"] == sheet["name"].str.contains("pairs").to_numpy()).all()
    for row in sheet.itertuples():
        kind, what, cells, subjects = row.name.split("-")
        found = table.loc[row.name]
        assert found["subjects"] == int(subjects)
        assert found["balanced"] == (cells == "balanced")
        assert found["markers"] == (kind == "counts" or what == "markers")
        assert found["depth"] == (2 if what.endswith("2") else 1)
        if kind != "counts":
            assert found["ratio"] == pytest.approx({"strong": 10, "weak": 1}[kind])
            assert row.ratio_spread == 0.8
        tests = row.n_genes * row.n_cell_types
        assert tests - row.n_de_genes >= (100_000 if what == "own" else 25_000)


def read_rows(sheet):
    """Scenarios as the workflow reads them."""
    rows = sheet.set_index("name").to_dict("index")
    return {
        name: {key: value for key, value in row.items() if value == value}
        for name, row in rows.items()
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": {}}, ["'calibration'", "unknown key 'method'", "did you mean 'methods'?"]),
        ({"default": "kr"}, ["'default'", "'kr'", "degrees of freedom"]),
        ({"scenarios": {"a": {"distribution": "normal"}}}, ["'normal'", "nb", "gaussian"]),
        ({"scenarios": {"a": {"residual_variance": 2}}}, ["residual_variance: it has no meaning"]),
        ({"scenarios": {"a": {"reference": "x.h5ad"}}}, ["a", "'reference' belongs to"]),
        ({"methods": {"m": {"test": "t"}}}, ["m", "'test'", "'t'", "pseudobulk"]),
        ({"methods": {"m": {"test": "mixed"}}}, ["m", "needs 'random' or 'fixed'"]),
    ],
)
def test_a_wrong_study(study, change, words):
    study["calibration"] |= change
    with pytest.raises(ConfigError) as said:
        read_plan(study, SCHEMAS)
    assert all(word in str(said.value) for word in words), said.value


def test_a_gaussian_scenario_of_a_benchmark(config):
    config["benchmark"]["scenarios"] = {"a": {"distribution": "gaussian"}}
    with pytest.raises(ConfigError, match="put it into calibration"):
        read_plan(config, SCHEMAS)
