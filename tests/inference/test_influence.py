"""Leaving out one subject: against dense formulas, refits, and the error rates that it promises."""

from __future__ import annotations

from functools import cache

import numpy as np
import oracle
import pandas as pd
import pytest
import regrouped
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as distributions

import flashmm as fm
from flashmm.design.columns import cell_design
from flashmm.inference.between_subjects import SubjectDesign
from flashmm.inference.subjects import independent_subjects, subjects_of

FIXED = "~ 0 + x + kind + kind:condition"
RANDOM = {
    "K1": ["subject"],
    "nested": ["subject", "subject:kind"],
    "slope": ["x || subject"],
}
EFFECT = "kind[K1]:condition[T.stim]"


def fit_of(cells, random, fixed=FIXED, **options):
    return fm.fit_lmm(fm.summary_statistics(cells.groups, fixed, random), **options)


def dense_without(cells, fit, random, name=EFFECT):
    """Estimates (subjects, genes) by generalised least squares on the cells of the others."""
    design = cell_design(cells.obs, FIXED, random)
    X, Z = design.X.to_numpy(float), design.Z.toarray()
    blocks = np.split(Z, np.cumsum(design.component_sizes)[:-1], axis=1)
    at = list(design.X.columns).index(name)
    found = []
    for subject in cells.obs["subject"].cat.categories:
        stay = (cells.obs["subject"] != subject).to_numpy()
        V = [oracle.covariance([block[stay] for block in blocks], theta) for theta in fit.theta]
        pairs = zip(cells.Y[stay].T, V, strict=True)
        found.append([oracle.gls(y, X[stay], v)[0][at] for y, v in pairs])
    return np.array(found)


@pytest.mark.parametrize("random", RANDOM.values(), ids=RANDOM)
def test_one_step_is_least_squares_of_the_other_cells(random):
    cells = regrouped.simulate(1)
    fit = fit_of(cells, random)
    table = fm.contrast_tests(fit, EFFECT, ddf="jackknife")
    without = dense_without(cells, fit, random)
    full = fit.coef[:, fit.coefficients.index(EFFECT)]
    variance = 7 / 8 * ((without - full) ** 2).sum(0)
    np.testing.assert_allclose(table.estimate[:, 0], full, rtol=1e-12)
    np.testing.assert_allclose(table.std_error[:, 0], np.sqrt(variance), rtol=1e-8)
    assert (table.df == 6).all()
    p = 2 * distributions.t.sf(np.abs(full) / np.sqrt(variance), 6)
    np.testing.assert_allclose(table.p_value[:, 0], p, rtol=1e-7)
    with regrouped.advised(random):
        changes = fm.influence(fit, EFFECT, genes=fit.genes)
    np.testing.assert_allclose(changes.estimate_without[:, :, 0], without, rtol=1e-8)


