"""Permuting labels of subjects: against refits of relabelled groups, and exact under the null."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import combinations
from math import comb

import numpy as np
import oracle
import pandas as pd
import pytest
import regrouped
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

import flashmm as fm
from flashmm.design.derived import subtract_means
from flashmm.inference.permuted_labels import _arrangements, plan_permutation
from flashmm.inference.table import adjust_p_values

FIXED = "~ 0 + x + kind + kind:condition"
EFFECT = "kind[K1]:condition[T.stim]"


def statistics(cells, fixed=FIXED, random=("subject",)):
    return fm.summary_statistics(cells.groups, fixed, list(random))


def relabelled(groups, treated):
    """The same groups with other subjects treated."""
    subject = groups.obs["subject"].cat.codes
    values = np.where(subject.isin(treated), "stim", "ctrl")
    return replace(groups, obs=groups.obs.assign(condition=pd.Categorical(values)))


def t_of(groups, fixed, random, contrast=EFFECT, **options):
    fit = fm.fit_lmm(fm.summary_statistics(groups, fixed, list(random)), **options)
    return fm.contrast_tests(fit, contrast).statistic[:, 0]


def brute_force(cells, fixed, random, subjects, treated):
    """Observed |t| (genes,), and |t| (permutations, genes) of all of them, the observed first."""
    ways = list(combinations(range(subjects), treated))
    every = np.abs([t_of(relabelled(cells.groups, way), fixed, random) for way in ways])
    return every[0], every


@cache
def of_six_subjects(random):
    """Twelve genes, three of them with an effect: the table, and what brute force gives."""
    cells = regrouped.simulate(2, subjects=6, kinds=2, genes=12)
    cells.Y[(cells.obs["condition"] == "stim").to_numpy(), :3] += 4.0
    cells = regrouped.Cells(cells.obs, cells.Y, regrouped.group(cells.obs, cells.Y))
    with pytest.warns(fm.FlashmmWarning, match="in 20 distinct ways: no permutation p-value"):
        table = fm.permutation_tests(statistics(cells, random=random), EFFECT, null="factor")
    with regrouped.advised(random):
        return table, *brute_force(cells, FIXED, random, 6, 3)


@pytest.mark.parametrize(
    "random", [("subject",), ("subject", "subject:kind")], ids=["K1", "nested"]
)
def test_enumeration_is_brute_force(random):
    table, observed, every = of_six_subjects(random)
    assert table.enumerated and table.n_distinct == comb(6, 3)
    assert list(table.n_permutations) == [19]
    np.testing.assert_allclose(np.abs(table.statistic[:, 0]), observed, rtol=1e-6)
    at_least = every[:, None] >= observed[:, None] * (1 - 1e-6)  # (ways, genes, thresholds)
    np.testing.assert_array_equal(
        table.p_value[:, 0], np.einsum("wgg->g", at_least.swapaxes(1, 2).astype(float)) / 20
    )


def dense_reml(y, X, Z):
    """θ̂ of REML with one component, by maximising the dense likelihood over σ²_1/σ²."""
    n, p = X.shape

    def profiled(log_gamma):
        V = oracle.covariance([Z], np.array([np.exp(log_gamma), 1.0]))
        residual = y - X @ oracle.gls(y, X, V)[0]
        sigma2 = residual @ np.linalg.solve(V, residual) / (n - p)
        return sigma2 * np.array([np.exp(log_gamma), 1.0])

    best = minimize_scalar(
        lambda x: -oracle.loglik(y, X, oracle.covariance([Z], profiled(x)), True),
        bounds=(-15, 5),
        method="bounded",
        options={"xatol": 1e-9},
    )
    return profiled(best.x)


def dense_permutation(cells, null, refit):
    """|Wald t| of EFFECT, (permutations, genes), the observed first; cells, no groups."""
    obs, ways = cells.obs, list(combinations(range(6), 3))
    subject, kind = obs["subject"].cat.codes.to_numpy(), obs["kind"].cat.codes.to_numpy()
    Z, kinds = np.eye(6)[subject], np.eye(2)[kind]

    def design(way):
        return np.column_stack([obs["x"], kinds, kinds * np.isin(subject, way)[:, None]])

    every = np.empty((len(ways), cells.Y.shape[1]))
    for g, y in enumerate(cells.Y.T):
        # x, two kinds, and for one contrast the effect in the other kind
        X0 = design(ways[0])[:, : 4 if null == "contrast" else 3]
        theta = dense_reml(y, X0, Z)
        if null == "contrast":
            y = y - X0 @ oracle.gls(y, X0, oracle.covariance([Z], theta))[0]
        for w, way in enumerate(ways):
            X = design(way)
            used = dense_reml(y, X, Z) if refit else theta
            beta, Phi = oracle.gls(y, X, oracle.covariance([Z], used))
            every[w, g] = abs(beta[4]) / np.sqrt(Phi[4, 4])
    return every


@pytest.mark.parametrize("refit", [True, False])
@pytest.mark.parametrize("null", ["contrast", "factor"])
def test_hypotheses_are_dense_formulas_on_cells(null, refit):
    cells = regrouped.simulate(21, subjects=6, kinds=2, genes=3, cells=4)
    cells.Y[((cells.obs["kind"] == "K0") & (cells.obs["condition"] == "stim")).to_numpy()] += 2.0
    cells = regrouped.Cells(cells.obs, cells.Y, regrouped.group(cells.obs, cells.Y))
    every = dense_permutation(cells, null, refit)
    with pytest.warns(fm.FlashmmWarning, match="20 distinct"):
        table = fm.permutation_tests(
            statistics(cells), EFFECT, statistic="wald", null=null, refit=refit
        )
    np.testing.assert_allclose(np.abs(table.statistic[:, 0]), every[0], rtol=1e-5)
    p = (every >= every[0] * (1 - 1e-5)).mean(0)
    np.testing.assert_allclose(table.p_value[:, 0], p, rtol=1e-12)


def test_sums_without_means_are_those_of_the_cells():
    cells = regrouped.simulate(27)
    stats, rng = statistics(cells), np.random.default_rng(0)
    means = rng.normal(size=(2, stats.groups.n_groups, 5))
    group = cells.obs.groupby(regrouped.BY, observed=True, sort=True).ngroup().to_numpy()
    x = cells.obs["x"].to_numpy()[:, None]
    Y = cells.Y - means[0][group] - x * means[1][group]
    expected = statistics(regrouped.Cells(cells.obs, Y, regrouped.group(cells.obs, Y)))
    found = subtract_means(stats, means)
    np.testing.assert_allclose(found.YtX, expected.YtX, atol=1e-11)
    np.testing.assert_allclose(found.YtZ, expected.YtZ, atol=1e-11)
    np.testing.assert_allclose(found.yty, expected.yty, rtol=1e-12)
    for name, values in expected.groups.gene_sums().items():
        np.testing.assert_allclose(found.groups.gene_sums()[name], values, atol=1e-11)


def effect_elsewhere(seed, subjects, genes, effect):
    """Two kinds of cells, of which one has no effect of the condition."""
    cells = regrouped.simulate(seed, subjects=subjects, kinds=2, genes=genes, sd=(0.6, 0.0))
    cells.Y[((cells.obs["kind"] == "K0") & (cells.obs["condition"] == "stim")).to_numpy()] += effect
    return statistics(regrouped.Cells(cells.obs, cells.Y, regrouped.group(cells.obs, cells.Y)))


@pytest.mark.parametrize("refit", [True, False])
def test_effects_elsewhere_change_nothing(refit):
    tables = [
        fm.permutation_tests(
            effect_elsewhere(22, 12, 20, effect), EFFECT, n_permutations=19, refit=refit
        )
        for effect in (0.0, 5.0)
    ]
    np.testing.assert_allclose(tables[1].p_value, tables[0].p_value, rtol=1e-12)
    np.testing.assert_allclose(tables[1].statistic, tables[0].statistic, rtol=1e-5)


def test_level_beside_an_effect_in_another_kind():
    stats = effect_elsewhere(23, 12, 1000, 3.0)
    own, factor = (
        fm.permutation_tests(stats, EFFECT, n_permutations=39, null=null).p_value[:, 0]
        for null in ("contrast", "factor")
    )
    for level in (0.05, 0.2, 0.5):
        error = np.sqrt(level * (1 - level) / len(own))
        # exact up to what estimating the other effect costs, a tenth of the level
        assert abs((own <= level).mean() - level) < 3.5 * error + 0.1 * level
    # labels that have an effect somewhere are not exchangeable
    assert (factor <= 0.05).mean() > 0.1


def test_contrasts_do_not_depend_on_those_beside_them():
    stats = effect_elsewhere(24, 10, 6, 1.0)
    both = fm.permutation_tests(stats, "condition", n_permutations=19)
    for j, name in enumerate(both.contrast_names):
        alone = fm.permutation_tests(stats, name, n_permutations=19)
        np.testing.assert_array_equal(both.p_value[:, j], alone.p_value[:, 0])
        np.testing.assert_array_equal(both.fdr[:, j], alone.fdr[:, 0])


@pytest.mark.parametrize("refit", [True, False])
def test_hypotheses_agree_where_the_factor_has_one_effect(refit):
    """The contrast of two means spans the same columns as the factor."""
    stats = statistics(regrouped.simulate(25, subjects=10), "~ 0 + condition + x + kind")
    tables = [
        fm.permutation_tests(
            stats,
            "condition[stim] - condition[ctrl]",
            n_permutations=19,
            null=null,
            refit=refit,
        )
        for null in ("contrast", "factor")
    ]
    np.testing.assert_allclose(tables[0].statistic, tables[1].statistic, rtol=1e-5)
    if refit:
        np.testing.assert_array_equal(tables[0].p_value, tables[1].p_value)


def test_contrast_that_is_all_of_the_fixed_effects():
    stats = statistics(regrouped.simulate(26, subjects=8), "~ 0 + dose")
    one, other = (
        fm.permutation_tests(stats, "dose", "dose", n_permutations=19, null=null)
        for null in ("contrast", "factor")
    )
    np.testing.assert_array_equal(one.p_value, other.p_value)


def test_fdr_is_its_definition():
    table, observed, every = of_six_subjects(("subject",))
    rates = {}
    for t in observed:
        expected = (every >= t * (1 - 1e-6)).sum() / len(every)
        rates[t] = min(1.0, expected / (observed >= t * (1 - 1e-6)).sum())
    fdr = [min(rates[low] for low in observed if low <= t) for t in observed]
    np.testing.assert_allclose(table.fdr[:, 0], fdr, rtol=1e-12)
    np.testing.assert_array_equal(table.adj_p_value[:, 0], adjust_p_values(table.p_value[:, 0]))
    # the three genes with an effect lead
    assert set(np.argsort(table.fdr[:, 0])[:3]) == {0, 1, 2}


def test_held_components_are_those_of_the_model_without_labels():
    cells = regrouped.simulate(3, subjects=6, kinds=2, genes=3)
    fixed, ways = "~ x + kind + condition", list(combinations(range(6), 3))
    null = fm.fit_lmm(statistics(cells, "~ x + kind"))
    every = []
    for way in ways:
        obs = cells.obs.assign(c=cells.obs["subject"].cat.codes.isin(way).astype(float))
        X = np.column_stack([np.ones(len(obs)), obs["x"], obs["kind"] == "K1", obs["c"]]).astype(
            float
        )
        Z = np.eye(6)[obs["subject"].cat.codes]
        at = []
        for y, theta in zip(cells.Y.T, null.theta, strict=True):
            beta, Phi = oracle.gls(y, X, oracle.covariance([Z], theta))
            at.append(abs(beta[3]) / np.sqrt(Phi[3, 3]))
        every.append(at)
    with pytest.warns(fm.FlashmmWarning, match="20 distinct"):
        table = fm.permutation_tests(
            statistics(cells, fixed), "condition", statistic="wald", refit=False
        )
    np.testing.assert_allclose(np.abs(table.statistic[:, 0]), every[0], rtol=1e-6)
    p = (np.array(every) >= np.array(every[0]) * (1 - 1e-6)).mean(0)
    np.testing.assert_allclose(table.p_value[:, 0], p, rtol=1e-12)


@pytest.mark.parametrize("refit", [True, False])
@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
def test_p_values_are_exact_under_the_null(refit, alternative):
    """Whatever the distribution: values of subjects with heavy tails, unequal cells."""
    cells = regrouped.simulate(4, subjects=6, kinds=1, genes=2000, sd=(0.0, 0.0))
    rng = np.random.default_rng(1)
    Y = cells.Y + rng.standard_t(1.5, size=(6, 2000))[cells.obs["subject"].cat.codes]
    groups = regrouped.group(cells.obs, Y)
    stats = fm.summary_statistics(groups, "~ x + condition", ["subject"])
    with pytest.warns(fm.FlashmmWarning, match="20 distinct"):
        table = fm.permutation_tests(stats, alternative=alternative, refit=refit)
    p, steps = table.p_value[:, 0], 10 if alternative == "two-sided" else 20
    for level in (0.1, 0.15, 0.3, 0.7):
        exact = np.floor(level * steps + 1e-9) / steps
        error = np.sqrt(exact * (1 - exact) / len(p))
        assert abs((p <= level + 1e-9).mean() - exact) < 4 * error


def test_random_permutations_agree_with_all_of_them():
    cells = regrouped.simulate(5, subjects=9, kinds=2, genes=8)
    stats = statistics(cells)
    every = fm.permutation_tests(stats, EFFECT)
    some = fm.permutation_tests(stats, EFFECT, n_permutations=50)
    assert every.enumerated and every.n_distinct == 126 and not some.enumerated
    error = np.sqrt(every.p_value * (1 - every.p_value) / 50) + 1 / 51
    assert (np.abs(some.p_value - every.p_value) < 4 * error).all()
    assert (some.p_value >= 1 / 51).all()
    np.testing.assert_array_equal(some.statistic, every.statistic)


def test_seed_decides():
    stats = statistics(regrouped.simulate(6, subjects=12, genes=30))
    tables = [
        fm.permutation_tests(stats, EFFECT, n_permutations=19, seed=seed) for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(tables[0].p_value, tables[1].p_value)
    np.testing.assert_array_equal(tables[0].fdr, tables[1].fdr)
    assert (tables[0].p_value != tables[2].p_value).any()


def test_fit_and_statistics_give_the_same():
    stats = statistics(regrouped.simulate(7, subjects=6, genes=4))
    with pytest.warns(fm.FlashmmWarning, match="20 distinct"):
        tables = [fm.permutation_tests(model, EFFECT) for model in (stats, fm.fit_lmm(stats))]
        ml = fm.permutation_tests(fm.fit_lmm(stats, "ML"), EFFECT, n_permutations=19)
    np.testing.assert_array_equal(tables[0].p_value, tables[1].p_value)
    assert ml.method == "wald" and tables[0].method == "kenward-roger"


@cache
def of_seven_subjects():
    cells = regrouped.simulate(8, subjects=7, treated=3, kinds=2, genes=4)
    with pytest.warns(fm.FlashmmWarning, match="35 distinct"):
        return cells, fm.permutation_tests(statistics(cells), EFFECT)


@settings(deadline=None, max_examples=3)
@given(st.floats(-5, 5), st.randoms(use_true_random=False))
def test_scale_and_order_do_not_matter(power, random):
    cells, one = of_seven_subjects()
    order = list(range(len(cells.obs)))
    random.shuffle(order)
    obs, Y = cells.obs.iloc[order].reset_index(drop=True), cells.Y[order] * 10.0**power
    with pytest.warns(fm.FlashmmWarning, match="35 distinct"):
        other = fm.permutation_tests(
            statistics(regrouped.Cells(obs, Y, regrouped.group(obs, Y))), EFFECT
        )
    np.testing.assert_array_equal(one.p_value, other.p_value)
    np.testing.assert_allclose(one.statistic, other.statistic, rtol=1e-5)


class TestStrata:
    def test_labels_stay_within(self):
        stats = statistics(regrouped.simulate(9, subjects=12))
        plan = plan_permutation(stats, EFFECT, "condition", "batch", None)
        assert plan.n_distinct == comb(6, 3) ** 2
        batch = np.arange(12) % 2
        for codes in plan.random_labels(20, 0):
            assert [codes[batch == b].sum() for b in (0, 1)] == [3, 3]
        every = {tuple(codes) for codes in plan.all_labels()}
        assert len(every) == comb(6, 3) ** 2 - 1 and tuple(plan.labels) not in every
        assert all(sum(codes[::2]) == 3 for codes in every)

    def test_several_columns(self):
        cells = regrouped.simulate(9, subjects=12)
        plan = plan_permutation(statistics(cells), EFFECT, "condition", ["batch", "dose"], None)
        # dose has four values, two of them in each batch: four strata of three subjects
        assert plan.n_distinct == 3**4

    def test_null_design_has_the_shares_of_the_stratum(self):
        cells = regrouped.simulate(9, subjects=6, treated=2)
        plan = plan_permutation(statistics(cells, "~ condition"), None, "condition", "batch", None)
        every = [plan.labels, *plan.all_labels()]
        mean = np.mean([plan.design(codes) for codes in every], axis=0)
        np.testing.assert_allclose(plan.null_design(), mean, atol=1e-12)


@pytest.mark.parametrize("counts", [(1, 1), (3, 2), (2, 2, 1), (1, 1, 1, 1)])
def test_arrangements_are_all_distinct(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    found = [tuple(order) for order in _arrangements(labels)]
    assert len(found) == len(set(found)) == oracle_multinomial(counts)
    assert all(sorted(order) == list(labels) for order in found)


def oracle_multinomial(counts):
    total, ways = sum(counts), 1
    for n in counts:
        ways, total = ways * comb(total, n), total - n
    return ways


def test_number_of_a_factor():
    """A dose: every subject keeps one of the doses that there are."""
    cells = regrouped.simulate(10, subjects=5, kinds=2, genes=3)
    stats = statistics(cells, "~ kind + dose")
    with pytest.warns(fm.FlashmmWarning, match="can be below 0.017"):
        table = fm.permutation_tests(stats, factor="dose", n_permutations=19)
    # doses 0 1 2 3 0
    assert table.n_distinct == 60 and table.contrast_names == ("dose",)
    fit = fm.fit_lmm(stats)
    with pytest.warns(fm.FlashmmWarning, match=r"'dose' rests on few subjects \(3 degrees"):
        t = fm.contrast_tests(fit, "dose").statistic
    np.testing.assert_allclose(table.statistic, t, rtol=1e-9)


def test_few_permutations_have_words_and_a_status():
    stats = statistics(regrouped.simulate(11, subjects=5, treated=2))
    with pytest.warns(fm.FlashmmWarning, match="5 subjects in 10 distinct ways, fewer than 20"):
        table = fm.permutation_tests(stats, EFFECT)
    assert (table.status == "too_few_permutations").all()
    assert np.isnan(table.p_value).all() and np.isnan(table.fdr).all()
    assert np.isfinite(table.statistic).all() and (table.n_permutations == 0).all()
    assert "10" in table.notes[-1]


def test_confounded_strata_leave_one_permutation():
    cells = regrouped.simulate(12)
    obs = cells.obs.assign(batch=cells.obs["condition"])
    stats = fm.summary_statistics(regrouped.group(obs, cells.Y), FIXED, ["subject"])
    with pytest.warns(
        fm.FlashmmWarning, match="in 1 distinct way, fewer than 20.* or fewer strata"
    ):
        table = fm.permutation_tests(stats, EFFECT, strata="batch")
    assert (table.status == "too_few_permutations").all() and table.n_distinct == 1


@pytest.mark.parametrize("fixed", ["~ batch + condition", "~ condition + batch"])
def test_confounded_contrast_is_not_estimable(fixed):
    """Condition and batch are the same, whichever of them is dropped."""
    cells = regrouped.simulate(13, subjects=12)
    obs = cells.obs.assign(batch=cells.obs["condition"])
    stats = fm.summary_statistics(regrouped.group(obs, cells.Y), fixed, ["subject"])
    with pytest.warns(fm.FlashmmWarning, match="dropped: (condition|batch)"):
        table = fm.permutation_tests(stats, n_permutations=30)
    assert (table.status == "not_estimable").all() and np.isnan(table.p_value).all()


def test_permutations_that_cannot_estimate_are_left_out():
    """A kind in three subjects: where all of them have one label, its effect has no estimate."""
    cells = regrouped.simulate(14, subjects=6, kinds=2, genes=2, kinds_of={1: [1, 2, 4]})
    with pytest.warns(fm.FlashmmWarning, match="20 distinct"):
        table = fm.permutation_tests(
            statistics(cells), ["kind[K0]:condition[T.stim]", EFFECT], "condition"
        )
    # two of the twenty have all three
    assert list(table.n_permutations) == [19, 17]
    assert (
        list(table.status[0]) == ["ok", "too_few_permutations"] or table.status[0, 0] == "boundary"
    )
    assert np.isnan(table.p_value[:, 1]).all() and np.isfinite(table.p_value[:, 0]).all()


def test_bad_genes_keep_their_status():
    cells = regrouped.simulate(15, subjects=10)
    cells.Y[:, 1] = 0.0
    groups = regrouped.group(cells.obs, cells.Y)
    table = fm.permutation_tests(
        fm.summary_statistics(groups, FIXED, ["subject"]), EFFECT, n_permutations=19
    )
    frame = table.to_frame().set_index("gene")
    assert frame.loc["g1", "status"] == "all_zero" and np.isnan(frame.loc["g1", "p_value"])
    assert frame["p_value"].drop("g1").notna().all() and frame["fdr"].drop("g1").between(0, 1).all()
    assert (frame["n_distinct"] == 252).all() and (frame["n_permutations"] == 19).all()


def test_many_subjects_have_a_large_number_of_permutations():
    stats = statistics(regrouped.simulate(16, subjects=80, kinds=1, cells=3), "~ condition")
    table = fm.permutation_tests(stats, n_permutations=19)
    assert table.n_distinct == comb(80, 40) > 2**63
    assert table.to_frame()["n_distinct"].iloc[0] == float(comb(80, 40))


BAD = {
    "factor that is no column": ({"factor": "treatment"}, "not among the columns"),
    "factor within subjects": ({"factor": "kind"}, "varies within subjects"),
    "factor without a term": ({"factor": "batch"}, "does not hold factor='batch'"),
    "strata that is no column": ({"strata": "sex"}, "strata='sex' is not among"),
    "strata within subjects": ({"strata": "kind"}, "strata='kind' varies within subjects"),
    "few permutations": ({"n_permutations": 10}, "whole number from 19 on"),
    "words for a number": ({"n_permutations": "many"}, "found 'many'"),
    "negative seed": ({"seed": -1}, "seed must be a whole number from 0 on; found -1"),
    "half a permutation": ({"n_permutations": 99.5}, "found 99.5"),
    "alternative": ({"alternative": "both"}, "alternative must be one of"),
    "null": ({"null": "sharp"}, "null must be one of contrast, factor; found 'sharp'"),
    "statistic": ({"statistic": "score"}, "statistic must be one of"),
    "subject that is no column": ({"subject": "donor"}, "subject='donor' is not among"),
    "joint contrast": (
        {"contrasts": {"both": [EFFECT, "kind[K0]:condition[T.stim]"]}},
        "'both' is joint",
    ),
    "contrast of something else": (
        {"contrasts": "kind[K1] - kind[K0]"},
        "is not one of 'condition'",
    ),
    "mixed contrast": ({"contrasts": f"kind[K1] + {EFFECT}"}, "is not one of 'condition'"),
}


@pytest.fixture(scope="module")
def usual():
    return statistics(regrouped.simulate())


@pytest.mark.parametrize("options, message", BAD.values(), ids=BAD)
def test_refuses(usual, options, message):
    with pytest.raises(fm.InputError, match=message):
        fm.permutation_tests(usual, **options)


class TestRefuses:
    def test_matrices(self):
        Y, X, (Z,) = oracle.problem()
        stats = fm.summary_statistics_from_matrices(Y, X, Z, 8)
        with pytest.raises(fm.InputError, match="A permutation needs the groups"):
            fm.permutation_tests(stats)

    def test_other_objects(self):
        with pytest.raises(fm.InputError, match="found a DataFrame"):
            fm.permutation_tests(pd.DataFrame())

    def test_kenward_roger_of_ml(self):
        fit = fm.fit_lmm(statistics(regrouped.simulate()), "ML")
        with pytest.raises(fm.InputError, match="use 'wald'"):
            fm.permutation_tests(fit, statistic="kenward-roger")

    def test_one_value(self):
        cells = regrouped.simulate(treated=0)
        with pytest.warns(fm.FlashmmWarning, match="makes no column"):
            stats = statistics(cells, "~ kind + condition")
        with pytest.raises(fm.InputError, match="same value 'ctrl' in all subjects"):
            fm.permutation_tests(stats)

    def test_one_subject_per_condition(self):
        stats = statistics(regrouped.simulate(subjects=2), "~ x + kind + condition")
        with pytest.raises(fm.DesignError, match="one subject per condition"):
            fm.permutation_tests(stats)

    def test_random_term_that_would_change(self):
        stats = statistics(regrouped.simulate(), "~ x + condition", ["subject", "kind:condition"])
        with pytest.raises(fm.InputError, match="'kind:condition' holds factor='condition'"):
            fm.permutation_tests(stats)

    def test_statistics_without_their_formula(self):
        from flashmm.design.derived import drop_component

        stats = statistics(regrouped.simulate(), random=["subject", "subject:kind"])
        with pytest.raises(fm.InputError, match="lost their formula"):
            fm.permutation_tests(drop_component(stats, "subject:kind"))
