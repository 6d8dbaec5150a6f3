"""Built-in functions of the sheet of methods, against slow versions of themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from flashmm.benchmark import DataSet, evaluate
from flashmm.benchmark.comparison import Comparison, comparison_of
from flashmm.benchmark.functions import FUNCTIONS, function_method, run_function, typed
from flashmm.benchmark.pydeseq2 import pydeseq2_tests
from flashmm.cells.groups import regrouped
from flashmm.cells.summary import summarise
from flashmm.io.groups import write_groups
from flashmm.options import InputError, UnavailableError
from flashmm.simulate.counts import SimulationSpec, simulate_counts
from flashmm.storage.processes import SKIPPED_CODE
from flashmm.workflow.other_methods import Job, function_job, run_method

pytestmark = pytest.mark.filterwarnings("ignore::flashmm.options.FlashmmWarning")

SPEC = SimulationSpec(
    n_genes=60, n_cells=700, n_subjects=8, n_cell_types=2, n_de_genes=10, min_log_fc=1, max_log_fc=2
)
BY = ["subject", "cell_type", "condition", "batch"]
JOINT = "~ 0 + log(libsize) + cell_type + cell_type:condition"
MODEL = {"fixed": "~ log(libsize) + condition", "random": ["subject"], "within": "cell_type"}


@pytest.fixture(scope="module")
def data() -> DataSet:
    simulation = simulate_counts(SPEC, seed=3)
    adata = simulation.adata
    # a subject has cells of two batches: groups finer than a subject's
    adata.obs["batch"] = np.where(np.arange(adata.n_obs) % 2, "one", "two")
    groups = summarise(adata, BY, ["log(libsize)", "libsize"], progress=False)
    return DataSet(groups, cells=adata, truth=simulation.truth)


@pytest.fixture(scope="module")
def asked(data) -> Comparison:
    return comparison_of(data.groups, "condition")


def run(data, asked, name, **row) -> pd.DataFrame:
    method = function_method({"name": name, "function": name, **row})
    return run_function(method, data, asked, seed=5)[0]


ROWS: dict[str, dict] = {
    "permuted-labels": MODEL,
    "permutation": {"fixed": JOINT, "random": ["subject"], "n_permutations": 20},
    "mixedlm": {"fixed": JOINT, "random": ["subject"], "genes": 2},
}


@pytest.mark.parametrize("name", sorted(FUNCTIONS.keys() - {"pydeseq2"}))
def test_functions_have_the_columns_of_all_methods(data, asked, name):
    found = run(data, asked, name, **ROWS.get(name, {}))
    assert list(found)[:3] == ["gene", "cell_type", "contrast"]
    assert set(found["cell_type"]) == {"type1", "type2"}
    assert set(found["contrast"]) == {"condition[T.B]"}
    assert found["p_value"].between(0, 1).all()
    evaluate(found, data.truth)


def test_wilcoxon_is_that_of_each_gene(data, asked):
    found = run(data, asked, "wilcoxon").set_index(["cell_type", "gene"])
    adata = data.cells
    size = adata.obs["libsize"].to_numpy()[:, None]
    values = np.log2(1 + 1e4 * adata.X.toarray() / size)
    for kind in ("type1", "type2"):
        for i in (0, 17, 59):
            here = (adata.obs["cell_type"] == kind).to_numpy()
            arm = adata.obs["condition"].astype(str).to_numpy()
            low, high = (values[here & (arm == side), i] for side in "AB")
            p = stats.mannwhitneyu(high, low, method="asymptotic").pvalue
            row = found.loc[(kind, adata.var_names[i])]
            assert row["p_value"] == pytest.approx(p)
            assert row["estimate"] == pytest.approx(high.mean() - low.mean())


def test_a_gene_without_counts_has_no_test(data, asked):
    adata = data.cells.copy()
    values = adata.X.tolil()
    values[:, 4] = 0
    adata.X = values.tocsr()
    found = run(replace(data, cells=adata), asked, "wilcoxon")
    missing = found[found["p_value"].isna()]
    assert set(missing["gene"]) == {adata.var_names[4]} and len(missing) == 2
    assert set(missing["status"]) == {"not_estimable"}


def test_cells_as_replicates_fail_and_subjects_do_not(data, asked):
    """Nothing differs after the labels of subjects were permuted; cells say otherwise."""
    p = {name: run(data, asked, name, **ROWS.get(name, {})) for name in ("ols", "permuted-labels")}
    evaluated = {name: evaluate(frame, data.truth) for name, frame in p.items()}
    assert evaluated["ols"].value("fpr", 0.05) > 0.2
    permuted = p["permuted-labels"]["p_value"]
    assert (permuted <= 0.05).mean() < 0.2
    truth = evaluate(run(data, asked, "truth"), data.truth)
    assert truth.value("tpr", 0.05) == 1 and truth.value("auc") == 1


def test_groups_are_added_up(data):
    coarse = regrouped(data.groups, ["subject", "cell_type", "condition"])
    whole = summarise(data.cells, BY[:3], ["log(libsize)", "libsize"], progress=False)
    np.testing.assert_allclose(coarse.counts, whole.counts)
    np.testing.assert_allclose(coarse.sumsq, whole.sumsq)
    assert list(coarse.obs.index) == list(whole.obs.index)
    assert regrouped(whole, BY[:3]) is whole
    with pytest.raises(InputError, match="Groups of 'donor' are needed"):
        regrouped(whole, ["donor"])


def test_without_cell_types_all_cells_are_compared(data):
    groups = summarise(data.cells, ["subject", "condition"], ["log(libsize)"], progress=False)
    whole = comparison_of(groups, "condition", cell_type=None)
    for name in ("wilcoxon", "ols"):
        found = run(replace(data, groups=groups), whole, name)
        assert list(found)[:2] == ["gene", "contrast"] and len(found) == SPEC.n_genes


def test_names_of_joint_contrasts():
    asked = Comparison("arm", ("a", "b"), "s", "kind", ("T.x", "B"), pd.Index(["g"]))
    names = ["kind[T.x]:arm[T.b]", "kind[B]:arm[T.b]"]
    found = typed(pd.DataFrame({"gene": "g", "contrast": names, "p_value": 1.0}), asked)
    assert list(found["kind"]) == ["T.x", "B"] and set(found["contrast"]) == {"arm[T.b]"}


def test_what_is_missing_is_said(data, asked, monkeypatch):
    with pytest.raises(UnavailableError, match="the data set has no truth"):
        run(DataSet(data.groups), asked, "truth")
    monkeypatch.setattr("flashmm.benchmark.pydeseq2.util.find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r"PyDESeq2 is not installed; pip install"):
        pydeseq2_tests(data.groups, asked)


# --- in a process of its own ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def job(data, tmp_path_factory) -> Job:
    folder = tmp_path_factory.mktemp("job")
    write_groups(data.groups, folder / "groups.h5ad")
    data.truth.to_csv(folder / "truth.tsv", sep="\t", index=False)
    asked = {"factor": "condition", "subject": "subject", "cell_type": "cell_type"}
    method = {**asked, "alternative": "two-sided", "timeout": 5, "memory": 4000}
    method["function"] = {"name": "t", "function": "truth"}
    paths = {"groups": folder / "groups.h5ad", "truth": folder / "truth.tsv"}
    named = {key: str(path) for key, path in paths.items()}
    return Job(**named, counts=[], method=method, seed=4)


def test_a_function_runs_by_itself(job, data, asked):
    outcome = run_method(job)
    assert (outcome.verdict.status, outcome.genes, outcome.genes_total) == ("ok", 60, 60)
    costs = outcome.verdict.costs
    assert costs["peak_memory_mib"] > costs["baseline_memory_mib"] > 0
    method = function_method(job.method["function"])
    expected, _ = run_function(method, data, asked, seed=4)
    pd.testing.assert_frame_equal(outcome.verdict.tests, expected)


def test_how_its_process_ends(job, tmp_path, capsys):
    assert function_job(job, str(tmp_path / "out")) == 0
    assert pd.read_parquet(tmp_path / "out").attrs["notes"] == []
    lost = replace(job, truth=None)
    assert function_job(lost, str(tmp_path / "no")) == SKIPPED_CODE
    assert "has no truth" in capsys.readouterr().err
    model = {"fixed": "~ log(libsize) + dose", "random": ["subject"], "within": "cell_type"}
    function = {"name": "p", "function": "permuted-labels", **model}
    unknown = {**job.method, "function": function}
    assert function_job(replace(job, method=unknown), str(tmp_path / "no")) == 1
    assert "'dose'" in capsys.readouterr().err


def test_a_comparison_that_cannot_be_made_is_a_failure_of_the_method(job):
    one = replace(job, method={**job.method, "factor": "cell_type", "command": ["x", "{out}"]})
    outcome = run_method(replace(one, reference={"cell_type": "type2"}))
    assert outcome.verdict.status == "skipped"  # there is no program x
