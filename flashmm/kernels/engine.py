"""What the fit asks of an engine, and the pieces that all engines share."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from flashmm.kernels.structure import CovarianceStructure

Array = np.ndarray


class Optimum(NamedTuple):
    """Where the optimiser stopped, per gene.

    Attributes
    ----------
    gamma : (genes, K) array
        Components relative to the residual, γ_k = σ²_k / σ².
    objective : (genes,) array
        f(γ) = -2 log L with σ² profiled out, without its constants.
    decrement : (genes,) array
        Newton decrement s'I⁻¹s of the profile log-likelihood at the last evaluated point.
    n_iter : (genes,) int array
        Evaluations of the derivatives.
    """

    gamma: Array
    objective: Array
    decrement: Array
    n_iter: Array


class Estimates(NamedTuple):
    """What is reported at the optimum.

    Attributes
    ----------
    variance : (genes,) array
        Residual variance σ².
    coefficients : (genes, p) array
        Generalised least squares in the orthonormal basis of X.
    information : (genes, K+1, K+1) array
        Expected information of θ.
    """

    variance: Array
    coefficients: Array
    information: Array


class VarianceForms(NamedTuple):
    """Var(c'β̂) and its derivatives in θ = (σ²_1 … σ²_K, σ²).

    Attributes
    ----------
    value : (genes, C) array
        v = c'Φc (bilinear, a'Φb, when asked for pairs).
    gradient : (genes, C, K+1) array
        ∂v/∂θ.
    hessian : (genes, C, K+1, K+1) array
        ∂²v/∂θ∂θ'.
    """

    value: Array
    gradient: Array
    hessian: Array


# What an engine keeps of the genes: a NamedTuple of arrays, genes first, with at least
#   xy (genes, p) R⁻ᵀX'y,  rss (genes,) residual sum of squares outside the span of X, and
#   e (genes,) that outside the spans of X and Z.
Genes = TypeVar("Genes")


class Engine(Protocol[Genes]):
    """One way to maximise the likelihood of all genes and to differentiate what follows from it."""

    @staticmethod
    def takes(structure: CovarianceStructure) -> bool:
        """Whether this engine can fit components of that structure."""

    @property
    def rank(self) -> int:
        """Dimension of the span of Z outside the span of X."""

    def responses(self, YtX: Array, YtZ: Array, yty: Array) -> Genes:
        """Cross-products (genes, p), (genes, q), (genes,) in the form that this engine takes."""

    def objective(self, gamma: Array, genes: Genes) -> Array:
        """f(γ) = m log Q + log |W°| at one γ per gene, (genes,); infinite outside the domain."""

    def optimise(self, genes: Genes, start: Array | None, max_iter: int, tol: float) -> Optimum:
        """Minimise the profile objective of each gene."""

    def residual_variance(self, gamma: Array, genes: Genes) -> Array:
        """σ² = Q(γ)/ν, (genes,)."""

    def is_positive_definite(self, gamma: Array) -> Array:
        """Whether V = I + Σ γ_k Z_kZ_k' is positive definite, (genes,) bool."""

    def coefficients(self, gamma: Array, genes: Genes) -> Array:
        """Generalised least squares in the orthonormal basis of X, (genes, p)."""

    def estimates(self, gamma: Array, genes: Genes) -> Estimates:
        """σ², coefficients and expected information at one γ per gene."""

    def covariance(self, gamma: Array, basis: Array) -> Array:
        """Covariance of the contrasts `basis` (p, C) for σ² = 1, (genes, C, C)."""

    def score(self, gamma: Array, variance: Array, genes: Genes) -> Array:
        """Gradient of the log-likelihood in θ, (genes, K+1)."""

    def information(self, gamma: Array, variance: Array, genes: Genes) -> tuple[Array, Array]:
        """Return the expected and the observed information of θ, each (genes, K+1, K+1)."""

    def variance_forms(
        self, gamma: Array, variance: Array, left: Array, right: Array
    ) -> VarianceForms:
        """Bilinear forms a'Φb of the columns of `left`, `right` (p, C), orthonormal basis."""

    def blup(self, gamma: Array, genes: Genes) -> Array:
        """Predicted random effects, (genes, q)."""

    @property
    def small_blocks(self) -> bool:
        """Whether a thread takes a block of genes; else it takes parts of one."""

    def genes_per_block(self) -> int:
        """Genes that fit in a bounded amount of memory."""


def each(rows: Array, matrix: Array) -> Array:
    """Rows times a matrix, gene by gene: a gene's result does not depend on its neighbours."""
    return (rows[:, None] @ matrix)[:, 0]


def take(genes: Any, rows: Array | slice) -> Any:
    """Rows of every array of an engine's genes."""
    return type(genes)(*(values[rows] for values in genes))


def replaced(values: Any, rows: Array, others: Any) -> Any:
    """Arrays of a named tuple with some rows from another one."""
    whole = [array.copy() for array in values]
    for array, other in zip(whole, others, strict=True):
        array[rows] = other
    return type(values)(*whole)


def by_homogeneity(value: Array, gradient: Array, hessian: Array, theta: Array) -> VarianceForms:
    """Append the derivatives in σ² by Euler's relations; v is homogeneous of degree one in θ.

    Parameters
    ----------
    value : (genes, C) array
        v.
    gradient : (genes, C, K) array
        ∂v/∂σ²_k of the components without the residual.
    hessian : (genes, C, K, K) array
        ∂²v/∂σ²_k∂σ²_l.
    theta : (genes, K+1) array
        Variance components, residual last.

    Returns
    -------
    VarianceForms
        With the residual as last row and column.
    """
    K = gradient.shape[-1]
    s, s0 = theta[:, None, :-1], theta[:, -1:]
    first = np.empty((*value.shape, K + 1))
    second = np.empty((*value.shape, K + 1, K + 1))
    first[..., :K], second[..., :K, :K] = gradient, hessian
    # v_0 = (v - Σ s_k v_k)/s_0;  v_0l = -(1/s_0) Σ s_k v_kl;  v_00 = -(1/s_0) Σ s_k v_0k
    first[..., K] = (value - (s * gradient).sum(-1)) / s0
    v0l = -(s[..., None, :] * hessian).sum(-1) / s0[..., None]
    second[..., :K, K] = second[..., K, :K] = v0l
    second[..., K, K] = -(s * v0l).sum(-1) / s0
    return VarianceForms(value, first, second)
