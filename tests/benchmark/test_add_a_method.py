"""The methods of `docs/add-a-method.md` run as they stand there."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from flashmm.benchmark import evaluate
from flashmm.benchmark.comparison import CELL_TYPE, comparison_of, design_table, groups_files
from flashmm.benchmark.external import PLACEHOLDERS, STATUSES, Verdict, parse_command, run_command
from flashmm.benchmark.functions import FUNCTIONS
from flashmm.cells.summary import summarise
from flashmm.simulate.counts import SimulationSpec, simulate_counts
from flashmm.workflow.sheets import Schemas

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "add-a-method.md").read_text("utf-8")
SPEC = SimulationSpec(
    n_genes=40, n_cells=800, n_subjects=8, n_cell_types=2, n_de_genes=8, min_log_fc=1, max_log_fc=2
)


def block(language: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)
    assert len(found) == 1
    return found[0]


@pytest.fixture(scope="module")
def simulated():
    simulation = simulate_counts(SPEC, seed=8)
    by = ["subject", "cell_type", "condition"]
    groups = summarise(simulation.adata, by, ["log(libsize)"], progress=False)
    return groups, simulation.truth


@pytest.fixture(scope="module")
def sheet(tmp_path_factory) -> dict:
    """The rows of the document, read as those of any sheet."""
    path = tmp_path_factory.mktemp("sheet") / "my.tsv"
    path.write_text(block("tsv"))
    return Schemas.in_folder(ROOT / "workflow" / "schemas").records(str(path), "methods", "methods")


def run(command: str, groups) -> Verdict:
    asked = comparison_of(groups, "condition")
    contents = {
        "groups": lambda: groups_files(groups, asked),
        "design": lambda: design_table(asked, seed=1, threads=1),
    }
    words = [sys.executable if w == "python" else w for w in parse_command(command)]
    return run_command(words, asked, contents)


def by_hand(groups) -> np.ndarray:
    """p-values of the first cell type, from the groups."""
    here = (groups.obs["cell_type"] == "type1").to_numpy()
    counts = groups.counts[here]
    values = np.log2(1 + 1e6 * counts / counts.sum(1, keepdims=True))
    arm = groups.obs["condition"].to_numpy()[here]
    return stats.ttest_ind(values[arm == "B"], values[arm == "A"]).pvalue


def checked(verdict: Verdict, groups, truth) -> None:
    assert verdict.status == "ok", (verdict.message, verdict.log)
    first = verdict.tests[verdict.tests["cell_type"] == "type1"]
    np.testing.assert_allclose(first["p_value"], by_hand(groups), rtol=1e-6)
    assert evaluate(verdict.tests, truth).value("auc") > 0.8


def test_the_method_in_python(simulated, sheet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my_method.py").write_text(block("py"))
    verdict = run(sheet["mine"]["command"], simulated[0])
    checked(verdict, *simulated)
    assert verdict.tests["log2_fc"].notna().all()


def needs_r() -> None:
    if shutil.which("Rscript") is None:
        pytest.skip("has no Rscript")


def test_the_method_in_r(simulated, sheet, tmp_path, monkeypatch):
    needs_r()
    monkeypatch.chdir(tmp_path)
    Path("my_method.R").write_text(block("r"))
    checked(run(sheet["mine_in_r"]["command"], simulated[0]), *simulated)


def test_shipped_scripts_of_r_run_or_say_what_is_missing(simulated):
    """Each ends well, or is skipped because R lacks one package, which it names."""
    needs_r()
    path = ROOT / "workflow" / "methods"
    groups, truth = simulated
    for name in ("edger", "voom"):
        verdict = run(f"Rscript --vanilla {path}/{name}.R {{groups}} {{design}} {{out}}", groups)
        if verdict.status == "skipped":
            assert verdict.message.startswith("R has no package "), verdict
        else:
            assert verdict.status == "ok", (verdict.message, verdict.log)
            assert evaluate(verdict.tests, truth).value("auc") > 0.8


def test_the_document_is_complete():
    tables = set(re.findall(r"`\{?([\w-]+)\}?`", DOCUMENT))
    assert set(PLACEHOLDERS) | set(STATUSES) | set(FUNCTIONS) | {CELL_TYPE} <= tables
    scripts = {path.stem for path in (ROOT / "workflow" / "methods").glob("*.R")} - {"common"}
    peers = pd.read_csv(ROOT / "config" / "methods.peers.tsv", sep="\t", comment="#")
    named = set(peers["command"].dropna().str.extract(r"methods/(\w+)\.R")[0])
    assert scripts == named
