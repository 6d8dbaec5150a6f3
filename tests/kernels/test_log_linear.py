"""Log-linear models of counts: against statsmodels and matrices, and what intervals cover."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats as distributions

from flashmm.kernels import log_linear
from flashmm.kernels.log_linear import GroupDesign

SLOPE = np.array([[0.0, 1.0]])


def two_sides(n_subjects, paired=False, rng=None):
    """Two groups per subject, one per condition; else one, the first half being controls."""
    n_groups = 2 * n_subjects if paired else n_subjects
    treated = np.repeat([0.0, 1.0], n_groups // 2)
    subject = np.tile(np.arange(n_subjects), 2) if paired else np.arange(n_subjects)
    rng = rng or np.random.default_rng(0)
    n_cells = rng.integers(20, 120, n_groups).astype(float)
    exposure = n_cells * rng.uniform(0.8, 1.25, n_groups)
    return GroupDesign(np.c_[np.ones(n_groups), treated], exposure, n_cells, subject)


def many_columns(rng):
    """Twelve groups of six subjects with a number and two factors."""
    X = np.c_[np.ones(12), rng.normal(size=12), np.tile([0, 1], 6), np.repeat([0, 1, 0], 4)]
    n_cells = rng.integers(5, 50, 12).astype(float)
    return GroupDesign(X, n_cells * 900.0, n_cells, np.repeat(np.arange(6), 2))


@pytest.mark.parametrize("overdispersion", [0.0, 0.3])
def test_coefficients_are_those_of_statsmodels(overdispersion):
    rng = np.random.default_rng(1)
    design = many_columns(rng)
    mean = design.exposure * np.exp(design.X @ rng.normal(-6, 0.4, (4, 8)))[:, 0, None].T
    y = rng.poisson(mean, (8, 12)) + 0.25
    fit = log_linear.fit_log_linear(y, design, np.full(12, overdispersion))
    assert fit.converged.all()
    family = sm.families.NegativeBinomial(alpha=overdispersion) if overdispersion else None
    for counts, coef in zip(y, fit.coef, strict=True):
        model = sm.GLM(
            counts,
            design.X,
            family=family or sm.families.Poisson(),
            offset=np.log(design.exposure),
        )
        np.testing.assert_allclose(coef, model.fit(tol=1e-12).params, rtol=1e-7, atol=1e-8)


def test_each_gene_is_fitted_alone():
    rng = np.random.default_rng(2)
    design = many_columns(rng)
    y = rng.poisson(20.0, (30, 12)) + 0.1
    phi = np.linspace(0.05, 0.4, 12)
    together = log_linear.fit_log_linear(y, design, phi)
    for gene in (0, 17, 29):
        alone = log_linear.fit_log_linear(y[[gene]], design, phi)
        np.testing.assert_allclose(alone.coef[0], together.coef[gene], rtol=1e-10, atol=1e-10)


def test_parts_of_few_genes_change_nothing(monkeypatch):
    rng = np.random.default_rng(3)
    design = two_sides(8)
    counts = rng.negative_binomial(3, 0.1, (8, 250))
    whole = log_linear.log_fold_changes(counts, design, SLOPE)
    monkeypatch.setattr(log_linear, "PART_ELEMENTS", 200)
    for one, other in zip(whole, log_linear.log_fold_changes(counts, design, SLOPE), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10)


def dense_variance(design, w, r, c):
    """Variance, ratio and df of a contrast from matrices of groups × groups, one gene."""
    M = np.linalg.inv(design.X.T @ (w[:, None] * design.X))
    p = w * (design.X @ M @ c)
    levels = np.unique(design.subject)
    rows = np.stack([np.where(design.subject == s, p, 0.0) for s in levels])
    working = np.diag(1 / w)
    residual = working - design.X @ M @ design.X.T
    factor = np.diag(rows @ working @ rows.T) / np.diag(rows @ residual @ rows.T)
    G = np.sqrt(np.outer(factor, factor)) * (rows @ residual @ rows.T)
    ratio = (factor * (rows @ r) ** 2).sum() / (c @ M @ c)
    return c @ M @ c, ratio, np.trace(G) ** 2 / np.trace(G @ G)


def test_variance_of_a_contrast_is_that_of_matrices():
    rng = np.random.default_rng(4)
    design = many_columns(rng)
    phi = np.full(12, 0.2)
    y = rng.poisson(30.0, (5, 12)) + 0.1
    fit = log_linear.fit_log_linear(y, design, phi)
    c = np.array([0.0, 0.0, 1.0, -0.5])
    values = log_linear._variances(y, design, phi, fit, c[None])
    for gene in range(5):
        mu = design.exposure * np.exp(design.X @ fit.coef[gene])
        expected = dense_variance(design, mu / (1 + 0.2 * mu), y[gene] / mu - 1, c)
        np.testing.assert_allclose([v[gene, 0] for v in values], expected, rtol=1e-9)


def test_balanced_sides_have_the_df_of_welch_and_its_standard_error():
    """With equal exposures and weights the standard error is that of two means of residuals."""
    rng = np.random.default_rng(5)
    design = two_sides(8)
    design = GroupDesign(design.X, np.full(8, 50.0), np.full(8, 50.0), design.subject)
    counts = rng.poisson(400, (8, 1))
    result = log_linear.log_fold_changes(counts, design, SLOPE, prior_count=1e-9, moderate=False)
    sides = counts[:4, 0], counts[4:, 0]
    assert result.estimate[0, 0] == pytest.approx(np.log(sides[1].mean() / sides[0].mean()))
    variance = sum((side / side.mean()).var(ddof=1) / 4 for side in sides)
    assert result.std_error[0, 0] == pytest.approx(np.sqrt(variance), rel=1e-6)
    assert result.df[0, 0] == pytest.approx(6.0, rel=0.02)


def test_overdispersion_of_cells_and_groups_is_found():
    rng = np.random.default_rng(6)
    n_cells = np.tile([8.0, 40.0, 200.0, 1000.0], 6)
    design = GroupDesign(np.ones((24, 1)), n_cells, n_cells, np.arange(24))
    per_cell, per_group = 2.0, 0.1
    size = 1 / (per_cell / n_cells + per_group)
    rate = rng.gamma(size, 1 / size, (1500, 24))
    counts = rng.poisson(5.0 * n_cells * rate)
    _, phi = log_linear._fit_stratum(counts + 0.01, design)
    np.testing.assert_allclose(phi, per_cell / n_cells + per_group, rtol=0.1)


def test_zeros_stay_finite_and_genes_without_counts_are_nan():
    rng = np.random.default_rng(7)
    design = two_sides(8)
    counts = rng.poisson(30.0, (8, 5))
    counts[:, 0] = 0
    counts[4:, 1] = 0
    result = log_linear.log_fold_changes(counts, design, SLOPE)
    assert all(np.isnan(field[0]).all() for field in result)
    assert all(np.isfinite(field[1:]).all() for field in result)
    assert result.estimate[1, 0] < -3


def test_prior_counts_leave_a_gene_without_counts_at_no_change():
    design = two_sides(8)
    y = log_linear.with_prior_counts(np.zeros((1, 8)), design.exposure, 0.125)
    assert y.mean() == pytest.approx(0.125)
    fit = log_linear.fit_log_linear(y, design, np.full(8, 0.1))
    assert fit.coef[0, 1] == pytest.approx(0.0, abs=1e-12)


def test_one_subject_on_a_side_gives_an_estimate_without_an_interval():
    rng = np.random.default_rng(8)
    n_cells = np.full(6, 30.0)
    X = np.c_[np.ones(6), np.array([0, 0, 0, 0, 0, 1.0])]
    design = GroupDesign(X, n_cells, n_cells, np.arange(6))
    result = log_linear.log_fold_changes(rng.poisson(50.0, (6, 30)), design, SLOPE)
    assert np.isfinite(result.estimate).all()
    assert np.isnan(result.std_error).all()
    assert np.isnan(result.df).all()


def simulated(rng, design, n_genes, subject_variance, size=1.0):
    """Counts of negative binomial cells with normal subject effects, and the true changes."""
    log_fc = rng.choice([-1.0, -0.5, 0.0, 0.5, 1.0], n_genes)
    rate = np.exp(rng.uniform(np.log(0.1), np.log(20), n_genes))
    subjects = rng.normal(0, np.sqrt(subject_variance), (design.subject.max() + 1, n_genes))
    counts = np.empty((len(design.X), n_genes))
    for i, (x, n) in enumerate(zip(design.X, design.n_cells.astype(int), strict=True)):
        depth = design.exposure[i] / n
        mean = depth * rate * np.exp(subjects[design.subject[i]] + log_fc * x[1])
        counts[i] = rng.negative_binomial(size * n, size / (size + mean))
    return counts, log_fc, rate


@pytest.mark.parametrize(
    "n_subjects, paired", [(12, False), (20, False), (6, True)], ids=["6v6", "10v10", "paired"]
)
def test_intervals_cover_and_changes_are_unbiased(n_subjects, paired):
    """Coverage 93 to 97 %, bias below a tenth, in thirds of expression."""
    rng = np.random.default_rng(9)
    design = two_sides(n_subjects, paired, rng)
    counts, log_fc, rate = simulated(rng, design, 6000, 0.1)
    result = log_linear.log_fold_changes(counts, design, SLOPE)
    estimate, std_error, df = (field[:, 0] for field in result)
    covered = np.abs(estimate - log_fc) <= distributions.t.ppf(0.975, df) * std_error
    for third in np.array_split(np.argsort(rate), 3):
        assert 0.93 < covered[third].mean() < 0.97
        for size in (0.5, 1.0):
            true = third[np.abs(log_fc[third]) == size]
            bias = ((estimate - log_fc) * np.sign(log_fc))[true].mean()
            assert abs(bias) < 0.1 * size


def test_uneven_groups_of_pairs_do_not_bring_subjects_into_the_difference():
    """Subjects with one large and one small group: weights level off, their effects cancel."""
    rng = np.random.default_rng(10)
    n_cells = np.r_[np.tile([20.0, 500.0], 5), np.tile([500.0, 20.0], 5)]
    X = np.c_[np.ones(20), np.repeat([0.0, 1.0], 10)]
    design = GroupDesign(X, n_cells, n_cells, np.tile(np.arange(10), 2))
    counts, log_fc, _ = simulated(rng, design, 1000, 0.3, size=5.0)
    result = log_linear.log_fold_changes(counts, design, SLOPE)
    poisson = log_linear.fit_log_linear(counts.T + 0.1, design, np.zeros(20))
    error = np.abs(result.estimate[:, 0] - log_fc)
    assert np.median(error) < 0.6 * np.median(np.abs(poisson.coef[:, 1] - log_fc))


def test_contrasts_are_fitted_on_the_groups_that_bear_them():
    rng = np.random.default_rng(11)
    one = two_sides(8, rng=rng)
    X = np.kron(np.eye(2), one.X)  # two cell types of the same subjects
    design = GroupDesign(X, *(np.tile(f, 2) for f in (one.exposure, one.n_cells, one.subject)))
    counts = rng.poisson(40.0, (16, 300))
    counts[8:] *= 3
    within = np.array([[0.0, 1, 0, 0], [0, 0, 0, 1]])
    across = np.array([[0.0, -1, 0, 1]])
    result = log_linear.log_fold_changes(counts, design, np.vstack([within, across]))
    alone = log_linear.log_fold_changes(counts[:8], one, SLOPE)
    for both, single in zip(result, alone, strict=True):
        np.testing.assert_allclose(both[:, :1], single, rtol=1e-10)
    together = log_linear.log_fold_changes(counts, design, across)
    for both, single in zip(result, together, strict=True):
        np.testing.assert_array_equal(both[:, 2:], single)
    assert design.bearing(across[0]).all()
    assert design.bearing(within[0]).tolist() == [True, True, False, False]