@pytest.mark.parametrize("random", RANDOM.values(), ids=RANDOM)
def test_refits_are_fits_of_the_other_groups(random):
    cells = regrouped.simulate(2, subjects=7)
    fit, others = fit_of(cells, random), []
    for subject in cells.obs["subject"].cat.categories:
        groups = cells.groups.subset((cells.groups.obs["subject"] != subject).to_numpy())
        others.append(fm.fit_lmm(fm.summary_statistics(groups, FIXED, random)))
    at = fit.coefficients.index(EFFECT)
    estimates = np.array([other.coef[:, at] for other in others])
    for ddf in (None, "kenward-roger-2"):
        with regrouped.advised(random):
            changes = fm.influence(fit, EFFECT, genes=fit.genes, ddf=ddf, refit=True)
            p_values = [fm.contrast_tests(o, EFFECT, ddf=ddf).p_value[:, 0] for o in others]
        found = changes.estimate_without[:, :, 0]
        np.testing.assert_allclose(found, estimates, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(changes.p_without[:, :, 0], p_values, rtol=1e-5, atol=1e-8)
    table = fm.jackknife(fit, EFFECT, refit=True)
    variance = 6 / 7 * ((estimates - fit.coef[:, at]) ** 2).sum(0)
    np.testing.assert_allclose(table.std_error[:, 0] ** 2, variance, rtol=1e-5)


def test_engines_agree():
    cells = regrouped.simulate(3)
    tables = [
        fm.contrast_tests(fit_of(cells, RANDOM["nested"], engine=engine), EFFECT, ddf="jackknife")
        for engine in ("dense", "nested", "eliminated")
    ]
    for table in tables[1:]:
        np.testing.assert_allclose(table.std_error, tables[0].std_error, rtol=1e-6)


@pytest.mark.parametrize(
    "fixed, df", [("~ kind + condition", 6), ("~ condition + dose + batch", 4), ("~ 0 + x", 8)]
)
def test_df_count_subjects(fixed, df):
    fit = fit_of(regrouped.simulate(), ["subject"], fixed)
    assert SubjectDesign.of(fit).total_df == df


def test_joint_test_depends_on_the_span_of_its_rows_only():
    fit = fit_of(regrouped.simulate(4), ["subject"])
    names = [f"kind[K{i}]:condition[T.stim]" for i in range(2)]
    a, b = names
    table = fm.contrast_tests(
        fit, {"one": names, "other": [f"{a} + {b}", f"{a} - 3*{b}"]}, ddf="jackknife"
    )
    np.testing.assert_allclose(table.statistic[:, 0], table.statistic[:, 1], rtol=1e-8)
    assert (table.df == 5).all() and (table.df_num == 2).all()
    # a joint test of rank one is the square of the t test
    table = fm.contrast_tests(fit, {"t": a, "F": [a, f"2*{a}"]}, ddf="jackknife")
    np.testing.assert_allclose(table.p_value[:, 0], table.p_value[:, 1], rtol=1e-10)


@cache
def of_six_subjects():
    cells = regrouped.simulate(5, subjects=6, genes=3)
    return cells, fm.contrast_tests(fit_of(cells, ["subject"]), EFFECT, ddf="jackknife")


@settings(deadline=None, max_examples=5)
@given(st.permutations(range(6)), st.floats(-6, 6))
def test_order_of_subjects_and_scale_do_not_matter(order, power):
    (cells, one), scale = of_six_subjects(), 10.0**power
    renamed = cells.obs["subject"].cat.rename_categories(
        {f"S{i:02d}": f"Q{j}" for i, j in enumerate(order)}
    )
    obs = cells.obs.assign(subject=pd.Categorical(renamed.astype(str)))
    moved = regrouped.Cells(obs, cells.Y * scale, regrouped.group(obs, cells.Y * scale))
    other = fm.contrast_tests(fit_of(moved, ["subject"]), EFFECT, ddf="jackknife")
    np.testing.assert_allclose(other.std_error, one.std_error * scale, rtol=1e-5)
    np.testing.assert_allclose(other.p_value, one.p_value, rtol=1e-5)


def test_contrast_of_one_subject_has_words_and_a_status():
    cells = regrouped.simulate(6, kinds_of={2: [0, 1, 5]})
    fit = fit_of(cells, ["subject"])
    said = r"'ctrl' of 'condition' has one subject with cells of kind 'K2'.*'kind\[K2\]"
    with pytest.warns(fm.FlashmmWarning, match=said):
        table = fm.contrast_tests(fit, [EFFECT, "kind[K2]:condition[T.stim]"], ddf="jackknife")
    assert list(table.status[:, 1]) == ["too_few_subjects"] * 5
    assert np.isnan(table.p_value[:, 1]).all() and np.isfinite(table.p_value[:, 0]).all()
    assert np.isfinite(table.estimate).all() and np.isnan(table.std_error[:, 1]).all()
    with pytest.warns(fm.FlashmmWarning, match=said):
        changes = fm.influence(fit, "kind[K2]:condition[T.stim]", genes=["g1"])
    assert (changes.status == "too_few_subjects").all()
    assert np.isnan(changes.estimate_without[:, 0, 0]).tolist() == [i == 5 for i in range(8)]


def test_slope_in_a_covariate_that_one_subject_shows():
    """What varies between the cells of one subject alone has an estimate and no jackknife."""
    cells = regrouped.simulate(6, kinds_of={2: [5]})
    fit = fit_of(cells, ["subject"], "~ kind + x:kind")
    name = next(c for c in fit.coefficients if "K2" in c and "x" in c)
    with pytest.warns(fm.FlashmmWarning, match="not without 'S05'"):
        table = fm.contrast_tests(fit, {"slope": name}, ddf="jackknife")
    assert list(table.status[:, 0]) == ["too_few_subjects"] * 5
    changes = fm.influence(fit, {"slope": name}, genes=["g1"])
    lost = changes.to_frame().set_index("subject")["status"] == "too_few_subjects"
    assert list(lost.index[lost]) == ["S05"]


def test_bad_genes_keep_their_status():
    cells = regrouped.simulate(7)
    cells.Y[:, 0] = 0.0
    cells = regrouped.Cells(cells.obs, cells.Y, regrouped.group(cells.obs, cells.Y))
    fit = fit_of(cells, ["subject"])
    table = fm.contrast_tests(fit, EFFECT, ddf="jackknife")
    assert table.status[0, 0] == "all_zero" and np.isnan(table.p_value[0, 0])
    assert np.isfinite(table.p_value[1:]).all()
    with regrouped.advised(["subject"]):
        chosen = fm.influence(fit, EFFECT).genes
        p_values = fm.contrast_tests(fit, EFFECT).p_value[:, 0]
    assert list(chosen) == [f"g{i}" for i in 1 + np.argsort(p_values[1:])]


def test_as_many_effects_between_subjects_as_subjects():
    cells = regrouped.simulate(8, subjects=4)
    fit = fit_of(cells, ["subject:kind"], "~ x + subject")
    with pytest.warns(fm.FlashmmWarning, match="no jackknife"):
        table = fm.contrast_tests(fit, "x", ddf="jackknife")
    assert (table.status == "too_few_subjects").all() and np.isnan(table.p_value).all()


class TestInfluence:
    def test_finds_the_subject_that_carries_a_hit(self):
        cells = regrouped.simulate(9)
        alone = (cells.obs["subject"] == "S02").to_numpy()
        cells.Y[alone, 3] += 12.0
        cells = regrouped.Cells(cells.obs, cells.Y, regrouped.group(cells.obs, cells.Y))
        fit = fit_of(cells, ["subject"], "~ kind + condition")
        table = fm.influence(fit, "condition", genes=["g3"])
        assert table.subjects[np.abs(table.dfbetas[:, 0, 0]).argmax()] == "S02"
        # S02 is treated and pulls the effect up
        assert table.dfbetas[2, 0, 0] > 0

    def test_the_most_influential_subject_has_the_largest_p_value_without(self):
        fit = fit_of(regrouped.simulate(10), ["subject"])
        with regrouped.advised(["subject"]):
            table = fm.influence(fit, [EFFECT, "kind[K0]:condition[T.stim]"])
        frame, top = table.to_frame(), table.most_influential()
        assert len(frame) == 2 * 5 * 8 and len(top) == 2 * 5
        largest = frame.groupby(["contrast", "gene"])["p_without"].max()
        found = top.set_index(["contrast", "gene"])["p_without"]
        np.testing.assert_array_equal(found.to_numpy(), largest.loc[found.index].to_numpy())
        with pytest.warns(DeprecationWarning, match="most_influential"):
            pd.testing.assert_frame_equal(table.carriers(), top)
        row = frame.iloc[11]
        gene, subject = (
            list(table.genes).index(row["gene"]),
            list(table.subjects).index(row["subject"]),
        )
        assert row["estimate_without"] == table.estimate_without[subject, gene, 0]
        assert row["p_value"] == table.p_value[gene, 0]

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"genes": ["g1", "nobody"]}, "1 are not in the fit, such as 'nobody'"),
            ({"genes": []}, "empty list"),
            ({"ddf": "jackknife"}, "does not go with leaving out subjects"),
            ({"ddf": "kenward-roger-floor"}, "does not go with leaving out subjects"),
            ({"contrasts": {"both": [EFFECT, "x"]}}, "'both' is joint"),
        ],
    )
    def test_refuses(self, options, message):
        fit = fit_of(regrouped.simulate(), ["subject"])
        with pytest.raises(fm.InputError, match=message):
            fm.influence(fit, **({"contrasts": EFFECT} | options))

    def test_of_a_condition_with_one_subject(self):
        fit = fit_of(regrouped.simulate(13, treated=1), ["subject", "subject:kind"])
        with pytest.warns(fm.FlashmmWarning, match="'stim' of 'condition' has one subject"):
            assert len(fm.influence(fit, EFFECT).to_frame()) == 0
        with pytest.warns(fm.FlashmmWarning, match="has one subject"):
            table = fm.influence(fit, EFFECT, genes=["g2"])
        assert (table.status == "too_few_subjects").all() and np.isnan(table.p_value).all()
        assert np.isfinite(table.estimate).all()


