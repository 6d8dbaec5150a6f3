"""Degrees of freedom that allow for their own estimation: slope, level, intervals, engines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from flashmm.design.from_groups import summary_statistics
from flashmm.inference.testing import contrast_tests
from flashmm.kernels.ddf import FURTHEST, lowered_df, second_order_df
from flashmm.lmm import fit_lmm
from flashmm.options import InputError
from flashmm.simulate import SimulationSpec, simulate_gaussian_groups

pytestmark = pytest.mark.filterwarnings("ignore::flashmm.options.FlashmmWarning")

FORMULA = "~ 0 + cell_type + cell_type:condition"
NESTED = ["subject", "subject:cell_type"]
SUBJECTS, TYPES, CELLS = 8, 3, 20


def simulated(random, engine="auto", **changed):
    spec = dict(
        distribution="gaussian",
        n_genes=40,
        n_subjects=SUBJECTS,
        n_cell_types=TYPES,
        n_cells=SUBJECTS * TYPES * CELLS,
        n_de_genes=0,
        subject_variance=0.3,
        subject_cell_type_variance=0.15 if len(random) > 1 else 0.0,
        cells_cv=0,
    )
    groups = simulate_gaussian_groups(SimulationSpec(**{**spec, **changed}), 5).groups
    return fit_lmm(summary_statistics(groups, FORMULA, random), engine=engine)


def inverse_df(fit, z2):
    """1/df of every test at a level, from the intervals' df: 1/ν + loss (z² - 1)."""
    level = 2 * stats.norm.cdf(np.sqrt(z2)) - 1
    table = contrast_tests(fit, "condition", ddf="kenward-roger-2", level=level, lfc=1e-9)
    return 1 / table.df


def loss(fit):
    return (inverse_df(fit, 5.0) - inverse_df(fit, 2.0)) / 3.0


