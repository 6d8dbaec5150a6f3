"""Models with a covariance of random intercepts and slopes, from groups of cells to tests."""

from __future__ import annotations

import anndata as ad
import numpy as np
import oracle
import pandas as pd
import pytest
from scipy.stats import chi2

import flashmm as fm
from flashmm.design.derived import drop_component, leave_groups

GENES = 5
RANDOM = "(1 + time | subject)"


def cells(seed=0, subjects=8, per_group=3):
    """Subjects of two arms at times 0 to 3, cells of each, a gene without effects among others."""
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame(
        [(f"S{s}", "ab"[s % 2], t) for s in range(subjects) for t in range(4)],
        columns=["subject", "arm", "time"],
    )
    obs = obs.loc[obs.index.repeat(per_group)].reset_index(drop=True)
    code = obs["subject"].str[1:].astype(int).to_numpy()
    Y = rng.normal(size=(len(obs), GENES))
    first, second = rng.normal(size=(2, subjects, GENES))
    scale = np.arange(GENES) / 2
    Y += scale * (first[code] + obs["time"].to_numpy()[:, None] * (second - first)[code] / 2)
    return obs, Y


@pytest.fixture(scope="module")
def study():
    obs, Y = cells()
    adata = ad.AnnData(Y, obs=obs.set_index(obs.index.astype(str)))
    groups = fm.summarise(adata, list(obs), transform="none", progress=False)
    return obs, Y, fm.fit_lmm(fm.summary_statistics(groups, "~ time * arm", RANDOM))


def designs(obs):
    """X and the two blocks of Z of the cells."""
    arm, time = (obs["arm"] == "b").to_numpy(float), obs["time"].to_numpy(float)
    X = np.column_stack([np.ones(len(obs)), time, arm, time * arm])
    Z = pd.get_dummies(obs["subject"]).to_numpy(float)
    return X, Z, Z * time[:, None]


def test_components(study):
    _, _, fit = study
    names = ("subject", "subject|time", "cov(subject, subject|time)", "residual")
    assert fit.components == names
    assert fit.coefficients == ("Intercept", "time", "arm[T.b]", "time:arm[T.b]")
    assert set(fit.status) <= {"ok", "boundary"}
    assert "cov(subject, subject|time) (0 levels)" in repr(fit.stats.facts())


def test_kenward_roger_by_its_definition(study):
    obs, Y, fit = study
    X, first, second = designs(obs)
    # V is linear: σ²_1 - σ_12, σ²_2 - σ_12 and σ_12 are components of Z_1, Z_2 and Z_1 + Z_2
    blocks = [first, second, first + second]
    table = fm.contrast_tests(fit, {"slope": "time:arm[T.b]"}, ddf="kenward-roger")
    for g in np.flatnonzero(fit.status == "ok"):
        a, b, c, s0 = fit.theta[g]
        theta = np.array([a - c, b - c, c, s0])
        adjusted, Phi, slopes, W = oracle.kenward_roger(Y[:, g], X, blocks, theta)
        assert table.std_error[g, 0] == pytest.approx(np.sqrt(adjusted[3, 3]), rel=1e-7)
        gradient = np.array([slope[3, 3] for slope in slopes])
        df = 2 * Phi[3, 3] ** 2 / (gradient @ W @ gradient)
        assert table.df[g, 0] == pytest.approx(df, rel=1e-6)


def test_a_covariance_goes_with_its_terms(study):
    _, _, fit = study
    without = drop_component(fit.stats, "cov(subject, subject|time)")
    assert without.components == ("subject", "subject|time")
    independent = fm.fit_lmm(
        fm.summary_statistics(fit.stats.groups, "~ time * arm", "(1 + time || subject)")
    )
    np.testing.assert_allclose(fm.fit_lmm(without).loglik, independent.loglik, atol=1e-8)
    assert drop_component(fit.stats, "subject|time").components == ("subject",)
    with pytest.raises(fm.InputError, match="only random term"):
        drop_component(drop_component(fit.stats, "subject|time"), "subject")


def test_variances(study):
    _, _, fit = study
    table = fm.variance_tests(fit, tests=["lrt", "z"])
    intercepts = fm.fit_lmm(fm.summary_statistics(fit.stats.groups, "~ time * arm", "subject"))
    ratio = 2 * (fit.loglik - intercepts.loglik)
    np.testing.assert_allclose(table.lrt[:, 1], np.maximum(ratio, 0), atol=1e-6)
    # ½χ²₁ + ½χ²₂, and P(χ²₂ > x) = exp(-x/2)
    mixture = (chi2.sf(table.lrt[:, 1], 1) + np.exp(-table.lrt[:, 1] / 2)) / 2
    np.testing.assert_allclose(table.p_lrt[:, 1], mixture, rtol=1e-9)
    np.testing.assert_allclose(table.p_lrt[:, 2], chi2.sf(table.lrt[:, 2], 1), rtol=1e-9)
    assert (table.variance_wald[:, 2, 0] < 0).any() and (table.variance_wald[:, 0, 0] >= 0).all()
    frame = table.to_frame().set_index("component")
    assert frame.loc["cov(subject, subject|time)", "sd"].isna().all()
    np.testing.assert_allclose(table.share.sum(1), 1.0)
    with pytest.raises(fm.InputError, match="without covariances"):
        fm.variance_tests(fit, intervals="profile")


def test_parts_of_the_variance(study):
    obs, _, fit = study
    _, first, second = designs(obs)
    parts = fm.variance_explained(fit)
    centre = np.eye(len(obs)) - 1 / len(obs)
    for g, (a, b, c, _) in enumerate(fit.theta):
        V = a * first @ first.T + b * second @ second.T + c * (first @ second.T + second @ first.T)
        expected = np.trace(centre @ V) / (len(obs) - 1)
        assert parts.random[g].sum() == pytest.approx(expected, rel=1e-9, abs=1e-12)
        whole = parts.fixed_total[g] + np.trace(V) / len(obs) + fit.theta[g, -1]
        assert parts.r2_marginal[g] == pytest.approx(parts.fixed_total[g] / whole, rel=1e-9)


def test_without_a_subject(study):
    """Levels are left out of both terms together, also where only time 0 is left of a subject."""
    _, _, fit = study
    obs = fit.stats.groups.obs
    subject, time = obs["subject"].astype(str), obs["time"].to_numpy()
    left = (subject == "S0") | ((subject == "S1") & (time > 0))
    stats = leave_groups(fit.stats, left.to_numpy())
    assert stats.component_sizes == (7, 7, 0)
    table = fm.contrast_tests(fit, {"slope": "time:arm[T.b]"}, ddf="jackknife-refit")
    assert np.isfinite(table.p_value[fit.fitted]).all()


def test_what_is_refused(study):
    _, _, fit = study
    with pytest.raises(fm.InputError, match="has a covariance of random effects, 'cov"):
        fm.contrast_tests(fit, ddf="empirical-bayes")
    with pytest.raises(fm.InputError, match="orthogonal columns"):
        fm.fit_lmm(fit.stats, engine="eliminated")
    with pytest.raises(fm.InputError, match="fits one random component"):
        fm.fit_lmm(fit.stats, engine="spectral")