class TestRefuses:
    def test_matrices(self):
        Y, X, (Z,) = oracle.problem()
        fit = fm.fit_lmm(fm.summary_statistics_from_matrices(Y, X, Z, 8))
        with pytest.raises(fm.InputError, match="needs the groups"):
            fm.contrast_tests(fit, ddf="jackknife")

    def test_component_that_crosses_the_subjects(self):
        fit = fit_of(regrouped.simulate(), ["subject", "kind"], "~ x + condition")
        with pytest.raises(fm.InputError, match="'kind' has levels with cells of several subjects"):
            fm.contrast_tests(fit, "condition", ddf="jackknife")

    def test_other_fits(self):
        rng = np.random.default_rng(0)
        K = np.cov(rng.normal(size=(20, 50)))
        rotation = fm.rotate_by_kinship(K, rng.normal(size=(20, 2)), np.ones((20, 1)))
        fit = fm.fit_kinship_lmm(rotation)
        with pytest.raises(fm.InputError, match="this is a KinshipFit"):
            fm.contrast_tests(fit, ddf="jackknife")

    def test_unknown_ddf(self):
        fit = fit_of(regrouped.simulate(), ["subject"])
        with pytest.raises(fm.InputError, match="jackknife-refit; found 'jacknife'"):
            fm.contrast_tests(fit, ddf="jacknife")


