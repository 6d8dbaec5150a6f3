"""The search for covariances of random effects in their Cholesky factors, which have no bounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from flashmm.kernels.engine import Optimum, replaced, take
from flashmm.kernels.random_covariance import SINGULAR, RandomCovariance
from flashmm.kernels.search import Derivatives, given_start, minimise
from flashmm.kernels.starts import Starts, search_all

Array = np.ndarray

# Size of a variance, relative to 1 / (largest eigenvalue of its component), that a search in
# factors starts from where it is given a smaller one.
START_VARIANCE = 1e-3


class Correlated(Protocol):
    """What an engine gives the search."""

    @property
    def random(self) -> RandomCovariance:
        """The components."""

    @property
    def largest(self) -> Array:
        """Largest eigenvalue of each component as it is searched, (K,)."""

    def objective(self, gamma: Array, genes: Any) -> Array:
        """f at one γ per gene, (genes,); finite where Γ is positive semidefinite."""

    def derivatives(self, gamma: Array, genes: Any) -> Derivatives:
        """f, its gradient and two Hessians in γ, at one γ per gene."""

    def starts(self, genes: Any) -> Starts:
        """Where f is low on a grid of positive definite Γ that genes share."""


def best_in_factors(
    engine: Correlated, genes: Any, start: Array | None, max_iter: int, tol: float
) -> Optimum:
    """Lowest minimum that the valleys of the shared grid lead to, for each gene.

    Parameters
    ----------
    engine : Correlated
        The likelihood.
    genes : named tuple
        The engine's form of the genes.
    start : (K + 1,) array or None
        Start values of θ, instead of the grid.
    max_iter : int
        Limit of the evaluations of the derivatives per gene and start.
    tol : float
        Newton decrement at which a gene has converged.

    Returns
    -------
    Optimum
        Where the search for each gene ended.
    """
    unit = 1.0 / engine.largest

    def run(genes: Any, gamma: Array, second_first: bool = False) -> Optimum:
        random = replace(engine.random, second_first=second_first)
        found = minimise(
            lambda x, genes: engine.objective(random.from_factors(x), genes),
            lambda x, genes: random.in_factors(
                engine.derivatives(random.from_factors(x), genes), x
            ),
            genes,
            random.factors(gamma, START_VARIANCE * unit),
            nonnegative=random.bounded,
            max_iter=max_iter,
            tol=tol,
            everywhere=True,
        )
        return found._replace(gamma=random.settled(found.gamma, SINGULAR * unit))

    def both_ways(genes: Any, gamma: Array) -> Optimum:
        found = run(genes, gamma)
        left = np.flatnonzero(~converged(found))
        if not len(left):
            return found
        other = run(take(genes, left), found.gamma[left], second_first=True)
        other = other._replace(n_iter=other.n_iter + found.n_iter[left])
        kept = converged(other) | (other.objective < found.objective[left])
        return replaced(found, left[kept], take(other, kept))

    def converged(found: Optimum) -> Array:
        return found.decrement < tol

    if start is not None:
        return both_ways(genes, given_start(start, genes, engine.objective))
    return search_all(engine.starts(genes), genes, both_ways, converged)
