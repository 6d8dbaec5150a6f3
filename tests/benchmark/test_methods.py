"""Methods: rows of the project's sheets, their tests, controls, and what cannot be run."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml

from flashmm.benchmark import (
    PROCEDURES,
    CalibrationMethod,
    DataSet,
    Method,
    MethodResult,
    Procedure,
    Request,
    calibrate,
    control_table,
    evaluate,
    fit_mixedlm,
    methods,
    permute_labels,
    pseudobulk_tests,
)
from flashmm.cells.summary import summarise
from flashmm.design.from_groups import summary_statistics
from flashmm.inference.testing import contrast_tests
from flashmm.lmm import fit_lmm
from flashmm.options import InputError
from flashmm.simulate.counts import SimulationSpec, simulate_counts
from flashmm.within import fit_within

# some models here leave out what differs between cell types, which is not the question
pytestmark = pytest.mark.filterwarnings("ignore::flashmm.options.FlashmmWarning")

ROOT = Path(__file__).resolve().parents[2]
FIXED = "~ 0 + log(libsize) + cell_type + cell_type:condition"
SPEC = SimulationSpec(n_genes=40, n_cells=600, n_subjects=8, n_cell_types=2, n_de_genes=8)


@pytest.fixture(scope="module")
def data() -> DataSet:
    simulation = simulate_counts(SPEC, seed=2)
    by = ["subject", "cell_type", "condition"]
    groups = summarise(simulation.adata, by, covariates=["log(libsize)"])
    return DataSet(groups, cells=simulation.adata, truth=simulation.truth)


REQUEST = Request(FIXED, seed=3)


def rows(sheet: str) -> list[dict]:
    return pd.read_csv(ROOT / "config" / sheet, sep="\t").to_dict("records")


def filled(row: dict) -> dict:
    """A row without its empty cells."""
    return {key: value for key, value in row.items() if value == value}


def schema(name: str) -> dict:
    path = ROOT / "workflow" / "schemas" / f"{name}.schema.yaml"
    return yaml.safe_load(path.read_text())["properties"]


def run(data: DataSet, test: str, request: Request = REQUEST, **settings) -> MethodResult:
    return Method("m", test, settings).run(data, request)


# --- sheets ------------------------------------------------------------------------------------


def test_every_row_of_the_sheets_is_a_method():
    sheet = [filled(row) for row in rows("methods.tsv")]
    found = [Method.of(row) for row in sheet if "function" not in row]
    assert [method.test for method in found] == ["mixed"] * len(found)
    assert [method.settings.get("within") for method in found] == ["cell_type"] * 2 + [None] * 2
    assert found[2].random == ("subject", "0 + cell_type || subject")
    assert found[3].settings["ddf"] == "residual"
    assert found[3].settings["options"] == {"nonnegative": False}
    studied = [Method.of(filled(row) | {"only_matching": None}) for row in CALIBRATED]
    assert {method.test for method in studied} <= set(PROCEDURES)
    assert studied[0].random == ("subject", "subject:condition")


CALIBRATED = rows("calibration.methods.tsv")


def test_schemas_name_the_settings_of_the_tests():
    sheet = set(schema("methods")) - {"name", "transform", *methods.FIT_OPTIONS}
    # of tests that the rules make of a fit, and of commands and functions
    sheet -= {"alternative", "lfc", "command", "function", "subject", "timeout", "memory", "conda"}
    assert sheet <= {setting for row in PROCEDURES.values() for setting in row.settings}
    study = schema("calibration_methods")
    elsewhere = {"cells", "peers"}
    without_cells = {n for n, row in PROCEDURES.items() if not elsewhere & set(row.requires)}
    without_cells -= {"pydeseq2"}
    assert set(study["test"]["enum"]) == without_cells
    settings = {setting for row in PROCEDURES.values() for setting in row.settings}
    assert set(study) - {"name", "test", "only_matching"} <= settings
    assert study["ddf"]["enum"] == list(PROCEDURES["mixed"].words["ddf"])


def test_what_a_schema_fills_in_is_not_a_setting():
    defaults = {"method": "REML", "nonnegative": True, "engine": "auto"}
    row = {"name": "p", "test": "pooled", "moderate": False, "random": "", **defaults}
    assert dict(Method.of(row).settings) == {}
    ml = Method.of({"name": "m", "fixed": FIXED, "random": "subject ; a:b", "method": "ML"})
    assert ml.settings["options"] == {"method": "ML"} and ml.random == ("subject", "a:b")
    assert Method.of({"name": "u", "random": ["s"], "nonnegative": False}).settings["options"] == {
        "nonnegative": False
    }


# --- the tests ---------------------------------------------------------------------------------


MODELS = [row for row in rows("methods.tsv") if "function" not in filled(row)]


@pytest.mark.parametrize("row", MODELS, ids=lambda row: row["name"])
def test_a_row_tests_as_its_formulas_do(data, row):
    row = filled(row)
    random = [term.strip() for term in row["random"].split(";")]
    if "within" in row:
        fit = fit_within(data.groups, row["within"], row["fixed"], random)
    else:
        stats = summary_statistics(data.groups, row["fixed"], random)
        fit = fit_lmm(stats, nonnegative=row.get("nonnegative", True))
    table = contrast_tests(fit, "condition", ddf=row.get("ddf"))
    result = Method.of(row).run(data, REQUEST)
    pd.testing.assert_frame_equal(result.tests, table.to_frame(intervals=True))
    assert set(table.notes) <= set(result.notes)


def test_size_factors_and_the_filter_of_a_row(data):
    row = {"name": "w", "fixed": "~ log(libsize) + condition", "random": "subject"}
    row |= {"within": "cell_type", "size_factors": "none", "min_counts": 0, "ddf": "kenward-roger"}
    fit = fit_within(
        data.groups, "cell_type", row["fixed"], ["subject"], size_factors=None, min_counts=None
    )
    found = Method.of(row).run(data, REQUEST).tests
    expected = contrast_tests(fit, "condition", ddf="kenward-roger").to_frame(intervals=True)
    pd.testing.assert_frame_equal(found, expected)
    factored = Method.of(row | {"size_factors": "tmm"}).run(data, REQUEST).tests
    assert (factored["estimate"] != found["estimate"]).any()
    joint = Method.of({"name": "j", "random": "subject", "size_factors": "tmm"})
    stats = summary_statistics(data.groups, FIXED, ["subject"], size_factors="tmm")
    table = contrast_tests(fit_lmm(stats), "condition").to_frame(intervals=True)
    pd.testing.assert_frame_equal(joint.run(data, REQUEST).tests, table)
    with pytest.raises(InputError, match="need all genes"):
        Method.of(row | {"genes": 5}).run(data, REQUEST)


def test_methods_share_a_fit(data):
    first = data.fit(FIXED, ["subject"])
    assert data.fit(FIXED, ("subject",)) is first
    assert data.fit(FIXED, ["subject"], options={"method": "ML"}) is not first
    assert data.fit(FIXED, ["subject"], 5).stats.n_genes == 5


def test_pseudobulk_and_least_squares_are_the_baselines(data):
    expected = pseudobulk_tests(data.groups, values="log2_cpm", moderate=True)
    found = run(data, "pseudobulk_cpm", moderate=True).tests
    pd.testing.assert_frame_equal(found, expected)
    pooled = run(data, "pooled", genes=7).tests
    assert pooled["gene"].nunique() == 7


def test_mixedlm_is_a_method_on_cells(data):
    genes = list(data.groups.genes[:2])
    result = run(data, "mixedlm", random=("subject",), genes=genes, optimisers=("lbfgs",))
    transform = data.groups.transform
    expected = fit_mixedlm(
        data.cells,
        genes,
        FIXED,
        ["subject"],
        transform=transform,
        optimisers=["lbfgs"],
        contrasts="condition",
    )
    pd.testing.assert_frame_equal(result.tests, expected.tests)
    assert set(result.tables) == {"fits", "attempts"}
    drawn = run(data, "mixedlm", random=("subject",), genes=1, optimisers=("lbfgs",))
    assert drawn.tests["gene"].nunique() == 1
    with pytest.raises(InputError, match="no options 'engine'"):
        run(data, "mixedlm", random=("subject",), options={"engine": "dense"})


# --- controls ----------------------------------------------------------------------------------


def test_controls_are_methods(data):
    names = list(run(data, "pseudobulk").tests["contrast"].unique())
    found = run(data, "truth").tests
    expected = control_table(data.truth, data.groups.genes, names, "truth", REQUEST.seed)
    pd.testing.assert_frame_equal(found, expected)
    assert evaluate(found, data.truth).value("auc") == 1.0
    nothing = run(data, "random").tests
    assert evaluate(nothing, data.truth).value("tpr", 0.05) == 0.0
    assert list(nothing["contrast"].unique()) == names


def test_permuted_labels_keep_everything_but_the_effect(data):
    groups = permute_labels(data.groups, seed=4)
    own, new = (
        g.obs.drop_duplicates("subject").set_index("subject")["condition"]
        for g in (data.groups, groups)
    )
    assert own.value_counts().to_dict() == new.value_counts().to_dict()
    assert (own != new[own.index]).any()
    assert groups.obs["condition"].dtype == data.groups.obs["condition"].dtype
    assert groups.obs.index.is_unique and groups.obs.index[0].endswith(
        str(groups.obs["condition"].iloc[0])
    )
    assert groups.sum is data.groups.sum
    found = run(data, "permuted_labels", Request(FIXED, seed=4), random=("subject",)).tests
    fit = fit_lmm(summary_statistics(groups, FIXED, ["subject"]))
    pd.testing.assert_frame_equal(found, contrast_tests(fit, "condition").to_frame(intervals=True))


def test_paired_labels_are_permuted_within_subjects():
    """A subject with one label gives it to another one; a pair of labels is kept or exchanged."""
    paired = [f"P{i}" for i in range(40)]
    samples = [(s, a) for s in paired for a in ("ctrl", "stim")]
    samples += [(f"S{i}", a) for i, a in enumerate(("ctrl", "stim", "stim"))]
    rows = [(s, t, a) for s, a in samples for t in ("B", "T")]
    obs = pd.DataFrame(rows, columns=["subject", "cell_type", "arm"]).rename(index=str)
    cells = ad.AnnData(np.ones((len(obs), 1), dtype=np.float32), obs=obs)
    groups = summarise(cells, list(obs), transform="none")
    obs = groups.obs.reset_index(drop=True)
    new = permute_labels(groups, "arm", seed=2).obs.reset_index(drop=True)
    changed = (new["arm"] != obs["arm"]).groupby([obs["subject"], obs["arm"]], observed=True)
    assert (changed.nunique() == 1).all()  # both cell types alike
    exchanged = changed.first().unstack().loc[paired]
    assert (exchanged["ctrl"] == exchanged["stim"]).all()
    assert 8 < exchanged["ctrl"].sum() < 32
    single = new[~new["subject"].isin(paired)]
    assert sorted(single.loc[single["cell_type"] == "B", "arm"]) == ["ctrl", "stim", "stim"]
    with pytest.raises(InputError, match="columns 'dose' are missing"):
        permute_labels(groups, "dose")


def test_a_study_takes_controls(data):
    ways = [
        CalibrationMethod("truth", test="truth"),
        CalibrationMethod("random", test="random"),
        CalibrationMethod("permuted", test="permuted_labels", random=("subject",)),
        CalibrationMethod("cells", test="mixedlm", random=("subject",)),
    ]
    found = calibrate(data.groups, data.truth, ways, FIXED)
    assert set(found["method"]) == {"truth", "random", "permuted"}
    tpr = found[found["metric"] == "tpr"].set_index("method")["value"]
    assert tpr["truth"] == 1.0 and tpr["random"] == 0.0


# --- a test more, and what cannot be run -------------------------------------------------------


def test_a_test_is_a_function_and_a_row(data, monkeypatch):
    def halves(data: DataSet, request: Request, *, shift: float = 0.0) -> pd.DataFrame:
        genes = data.groups.genes
        return pd.DataFrame({"gene": genes, "contrast": "x", "p_value": 0.5 + shift})

    monkeypatch.setattr(methods, "PROCEDURES", {**PROCEDURES, "halves": Procedure(halves)})
    method = Method.of({"name": "h", "test": "halves", "shift": 0.25})
    assert (method.run(data, REQUEST).tests["p_value"] == 0.75).all()
    with pytest.raises(InputError, match="its settings are 'shift'"):
        Method.of({"name": "h", "test": "halves", "slope": 1.0})


def test_tests_without_a_column_are_refused(data, monkeypatch):
    row = Procedure(lambda data, request: pd.DataFrame({"gene": ["g"], "contrast": ["x"]}))
    monkeypatch.setattr(methods, "PROCEDURES", {"none": row})
    with pytest.raises(InputError, match="tests of m: columns 'p_value' are missing"):
        run(data, "none")


@pytest.mark.parametrize(
    ("test", "settings", "said"),
    [
        ("mixd", {}, "test 'mixd' is none of .*did you mean 'mixed'"),
        ("mixed", {}, "needs 'random' or 'fixed'"),
        ("pooled", {"random": ("subject",)}, "has no setting 'random'; its settings are 'genes'"),
        ("mixed", {"random": ("s",), "ddf": "kr"}, "ddf 'kr' is none of"),
        ("permutation", {"random": ("s",), "ddf": "residual"}, "has no setting 'ddf'"),
        ("truth", {"seed": 1}, "its settings are none"),
    ],
)
def test_a_method_that_makes_no_sense(test, settings, said):
    with pytest.raises(InputError, match=said):
        Method("m", test, settings)


def test_what_the_data_set_lacks_is_named(data):
    bare = DataSet(data.groups)
    with pytest.raises(InputError, match="m: the data set has no truth"):
        run(bare, "truth")
    with pytest.raises(InputError, match="m: the data set has no cells"):
        run(bare, "mixedlm", random=("subject",))
    with pytest.raises(InputError, match="transform 'log1p' are needed; these are of 'log2p1'"):
        Method("m", "pseudobulk", transform="log1p").run(data, REQUEST)
