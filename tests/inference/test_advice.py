"""Advice in words: said where it should be, once, and nothing for a healthy run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from group_designs import crossed, fit_groups, groups_of

import flashmm as fm

NESTED = ("subject", "subject:cell_type")
OWN_VARIANCES = ("subject", "0 + cell_type || subject")
WITHIN_TYPES = "~ 0 + cell_type + cell_type:condition"


@pytest.mark.parametrize(
    "fixed, random, types",
    [
        ("~ condition", ["subject"], 1),
        ("~ cell_type + condition", NESTED, 2),
        (WITHIN_TYPES, OWN_VARIANCES, 2),
    ],
)
def test_a_healthy_run_says_nothing(fixed, random, types):
    fit = fit_groups(groups_of(crossed(8, types), genes=30, sd=(0.4, 0.3)), fixed, random)
    assert fm.advise(fit, "condition") == ()
    for contrasts in (None, "condition"):
        assert fm.contrast_tests(fit, contrasts).notes == ()


def unequal(obs, ratio=3.0):
    """Groups in which the variance of one cell type is larger than that of the others."""
    return groups_of(obs, residual=np.where(obs["cell_type"] == "T0", np.sqrt(ratio), 1.0))


class TestOneVariance:
    """Effects within cell types, with the variances of one model for all of them."""

    SAID = "'condition' is asked within levels of 'cell_type'.*one variance for all of them"
    DIFFERENCE = "cell_type[T1]:condition[T.stim] - cell_type[T0]:condition[T.stim]"

    @pytest.mark.parametrize("random", [["subject"], NESTED])
    @pytest.mark.parametrize("fixed", [WITHIN_TYPES, "~ cell_type * condition"])
    def test_is_said_once(self, fixed, random):
        fit = fit_groups(unequal(crossed(8, 2)), fixed, random)
        with pytest.warns(fm.FlashmmWarning, match=self.SAID) as said:
            table = fm.contrast_tests(fit, "condition")
        assert len(said) == 1 and len(table.notes) == 1
        assert "within='cell_type'" in table.notes[0] and "fit_within" in table.notes[0]
        assert "'0 + cell_type || subject'" in table.notes[0]

    def test_is_said_of_the_reference_type_in_treatment_coding(self):
        """The coefficient `condition` holds no cell type; cells of one type bear it."""
        fit = fit_groups(unequal(crossed(8, 2)), "~ cell_type * condition", NESTED)
        with pytest.warns(fm.FlashmmWarning, match=self.SAID):
            fm.advise(fit, "condition[T.stim]")

    @pytest.mark.parametrize("paired", [False, True])
    def test_is_said_of_differences_between_types(self, paired):
        random = [*NESTED, "subject:condition", "subject:cell_type:condition"]
        fit = fit_groups(
            unequal(crossed(8, 2, paired=paired)), WITHIN_TYPES, random if paired else NESTED
        )
        with pytest.warns(fm.FlashmmWarning, match="'cell_type'.*one variance"):
            fm.advise(fit, self.DIFFERENCE)

    def test_is_not_said_of_types_with_variances_of_their_own(self):
        fit = fit_groups(unequal(crossed(8, 2)), WITHIN_TYPES, OWN_VARIANCES)
        for contrasts in ("condition", self.DIFFERENCE):
            assert fm.advise(fit, contrasts) == ()

    def test_is_not_said_of_one_model_for_each_type(self):
        fits = fm.fit_within(
            unequal(crossed(8, 2)),
            "cell_type",
            "~ condition",
            ["subject"],
            size_factors=None,
            min_counts=None,
        )
        table = fm.contrast_tests(fits, "condition", ddf="kenward-roger-2")
        assert table.notes == ()

    @pytest.mark.parametrize("ratio", [1.0, 2.2])
    def test_is_said_where_the_cells_show_that_variances_differ(self, ratio):
        fit = fit_groups(unequal(crossed(8, 2), ratio), WITHIN_TYPES, NESTED)
        if ratio == 1:
            assert fm.advise(fit, "condition") == ()
            return
        with pytest.warns(fm.FlashmmWarning, match=f"{self.SAID}.*here 2.. times in the median"):
            fm.advise(fit, "condition")

    def test_is_said_where_no_random_term_tells_the_levels_apart(self):
        with pytest.warns(fm.FlashmmWarning, match=self.SAID):
            fm.advise(fit_groups(unequal(crossed(8, 2), 1.0), WITHIN_TYPES), "condition")

    def test_is_said_where_cells_are_too_few_to_say(self):
        few = groups_of(crossed(8, 2), cells=np.full(16, 5))
        with pytest.warns(fm.FlashmmWarning, match=f"{self.SAID}. Where variances differ.* do, it"):
            fm.advise(fit_groups(few, WITHIN_TYPES, NESTED), "condition")

    def test_is_not_said_of_slopes_in_time(self):
        obs = crossed(8).merge(pd.DataFrame({"time": [0, 1, 2, 3]}), how="cross")
        fit = fit_groups(groups_of(obs), "~ condition * time", ["1 + time || subject"])
        assert fm.advise(fit, "time") == ()

    def test_is_not_said_of_the_jackknife(self):
        fit = fit_groups(unequal(crossed(8, 2)), WITHIN_TYPES)
        assert fm.contrast_tests(fit, "condition", ddf="jackknife").notes == ()


CODINGS = {
    "text": ["a", "b"],
    "truth": [False, True],
    "numbers": [0, 1],
    "fractions": [0.0, 1.0],
    "doses": [1.5, 2.5],
}


class TestCellsAsReplicates:
    """A column that varies within subjects, whatever its values are called."""

    def groups(self, values=("a", "b"), m=6):
        obs = crossed(m, paired=True)
        named = dict(zip(("ctrl", "stim"), values, strict=True))
        return groups_of(obs.assign(x=obs["condition"].map(named)))

    @pytest.mark.parametrize("values", CODINGS.values(), ids=CODINGS)
    def test_is_said_of_any_values(self, values):
        fit = fit_groups(self.groups(values), "~ x")
        with pytest.warns(fm.FlashmmWarning, match="'x' varies within subjects.*'subject:x'"):
            assert len(fm.advise(fit, "x")) == 1

    @pytest.mark.parametrize(
        "random",
        [
            ["subject", "subject:x"],
            ["subject", "sample"],
            ["sample", "subject"],
            ["subject/sample"],
            ["1 + x || subject"],
        ],
    )
    @pytest.mark.parametrize("values", CODINGS.values(), ids=CODINGS)
    def test_is_not_said_where_a_random_term_holds_the_effect(self, values, random):
        obs = self.groups(values).obs[["subject", "x"]].reset_index(drop=True)
        obs["sample"] = obs["subject"].astype(str) + "_" + obs["x"].astype(str)
        fit = fit_groups(groups_of(obs), "~ x", random)
        assert fm.advise(fit, "x") == ()

    def test_time_as_a_number(self):
        obs = crossed(8).drop(columns="condition")
        obs = obs.merge(pd.DataFrame({"time": [0.0, 0.5, 1.5]}), how="cross")
        with pytest.warns(fm.FlashmmWarning, match="'time' varies within subjects"):
            assert len(fm.advise(fit_groups(groups_of(obs), "~ time"), "time")) == 1
        for random in (["subject", "subject:time"], ["1 + time || subject"]):
            assert fm.advise(fit_groups(groups_of(obs), "~ time", random), "time") == ()

    @pytest.mark.parametrize("random", [["lane", "subject"], ["subject", "lane"]])
    def test_crossed_lanes_are_no_replicates(self, random):
        obs = crossed(8).merge(pd.DataFrame({"lane": ["L1", "L2", "L3"]}), how="cross")
        assert fm.advise(fit_groups(groups_of(obs), "~ condition", random), "condition") == ()

    def test_terms_that_cross_hold_it_together_only(self):
        """In cells of one type subject:condition holds it, and subject:cell_type does not."""
        groups = groups_of(crossed(8, 2, paired=True))
        fit = fit_groups(groups, WITHIN_TYPES, NESTED)
        with pytest.warns(fm.FlashmmWarning) as said:
            fm.advise(fit, "condition")
        text = [str(w.message) for w in said if "cells as replicates" in str(w.message)]
        assert len(text) == 1 and "'subject:condition'" in text[0]


def test_a_column_with_one_level_is_not_asked_within():
    """One cell type in the formula: its effect is that of the condition."""
    fit = fit_groups(groups_of(crossed(6, paired=True)), "~ 0 + cell_type + cell_type:condition")
    with pytest.warns(fm.FlashmmWarning, match="'condition' varies.*cells as replicates"):
        assert len(fm.advise(fit, "condition")) == 1


class TestFewSubjects:
    def test_are_said_with_their_df(self):
        missing = {(i, 1) for i in range(3)}
        fit = fit_groups(groups_of(crossed(8, 2, missing=missing)), WITHIN_TYPES, OWN_VARIANCES)
        with pytest.warns(fm.FlashmmWarning, match="few subjects") as said:
            table = fm.contrast_tests(fit, "condition")
        assert len(said) == 1
        assert "cell_type[T1]:condition[T.stim]" in table.notes[0]
        assert "cell_type[T0]" not in table.notes[0]
        assert "3 degrees of freedom between subjects" in table.notes[0]

    @pytest.mark.parametrize("m, few", [(3, True), (4, True), (5, False)])
    @pytest.mark.parametrize("random", [["subject", "subject:condition"], ["condition || subject"]])
    def test_of_pairs_are_pairs_minus_one(self, m, few, random):
        """As many df as a t test of the differences of the pairs."""
        fit = fit_groups(groups_of(crossed(m, paired=True)), "~ condition", random)
        if not few:
            assert fm.advise(fit, "condition") == ()
            return
        with pytest.warns(fm.FlashmmWarning, match=rf"few subjects \({m - 1} degrees"):
            assert len(fm.advise(fit, "condition")) == 1


class TestNumbersAsSlopes:
    """Whole numbers that several subjects share: levels, or a slope?"""

    def advice(self, values, fixed="~ x", random=("subject",), m=12):
        obs = crossed(m).drop(columns=["condition", "cell_type"])
        obs["x"] = [values[i % len(values)] for i in range(m)]
        return fm.advise(fit_groups(groups_of(obs), fixed, random))

    @pytest.mark.parametrize("values", [[0, 1, 2], [1.0, 2.0, 3.0], [0, 2, 5, 6]])
    def test_are_asked_about(self, values):
        shown = ", ".join(f"{v:g}" for v in values)
        with pytest.warns(
            fm.FlashmmWarning, match=rf"'x' holds the numbers {shown} .* slope; write C\(x\)"
        ):
            assert len(self.advice(values)) == 1

    @pytest.mark.parametrize(
        "values", [[0, 1], [False, True], [0.5, 1.0, 2.0], list(range(30, 54, 2)), ["0", "1", "2"]]
    )
    def test_are_not_asked_about_where_it_makes_no_difference_or_no_sense(self, values):
        assert self.advice(values) == ()

    def test_are_not_asked_about_as_levels_or_scaled(self):
        assert self.advice([0, 1, 2], "~ C(x)") == ()
        assert self.advice([0, 1, 2], "~ scale(x)") == ()

    def test_are_not_asked_about_with_a_random_slope(self):
        obs = crossed(8).merge(pd.DataFrame({"time": [0, 1, 2]}), how="cross")
        assert fm.advise(fit_groups(groups_of(obs), "~ time", ["1 + time || subject"])) == ()

    def test_cell_types_as_codes_are_asked_about_in_products(self):
        obs = crossed(12, 3, arms=("a", "b", "c"))
        obs = obs.assign(**{c: pd.factorize(obs[c])[0] for c in ("cell_type", "condition")})
        fit = fit_groups(groups_of(obs), WITHIN_TYPES, NESTED)
        with pytest.warns(fm.FlashmmWarning) as said:
            table = fm.contrast_tests(fit, "condition")
        assert len(said) == len(table.notes)
        assert [text[:36] for text in table.notes if "is taken as a slope" in text] == [
            "'cell_type' holds the numbers 0, 1, ",
            "'condition' holds the numbers 0, 1, ",
        ]


def test_a_component_at_zero_in_most_genes():
    groups = groups_of(crossed(8, 3), genes=40, sd=(0.5, 0.0), cells=np.full(24, 40))
    fit = fit_groups(groups, WITHIN_TYPES, NESTED)
    share = (fit.theta[:, 1] == 0).mean()
    assert share < 0.8 and fm.advise(fit) == ()
    theta = fit.theta.copy()
    theta[4:, 1] = 0.0  # as if nine of ten genes had it there
    with pytest.warns(
        fm.FlashmmWarning, match=r"'subject:cell_type' \(\d+%\).*zero in most"
    ) as said:
        fm.advise(replace(fit, theta=theta))
    assert len(said) == 1 and "'subject' (" not in str(said[0].message)


class TestCollinearity:
    def groups(self, by_type):
        """Library sizes that follow the cell type, or do not."""
        spec = fm.SimulationSpec(n_genes=6, n_cells=600, n_subjects=8, n_cell_types=2)
        adata = fm.simulate_counts(spec, seed=1).adata
        kind = adata.obs["cell_type"].cat.codes.to_numpy()
        noise = np.random.default_rng(0).normal(size=len(kind))
        adata.obs["depth"] = 5.0 + by_type * kind + 0.1 * noise
        return fm.summarise(adata, by=["subject", "cell_type", "condition"], covariates=["depth"])

    def fit(self, by_type, fixed="~ 0 + depth + cell_type + cell_type:condition"):
        return fit_groups(self.groups(by_type), fixed, NESTED)

    def test_is_said_with_r_squared(self):
        fit = self.fit(2.0)
        with pytest.warns(fm.FlashmmWarning, match=r"'depth' is almost .* \(R² = 0\.99\)"):
            assert len(fm.advise(fit)) == 1

    def test_is_not_said_without(self):
        assert fm.advise(self.fit(0.0)) == ()

    def test_products_with_a_condition_are_left_alone(self):
        assert fm.advise(self.fit(0.0, "~ depth * condition + cell_type")) == ()


def test_matrices_have_no_subjects_to_advise_on():
    rng = np.random.default_rng(0)
    X = np.column_stack([np.ones(60), rng.normal(size=60)])
    Z = np.eye(6)[np.arange(60) % 6]
    stats = fm.summary_statistics_from_matrices(rng.normal(size=(60, 3)), X, Z, [6])
    fit = fm.fit_lmm(stats)
    assert fm.advise(fit, "x2") == ()
    with pytest.raises(fm.InputError, match="no groups"):
        fm.contrast_tests(fit, ddf="kenward-roger-floor")
