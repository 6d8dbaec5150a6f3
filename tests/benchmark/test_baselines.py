"""Pseudobulk and pooled tests against scipy and statsmodels."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import sparse, stats

from flashmm.benchmark.baselines import pooled_tests, pseudobulk_tests
from flashmm.cells.summary import summarise
from flashmm.design.from_groups import summary_statistics
from flashmm.kernels import moderation
from flashmm.options import DesignError, InputError
from flashmm.simulate import SimulationSpec, simulate_counts, simulate_gaussian_groups

FORMULA = "~ 0 + cell_type + cell_type:condition"


@pytest.fixture(scope="module")
def cells() -> ad.AnnData:
    spec = SimulationSpec(n_genes=30, n_cells=400, n_subjects=9, n_cell_types=2, cells_cv=0.7)
    return simulate_counts(spec, seed=3).adata


@pytest.fixture(scope="module")
def groups(cells):
    return summarise(cells, ["subject", "cell_type", "condition"], transform="log2p1")


def values_of(cells, groups, name):
    """Mean transformed value of each subject in a cell type, by condition."""
    y = np.log2(1 + cells.X.toarray().astype(float))
    here = (cells.obs["cell_type"] == name).to_numpy()
    means = pd.DataFrame(y[here]).groupby(cells.obs["subject"][here].to_numpy()).mean()
    treated = means.index.str.startswith("B")
    return means[~treated].to_numpy(), means[treated].to_numpy()


def test_pseudobulk_is_students_test_of_subject_means(cells, groups):
    table = pseudobulk_tests(groups, level=0.9)
    for name in ("type1", "type2"):
        low, high = values_of(cells, groups, name)
        test = stats.ttest_ind(high, low, axis=0)
        interval = test.confidence_interval(0.9)
        own = table[table["contrast"] == f"cell_type[{name}]:condition[T.B]"]
        np.testing.assert_allclose(own["p_value"], test.pvalue, rtol=1e-9)
        np.testing.assert_allclose(own["statistic"], test.statistic, rtol=1e-9)
        np.testing.assert_allclose(own["conf_low"], interval.low, rtol=1e-8)
        np.testing.assert_allclose(own["conf_high"], interval.high, rtol=1e-8)
        assert (own["df"] == 7).all()


def test_counts_per_million(cells, groups):
    table = pseudobulk_tests(groups, values="log2_cpm")
    bulk = pd.DataFrame(cells.X.toarray().astype(float)).groupby(
        [cells.obs["cell_type"].to_numpy(), cells.obs["subject"].to_numpy()]
    )
    total = bulk.sum().loc["type2"]
    cpm = np.log2((total + 0.5).div(total.sum(axis=1) + 1, axis=0) * 1e6)
    treated = cpm.index.str.startswith("B")
    test = stats.ttest_ind(cpm[treated], cpm[~treated], axis=0)
    own = table[table["contrast"] == "cell_type[type2]:condition[T.B]"]
    np.testing.assert_allclose(own["p_value"], test.pvalue, rtol=1e-6)


def test_moderated_variances(groups):
    plain, moderated = pseudobulk_tests(groups), pseudobulk_tests(groups, moderate=True)
    one = plain["contrast"] == plain["contrast"].iloc[0]
    scale = 1 / 5 + 1 / 4
    variance, df = plain["std_error"][one].to_numpy() ** 2 / scale, np.full(30, 7.0)
    prior = moderation.fit_prior(variance, df)
    expected, df = moderation.posterior(variance, df, prior)
    np.testing.assert_allclose(moderated["std_error"][one] ** 2, expected * scale, rtol=1e-9)
    np.testing.assert_allclose(moderated["df"][one], df)


@pytest.mark.parametrize("moderate", [False, True])
def test_pairs_are_tested_by_their_differences(moderate):
    pairs = gaussian(nested=False, n_genes=30)
    # a subject that has one side of a type is left out there
    obs = pairs.obs
    gone = (obs["subject"] == "S2") & (obs["cell_type"] == "type2") & (obs["condition"] == "B")
    pairs = pairs.subset(~gone.to_numpy())
    table = pseudobulk_tests(pairs, moderate=moderate)
    means = pd.DataFrame(pairs.sum / pairs.obs["n_cells"].to_numpy()[:, None])
    means.index = pd.MultiIndex.from_frame(pairs.obs[["cell_type", "condition", "subject"]])
    means = means.sort_index()
    for name, n in (("type1", 8), ("type2", 7)):
        difference = (means.loc[name, "B"] - means.loc[name, "A"]).dropna().to_numpy()
        own = table[table["contrast"] == f"cell_type[{name}]:condition[T.B]"]
        np.testing.assert_allclose(own["estimate"], difference.mean(0), rtol=1e-9)
        variance, df = difference.var(0, ddof=1), np.full(30, n - 1.0)
        if moderate:
            prior = moderation.fit_prior(variance, df)
            variance, df = moderation.posterior(variance, df, prior)
        np.testing.assert_allclose(own["std_error"] ** 2, variance / n, rtol=1e-9)
        p = 2 * stats.t.sf(np.abs(difference.mean(0)) / np.sqrt(variance / n), df)
        np.testing.assert_allclose(own["p_value"], p, rtol=1e-7)


def test_a_constant_gene_and_a_type_without_replicates(groups):
    groups.sum[:, 0] = groups.obs["n_cells"]
    few = groups.subset(
        (groups.obs["cell_type"] != "type2") | groups.obs["subject"].isin(["A1", "B1"]).to_numpy()
    )
    table = pseudobulk_tests(few)
    constant = table[(table["gene"] == few.genes[0]) & table["contrast"].str.contains("type1")]
    assert constant["status"].tolist() == ["zero_variance"]
    second = table[table["contrast"].str.contains("type2")]
    assert set(second["status"]) == {"not_estimable"} and second["p_value"].isna().all()


def test_pooled_is_least_squares_over_cells(cells):
    groups = summarise(cells, ["subject", "cell_type", "condition"], ["log(libsize)"])
    stats_ = summary_statistics(groups, FORMULA + " + log(libsize)", ["subject"])
    table = pooled_tests(stats_, "condition")
    y = np.log2(1 + cells.X.toarray().astype(float))
    treated = (cells.obs["condition"] == "B").to_numpy(dtype=float)
    second = (cells.obs["cell_type"] == "type2").to_numpy(dtype=float)
    libsize = np.log(cells.obs["libsize"].to_numpy())
    X = np.column_stack([1 - second, second, (1 - second) * treated, second * treated, libsize])
    own = table[table["contrast"] == "cell_type[type2]:condition[T.B]"]
    for gene in range(5):
        fit = sm.OLS(y[:, gene], X).fit()
        row = own.iloc[gene]
        assert row["estimate"] == pytest.approx(fit.params[3], rel=1e-6)
        assert row["std_error"] == pytest.approx(fit.bse[3], rel=1e-6)
        assert row["p_value"] == pytest.approx(fit.pvalues[3], rel=1e-5)
        low, high = fit.conf_int()[3]
        assert (row["conf_low"], row["conf_high"]) == pytest.approx((low, high), rel=1e-5)


def gaussian(**changed):
    given = dict(distribution="gaussian", n_genes=5, n_cells=200, n_subjects=8, n_cell_types=2)
    return simulate_gaussian_groups(SimulationSpec(**{**given, **changed}), 1).groups


def test_refusals(cells):
    with pytest.raises(InputError, match="needs counts"):
        pseudobulk_tests(gaussian(), values="log2_cpm")
    with pytest.raises(InputError, match="'mean', 'log2_cpm'"):
        pseudobulk_tests(gaussian(), values="median")
    with pytest.raises(DesignError, match="has 3"):
        pseudobulk_tests(gaussian(n_conditions=3))
    pairs = gaussian(nested=False)
    some = (pairs.obs["subject"] != "S1") | (pairs.obs["condition"] != "A")
    with pytest.raises(DesignError, match=r"both levels .* and 'S1' has one"):
        pseudobulk_tests(pairs.subset(some.to_numpy()))
    with pytest.raises(InputError, match="Groups of"):
        pseudobulk_tests(summarise(cells, ["subject", "condition"]))
    stats_ = summary_statistics(gaussian(), FORMULA, ["subject"])
    with pytest.raises(InputError, match="joint"):
        names = [f"cell_type[type{i}]:condition[T.B]" for i in (1, 2)]
        pooled_tests(stats_, {"any": names})
    assert not sparse.issparse(stats_.XtX)
