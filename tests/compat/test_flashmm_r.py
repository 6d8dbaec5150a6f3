"""FLASHMM's interface on small data: names, orientation, options, and its own example."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import flashmm as fm
from flashmm.compat import flashmm_r as r


@pytest.fixture(scope="module")
def data():
    """Ten genes, 1,000 cells, two treatments, ten subjects (the example of FLASHMM's help)."""
    rng = np.random.default_rng(2024)
    Y = pd.DataFrame(rng.normal(size=(10, 1000)), index=[f"Gene{i + 1}" for i in range(10)])
    metadata = pd.DataFrame(
        {"trt": rng.choice(["A", "B"], 1000), "sam": rng.choice([f"S{i}" for i in range(10)], 1000)}
    )
    return Y, metadata


def dummies(metadata, column):
    return pd.get_dummies(metadata[column], dtype=float).add_prefix(column)


def test_three_ways_to_the_same_fit(data):
    Y, metadata = data
    X, Z = dummies(metadata, "trt"), dummies(metadata, "sam")
    fit1 = r.flashmm(Y, "~ 0 + trt", "~ 0 + sam", metadata)
    fit2 = r.lmmfit(Y, X, Z, d=10)
    ss = r.sslmm(X, Y, Z)
    fit3 = r.lmm(ss.XX, ss.XY, ss.ZX, ss.ZY, ss.ZZ, Ynorm=ss.Ynorm, n=ss.n, d=10)
    fit4 = r.lmm(summary_stats=ss, d=10)
    for other in (fit2, fit3, fit4):
        for name in ("coef", "theta", "se", "p"):
            pd.testing.assert_frame_equal(
                fit1[name], other[name], rtol=1e-9, check_index_type=False, check_column_type=False
            )
    assert list(fit1.coef.index) == ["trtA", "trtB"]
    assert list(fit1.theta.index) == ["var1", "var0"]
    assert fit1.df == 998
    assert fit1.cov.shape == (2, 2, 10)


def test_items_attributes_and_dots(data):
    Y, metadata = data
    fit = r.flashmm(
        Y, "~ trt", ["~ 0 + sam"], metadata, output_FIM=True, output_RE=True, output_SS=True
    )
    assert list(fit.coef.index) == ["(Intercept)", "trtB"]
    assert fit["se.theta"] is fit.se_theta is fit["se_theta"]
    assert fit["summary.data"].n == 1000
    assert list(fit.RE.index) == [f"samS{i}" for i in range(10)]
    assert fit.FIM_beta.shape == (2, 2, 10) and fit.FIM_theta.shape == (2, 2, 10)
    np.testing.assert_allclose(fit.FIM_beta[:, :, 3] @ fit.cov[:, :, 3], np.eye(2), atol=1e-9)
    with pytest.raises(AttributeError):
        _ = fit.nothing
    with pytest.raises(KeyError):
        _ = fit["nothing"]


def test_names_of_coefficients():
    assert r.r_name("Intercept") == "(Intercept)"
    assert r.r_name("cls[2]:trt[T.B]") == "cls2:trtB"
    assert r.r_name("log(libsize)") == "log(libsize)"


def test_counts_are_transformed(data):
    _, metadata = data
    counts = pd.DataFrame(np.random.default_rng(0).poisson(2.0, size=(4, 1000)))
    as_counts = r.flashmm(counts, "~ trt", "~ 0 + sam", metadata, is_counts=True)
    transformed = r.flashmm(np.log2(1 + counts), "~ trt", "~ 0 + sam", metadata)
    as_sparse = r.flashmm(
        sparse.csr_matrix(counts.to_numpy()), "~ trt", "~ 0 + sam", metadata, is_counts=True
    )
    np.testing.assert_allclose(as_counts.theta, transformed.theta, rtol=1e-12)
    np.testing.assert_allclose(as_sparse.theta, transformed.theta, rtol=1e-9)


def test_nblocks_changes_nothing(data):
    Y, metadata = data
    X, Z = dummies(metadata, "trt"), dummies(metadata, "sam")
    one, many = (r.sslmm(X, Y, Z, nBlocks=n) for n in (1, 7))
    for name in ("XX", "XY", "ZX", "ZY", "ZZ"):
        np.testing.assert_allclose(one[name], many[name], rtol=1e-12, atol=1e-10)


def test_verbose_says_how_many_did_not_converge(data, capsys):
    Y, metadata = data
    r.flashmm(Y, "~ trt", "~ 0 + sam", metadata, max_iter=1, verbose=True)
    assert "did not converge" in capsys.readouterr().out


def test_tests_by_index_name_and_contrast(data):
    Y, metadata = data
    fit = r.flashmm(Y, "~ 0 + trt", "~ 0 + sam", metadata)
    by_number, by_name = r.lmmtest(fit, index=2), r.lmmtest(fit, index="trtB")
    pd.testing.assert_frame_equal(by_number, by_name)
    contrast = r.contrast_matrix({"B-A": "trtB - trtA"}, fit.coef.index)
    table = r.lmmtest(fit, contrast=contrast)
    assert list(table.columns) == ["B-A_coef", "B-A_t", "B-A_p"]
    np.testing.assert_allclose(table["B-A_coef"], fit.coef.loc["trtB"] - fit.coef.loc["trtA"])
    bare = r.lmmtest(fit, contrast=np.array([-1, 1]))
    np.testing.assert_allclose(bare["L1_p"], table["B-A_p"])
    less, greater = (
        r.lmmtest(fit, contrast=contrast, alternative=a)["B-A_p"] for a in ("less", "greater")
    )
    np.testing.assert_allclose(less + greater, 1.0)


def test_bad_input(data):
    Y, metadata = data
    fit = r.flashmm(Y, "~ trt", "~ 0 + sam", metadata)
    X, Z = dummies(metadata, "trt"), dummies(metadata, "sam")
    ss = r.sslmm(X, Y, Z)
    for call, word in [
        (lambda: r.lmmtest(fit, index=3), "index 3"),
        (lambda: r.lmmtest(fit, index="trtC"), "trtC"),
        (lambda: r.lmmtest(fit, alternative="both"), "alternative"),
        (lambda: r.lmmtest(fit, contrast=np.ones(5)), "row per coefficient"),
        (lambda: r.lmmfit(Y, X, Z, d=10, method="MLE"), "method"),
        (lambda: r.lmm(summary_stats=ss), "d, the number"),
        (lambda: r.lmm(summary_stats=ss, d=[4, 4]), "sum to 8"),
        (lambda: r.lmm(XX=ss.XX, d=10), "missing"),
        (lambda: r.lmm(summary_stats=dict(ss) | {"XX": ss.XX.iloc[:, :1]}, d=10), "shape"),
        (lambda: r.lmm(summary_stats=dict(ss) | {"ZX": ss.ZX * np.nan}, d=10), "finite"),
        (lambda: r.contrast_matrix("A", ["A", "A"]), "unique"),
    ]:
        with pytest.raises(fm.InputError, match=word):
            call()


class TestSimulation:
    def test_without_a_reference(self):
        dat = r.simuRNAseq(nGenes=50, nCells=400, nsam=6, ncls=4, nDEgenes=6, seed=1)
        assert dat.counts.shape == (50, 400)
        assert list(dat.metadata.columns)[:3] and {"sam", "cls", "trt", "libsize"} <= set(
            dat.metadata
        )
        assert list(dat.DEgenes.columns) == ["gene", "beta", "cluster"]
        assert len(dat.DEgenes) == 6
        assert dat.treatment == dat.metadata["trt"].astype(str).max()
        assert (dat.metadata.groupby("sam", observed=True)["trt"].nunique() == 1).all()
        fit = r.flashmm(
            np.log1p(dat.counts), "~ 0 + log(libsize) + cls + cls:trt", "~ 0 + sam", dat.metadata
        )
        assert any(":" in name for name in fit.coef.index)

    def test_with_reference_and_metadata(self):
        first = r.simuRNAseq(nGenes=40, nCells=300, nsam=6, ncls=2, nDEgenes=2, seed=1)
        dat = r.simuRNAseq(
            first.counts,
            nGenes=20,
            nCells=200,
            metadata=first.metadata,
            direction="down",
            minbeta=-1.0,
            maxbeta=-0.5,
            nDEgenesType={str(first.metadata["cls"].iloc[0]): 3},
            adjust_library_size=False,
            seed=2,
        )
        assert dat.counts.shape == (20, 200)
        assert dat.DEgenes["beta"].between(-1.0, -0.5).all() and len(dat.DEgenes) == 3
        again = r.simuRNAseq(first.counts, nGenes=20, nCells=200, metadata=first.metadata, seed=2)
        assert list(again.metadata["sam"]) == list(dat.metadata["sam"])
