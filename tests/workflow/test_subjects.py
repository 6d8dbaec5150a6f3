"""Optional models with subjects as rows, and the recovery of known heritabilities."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from flashmm.io.tables import read_provenance
from flashmm.workflow.plan import read_plan
from flashmm.workflow.sheets import ConfigError

from .test_plan import SCHEMAS

SUBJECTS = [f"{condition}{i}" for condition in "AB" for i in range(1, 5)]


@pytest.fixture
def related(workflow, config):
    """A config with models between subjects; the kinship of families of two is in a file."""
    family = np.arange(8) // 2
    K = 0.4 * np.equal.outer(family, family) + 0.6 * np.eye(8)
    table = pd.DataFrame(K, index=SUBJECTS, columns=SUBJECTS)
    table.to_csv(workflow.folder / "kinship.tsv", sep="\t")
    del config["methods"]["nested"], config["benchmark"]["reference"]
    del config["benchmark"]["scenarios"]["flat"]
    config["kinship"] = {"file": "kinship.tsv", "covariates": "~ condition", "min_cells": 2}
    config["multitrait"] = {"column": "condition", "genes": 3, "min_cells": 2}
    return config


def test_models_between_subjects(workflow, related):
    targets = ("kinship/small-1/heritability.parquet", "multitrait/small-1/fits.parquet")
    done = workflow.run(related, *(f"results/{target}" for target in targets))
    assert done.returncode == 0, done.stdout
    results = workflow.folder / "results"
    heritability = pd.read_parquet(results / targets[0])
    assert len(heritability) == 2 * 20
    assert heritability["h2"].dropna().between(0, 1).all()
    tests = pd.read_parquet(results / "kinship/small-1/tests.parquet")
    assert set(tests["contrast"]) == {"condition[T.B]"}
    text = pd.read_csv(results / "kinship/small-1/tests.tsv", sep="\t")
    assert len(text) == len(tests) == 40
    made = read_provenance(results / targets[0])
    assert len(made["inputs"]["relatedness"]) == 64

    assert len(pd.read_parquet(results / targets[1])) == 3
    covariances = pd.read_parquet(results / "multitrait/small-1/covariances.parquet")
    assert (covariances.groupby("gene").size() == 3).all()

    # genes by the tests of a method: fitted again, after these tests
    related["multitrait"] |= {"significant_in": "subject"}
    planned = workflow.planned(related)
    assert (planned["multitrait"], planned["fit"], planned["report"]) == (1, 1, 1)
    assert not {"kinship", "summarise"} & set(planned)


def test_heritability_alone(workflow):
    spec = {"individuals": 60, "markers": 80, "traits": 4, "dense": 2}
    done = workflow.run({"heritability": spec})
    assert done.returncode == 0, done.stdout
    summary = pd.read_parquet(workflow.folder / "results/heritability/summary.parquet")
    assert summary["true_h2"].tolist() == [0, 0.3, 0.7, 1]
    assert (summary["compared"] == 2).all() and (summary["gain_min"] > -1e-6).all()
    page = (workflow.folder / "results/report.html").read_text()
    assert re.findall(r'<section id="(\w+)"', page) == ["heritability", "fits", "provenance"]


@pytest.mark.parametrize(
    ("section", "change", "words"),
    [
        ("kinship", {"covariates": "~ age"}, ["no column is called 'age'"]),
        ("multitrait", {"file": "kinship.tsv"}, ["what makes subjects alike"]),
        ("kinship", {"file": "nowhere.tsv"}, ["kinship", "nowhere.tsv", "no such file"]),
        ("kinship", {"trait": "subject"}, ["subject and trait are both 'subject'"]),
        ("multitrait", {"covariates": "~ cell_type"}, ["'cell_type' makes the traits"]),
    ],
)
def test_a_wrong_section(workflow, related, monkeypatch, section, change, words):
    monkeypatch.chdir(workflow.folder)
    related[section] |= change
    with pytest.raises(ConfigError) as said:
        read_plan(related, SCHEMAS)
    assert all(word in str(said.value) for word in words), said.value


def test_your_own_counts_and_what_they_lack(workflow, related, counts):
    """A run on an .h5ad file whose kinship lacks subjects; jobs that cannot go on end in a line."""
    counts.write_h5ad(workflow.folder / "counts.h5ad")
    names = sorted(counts.obs["subject"].astype(str).unique())
    del related["benchmark"]
    related |= {"datasets": {"mine": {"counts": "counts.h5ad"}}}
    related["kinship"] = {"file": "mine.csv", "kind": "genotypes", "min_cells": 1}
    markers = np.random.default_rng(0).integers(0, 3, (len(names) - 1, 60))
    table = pd.DataFrame(markers, index=names[1:]).add_prefix("m")
    table.to_csv(workflow.folder / "mine.csv")
    related["multitrait"] = {**related["kinship"], "genes": ["no gene"]}

    done = workflow.run(related, "results/kinship/mine/notes.txt")
    assert done.returncode == 0, done.stdout
    notes = (workflow.folder / "results/kinship/mine/notes.txt").read_text()
    assert f"1 of {len(names)} subjects are not in the kinship" in notes

    table.rename(lambda name: f"other {name}").to_csv(workflow.folder / "mine.csv")
    sections = ("kinship", "multitrait")
    targets = (f"results/{section}/mine/notes.txt" for section in sections)
    done = workflow.run(related, *targets, "--keep-going", "--forcerun", *sections)
    assert done.returncode != 0 and "Traceback" not in done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("flashmm: ")]
    assert len(lines) == 2, done.stdout
    for words in (
        ["no subject is in the kinship", f"'{names[0]}'", "'other "],
        ["'no gene' not among the genes"],
    ):
        assert any(all(word in line for word in words) for line in lines), lines
