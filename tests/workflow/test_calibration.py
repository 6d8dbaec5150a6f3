"""A small calibration study from its config to its page, and what is refused."""

from __future__ import annotations

import copy

import pandas as pd
import pytest
import yaml

from .conftest import ROOT
from .test_config import refusal

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
    assert len(sheet) == 3 * 3 * 2 * 5
    for row in sheet.itertuples():
        kind, what, cells, subjects = row.name.split("-")
        assert row.n_subjects == 2 * int(subjects)
        assert row.cells_cv == {"balanced": 0, "uneven": 1}[cells]
        assert row.n_cell_types == (1 if what == "one" else 4)
        assert (row.subject_cell_type_variance > 0) == (what == "own")
        assert (row.distribution == "nb") == (kind == "counts")
        per_group = row.n_cells / (row.n_subjects * row.n_cell_types)
        assert per_group == {"counts": 50}.get(kind, 100)
        ratio = {"strong": 10, "weak": 1, "counts": 5}[kind]
        assert row.subject_variance * per_group == pytest.approx(ratio)
        tests = row.n_genes * row.n_cell_types
        assert row.n_de_genes == tests / 10
        assert tests - row.n_de_genes >= (25_000 if kind == "counts" else 100_000)


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
def test_a_wrong_study(workflow, study, change, words):
    study["calibration"] |= change
    line = refusal(workflow, study)
    assert all(word in line for word in words), line


def test_a_gaussian_scenario_of_a_benchmark(workflow, config):
    config["benchmark"]["scenarios"] = {"a": {"distribution": "gaussian"}}
    assert "put it into calibration" in refusal(workflow, config)