def test_outermost_grouping_is_left_out():
    fit = fit_of(regrouped.simulate(), ["subject:kind", "subject"])
    assert independent_subjects(fit.stats).column == "subject"


def test_subjects_are_the_column_that_is_a_random_term():
    fit = fit_of(regrouped.simulate(), ["kind:subject", "subject"])
    assert subjects_of(fit.stats).column == "subject"
    # the advice, the floor and the jackknife count the same
    tables = [
        fm.contrast_tests(fit, EFFECT, ddf=ddf) for ddf in ("jackknife", "kenward-roger-floor")
    ]
    assert [table.between_df.tolist() for table in tables] == [[6.0], [6.0]]


KINDS_OF = {1: [0, 1, 4, 5, 6], 2: [0, 5]}


def test_df_are_those_of_the_contrast():
    """Kind K1 is in five of ten subjects, K2 in two."""
    fit = fit_of(regrouped.simulate(5, subjects=10, kinds_of=KINDS_OF), ["subject"])
    names = {i: f"kind[K{i}]:condition[T.stim]" for i in range(3)}
    contrasts = {
        "all": names[0],
        "five": names[1],
        "within": f"{names[1]} - {names[0]}",
        "joint": [names[0], names[1]],
        "turned": [f"{names[0]} + {names[1]}", f"{names[0]} - 3*{names[1]}"],
    }
    with pytest.warns(fm.FlashmmWarning, match="'five' rests on few subjects"):
        table = fm.contrast_tests(fit, contrasts, ddf="jackknife")
    assert (table.df == [8, 3, 8, 2, 2]).all()
    np.testing.assert_allclose(table.statistic[:, 3], table.statistic[:, 4], rtol=1e-8)
    # two subjects, two means
    with pytest.warns(fm.FlashmmWarning, match="has one subject with cells of kind 'K2'"):
        table = fm.contrast_tests(fit, names[2], ddf="jackknife")
    assert (table.status == "too_few_subjects").all() and np.isnan(table.p_value).all()


