"""One model for each level of a column: equal to the fits of its cells alone."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import flashmm as fm
from flashmm.options import DesignError, FormulaError, InputError, Status

pytestmark = pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning")

BY = ["subject", "cell_type", "condition"]
FIXED, RANDOM = "~ log(libsize) + condition", ["subject"]


@pytest.fixture(scope="module")
def simulation() -> fm.Simulation:
    spec = fm.SimulationSpec(
        n_genes=80, n_cells=2400, n_subjects=8, n_cell_types=3, n_de_genes=10, marker_fraction=0.3
    )
    return fm.simulate_counts(spec, seed=3)


@pytest.fixture(scope="module")
def groups(simulation) -> fm.GroupStatistics:
    return fm.summarise(simulation.adata, by=BY, covariates=["log(libsize)"])


@pytest.fixture(scope="module")
def fits(groups) -> fm.FitsWithin:
    return fm.fit_within(groups, "cell_type", FIXED, RANDOM, min_counts=None, size_factors=None)


def alone(simulation, level: str, **options) -> fm.LMMFit:
    cells = simulation.adata[simulation.adata.obs["cell_type"] == level].copy()
    groups = fm.summarise(cells, by=BY, covariates=["log(libsize)"])
    return fm.fit_lmm(fm.summary_statistics(groups, FIXED, RANDOM, **options))


def test_each_level_is_fitted_as_if_it_were_alone(simulation, fits):
    assert fits.levels == tuple(simulation.adata.obs["cell_type"].cat.categories)
    for level in fits.levels:
        wanted = alone(simulation, level)
        np.testing.assert_allclose(fits[level].theta, wanted.theta, rtol=1e-7, atol=1e-10)
        np.testing.assert_allclose(fits[level].coef, wanted.coef, rtol=1e-7, atol=1e-9)


def test_one_table_with_a_column_of_the_levels(simulation, fits):
    table = fm.contrast_tests(fits, "condition", ddf="kenward-roger")
    frame = table.to_frame()
    assert list(frame.columns[:3]) == ["gene", "cell_type", "contrast"]
    assert len(frame) == 80 * 3 and table.within == "cell_type"
    for level, part in frame.groupby("cell_type", sort=False):
        wanted = fm.contrast_tests(alone(simulation, level), "condition", ddf="kenward-roger")
        np.testing.assert_allclose(part["p_value"], wanted.p_value[:, 0], rtol=1e-6)
        np.testing.assert_allclose(part["adj_p_value"], wanted.adj_p_value[:, 0], rtol=1e-6)


def test_the_default_test_shares_the_variances_of_all_genes(fits):
    table = fm.contrast_tests(fits, "condition")
    assert table.ddf == "empirical-bayes" and set(table.prior) == set(fits.levels)
    given = fm.contrast_tests(fits, "condition", prior=table)
    np.testing.assert_allclose(given.p_value, table.p_value, rtol=1e-9)


def test_size_factors_belong_to_the_level(simulation, groups):
    fits = fm.fit_within(groups, "cell_type", FIXED, RANDOM, min_counts=None)
    wanted = alone(simulation, fits.levels[0], size_factors="tmm-expressed")
    np.testing.assert_allclose(fits[fits.levels[0]].coef, wanted.coef, rtol=1e-6, atol=1e-8)


def test_rare_genes_have_a_status_and_stay_out_of_the_adjustment(groups):
    table = fm.contrast_tests(fm.fit_within(groups, "cell_type", FIXED, RANDOM, min_counts=1e5))
    assert (table.status == str(Status.LOW_EXPRESSION)).sum() > 100
    few = table.status == str(Status.LOW_EXPRESSION)
    assert np.isnan(table.p_value[few]).all() and np.isnan(table.adj_p_value[few]).all()


def test_a_level_without_subjects_is_a_status(groups):
    first = groups.obs["cell_type"].cat.categories[0]
    lone = (groups.obs["cell_type"] != first) | (
        groups.obs["subject"] == groups.obs["subject"].iloc[0]
    )
    fits = fm.fit_within(groups.subset(lone.to_numpy()), "cell_type", FIXED, RANDOM)
    assert list(fits.refused) == [first] and len(fits.fits) == 2
    table = fm.contrast_tests(fits, "condition").to_frame()
    own = table["cell_type"] == first
    assert (table.loc[own, "status"] == str(Status.TOO_FEW_SUBJECTS)).all()
    assert table.loc[own, "p_value"].isna().all() and table.loc[~own, "p_value"].notna().any()
    assert any(first in text for text in fits.notes)
    with pytest.raises(InputError, match="has no fit"):
        fits[first]


def test_a_contrast_that_one_level_lacks_is_said(groups):
    first = groups.obs["cell_type"].cat.categories[0]
    control = groups.obs["condition"] == groups.obs["condition"].cat.categories[0]
    some = groups.subset(((groups.obs["cell_type"] != first) | control).to_numpy())
    fits = fm.fit_within(some, "cell_type", FIXED, RANDOM)
    table = fm.contrast_tests(fits, ("condition", "B", "A"))
    frame = table.to_frame()
    lost = frame.loc[frame["cell_type"] == first]
    assert (lost["status"] == str(Status.NOT_ESTIMABLE)).all()
    assert any(first in text for text in table.notes)


def test_all_levels_too_small(groups):
    one = groups.subset((groups.obs["subject"] == groups.obs["subject"].iloc[0]).to_numpy())
    with pytest.raises(DesignError, match="No level of 'cell_type' can be fitted"):
        fm.fit_within(one, "cell_type", "~ log(libsize)", RANDOM)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"within": "celltype"}, InputError, "did you mean 'cell_type'"),
        ({"fixed": "~ cell_type + condition"}, DesignError, "take it out of the formula"),
        ({"random": ["subject", "subject:cell_type"]}, DesignError, "take it out"),
        ({"min_counts": -1}, InputError, "min_counts"),
        ({"min_counts": True}, InputError, "min_counts"),
        ({"size_factors": "cpm"}, InputError, "'cpm'"),
        ({"size_factors": [0.0] * 24}, InputError, "positive numbers"),
        ({"size_factors": [1.0] * 3}, InputError, "24 size factors"),
        ({"reference": {"condition": "Z"}}, InputError, "no level 'Z'"),
        ({"method": "reml"}, InputError, "REML"),
        ({"fixed": "~ exp(x)"}, FormulaError, "exp"),
    ],
)
def test_what_cannot_be_fitted_is_said(groups, change, error, words):
    asked = {"within": "cell_type", "fixed": FIXED, "random": RANDOM} | change
    with pytest.raises(error, match=words):
        fm.fit_within(groups, **asked)


@pytest.mark.parametrize(
    ("contrast", "words"),
    [
        ("treated", "treated"),
        (("condition", "stim", "A"), "no level 'stim'. The levels are 'A', 'B'"),
        (("condition", "B", "C"), "no level 'C'"),
        (("condition", "A", "A"), "'A' is compared with itself"),
        (("treatment", "B", "A"), "no coefficient is called 'treatment'"),
        (("condition", "B"), "no coefficient is called 'B'"),
    ],
)
def test_contrasts_that_no_level_has(fits, contrast, words):
    with pytest.raises(FormulaError, match=words):
        fm.contrast_tests(fits, contrast)


def test_columns_that_divide_the_cells_badly(simulation):
    cells = simulation.adata.copy()
    cells.obs["plate"] = [f"P{i % 101}" for i in range(cells.n_obs)]
    kinds = cells.obs["cell_type"].astype(object)
    cells.obs["gaps"] = kinds.where(np.arange(cells.n_obs) % 10 > 0)
    formula = f"{FIXED} + (1|subject)"
    few = cells[:202].copy()
    with (
        pytest.warns(fm.FlashmmWarning, match="'plate' has 101 levels"),
        pytest.raises(DesignError, match="No level of 'plate' can be fitted"),
    ):
        fm.de(few, formula, "condition", within="plate")
    with pytest.raises(InputError, match=r"missing values in the column.* 'gaps'"):
        fm.de(cells, formula, "condition", within="gaps")
    with pytest.warns(fm.FlashmmWarning, match="240 of 2400 cells left out"):
        table = fm.de(cells, formula, "condition", within="gaps", missing="drop")
    assert set(table.to_frame()["gaps"]) == set(kinds)
    with pytest.raises(DesignError, match="in which 'subject' is constant"):
        fm.de(cells, formula, "condition", within="subject")


def test_all_genes_too_rare(groups):
    fits = fm.fit_within(groups, "cell_type", FIXED, RANDOM, min_counts=1e9)
    frame = fm.contrast_tests(fits, "condition").to_frame()
    assert set(frame["status"]) == {"low_expression"} and frame["p_value"].isna().all()


def test_many_levels_and_one_level_are_said(groups):
    single = groups.subset((groups.obs["cell_type"] == groups.obs["cell_type"].iloc[0]).to_numpy())
    notes = fm.fit_within(single, "cell_type", FIXED, RANDOM).notes
    assert any("has one level" in text for text in notes)


def test_values_that_are_not_counts_have_no_filter_and_no_factors():
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "subject": np.repeat([f"s{i}" for i in range(8)], 20),
            "condition": np.repeat(["a", "b"], 80),
            "cell_type": np.tile(["B", "T"], 80),
        }
    )
    obs.index = [f"c{i}" for i in range(160)]
    cells = ad.AnnData(rng.normal(size=(160, 5)), obs=obs)
    groups = fm.summarise(cells, by=BY, transform="none")
    with pytest.raises(InputError, match="raw counts"):
        fm.fit_within(groups, "cell_type", "~ condition", RANDOM, size_factors=None)
    with pytest.raises(InputError, match="raw counts"):
        fm.fit_within(groups, "cell_type", "~ condition", RANDOM, min_counts=None)
    table = fm.de(
        cells, "~ condition + (1|subject)", "condition", within="cell_type", transform="none"
    )
    assert np.isfinite(table.p_value).all()
