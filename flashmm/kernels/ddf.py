"""Denominator degrees of freedom, from the derivatives that every engine gives.

Arrays are per gene (first axis) and contrast; θ = (σ²_1 … σ²_K, σ²), residual last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from flashmm.kernels.engine import VarianceForms
from flashmm.kernels.random_covariance import Pair, is_singular

Array = np.ndarray

# Squared normal quantile of p = 0.001: smaller p-values take the df of this one.
FURTHEST = float(special.ndtri(0.0005) ** 2)
# Newton's steps to a fixed point.
ROUNDS = 3


def invert_information(information: Array) -> Array:
    """Pseudo-inverse of information matrices of θ.

    Parameters
    ----------
    information : (genes, k, k) array
        Symmetric; scaled to unit diagonal before it is inverted.

    Returns
    -------
    (genes, k, k) array
        NaN where the information is not finite; directions without information have zero variance.
    """
    inverse = np.full(information.shape, np.nan)
    fine = np.isfinite(information).all((1, 2))
    scale = np.sqrt(np.abs(np.einsum("gkk->gk", information[fine])))
    scale[scale == 0] = 1.0
    outer = scale[:, :, None] * scale[:, None, :]
    invert = _invert_pairs if information.shape[1] == 2 else _pseudo_inverse
    inverse[fine] = invert(information[fine] / outer) / outer
    return inverse


def _pseudo_inverse(matrices: Array) -> Array:
    return np.linalg.pinv(matrices, rcond=1e-13, hermitian=True)


def _invert_pairs(matrices: Array) -> Array:
    """Invert symmetric 2 × 2 matrices in closed form where they are regular."""
    a, b, d = matrices[:, 0, 0], matrices[:, 0, 1], matrices[:, 1, 1]
    determinant = a * d - b * b
    regular = np.abs(determinant) > 1e-8 * (a * a + 2 * b * b + d * d)
    inverse = np.empty_like(matrices)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse[:, 0, 0], inverse[:, 1, 1] = d / determinant, a / determinant
        inverse[:, 0, 1] = inverse[:, 1, 0] = -b / determinant
    inverse[~regular] = _pseudo_inverse(matrices[~regular])
    return inverse


def satterthwaite_df(value: Array, gradient: Array, theta_cov: Array) -> Array:
    """Degrees of freedom 2v²/(g'Cg) of Fai & Cornelius (1996).

    Parameters
    ----------
    value : (genes, C) array
        v = c'Φc.
    gradient : (genes, C, k) array
        ∂v/∂θ.
    theta_cov : (genes, k, k) array
        Covariance of θ̂. With the inverse expected information of all components this is the
        Kenward-Roger df of one contrast; lmerTest uses the observed one, components at zero
        dropped.

    Returns
    -------
    (genes, C) array
        Degrees of freedom.
    """
    spread = ((gradient @ theta_cov) * gradient).sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > 0, 2.0 * value**2 / spread, np.nan)


def free_theta_cov(
    information: Array, theta: Array, pairs: Sequence[Pair] = (), score: Array | None = None
) -> Array:
    """Inverse observed information of the components that are not at zero; zeros elsewhere.

    Parameters
    ----------
    information : (genes, k, k) array
        Observed information of θ.
    theta : (genes, k) array
        Components.
    pairs : sequence of Pair
        Components with a covariance.
    score : (genes, k) array, optional
        Gradient of the log-likelihood in θ; needed for pairs.

    Returns
    -------
    (genes, k, k) array
        Rows and columns of components at zero are zero, so that they do not enter the df (the rule
        of lmerTest, whose derivatives vanish there). Where two effects have a correlation of one,
        it is the inverse along the surface σ_12² = σ²_1 σ²_2, by the same rule.
    """
    along, free = np.broadcast_to(np.eye(theta.shape[1]), information.shape).copy(), theta != 0
    bent = np.zeros_like(information)
    for pair in pairs:
        assert score is not None
        one = is_singular(theta, pair) & free[:, pair.first] & free[:, pair.second]
        # ∂(l², m², lm)/∂l, ∂/∂m, times l and m
        along[one] = _surface(theta[one], pair)
        bent[one] += _bend(theta[one], score[one], pair)
        free[one, pair.covariance] = False
        free[:, pair.covariance] |= (theta[:, [pair.first, pair.second]] > 0).all(1) & ~one
    inverse = _pinned_inverse(along.swapaxes(1, 2) @ information @ along - bent, free)
    return along @ inverse @ along.swapaxes(1, 2)


def _surface(theta: Array, pair: Pair) -> Array:
    """Directions in which two effects stay one, in the columns of their variances."""
    along = np.broadcast_to(np.eye(theta.shape[1]), (*theta.shape, theta.shape[1])).copy()
    for k in (pair.first, pair.second):
        along[:, k, k] = 2 * theta[:, k]
        along[:, pair.covariance, k] = theta[:, pair.covariance]
    return along


def _bend(theta: Array, score: Array, pair: Pair) -> Array:
    """Score times the second derivatives of θ along that surface, in the same directions."""
    a, b, c = pair
    bend = np.zeros((*theta.shape, theta.shape[1]))
    bend[:, a, a], bend[:, b, b] = (2 * theta[:, k] * score[:, k] for k in (a, b))
    bend[:, a, b] = bend[:, b, a] = theta[:, c] * score[:, c]
    return bend


def _pinned_inverse(information: Array, free: Array) -> Array:
    """Inverse of the free rows and columns, zeros elsewhere."""
    both = free[:, :, None] & free[:, None, :]
    k = free.shape[1]
    pinned = np.where(both, information, 0.0)
    scale = np.abs(np.einsum("gkk->gk", information))
    pinned[:, np.arange(k), np.arange(k)] += np.where(free, 0.0, np.where(scale > 0, scale, 1.0))
    return np.where(both, invert_information(pinned), 0.0)


def kenward_roger_variance(value: Array, hessian: Array, theta_cov: Array) -> Array:
    """Adjusted variance v - Σ C_ij ∂²v/∂θ_i∂θ_j of Kenward & Roger (1997).

    Parameters
    ----------
    value : (genes, ...) array
        v, or LΦL'.
    hessian : (genes, ..., k, k) array
        Second derivatives in θ.
    theta_cov : (genes, k, k) array
        Inverse expected information, all components.

    Returns
    -------
    (genes, ...) array
        Adjusted (larger) variance.
    """
    return value - np.einsum("g...kl,gkl->g...", hessian, theta_cov)


class FTest(NamedTuple):
    """An F statistic and its denominator degrees of freedom, per gene."""

    statistic: Array
    df: Array


def df_loss(forms: VarianceForms, theta_cov: Array, slopes: Array) -> Array:
    """What the inverse of the df of contrasts loses per unit of z² - 1.

    Parameters
    ----------
    forms : VarianceForms
        v (genes, C), g (genes, C, k) and H (genes, C, k, k) of the contrasts.
    theta_cov : (genes, k, k) array
        Covariance W of θ̂, the inverse of the expected information I.
    slopes : (genes, k, k, k) array
        ∂I/∂θ_i, i the second axis.

    Returns
    -------
    (genes, C) array
        Zero where smaller variances do not come with more degrees of freedom.

    Notes
    -----
    t = z √(v/v̂) with v̂ = v (1 + δ), E δ² = 2/ν. With its df estimated as ν(θ̂), 1/ν̂ = 1/ν + τ₁ δ,
    the critical value is small where v̂ is. To second order as many null hypotheses are rejected
    beyond z² as P(χ²₁ > z²) if 1/ν is replaced by 1/ν + (τ₁/ν)(z² - 1): Welch's (1947) and
    Aspin's (1948) next term for two mean squares, in terms of θ. Here θ̂ changes by w v/s with δ,
    w = Wg and s = g'w, and with the derivatives of v and of I along w,

        τ₁ = (1/ν) ((v/s²) (2 w'Hw - Σ_i w_i w'(∂I/∂θ_i)w) - 2),   1/ν = s/(2v²).
    """
    k = forms.gradient.shape[2]
    w = forms.gradient @ theta_cov
    s = (forms.gradient * w).sum(2)
    pairs = (w[..., :, None] * w[..., None, :]).reshape(*s.shape, k * k)
    along = w @ slopes.reshape(-1, k, k * k)
    curvature = ((2 * forms.hessian.reshape(pairs.shape) - along) * pairs).sum(2)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = s / (2 * forms.value**2)
        slope = inverse * (forms.value * curvature / s**2 - 2)
        return inverse * np.maximum(slope, 0.0)


def lowered_df(df: Array, loss: Array | float, z2: Array | float) -> Array:
    """1/(1/ν + loss · (z² - 1)), z² from one to that of p = 0.001, where expansions end."""
    with np.errstate(divide="ignore"):
        return 1.0 / (1.0 / df + loss * (np.clip(z2, 1.0, FURTHEST) - 1.0))


def second_order_df(statistic: Array, df: Array, loss: Array) -> Array:
    """df of t tests at the level of their own two-sided p-values: a fixed point of `lowered_df`.

    Parameters
    ----------
    statistic, df, loss : arrays of one shape
        t, df of the first order, and `df_loss`; without loss the df stay as they are.

    Returns
    -------
    array
    """
    # |t| ≤ 1 has z² ≤ 1, where nothing is lost
    result, some = df.copy(), (loss > 0) & (np.abs(statistic) > 1)
    t, first, lost = np.abs(statistic[some]), df[some], loss[some]
    z2 = np.clip(_normal_square(t, first)[0], 1.0, FURTHEST)
    for _ in range(ROUNDS):
        nu = lowered_df(first, lost, z2)
        found = np.minimum(special.ndtri(special.stdtr(nu, -t)) ** 2, FURTHEST)
        # Newton's step for the difference; more z² lowers the df, and these the z² of t
        slope = -lost * nu**2 * _normal_square(t, nu)[1]
        z2 = np.clip(z2 + (found - z2) / (1 - slope), 1.0, FURTHEST)
    result[some] = lowered_df(first, lost, z2)
    return result


def _normal_square(t: Array, df: Array) -> tuple[Array, Array]:
    """z² with the tail of t, to one per cent or so, and its derivative in df (Wallace 1959)."""
    ratio = t**2 / df
    scale, logarithm = ((8 * df + 1) / (8 * df + 3)) ** 2, np.log1p(ratio)
    return scale * df * logarithm, scale * (logarithm - ratio / (1 + ratio))


def kenward_roger_f(
    estimate: Array, covariance: Array, gradient: Array, adjusted: Array, theta_cov: Array
) -> FTest:
    """Scaled F test of several contrasts (Kenward & Roger 1997; Halekoh & Højsgaard 2014).

    Parameters
    ----------
    estimate : (genes, rows) array
        Lβ̂.
    covariance, adjusted : (genes, rows, rows) arrays
        LΦL' and its Kenward-Roger adjustment.
    gradient : (genes, k, rows, rows) array
        ∂(LΦL')/∂θ.
    theta_cov : (genes, k, k) array
        Inverse expected information of θ.

    Returns
    -------
    FTest
        The scaled statistic and its denominator df.
    """
    rows = estimate.shape[1]
    R = np.linalg.solve(covariance[:, None], gradient)
    traces = np.einsum("gkaa->gk", R)
    A1 = np.einsum("gk,gkl,gl->g", traces, theta_cov, traces, optimize=True)
    A2 = np.einsum("gkab,gkl,glba->g", R, theta_cov, R, optimize=True)
    B = (A1 + 6 * A2) / (2 * rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        g = ((rows + 1) * A1 - (rows + 4) * A2) / ((rows + 2) * A2)
        den = 3 * rows + 2 * (1 - g)
        V0 = 1 + g / den * B
        V0 = np.where(np.abs(V0) < 1e-10, 0.0, V0)
        V1, V2 = 1 - (rows - g) / den * B, 1 - (rows + 2 - g) / den * B
        rho = ((1 - A2 / rows) / V1) ** 2 * V0 / (V2 * rows)
        df = 4 + (rows + 2) / (rows * rho - 1)
        scale = np.where(np.abs(df - 2) < 0.01, 1.0, df * (1 - A2 / rows) / (df - 2))
    return FTest(scale * wald_f(estimate, adjusted), df)


def wald_f(estimate: Array, covariance: Array) -> Array:
    """(Lβ̂)'(LΦL')⁻¹Lβ̂ / rows of estimates (genes, rows) and covariances (genes, rows, rows)."""
    solved = np.linalg.solve(covariance, estimate[..., None])[..., 0]
    return np.asarray(np.einsum("ga,ga->g", estimate, solved) / estimate.shape[1])


def satterthwaite_f(estimate: Array, covariance: Array, gradient: Array, theta_cov: Array) -> FTest:
    """F test of several contrasts from the t tests of their eigen-contrasts (lmerTest's contestMD).

    Parameters
    ----------
    estimate : (genes, rows) array
        Lβ̂.
    covariance : (genes, rows, rows) array
        LΦL'.
    gradient : (genes, k, rows, rows) array
        ∂(LΦL')/∂θ.
    theta_cov : (genes, k, k) array
        Covariance of θ̂.

    Returns
    -------
    FTest
        The statistic and its denominator df.
    """
    rows = estimate.shape[1]
    values, vectors = np.linalg.eigh(covariance)
    along = np.einsum("gam,ga->gm", vectors, estimate)
    t2 = along**2 / values
    slopes = np.einsum("gam,gkab,gbm->gmk", vectors, gradient, vectors, optimize=True)
    nu = satterthwaite_df(values, slopes, theta_cov)
    # E[F] of independent t² with ν_m: E = Σ ν_m/(ν_m - 2), matched to F(l, df): df = 2E/(E - rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        E = (nu / (nu - 2)).sum(1)
        df = 2 * E / (E - rows)
    equal = (np.abs(nu - nu[:, :1]) < 1e-8).all(1)
    df = np.where(equal, nu[:, 0], df)
    return FTest(t2.mean(1), np.where((nu <= 2).any(1), 2.0, df))
