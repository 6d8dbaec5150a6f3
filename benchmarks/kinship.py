"""Seconds of the kinship model for many traits, and its ratio to a dense optimiser per trait.

    python benchmarks/kinship.py                       # 20,000 traits x 1,000 individuals
    python benchmarks/kinship.py --traits 2000 --individuals 300

The dense optimiser is what one would write with scipy: for every value of the heritability a
Cholesky factor of V, generalised least squares, and scipy's bounded scalar search.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize_scalar

import flashmm as fm


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """Result, wall seconds and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def dense_fit(K: np.ndarray, y: np.ndarray, X: np.ndarray) -> tuple[float, float]:
    """Heritability and REML log-likelihood of one trait by dense matrices."""
    n, p = X.shape

    def deviance(h2: float) -> float:
        V = cho_factor(h2 * K + (1 - h2) * np.eye(n))
        VX = cho_solve(V, X)
        XVX = X.T @ VX
        r = y - X @ np.linalg.solve(XVX, VX.T @ y)
        Q = r @ cho_solve(V, r)
        log_det = 2 * np.log(np.diag(V[0])).sum() + np.linalg.slogdet(XVX)[1]
        return (n - p) * (np.log(2 * np.pi * Q / (n - p)) + 1) + log_det

    best = minimize_scalar(
        deviance, bounds=(0, 1 - 1e-6), method="bounded", options={"xatol": 1e-8}
    )
    return best.x, -0.5 * best.fun


def main() -> None:
    """Time the steps, then the dense optimiser on a few traits, and compare the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--traits", type=int, default=20_000)
    parser.add_argument("--individuals", type=int, default=1_000)
    parser.add_argument("--dense", type=int, default=3, help="traits of the dense optimiser")
    options = parser.parse_args()
    sim = fm.simulate_kinship_traits(options.individuals, options.traits, seed=1)

    rotation, rotated, cpu = timed(lambda: fm.rotate_by_kinship(sim.K, sim.Y, sim.X))
    print(f"rotate {rotation}: {rotated:.2f} s ({cpu:.2f} s CPU)")
    fit, fitted, cpu = timed(lambda: fm.fit_kinship_lmm(rotation))
    print(f"fit {fit}: {fitted:.2f} s ({cpu:.2f} s CPU)")
    for name, call in (
        ("intervals", fit.confidence_interval),
        ("Kenward-Roger tests of sex", lambda: fm.contrast_tests(fit, "sex")),
    ):
        _, seconds, cpu = timed(call)
        print(f"{name}: {seconds:.2f} s ({cpu:.2f} s CPU)")

    chosen = np.arange(options.dense)
    K, X = sim.K.to_numpy(), sim.X.to_numpy()
    dense, seconds, cpu = timed(
        lambda: [dense_fit(K, sim.Y.iloc[:, i].to_numpy(), X) for i in chosen]
    )
    print(f"dense optimiser, {len(chosen)} traits: {seconds:.2f} s ({cpu:.2f} s CPU)")
    ours, theirs = (rotated + fitted) / options.traits, seconds / len(chosen)
    print(
        f"per trait: {1e3 * ours:.3g} ms against {1e3 * theirs:.3g} ms, ratio {theirs / ours:.0f}"
    )
    gain = fit.loglik[chosen] - [loglik for _, loglik in dense]
    apart = np.abs(fit.h2[chosen] - [h2 for h2, _ in dense])
    print(f"log-likelihood higher by {gain.min():.2g} to {gain.max():.2g}")
    print(f"largest difference of h2: {apart.max():.1g}")


if __name__ == "__main__":
    main()
