"""The interface of the R package lmmlite: four functions on rotated phenotypes.

`getMLsoln`, `calcLL` and `fitLMM` take what `eigen_rotation` returns. Results have the names of the
R lists. Conventions that differ from the package's own are converted here: σ² = RSS/(n - p)
under ML too, and log-likelihoods without most constants, in which S = diag 1/(h²d + 1 - h²),

    ML    -½(Σ log(h²d + 1 - h²) + n log RSS),
    REML  that + ½(p log(2πσ²) + log|X'X| - log|X'SX|).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.linalg import eigh

from flashmm.compat.flashmm_r import RList
from flashmm.kinship.data import Table, match_individuals, nonnegative_kinship, read_kinship
from flashmm.kinship.fit import KinshipFit, fit_kinship_lmm
from flashmm.kinship.rotation import KinshipRotation, KinshipSource, rotate_values
from flashmm.options import InputError


def eigen_rotation(K: Any, y: Any, X: Any = None, use_cpp: bool = True) -> RList:
    """Rotate phenotypes and covariates by the eigenvectors of the kinship.

    Parameters
    ----------
    K : (n, n) array or DataFrame
        Kinship.
    y : (n,) or (n, phenotypes) array or DataFrame
        Phenotypes, without missing values.
    X : (n, p) array or DataFrame, optional
        Covariates, the intercept among them; None is an intercept alone.
    use_cpp : bool
        There is one implementation here; the argument has no effect.

    Returns
    -------
    RList
        ``Kva`` (n,) eigenvalues, ``Kve_t`` (n, n) transposed eigenvectors, ``y`` (n, phenotypes)
        and ``X`` (n, p), rotated; X is a data frame where the columns had names.
    """
    kinship, _ = read_kinship(K, None)
    phenotypes = Table.of(y, "y")
    covariates = Table.of(np.ones(len(phenotypes.values)) if X is None else X, "X")
    rows = match_individuals((phenotypes, covariates, kinship)).rows
    matrix = nonnegative_kinship(kinship.values[np.ix_(rows["K"], rows["K"])])[0]
    values, vectors = eigh(matrix)
    rotated = {
        table.name: _named(vectors.T @ _complete(table)[rows[table.name]], table)
        for table in (phenotypes, covariates)
    }
    return RList(Kva=np.maximum(values, 0.0), Kve_t=vectors.T, **rotated)


def getMLsoln(
    hsq: float, Kva: Any, y: Any, X: Any = None, reml: bool = True, use_cpp: bool = True
) -> RList:
    """Coefficients and variance at a given heritability.

    Parameters
    ----------
    hsq : float
        Heritability.
    Kva, y, X
        As `eigen_rotation` returns them.
    reml : bool
        Add ``logdetXSX``.
    use_cpp : bool
        No effect.

    Returns
    -------
    RList
        ``beta`` (p,), ``sigmasq``, ``rss`` and, for REML, ``logdetXSX``; of several phenotypes
        beta is (p, phenotypes) and the others (phenotypes,).
    """
    rotation = _rotation(Kva, y, X)
    fit = fit_kinship_lmm(rotation, h2=_one(hsq))
    rss = fit.sigma2 * fit.df_residual
    soln = RList(beta=_beta(fit), sigmasq=_scalar(fit.sigma2), rss=_scalar(rss))
    if reml:
        # Var(β̂) = σ²(X'SX)⁻¹
        unit = fit.cov / fit.sigma2[:, None, None]
        soln["logdetXSX"] = _scalar(-np.linalg.slogdet(unit)[1])
    return soln


def calcLL(
    hsq: Any, Kva: Any, y: Any, X: Any = None, reml: bool = True, use_cpp: bool = True
) -> Any:
    """Log-likelihood at given heritabilities.

    Parameters
    ----------
    hsq : float or (points,) array
        Heritabilities.
    Kva, y, X
        As `eigen_rotation` returns them.
    reml : bool
        Restricted or full likelihood.
    use_cpp : bool
        No effect.

    Returns
    -------
    float or array
        One value per heritability; (phenotypes, points) of several phenotypes. R adds the
        coefficients as attributes; here `getMLsoln` gives them.
    """
    rotation = _rotation(Kva, y, X)
    fit = fit_kinship_lmm(rotation, _method(reml), h2=0.0)
    profile = fit.profile_loglik(hsq, constants=False) + _shift(rotation, reml)
    values = profile[0] if len(profile) == 1 else profile
    return values[..., 0].item() if values.size == 1 and np.ndim(hsq) == 0 else values


def fitLMM(
    Kva: Any,
    y: Any,
    X: Any = None,
    reml: bool = True,
    check_boundary: bool = True,
    tol: float = 1e-4,
    use_cpp: bool = True,
    compute_se: bool = False,
) -> RList:
    """Fit the model by (restricted) maximum likelihood.

    Parameters
    ----------
    Kva, y, X
        As `eigen_rotation` returns them.
    reml : bool
        Restricted or full maximum likelihood.
    check_boundary : bool
        The boundaries 0 and 1 are always checked here; the argument has no effect.
    tol : float
        Tolerance of R's optimiser. The one here converges to rounding error whatever `tol` says.
    use_cpp : bool
        No effect.
    compute_se : bool
        Add ``beta_se``.

    Returns
    -------
    RList
        ``beta``, ``sigmasq``, ``hsq``, ``sigmasq_g``, ``sigmasq_e``, ``loglik``; of several
        phenotypes beta is (p, phenotypes) and the others (phenotypes,). NaN, with a warning, where
        ML has no maximum because K is singular in a direction of X.
    """
    if not tol > 0:
        raise InputError(f"tol must be positive; found {tol!r}.")
    rotation = _rotation(Kva, y, X)
    fit = fit_kinship_lmm(rotation, _method(reml))
    # σ² of ML is RSS/n here and RSS/(n - p) there
    n = len(rotation.individuals)
    factor = 1.0 if reml else n / fit.df_residual
    result = RList(
        beta=_beta(fit),
        sigmasq=_scalar(factor * fit.sigma2),
        hsq=_scalar(fit.h2),
        sigmasq_g=_scalar(factor * fit.sigma2_g),
        sigmasq_e=_scalar(factor * fit.sigma2_e),
        loglik=_scalar(fit.loglik_without_constants + _shift(rotation, reml)),
    )
    if compute_se:
        result["beta_se"] = np.squeeze(np.sqrt(factor) * fit.std_error.T)
    return result


def _method(reml: bool) -> str:
    return "REML" if reml else "ML"


def _one(hsq: Any) -> float:
    if np.ndim(hsq) != 0:
        raise InputError("hsq must be one number here; calcLL takes several.")
    return float(hsq)


def _rotation(Kva: Any, y: Any, X: Any) -> KinshipRotation:
    """Rotation of what is rotated already: K is diagonal."""
    values = np.asarray(Kva, dtype=np.float64)
    if X is None:
        raise InputError("X is needed: pass the X that eigen_rotation returned.")
    traits, covariates = Table.of(y, "y"), Table.of(X, "X")
    if values.ndim != 1 or (values < 0).any() or not np.isfinite(values).all():
        raise InputError("Kva must be a vector of eigenvalues that are not negative.")
    for table in (traits, covariates):
        if len(table.values) != len(values):
            raise InputError(
                f"{table.name} has {len(table.values)} rows and Kva {len(values)} values."
            )
    y, x = _complete(traits), _complete(covariates)
    return rotate_values(
        KinshipSource(np.diag(values), is_factor=False),
        y,
        x,
        traits=traits.columns or tuple(map(str, range(y.shape[1]))),
        coefficients=covariates.columns or tuple(map(str, range(x.shape[1]))),
        individuals=pd.RangeIndex(len(values)),
    )


def _complete(table: Table) -> np.ndarray:
    """Values without a missing one, as lmmlite needs them."""
    if not np.isfinite(table.values).all():
        raise InputError(
            f"{table.name} has missing values, which these functions do not take (nor does "
            "lmmlite): use flashmm.rotate_by_kinship."
        )
    return table.values


def _named(values: np.ndarray, table: Table) -> np.ndarray | pd.DataFrame:
    if table.columns is None:
        return values
    return pd.DataFrame(values, columns=list(table.columns))


def _shift(rotation: KinshipRotation, reml: bool) -> float:
    """What lmmlite's REML log-likelihood has beyond -½(ν log RSS + Σ log D), D of RKR."""
    # -½(n log RSS + log|V|) + ½(p log(2πσ²) + log|X'X| - log|X'SX|), σ² = RSS/ν
    if not reml:
        return 0.0
    design = rotation.blocks[0].design
    p = design.n_individuals - design.df_residual
    return float(0.5 * p * np.log(2 * np.pi / design.df_residual))


def _beta(fit: KinshipFit) -> np.ndarray:
    return fit.coef[0] if len(fit.coef) == 1 else fit.coef.T


def _scalar(values: np.ndarray) -> Any:
    return float(values[0]) if len(values) == 1 else values
