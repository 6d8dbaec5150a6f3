"""Speed of the multi-trait model: a fit and a scan at n = 1,000, p = 4, beside other ways.

    python benchmarks/multitrait.py

Yardsticks: maximising the dense likelihood of all observations at a small n, a generalised least
squares per candidate with the dense inverse at hand, and glimix-core where it is installed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import minimize

import flashmm as fm
from flashmm.kernels.threads import single_blas_thread

SUBJECTS, TRAITS, VARIANTS, CANDIDATES = 1_000, 4, 2_000, 10_000
FEW_SUBJECTS = 100
GLIMIX_CANDIDATES, DENSE_CANDIDATES = 200, 20


def seconds(call: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[float, Any]:
    """CPU seconds of one call, and what it returns."""
    begin = time.process_time()
    result = call(*arguments, **options)
    return time.process_time() - begin, result


def draw(n: int, variants: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Traits of heritability one half, an intercept and a covariate, standardised genotypes."""
    rng = np.random.default_rng(seed)
    G = rng.binomial(2, 0.3, size=(n, variants)).astype(float)
    G = (G - 0.6) / np.sqrt(0.42 * variants)
    X = np.column_stack([np.ones(n), rng.normal(size=n)])
    effects = rng.normal(size=(variants, 1)) @ rng.normal(size=(1, TRAITS))
    return G @ effects + rng.normal(size=(n, TRAITS)), X, G


def dense_loglik(Y: np.ndarray, X: np.ndarray, G: np.ndarray, x: np.ndarray) -> float:
    """Minus the ML log-likelihood of all observations, from their whole covariance."""
    p = Y.shape[1]
    L1 = np.zeros((p, p))
    L1[np.tril_indices(p)] = x[p:]
    K = np.kron(np.outer(x[:p], x[:p]), G @ G.T)
    K += np.kron(L1 @ L1.T + 1e-8 * np.eye(p), np.eye(len(Y)))
    M, y = np.kron(np.eye(p), X), Y.ravel("F")
    KM = np.linalg.solve(K, np.column_stack([M, y]))
    residual = y - M @ np.linalg.solve(M.T @ KM[:, :-1], KM[:, :-1].T @ y)
    quadratic = residual @ np.linalg.solve(K, residual)
    return 0.5 * (len(y) * np.log(2 * np.pi) + np.linalg.slogdet(K)[1] + quadratic)


def compare_fit_with_dense() -> None:
    """The same ML fit from the rotation and from dense matrices."""
    Y, X, G = draw(FEW_SUBJECTS, 200)
    fast, fit = seconds(fm.fit_multitrait_lmm, Y, X, G, method="ML")
    start = np.concatenate([np.full(TRAITS, 0.5), np.eye(TRAITS)[np.tril_indices(TRAITS)]])
    slow, found = seconds(minimize, lambda x: dense_loglik(Y, X, G, x), start)
    print(
        f"fit n={FEW_SUBJECTS} p={TRAITS}: {fast:.3f} s (5 starts), dense optimiser {slow:.1f} s "
        f"(1 start, its own differences), ratio {slow / fast:.0f}; log-likelihoods "
        f"{fit.loglik:.6f} and {-found.fun:.6f}"
    )


def time_fit_and_scan() -> None:
    """A fit and scans at full size."""
    rng = np.random.default_rng(1)
    candidates = rng.binomial(2, 0.3, size=(SUBJECTS, CANDIDATES)).astype(np.int8)
    for variants in (50, VARIANTS):
        Y, X, G = draw(SUBJECTS, variants)
        for rank in (1, 2):
            took, fit = seconds(fm.fit_multitrait_lmm, Y, X, G, rank=rank)
            print(
                f"fit n={SUBJECTS} p={TRAITS}, G of {variants} columns, rank {rank}: {took:.2f} s, "
                f"{fit.n_iter} evaluations, {fit.status}"
            )
        for A1 in ("any", "common"):
            took, found = seconds(fit.scan, candidates, A1, progress=False)
            print(
                f"scan {CANDIDATES} candidates, A1 {A1}: {took:.2f} s, "
                f"{CANDIDATES / took:.0f} per second; smallest p {found.p_value.min():.2g}"
            )
    dense_scan(Y, X, fit, candidates[:, :DENSE_CANDIDATES].astype(float))


def dense_scan(Y: np.ndarray, X: np.ndarray, fit: fm.MultiTraitFit, x: np.ndarray) -> None:
    """Generalised least squares per candidate, the inverse of the whole covariance at hand."""
    Ki, y = np.linalg.inv(fit.covariance()), Y.ravel("F")

    def scan() -> list[np.ndarray]:
        found = []
        for j in range(x.shape[1]):
            M = np.kron(np.eye(TRAITS), np.column_stack([X, x[:, j]]))
            KM = Ki @ M
            found.append(np.linalg.solve(M.T @ KM, KM.T @ y))
        return found

    slow, found = seconds(scan)
    fast, ours = seconds(fit.scan, np.repeat(x, 50, axis=1), progress=False)
    gap = max(np.abs(b[2::3] - c).max() for b, c in zip(found, ours.coef[::50], strict=True))
    ratio = slow / x.shape[1] / (fast / (50 * x.shape[1]))
    print(f"scan against dense least squares per candidate: ratio {ratio:.0f}, gap {gap:.1e}")


def compare_with_glimix() -> None:
    """The same fit and scan by glimix-core, at a size that it does in seconds."""
    try:
        from glimix_core.lmm import Kron2Sum
    except ImportError:
        print("glimix-core is not installed (pip install glimix-core): skipped")
        return
    Y, X, G = draw(FEW_SUBJECTS, 20)
    x = np.random.default_rng(1).binomial(2, 0.3, size=(FEW_SUBJECTS, CANDIDATES)).astype(float)
    fast, fit = seconds(fm.fit_multitrait_lmm, Y, X, G, method="ML")
    theirs = Kron2Sum(Y, np.eye(TRAITS), X, G, rank=1)
    slow, _ = seconds(theirs.fit, verbose=False)
    print(
        f"fit n={FEW_SUBJECTS} against glimix-core (one start, set-up not counted): {fast:.2f} s "
        f"and {slow:.2f} s, log-likelihood {fit.loglik - theirs.lml():+.2e} above"
    )
    scanner, columns = theirs.get_fast_scanner(), x[:, :GLIMIX_CANDIDATES]
    slow, lml = seconds(
        lambda: [scanner.scan(np.eye(TRAITS), column[:, None])["lml"] for column in columns.T]
    )
    fast, ours = seconds(fit.scan, x, progress=False)
    ratio = slow / GLIMIX_CANDIDATES / (fast / x.shape[1])
    gap = np.abs(ours.loglik[:GLIMIX_CANDIDATES] - lml).max()
    print(f"scan against glimix-core, per candidate: ratio {ratio:.0f}, gap of lml {gap:.1e}")


def main() -> None:
    """Run everything on one thread."""
    with single_blas_thread():
        compare_fit_with_dense()
        time_fit_and_scan()
        compare_with_glimix()


if __name__ == "__main__":
    sys.exit(main())
