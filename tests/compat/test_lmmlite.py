"""lmmlite's functions give its stored numbers (lmmlite 0.2-2) by its own names."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from references import DATA

import flashmm as fm
from flashmm.compat.lmmlite import calcLL, eigen_rotation, fitLMM, getMLsoln

# lmmlite's optimiser stops where the likelihood is flat at rounding: 1e-5 in what it found
OPTIMISER = 1e-5


class Case:
    def __init__(self, folder):
        self.K, self.Y, self.X = (
            pd.read_csv(folder / f"{name}.csv", header=None).to_numpy() for name in "KYX"
        )
        self.fits = pd.read_csv(folder / "fits.csv", skipinitialspace=True)
        self.grid = pd.read_csv(folder / "loglik_grid.csv", skipinitialspace=True)
        self.rotated = eigen_rotation(self.K, self.Y, self.X)

    def arguments(self, phenotype=None):
        e = self.rotated
        return e.Kva, e.y if phenotype is None else e.y[:, phenotype - 1], e.X


@pytest.fixture(scope="module")
def case():
    return Case(DATA / "lmmlite")


def test_rotation_turns_back(case):
    e = case.rotated
    assert (np.diff(e.Kva) >= 0).all()
    np.testing.assert_allclose(e.Kve_t.T @ e.y, case.Y, atol=1e-12)
    np.testing.assert_allclose(e.Kve_t.T @ e["X"], case.X, atol=1e-12)
    np.testing.assert_allclose((e["Kve.t"].T * e.Kva) @ e.Kve_t, case.K, atol=1e-12)


def test_log_likelihood_on_the_grid(case):
    for (phenotype, reml), rows in case.grid.groupby(["phenotype", "reml"]):
        values = calcLL(rows.hsq.to_numpy(), *case.arguments(phenotype), reml)
        np.testing.assert_allclose(values, rows.loglik, rtol=1e-8)


def test_one_heritability_is_a_number_and_many_phenotypes_a_matrix(case):
    row = case.grid.iloc[0]
    value = calcLL(row.hsq, *case.arguments(row.phenotype), row.reml)
    assert isinstance(value, float) and value == pytest.approx(row.loglik, rel=1e-8)
    both = calcLL([0.2, 0.4], *case.arguments(), True)
    assert both.shape == (case.Y.shape[1], 2)
    alone = calcLL([0.2, 0.4], *case.arguments(3), True)
    np.testing.assert_allclose(both[2], alone, rtol=1e-12)


def test_solutions_on_the_grid(case):
    for row in case.grid.itertuples():
        soln = getMLsoln(row.hsq, *case.arguments(row.phenotype), row.reml)
        np.testing.assert_allclose(soln.beta, [row.beta1, row.beta2], rtol=1e-8)
        assert soln.sigmasq == pytest.approx(row.sigmasq, rel=1e-8)


@pytest.mark.parametrize("reml", [True, False])
def test_attributes_of_a_solution(case, reml):
    d, y, X = case.arguments(2)
    soln = getMLsoln(0.4, d, y, X, reml)
    S = 1 / (0.4 * d + 0.6)
    assert soln.rss == pytest.approx(S @ (y - X @ soln.beta) ** 2, rel=1e-10)
    assert ("logdetXSX" in soln) == reml
    if reml:
        expected = np.linalg.slogdet((X.T * S) @ X)[1]
        assert soln.logdetXSX == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("reml", [True, False])
def test_fits(case, reml):
    """Phenotype 5 has its maximum at heritability 1 (REML), or none (ML)."""
    rows = case.fits[(case.fits.reml == reml) & (case.fits.phenotype != 5)]
    for row in rows.itertuples():
        d, y, X = case.arguments(row.phenotype)
        if reml:
            fit = fitLMM(d, y, X, reml)
        else:
            with pytest.warns(fm.FlashmmWarning, match="rises without bound"):
                fit = fitLMM(d, y, X, reml)
        assert fit.loglik == pytest.approx(row.loglik, rel=1e-8)
        assert fit.loglik >= row.loglik - 1e-9
        np.testing.assert_allclose(fit.beta, [row.beta1, row.beta2], rtol=OPTIMISER)
        for name in ("sigmasq", "hsq", "sigmasq_g", "sigmasq_e"):
            expected = getattr(row, name)
            assert fit[name] == pytest.approx(expected, rel=OPTIMISER, abs=1e-12), name
        at_boundary = row.hsq in (0, 1)
        if at_boundary:
            assert fit.hsq == row.hsq


def test_maximum_at_heritability_one(case):
    """At lmmlite's h² = .99994 its own formula is 1.6e-4 below the value it stored, and rises."""
    row = case.fits[(case.fits.reml) & (case.fits.phenotype == 5)].iloc[0]
    arguments = case.arguments(5)
    fit = fitLMM(*arguments)
    assert fit.hsq == 1.0 and fit.sigmasq_e == 0.0
    assert (
        fit.loglik > calcLL(row.hsq, *arguments)
        and (fit.loglik > calcLL(np.linspace(0, 1 - 1e-7, 200), *arguments)).all()
    )
    assert fit.loglik == pytest.approx(row.loglik, rel=2e-6)
    assert fit.sigmasq == pytest.approx(row.sigmasq, rel=1e-4)
    np.testing.assert_allclose(fit.beta, [row.beta1, row.beta2], rtol=1e-4)


def test_likelihood_without_bound_is_said(case):
    with pytest.warns(fm.FlashmmWarning, match="1 have none"):
        fit = fitLMM(*case.arguments(5), reml=False)
    assert np.isnan(fit.hsq) and np.isnan(fit.loglik)
    assert calcLL(1.0, *case.arguments(5), reml=False) == np.inf


def test_standard_errors_change_nothing_else(case):
    plain, more = fitLMM(*case.arguments()), fitLMM(*case.arguments(), compute_se=True)
    for name, values in plain.items():
        np.testing.assert_array_equal(more[name], values)
    assert more.beta_se.shape == more.beta.shape == (2, 6)


def test_names_are_matched_and_kept(case):
    ids = [f"i{k}" for k in range(len(case.K))]
    K = pd.DataFrame(case.K, ids, ids)
    y = pd.DataFrame(case.Y[:, :1], ids, ["weight"])
    X = pd.DataFrame(case.X, ids, ["one", "sex"]).iloc[::-1]
    e = eigen_rotation(K, y, X)
    assert list(e.X.columns) == ["one", "sex"]
    fit = fitLMM(e.Kva, e.y, e.X)
    assert fit.hsq == pytest.approx(fitLMM(*case.arguments(1)).hsq, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d, y, X: fitLMM(d, y[:-1], X), "y has 79 rows and Kva 80"),
        (lambda d, y, X: fitLMM(d, y, None), "X is needed"),
        (lambda d, y, X: fitLMM(-d - 1, y, X), "not negative"),
        (lambda d, y, X: fitLMM(d, np.where(y > 0, np.nan, y), X), "rotate_by_kinship"),
        (lambda d, y, X: fitLMM(d, y, X, tol=0), "tol must be positive"),
        (lambda d, y, X: getMLsoln([0.1, 0.2], d, y, X), "hsq must be one number"),
        (lambda d, y, X: calcLL(1.2, d, y, X), "from 0 to 1"),
    ],
)
def test_what_cannot_be_used_is_said(case, call, message):
    with pytest.raises(fm.InputError, match=message):
        call(*case.arguments())
