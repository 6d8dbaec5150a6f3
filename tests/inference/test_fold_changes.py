"""Fold changes from the groups behind a fit: against the simulation's truth and plain counts."""

from __future__ import annotations

from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import flashmm as fm
from flashmm.design.contrasts import Contrast
from flashmm.inference.comparison import compared_levels
from flashmm.inference.count_model import exposures
from flashmm.inference.fold_changes import fold_changes

BY = ["subject", "cell_type", "condition"]
JOINT = "~ 0 + log(libsize) + cell_type + cell_type:condition"
SINGLE = "~ log(libsize) + condition"


@pytest.fixture(scope="module")
def simulation():
    spec = fm.SimulationSpec(
        n_genes=400,
        n_cells=6_000,
        n_subjects=16,
        n_cell_types=2,
        n_de_genes=100,
        min_log_fc=0.5,
        max_log_fc=1.0,
    )
    made = fm.simulate_counts(spec, seed=3)
    obs = made.adata.obs
    treated = obs["condition"] == made.treated
    obs["condition"] = pd.Categorical(np.where(treated, "treated", "control"))
    types = {"type1": "A", "type2": "B"}
    obs["cell_type"] = obs["cell_type"].astype(str).map(types).astype("category")
    truth = made.truth.assign(cell_type=made.truth["cell_type"].astype(str).map(types))
    return replace(made, truth=truth)


@pytest.fixture(scope="module")
def groups(simulation):
    return fm.summarise(simulation.adata, BY, ["log(libsize)"])


@pytest.fixture(scope="module")
def joint(groups):
    return fm.fit_lmm(fm.summary_statistics(groups, JOINT, ["subject", "subject:cell_type"]))


@pytest.fixture(scope="module")
def one_type(groups):
    chosen = groups.subset((groups.obs["cell_type"] == "A").to_numpy())
    return fm.fit_lmm(fm.summary_statistics(chosen, SINGLE, ["subject"]))


def true_log2_fc(simulation, cell_type):
    truth = simulation.truth[simulation.truth["cell_type"] == cell_type]
    changes = pd.Series(truth["log_fc"].to_numpy(), truth["gene"])
    return changes.reindex(simulation.adata.var_names).fillna(0.0).to_numpy() / np.log(2)


def test_fold_changes_are_those_that_were_simulated(simulation, joint, groups):
    # the totals of counts follow the genes that change; the changes are relative to the library
    sizes = simulation.adata.obs.groupby(BY, observed=True)["libsize"].sum()
    assert ["|".join(key) for key in sizes.index] == list(groups.obs.index)
    result = fold_changes(joint, "condition", exposure=sizes.to_numpy())
    assert not result.notes
    for k, cell_type in enumerate("AB"):
        true = true_log2_fc(simulation, cell_type)
        expressed = result.mean_expression[:, k] > 0.1
        low, high = result.log2_fc_low[expressed, k], result.log2_fc_high[expressed, k]
        true, estimate = true[expressed], result.log2_fc[expressed, k]
        assert 0.92 < ((low < true) & (true < high)).mean() < 0.98
        changed = true != 0
        assert np.polyfit(true[changed], estimate[changed], 1)[0] == pytest.approx(1.0, abs=0.1)
        assert abs((estimate - true).mean()) < 0.05


def test_a_single_type_has_the_numbers_of_the_joint_model(joint, one_type):
    """Columns of other types share no group."""
    one, other = fold_changes(one_type, "condition"), fold_changes(joint, "condition")
    for field in ("log2_fc", "log2_fc_low", "df"):
        np.testing.assert_allclose(
            getattr(one, field)[:, 0], getattr(other, field)[:, 0], rtol=1e-6, atol=1e-9
        )


def test_equal_weights_and_many_counts_are_the_ratio_of_mean_rates():
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"subject": np.repeat([f"S{i}" for i in range(8)], 50)})
    obs["condition"] = np.repeat(["ctrl", "stim"], 200)
    obs["libsize"] = 1000.0
    counts = rng.poisson(np.repeat([[20.0], [50.0]], 200, axis=0) * rng.uniform(1, 2, 12))
    adata = ad.AnnData(counts.astype(np.float32), obs=obs.set_index("c" + obs.index.astype(str)))
    groups = fm.summarise(adata, ["subject", "condition"], ["log(libsize)", "libsize"])
    fit = fm.fit_lmm(fm.summary_statistics(groups, "~ condition", ["subject"]))
    result = fold_changes(fit, "condition")
    means = [counts[(obs["condition"] == c).to_numpy()].mean(0) for c in ("ctrl", "stim")]
    np.testing.assert_allclose(result.log2_fc[:, 0], np.log2(means[1] / means[0]), atol=2e-3)


