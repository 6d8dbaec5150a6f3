"""The study on real donors in the workflow."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from flashmm.workflow.plan import read_plan
from flashmm.workflow.sheets import ConfigError

from .conftest import jobs_in
from .test_plan import SCHEMAS

CONFIG = {
    "seed": 3,
    "donors": {
        "counts": "donors.h5ad",
        "per_side": [3],
        "permuted": 2,
        "thinned": 1,
        "methods": {
            "within_kr2": {"test": "within", "ddf": "kenward-roger-2"},
            "flashmm": {"test": "mixed", "random": "subject", "ddf": "residual"},
        },
    },
}


@pytest.fixture
def donors(workflow):
    random = np.random.default_rng(2)
    counts = random.poisson(random.uniform(0.5, 5, 40), (480, 40)).astype(np.float32)
    obs = pd.DataFrame({"subject": np.arange(480) % 6, "cell_type": np.repeat(["B", "T"], 240)})
    obs = obs.astype(str).set_axis([f"c{i}" for i in range(480)], axis=0)
    var = pd.DataFrame(index=[f"g{i}" for i in range(40)])
    ad.AnnData(sparse.csr_matrix(counts), obs, var).write_h5ad(workflow.folder / "donors.h5ad")


@pytest.mark.slow
def test_the_study_ends_in_a_page(workflow, donors):
    done = workflow.run(CONFIG)
    assert done.returncode == 0, done.stdout
    assert jobs_in(done.stdout) == {"donor_set": 3, "donor_report": 1}
    page = (workflow.folder / "results/donors/report.html").read_text()
    assert "3 against 3 donors" in page
    assert "Level kept" in page
    metrics = pd.read_csv(workflow.folder / "results/donors/metrics.tsv", sep="\t", comment="#")
    assert set(metrics["method"]) == {"within_kr2", "flashmm"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"counts": "none.h5ad"}, "donors: counts: none.h5ad: no such file"),
        ({"per_side": [1]}, "per_side"),
        ({"methods": {"m": {"test": "within", "ddf": "kr"}}}, "donors: m: ddf 'kr' is none of"),
        ({"methods": {"m": {"test": "peer"}}}, "the test 'peer' needs 'program'"),
        ({"doners": 1}, "unknown key 'doners'"),
    ],
)
def test_a_wrong_section(workflow, donors, monkeypatch, change, said):
    monkeypatch.chdir(workflow.folder)
    with pytest.raises(ConfigError) as error:
        read_plan({**CONFIG, "donors": {**CONFIG["donors"], **change}}, SCHEMAS)
    assert said in str(error.value)


def test_a_study_needs_counts():
    section = {key: value for key, value in CONFIG["donors"].items() if key != "counts"}
    with pytest.raises(ConfigError, match=r"donors: counts: one \.h5ad file is needed, found 0"):
        read_plan({**CONFIG, "donors": section}, SCHEMAS)
