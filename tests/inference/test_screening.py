"""Which contrasts can be tested: by the row space of the design and the units behind it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from group_designs import crossed, fit_groups, groups_of
from hypothesis import given, settings
from hypothesis import strategies as st

import flashmm as fm
from flashmm.inference.between_subjects import SubjectDesign
from flashmm.inference.random_space import RandomSpace, random_blocks
from flashmm.inference.subjects import groupings, independent_subjects, subjects_of

NESTED = ("subject", "subject:cell_type")
WITHIN_TYPES = "~ 0 + cell_type + cell_type:condition"
# the effect of the condition in T1 in two codings
EFFECT = {
    WITHIN_TYPES: "cell_type[T1]:condition[T.stim]",
    "~ cell_type * condition": "condition[T.stim] + cell_type[T.T1]:condition[T.stim]",
}

quiet = pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning")


class TestOneSubject:
    """A contrast that has no estimate without one of its subjects is not tested."""

    @pytest.mark.parametrize(
        "values", [["a", "b"], [False, True], [0, 1], [0.0, 1.0], pd.Categorical([0, 1])], ids=str
    )
    def test_whatever_the_values(self, values):
        obs = crossed(6).drop(columns="condition")
        obs["x"] = pd.Series(values).iloc[[0, 1, 1, 1, 1, 1]].reset_index(drop=True)
        fit = fit_groups(groups_of(obs), "~ x")
        said = rf"level '{values[0]}' of 'x' has one subject"
        with pytest.warns(fm.FlashmmWarning, match=said):
            table = fm.contrast_tests(fit, "x")
        assert (table.status == "too_few_subjects").all()
        assert np.isnan(table.p_value).all() and np.isfinite(table.estimate).all()

    @pytest.mark.parametrize("ddf", ["kenward-roger", "kenward-roger-2", "satterthwaite"])
    @pytest.mark.parametrize("fixed", EFFECT)
    @quiet
    def test_within_a_cell_type(self, fixed, ddf):
        """Four subjects have cells of T1; one of them is of the reference arm."""
        obs = crossed(8, 2, missing={(0, 1), (2, 1), (4, 1)})
        fit = fit_groups(groups_of(obs), fixed, NESTED)
        first = "condition[T.stim]" if "*" in fixed else "cell_type[T0]:condition[T.stim]"
        table = fm.contrast_tests(fit, {"T0": first, "T1": EFFECT[fixed]}, ddf=ddf)
        assert (table.status[:, 1] == "too_few_subjects").all()
        assert np.isnan(table.p_value[:, 1]).all() and np.isfinite(table.p_value[:, 0]).all()
        said = "level 'ctrl' of 'condition' has one subject with cells of cell_type 'T1'"
        assert sum(said in text for text in table.notes) == 1

    @quiet
    def test_two_in_the_arm_of_a_type_are_tested(self):
        obs = crossed(8, 2, missing={(0, 1), (2, 1)})
        fit = fit_groups(groups_of(obs), WITHIN_TYPES, NESTED)
        assert np.isfinite(fm.contrast_tests(fit, "condition").p_value).all()

    @quiet
    def test_of_pairs_within_a_type(self):
        """One subject has treated cells of T1."""
        obs = crossed(5, 2, paired=True)
        alone = (obs["cell_type"] == "T1") & (obs["condition"] == "stim") & (obs["subject"] > "S00")
        groups = groups_of(obs[~alone].reset_index(drop=True))
        for random in (["subject"], ["subject", "subject:cell_type:condition"]):
            table = fm.contrast_tests(fit_groups(groups, WITHIN_TYPES, random), "condition")
            assert (table.status[:, 1] == "too_few_subjects").all()
            assert np.isfinite(table.p_value[:, 0]).all()

    @settings(max_examples=12, deadline=None)
    @given(seed=st.integers(0, 10**6), m=st.integers(3, 6), types=st.integers(1, 3))
    @quiet
    def test_is_leaving_out_each_subject(self, seed, m, types):
        """Against the ranks of the designs of all but one subject."""
        rng = np.random.default_rng(seed)
        obs = crossed(m, types)
        obs = obs[rng.random(len(obs)) > 0.25].reset_index(drop=True)
        if obs["condition"].nunique() < 2 or obs["subject"].nunique() < 3:
            return
        obs["z"] = rng.normal(size=len(obs)).round(1)
        fixed = "~ cell_type * condition + z" if obs["cell_type"].nunique() > 1 else "~ condition"
        try:
            fit = fit_groups(groups_of(obs), fixed, ["subject"])
        except fm.DesignError:
            return
        design, X = SubjectDesign.of(fit), SubjectDesign.of(fit).X
        rank = np.linalg.matrix_rank
        for c in np.eye(X.shape[1])[fit.estimable]:
            view, found = design.needed(c[None])
            assert view.subjects.column == "subject"
            kept = [X[view.subjects.codes != s] for s in range(len(view.subjects))]
            lost = [s for s, A in enumerate(kept) if rank(np.vstack([A, c])) > rank(A)]
            assert list(found) == lost


class TestOrderOfTerms:
    """Random terms are a set: their order changes neither subjects, df, statuses nor notes."""

    def sites(self):
        """Two subjects in each of six sites, three samples each; treatment by subject or site."""
        rows = [
            {
                "site": f"s{i // 2}",
                "subject": f"S{i:02d}",
                "sample": f"S{i:02d}_{k}",
                "by_subject": "ab"[i % 2],
                "by_site": "ab"[i // 2 % 2],
                "by_sample": "abc"[k],
            }
            for i in range(12)
            for k in range(3)
        ]
        return groups_of(pd.DataFrame(rows))

    @pytest.mark.parametrize(
        "factor, unit, df",
        [
            ("by_site", "site", 6 - 2),
            ("by_subject", "subject", 12 - 7),
            ("by_sample", "sample", 22),
        ],
    )
    @pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
    def test_unit_is_the_coarsest_grouping_in_which_it_is_constant(self, factor, unit, df, order):
        random = [["site", "subject", "sample"][i] for i in order]
        fit = fit_groups(self.sites(), f"~ {factor}", random)
        design = SubjectDesign.of(fit)
        row = np.eye(len(fit.coefficients))[[1]]
        assert design.unit(row).subjects.column == unit
        found = design.between_df(row), design.within_df(row)
        assert [x for x in found if not np.isnan(x)] == [df]

    @pytest.mark.parametrize("n_ctrl", [1, 4])
    @pytest.mark.parametrize("nested", [False, True])
    @quiet
    def test_lanes_and_technical_replicates(self, n_ctrl, nested):
        arms = ["ctrl"] * n_ctrl + ["stim"] * 4
        rows = [
            {
                "subject": f"S{i}",
                "lane": f"S{i}_{k}" if nested else f"L{k}",
                "condition": arms[i],
            }
            for i in range(len(arms))
            for k in range(3)
        ]
        groups = groups_of(pd.DataFrame(rows))
        one, other = (
            fm.contrast_tests(fit_groups(groups, "~ condition", random), "condition")
            for random in (["subject", "lane"], ["lane", "subject"])
        )
        np.testing.assert_array_equal(one.status, other.status)
        np.testing.assert_allclose(one.df, other.df, rtol=1e-4)
        np.testing.assert_array_equal(one.between_df, other.between_df)
        assert one.notes == other.notes
        assert (one.status == "too_few_subjects").all() == (n_ctrl == 1)
        if n_ctrl == 4:
            assert one.between_df == [6]

    @quiet
    def test_one_definition_for_all(self):
        obs = crossed(8).merge(pd.DataFrame({"lane": ["L1", "L2", "L3"]}), how="cross")
        for random in (["lane", "subject"], ["subject", "lane"]):
            stats = fm.summary_statistics(groups_of(obs), "~ condition", random)
            assert subjects_of(stats).column == "subject"
            assert SubjectDesign.of(fm.fit_lmm(stats)).subjects.column == "subject"
            shuffled = fm.permutation_tests(stats, factor="condition", n_permutations=19, seed=0)
            assert "subject" in shuffled.notes[0] if shuffled.notes else True

    def test_subjects_of_a_product_alone(self):
        """Neither the order in the product nor the number of types says who the subjects are."""
        for types in (2, 12):
            for term in ("subject:cell_type", "cell_type:subject"):
                stats = fm.summary_statistics(
                    groups_of(crossed(6, types)), "~ cell_type + condition", [term]
                )
                assert subjects_of(stats).column == "subject"
                assert independent_subjects(stats).column == "subject"

    def test_groupings_are_partitions_each_once(self):
        groups = groups_of(crossed(6).assign(again=lambda d: "x" + d["subject"]))
        stats = fm.summary_statistics(groups, "~ condition", ["subject"])
        assert [g.column for g in groupings(*stats.require_source())] == ["subject"]


class TestEstimable:
    """By the row space of X, whichever of dependent columns was dropped."""

    def groups(self):
        """No treated cells of T0."""
        obs = crossed(10, 3)
        return groups_of(obs[(obs["cell_type"] != "T0") | (obs["condition"] != "stim")])

    @quiet
    def test_is_the_same_in_another_coding(self):
        names = {
            "T1": EFFECT["~ cell_type * condition"],
            "T2": "condition[T.stim] + cell_type[T.T2]:condition[T.stim]",
            "T2-T1": "cell_type[T.T2]:condition[T.stim] - cell_type[T.T1]:condition[T.stim]",
            "T0": "condition[T.stim]",
        }
        a, b, c = (f"cell_type[T{k}]:condition[T.stim]" for k in range(3))
        nested = {"T1": b, "T2": c, "T2-T1": f"{c} - {b}", "T0": a}
        one, other = (
            fm.contrast_tests(fit_groups(self.groups(), fixed, NESTED), contrasts)
            for fixed, contrasts in (("~ cell_type * condition", names), (WITHIN_TYPES, nested))
        )
        assert (one.status[:, 3] == "not_estimable").all()
        np.testing.assert_array_equal(one.status, other.status)
        for name in ("estimate", "std_error", "df", "p_value"):
            np.testing.assert_allclose(
                getattr(one, name), getattr(other, name), rtol=1e-4, atol=1e-8
            )
        assert np.isfinite(one.p_value[:, :3]).all() and np.isnan(one.p_value[:, 3]).all()

    @quiet
    def test_joint_tests(self):
        fit = fit_groups(self.groups(), "~ cell_type * condition", NESTED)
        T1, T2 = (f"condition[T.stim] + cell_type[T.T{k}]:condition[T.stim]" for k in (1, 2))
        table = fm.contrast_tests(fit, {"both": [T1, T2], "all": [T1, T2, "condition[T.stim]"]})
        assert np.isfinite(table.p_value[:, 0]).all() and table.df_num[0] == 2
        assert (table.status[:, 1] == "not_estimable").all()


@pytest.mark.parametrize(
    "random",
    [
        ["subject"],
        ["subject", "subject:cell_type"],
        ["subject", "lane"],
        ["subject", "0 + cell_type || subject", "lane"],
        ["1 + time || subject", "lane"],
        ["subject:cell_type", "subject:condition", "lane"],
    ],
)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 10**6))
@quiet
def test_random_space_is_that_of_the_dense_columns(random, seed):
    """Residuals and ranks against a dense least-squares fit on all columns of Z."""
    rng = np.random.default_rng(seed)
    obs = crossed(5, 3, paired=True, missing={(i, int(rng.integers(3))) for i in range(3)})
    obs["lane"] = rng.choice(["L1", "L2", "L3"], len(obs))
    obs["time"] = rng.normal(size=len(obs)).round(1)
    groups = groups_of(obs)
    stats = fm.summary_statistics(groups, "~ condition", random)
    Z = np.hstack([c.weights[0].toarray() for c in stats.design.random])
    X = rng.normal(size=(len(obs), 3))
    left, rank = RandomSpace.of(random_blocks(stats.design)).without(X)
    assert rank == np.linalg.matrix_rank(Z)
    np.testing.assert_allclose(left, X - Z @ np.linalg.lstsq(Z, X, rcond=None)[0], atol=1e-9)