def gaussian_groups(seed, subjects, kinds, genes, s1, s2, missing=()):
    """Sums of groups drawn without their cells; `missing` are pairs of a subject and a kind."""
    rng = np.random.default_rng(seed)
    pairs = [(i, j) for i in range(subjects) for j in range(kinds) if (i, j) not in missing]
    s, t = np.array(pairs).T
    n = rng.integers(20, 200, len(s))
    effect = (rng.normal(size=(subjects, genes)) * np.sqrt(s1))[s]
    effect += rng.normal(size=(len(s), genes)) * np.sqrt(s2)
    mean = effect + rng.normal(size=(len(s), genes)) / np.sqrt(n)[:, None]
    obs = pd.DataFrame(
        {
            "subject": pd.Categorical([f"S{i:02d}" for i in s]),
            "kind": pd.Categorical([f"K{i:02d}" for i in t]),
            "condition": pd.Categorical(np.where(s % 2, "stim", "ctrl")),
            "n_cells": n,
        },
        index=[f"{i}|{j}" for i, j in zip(s, t, strict=True)],
    )
    return fm.GroupStatistics(
        obs=obs,
        genes=pd.Index([f"g{i}" for i in range(genes)]),
        sum=n[:, None] * mean,
        sumsq=n[:, None] * mean**2 + rng.chisquare((n - 1)[:, None], mean.shape),
        covariate_sums={},
        counts=None,
        by=("subject", "kind", "condition"),
        covariates=(),
        transform="identity",
        provenance={},
    )


@pytest.mark.parametrize("subjects, kinds, s2", [(25, 12, 0.05), (12, 4, 0.02)])
def test_holds_its_level_where_the_model_lacks_a_component(subjects, kinds, s2):
    """Subjects differ by kind of cell, and the model has a subject intercept only."""
    groups = gaussian_groups(11, subjects, kinds, 1500, 0.1, s2)
    fit = fm.fit_lmm(fm.summary_statistics(groups, "~ 0 + kind + kind:condition", ["subject"]))
    jackknife = fm.contrast_tests(fit, "condition", ddf="jackknife").p_value
    with regrouped.advised(["subject"]):
        default = fm.contrast_tests(fit, "condition").p_value
    # the mean over the contrasts of a gene is one independent draw
    for level in (0.05, 0.01):
        share = (jackknife < level).mean(1)
        assert share.mean() < level + 3 * share.std() / np.sqrt(len(share))
        assert share.mean() > level / 2
    assert (jackknife < 0.001).mean() < 0.0015
    assert (default < 0.05).mean() > 0.056


@pytest.mark.parametrize("s2", [0.0, 0.1])
def test_holds_its_level_in_a_kind_that_few_subjects_have(s2):
    """Six of twelve subjects have the last kind."""
    missing = {(i, 2) for i in range(6)}
    groups = gaussian_groups(12, 12, 3, 6000, 0.1, s2, missing)
    fit = fm.fit_lmm(fm.summary_statistics(groups, "~ 0 + kind + kind:condition", ["subject"]))
    table = fm.contrast_tests(fit, "kind[K02]:condition[T.stim]", ddf="jackknife")
    assert (table.df == 4).all()
    for level in (0.05, 0.01, 0.001):
        error = np.sqrt(level * (1 - level) / 6000)
        assert (table.p_value < level).mean() < level + 3 * error
    assert (table.p_value < 0.05).mean() > 0.01
