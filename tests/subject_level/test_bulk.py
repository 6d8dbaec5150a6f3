"""Bulk tables: read in every layout, tested as the dense formulas do, heritable where related."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import flashmm as fm

N, GENES = 16, 40
NAMES = [f"S{i}" for i in range(N)]


def table(seed: int = 0) -> pd.DataFrame:
    """FPKM of genes x samples; the first ten genes differ between conditions, one is off."""
    rng = np.random.default_rng(seed)
    logs = rng.normal(5, 1, (GENES, 1)) + rng.normal(0, 0.3, (GENES, N))
    logs[:10, N // 2 :] += 2
    frame = pd.DataFrame(np.exp2(logs), index=[f"g{j}" for j in range(GENES)], columns=NAMES)
    frame.loc["g39"] = 0.0
    return frame


SHEET = pd.DataFrame(
    {
        "condition": np.repeat(["a", "b"], N // 2),
        "age": 20.0 + np.arange(N) % 5,
        "individual": [f"I{i}" for i in range(N)],
    },
    index=NAMES,
)
FPKM = table()


def quiet(*given: object, **named: object):
    with pytest.warns(fm.FlashmmWarning, match="is taken to hold"):
        return fm.read_bulk(*given, **named)


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.csv.gz", "t.parquet", "frame"])
@pytest.mark.parametrize("layout", ["wide", "turned", "long"])
def test_layouts_and_files_are_one(name: str, layout: str, tmp_path: Path) -> None:
    made = FPKM.rename_axis("gene").reset_index()
    if layout == "turned":
        made = FPKM.T.rename_axis("sample").reset_index()
    elif layout == "long":
        made = made.melt("gene", var_name="sample", value_name="FPKM")
    given: pd.DataFrame | Path = made
    if name == "t.parquet":
        made.to_parquet(given := tmp_path / name)
    elif name != "frame":
        made.to_csv(given := tmp_path / name, sep="\t" if ".tsv" in name else ",", index=False)
    bulk = quiet(given, SHEET)
    found = pd.DataFrame(bulk.layers["values"], bulk.obs_names, bulk.var_names)
    np.testing.assert_allclose(found.loc[NAMES, FPKM.index], FPKM.T, rtol=1e-12)
    np.testing.assert_allclose(bulk.X, np.log2(1 + bulk.layers["values"]))
    assert list(bulk.obs.loc[NAMES, "condition"]) == list(SHEET["condition"])


def test_what_values_are() -> None:
    counts = np.round(FPKM)
    bulk = quiet(counts)
    cpm = (counts + 0.5) / (counts.sum() + 1) * 1e6
    np.testing.assert_allclose(bulk.X, np.log2(cpm).T)
    np.testing.assert_array_equal(bulk.obs["libsize"], counts.sum())
    logs = np.log2(1 + FPKM)
    np.testing.assert_array_equal(quiet(logs).X, logs.T)
    np.testing.assert_allclose(quiet(logs, values="normalised").X, np.log2(1 + logs).T)


def test_annotations_are_left_out() -> None:
    made = FPKM.rename_axis("Geneid").reset_index()
    made.insert(1, "Chr", "1;1")
    made.insert(2, "Length", 100)
    with pytest.warns(fm.FlashmmWarning, match="'Chr', 'Length' are no samples"):
        bulk = quiet(made)
    assert list(bulk.obs_names) == NAMES


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FPKM.replace(0.0, np.nan), r"16 missing or infinite values of 640"),
        (lambda: pd.concat([FPKM, FPKM[:2]]), r"2 names are given to more than one of the genes"),
        (lambda: FPKM.assign(S3="1,5"), r"text in the column 'S3'.*with a point"),
        (lambda: FPKM.rename(columns={"S1": "S99"}), r"no row of 1 of the 16 samples .*: 'S99'"),
        (lambda: FPKM.set_axis([f"X{i}" for i in range(N)], axis=1), "obs has no row of the 16"),
    ],
)
def test_tables_that_cannot_be_used(make, message: str) -> None:
    with pytest.raises(fm.InputError, match=message):
        fm.read_bulk(make(), SHEET)


def test_long_tables_that_cannot_be_used() -> None:
    long = FPKM.rename_axis("gene").reset_index().melt("gene")
    with pytest.raises(fm.InputError, match="table must be a DataFrame or a path; found 3"):
        fm.read_bulk(3)
    with pytest.raises(fm.InputError, match="1 pairs of a gene and a sample more than once"):
        fm.read_bulk(pd.concat([long, long[:1]]), layout="long")
    with pytest.raises(fm.InputError, match=r"1 missing or infinite values .*long table lacks"):
        fm.read_bulk(long[1:])


def test_one_sample_per_individual_is_least_squares() -> None:
    bulk = quiet(FPKM, SHEET)
    with pytest.warns(fm.FlashmmWarning, match="independent.*least squares"):
        found = fm.bulk_tests(bulk, "~ age + condition", "condition", moderate=False).to_frame()
    X = np.column_stack([np.ones(N), SHEET["age"], SHEET["condition"] == "b"])
    y = np.log2(1 + FPKM.loc["g3"].to_numpy())
    coef, squares, *_ = np.linalg.lstsq(X, y, rcond=None)
    error = np.sqrt(squares[0] / (N - 3) * np.linalg.inv(X.T @ X)[2, 2])
    row = found.set_index("gene").loc["g3"]
    np.testing.assert_allclose([row["estimate"], row["std_error"]], [coef[2], error])
    np.testing.assert_allclose(row["p_value"], 2 * stats.t.sf(abs(coef[2] / error), N - 3))
    assert found.set_index("gene").loc["g39", "status"] == "all_zero"
    with pytest.warns(fm.FlashmmWarning):
        table = fm.bulk_tests(bulk, "~ condition", "condition")
    hits = table.to_frame().query("adj_p_value < .05")["gene"]
    assert set(hits) >= {f"g{j}" for j in range(10)} and len(hits) < 13


@pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning")
def test_several_samples_are_a_mixed_model() -> None:
    bulk = quiet(FPKM, SHEET.assign(individual=[f"I{i // 2}" for i in range(N)]))
    found = fm.bulk_tests(bulk, "~ condition", "condition", individual="individual")
    formula = "~ condition + (1 | individual)"
    expected = fm.de(bulk, formula, "condition", transform="none", moderate=True)
    pd.testing.assert_frame_equal(found.to_frame(), expected.to_frame())


def test_pairs_of_samples_are_not_taken_for_cells() -> None:
    """A sample of each individual and condition: their interaction is the residual."""
    bulk = quiet(FPKM, SHEET.assign(donor=[f"I{i // 2}" for i in range(N)]))
    bulk.obs["condition"] = ["a", "b"] * (N // 2)
    with pytest.warns(fm.FlashmmWarning, match="individual='donor'"):
        fm.bulk_tests(bulk, "~ condition", "condition")
    found = fm.bulk_tests(bulk, "~ condition", "condition", individual="donor")
    assert not any("replicates" in text for text in found.notes)


@pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning")
def test_heritability_where_a_kinship_is_given() -> None:
    sim = fm.simulate_kinship_traits(60, 4, 0.6, 300, 1)
    bulk = fm.read_bulk(sim.Y.T, values="logarithms")
    found = fm.heritability(bulk, sim.K).set_index("gene")
    fit = fm.fit_kinship_lmm(fm.rotate_by_kinship(sim.K, sim.Y))
    np.testing.assert_allclose(found["h2"], fit.h2, atol=1e-8)
    assert {"h2_lower", "h2_upper", "p_value", "adj_p_value", "status"} <= set(found)
    bulk.obs["sex"] = np.tile(["f", "m"], 30)
    tests = fm.bulk_tests(bulk, "~ sex", "sex", kinship=sim.K)
    assert tests.to_frame()["p_value"].between(0, 1).all()
    twice = fm.read_bulk(pd.concat([sim.Y, sim.Y]).set_axis([f"s{i}" for i in range(120)]).T)
    twice.obs["who"] = [*sim.Y.index, *sim.Y.index]
    again = fm.heritability(twice, sim.K, individual="who").set_index("gene")
    np.testing.assert_allclose(again["h2"], found["h2"], atol=1e-6)


def test_what_cannot_be_estimated_is_said() -> None:
    bulk = quiet(FPKM, SHEET)
    with pytest.raises(fm.DesignError, match=r"each sample has one, .* one number\. Give kinship="):
        fm.heritability(bulk, None)
    bulk.obs["who"] = [f"I{i // 2}" for i in range(N)]
    with pytest.raises(fm.DesignError, match="give the repeatability, which heritability cannot"):
        fm.heritability(bulk, None, individual="who")
    with pytest.raises(fm.InputError, match="individual='whom' is not a column of obs; did you"):
        fm.heritability(bulk, None, individual="whom")
    with pytest.warns(fm.FlashmmWarning), pytest.raises(fm.DesignError, match="follow from others"):
        fm.bulk_tests(bulk, "~ sample + condition")
