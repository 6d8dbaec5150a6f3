"""contrast_tests: df between subjects, intervals, minimum effects, moderated variances."""

from __future__ import annotations

import numpy as np
import pytest
from group_designs import crossed, fit_groups, groups_of
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as distributions

import flashmm as fm

NESTED = ("subject", "subject:cell_type")
WITHIN_TYPES = "~ 0 + cell_type + cell_type:condition"
UNEQUAL = np.array([900, 12, 300, 40, 8, 1500, 60, 25, 10, 700, 30, 110])


@pytest.fixture(scope="module")
def unequal():
    """Twelve subjects of very unequal cells, where plain Kenward-Roger falls below m - 2."""
    return fit_groups(groups_of(crossed(12), genes=40, sd=(0.1, 0.0), cells=UNEQUAL), "~ condition")


@pytest.fixture(scope="module")
def nested():
    return fit_groups(groups_of(crossed(8, 3), genes=30, sd=(0.4, 0.3)), WITHIN_TYPES, NESTED)


class TestBetweenSubjects:
    def test_floor_raises_what_is_lower_and_nothing_else(self, unequal):
        plain = fm.contrast_tests(unequal, "condition")
        floored = fm.contrast_tests(unequal, "condition", ddf="kenward-roger-floor")
        low = plain.df < 10
        assert low.any()
        np.testing.assert_array_equal(floored.df, np.where(low, 10.0, plain.df))
        for name in ("estimate", "std_error", "statistic"):
            np.testing.assert_array_equal(getattr(floored, name), getattr(plain, name))
        assert floored.between_df.tolist() == plain.between_df.tolist() == [10.0]

    def test_between_within(self, unequal):
        table = fm.contrast_tests(unequal, "condition", ddf="between-within")
        assert (table.df == 10).all()
        expected = 2 * distributions.t.sf(np.abs(table.statistic), 10)
        np.testing.assert_allclose(table.p_value, expected, rtol=1e-10)

    @pytest.mark.parametrize("ddf", ["kenward-roger-floor", "between-within"])
    def test_what_varies_within_subjects_stays_with_kenward_roger(self, nested, ddf):
        difference = {"d": "cell_type[T0]:condition[T.stim] - cell_type[T1]:condition[T.stim]"}
        plain = fm.contrast_tests(nested, difference)
        table = fm.contrast_tests(nested, difference, ddf=ddf)
        assert np.isnan(table.between_df).all()
        np.testing.assert_array_equal(table.df, plain.df)
        np.testing.assert_array_equal(table.p_value, plain.p_value)

    def test_joint_tests(self):
        obs, cells = crossed(12, arms=("a", "b", "c")), UNEQUAL
        fit = fit_groups(groups_of(obs, genes=40, sd=(0.1, 0.0), cells=cells), "~ condition")
        joint = {"any": "condition"}
        plain, floored, between = (
            fm.contrast_tests(fit, joint, ddf=ddf)
            for ddf in ("kenward-roger", "kenward-roger-floor", "between-within")
        )
        kept = plain.df >= 9
        assert (~kept).any()
        np.testing.assert_array_equal(floored.df, np.where(kept, plain.df, 9.0))
        np.testing.assert_array_equal(floored.statistic[kept], plain.statistic[kept])
        assert (between.df == 9).all()
        # F of one row is the squared t: the plain Wald F with the adjusted covariance
        twice = {"c": ["condition[T.b]", "2*condition[T.b]"]}
        single = fm.contrast_tests(fit, {"c": "condition[T.b]"}, ddf="between-within")
        both = fm.contrast_tests(fit, twice, ddf="between-within")
        np.testing.assert_allclose(both.p_value, single.p_value, rtol=1e-9)
        pair = ["condition[T.b]", "condition[T.c]"]
        t = np.stack([fm.contrast_tests(fit, p).statistic[:, 0] for p in pair])
        assert (2 * between.statistic[:, 0] >= (t**2).max(0) * (1 - 1e-9)).all()

    def test_size_under_unequal_cells(self):
        """Plain Kenward-Roger is too conservative, the floor less so (10,000 null genes)."""
        cells = [100, 150, 70, 31, 55, 27, 108, 572, 53, 44, 165, 290]
        groups = groups_of(crossed(12), genes=10_000, seed=1, sd=(0.1, 0.0), cells=cells)
        fit = fit_groups(groups, "~ condition")
        plain = (fm.contrast_tests(fit, "condition").p_value < 0.05).mean()
        table = fm.contrast_tests(fit, "condition", ddf="kenward-roger-floor")
        floored = (table.p_value < 0.05).mean()
        error = np.sqrt(0.05 * 0.95 / 10_000)
        assert plain < 0.05 - 4 * error
        assert plain + 0.005 < floored < 0.05 + 3 * error

    def test_refused(self, unequal):
        ml = fit_groups(unequal.stats.groups, "~ condition", method="ML")
        for ddf in ("kenward-roger-floor", "between-within"):
            with pytest.raises(fm.InputError, match="REML"):
                fm.contrast_tests(ml, ddf=ddf)


