"""Balanced designs, where the mixed model has textbook answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import flashmm as fm

SUBJECTS, CELLS = 10, 7


@pytest.fixture(scope="module")
def data():
    """Y (cells, genes) of ten subjects with seven cells each; subjects 5 to 9 are treated."""
    rng = np.random.default_rng(11)
    subject = np.repeat(np.arange(SUBJECTS), CELLS)
    between = rng.normal(size=(SUBJECTS, 8)) * 1.5
    return subject, (subject >= 5).astype(float), between[subject] + rng.normal(size=(70, 8))


def fit(subject, X, Y, **options):
    Z = np.eye(SUBJECTS)[subject]
    stats_ = fm.summary_statistics_from_matrices(Y, X, Z, component_sizes=[SUBJECTS])
    return fm.fit_lmm(stats_, **options)


def mean_squares(subject, Y):
    means = np.stack([Y[subject == s].mean(0) for s in range(SUBJECTS)])
    within = ((Y - means[subject]) ** 2).sum(0) / (len(Y) - SUBJECTS)
    return means, within


@pytest.mark.parametrize("engine", ["spectral", "dense"])
def test_one_way_analysis_of_variance(data, engine):
    subject, _, Y = data
    means, within = mean_squares(subject, Y)
    between = CELLS * means.var(0, ddof=1)
    one = np.ones((len(Y), 1))
    reml, ml = (fit(subject, one, Y, method=m, engine=engine) for m in ("REML", "ML"))
    np.testing.assert_allclose(reml.theta[:, 1], within, rtol=1e-10)
    np.testing.assert_allclose(reml.theta[:, 0], (between - within) / CELLS, rtol=1e-10)
    # ML: the mean square between subjects is divided by their number
    shrunk = (between * (SUBJECTS - 1) / SUBJECTS - within) / CELLS
    np.testing.assert_allclose(ml.theta[:, 0], shrunk, rtol=1e-10)
    np.testing.assert_allclose(reml.coef[:, 0], Y.mean(0), rtol=1e-12)
    np.testing.assert_allclose(reml.std_error[:, 0] ** 2, between / len(Y), rtol=1e-10)
    # BLUP: subject means shrunk towards the mean
    shrinkage = 1 - within / between
    expected = shrinkage[:, None] * (means - Y.mean(0)).T
    np.testing.assert_allclose(reml.blup(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("ddf", ["kenward-roger", "satterthwaite"])
def test_two_groups_of_subjects_are_the_t_test_of_their_means(data, ddf):
    subject, treated, Y = data
    means, _ = mean_squares(subject, Y)
    table = fm.contrast_tests(
        fit(subject, np.column_stack([np.ones(len(Y)), treated]), Y), {"t": "x2"}, ddf=ddf
    )
    expected = stats.ttest_ind(means[5:], means[:5])
    np.testing.assert_allclose(table.df[:, 0], SUBJECTS - 2, rtol=1e-8)
    np.testing.assert_allclose(table.statistic[:, 0], expected.statistic, rtol=1e-8)
    np.testing.assert_allclose(table.p_value[:, 0], expected.pvalue, rtol=1e-7)


def test_residual_degrees_of_freedom_are_anticonservative(data):
    subject, treated, Y = data
    model = fit(subject, np.column_stack([np.ones(len(Y)), treated]), Y)
    honest = fm.contrast_tests(model, {"t": "x2"}).p_value
    assert (fm.contrast_tests(model, {"t": "x2"}, ddf="residual").p_value < honest).all()


def test_effects_within_subjects_are_the_paired_analysis():
    """Both conditions in every subject, subject:condition random: the paired t test of means."""
    rng = np.random.default_rng(5)
    subject = np.repeat(np.arange(6), 10)
    treated = np.tile(np.repeat([0.0, 1.0], 5), 6)
    sample = (2 * subject + treated).astype(int)
    Y = rng.normal(size=(60, 5)) + (rng.normal(size=(6, 5)) * 2)[subject]
    Y += (rng.normal(size=(12, 5)) * 1.5)[sample]
    Z = np.hstack([np.eye(6)[subject], np.eye(12)[sample]])
    X = np.column_stack([np.ones(60), treated])
    model = fm.fit_lmm(fm.summary_statistics_from_matrices(Y, X, Z, component_sizes=[6, 12]))
    table = fm.contrast_tests(model, {"t": "x2"})
    means = np.stack([Y[sample == s].mean(0) for s in range(12)])
    expected = stats.ttest_rel(means[1::2], means[::2])
    inside = model.status == "ok"
    assert inside.sum() >= 3
    np.testing.assert_allclose(table.df[inside, 0], 5, rtol=1e-7)
    np.testing.assert_allclose(table.p_value[inside, 0], expected.pvalue[inside], rtol=1e-6)


def test_equals_ordinary_least_squares_where_subjects_do_not_differ(data):
    subject, treated, Y = data
    X = np.column_stack([np.ones(len(Y)), treated])
    within = Y - np.stack([Y[subject == s].mean(0) for s in range(SUBJECTS)])[subject]
    model = fit(subject, X, within + 0.3 * treated[:, None])
    assert (model.status == "boundary").all()
    ols = np.linalg.lstsq(X, within + 0.3 * treated[:, None], rcond=None)[0]
    np.testing.assert_allclose(model.coef, ols.T, rtol=1e-10, atol=1e-12)
