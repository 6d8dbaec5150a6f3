"""The interface of glimix-core's `Kron2Sum`, the linear mixed model of several traits.

    from flashmm.compat.glimix import Kron2Sum   # from glimix_core.lmm import Kron2Sum

Restricted log-likelihoods hold +½ log |M'M|, and parameters are those of glimix-core 3.1: L₀ times
m = max(min G, max G), and the root of C₁ - εI with logarithms on its diagonal. Both are converted
here and nowhere else. The optimiser is flashmm's: it reaches the maximum where that of the original
stays at a C₀ of rank one.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
from scipy.linalg import LinAlgError, cholesky

from flashmm.kernels.kronecker import Evaluation
from flashmm.kernels.threads import single_blas_thread
from flashmm.multitrait.fit import maximise
from flashmm.multitrait.model import TraitModel, build_model
from flashmm.multitrait.scan import TraitScan, scan
from flashmm.options import InputError

# C₁ = L₁L₁' + εI in the original.
EPSILON = float(np.sqrt(np.finfo(float).eps)) * 1000.0


class Kron2Sum:
    """Linear mixed model vec(Y) ~ N((A ⊗ X) vec(B), C₀ ⊗ GG' + C₁ ⊗ I).

    Parameters
    ----------
    Y : (n, p) array_like
        Traits.
    A : (p, p) array_like
        Trait design.
    X : (n, c) array_like
        Covariates.
    G : (n, r) array_like
        Root of the covariance between samples.
    rank : int
        Largest rank of C₀; numbers above p are p.
    restricted : bool
        Restricted in place of full maximum likelihood.

    Raises
    ------
    InputError, DesignError
        Data that the model cannot be fitted to.
    """

    def __init__(
        self, Y: Any, A: Any, X: Any, G: Any, rank: int = 1, restricted: bool = False
    ) -> None:
        if isinstance(rank, bool) or not isinstance(rank, int | np.integer) or rank < 0:
            raise InputError(f"rank must be a whole number of at least 0; found {rank!r}.")
        method = "REML" if restricted else "ML"
        with single_blas_thread():
            self._model: TraitModel = build_model(Y, X, G, A, method, "error", int(rank))
        G_values = self._model.inputs.G.values
        self._unit = float(max(G_values.min(), G_values.max())) or 1.0
        p = self.ntraits
        self._rank = min(int(rank), p)
        L1 = cholesky(np.tri(p) @ np.tri(p).T + EPSILON * np.eye(p), lower=True)
        self._place(np.ones((p, self._rank)) / self._unit, L1)

    def _place(self, L0: np.ndarray, L1: np.ndarray) -> None:
        """Evaluate the model at C₀ = L₀L₀' and C₁ = L₁L₁'."""
        self._state: Evaluation = self._model.evaluate(L0, L1)

    # ---- what the original offers ------------------------------------------------------------

    def fit(self, verbose: bool = True) -> None:
        """Maximise the marginal likelihood; `verbose` prints how the search ended."""
        with single_blas_thread():
            found = maximise(self._model, self._rank)
        self._state = found.state
        if verbose:
            print(found)

    def lml(self) -> float:
        """Log of the marginal likelihood."""
        found = self._model.loglik(self._state)
        if self._model.traits.reml:
            found += 0.5 * self._model.log_det_design
        return found

    def value(self) -> float:
        """Log of the marginal likelihood."""
        return self.lml()

    def gradient(self) -> dict[str, np.ndarray]:
        """Gradient of `lml` in the parameters of the original, "C0.Lu" and "C1.Lu"."""
        dC0, dC1 = self._model.gradients(self._state)
        L0, L1 = self._model.roots(self._state)
        with suppress(LinAlgError):  # C₁ smaller than the original allows keeps its own root
            L1 = cholesky(L1 @ L1.T - EPSILON * np.eye(len(L1)), lower=True)
        lower = 2 * dC1 @ L1
        # L₀ = Lu/m;  L₁[j, j] = exp(Lu), so that d/dLu = L₁[j, j] d/dL₁[j, j]
        return {
            "C0.Lu": (2 * dC0 @ L0 / self._unit).ravel(),
            "C1.Lu": np.concatenate(
                [lower[np.tril_indices(len(L1), -1)], np.diag(lower) * np.diag(L1)]
            ),
        }

    def mean(self) -> np.ndarray:
        """Mean (A ⊗ X) vec(B), (n·p,), traits one after another."""
        return self._model.mean(self.B).ravel("F")

    def covariance(self) -> np.ndarray:
        """Covariance C₀ ⊗ GG' + C₁ ⊗ I, (n·p, n·p)."""
        return self._model.covariance(self.C0, self.C1)

    def get_fast_scanner(self) -> FastScanner:
        """Scanner of candidates with the present covariance, up to a factor."""
        return FastScanner(self._model, self._state)

    @property
    def A(self) -> np.ndarray:
        """Trait design, (p, p)."""
        return self._model.A

    @property
    def X(self) -> np.ndarray:
        """Covariates, (n, c)."""
        return self._model.inputs.X.values

    @property
    def M(self) -> np.ndarray:
        """A ⊗ X, (n·p, p·c)."""
        return np.kron(self.A, self.X)

    @property
    def B(self) -> np.ndarray:
        """Fixed effects, (c, p)."""
        return self._model.coefficients(self._state)

    @property
    def beta(self) -> np.ndarray:
        """vec(B), (c·p,)."""
        return self.B.ravel("F")

    @property
    def beta_covariance(self) -> np.ndarray:
        """Covariance of `beta`, (c·p, c·p)."""
        return self._model.coefficient_cov(self._state)

    @property
    def C0(self) -> np.ndarray:
        """C₀, (p, p)."""
        L0, _ = self._model.roots(self._state)
        return L0 @ L0.T

    @property
    def C1(self) -> np.ndarray:
        """C₁, (p, p)."""
        _, L1 = self._model.roots(self._state)
        return L1 @ L1.T

    @property
    def name(self) -> str:
        """Name of the function."""
        return "Kron2Sum"

    @property
    def ncovariates(self) -> int:
        """Number of covariates c."""
        return self.X.shape[1]

    @property
    def nsamples(self) -> int:
        """Number of samples n."""
        return self.X.shape[0]

    @property
    def ntraits(self) -> int:
        """Number of traits p."""
        return len(self._model.scale)


class FastScanner:
    """Scanner of candidates, as `Kron2Sum.get_fast_scanner` returns it."""

    def __init__(self, model: TraitModel, state: Evaluation) -> None:
        self._model, self._state = model, state

    def scan(self, A1: Any, X1: Any) -> dict[str, Any]:
        """Test a set of candidates together.

        Parameters
        ----------
        A1 : (p, e) array_like
            Trait design of the candidates.
        X1 : (n, m) array_like
            Candidates.

        Returns
        -------
        dict
            ``lml``, ``effsizes0`` (c, p) and ``effsizes1`` (m, e) with their standard errors
            ``effsizes0_se`` and ``effsizes1_se``, and ``scale``. NaN where X and the candidates
            depend on each other.
        """
        X1 = np.asarray(X1, dtype=np.float64)
        found = self._scan(A1, X1[:, None] if X1.ndim == 1 else X1)
        assert found.covariate_coef is not None and found.covariate_std_error is not None
        shape = (-1, X1.shape[1] if X1.ndim == 2 else 1)
        return {
            "lml": float(found.loglik[0]),
            "effsizes0": found.covariate_coef[0],
            "effsizes1": found.coef[0].reshape(shape).T,
            "scale": float(found.scale[0]),
            "effsizes0_se": found.covariate_std_error[0],
            "effsizes1_se": found.std_error[0].reshape(shape).T,
        }

    def _scan(self, A1: Any, X1: np.ndarray) -> TraitScan:
        found = scan(
            self._model,
            self._state,
            X1,
            A1,
            columns_per_test=X1.shape[1],
            test="lrt",
            covariates=True,
            progress=False,
        )
        assert isinstance(found, TraitScan)
        return found

    def null_lml(self) -> float:
        """Log of the marginal likelihood without candidates, the factor at its best."""
        return float(self._model.rescaled(self._state)[1])

    @property
    def null_scale(self) -> float:
        """Factor of the covariance without candidates."""
        return float(self._model.rescaled(self._state)[0])

    @property
    def null_beta(self) -> np.ndarray:
        """vec(B) without candidates, (c·p,)."""
        return self._model.coefficients(self._state).ravel("F")

    @property
    def null_beta_covariance(self) -> np.ndarray:
        """Covariance of `null_beta`, (c·p, c·p)."""
        return self.null_scale * self._model.coefficient_cov(self._state)

    @property
    def null_beta_se(self) -> np.ndarray:
        """Standard errors of `null_beta`, (c·p,)."""
        return np.sqrt(np.diag(self.null_beta_covariance))
