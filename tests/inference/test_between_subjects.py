"""Degrees of freedom between subjects, against what the design says by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from group_designs import crossed, fit_groups, groups_of
from hypothesis import given, settings
from hypothesis import strategies as st

import flashmm as fm
from flashmm.design.contrasts import resolve_contrasts
from flashmm.inference.between_subjects import SubjectDesign, _echelon

NESTED = ("subject", "subject:cell_type")
WITHIN_TYPES = "~ 0 + cell_type + cell_type:condition"


def between(fit, contrasts):
    design = SubjectDesign.of(fit)
    resolved = resolve_contrasts(contrasts, fit.coefficients, fit.coefficient_columns)
    return [design.between_df(c.matrix) for c in resolved]


@pytest.mark.parametrize("m", [5, 8, 13])
def test_one_type_two_conditions(m):
    fit = fit_groups(groups_of(crossed(m)), "~ condition")
    assert between(fit, None) == [m - 2, m - 2]


def test_subjects_without_a_type_do_not_count_for_it():
    missing = {(0, 1), (3, 1), (2, 2)}
    fit = fit_groups(groups_of(crossed(10, 3, missing=missing)), WITHIN_TYPES, NESTED)
    assert between(fit, "condition") == [10 - 2, 8 - 2, 9 - 2]
    # the same effects in treatment coding
    fit = fit_groups(groups_of(crossed(10, 3, missing=missing)), "~ cell_type * condition", NESTED)
    effects = ["condition[T.stim]"]
    effects += [f"condition[T.stim] + cell_type[T.T{k}]:condition[T.stim]" for k in (1, 2)]
    assert between(fit, effects) == [10 - 2, 8 - 2, 9 - 2]


def test_a_covariate_that_types_share_adds_no_subjects_to_a_type():
    obs = crossed(10, 2, missing={(0, 1), (3, 1)})
    obs["age"] = 50.0 + obs["subject"].str[1:].astype(int) ** 2
    fit = fit_groups(groups_of(obs), f"{WITHIN_TYPES} + age", NESTED)
    assert between(fit, "cell_type[T1]:condition[T.stim]") == [8 - 3]


def test_additive_type_effects():
    obs = crossed(9, 3, missing={(1, 0), (4, 2)})
    fit = fit_groups(groups_of(obs), "~ cell_type + condition")
    assert between(fit, "condition") == [9 - 2]
    assert np.isnan(between(fit, "cell_type")).all()  # types differ within subjects


@pytest.mark.parametrize("seed", range(3))
def test_paired_conditions_vary_within_subjects(seed):
    obs = crossed(6, paired=True)
    fit = fit_groups(groups_of(obs, seed=seed), "~ condition")  # unequal cells: w do not sum to 0
    assert np.isnan(between(fit, "condition")).all()
    # also where only one subject has both
    fit = fit_groups(groups_of(obs.drop(index=[0, 3, 5, 6, 9])), "~ condition")
    assert np.isnan(between(fit, "condition")).all()


def test_differences_between_types_vary_within_subjects():
    fit = fit_groups(groups_of(crossed(8, 2)), WITHIN_TYPES, NESTED)
    a, b = (f"cell_type[T{k}]:condition[T.stim]" for k in (0, 1))
    assert np.isnan(between(fit, f"{a} - {b}")).all()
    assert between(fit, f"({a} + {b}) / 2") == [8 - 2]
    assert np.isnan(between(fit, {"both": [a, b]})).all()


def test_covariate_of_subjects():
    obs = crossed(9)
    # the fifth has the mean age: no weight in its own effect, and yet a subject
    obs["age"] = 40.0 + 5 * obs["subject"].str[1:].astype(int)
    fit = fit_groups(groups_of(obs), "~ condition + age")
    assert between(fit, ["condition", "age"]) == [9 - 3, 9 - 3]


def test_three_arms():
    fit = fit_groups(groups_of(crossed(12, arms=("a", "b", "c"))), "~ condition")
    pair = "condition[T.b] - condition[T.c]"
    assert between(fit, ["condition", pair]) == [12 - 3] * 3
    assert between(fit, {"any": "condition"}) == [12 - 3]


def test_no_subjects_left():
    obs = crossed(4)
    obs["x"], obs["z"] = [1.0, 2.0, 4.0, 3.0], [0.0, 1.0, 5.0, 7.0]
    groups = groups_of(pd.concat([obs, obs.assign(cell_type="T1")], ignore_index=True))
    fit = fit_groups(groups, "~ cell_type + condition + x + cell_type:z", ["subject:cell_type"])
    assert between(fit, "condition") == [0]
    with pytest.warns(fm.FlashmmWarning, match="confounded: none of 'S00', .* can be left out"):
        table = fm.contrast_tests(fit, "condition")
    assert np.isnan(table.p_value).all() and (table.status == "too_few_subjects").all()


def test_a_cell_level_covariate_is_neither_counted_nor_between():
    spec = fm.SimulationSpec(n_genes=4, n_cells=400, n_subjects=7, n_cell_types=2)
    adata = fm.simulate_counts(spec, seed=0).adata
    groups = fm.summarise(
        adata, by=["subject", "cell_type", "condition"], covariates=["log(libsize)"]
    )
    fixed = "~ 0 + scale(log(libsize)) + cell_type + cell_type:condition"
    fit = fit_groups(groups, fixed, NESTED)
    assert between(fit, "condition") == [5, 5]
    assert np.isnan(between(fit, "scale(log(libsize))")).all()


def test_a_covariate_that_is_constant_in_groups_counts():
    """A dose of subjects that was summed over cells is no cell-level covariate."""
    obs = crossed(9)
    groups = groups_of(obs)
    n, dose = groups.obs["n_cells"].to_numpy(), np.arange(9) ** 2 / 7.0
    moments = {"sum:dose": n * dose, "sum:dose*dose": n * dose**2}
    groups = replace(
        groups,
        obs=groups.obs.assign(**moments),
        covariates=("dose",),
        covariate_sums={"dose": dose[:, None] * groups.sum},
    )
    fit = fit_groups(groups, "~ condition + dose")
    assert between(fit, ["condition", "dose"]) == [9 - 3, 9 - 3]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), m=st.integers(4, 9), types=st.integers(2, 3))
def test_total_df_are_ranks_over_groups(seed, m, types):
    rng = np.random.default_rng(seed)
    obs = crossed(m, types).assign(age=lambda d: d["subject"].str[1:].astype(int) % 3 + 0.5)
    obs["z"] = rng.normal(size=len(obs))
    designs = ("~ condition + age", "~ 0 + condition + z", "~ subject", "~ z:condition + age")
    fit = fit_groups(groups_of(obs), designs[seed % 4], ["subject:cell_type"])
    X = fit.stats.design.fixed[0]
    S = pd.get_dummies(obs["subject"]).to_numpy(float)
    rank = np.linalg.matrix_rank
    assert SubjectDesign.of(fit).total_df == rank(np.hstack([X, S])) - rank(X)


@given(st.integers(0, 10**6), st.integers(1, 4))
def test_echelon_form_depends_on_the_span(seed, r):
    rng = np.random.default_rng(seed)
    rows = rng.integers(-2, 3, size=(r, 6)).astype(float)
    turn = rng.normal(size=(r + 1, r))
    if not rows.any():
        return
    one, other = _echelon(rows), _echelon(turn @ rows)
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert len(one) == np.linalg.matrix_rank(rows)


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    m=st.integers(7, 11),
    types=st.integers(1, 3),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_balanced_anova_and_invariance(seed, m, types, scale):
    """Equal to Kenward-Roger's df of a balanced design; order of groups and scale do not count."""
    obs = crossed(m, types).sample(frac=1.0, random_state=seed)
    obs["age"] = obs["subject"].map(lambda s: scale * ((int(s[1:]) * 7) % 11 + 1))
    groups = groups_of(obs, genes=3, seed=seed, cells=np.full(len(obs), 30), sd=(2.0, 0.0))
    fit = fit_groups(groups, "~ cell_type + condition + age" if types > 1 else "~ condition + age")
    assert between(fit, ["condition", "age"]) == [m - 3, m - 3]
    table = fm.contrast_tests(fit, {"c": "condition[T.stim]"}, ddf="kenward-roger-floor")
    inside = fit.theta[:, 0] > 0
    np.testing.assert_allclose(table.df[inside], m - 3, rtol=1e-6)
