"""Sets of real donors: labels, thinning, and how tests of them are judged."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from flashmm.benchmark.data import DataSet, Request
from flashmm.benchmark.donor_metrics import judge, judged_pairs, run_set
from flashmm.benchmark.donors import SIDES, DonorSpec, SetName, donor_set, permuted_set, thinned_set
from flashmm.benchmark.methods import Method
from flashmm.cells.summary import summarise
from flashmm.options import DesignError, InputError

SPEC = DonorSpec(per_side=(3,), permuted=2, thinned=1, share=0.2, subject="donor", cell_type="kind")


@pytest.fixture(scope="module")
def donors() -> ad.AnnData:
    """Eight donors of two types of cells, 60 genes, columns of other names."""
    random = np.random.default_rng(5)
    n_cells, n_genes = 1600, 60
    counts = random.poisson(random.uniform(0.5, 8, n_genes), (n_cells, n_genes))
    obs = pd.DataFrame(
        {
            "donor": [f"d{i % 8}" for i in range(n_cells)],
            "kind": np.repeat(["B", "T"], n_cells // 2),
            "libsize": 1.0,
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"g{i}" for i in range(n_genes)])
    return ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=var)


def original(donors: ad.AnnData, made: ad.AnnData) -> np.ndarray:
    """Counts of the cells of a set as they were."""
    return donors.X[donors.obs["donor"].isin(made.obs["subject"]).to_numpy()].toarray()


def test_labels_are_balanced_and_counts_stay(donors):
    made = permuted_set(donors, SPEC, 3)
    sides = made.cells.obs.groupby("subject", observed=True)["condition"].unique()
    assert sides.map(len).eq(1).all()
    assert sorted(sides.str[0]) == ["A"] * 3 + ["B"] * 3
    assert made.truth.empty
    np.testing.assert_array_equal(made.cells.X.toarray(), original(donors, made.cells))


def test_totals_are_those_of_the_thinned_counts(donors):
    made = thinned_set(donors, SPEC, 3)
    total = np.asarray(made.cells.X.sum(1)).ravel()
    np.testing.assert_array_equal(made.cells.obs["libsize"], np.maximum(total, 1))
    assert total.sum() < original(donors, made.cells).sum()


def test_only_the_lower_side_of_true_pairs_is_thinned(donors):
    made = thinned_set(donors, SPEC, 3)
    obs, y = made.cells.obs, made.cells.X.toarray()
    changed = pd.DataFrame(y != original(donors, made.cells), columns=made.cells.var_names)
    keys = [obs["cell_type"].to_numpy(), obs["condition"].to_numpy()]
    touched = changed.groupby(keys).any().stack()
    truth = made.truth
    lower = np.where(truth["log_fc"] > 0, "A", "B")
    expected = set(zip(truth["cell_type"], lower, truth["gene"], strict=True))
    assert set(touched.index[touched]) == expected
    assert len(truth) == 2 * 12
    assert np.abs(truth["log_fc"]).between(np.log(1.5), np.log(3)).all()


def test_thinning_has_the_fold_change_on_average(donors):
    ratios = []
    for replicate in range(1, 9):
        made = thinned_set(donors, SPEC, 3, replicate)
        y, before = made.cells.X.toarray(), original(donors, made.cells)
        obs = made.cells.obs
        for gene, kind, log_fc in made.truth.itertuples(index=False):
            side = "A" if log_fc > 0 else "B"
            rows = ((obs["cell_type"] == kind) & (obs["condition"] == side)).to_numpy()
            column = made.cells.var_names.get_loc(gene)
            total, p = before[rows, column].sum(), np.exp(-abs(log_fc))
            ratios.append((y[rows, column].sum() - total * p) / np.sqrt(total * p * (1 - p)))
    # standardised binomial sums: mean 0, variance 1
    assert abs(np.mean(ratios)) < 4 / np.sqrt(len(ratios))
    assert np.var(ratios) == pytest.approx(1, abs=4 * np.sqrt(2 / len(ratios)))


def test_a_set_follows_from_seed_and_name(donors, tmp_path):
    name, path = SetName(3, "thinned", 2), tmp_path / "donors.h5ad"
    columns = ad.AnnData(donors.X.tocsc(), obs=donors.obs, var=donors.var)
    columns.write_h5ad(path)
    one, same = donor_set(donors, SPEC, name), donor_set(path, SPEC, name)
    np.testing.assert_array_equal(one.cells.X.toarray(), same.cells.X.toarray())
    pd.testing.assert_frame_equal(one.truth, same.truth)
    other = donor_set(donors, SPEC, SetName(3, "thinned", 1))
    assert not one.truth.equals(other.truth)


def test_the_sets_of_a_study():
    study = DonorSpec(per_side=(3, 4), permuted=2, thinned=1).sets()
    assert len(set(study)) == len(study) == 6
    assert study.count(SetName(4, "thinned", 1)) == 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"per_side": (1,)}, "per_side: two or more"),
        ({"per_side": ()}, "per_side: two or more"),
        ({"permuted": 0, "thinned": 0}, "not both 0"),
        ({"share": 1.0}, "share: a number between"),
        ({"fold_change": (3.0, 1.5)}, "fold_change: 1 < least"),
        ({"seed": -1}, "seed: a whole number"),
    ],
)
def test_a_study_without_sense_is_refused(fields, said):
    with pytest.raises(InputError, match=said):
        DonorSpec(**fields)


def test_bad_counts_are_refused(donors):
    with pytest.raises(DesignError, match="has 8 subjects, and 5 per side need 10"):
        permuted_set(donors, SPEC, 5)
    with pytest.raises(InputError, match="no column 'subject'"):
        permuted_set(donors, DonorSpec(cell_type="kind"), 3)
    with pytest.raises(InputError, match="kind: one of"):
        donor_set(donors, SPEC, SetName(3, "halved", 1))
    halves = ad.AnnData(donors.X * 0.5, obs=donors.obs, var=donors.var)
    with pytest.raises(InputError, match="not an integer"):
        permuted_set(halves, SPEC, 3)
    gaps = donors.obs.assign(kind=donors.obs["kind"].where(donors.obs["donor"] != "d1"))
    with pytest.raises(InputError, match="is missing in some cells"):
        permuted_set(ad.AnnData(donors.X, obs=gaps, var=donors.var), SPEC, 3)


# ----------------------------------------------------------------------------------------------
# Judging


def hand_made() -> pd.DataFrame:
    """Two sets of ten pairs, four of them true; in the second set the last true one is missed."""
    p = [[1e-6, 1e-5, 1e-4, 1e-3, 2e-4, 0.04, 0.3, 0.5, 0.7, 0.9]] * 2
    p[1] = [*p[1][:3], 0.6, *p[1][4:]]
    return pd.concat(
        pd.DataFrame(
            {
                "per_side": 3,
                "kind": "thinned",
                "replicate": i + 1,
                "method": "m",
                "gene": [f"g{j}" for j in range(10)],
                "cell_type": "B",
                "quarter": np.repeat([1, 2], 5),
                "de": [True] * 4 + [False] * 6,
                "p": values,
            }
        )
        for i, values in enumerate(p)
    )


def test_judged_as_by_hand():
    found = judge(hand_made())
    whole = found[(found["cell_type"] == "all") & (found["quarter"] == "all")]
    value = whole.set_index(["metric", "level"])["value"]
    # nulls: .0002 and .04 of six are below .05, .0002 below the other levels
    assert value["fpr", 0.05] == pytest.approx(2 / 6)
    assert value["fpr", 0.01] == value["fpr", 0.001] == pytest.approx(1 / 6)
    # BH at 5 %: the four true ones and .0002 of the first set, one true one less of the second
    assert value["fdp", 0.05] == pytest.approx(2 / 9)
    assert value["tpr", 0.05] == pytest.approx(7 / 8)
    # leaving out a set leaves the FDP of the other, 1/5 or 1/4: half their difference
    error = whole.set_index("metric").loc["fdp", "std_error"]
    assert error == pytest.approx((1 / 4 - 1 / 5) / 2)
    quarter = found[(found["quarter"] == "2") & (found["metric"] == "fpr")]
    assert quarter.set_index("level")["value"][0.05] == pytest.approx(1 / 5)


def test_one_set_has_no_error_and_nulls_no_power():
    tests = hand_made().query("replicate == 1").assign(de=False, kind="permuted")
    found = judge(tests)
    assert set(found["metric"]) == {"fpr"}
    assert found["std_error"].isna().all()
    with pytest.raises(InputError, match="'quarter' are missing"):
        judge(tests.drop(columns="quarter"))


METHODS = [
    Method.of({"name": "kr", "test": "within", "ddf": "kenward-roger-2"}),
    Method.of({"name": "t", "test": "pseudobulk_tmm", "moderate": True, "min_counts": 20}),
    Method.of({"name": "joint", "random": "subject", "ddf": "residual"}),
    Method.of({"name": "edger", "test": "peer", "program": "edgeR-QL"}),
]


def test_a_set_is_tested_by_all_methods(donors):
    tests, notes = run_set(thinned_set(donors, SPEC, 3), METHODS)
    assert set(tests["method"]) == {"kr", "t", "joint"}
    assert notes == ("edger is left out: edger: the data set has no peers.",)
    assert tests.groupby("method").size().nunique() == 1
    assert tests["p"].between(0, 1).all()
    # strong effects in Poisson counts of many cells are found by all
    found = judge(tests)
    assert (found.loc[found["metric"] == "power_at_fpr", "value"] > 0.8).all()


def test_one_cell_type_will_do(donors):
    alone = donors[donors.obs["kind"] == "B"].copy()
    tests, _ = run_set(permuted_set(alone, SPEC, 3), METHODS[:2])
    assert set(tests["cell_type"]) == {"B"}
    assert not tests["de"].any()


def test_pairs_with_few_counts_are_not_judged(donors):
    made = permuted_set(donors, SPEC, 3)
    groups = summarise(made.cells, ["subject", "cell_type", "condition"], ["log(libsize)"])
    pairs = judged_pairs(groups, made.truth, 2000)
    total = made.cells.X[(made.cells.obs["cell_type"] == "B").to_numpy()].sum(0)
    kept = set(made.cells.var_names[np.asarray(total).ravel() >= 2000])
    assert set(pairs.loc[pairs["cell_type"] == "B", "gene"]) == kept
    with pytest.raises(InputError, match="No gene has 1e\\+09 counts"):
        judged_pairs(groups, made.truth, 1e9)


def test_without_r_other_packages_are_left_out(donors, monkeypatch):
    monkeypatch.setenv("PATH", "")
    _, notes = run_set(permuted_set(donors, SPEC, 3), METHODS[2:], peers="workflow/methods")
    assert len(notes) == 1
    assert notes[0].startswith("edger is left out: edgeR-QL is skipped: there is no such program")


# ----------------------------------------------------------------------------------------------
# Packages of R


R_SCRIPTS = Path(__file__).resolve().parents[2] / "workflow" / "methods"


@pytest.fixture(scope="module")
def edger() -> None:
    """R with edgeR, or the test is skipped."""
    asked = ["Rscript", "--vanilla", "-e", "quit(status = !nzchar(system.file(package = 'edgeR')))"]
    if shutil.which("Rscript") is None or subprocess.run(asked, check=False).returncode:
        pytest.skip("R with edgeR is not installed")


def peer_of(data, **settings):
    method = Method.of({"name": "m", "test": "peer", "program": "limma-voom", **settings})
    return method.run(data, Request("~ 1"))


@pytest.mark.usefixtures("edger")
def test_each_cell_type_is_tested_alone_by_r(donors):
    cells = thinned_set(donors, SPEC, 3).cells
    by = ["subject", "cell_type", "condition"]
    groups = summarise(cells, by, ["log(libsize)"], progress=False)
    found = peer_of(DataSet(groups, peers=R_SCRIPTS), min_counts=400).tests
    for name in ("B", "T"):
        own = groups.subset((groups.obs["cell_type"] == name).to_numpy())
        part = found[found["contrast"] == f"cell_type[{name}]:condition[T.B]"]
        # genes with fewer counts in the type are left out there, the others keep their order
        assert part["gene"].tolist() == list(groups.genes[own.counts.sum(0) >= 400])
        assert len(part) < len(groups.genes)
        alone = peer_of(DataSet(own, peers=R_SCRIPTS), min_counts=400).tests
        np.testing.assert_allclose(part["p_value"], alone["p_value"], rtol=1e-9)
        # estimates are log2 ratios of the second level over the first
        side = [own.counts[(own.obs["condition"] == x).to_numpy()].sum(0) for x in SIDES]
        ratio = pd.Series(np.log2(side[1] / side[0]), own.genes)[part["gene"]]
        assert np.corrcoef(ratio, part["estimate"])[0, 1] > 0.99


@pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning")
@pytest.mark.usefixtures("edger")
def test_types_without_replicates_are_left_out_by_r(donors):
    cells = permuted_set(donors, SPEC, 3).cells
    groups = summarise(cells, ["subject", "cell_type", "condition"], ["log(libsize)"])
    obs = groups.obs
    few = (obs["cell_type"] != "T") | ~obs["subject"].isin(sorted(set(obs["subject"]))[:5])
    found = peer_of(DataSet(groups.subset(few.to_numpy()), peers=R_SCRIPTS))
    assert set(found.tests["contrast"]) == {"cell_type[B]:condition[T.B]"}
    assert found.notes == ("T: too few samples, not tested.",)
