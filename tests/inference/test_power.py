"""Power of planned studies: the kernels against integrals, predictions against simulations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

import flashmm as fm
from flashmm.inference.planned_design import cells_of_units
from flashmm.inference.power import level_of_rate
from flashmm.kernels.expected_log import expected_log1p, matching_dispersion, shift_of_fold_change
from flashmm.kernels.mixture_power import mixture_power
from flashmm.kernels.t_power import t_power

PAIRED = ["subject", "subject:condition"]


def study(n, seed, *, paired=False, genes=300, effect=0.0, cv=None, cells=30, changed=1.0):
    """Groups of Gaussian cells of n pairs, or n and n subjects."""
    spec = fm.SimulationSpec(
        distribution="gaussian",
        n_genes=genes,
        n_cells=2 * n * cells,
        n_subjects=n if paired else 2 * n,
        n_cell_types=1,
        nested=not paired,
        n_de_genes=round(changed * genes) if effect else 0,
        min_log_fc=effect,
        max_log_fc=effect or 1.0,
        subject_variance=0.05,
        subject_condition_variance=0.05 if paired else 0.0,
        cells_cv=cv,
    )
    return fm.simulate_gaussian_groups(spec, seed).groups


def fitted(groups, paired):
    random = PAIRED if paired else ["subject"]
    return fm.fit_lmm(fm.summary_statistics(groups, "~ condition", random))


@pytest.mark.parametrize(("mean", "dispersion"), [(0.01, 0.5), (0.7, 3.0), (40.0, 0.2), (5, 1e-6)])
def test_mean_logarithm_is_the_sum_over_counts(mean, dispersion):
    counts, size = np.arange(20_000), 1 / dispersion
    mass = stats.nbinom.pmf(counts, size, size / (size + mean))
    found = expected_log1p(np.array([mean]), np.array([dispersion]))
    np.testing.assert_allclose(found, mass @ np.log1p(counts), rtol=1e-8)


def test_dispersion_is_found_again():
    mean, dispersion = np.array([0.1, 1.0, 30.0]), np.array([2.0, 0.5, 0.1])
    found = matching_dispersion(mean, expected_log1p(mean, dispersion))
    np.testing.assert_allclose(found, dispersion, rtol=1e-6)
    # more than a Poisson count has: as good as Poisson
    assert matching_dispersion(mean, np.log1p(mean)).max() < 1e-3


def test_shift_of_a_fold_change_nears_its_logarithm_for_high_counts():
    mean = np.array([1e5])
    logs = expected_log1p(mean, np.array([0.1]))
    np.testing.assert_allclose(shift_of_fold_change(mean, logs, 1.0), np.log(2), rtol=1e-4)
    np.testing.assert_allclose(
        shift_of_fold_change(mean, logs, -1.0), -shift_of_fold_change(mean, logs, 1.0)
    )


@pytest.mark.parametrize("df", [2, 12])
def test_power_of_t_is_that_of_the_noncentral_t(df):
    lengths = np.array([0.0, -2.5])
    critical = stats.t.ppf(0.975, df)

    def slow(length):
        def accepted(s2):
            c = critical * np.sqrt(s2 / df)
            return (stats.norm.cdf(c - length) - stats.norm.cdf(-c - length)) * stats.chi2.pdf(
                s2, df
            )

        return 1 - integrate.quad(accepted, 0, np.inf)[0]

    np.testing.assert_allclose(t_power(lengths, df, 0.05), list(map(slow, lengths)), atol=2e-5)
    assert np.isnan(t_power(np.array([np.nan]), df, 0.05)).all()


def test_mixture_power_of_one_variance_is_that_of_a_normal_test():
    effect = np.array([0.0, 1.0, -2.5])
    one = mixture_power(effect, np.ones((3, 1)), np.ones(1), np.array([1.0]), 6, 0.05)
    z = stats.norm.ppf(0.975)
    expected = stats.norm.sf(z - np.abs(effect)) + stats.norm.cdf(-z - np.abs(effect))
    np.testing.assert_allclose(one, expected, atol=1e-3)


def test_mixture_power_is_that_of_simulated_tests():
    """Draw V, B and d, make the posterior of V, and reject where its p-value is below 0.05."""
    rng, df, n = np.random.default_rng(1), 5, 20_000
    prior, variance, effect = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.5, 1.5]), 1.3
    true = rng.choice(3, n, p=prior)
    B = variance[true] * rng.chisquare(df, n)
    d = effect + np.sqrt(variance[true]) * rng.standard_normal(n)
    likelihood = variance ** (-df / 2) * np.exp(-B[:, None] / (2 * variance))
    weights = prior * likelihood
    weights /= weights.sum(1, keepdims=True)
    p = (weights * 2 * stats.norm.sf(np.abs(d)[:, None] / np.sqrt(variance))).sum(1)
    found = mixture_power(np.array([effect]), prior[None], prior, variance, df, 0.05)
    assert abs(found[0] - (p < 0.05).mean()) < 0.012


@pytest.mark.parametrize("paired", [False, True], ids=["two arms", "pairs"])
def test_predicted_power_is_within_three_points_of_simulated(paired):
    """A pilot of six predicts a study of nine, with as many cells of each."""
    pilot = fitted(study(6, 1, paired=paired, genes=500, cv=0), paired)
    planned = fitted(study(9, 2, paired=paired, genes=2000, effect=0.32, cv=0), paired)
    for ddf in ("kenward-roger", "empirical-bayes"):
        table = fm.power(pilot, "condition", effect=0.32, subjects=9, cells=30, ddf=ddf)
        assert table.paired == paired and table.frame["df"].item() == (8 if paired else 16)
        found = fm.contrast_tests(planned, "condition", ddf=ddf).p_value
        assert abs(table.frame["power"].item() - (found < 0.05).mean()) < 0.03, ddf


@pytest.mark.parametrize("ddf", ["kenward-roger", "empirical-bayes"])
def test_lists_at_a_false_discovery_rate_hold_as_many_as_predicted(ddf):
    pilot = fitted(study(6, 1, genes=500, cv=0), False)
    asked = {"effect": 0.6, "subjects": 9, "cells": 30, "ddf": ddf}
    table = fm.power(pilot, "condition", fdr=0.05, changed=0.1, **asked)
    predicted, alpha = table.frame[["power", "alpha"]].iloc[0]
    # the level at which a list of these powers has that rate
    assert alpha == pytest.approx(0.05 * (0.9 * alpha + 0.1 * predicted), rel=0.02)
    again = fm.power(pilot, "condition", alpha=alpha, **asked)
    assert again.frame["power"].item() == pytest.approx(predicted)
    planned = study(9, 2, genes=3000, effect=0.6, cv=0, changed=0.1)
    found = fm.contrast_tests(fitted(planned, False), "condition", ddf=ddf)
    # the last tenth of the genes is changed
    share = (found.adj_p_value[-300:, 0] < 0.05).mean()
    assert abs(share - predicted) < 0.05
    assert "FDR 0.05" in repr(table)


def test_no_level_keeps_the_rate_where_nothing_is_found():
    levels = np.logspace(-7, -1.3, 20)
    assert level_of_rate(levels, levels, 0.05, 0.1) == pytest.approx(levels[0])
    assert level_of_rate(levels, np.ones(20), 0.05, 0.1) == pytest.approx(
        0.05 * 0.1 / (1 - 0.05 * 0.9), rel=1e-2
    )


def test_uneven_cells_cost_power_and_are_taken_from_the_pilot():
    even, uneven = (fitted(study(6, 1, cv=cv), False) for cv in (None, 1.0))
    asked = {"effect": 0.3, "subjects": 8, "cells": 12}
    powers = [fm.power(even, "condition", cells_cv=cv, **asked).frame["power"][0] for cv in (0, 1)]
    assert powers[1] < powers[0] - 0.02
    own = fm.power(uneven, "condition", **asked).frame["power"][0]
    assert own < fm.power(uneven, "condition", cells_cv=0, **asked).frame["power"][0]
    np.testing.assert_allclose(cells_of_units(7, 20.0, 0.6).mean(), 20.0)


@pytest.fixture(scope="module")
def counted():
    spec = fm.SimulationSpec(n_genes=60, n_cells=1600, n_subjects=8, n_cell_types=2)
    adata = fm.simulate_counts(spec, seed=1).adata
    formula = "~ log(libsize) + condition + (1|subject)"
    return fm.de(adata, formula, "condition", within="cell_type")


@pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning")
def test_power_of_a_table_grows_with_subjects_and_fold_changes(counted):
    found = fm.power(counted, subjects=(4, 8, 16), log2_fc=(0.5, 1.0))
    frame = found.to_frame()
    assert list(frame["cell_type"].unique()) == ["type1", "type2"] and not found.paired
    assert (frame["comparison"] == "B vs A").all() and found.ddf == "empirical-bayes"
    wide = frame.pivot(index=["cell_type", "log2_fc"], columns="subjects", values="power")
    assert (wide.diff(axis=1).iloc[:, 1:] > 0).all(axis=None)
    assert (wide.xs(1.0, level=1) > wide.xs(0.5, level=1)).all(axis=None)
    needed = found.needed(0.5)
    enough = frame[frame["power"] >= 0.5].groupby(["cell_type", "log2_fc"])["subjects"].min()
    known = needed.dropna().set_index(["cell_type", "log2_fc"])["subjects"]
    pd.testing.assert_series_equal(known, enough, check_dtype=False)
    assert "subjects per arm" in repr(found)


@pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning")
def test_what_cannot_be_answered_is_said(counted):
    with pytest.raises(fm.InputError, match="have one condition each"):
        fm.power(counted, paired=True)
    with pytest.raises(fm.InputError, match="subjects are whole numbers"):
        fm.power(counted, subjects=1)
    with pytest.raises(fm.InputError, match="alpha is a level"):
        fm.power(counted, alpha=5)
    with pytest.raises(fm.InputError, match="fdr is a rate"):
        fm.power(counted, fdr=5)
    fit = fitted(study(4, 1, genes=5), False)
    with pytest.raises(fm.InputError, match="effect="):
        fm.power(fit, "condition", log2_fc=1)
    with pytest.raises(fm.DesignError, match="no difference between two levels"):
        fm.power(fit, {"mean": {"Intercept": 1.0}}, effect=1)
    with pytest.raises(fm.InputError, match="say which difference"):
        fm.power(fit)
