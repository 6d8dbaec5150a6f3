"""Scenarios of a benchmark: grids, real donors, and the sheet that they are expanded to."""

from __future__ import annotations

import copy
import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import sparse

from flashmm.benchmark.donors import DonorSpec, SetName, donor_set, seed_of
from flashmm.io.cells import write_cells
from flashmm.workflow import scenarios
from flashmm.workflow.scenarios import expand, scenario_sheet

from .test_plan import SCHEMAS, plan

FIELDS = SCHEMAS.columns("scenarios") | SCHEMAS.columns("donor_scenarios")

GRID = """
- base: {n_genes: 100, n_cell_types: 2}
  n_subjects: [8, 12]
  effect: {none: {n_de_genes: 0}, strong: {min_log_fc: 1, max_log_fc: 1.5}}
  nested: [true, false]
- name: deep
  libsize_ratio: [1, 2.5]
  subject_variance: {low: 0.01, high: 0.2}
- name: donors
  base: {counts: donors.h5ad}
  kind: [permuted, thinned]
  per_side: [2, 3]
"""


@pytest.fixture
def donors(tmp_path, monkeypatch):
    """Counts of six donors in a file."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(2)
    obs = pd.DataFrame({"subject": np.arange(120) % 6, "cell_type": np.repeat(["B", "T"], 60)})
    obs = obs.astype(str).set_axis([f"c{i}" for i in range(120)], axis=0)
    counts = sparse.csr_matrix(random.poisson(3.0, (120, 10)).astype(np.float32))
    var = pd.DataFrame(index=[f"g{i}" for i in range(10)])
    ad.AnnData(counts, obs, var).write_h5ad(tmp_path / "donors.h5ad")
    return tmp_path / "donors.h5ad"


def planned(grid=GRID, **more):
    return plan(benchmark={"grid": yaml.safe_load(grid), **more})


def test_a_grid_is_every_combination(donors):
    found = planned(replicates=3)
    assert len(found.scenarios) == 2 * 2 * 2 + 2 * 2 + 2 * 2
    assert len(found.datasets) == 3 * len(found.scenarios)
    assert found.scenarios["subjects12-strong-not_nested"] == {
        "n_genes": 100,
        "n_cell_types": 2,
        "n_subjects": 12,
        "min_log_fc": 1,
        "max_log_fc": 1.5,
        "nested": False,
    }
    assert found.scenarios["deep-libsize_ratio2_5-low"] == {
        "libsize_ratio": 2.5,
        "subject_variance": 0.01,
    }
    assert found.of_donors == [
        f"donors-{kind}-per_side{n}" for kind in ("permuted", "thinned") for n in (2, 3)
    ]


def test_the_last_axis_runs_fastest_and_wins_over_the_base():
    rows = list(expand({"base": {"n_cells": 1, "n_genes": 2}, "n_cells": [5, 6]}, FIELDS))
    assert rows == [
        {"name": "cells5", "n_cells": 5, "n_genes": 2},
        {"name": "cells6", "n_cells": 6, "n_genes": 2},
    ]


def test_every_replicate_has_a_seed_of_its_own(donors):
    found = planned(replicates=3)
    seeds = [tuple(found.seed(d["scenario"], d["replicate"])) for d in found.datasets.values()]
    assert len(set(seeds)) == len({seed_of(seed) for seed in seeds}) == len(found.datasets)


def test_the_sheet_is_one_that_can_be_read(donors, tmp_path):
    found = planned()
    scenarios.write_scenarios(found.scenarios, str(tmp_path / "sheet.tsv"))
    again = plan(benchmark={"scenarios": str(tmp_path / "sheet.tsv")})
    assert again.scenarios == found.scenarios
    assert scenario_sheet(again.scenarios) == (tmp_path / "sheet.tsv").read_text()


def test_a_grid_beside_a_sheet(donors):
    listed = {"own": {"n_cells": 50}, "real": {"counts": str(donors), "kind": "permuted"}}
    found = planned("n_cells: [100]", scenarios=copy.deepcopy(listed))
    assert list(found.scenarios) == ["own", "real", "cells100"]
    assert (found.simulated, found.of_donors) == (["own", "cells100"], ["real"])
    assert found.scenario_inputs("real") == {"counts": str(donors)}


def test_a_command_prints_the_sheet(donors, capsys):
    config = {"benchmark": {"grid": {"n_cells": [100, 200]}}}
    path = donors.with_name("config.yaml")
    path.write_text(yaml.safe_dump(config))
    assert scenarios.main([str(path)]) == 0
    assert capsys.readouterr().out == "name\tn_cells\ncells100\t100\ncells200\t200\n"
    path.write_text(yaml.safe_dump({"benchmark": {"grid": {"n_cell": [1]}}}))
    assert scenarios.main([str(path)]) == 1
    assert "did you mean 'n_cells'?" in capsys.readouterr().err


def test_sets_of_donors_follow_from_their_scenario(donors, tmp_path):
    """Counts with the columns of a simulation; the same bytes each time, and a truth that holds."""
    found = planned("{base: {counts: donors.h5ad, share: 0.3}, kind: [thinned], per_side: [3]}")
    (name,) = found.of_donors
    given = found.donor_set(name)
    spec = DonorSpec(**given["spec"], seed=seed_of(found.seed(name, 1)))
    assert spec.fold_change == pytest.approx(np.exp([0.4, 1.1]))
    made = donor_set(donors, spec, SetName(given["per_side"], given["kind"], 1))
    for path in ("a.h5ad", "b.h5ad"):
        write_cells(made.cells, tmp_path / path, {"seed": found.seed(name, 1)})
    assert (tmp_path / "a.h5ad").read_bytes() == (tmp_path / "b.h5ad").read_bytes()
    stored = ad.read_h5ad(tmp_path / "a.h5ad")
    assert list(stored.obs) == ["subject", "cell_type", "condition", "libsize"]
    assert stored.obs.groupby("condition", observed=True)["subject"].nunique().tolist() == [3, 3]
    assert json.loads(stored.uns["flashmm"]["provenance"])["seed"] == found.seed(name, 1)
    assert (stored.X != made.cells.X).nnz == 0
    assert set(made.truth) == {"gene", "cell_type", "log_fc"} and len(made.truth) == 2 * 3
