"""Parity with lme4 1.1-31, lmerTest 3.1-3 and pbkrtest 0.5.2.

On simulated data sets, and on those of lme4 where they are beside the project.
"""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from references import lme4_cases

import flashmm as fm

CASES = lme4_cases()
# covariate of the F test, in data sets that have one
COVARIATES = {
    "longitudinal": "day",
    "random_slope": "day",
    "correlated_singular": "day",
    "correlated_crossed": "day",
    "partially_crossed": "service",
    "sleepstudy": "Days",
    "insteval_part": "service1",
}
# the two factors, in data sets with an interaction
FACTORS = {"split_plot": ("treatment", "time"), "cake": ("recipe", "temperature")}


class Case:
    """One data set: its files, and our fit by the general matrices path."""

    def __init__(self, folder, method):
        self.folder, self.method = folder, method.lower()
        self.meta = json.loads((folder / "case.json").read_text())
        data, X = pd.read_csv(folder / "data.csv"), pd.read_csv(folder / "X.csv")
        self.varcomp = self.read("varcomp").set_index("group")["variance"]
        self.fixef = self.read("fixef").set_index("term")
        response = self.meta["formula"].split("~")[0].strip()
        self.groups = list(self.varcomp.index[:-1])
        blocks = [self.block(data, group) for group in self.groups]
        self.stats = fm.summary_statistics_from_matrices(
            data[[response]].to_numpy(float),
            X,
            np.hstack([block.to_numpy() for block in blocks]),
            component_sizes=[block.shape[1] for block in blocks],
            components=self.groups,
        )
        self.levels = np.concatenate(
            [
                [f"{group}|{level}" for level in block]
                for group, block in zip(self.groups, blocks, strict=True)
            ]
        )
        self.fit = fm.fit_lmm(self.stats, method=method)
        self.singular = self.meta[f"singular_{self.method}"]

    def block(self, data, group):
        """Columns of Z: indicators of the levels, times the covariate where it is a slope.

        A covariance, of the two groups before it, has none.
        """
        if group == "cov":
            return pd.DataFrame(index=data.index)
        slopes = self.meta.get("slopes") or {}
        factor, covariate = slopes.get(group, (group, None))
        indicators = pd.get_dummies(data[factor].astype(str), dtype=float)
        return indicators if covariate is None else indicators.mul(data[covariate], axis=0)

    def read(self, name):
        return pd.read_csv(self.folder / f"{name}_{self.method}.csv")


@pytest.fixture(
    scope="module", params=[(c, m) for c in CASES for m in ("REML", "ML")], ids="-".join
)
def case(request):
    name, method = request.param
    return Case(CASES[name], method)


def present(table):
    """Rows of a table by case, of the data sets that are there."""
    return [(name, value) for name, value in table.items() if name in CASES]


def test_log_likelihood(case):
    assert case.fit.loglik[0] == pytest.approx(float(case.meta[f"logLik_{case.method}"]), abs=1e-6)


def test_variance_components(case):
    expected = case.varcomp.to_numpy()
    np.testing.assert_allclose(case.fit.theta[0], expected, atol=1e-5 * expected.sum())
    assert case.fit.status[0] == ("boundary" if case.singular else "ok")


def test_fixed_effects(case):
    expected = case.fixef["estimate"].to_numpy()
    np.testing.assert_allclose(case.fit.coef[0], expected, atol=1e-6 * np.abs(expected).max())
    vcov = pd.read_csv(case.folder / f"vcov_{case.method}.csv").iloc[:, 1:].to_numpy()
    np.testing.assert_allclose(case.fit.cov[0], vcov, rtol=1e-5, atol=1e-5 * np.abs(vcov).max())


def test_satterthwaite(case):
    at_zero = case.singular and "cov" not in case.groups
    with pytest.warns(fm.FlashmmWarning) if at_zero else np.errstate():
        table = fm.contrast_tests(case.fit, ddf="satterthwaite")
    expected = case.fixef
    np.testing.assert_allclose(table.df[0], expected["df_satterthwaite"], rtol=1e-4)
    np.testing.assert_allclose(table.statistic[0], expected["t"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(table.p_value[0], expected["p_satterthwaite"], rtol=1e-3)


def test_kenward_roger(case):
    if case.method == "ml":
        with pytest.raises(fm.InputError, match="REML"):
            fm.contrast_tests(case.fit, ddf="kenward-roger")
        return
    table = fm.contrast_tests(case.fit)
    assert table.ddf == "kenward-roger"
    np.testing.assert_allclose(table.std_error[0], case.fixef["se_kenward_roger"], rtol=1e-5)
    np.testing.assert_allclose(table.df[0], case.fixef["df_kenward_roger"], rtol=1e-5)
    np.testing.assert_allclose(table.p_value[0], case.fixef["p_kenward_roger"], rtol=1e-4)


def test_blup(case):
    ranef = case.read("ranef")
    expected = pd.Series(
        ranef["blup"].to_numpy(), ranef["group"].astype(str) + "|" + ranef["level"].astype(str)
    )
    blup = pd.Series(case.fit.blup()[0], case.levels)
    scale = max(np.abs(expected).max(), np.sqrt(case.varcomp.iloc[-1]) * 1e-6)
    np.testing.assert_allclose(blup[expected.index], expected, atol=1e-5 * scale)


@pytest.mark.parametrize("ddf", ["satterthwaite", "kenward_roger"])
@pytest.mark.parametrize(("name", "covariate"), present(COVARIATES))
def test_joint_test_of_the_covariate(name, covariate, ddf):
    case = Case(CASES[name], "REML")
    expected = pd.read_csv(case.folder / f"anova_{ddf}_reml.csv").iloc[0]
    table = fm.contrast_tests(case.fit, {covariate: covariate}, ddf=ddf.replace("_", "-"))
    assert table.statistic[0, 0] ** 2 == pytest.approx(expected["F value"], rel=1e-5)
    assert table.df[0, 0] == pytest.approx(expected["DenDF"], rel=1e-4)


@pytest.mark.parametrize("ddf", ["satterthwaite", "kenward_roger"])
@pytest.mark.parametrize(("name", "factors"), present(FACTORS))
def test_type_three_tables(name, factors, ddf):
    """Type III: differences of equally weighted cell means, from treatment contrasts."""
    case = Case(CASES[name], "REML")
    expected = pd.read_csv(case.folder / f"anova_{ddf}_reml.csv").set_index("term")
    names = case.stats.coefficients
    # rows of X of each cell, in the order first × second factor
    data, X = pd.read_csv(case.folder / "data.csv"), pd.read_csv(case.folder / "X.csv")
    levels = [data[factor].nunique() for factor in factors]
    cells = X.groupby([data[factor] for factor in factors]).first().to_numpy()
    cells = cells.reshape(*levels, len(names))
    first, second = factors
    means = {first: cells.mean(1), second: cells.mean(0)}
    joint = {term: (m[1:] - m[0]).T for term, m in means.items()}
    inter = cells - cells[:1] - cells[:, :1] + cells[:1, :1]
    joint[f"{first}:{second}"] = inter[1:, 1:].reshape(-1, len(names)).T
    table = fm.contrast_tests(case.fit, joint, ddf=ddf.replace("_", "-"))
    np.testing.assert_allclose(table.df_num, expected["NumDF"])
    np.testing.assert_allclose(table.statistic[0], expected["F value"], rtol=1e-5)
    np.testing.assert_allclose(table.df[0], expected["DenDF"], rtol=1e-4)
    np.testing.assert_allclose(table.p_value[0], expected["Pr(>F)"], rtol=1e-3)
