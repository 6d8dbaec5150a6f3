"""Whether heritabilities that are known are found again: simulated traits, fitted and judged.

The reference is a dense optimiser: the restricted likelihood from error contrasts and Cholesky
factors, searched by scipy, without the eigenvectors that the package rotates by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy
from scipy.linalg import LinAlgError, cho_factor, cho_solve, qr

from flashmm.kinship.fit import KinshipFit, fit_kinship_lmm
from flashmm.kinship.rotation import rotate_by_kinship
from flashmm.kinship.simulation import KinshipSimulation, simulate_kinship_traits
from flashmm.options import InputError
from flashmm.subject_level.models import heritability_table

# p-value up to which the hypothesis of no heritability is rejected.
LEVEL = 0.05
SEARCH_TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class Recovery:
    """Estimates of known heritabilities.

    Attributes
    ----------
    estimates : DataFrame
        One row per trait: true_h2, h2 with standard error and interval, covered (the interval holds
        the truth), p_value of h² = 0, log-likelihood, status.
    summary : DataFrame
        One row per true heritability: means with their Monte Carlo standard errors, coverage,
        rejections, and the agreement with the dense optimiser.
    dense : DataFrame
        trait, true_h2, and heritability and log-likelihood of both, of the traits compared.
    profiles : DataFrame
        trait, h2, loglik of a few traits.
    notes : tuple of str
        What was decided for the user.
    """

    estimates: pd.DataFrame
    summary: pd.DataFrame
    dense: pd.DataFrame
    profiles: pd.DataFrame
    notes: tuple[str, ...]


def recover_heritability(
    n: int = 500,
    n_traits: int = 200,
    h2: Sequence[float] = (0.0, 0.3, 0.7, 1.0),
    *,
    n_markers: int = 1000,
    family_size: int = 5,
    n_dense: int = 10,
    seed: int = 0,
) -> Recovery:
    """Simulate traits of known heritability, fit them by REML and compare.

    Parameters
    ----------
    n, n_markers, family_size, seed
        As in `simulate_kinship_traits`.
    n_traits, n_dense : int
        Traits per heritability, and how many of them the dense optimiser fits too.
    h2 : sequence of float
        The heritabilities.

    Returns
    -------
    Recovery
        Tables of the estimates and of what they amount to.

    Raises
    ------
    InputError
        Numbers that are too small, or heritabilities outside [0, 1].
    """
    if min(n_traits, n_dense) < 1 or len(set(h2)) < len(h2):
        raise InputError(
            "n_traits and n_dense must be at least 1 and the heritabilities differ; found "
            f"{n_traits}, {n_dense} and {list(h2)}."
        )
    sim = simulate_kinship_traits(
        n, n_traits * len(h2), h2, n_markers, seed, family_size=family_size
    )
    fit = fit_kinship_lmm(rotate_by_kinship(sim.K, sim.Y, sim.X))
    estimates = heritability_table(fit)
    estimates.insert(1, "true_h2", sim.h2.to_numpy())
    inside = estimates["true_h2"].between(estimates["h2_lower"], estimates["h2_upper"])
    estimates.insert(6, "covered", inside)
    compared = np.arange(min(n_dense, n_traits) * len(h2))
    dense = _compared(fit, estimates, sim, compared)
    return Recovery(
        estimates,
        summarise_recovery(estimates, dense),
        dense,
        fit.profile_frame([str(name) for name in _shown(estimates)]),
        fit.notes,
    )


def _shown(estimates: pd.DataFrame, most: int = 6) -> list[str]:
    """Names of a few fitted traits, every heritability in its turn."""
    return list(estimates.loc[estimates["h2"].notna(), "trait"][:most])


def _compared(
    fit: KinshipFit, estimates: pd.DataFrame, sim: KinshipSimulation, traits: np.ndarray
) -> pd.DataFrame:
    """Ours beside the dense optimiser's."""
    K, Y, X = (table.to_numpy() for table in (sim.K, sim.Y, sim.X))
    h2, loglik = np.array([dense_heritability(K, Y[:, j], X) for j in traits]).T
    table = estimates.loc[traits, ["trait", "true_h2", "h2"]].reset_index(drop=True)
    return table.assign(
        dense_h2=h2,
        loglik=fit.loglik[traits],
        dense_loglik=loglik,
        gain=fit.loglik[traits] - loglik,
    )