def test_balanced_subjects_in_closed_form():
    fit = simulated(["subject"])
    inside = fit.status == "ok"
    s1, s0 = fit.theta.T
    # v̂ ∝ s₁ + s₀/n, of which the mean square between subjects, on m - 2 df, makes up the part a
    a = (s1 + s0 / (CELLS * TYPES)) / (s1 + s0 / CELLS)
    n, m = SUBJECTS * TYPES * CELLS, SUBJECTS
    within = n - m - 2 * TYPES + 2
    inverse = a**2 / (m - 2) + (1 - a) ** 2 / within
    # d(1/ν)/dδ where the two mean squares change by what goes with δ
    slope = 2 * (a**3 / (m - 2) ** 2 + (1 - a) ** 3 / within**2) / inverse - 2 * inverse
    expected = inverse * np.maximum(slope, 0)
    assert inside.sum() > 30
    np.testing.assert_allclose(1 / contrast_tests(fit, "condition").df[inside, 0], inverse[inside])
    np.testing.assert_allclose(loss(fit)[inside, 1], expected[inside], rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize(("random", "cv"), [(["subject"], 1), (NESTED, 0), (NESTED, 1)])
def test_slope_is_that_of_the_df(random, cv):
    """The df themselves, at components a little further along the regression on the variance."""
    fit = simulated(random, cells_cv=cv)
    plain = contrast_tests(fit, {"c": "cell_type[type1]:condition[T.B]"})
    row = plain.contrasts[0].matrix
    (block,) = fit.test_blocks()
    assert (block.index == np.arange(fit.n_genes)).all()
    forms = block.variance_forms(row, row)
    W = np.linalg.inv(fit.fisher_information)
    v, g = forms.value[:, 0], forms.gradient[:, 0]
    Wg = np.einsum("gij,gj->gi", W, g)
    u = Wg * (v / (g * Wg).sum(1))[:, None]
    h = 1e-3
    sides = []
    for sign in (-1, 1):
        theta = fit.theta + sign * h * u
        moved = replace(fit, theta=theta, fisher_information=block.expected_information(theta))
        sides.append(1 / contrast_tests(moved, {"c": row.T}).df[:, 0])
    slope = (sides[1] - sides[0]) / (2 * h)
    expected = np.maximum(slope, 0) / plain.df[:, 0]
    inside = (fit.status == "ok") & (fit.theta > 0.02).all(1)
    assert inside.sum() >= 20
    found = loss(fit)[:, 0]
    np.testing.assert_allclose(found[inside], expected[inside], rtol=5e-3, atol=1e-6)


@pytest.mark.parametrize("random", [["subject"], NESTED])
def test_engines_agree(random):
    names = ("spectral", "eliminated", "dense") if len(random) == 1 else ("nested", "dense")
    tables = [
        contrast_tests(simulated(random, name, cells_cv=1), "condition", ddf="kenward-roger-2")
        for name in names
    ]
    for other in tables[1:]:
        np.testing.assert_allclose(other.df, tables[0].df, rtol=1e-5)
        np.testing.assert_allclose(other.p_value, tables[0].p_value, rtol=1e-5)


@pytest.mark.parametrize("level", [0.95, 0.99])
def test_intervals_belong_to_the_tests(level):
    fit = simulated(NESTED, n_genes=400)
    table = contrast_tests(fit, "condition", ddf="kenward-roger-2", level=level)
    without = (table.conf_low > 0) | (table.conf_high < 0)
    assert 0 < without.sum() < without.size
    np.testing.assert_array_equal(without, table.p_value < 1 - level)


def test_the_df_are_those_of_the_level_of_the_p_value():
    statistic = np.array([0.0, 1.0, 2.0, -2.5, 3.5, 5.0, 40.0])
    df, slope = np.full(7, 7.0), np.full(7, 0.004)
    found = second_order_df(statistic, df, slope)
    p = 2 * stats.t.sf(np.abs(statistic), found)
    z2 = np.clip(stats.norm.isf(p / 2) ** 2, 1, FURTHEST)
    np.testing.assert_allclose(found, 1 / (1 / df + slope * (z2 - 1)), rtol=1e-6)
    assert found[0] == found[1] == 7
    assert (np.diff(found) <= 0).all() and found[-1] == lowered_df(7.0, 0.004, 1e3)
    np.testing.assert_array_equal(second_order_df(statistic, df, 0 * slope), df)


def test_never_above_kenward_roger():
    fit = simulated(NESTED, cells_cv=1, n_genes=200)
    plain = contrast_tests(fit, "condition")
    lowered = contrast_tests(fit, "condition", ddf="kenward-roger-2")
    assert (lowered.df <= plain.df * (1 + 1e-12)).all()
    assert (lowered.df < 0.99 * plain.df).any()
    np.testing.assert_array_equal(lowered.std_error, plain.std_error)
    moderated = contrast_tests(fit, "condition", ddf="kenward-roger-2", moderate=True)
    assert np.isfinite(moderated.p_value).all()
    joint = {"any": [f"cell_type[type{i}]:condition[T.B]" for i in (1, 2)]}
    np.testing.assert_array_equal(
        contrast_tests(fit, joint, ddf="kenward-roger-2").p_value,
        contrast_tests(fit, joint).p_value,
    )


def test_a_scale_changes_nothing():
    fit = simulated(["subject"], cells_cv=1)
    groups = fit.stats.groups
    large = groups.with_sums(groups.genes, {"sum": 1e4 * groups.sum, "sumsq": 1e8 * groups.sumsq})
    again = fit_lmm(summary_statistics(large, FORMULA, ["subject"]))
    tables = [contrast_tests(f, "condition", ddf="kenward-roger-2") for f in (fit, again)]
    np.testing.assert_allclose(tables[0].df, tables[1].df, rtol=1e-6)


@pytest.mark.parametrize(("least", "most", "rtol"), [(3, 60, 1e-5), (0.5, 3, 1e-2)])
def test_the_fixed_point_is_found_in_a_few_steps(least, most, rtol):
    rng = np.random.default_rng(1)
    df = rng.uniform(least, most, 2000)
    t, lost = 2 * rng.standard_t(3, 2000), np.exp(rng.uniform(-12, -3, 2000)) / df
    low, high = np.ones(2000), np.full(2000, FURTHEST)
    for _ in range(60):  # the level of the p-value falls as the df do
        middle = (low + high) / 2
        z2 = stats.norm.isf(stats.t.sf(np.abs(t), lowered_df(df, lost, middle))) ** 2
        low, high = np.where(z2 > middle, middle, low), np.where(z2 > middle, high, middle)
    np.testing.assert_allclose(second_order_df(t, df, lost), lowered_df(df, lost, low), rtol=rtol)


def test_it_needs_reml():
    groups = simulated(["subject"]).stats.groups
    fit = fit_lmm(summary_statistics(groups, FORMULA, ["subject"]), method="ML")
    with pytest.raises(InputError, match="REML"):
        contrast_tests(fit, "condition", ddf="kenward-roger-2")
