"""The fitted kinship models of many traits: a record, and blocks of its traits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from scipy import special

from flashmm.kernels.ddf import invert_information
from flashmm.kernels.empirical_bayes_points import DiagonalPoints, Points
from flashmm.kernels.engine import VarianceForms, take
from flashmm.kernels.kinship import KinshipEngine, KinshipTraits
from flashmm.kernels.threads import single_blas_thread
from flashmm.kinship.data import as_numbers
from flashmm.kinship.rotation import KinshipBlock, KinshipRotation
from flashmm.lmm import FITTED
from flashmm.options import FitOptions, InputError, Status, checked
from flashmm.shown import Shown

COMPONENTS = ("kinship", "residual")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class KinshipFit(Shown):
    """Models y = Xβ + g + ε, Cov(g) = σ²_g K, Cov(ε) = σ²_e I, of all traits.

    Attributes
    ----------
    coef : (traits, p) array
        Fixed effects β̂; NaN for aliased coefficients and traits without a fit.
    theta : (traits, 2) array
        σ²_g and, last, σ²_e.
    h2 : (traits,) array
        σ²_g/(σ²_g + σ²_e).
    h2_std_error : (traits,) array
        Its standard error from the expected information; read with care at 0 and 1, where the
        interval is the better account.
    fisher_information : (traits, 2, 2) array
        Expected information of theta.
    loglik : (traits,) array
        Maximised log-likelihood with all constants, as lme4's ``logLik`` (REML or ML).
    loglik_without_constants : (traits,) array
        -½(m log Q + log|V_h| …) with the total variance profiled out, V_h = h²K + (1 - h²)I: what
        varies with h².
    status : (traits,) array of str
        One `Status` per trait; "boundary" is h² = 0 or 1.
    n_iter : (traits,) int array
        Evaluations of the derivatives by the optimiser.
    decrement : (traits,) array
        Newton decrement of the log-likelihood where the optimiser stopped.
    df_residual : (traits,) array
        Individuals with a value minus the rank of their X; NaN for traits without a fit.
    rotation : KinshipRotation
        What was fitted.
    options : FitOptions
        How it was fitted.
    notes : tuple of str
        What was decided for the user.
    """

    coef: np.ndarray
    theta: np.ndarray
    h2: np.ndarray
    h2_std_error: np.ndarray
    fisher_information: np.ndarray
    loglik: np.ndarray
    loglik_without_constants: np.ndarray
    status: np.ndarray
    n_iter: np.ndarray
    decrement: np.ndarray
    df_residual: np.ndarray
    rotation: KinshipRotation
    options: FitOptions
    notes: tuple[str, ...] = ()

    components = COMPONENTS
    # no groups of cells stand behind a kinship model
    stats = None

    @property
    def traits(self) -> pd.Index:
        """Names of the traits."""
        return self.rotation.traits

    @property
    def genes(self) -> pd.Index:
        """The traits, under the name that tables of tests use."""
        return self.rotation.traits

    @property
    def coefficients(self) -> tuple[str, ...]:
        """Names of the columns of X, aliased ones included."""
        return self.rotation.coefficients

    @property
    def coefficient_columns(self) -> tuple[frozenset[str], ...]:
        """The data column that each coefficient holds: itself."""
        return tuple(frozenset({name}) for name in self.coefficients)

    @property
    def sigma2_g(self) -> np.ndarray:
        """Genetic variance, (traits,)."""
        return self.theta[:, 0]

    @property
    def sigma2_e(self) -> np.ndarray:
        """Residual variance, (traits,)."""
        return self.theta[:, 1]

    @property
    def sigma2(self) -> np.ndarray:
        """Total variance σ²_g + σ²_e, (traits,)."""
        return self.theta.sum(1)

    @property
    def fitted(self) -> np.ndarray:
        """Traits whose estimates can be used for inference, (traits,) bool."""
        return np.isin(self.status, FITTED)

    @property
    def estimable(self) -> np.ndarray:
        """Coefficients that were estimated, (p,) bool."""
        return ~np.isin(np.array(self.coefficients, dtype=object), self.rotation.aliased)

    @cached_property
    def cov(self) -> np.ndarray:
        """Covariance of the fixed effects (traits, p, p), made on demand."""
        p = len(self.coefficients)
        full = np.full((len(self.traits), p, p), np.nan)
        for part in self.test_blocks():
            kept = np.flatnonzero(part.kept)
            covariance = part.block.covariance(part.engine.covariance(part.theta))
            full[np.ix_(part.index, kept, kept)] = covariance
        return full

    @property
    def std_error(self) -> np.ndarray:
        """Standard errors of the fixed effects, (traits, p)."""
        with np.errstate(invalid="ignore"):
            return np.sqrt(np.einsum("gpp->gp", self.cov))

    @cached_property
    def theta_cov(self) -> np.ndarray:
        """Asymptotic covariance of `theta`: the inverse of the expected information."""
        return invert_information(self.fisher_information)

    def test_blocks(self) -> Iterator[FittedTraits]:
        """Fitted traits in blocks of bounded memory and one design."""
        yield from self._blocks(self.fitted)

    def over_blocks(self, function: Callable[[FittedTraits], Result]) -> list[Result]:
        """What a function gives for each of `test_blocks`, in order."""
        return [function(block) for block in self.test_blocks()]

    def _blocks(self, wanted: np.ndarray) -> Iterator[FittedTraits]:
        """Walk over traits, BLAS in one thread meanwhile."""
        with single_blas_thread():
            for block in self.rotation.blocks:
                engine = KinshipEngine(block.design, self.options.method == "REML")
                for rows in chunks(np.flatnonzero(wanted[block.traits]), engine):
                    yield FittedTraits(self, block, engine, rows)

    def score(self) -> np.ndarray:
        """Gradient of the log-likelihood in theta, (traits, 2); zero at an inner optimum."""
        full = np.full(self.theta.shape, np.nan)
        for part in self._blocks(self.n_iter > 0):
            full[part.index] = part.engine.score(part.theta, part.data)
        return full

    def blup(self) -> np.ndarray:
        """Predicted genetic values of the individuals that have a value.

        Returns
        -------
        (traits, individuals) array
            σ²_g K V⁻¹(y - Xβ̂), in the order of ``rotation.individuals``; NaN elsewhere.
        """
        full = np.full((len(self.traits), len(self.rotation.individuals)), np.nan)
        for part in self._blocks(self.fitted):
            full[np.ix_(part.index, part.block.rows)] = part.engine.blup(part.theta, part.data)
        return full

    def profile_loglik(self, h2_grid: Any, constants: bool = True) -> np.ndarray:
        """Log-likelihood over h², everything else at its best.

        Parameters
        ----------
        h2_grid : float or (points,) array
            Values of h² in [0, 1].
        constants : bool
            With the constants of `loglik`, or those of `loglik_without_constants`.

        Returns
        -------
        (traits, points) array
            NaN for traits that were not fitted; -inf at h² = 1 where K is singular (+inf under ML
            where X takes up all of its null space).

        Raises
        ------
        InputError
            Values outside [0, 1].
        """
        h = np.atleast_1d(as_numbers(h2_grid, "h2_grid"))
        if h.ndim != 1 or not ((h >= 0) & (h <= 1)).all():
            raise InputError(f"h2_grid must hold values from 0 to 1; found {h2_grid!r}.")
        full = np.full((len(self.traits), len(h)), np.nan)
        for part in self._blocks(self.optimised):
            constant = likelihood_constant(part.engine) if constants else 0.0
            full[part.index] = -0.5 * (part.engine.profile(h, 1.0 - h, part.data.t**2) + constant)
        return full

    @property
    def optimised(self) -> np.ndarray:
        """Traits with a likelihood, whether or not a maximum was found, (traits,) bool."""
        without = (Status.ALL_ZERO, Status.PERFECT_FIT, Status.NO_WITHIN_VARIANCE)
        rotated = self.rotation.status == Status.OK
        return rotated & ~np.isin(self.status, without)

    @checked
    def confidence_interval(self, level: float = 0.95) -> np.ndarray:
        """Profile-likelihood interval of h².

        Parameters
        ----------
        level : float
            Coverage, between 0 and 1.

        Returns
        -------
        (traits, 2) array
            {h²: 2(l_max - l(h²)) ≤ χ²₁ quantile} around the maximum, cut at 0 and 1; NaN without a
            fit.

        Raises
        ------
        InputError
            A level that is no probability.
        """
        if not 0 < float(as_numbers(level, "level")) < 1:
            raise InputError(f"level must lie between 0 and 1; found {level!r}.")
        full = np.full((len(self.traits), 2), np.nan)
        for part in self.test_blocks():
            h, u = (part.theta / part.theta.sum(1)[:, None]).T
            drop = float(special.chdtri(1, 1 - level))
            full[part.index] = part.engine.interval(h, u, part.data.t, drop, self.options.max_iter)
        return full

    @checked
    def profile_frame(self, traits: Sequence[str] | None = None, points: int = 201) -> pd.DataFrame:
        """Log-likelihood over h² as a tidy table, for `flashmm.plots.heritability_plot`.

        Parameters
        ----------
        traits : sequence of str, optional
            Names of the traits; None takes the first six that were fitted.
        points : int
            Values of h², evenly spaced from 0 to 1, to which the estimate is added.

        Returns
        -------
        pandas.DataFrame
            Columns trait, h2, loglik.

        Raises
        ------
        InputError
            A trait that is not there or was not fitted, or no points.
        """
        if points < 1:
            raise InputError(f"points must be a whole number from 1 on; found {points!r}.")
        names = list(self.traits[self.fitted][:6]) if traits is None else list(traits)
        known = self.traits[self.fitted]
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            said = f"{unknown[0]!r} is not" if unknown else "no trait is"
            raise InputError(f"traits: {said} among the fitted traits; see fit.status.")
        which = self.traits.get_indexer(pd.Index(names))
        grid = np.union1d(np.linspace(0.0, 1.0, points), self.h2[which])
        return pd.DataFrame(
            {
                "trait": np.repeat(np.array(names, dtype=object), len(grid)),
                "h2": np.tile(grid, len(names)),
                "loglik": self.profile_loglik(grid)[which].ravel(),
            }
        )

    @checked
    def to_frame(self, level: float = 0.95) -> pd.DataFrame:
        """One row per trait: h2 with standard error and interval, variances, likelihood, status."""
        interval = self.confidence_interval(level)
        return pd.DataFrame(
            {
                "trait": np.asarray(self.traits),
                "h2": self.h2,
                "h2_std_error": self.h2_std_error,
                "h2_lower": interval[:, 0],
                "h2_upper": interval[:, 1],
                "sigma2_g": self.sigma2_g,
                "sigma2_e": self.sigma2_e,
                "loglik": self.loglik,
                "n_individuals": self.rotation.n_values,
                "status": self.status,
            }
        )

    def __repr__(self) -> str:
        counts = pd.Series(self.status).value_counts().to_dict()
        said = ", ".join(f"{n} {status}" for status, n in counts.items())
        return (
            f"KinshipFit({self.options.method}, {len(self.traits)} traits: {said}; "
            f"{len(self.rotation.individuals)} individuals, {len(self.coefficients)} coefficients)"
        )


@dataclass(frozen=True, eq=False)
class FittedTraits:
    """Some traits of one block with what their tests need (`inference.model_fit.FittedBlock`)."""

    fit: KinshipFit
    block: KinshipBlock
    engine: KinshipEngine
    rows: np.ndarray

    @property
    def index(self) -> np.ndarray:
        """Which traits of the fit, (block,) int."""
        return self.block.traits[self.rows]

    @property
    def kept(self) -> np.ndarray:
        """Coefficients that can be estimated, (p,) bool."""
        return self.block.kept

    @property
    def df_residual(self) -> int:
        """Residual degrees of freedom n - rank(X)."""
        return self.block.design.df_residual

    @property
    def theta(self) -> np.ndarray:
        """Variance components, (block, 2)."""
        return self.fit.theta[self.index]

    @property
    def data(self) -> KinshipTraits:
        """The rotated traits."""
        return take(self.block.data, self.rows)

    def observed_information(self) -> np.ndarray:
        """Observed information of theta, (block, 2, 2)."""
        return self.engine.information(self.theta, self.data)[1]

    def expected_information(self, theta: np.ndarray) -> np.ndarray:
        """Expected information at other components, (block, 2, 2)."""
        return self.engine.information(theta, self.data)[0]

    def shared_points(self) -> Points:
        """The design at ratios σ²_g/σ²_e that traits share."""
        return DiagonalPoints.of_kinship(self.block.design)

    def contrast_columns(self, rows: np.ndarray) -> np.ndarray:
        """Contrasts (C, p) of the kept coefficients, (kept, C)."""
        return self.block.contrasts(rows)

    def variance_forms(self, left: np.ndarray, right: np.ndarray) -> VarianceForms:
        """Covariances of the rows of `left` and `right` (C, p) times β̂."""
        sides = (self.contrast_columns(side) for side in (left, right))
        return self.engine.variance_forms(self.theta, *sides)


def chunks(rows: np.ndarray, engine: KinshipEngine) -> Iterator[np.ndarray]:
    """Cut traits into blocks that fit into the memory of the engine."""
    size = engine.traits_per_block()
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def likelihood_constant(engine: KinshipEngine) -> float:
    """What is added to f for -2 log L: m(log(2π/m) + 1), and log|X'X| for REML."""
    m = engine.dof
    constant = m * (np.log(2 * np.pi / m) + 1)
    return float(constant + (engine.design.log_det_XtX if engine.reml else 0.0))