def test_columns_of_a_tidy_table(joint, groups):
    table = fm.contrast_tests(joint, "condition", ddf="residual")
    result = fold_changes(joint, table.contrasts, shrink=True)
    frame = pd.concat([table.to_frame(), pd.DataFrame(result.columns())], axis=1)
    assert len(frame) == 800
    assert list(frame.columns[10:]) == [
        *("comparison", "log2_fc", "log2_fc_low", "log2_fc_high"),
        *("log2_fc_shrunken", "log2_fc_sd", "false_sign_rate"),
        *("mean_expression", "fraction_expressing"),
        *("fraction_expressing[control]", "fraction_expressing[treated]"),
        *("n_subjects", "n_subjects[control]", "n_subjects[treated]"),
    ]
    second = frame[frame["contrast"] == table.contrast_names[1]]
    assert (second["comparison"] == "treated vs control").all()
    np.testing.assert_array_equal(second["log2_fc"], result.log2_fc[:, 1])
    assert (second["n_subjects"] == 16).all()
    assert (second["n_subjects[treated]"] == 8).all()


def test_summaries_are_those_of_the_cells(simulation, joint):
    result = fold_changes(joint, "condition")
    adata = simulation.adata
    of_type = (adata.obs["cell_type"] == "B").to_numpy()
    X = adata.X.toarray().astype(float)
    np.testing.assert_allclose(result.mean_expression[:, 1], X[of_type].mean(0), rtol=1e-9)
    np.testing.assert_allclose(result.fraction_expressing[:, 1], (X[of_type] > 0).mean(0))
    for level, fraction in result.fraction_by_level.items():
        cells = of_type & (adata.obs["condition"] == level).to_numpy()
        np.testing.assert_allclose(fraction[:, 1], (X[cells] > 0).mean(0))


def test_shrunken_fold_changes_lie_between_zero_and_the_estimate(joint):
    result = fold_changes(joint, "condition", shrink=True)
    usable = np.isfinite(result.log2_fc_low)
    assert (np.abs(result.shrunken[usable]) <= np.abs(result.log2_fc[usable]) + 1e-12).all()
    plain = fold_changes(joint, "condition")
    np.testing.assert_array_equal(plain.log2_fc, result.log2_fc)
    assert plain.shrunken is None


@pytest.mark.parametrize(
    "formula, weights, expected",
    [
        ("~ log(libsize) + condition + cell_type", {"condition[T.treated]": 1}, "treated control"),
        ("~ condition + cell_type", {"condition[T.treated]": -1}, "control treated"),
        ("~ condition + cell_type", {"cell_type[T.B]": 1}, "B A"),
        ("~ condition * cell_type", {"condition[T.treated]": 1}, "treated control"),
        ("~ condition * cell_type", {"condition[T.treated]:cell_type[T.B]": 1}, None),
        ("~ 0 + condition", {"condition[treated]": 1, "condition[control]": -1}, "treated control"),
        ("~ 0 + condition", {"condition[treated]": 1}, None),
        ("~ condition + cell_type", {"condition[T.treated]": 0.5}, None),
    ],
)
def test_levels_that_are_compared(groups, formula, weights, expected):
    fit = fm.fit_lmm(fm.summary_statistics(groups, formula, ["subject"]))
    row = np.array([float(weights.get(name, 0.0)) for name in fit.coefficients])
    found = compared_levels(fit, Contrast("c", row[None]))
    assert (None if found is None else f"{found.level} {found.reference}") == expected
    if formula == "~ condition * cell_type" and expected:
        assert set(groups.obs["cell_type"][found.groups]) == {"A"}


@pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning")
def test_means_joint_tests_and_covariates_of_cells_have_no_fold_change(groups):
    fit = fm.fit_lmm(
        fm.summary_statistics(groups, "~ 0 + log(libsize) + cell_type + condition", ["subject"])
    )
    result = fold_changes(
        fit,
        {
            "mean": "cell_type[A]",
            "depth": "log(libsize)",
            "joint": ["condition[T.treated]", "cell_type[A] - cell_type[B]"],
            "types": "cell_type[A] - cell_type[B]",
        },
    )
    assert np.isnan(result.log2_fc[:, :3]).all()
    assert np.isfinite(result.log2_fc[:, 3]).any()
    assert result.comparisons[3].text == "A vs B"
    assert len(result.notes) == 3
    assert any("'mean': it is a mean" in text for text in result.notes)


def test_fits_without_counts_have_none_and_say_so(joint, groups):
    values = replace(groups, counts=None, expressing=None)
    fit = fm.fit_lmm(fm.summary_statistics(values, JOINT, ["subject", "subject:cell_type"]))
    with pytest.warns(fm.FlashmmWarning, match="need sums of raw counts"):
        result = fold_changes(fit, "condition", shrink=True)
    assert np.isnan(result.log2_fc).all()
    assert len(pd.DataFrame(result.columns())) == 800

    rng = np.random.default_rng(1)
    Z = np.kron(np.eye(5), np.ones((8, 1)))
    stats = fm.summary_statistics_from_matrices(
        rng.normal(size=(40, 3)), rng.normal(size=(40, 2)), Z, component_sizes=[5]
    )
    with pytest.warns(fm.FlashmmWarning, match="need a fit from groups of cells"):
        assert np.isnan(fold_changes(fm.fit_lmm(stats)).log2_fc).all()


