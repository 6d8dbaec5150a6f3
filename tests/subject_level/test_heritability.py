"""Known heritabilities, recovered, and the dense optimiser that they are held against."""

from __future__ import annotations

import numpy as np
import oracle
import pandas as pd
import pytest

import flashmm as fm
from flashmm.options import InputError
from flashmm.subject_level.heritability import (
    dense_heritability,
    recover_heritability,
    summarise_recovery,
)


@pytest.fixture(scope="module")
def recovery():
    return recover_heritability(120, 8, (0.0, 0.5, 1.0), n_markers=300, n_dense=3, seed=2)


def test_the_dense_optimiser_maximises_the_likelihood_of_the_oracle():
    sim = fm.simulate_kinship_traits(40, 3, 0.5, n_markers=100, seed=3)
    K, X = sim.K.to_numpy() + 0.01 * np.eye(40), sim.X.to_numpy()
    grid = np.linspace(0, 1, 41)
    for y in sim.Y.to_numpy().T:
        h2, loglik = dense_heritability(K, y, X)
        V = h2 * K + (1 - h2) * np.eye(40)
        r = y - X @ oracle.gls(y, X, V)[0]
        sigma2 = r @ np.linalg.solve(V, r) / (40 - X.shape[1])
        assert loglik == pytest.approx(oracle.loglik(y, X, sigma2 * V, True), rel=1e-10)
        for other in grid:
            W = other * K + (1 - other) * np.eye(40)
            e = y - X @ oracle.gls(y, X, W)[0]
            scale = e @ np.linalg.solve(W, e) / (40 - X.shape[1])
            assert oracle.loglik(y, X, scale * W, True) <= loglik + 1e-9


def test_fits_agree_with_the_dense_optimiser(recovery):
    dense = recovery.dense
    assert dense["true_h2"].value_counts().to_dict() == {0.0: 3, 0.5: 3, 1.0: 3}
    assert dense["gain"].abs().max() < 1e-8
    np.testing.assert_allclose(dense["h2"], dense["dense_h2"], atol=1e-4)


def test_a_singular_kinship_has_no_density_at_one():
    K = np.ones((12, 12))
    y = np.random.default_rng(0).normal(size=12)
    X = np.linspace(-1, 1, 12)[:, None]
    h2, loglik = dense_heritability(K, y, X)
    assert h2 < 1 and np.isfinite(loglik)


def test_summary_by_hand():
    estimates = pd.DataFrame(
        {
            "true_h2": [0.5, 0.5, 0.5, 0.0],
            "h2": [0.4, 0.8, np.nan, 0.0],
            "h2_std_error": [0.1, 0.3, np.nan, 0.1],
            "covered": [True, False, False, True],
            "p_value": [0.01, 0.2, np.nan, 1.0],
        }
    )
    dense = pd.DataFrame(
        {"true_h2": [0.5, 0.5], "h2": [0.4, 0.8], "dense_h2": [0.41, 0.8], "gain": [1e-9, -2e-9]}
    )
    zero, half = summarise_recovery(estimates, dense).to_dict("records")
    assert (half["traits"], half["fitted"], half["compared"]) == (3, 2, 2)
    assert half["bias"] == pytest.approx(0.1)
    assert half["bias_error"] == pytest.approx(0.2)  # sd √.08 over √2
    assert half["mean_std_error"] == pytest.approx(0.2)
    assert half["rmse"] == pytest.approx(np.sqrt(0.05))
    assert (half["coverage"], half["rejected"]) == (0.5, 0.5)
    assert half["coverage_error"] == pytest.approx(np.sqrt(0.125))
    assert half["h2_difference"] == pytest.approx(0.01)
    assert (half["gain_min"], half["gain_max"]) == (-2e-9, 1e-9)
    assert (zero["at_zero"], zero["at_one"], zero["compared"]) == (1.0, 0.0, 0)


def test_estimates_lie_within_their_monte_carlo_error(recovery):
    assert recovery.estimates["h2"].notna().all()
    middle = recovery.summary.set_index("true_h2").loc[0.5]
    assert abs(middle["bias"]) < 4 * middle["bias_error"]
    assert set(recovery.profiles["trait"]) == set(recovery.estimates["trait"][:6])


def test_numbers_that_are_too_small():
    with pytest.raises(InputError, match="n_dense"):
        recover_heritability(20, 2, n_dense=0)
    with pytest.raises(InputError, match="differ"):
        recover_heritability(20, 2, (0.5, 0.5))
