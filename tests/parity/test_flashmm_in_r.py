"""Parity of the compatibility layer with FLASHMM 1.3.0 in R."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from references import DATA

import flashmm as fm
from flashmm.compat import flashmm_r as r

CASES = ["k1_reml", "k1_ml", "k1_theta0", "k1_gaussian", "k1_zero_gene", "k2_reml", "k2_ml"]
R_WARNS = {"k1_zero_gene"}
ROOT = DATA / "flashmm_r"


class Case:
    """Inputs and outputs of one call of lmmfit in R."""

    def __init__(self, name):
        self.folder = ROOT / name
        self.meta = json.loads((self.folder / "case.json").read_text())
        inputs = ROOT / (self.meta["inputs_from"] or name)
        gaussian = (inputs / "Y.csv").exists()
        Y = pd.read_csv(inputs / ("Y.csv" if gaussian else "counts.csv"), index_col=0)
        self.counts, self.Y = Y, Y if gaussian else np.log2(1 + Y)
        self.X = pd.read_csv(inputs / "X.csv", index_col=0)
        self.Z = pd.read_csv(inputs / "Z.csv", index_col=0)
        self.metadata = pd.read_csv(inputs / "metadata.csv", index_col=0, dtype={"cls": str})
        bad = set(self.meta["nonconverged_genes"]) | set(self.meta["na_genes"])
        self.genes = [g for g in self.Y.index if g not in bad]

    def options(self):
        keys = ("method", "theta0", "max_iter", "epsilon")
        return {k: self.meta[k] for k in keys} | {"d": self.meta["d"]}

    def table(self, name):
        return pd.read_csv(self.folder / f"{name}.csv", index_col=0)

    def stack(self, name):
        """Long table gene, row, columns -> (genes, rows, columns)."""
        long = pd.read_csv(self.folder / f"{name}.csv", index_col=[0, 1])
        return np.stack([long.loc[g].to_numpy(float) for g in self.genes])


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return Case(request.param)


@pytest.fixture(scope="module")
def fit(case):
    arguments = case.options() | {"output_FIM": True, "output_RE": True}
    if case.folder.name in R_WARNS:
        with pytest.warns(fm.FlashmmWarning, match="only zero"):
            return r.lmmfit(case.Y, case.X, case.Z, **arguments)
    return r.lmmfit(case.Y, case.X, case.Z, **arguments)


@pytest.mark.parametrize("name", ["coef", "theta", "se", "t"])
def test_tables(case, fit, name):
    expected = case.table(name)[case.genes]
    ours = fit[name][case.genes]
    assert list(ours.index) == list(expected.index)
    scale = np.abs(expected).max().to_numpy()
    np.testing.assert_allclose(ours / scale, expected / scale, atol=1e-6)


def test_p_values(case, fit):
    np.testing.assert_allclose(
        fit.p[case.genes], case.table("p")[case.genes], rtol=1e-4, atol=1e-12
    )


def test_log_likelihood_and_df(case, fit):
    expected = case.table("fit").loc[case.genes, "logLik"]
    np.testing.assert_allclose(fit.logLik[case.genes], expected, rtol=1e-6)
    assert fit.df == case.meta["df"]


def test_covariances_and_information(case, fit):
    index = [list(case.Y.index).index(g) for g in case.genes]
    for name, ours in (("cov", fit.cov), ("FIM_beta", fit.FIM_beta), ("FIM_theta", fit.FIM_theta)):
        expected = case.stack(name)
        scale = np.abs(expected).max((1, 2))[:, None, None]
        np.testing.assert_allclose(
            np.moveaxis(ours, -1, 0)[index] / scale, expected / scale, atol=1e-5, err_msg=name
        )
    np.testing.assert_allclose(
        fit["se.theta"][case.genes], case.table("se_theta")[case.genes], rtol=1e-4
    )


def test_random_effects(case, fit):
    expected = case.table("RE")[case.genes]
    assert list(fit.RE.index) == list(expected.index)
    scale = np.abs(expected).max().to_numpy()
    np.testing.assert_allclose(fit.RE[case.genes] / scale, expected / scale, atol=2e-5)


def test_scores_vanish(case, fit):
    scaled = fit.dlogL[case.genes] * fit.se_theta[case.genes]
    assert np.abs(scaled.to_numpy()).max() < 1e-6


def test_formula_interface_equals_matrices():
    case = Case("k2_reml")
    arguments = {"method": "REML"}
    by_formula = r.flashmm(
        case.counts,
        case.meta["fixed"],
        case.meta["random"],
        case.metadata,
        is_counts=True,
        **arguments,
    )
    by_matrix = r.lmmfit(case.Y, case.X, case.Z, case.meta["d"], **arguments)
    for name in ("coef", "theta", "p"):
        pd.testing.assert_frame_equal(
            by_formula[name][case.genes], by_matrix[name][case.genes], rtol=1e-7
        )


def test_summary_statistics():
    case = Case("k1_reml")
    for blocks in (None, 3):
        ss = r.sslmm(case.X, case.Y, case.Z, nBlocks=blocks)
        for name in ("XX", "XY", "ZX", "ZY", "ZZ"):
            expected = pd.read_csv(ROOT / "sslmm" / f"{name}.csv", index_col=0)
            pd.testing.assert_frame_equal(
                ss[name], expected, check_names=False, rtol=1e-12, check_dtype=False
            )
        norm = pd.read_csv(ROOT / "sslmm" / "Ynorm.csv", index_col=0)["Ynorm"]
        np.testing.assert_allclose(ss.Ynorm, norm, rtol=1e-12)
        assert ss.n == 400
    from_statistics = r.lmm(summary_stats=ss, d=8)
    from_cells = r.lmmfit(case.Y, case.X, case.Z, d=8)
    np.testing.assert_allclose(from_statistics.theta, from_cells.theta, rtol=1e-9)


@pytest.mark.parametrize("alternative", ["two.sided", "less", "greater"])
def test_lmmtest(alternative):
    case = Case("k1_reml")
    fit = r.lmmfit(case.Y, case.X, case.Z, d=8)
    contrast = pd.read_csv(ROOT / "lmmtest" / "contrast.csv", index_col=0)
    calls = {f"all_{alternative}": {}, f"contrast_{alternative}": {"contrast": contrast}}
    if alternative == "two.sided":
        calls |= {"index_2_5": {"index": [2, 5]}, "index_loglibsize": {"index": "log(libsize)"}}
    for name, arguments in calls.items():
        expected = pd.read_csv(ROOT / "lmmtest" / f"{name}.csv", index_col=0)
        ours = r.lmmtest(fit, alternative=alternative, **arguments)
        assert list(ours.columns) == list(expected.columns)
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-8)


def test_contrast_matrix():
    root = ROOT / "contrast_matrix"
    for example in json.loads((root / "case.json").read_text())["examples"]:
        texts, names = example["contrast"], example["contrast_names"]
        contrast = texts if names is None else dict(zip(names, texts, strict=True))
        if "file" in example:
            expected = pd.read_csv(root / example["file"], index_col=0)
            ours = r.contrast_matrix(contrast, example["model_names"])
            pd.testing.assert_frame_equal(
                ours, expected, check_names=False, check_dtype=False, rtol=1e-12
            )
        elif "'Q'" in example["error"] or "duplicated" in example["error"]:
            with pytest.raises(fm.FlashmmError):
                r.contrast_matrix(contrast, example["model_names"])
        else:  # names that R cannot parse are read here
            assert r.contrast_matrix(contrast, example["model_names"]).to_numpy().any()


def test_stopped_after_two_iterations():
    case = Case("k1_maxiter2")
    fit = r.lmmfit(case.Y, case.X, case.Z, **case.options())
    assert fit.coef.shape == case.table("coef").shape
    assert np.isfinite(fit.coef).all().all()
    assert (fit.niter <= 2).all()
    assert (fit.status == "not_converged").mean() > 0.5


class TestWhatStopsInR:
    """Inputs of the case `degenerate`, which end in an error or in noise there."""

    @pytest.fixture
    def inputs(self):
        case = Case("k1_reml")
        return case.Y.iloc[:3].copy(), case.X, case.Z

    def theta(self, fit, gene):
        return fit.theta[gene].to_numpy()

    def test_constant_gene_with_intercept(self, inputs):
        Y, X, Z = inputs
        expected = r.lmmfit(Y, X.assign(one=1.0).drop(columns="cls1"), Z, d=8)
        Y.loc["Gene002"] = 2.0
        fit = r.lmmfit(Y, X.assign(one=1.0).drop(columns="cls1"), Z, d=8)
        assert fit.status["Gene002"] == "perfect_fit"
        assert fit.coef.loc["one", "Gene002"] == pytest.approx(2.0)
        for gene in ("Gene001", "Gene003"):
            np.testing.assert_allclose(self.theta(fit, gene), self.theta(expected, gene), rtol=1e-9)

    def test_gene_in_the_span_of_the_design(self, inputs):
        Y, X, Z = inputs
        Y.loc["Gene002"] = X["cls1"] + 0.5 * X["log(libsize)"]
        fit = r.lmmfit(Y, X, Z, d=8)
        assert fit.status["Gene002"] == "perfect_fit"
        np.testing.assert_allclose(self.theta(fit, "Gene002"), 0.0)

    def test_without_the_covariance(self, inputs):
        fit = r.lmmfit(*inputs, d=8, output_cov=False)
        assert "cov" not in fit
        assert np.isfinite(fit.se).all().all()
        assert len(r.lmmtest(fit)) == 3
        with pytest.raises(fm.InputError, match="output_cov"):
            r.lmmtest(fit, contrast=np.eye(7)[:, :1])

    def test_duplicated_components_share_the_variance(self, inputs):
        Y, X, Z = inputs
        Z2 = pd.concat([Z, Z.add_prefix("again ")], axis=1)
        once, twice = r.lmmfit(Y, X, Z, d=8), r.lmmfit(Y, X, Z2, d=[8, 8])
        np.testing.assert_allclose(twice.theta.iloc[:2].sum(), once.theta.iloc[0], rtol=1e-6)
        np.testing.assert_allclose(twice.logLik, once.logLik, rtol=1e-9)

    def test_duplicated_column_of_X(self, inputs):
        Y, X, Z = inputs
        fit, expected = r.lmmfit(Y, X.assign(twin=X["cls1"]), Z, d=8), r.lmmfit(Y, X, Z, d=8)
        assert fit.coef.loc["twin"].isna().all()
        np.testing.assert_allclose(fit.theta, expected.theta, rtol=1e-8)

    def test_sparse_and_one_gene(self, inputs):
        from scipy import sparse

        Y, X, Z = inputs
        expected = r.lmmfit(Y, X, Z, d=8).theta.to_numpy()
        as_sparse = r.lmmfit(sparse.csr_matrix(Y.to_numpy()), X, Z, d=8)
        np.testing.assert_allclose(as_sparse.theta, expected, rtol=1e-9)
        one = r.lmmfit(Y.iloc[0].to_numpy(), X, Z, d=8)
        np.testing.assert_allclose(one.theta.iloc[:, 0], expected[:, 0], rtol=1e-9)

    def test_missing_values_and_wrong_d(self, inputs):
        Y, X, Z = inputs
        with pytest.raises(fm.InputError, match="8"):
            r.lmmfit(Y, X, Z, d=[5, 2])
        Y.iloc[1, 3] = np.nan
        with pytest.raises(fm.InputError, match=r"finite|NaN"):
            r.lmmfit(Y, X, Z, d=8)
