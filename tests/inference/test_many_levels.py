"""Many levels against one reference, as guides of a screen, with batches as the random term."""

from __future__ import annotations

import tracemalloc

import anndata as ad
import numpy as np
import oracle
import pandas as pd
import pytest

import flashmm as fm

pytestmark = pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning")
GUIDES, BATCHES, GENES = 12, 5, 4


def screen(guides, batches, cells, genes, seed=0) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    guide = np.r_[np.repeat(np.arange(guides), 2), rng.integers(0, guides, cells - 2 * guides)]
    batch = np.r_[np.tile([0, 1], guides), rng.integers(0, batches, cells - 2 * guides)]
    obs = pd.DataFrame(
        {"guide": [f"guide{i:03d}" for i in guide], "batch": [f"batch{i}" for i in batch]},
        index=[f"cell{i}" for i in range(cells)],
    )
    shift = rng.normal(size=(batches, genes)) * np.linspace(0.0, 1.0, genes)
    return ad.AnnData(
        rng.normal(size=(cells, genes)) + shift[batch],
        obs=obs,
        var=pd.DataFrame(index=[f"gene{j}" for j in range(genes)]),
    )


def test_every_guide_has_the_test_of_the_joint_model():
    """Estimates, Kenward-Roger's variances and df from V of the cells."""
    adata = screen(GUIDES, BATCHES, 130, GENES)
    groups = fm.summarise(adata, ["guide", "batch"], transform="none")
    fit = fm.fit_lmm(fm.summary_statistics(groups, "~ guide", ["batch"]))
    table = fm.contrast_tests(fit, "guide", ddf="kenward-roger")
    X = np.eye(GUIDES)[pd.factorize(adata.obs["guide"], sort=True)[0]]
    X[:, 0] = 1.0
    Z = [np.eye(BATCHES)[pd.factorize(adata.obs["batch"], sort=True)[0]]]
    assert table.contrast_names == fit.coefficients[1:]
    for j, y in enumerate(np.asarray(adata.X).T):
        beta = oracle.gls(y, X, oracle.covariance(Z, fit.theta[j]))[0]
        adjusted, phi, slopes, W = oracle.kenward_roger(y, X, Z, fit.theta[j])
        spread = np.array([[s[i, i] for s in slopes] for i in range(1, GUIDES)])
        df = 2 * np.diag(phi)[1:] ** 2 / np.einsum("ik,kl,il->i", spread, W, spread)
        np.testing.assert_allclose(table.estimate[j], beta[1:], rtol=1e-7)
        np.testing.assert_allclose(table.std_error[j] ** 2, np.diag(adjusted)[1:], rtol=1e-7)
        np.testing.assert_allclose(table.df[j], df, rtol=1e-6)


def test_memory_does_not_grow_with_the_square_of_the_guides_times_the_groups():
    """The design that every group would have with every guide is never made."""
    guides = 120
    groups = fm.summarise(screen(guides, 8, 2_000, 2), ["guide", "batch"], transform="none")
    stats = fm.summary_statistics(groups, "~ guide", ["batch"])
    fit = fm.fit_lmm(stats)
    one_design = 8 * groups.n_groups * guides
    tracemalloc.start()
    try:
        table = fm.contrast_tests(fit, "guide")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(table.contrasts) == guides - 1
    assert peak < 15 * one_design
