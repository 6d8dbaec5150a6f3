"""A multi-trait model before its covariances are known: unit scales, one rotation.

Inside, every trait has residual variance one, covariates and trait design have orthonormal columns
and GG' has mean diagonal one, so that nothing depends on the units of the data. The conversion to
and from those units is here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import qr, solve_triangular

from flashmm.kernels.kronecker import Evaluation, RotatedTraits, rotation_basis
from flashmm.kernels.rotation import RANK_TOLERANCE, independent_columns
from flashmm.multitrait.inputs import Inputs, read_inputs, read_trait_design
from flashmm.names import listed
from flashmm.options import DesignError, InputError, note

# Part of a trait's sum of squares that X must leave, beyond rounding.
NOTHING_LEFT = 1e-12
# Rows and columns of a dense covariance matrix above which it is not made.
MAX_DENSE = 20_000


@dataclass(frozen=True, eq=False)
class TraitModel:
    """A multi-trait model before its covariances are known, in unit scales and rotated.

    Attributes
    ----------
    inputs : Inputs
        The data, complete and matched.
    A : (p, a) array
        Trait design.
    effects : tuple of str
        Names of its columns.
    kept : (c,) bool array
        Covariates that do not depend on those before them.
    scale : (p,) array
        Standard deviation of each trait beside X.
    G_scale : float
        Root of the mean diagonal of GG'.
    X_unit, X_root : (n, c) and (c, c) arrays
        X = X_unit X_root (kept columns), orthonormal times upper triangular.
    A_unit, A_root : (p, a) and (a, a) arrays
        The same of A with rows divided by `scale`.
    B_shift : (c, a) array
        Fixed effects, in unit scales, that were subtracted before the rotation.
    T : (n, m) array
        Basis of the rotation.
    traits : RotatedTraits
        The rotated data.
    bounded : bool
        Whether the likelihood stays finite as C₁ becomes singular.
    notes : tuple of str
        What was decided for the user.
    """

    inputs: Inputs
    A: np.ndarray
    effects: tuple[str, ...]
    kept: np.ndarray
    scale: np.ndarray
    G_scale: float
    X_unit: np.ndarray
    X_root: np.ndarray
    A_unit: np.ndarray
    A_root: np.ndarray
    B_shift: np.ndarray
    T: np.ndarray
    traits: RotatedTraits
    bounded: bool
    notes: tuple[str, ...]

    @property
    def n_subjects(self) -> int:
        """Number of subjects n."""
        return len(self.X_unit)

    def evaluate(self, L0: np.ndarray, L1: np.ndarray) -> Evaluation:
        """Evaluate the model at C₀ = L₀L₀' and C₁ = L₁L₁' in the units of the data."""
        return self.traits.evaluate(*self.unit_roots(L0, L1))

    def unit_roots(self, L0: np.ndarray, L1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Roots in unit scales of roots in the units of the data."""
        return L0 * self.G_scale / self.scale[:, None], L1 / self.scale[:, None]

    def roots(self, state: Evaluation) -> tuple[np.ndarray, np.ndarray]:
        """L₀ and L₁ in the units of the data."""
        return state.L0 / self.G_scale * self.scale[:, None], state.L1 * self.scale[:, None]

    def gradients(self, state: Evaluation) -> tuple[np.ndarray, np.ndarray]:
        """Derivatives of the log-likelihood in C₀ and C₁, in the units of the data."""
        dC0, dC1 = state.gradients
        pairs = np.outer(self.scale, self.scale)
        return dC0 * self.G_scale**2 / pairs, dC1 / pairs

    def loglik(self, state: Evaluation) -> float:
        """Log-likelihood of the data as they were given."""
        return state.loglik - self.volume - (self.design_volume if self.traits.reml else 0.0)

    def rescaled(
        self, state: Evaluation, reduction: np.ndarray | float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ML factor s of the covariance and the ML log-likelihood with it.

        Parameters
        ----------
        state : Evaluation
            The model.
        reduction : array or float
            By how much further fixed effects reduce Q = r'K⁻¹r.
        """
        # l(s) = -½ [np log(2πs) + log|K| + Q/s] is largest at s = Q/(np)
        size = self.n_subjects * len(self.scale)
        scale = (state.Q - np.asarray(reduction)) / size
        loglik = -0.5 * (size * (np.log(2 * np.pi * scale) + 1.0) + state.log_det)
        return scale, loglik - self.volume

    @property
    def volume(self) -> float:
        """How much the unit scales add to a log-likelihood, n Σ log scale."""
        return self.n_subjects * float(np.log(self.scale).sum())

    @property
    def design_volume(self) -> float:
        """Half of log |M'M| in the units of the data over that in unit scales."""
        a, c = len(self.A_root), len(self.X_root)
        X_volume = float(np.log(np.abs(np.diag(self.X_root))).sum())
        return a * X_volume + c * float(np.log(np.abs(np.diag(self.A_root))).sum())

    @property
    def log_det_design(self) -> float:
        """log |M'M|, M = A ⊗ X with the kept columns."""
        a, c = self.A.shape[1], int(self.kept.sum())
        X_part = 2 * float(np.log(np.abs(np.diag(self.X_root))).sum())
        return a * X_part + c * float(np.linalg.slogdet(self.A.T @ self.A)[1])

    @property
    def coefficient_basis(self) -> np.ndarray:
        """Turns vec(B) in unit scales into that of the kept covariates, (a·c, a·c)."""
        # B = R⁻¹ B̃ R_A⁻ᵀ, so vec(B) = (R_A⁻¹ ⊗ R⁻¹) vec(B̃)
        return np.kron(_inverse(self.A_root), _inverse(self.X_root))

    def coefficients(self, state: Evaluation) -> np.ndarray:
        """Fixed effects B (c, a) in the units of the data; NaN for aliased covariates."""
        found = np.full((len(self.kept), self.A.shape[1]), np.nan)
        unit = state.B + self.B_shift
        found[self.kept] = _inverse(self.X_root) @ unit @ _inverse(self.A_root).T
        return found

    def coefficient_cov(self, state: Evaluation) -> np.ndarray:
        """Covariance of vec(B), (a·c, a·c); NaN for aliased covariates."""
        basis = self.coefficient_basis
        kept = np.tile(self.kept, self.A.shape[1])
        found = np.full((len(kept), len(kept)), np.nan)
        found[np.ix_(kept, kept)] = basis @ state.H_inverse @ basis.T
        return found

    def mean(self, B: np.ndarray) -> np.ndarray:
        """Mean X B A' (n, p); aliased covariates take no part."""
        return self.inputs.X.values[:, self.kept] @ B[self.kept] @ self.A.T

    def covariance(self, C0: np.ndarray, C1: np.ndarray) -> np.ndarray:
        """Dense covariance C₀ ⊗ GG' + C₁ ⊗ I of vec(Y), (n·p, n·p).

        Raises
        ------
        InputError
            n·p is too large for a dense matrix.
        """
        size = self.n_subjects * len(self.scale)
        if size > MAX_DENSE:
            raise InputError(
                f"The covariance would have {size} rows and columns ({size**2 * 8 / 2**30:.0f} "
                "GB). It is C0 ⊗ GG' + C1 ⊗ I: work with its parts C0, C1 and G."
            )
        G = self.inputs.G.values
        return np.kron(C0, G @ G.T) + np.kron(C1, np.eye(self.n_subjects))

    def unit_design(self, A1: np.ndarray) -> np.ndarray:
        """A trait design with rows divided by the scale of the traits."""
        return A1 / self.scale[:, None]


def _inverse(root: np.ndarray) -> np.ndarray:
    return np.asarray(solve_triangular(root, np.eye(len(root))))


def build_model(
    Y: Any, X: Any, G: Any, A: Any, method: str, missing: str, rank: int = 1
) -> TraitModel:
    """Check the inputs, take their units away and rotate.

    Parameters
    ----------
    Y, X, G, A, method, missing, rank
        As in `fit_multitrait_lmm`.

    Returns
    -------
    TraitModel
        Ready to be evaluated at any pair of covariances.

    Raises
    ------
    InputError
        Inputs that cannot be used.
    DesignError
        A model that cannot be fitted to them.
    """
    if method not in ("REML", "ML"):
        raise InputError(f"method must be one of REML, ML; found {method!r}.")
    inputs = read_inputs(Y, X, G, missing)
    design, effects = read_trait_design("A", A, inputs.Y.names)
    kept, notes = _independent_covariates(inputs)
    notes += _note_kinship(inputs.G.values)
    X_unit, X_root = qr(inputs.X.values[:, kept], mode="economic")
    residual = inputs.Y.values - X_unit @ (X_unit.T @ inputs.Y.values)
    residual -= X_unit @ (X_unit.T @ residual)
    _check_traits(inputs, residual, X_unit.shape[1])
    scale = np.sqrt((residual**2).sum(0) / (len(residual) - X_unit.shape[1]))
    G_unit, G_scale = _unit_root(inputs.G.values, X_unit, rank)
    A_unit, A_root = qr(design / scale[:, None], mode="economic")
    # What the fixed effects can reach is subtracted, so that large means leave no rounding errors.
    Y_unit = inputs.Y.values / scale
    B_shift = X_unit.T @ Y_unit @ A_unit
    Y_unit -= X_unit @ B_shift @ A_unit.T
    T, values = rotation_basis(G_unit, np.hstack([X_unit, Y_unit / np.sqrt(len(Y_unit))]))
    traits = RotatedTraits(
        values, T.T @ Y_unit, T.T @ X_unit, A_unit, len(Y_unit), method == "REML"
    )
    bounded, said = _check_bounded(inputs, traits, rank)
    return TraitModel(
        inputs=inputs,
        A=design,
        effects=effects,
        kept=kept,
        scale=scale,
        G_scale=G_scale,
        X_unit=X_unit,
        X_root=X_root,
        A_unit=A_unit,
        A_root=A_root,
        B_shift=B_shift,
        T=T,
        traits=traits,
        bounded=bounded,
        notes=inputs.notes + notes + said,
    )


def _independent_covariates(inputs: Inputs) -> tuple[np.ndarray, tuple[str, ...]]:
    """Covariates that do not depend on those before them; the others are said."""
    X, names = inputs.X.values, inputs.X.names
    kept = independent_columns(X.T @ X)
    if not kept.any():
        raise DesignError("X is zero throughout: give at least a column of ones.")
    n, c = len(X), int(kept.sum())
    if n - c < 1:
        raise DesignError(
            f"{n} subjects and {c} independent covariates leave nothing to estimate variances "
            "from: use fewer covariates or more subjects."
        )
    if kept.all():
        return kept, ()
    lost = listed(names[j] for j in np.flatnonzero(~kept))
    text = f"Covariates that depend on those before them are left out, their effects NaN: {lost}."
    return kept, (note(text),)


def _check_traits(inputs: Inputs, residual: np.ndarray, c: int) -> None:
    """Refuse traits without variance of their own: C₁ could not have full rank."""
    Y, names = inputs.Y.values, inputs.Y.names
    n, p = Y.shape
    if n - c < p:
        raise DesignError(
            f"{n} subjects less {c} covariates are fewer than {p} traits, so their residual "
            "covariance cannot have full rank: use fewer traits or more subjects."
        )
    left, whole = (residual**2).sum(0), (Y**2).sum(0)
    for j in np.flatnonzero(left <= NOTHING_LEFT * whole):
        what = "is constant" if np.ptp(Y[:, j]) == 0 else "is explained exactly by the covariates"
        raise DesignError(f"Trait {names[j]!r} {what}; leave it out.")
    kept = independent_columns(residual.T @ residual)
    if not kept.all():
        lost = listed(names[j] for j in np.flatnonzero(~kept))
        raise DesignError(
            f"Traits that are linear combinations of those before them: {lost}. A joint model "
            "needs traits with variance of their own; leave them out."
        )


def _unit_root(G: np.ndarray, X_unit: np.ndarray, rank: int) -> tuple[np.ndarray, float]:
    """G over the root of the mean diagonal of GG', if C₀ can be told from C₁."""
    G_scale = float(np.sqrt((G**2).sum() / len(G)))
    if G_scale == 0.0:
        if rank:
            raise DesignError("G is zero throughout: use rank=0 for a model without C0.")
        return G, 1.0
    unit = G / G_scale
    left = unit - X_unit @ (X_unit.T @ unit)
    free, total = len(G) - X_unit.shape[1], float((left**2).sum())
    if rank and total <= RANK_TOLERANCE * len(G):
        raise DesignError(
            "G lies in the span of the covariates, so nothing of it is left to estimate C0 from."
        )
    # all eigenvalues λ of what X leaves of GG' are equal where ν Σλ² = (Σλ)²
    small = left.T @ left if G.shape[1] < len(G) else left @ left.T
    if rank and free * float((small**2).sum()) <= total**2 * (1 + 1e-9):
        raise DesignError(
            "GG' is a multiple of the identity beside the covariates, so that C0 and C1 cannot be "
            "told apart: give a G in which some subjects are more alike than others."
        )
    return unit, G_scale


def _note_kinship(G: np.ndarray) -> tuple[str, ...]:
    """Say so where G looks like a kinship matrix and not like a root of one."""
    square = G.shape[0] == G.shape[1] > 1
    if not square or not np.allclose(G, G.T) or np.allclose(G, np.diag(np.diag(G))):
        return ()
    return (
        note(
            "G is square and symmetric, as a kinship matrix is, but the covariance between "
            "subjects is GG': for a kinship matrix give a root of it, such as its eigenvectors "
            "times the square roots of its eigenvalues."
        ),
    )


def _check_bounded(
    inputs: Inputs, traits: RotatedTraits, rank: int
) -> tuple[bool, tuple[str, ...]]:
    """Whether the likelihood stays finite as C₁ becomes singular; else it is said.

    Directions outside G have covariance C₁ alone. Where the residuals in them span fewer dimensions
    than there are traits, C₁ → 0 along the others costs nothing there and C₀ covers the rest.
    """
    null = traits.values == 0
    outside = int(null.sum()) + traits.unseen
    X, Y = traits.X[null], traits.Y[null]
    U, roots, _ = np.linalg.svd(X, full_matrices=False)
    U = U[:, roots > 1e-8]
    free = outside - U.shape[1]
    counted = free if traits.reml else outside
    if not rank or not counted:
        return True, ()
    residual = Y - U @ (U.T @ Y)
    p = Y.shape[1]
    spanned = int(independent_columns(residual.T @ residual + 0.0).sum()) if free else 0
    small = np.sqrt((residual**2).sum(0)) <= 1e-8 * np.sqrt((traits.Y**2).sum(0))
    if free >= p and (spanned < p or small.any()):
        lost = np.flatnonzero(small)
        name = repr(inputs.Y.names[lost[0]]) if len(lost) else "A combination of the traits"
        raise DesignError(
            f"{name} is explained exactly by the covariates and G, so no C1 of full rank exists; "
            "leave a trait out, or give a G with fewer columns."
        )
    if spanned == p:
        return True, ()
    advice = " Use method='REML'." if not free and not traits.reml else ""
    text = (
        f"G leaves {outside} direction{'s' * (outside > 1)} free, of which {free} beside the "
        f"covariates: too few for {p} traits, and the likelihood grows without bound as C1 becomes "
        f"singular. The fit is a local maximum, or sits at a limit for C1.{advice}"
    )
    return False, (note(text),)
