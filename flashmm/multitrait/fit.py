"""Fit several traits together: vec(Y) ~ N((A ⊗ X) vec(B), C₀ ⊗ GG' + C₁ ⊗ I)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy.linalg import LinAlgError, cholesky, eigh

from flashmm.kernels.kronecker import Evaluation
from flashmm.kernels.kronecker_search import climb
from flashmm.kernels.threads import single_blas_thread
from flashmm.multitrait.model import TraitModel, build_model
from flashmm.multitrait.scan import scan
from flashmm.options import InputError, Status, checked
from flashmm.shown import Shown

# Eigenvalue of a covariance, relative to the largest, that is rounding and not its own.
ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class MultiTraitFit(Shown):
    """A joint linear mixed model of several traits, fitted by (restricted) likelihood.

    Attributes
    ----------
    B : (c, a) array
        Fixed effects: covariates × columns of the trait design. NaN for aliased covariates.
    cov : (a·c, a·c) array
        Covariance of vec(B), the columns of B one after another: (M'K⁻¹M)⁻¹, M = A ⊗ X.
    C0, C1 : (p, p) arrays
        Covariance between traits of what goes with GG', and of what does not.
    loglik : float
        Maximised log-likelihood with all constants, as lme4's ``logLik``; REML holds
        -½ log |M'K⁻¹M|.
    status : str
        A `Status`: "ok", "boundary" (C₁ at its limit of full rank, or C₀ of a smaller rank than
        it may have) or "not_converged".
    n_iter : int
        Evaluations of likelihood and gradient, over all starts.
    gradient_norm : float
        Largest derivative in the roots of C₀ and C₁, traits scaled to unit residual variance.
    decrement : float
        Newton decrement of the log-likelihood where the search stopped.
    start_logliks : (starts,) array
        What each start reached, best first, before the best was polished.
    rank : int
        Largest rank that C₀ could have.
    method : {"REML", "ML"}
        Which likelihood.
    traits, trait_effects, covariates : tuple of str
        Names of the columns of Y, A and X.
    aliased : tuple of str
        Covariates that depend on those before them.
    subjects : pandas.Index
        Names of the rows that were used.
    model : TraitModel
        The data, matched and rotated.
    state : Evaluation
        The rotated model at its optimum.
    notes : tuple of str
        What was decided for the user.
    """

    B: np.ndarray
    cov: np.ndarray
    C0: np.ndarray
    C1: np.ndarray
    loglik: float
    status: str
    n_iter: int
    gradient_norm: float
    decrement: float
    start_logliks: np.ndarray
    rank: int
    method: str
    traits: tuple[str, ...]
    trait_effects: tuple[str, ...]
    covariates: tuple[str, ...]
    aliased: tuple[str, ...]
    subjects: pd.Index
    model: TraitModel
    state: Evaluation
    notes: tuple[str, ...] = ()

    @property
    def n_subjects(self) -> int:
        """Number of subjects n."""
        return len(self.subjects)

    @property
    def converged(self) -> bool:
        """Whether the search ended at a maximum, inside or at a limit."""
        return self.status != Status.NOT_CONVERGED

    @property
    def std_error(self) -> np.ndarray:
        """Standard errors of B, (c, a)."""
        return np.sqrt(np.diag(self.cov)).reshape(self.B.shape, order="F")

    @property
    def heritability(self) -> np.ndarray:
        """Share of each trait's variance that goes with GG', (p,): C₀ and C₁ weighted alike.

        GG' counts with its mean diagonal d: h² = d C₀ / (d C₀ + C₁) on the diagonal.
        """
        genetic = self.model.G_scale**2 * np.diag(self.C0)
        return genetic / (genetic + np.diag(self.C1))

    @cached_property
    def mean(self) -> np.ndarray:
        """Fitted mean X B A', (n, p)."""
        return self.model.mean(self.B)

    def covariance(self) -> np.ndarray:
        """Make the dense covariance K of vec(Y).

        Returns
        -------
        (n·p, n·p) array
            C₀ ⊗ GG' + C₁ ⊗ I, traits one after another.

        Raises
        ------
        InputError
            n·p is too large for a dense matrix.
        """
        return self.model.covariance(self.C0, self.C1)

    def scan(
        self,
        candidates: Any,
        A1: Any = None,
        *,
        columns_per_test: int = 1,
        test: str = "lrt",
        covariates: bool = False,
        progress: bool | None = None,
    ) -> Any:
        """Add candidate columns to the model, one after another, and test their effects.

        The mean becomes (A ⊗ X) vec(B) + (A₁ ⊗ x) α. The covariance is the fitted one up to a
        factor, estimated anew for every candidate; C₀ and C₁ are not fitted again.

        Parameters
        ----------
        candidates : (n, N) array, sparse matrix or DataFrame
            Variants, covariates …; rows as those of Y given to the fit (or of the subjects used),
            matched by name where both have names.
        A1 : (p, a₁) array, "any", "common" or dict of these, optional
            Trait design of the candidates: one effect per trait ("any", the default), one for all
            ("common"), or columns of your own. A dictionary tests several designs in one pass.
        columns_per_test : int
            Columns in a row that make one candidate and are tested together.
        test : {"lrt", "f"}
            Likelihood ratio against χ², or F, which given C₀ and C₁ is exact.
        covariates : bool
            Also keep the effects of X beside each candidate.
        progress : bool, optional
            Show a progress bar; by default where the output is a terminal.

        Returns
        -------
        TraitScan, or dict of TraitScan
            One result per trait design.

        Raises
        ------
        InputError
            Candidates or a trait design that do not match the model, an unknown option.
        """
        return scan(
            self.model,
            self.state,
            candidates,
            A1,
            columns_per_test=columns_per_test,
            test=test,
            covariates=covariates,
            progress=progress,
        )

    def to_frame(self) -> pd.DataFrame:
        """Fixed effects: one row per covariate and trait effect.

        Returns
        -------
        pandas.DataFrame
            Columns covariate, trait_effect, estimate, std_error.
        """
        c, a = self.B.shape
        return pd.DataFrame(
            {
                "covariate": np.tile(np.array(self.covariates, dtype=object), a),
                "trait_effect": np.repeat(np.array(self.trait_effects, dtype=object), c),
                "estimate": self.B.ravel(order="F"),
                "std_error": self.std_error.ravel(order="F"),
            }
        )

    def __repr__(self) -> str:
        return (
            f"MultiTraitFit({self.method}, {len(self.traits)} traits × {self.n_subjects} subjects, "
            f"rank {self.rank}: {self.status}, loglik {self.loglik:.4f})"
        )


@checked
def fit_multitrait_lmm(
    Y: Any,
    X: Any,
    G: Any,
    A: Any = None,
    rank: int = 1,
    method: str = "REML",
    *,
    n_starts: int = 5,
    seed: int = 0,
    start: tuple[Any, Any] | None = None,
    missing: str = "error",
    max_iter: int = 500,
) -> MultiTraitFit:
    """Fit vec(Y) ~ N((A ⊗ X) vec(B), C₀ ⊗ GG' + C₁ ⊗ I).

    Parameters
    ----------
    Y : (n, p) array or DataFrame
        Traits (genes, cell types, phenotypes) of n subjects.
    X : (n, c) array or DataFrame
        Covariates; no intercept is added.
    G : (n, r) array, sparse matrix or DataFrame
        Root of the covariance between subjects, such as standardised genotypes. For a kinship
        matrix give a root of it.
    A : (p, a) array or DataFrame, optional
        Trait design; by default the identity, one effect of every covariate on every trait.
    rank : int
        Largest rank of C₀, 0 … p.
    method : {"REML", "ML"}
        Restricted or full maximum likelihood.
    n_starts : int
        Starts of the search: one by moments, the others at random.
    seed : int
        Of the random starts.
    start : (C0, C1), optional
        Covariances to start from in place of the moments.
    missing : {"error", "drop"}
        Refuse missing values, or use the subjects that have none and say how many are left out.
    max_iter : int
        Limit of the quasi-Newton iterations per start.

    Returns
    -------
    MultiTraitFit
        Estimates, log-likelihood and how the search ended.

    Raises
    ------
    InputError
        Inputs or options that cannot be used; the message names the argument and the columns.
    DesignError
        Traits, covariates or a G from which the model cannot be estimated.

    Notes
    -----
    The model of Casale et al. 2015 (Nat. Methods 12:755). The rotation is computed once; then an
    evaluation of likelihood and gradient costs O(m p²), m the rank of G plus c + p. Rows are
    matched by name where data frames have named rows, else by position.
    """
    rank = _checked_options(rank, n_starts, seed, max_iter)
    with single_blas_thread():
        model = build_model(Y, X, G, A, method, missing, rank)
        if rank > len(model.scale):
            raise InputError(
                f"rank is {rank} and there are {len(model.scale)} traits: C0 cannot have a rank "
                "above the number of traits."
            )
        begin = None if start is None else model.unit_roots(*_start_roots(start, model, rank))
        return maximise(model, rank, n_starts, seed, begin, max_iter)


def maximise(
    model: TraitModel,
    rank: int,
    n_starts: int = 5,
    seed: int = 0,
    begin: tuple[np.ndarray, np.ndarray] | None = None,
    max_iter: int = 500,
) -> MultiTraitFit:
    """Fit a model that is built: search its covariances and convert them to the data's units.

    Parameters
    ----------
    model : TraitModel
        Of `build_model`.
    rank, n_starts, seed, max_iter
        As in `fit_multitrait_lmm`.
    begin : (L0, L1), optional
        Roots to start from, in the model's unit scales.

    Returns
    -------
    MultiTraitFit
        The best optimum found.
    """
    rng = np.random.default_rng(seed)
    found = climb(model.traits, rank, n_starts, rng, begin, max_iter, model.bounded)
    L0, L1 = model.roots(found.state)
    status = Status.BOUNDARY if found.boundary else Status.OK
    names = np.array(model.inputs.X.names, dtype=object)
    return MultiTraitFit(
        B=model.coefficients(found.state),
        cov=model.coefficient_cov(found.state),
        C0=L0 @ L0.T,
        C1=L1 @ L1.T,
        loglik=model.loglik(found.state),
        status=str(status if found.converged else Status.NOT_CONVERGED),
        n_iter=found.n_iter,
        gradient_norm=found.gradient_norm,
        decrement=found.decrement,
        start_logliks=found.start_logliks + model.loglik(found.state) - found.state.loglik,
        rank=rank,
        method="REML" if model.traits.reml else "ML",
        traits=model.inputs.Y.names,
        trait_effects=model.effects,
        covariates=model.inputs.X.names,
        aliased=tuple(names[~model.kept]),
        subjects=model.inputs.subjects,
        model=model,
        state=found.state,
        notes=model.notes,
    )


def _checked_options(rank: Any, n_starts: Any, seed: Any, max_iter: Any) -> int:
    whole_numbers = {"rank": (rank, 0), "n_starts": (n_starts, 1), "seed": (seed, 0)}
    for name, (value, least) in {**whole_numbers, "max_iter": (max_iter, 1)}.items():
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not whole or value < least:
            raise InputError(f"{name} must be a whole number of at least {least}; found {value!r}.")
    return int(rank)


def _start_roots(
    start: tuple[Any, Any], model: TraitModel, rank: int
) -> tuple[np.ndarray, np.ndarray]:
    """Roots of two covariances, C₀ as far as its rank goes."""
    p = len(model.scale)
    try:
        C0, C1 = (np.asarray(C, dtype=np.float64) for C in start)
        if C0.shape != (p, p) or C1.shape != (p, p):
            raise ValueError(f"found shapes {C0.shape} and {C1.shape}")
        L1 = cholesky(C1, lower=True)
        return covariance_root(C0, rank), L1
    except (ValueError, TypeError, LinAlgError) as error:
        raise InputError(
            f"start must be two {p} × {p} covariances, C0 and a positive definite C1 ({error})."
        ) from None


def covariance_root(C: np.ndarray, rank: int) -> np.ndarray:
    """L (p, rank) with LL' the part of C along its `rank` largest eigenvalues.

    Raises
    ------
    ValueError
        C has a negative eigenvalue.
    """
    values, vectors = eigh((C + C.T) / 2)
    if values[0] < -ROUNDING * max(abs(values[-1]), 1e-300):
        raise ValueError(f"an eigenvalue of C0 is {values[0]:.3g}")
    columns = slice(len(values) - rank, None)
    return vectors[:, columns] * np.sqrt(np.maximum(values[columns], 0.0))
