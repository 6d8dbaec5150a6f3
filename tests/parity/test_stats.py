"""Parity with lmer, lmerTest, pbkrtest and FLASHMM on simulated crossed, nested and single
designs."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from references import DATA

import flashmm as fm

RESPONSES = [f"y{i}" for i in range(1, 11)]


class Reference:
    """One design of ten responses."""

    def __init__(self, path):
        self.raw = json.loads(path.read_text())
        data = pd.DataFrame(self.raw["data"])
        kind, treated = data["celltype"].astype(str), (data["trt"] == "B").to_numpy(float)
        c2, c3 = (kind == "c2").to_numpy(float), (kind == "c3").to_numpy(float)
        X = np.column_stack(
            [np.ones(len(data)), data["x"], c2, c3, treated, c2 * treated, c3 * treated]
        )
        self.factors = [f for f in ("subject", "batch", "sample") if f in data]
        blocks = [pd.get_dummies(data[f].astype(str), dtype=float) for f in self.factors]
        self.stats = fm.summary_statistics_from_matrices(
            data[RESPONSES].to_numpy(float),
            pd.DataFrame(X, columns=self.raw["colnames_X"]),
            np.hstack([b.to_numpy() for b in blocks]),
            component_sizes=[b.shape[1] for b in blocks],
            components=self.factors,
        )
        self.fits = [self.raw["fits"][y] for y in RESPONSES]
        self.singular = np.array([f["singular"] for f in self.fits])

    def theta(self):
        keys = [f"{factor}.(Intercept)" for factor in self.factors] + ["Residual.resid"]
        return np.array([[fit["vcomp"][key] for key in keys] for fit in self.fits])

    def column(self, *path):
        values = self.fits
        for key in path:
            values = [v[key] for v in values]
        return np.array(values, dtype=float)


@pytest.fixture(scope="module", params=["crossed", "nested", "single"])
def reference(request):
    return Reference(DATA / "designs" / f"{request.param}.json")


@pytest.fixture(scope="module")
def reml(reference):
    return fm.fit_lmm(reference.stats)


@pytest.fixture(scope="module")
def ml(reference):
    return fm.fit_lmm(reference.stats, method="ML")


def test_likelihood_and_components(reference, reml, ml):
    np.testing.assert_allclose(reml.loglik, reference.column("reml_loglik"), atol=1e-6)
    np.testing.assert_allclose(ml.loglik, reference.column("ml_loglik"), atol=1e-6)
    theta = reference.theta()
    np.testing.assert_allclose(
        reml.theta / theta.sum(1)[:, None], theta / theta.sum(1)[:, None], atol=1e-5
    )
    assert ((reml.status == "boundary") == reference.singular).all()


def test_coefficients_and_covariance(reference, reml, ml):
    for fit, key in ((reml, "beta"), (ml, "ml_beta")):
        beta = reference.column(key)
        np.testing.assert_allclose(fit.coef, beta, atol=1e-6 * np.abs(beta).max())
    vcov = reference.column("vcov")
    scale = np.abs(vcov).max((1, 2))[:, None, None]
    np.testing.assert_allclose(reml.cov / scale, vcov / scale, atol=1e-5)
    np.testing.assert_allclose(ml.std_error, reference.column("ml_se"), rtol=1e-5)


def test_satterthwaite_coefficients(reference, reml, ml):
    expects = (
        pytest.warns(fm.FlashmmWarning)
        if reference.singular.any() and len(reference.factors) == 1
        else np.errstate()
    )
    with expects:
        table = fm.contrast_tests(reml, ddf="satterthwaite")
    np.testing.assert_allclose(table.df, reference.column("satt_df"), rtol=1e-4)
    np.testing.assert_allclose(table.statistic, reference.column("satt_t"), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(table.p_value, reference.column("satt_p"), rtol=1e-3, atol=1e-12)


@pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning")
def test_satterthwaite_of_ml_fits(reference, ml):
    table = fm.contrast_tests(ml)
    assert table.ddf == "satterthwaite"
    np.testing.assert_allclose(table.df, reference.column("ml_satt_df"), rtol=1e-4)


def test_kenward_roger_coefficients(reference, reml):
    table = fm.contrast_tests(reml)
    np.testing.assert_allclose(table.std_error, reference.column("kr_se"), rtol=1e-5)
    np.testing.assert_allclose(table.df, reference.column("kr_df"), rtol=1e-5)
    np.testing.assert_allclose(table.p_value, reference.column("kr_p"), rtol=1e-4)


@pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning")
@pytest.mark.parametrize(
    "ddf, key", [("satterthwaite", "contrast_satt"), ("kenward-roger", "contrast_kr")]
)
def test_single_contrast(reference, reml, ddf, key):
    contrast = np.array(reference.raw["contrast"], dtype=float)[:, None]
    table = fm.contrast_tests(reml, contrast, ddf=ddf)
    np.testing.assert_allclose(table.estimate[:, 0], reference.column(key, "Estimate"), atol=1e-5)
    np.testing.assert_allclose(
        table.std_error[:, 0], reference.column(key, "Std. Error"), rtol=1e-5
    )
    np.testing.assert_allclose(table.df[:, 0], reference.column(key, "df"), rtol=1e-4)


@pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning")
@pytest.mark.parametrize("ddf, key", [("satterthwaite", "F_satt"), ("kenward-roger", "F_kr")])
def test_joint_test(reference, reml, ddf, key):
    L = np.array(reference.raw["L"], dtype=float)
    table = fm.contrast_tests(reml, {"treatment": L.T}, ddf=ddf)
    assert table.df_num.tolist() == [3]
    tolerance = 1e-4 if ddf == "satterthwaite" else 1e-5
    np.testing.assert_allclose(table.statistic[:, 0], reference.column(key, "F"), rtol=tolerance)
    np.testing.assert_allclose(table.df[:, 0], reference.column(key, "ddf"), rtol=tolerance)
    np.testing.assert_allclose(table.p_value[:, 0], reference.column(key, "p"), rtol=10 * tolerance)


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_unbounded_fit_equals_flashmm(reference, method):
    theirs = reference.raw["flashmm_R_1_3_0"][method]
    ok = np.array(theirs["converged"])
    fit = fm.fit_lmm(reference.stats, method=method, nonnegative=False)
    theta, coef, se = (np.array(theirs[k], dtype=float).T for k in ("theta", "coef", "se"))
    loglik = np.array(theirs["logLik"], dtype=float)
    if method == "REML":  # FLASHMM leaves -log|X'X|/2 out
        loglik = loglik - 0.5 * np.linalg.slogdet(reference.stats.XtX)[1]
    assert (fit.status[ok] != "not_converged").all()
    np.testing.assert_allclose(fit.theta[ok], theta[ok], atol=1e-6 * np.abs(theta[ok]).max())
    np.testing.assert_allclose(fit.coef[ok], coef[ok], atol=1e-6 * np.abs(coef[ok]).max())
    np.testing.assert_allclose(fit.loglik[ok], loglik[ok], rtol=1e-6)
    definite = ok & (fit.status != "not_positive_definite")
    np.testing.assert_allclose(fit.std_error[definite], se[definite], rtol=1e-6)


def test_likelihood_ratios_of_the_components(reference, reml):
    """lmerTest's ranova, which reports the plain χ² on one degree of freedom."""
    table = fm.variance_tests(reml, tests="lrt")
    for k, factor in enumerate(reference.factors):
        rows = [np.atleast_1d(fit["ranova"]["term"]).tolist() for fit in reference.fits]
        place = [terms.index(f"(1 | {factor})") for terms in rows]
        expected = {
            name: np.array(
                [
                    np.atleast_1d(fit["ranova"][name])[j]
                    for fit, j in zip(reference.fits, place, strict=True)
                ],
                dtype=float,
            )
            for name in ("LRT", "p")
        }
        np.testing.assert_allclose(table.lrt[:, k], expected["LRT"], atol=1e-6)
        np.testing.assert_allclose(table.p_chi2[:, k], expected["p"], rtol=1e-4, atol=1e-300)


def test_profile_intervals_of_ml_fits(reference, ml):
    """lme4's confint, on the scale of standard deviations; it interpolates."""
    genes = [f"y{i}" for i in (1, 2, 3)]
    found = fm.variance_tests(ml, tests=[], intervals="profile", genes=["gene1", "gene2", "gene3"])
    levels = np.array(reference.stats.component_sizes)
    order = np.argsort(-levels, kind="stable")  # lme4: the factor with more levels first
    for g, gene in enumerate(genes):
        theirs = reference.raw["fits"][gene]["profile_ci_ml"]
        names = [f".sig{i + 1:02d}" for i in range(len(levels))] + [".sigma"]
        rows = [theirs["names"].index(name) for name in names]
        expected = np.column_stack([np.array(theirs[side])[rows] for side in ("lower", "upper")])
        ours = np.sqrt(found.variance_profile[g])[[*order, len(levels)]]
        np.testing.assert_allclose(ours, expected.astype(float), rtol=1e-3)