def dense_heritability(K: np.ndarray, y: np.ndarray, X: np.ndarray) -> tuple[float, float]:
    """Heritability and REML log-likelihood of one trait by dense matrices.

    Parameters
    ----------
    K : (n, n) array
        Kinship.
    y : (n,) array
        The trait.
    X : (n, p) array
        Covariates of full rank.

    Returns
    -------
    h2, loglik : float
        The best of scipy's bounded search and both ends, all constants in the log-likelihood.
    """
    m = X.shape[0] - X.shape[1]
    Q, R = qr(X)
    A = Q[:, X.shape[1] :]
    K_A, y_A = A.T @ K @ A, A.T @ y
    constant = m * (np.log(2 * np.pi / m) + 1) + 2 * np.log(np.abs(np.diag(R))).sum()

    def deviance(h2: float) -> float:
        """-2 log L of A'y ~ N(0, σ²(h²A'KA + (1 - h²)I)), σ² at its best."""
        try:
            root = cho_factor(h2 * K_A + (1 - h2) * np.eye(m))
        except LinAlgError:  # a singular kinship at h² = 1: the density is zero there
            return np.inf
        quadratic = float(y_A @ cho_solve(root, y_A))
        return float(m * np.log(quadratic) + 2 * np.log(np.diag(root[0])).sum() + constant)

    inner = scipy.optimize.minimize_scalar(
        deviance, bounds=(0, 1), method="bounded", options={"xatol": SEARCH_TOLERANCE}
    )
    found = {float(inner.x): float(inner.fun), 0.0: deviance(0.0), 1.0: deviance(1.0)}
    best = min(found, key=lambda h2: found[h2])
    return best, -0.5 * found[best]


def summarise_recovery(estimates: pd.DataFrame, dense: pd.DataFrame) -> pd.DataFrame:
    """Sum up estimates per true heritability.

    Parameters
    ----------
    estimates, dense : DataFrame
        As in `Recovery`.

    Returns
    -------
    DataFrame
        true_h2, traits, fitted, mean, bias, bias_error (Monte Carlo standard error), sd,
        mean_std_error, rmse, at_zero, at_one, coverage and rejected with their errors, and of the
        dense optimiser: compared, h2_difference (largest), gain_min, gain_max (log-likelihood).
    """
    rows = []
    for true_h2 in sorted(estimates["true_h2"].unique()):
        part = estimates[estimates["true_h2"] == true_h2]
        fitted = part[part["h2"].notna()]
        error, k = fitted["h2"] - true_h2, len(fitted)
        covered, rejected = fitted["covered"].mean(), (fitted["p_value"] <= LEVEL).mean()
        pairs = dense[dense["true_h2"] == true_h2]
        rows.append(
            {
                "true_h2": true_h2,
                "traits": len(part),
                "fitted": k,
                "mean": fitted["h2"].mean(),
                "bias": error.mean(),
                "bias_error": error.std() / np.sqrt(k),
                "sd": error.std(),
                "mean_std_error": fitted["h2_std_error"].mean(),
                "rmse": np.sqrt((error**2).mean()),
                "at_zero": (fitted["h2"] == 0).mean(),
                "at_one": (fitted["h2"] == 1).mean(),
                "coverage": covered,
                "coverage_error": np.sqrt(covered * (1 - covered) / k),
                "rejected": rejected,
                "rejected_error": np.sqrt(rejected * (1 - rejected) / k),
                "compared": len(pairs),
                "h2_difference": (pairs["h2"] - pairs["dense_h2"]).abs().max(),
                "gain_min": pairs["gain"].min(),
                "gain_max": pairs["gain"].max(),
            }
        )
    return pd.DataFrame(rows)