class TestIntervals:
    @pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
    @pytest.mark.parametrize("ddf", ["kenward-roger", "residual"])
    def test_against_scipy(self, nested, level, ddf):
        table = fm.contrast_tests(nested, "condition", ddf=ddf, level=level)
        expected = distributions.t.interval(level, table.df, table.estimate, table.std_error)
        np.testing.assert_allclose(table.conf_low, expected[0], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(table.conf_high, expected[1], rtol=1e-9, atol=1e-12)
        assert table.level == level

    @pytest.mark.parametrize("alternative", ["two-sided", "less", "greater"])
    def test_an_interval_leaves_zero_out_where_p_is_small(self, unequal, alternative):
        table = fm.contrast_tests(unequal, alternative=alternative, level=0.7)
        outside = (table.conf_low > 0) | (table.conf_high < 0)
        np.testing.assert_array_equal(outside, table.p_value < 0.3)
        assert outside.any() and not outside.all()

    def test_frame_and_joint_tests(self, nested):
        table = fm.contrast_tests(
            nested, {"one": "cell_type[T0]:condition[T.stim]", "all": "condition"}
        )
        assert np.isnan(table.conf_low[:, 1]).all() and np.isfinite(table.conf_low[:, 0]).all()
        for names in ("flashmm", "pertpy"):
            assert {"conf_low", "conf_high"} <= set(table.to_frame(names, intervals=True))

    def test_no_fit_no_interval(self):
        groups = groups_of(crossed(6), genes=3)
        groups.sum[:, 1] = groups.sumsq[:, 1] = 0.0
        table = fm.contrast_tests(fit_groups(groups, "~ condition"))
        assert np.isnan(table.conf_low[1]).all() and np.isnan(table.conf_high[1]).all()

    @pytest.mark.parametrize("level", [0, 1, 95, np.nan, "95%", None, True])
    def test_levels(self, nested, level):
        with pytest.raises(fm.InputError, match="level"):
            fm.contrast_tests(nested, level=level)


class TestMinimumEffect:
    def test_against_scipy(self, nested):
        table = fm.contrast_tests(nested, "condition", lfc=0.2)
        plain = fm.contrast_tests(nested, "condition")
        b, s, d = np.abs(table.estimate), table.std_error, table.df
        expected = distributions.t.sf((b - 0.2) / s, d) + distributions.t.sf((b + 0.2) / s, d)
        np.testing.assert_allclose(table.p_value, expected, rtol=1e-9)
        assert (table.p_value >= plain.p_value).all()
        for name in ("estimate", "std_error", "df", "conf_low", "conf_high"):
            np.testing.assert_array_equal(getattr(table, name), getattr(plain, name))
        np.testing.assert_allclose(
            table.statistic, np.sign(table.estimate) * np.maximum(b - 0.2, 0) / s
        )
        assert table.lfc == 0.2

    @settings(max_examples=8, deadline=None)
    @given(minimum=st.floats(0, 2))
    def test_one_sided(self, nested, minimum):
        less, greater = (
            fm.contrast_tests(nested, lfc=minimum, alternative=a) for a in ("less", "greater")
        )
        b, s, d = less.estimate, less.std_error, less.df
        np.testing.assert_allclose(less.p_value, distributions.t.cdf((b + minimum) / s, d))
        np.testing.assert_allclose(greater.p_value, distributions.t.sf((b - minimum) / s, d))

    def test_refused(self, nested):
        for lfc in (-1, np.nan, np.inf, "0.1", None):
            with pytest.raises(fm.InputError, match="lfc"):
                fm.contrast_tests(nested, lfc=lfc)
        with pytest.raises(fm.InputError, match="moderate must be True or False; found 'yes'"):
            fm.contrast_tests(nested, moderate="yes")
        for option in ({"lfc": 1.0}, {"moderate": True}, {"alternative": "less"}):
            with pytest.raises(fm.InputError, match="Joint F tests"):
                fm.contrast_tests(nested, {"all": "condition"}, **option)


class TestModeration:
    def test_is_the_posterior_of_variance_and_df(self, nested):
        plain = fm.contrast_tests(nested, "condition")
        table = fm.contrast_tests(nested, "condition", moderate=True)
        d0, s0 = table.prior_df, table.prior_variance
        assert (d0 > 0).all() and np.isnan(plain.prior_df).all()
        weight = 1 / (1 + plain.df / d0)  # d₀/(d₀ + d), also where d₀ is infinite
        v = weight * s0 + (1 - weight) * plain.std_error**2
        np.testing.assert_allclose(table.std_error**2, v, rtol=1e-9)
        np.testing.assert_allclose(table.df, np.minimum(d0 + plain.df, plain.df.sum(0)), rtol=1e-9)
        np.testing.assert_allclose(table.statistic, table.estimate / table.std_error, rtol=1e-12)
        expected = 2 * distributions.t.sf(np.abs(table.statistic), table.df)
        np.testing.assert_allclose(table.p_value, expected, rtol=1e-9)
        half = distributions.t.ppf(0.975, table.df) * table.std_error
        np.testing.assert_allclose(table.conf_high, table.estimate + half, rtol=1e-9)

    def test_few_genes_are_left_as_they_are(self, nested):
        fit = fit_groups(groups_of(crossed(8), genes=9), "~ condition")
        with pytest.warns(fm.FlashmmWarning, match="Fewer than 10 genes"):
            table = fm.contrast_tests(fit, "condition", moderate=True)
        plain = fm.contrast_tests(fit, "condition")
        np.testing.assert_array_equal(table.p_value, plain.p_value)
        assert np.isnan(table.prior_df).all()

    @pytest.mark.parametrize("prior_df", [4.0, np.inf])
    def test_size_and_power_of_group_level_cells(self, prior_df):
        """3,000 null genes and 3,000 with an effect; subject variance differs between genes."""
        genes, rng = 6000, np.random.default_rng(3)
        spread = 1.0 if np.isinf(prior_df) else np.sqrt(prior_df / rng.chisquare(prior_df, genes))
        sd = 0.4 * np.broadcast_to(spread, genes)
        obs = crossed(8)
        stim = (obs["condition"] == "stim").to_numpy()
        effect = np.zeros((8, genes))
        effect[:, 3000:] = 2 * sd[3000:] * stim[:, None]
        groups = groups_of(obs, genes, seed=4, sd=(sd, 0.0), cells=np.full(8, 200), effect=effect)
        fit = fit_groups(groups, "~ condition")
        plain, moderated = (
            fm.contrast_tests(fit, "condition", moderate=m).p_value[:, 0] for m in (False, True)
        )
        error = np.sqrt(0.05 * 0.95 / 3000)
        assert abs((moderated[:3000] < 0.05).mean() - 0.05) < 4 * error
        assert (moderated[3000:] < 0.01).mean() > (plain[3000:] < 0.01).mean() + 0.05