def test_groups_written_without_numbers_of_expressing_cells(joint, groups):
    earlier = replace(groups, expressing=None)
    fit = fm.fit_lmm(fm.summary_statistics(earlier, JOINT, ["subject", "subject:cell_type"]))
    with pytest.warns(fm.FlashmmWarning, match="numbers of expressing cells"):
        result = fold_changes(fit, "condition")
    assert np.isnan(result.fraction_expressing).all()
    np.testing.assert_array_equal(result.log2_fc, fold_changes(joint, "condition").log2_fc)


def test_size_factors_and_library_sizes_are_the_exposure(groups):
    total = groups.counts.sum(1)
    np.testing.assert_array_equal(exposures(groups), total)
    factors = dict(zip(groups.obs.index, np.linspace(0.5, 2, groups.n_groups), strict=True))
    record = {"size_factors": {"method": "tmm", "factors": factors}}
    scaled = replace(groups, provenance=groups.provenance | record)
    np.testing.assert_allclose(exposures(scaled), total * list(factors.values()))
    some = replace(groups, provenance=groups.provenance | {"genes_of_file": 1000})
    of_cells = exposures(some) / groups.obs["n_cells"]
    libsize = np.exp(groups.moment(1, 0) / groups.moment(0, 0))
    assert ((of_cells > libsize) & (of_cells < 1.5 * libsize)).all()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"level": 1.0}, "between 0 and 1; found 1.0"),
        ({"prior_count": 0}, "positive number of counts; found 0"),
        ({"exposure": np.ones(3)}, r"one number per group, 32; found the shape \(3,\)"),
        ({"exposure": np.zeros(32)}, "32 of 32 are not positive"),
    ],
)
def test_bad_options(joint, options, message):
    with pytest.raises(fm.InputError, match=message):
        fold_changes(joint, "condition", **options)


def test_one_subject_on_a_side_has_no_interval(groups):
    treated = groups.obs["condition"] == "treated"
    others = treated & (groups.obs["subject"] != groups.obs["subject"][treated].iloc[0])
    few = groups.subset((~others & (groups.obs["cell_type"] == "A")).to_numpy())
    fit = fm.fit_lmm(fm.summary_statistics(few, SINGLE, ["subject"]))
    result = fold_changes(fit, "condition")
    assert np.isfinite(result.log2_fc[result.mean_expression > 0]).all()
    assert np.isnan(result.log2_fc_low).all()
    assert result.subjects_by_level["treated"].tolist() == [1]


def test_models_within_levels_stand_beside_each_other(groups, one_type):
    fits = fm.fit_within(groups, "cell_type", SINGLE, ["subject"], size_factors=None)
    result = fold_changes(fits, "condition", shrink=True)
    table = fm.contrast_tests(fits, "condition")
    assert len(pd.DataFrame(result.columns())) == len(table.to_frame()) == 800
    alone = fold_changes(one_type, "condition", shrink=True)
    for field in ("log2_fc", "log2_fc_high", "shrunken", "mean_expression"):
        np.testing.assert_allclose(getattr(result, field)[:, :1], getattr(alone, field))
    assert result.subjects_by_level["treated"].tolist() == [8, 8]


def test_levels_without_a_fit_have_no_numbers(groups):
    few = (groups.obs["cell_type"] == "A") | (
        groups.obs["subject"] == groups.obs["subject"].iloc[0]
    )
    part = groups.subset(few.to_numpy())
    with pytest.warns(fm.FlashmmWarning) as said:
        fits = fm.fit_within(part, "cell_type", SINGLE, ["subject"], size_factors=None)
    assert any("cell_type 'B' is not tested" in str(warning.message) for warning in said)
    result = fold_changes(fits, "condition")
    assert np.isfinite(result.log2_fc[:, 0]).any()
    assert np.isnan(result.log2_fc[:, 1]).all()
    assert np.isnan(result.fraction_by_level["treated"][:, 1]).all()
    assert np.isnan(result.n_subjects[1])


def test_fits_within_take_contrasts_as_asked_for(groups):
    fits = fm.fit_within(groups, "cell_type", SINGLE, ["subject"], size_factors=None)
    table = fm.contrast_tests(fits, "condition")
    with pytest.raises(fm.InputError, match="give contrasts as they were asked for"):
        fold_changes(fits, table.contrasts)
    with pytest.raises(fm.InputError, match="each level has its own"):
        fold_changes(fits, "condition", exposure=np.ones(groups.n_groups))


def test_size_factors_change_the_exposure(groups):
    stats = fm.summary_statistics(groups, JOINT, ["subject"], size_factors="tmm")
    own = stats.groups
    factors = fm.size_factors(groups, "cell_type")
    np.testing.assert_allclose(exposures(own), groups.counts.sum(1) * factors.to_numpy())


def test_a_difference_that_was_asked_for_is_the_comparison(groups):
    fit = fm.fit_lmm(fm.summary_statistics(groups, "~ 0 + condition + cell_type", ["subject"]))
    result = fold_changes(fit, ("condition", "control", "treated"))
    assert result.comparisons[0].text == "control vs treated"
    other = fold_changes(fit, ("condition", "treated", "control"))
    np.testing.assert_allclose(result.log2_fc, -other.log2_fc, rtol=1e-6, atol=1e-9)
