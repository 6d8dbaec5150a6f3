"""Linear mixed models with a known kinship matrix: heritability of many traits at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashmm.kernels.engine import take
from flashmm.kernels.kinship import Heritability, KinshipEngine, KinshipTraits
from flashmm.kernels.threads import single_blas_thread
from flashmm.kinship.data import as_numbers
from flashmm.kinship.estimates import KinshipFit, chunks, likelihood_constant
from flashmm.kinship.rotation import KinshipBlock, KinshipRotation
from flashmm.lmm import NOTHING_LEFT
from flashmm.options import FitOptions, InputError, Status, checked, note

# Residual sum of squares relative to y'y below which the projection left rounding only.
ROUNDING = 1e-20


@checked
def fit_kinship_lmm(
    rotation: KinshipRotation,
    method: str = "REML",
    *,
    h2: float | Sequence[float] | None = None,
    max_iter: int = 100,
    tol: float = 1e-16,
) -> KinshipFit:
    """Fit the kinship model to every trait.

    Parameters
    ----------
    rotation : KinshipRotation
        From `rotate_by_kinship`.
    method : {"REML", "ML"}
        Restricted or full maximum likelihood.
    h2 : float or (traits,) array, optional
        Hold the heritability at these values instead of estimating it. Tests of such a fit still
        count it as estimated.
    max_iter : int
        Limit of the iterations per trait.
    tol : float
        A trait has converged when its Newton decrement, in units of the log-likelihood, is below
        `tol`.

    Returns
    -------
    KinshipFit
        Estimates, heritability, log-likelihood and a status for every trait.

    Raises
    ------
    InputError
        An option that is not known, or `h2` outside [0, 1].

    Notes
    -----
    The likelihood is evaluated on a grid of h² that traits share, 0 and 1 included, and the best
    cell is refined by Newton steps. h² = 1 is a maximum like any other where K has full rank
    outside X.
    """
    options = FitOptions(method, max_iter=max_iter, tol=tol)
    held = None if h2 is None else _held(h2, rotation.n_traits)
    results = _Results.empty(rotation)
    notes: tuple[str, ...] = ()
    with single_blas_thread():
        for block in rotation.blocks:
            engine = KinshipEngine(block.design, method == "REML")
            status = _degenerate(block)
            results.status[block.traits] = status
            for rows in chunks(np.flatnonzero(status == Status.OK), engine):
                _fit_chunk(results, block, engine, rows, options, held)
    if held is None:
        notes = _note_unbounded(rotation, results, method)
    return KinshipFit(
        **results.arrays(), rotation=rotation, options=options, notes=rotation.notes + notes
    )


def _held(h2: Any, n_traits: int) -> np.ndarray:
    values = as_numbers(h2, "h2")
    if values.ndim > 1 or (values.ndim and len(values) != n_traits):
        raise InputError(
            f"h2 must be a number or one per trait ({n_traits}); found the shape {values.shape}."
        )
    if not ((values >= 0) & (values <= 1)).all():
        raise InputError(f"h2 must lie between 0 and 1; found {h2!r}.")
    return np.broadcast_to(values, (n_traits,))


@dataclass(frozen=True, eq=False)
class _Results:
    """Arrays of a fit while it is made; fields as in `KinshipFit`."""

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

    @classmethod
    def empty(cls, rotation: KinshipRotation) -> _Results:
        T, p = rotation.n_traits, len(rotation.coefficients)

        def missing(*shape: int) -> np.ndarray:
            return np.full((T, *shape), np.nan)

        return cls(
            coef=missing(p),
            theta=missing(2),
            h2=missing(),
            h2_std_error=missing(),
            fisher_information=missing(2, 2),
            loglik=missing(),
            loglik_without_constants=missing(),
            status=rotation.status.astype(object),
            n_iter=np.zeros(T, dtype=np.int64),
            decrement=missing(),
            df_residual=missing(),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        return {**vars(self), "status": self.status.astype(str)}


def _degenerate(block: KinshipBlock) -> np.ndarray:
    """Status of traits with nothing to fit; `ok` for the others."""
    data = block.data
    status = np.full(len(block.traits), Status.OK, dtype=object)
    if block.design.restricted.singular:
        status[data.left <= NOTHING_LEFT * data.rss] = Status.NO_WITHIN_VARIANCE
    status[data.rss <= ROUNDING * data.yty] = Status.PERFECT_FIT
    status[data.yty == 0] = Status.ALL_ZERO
    return status


def _fit_chunk(
    results: _Results,
    block: KinshipBlock,
    engine: KinshipEngine,
    rows: np.ndarray,
    options: FitOptions,
    held: np.ndarray | None,
) -> None:
    """Optimise some traits of a block and write down what follows from the optimum."""
    data, index = take(block.data, rows), block.traits[rows]
    best = _at(held[index]) if held is not None else _search(engine, data, options)
    results.status[index] = _status(engine, best, options)
    results.n_iter[index], results.decrement[index] = best.n_iter, best.decrement
    fine = np.flatnonzero(results.status[index] != Status.UNBOUNDED)
    data, index, h, u = take(data, fine), index[fine], best.h[fine], best.u[fine]
    t2 = data.t**2
    sigma2 = engine.quadratic(h, u, t2) / engine.dof
    theta = np.column_stack([h * sigma2, u * sigma2])
    objective = engine.objective(h, u, t2)
    results.theta[index], results.h2[index] = theta, h
    results.h2_std_error[index] = np.nan if held is not None else engine.standard_error(h, u)
    coef = block.coefficients(engine.coefficients(theta, data))
    results.coef[np.ix_(index, np.flatnonzero(block.kept))] = coef
    results.fisher_information[index] = engine.information(theta, data)[0]
    results.loglik[index] = -0.5 * (objective + likelihood_constant(engine))
    results.loglik_without_constants[index] = -0.5 * objective
    results.df_residual[index] = block.design.df_residual


def _search(engine: KinshipEngine, data: KinshipTraits, options: FitOptions) -> Heritability:
    return engine.maximise(data.t, options.max_iter, options.tol)


def _at(h: np.ndarray) -> Heritability:
    """Heritability as given."""
    nothing = np.zeros(len(h))
    return Heritability(h, 1.0 - h, nothing, nothing.astype(np.int64), nothing.astype(bool))


def _status(engine: KinshipEngine, best: Heritability, options: FitOptions) -> np.ndarray:
    status = np.full(len(best.h), Status.OK, dtype=object)
    status[(best.h == 0) | (best.u == 0)] = Status.BOUNDARY
    status[~(best.decrement < options.tol)] = Status.NOT_CONVERGED
    # a heritability held at one: no residual variance for what lies outside K
    impossible = (best.u == 0) & engine.log_spectrum.singular
    status[best.unbounded | impossible] = Status.UNBOUNDED
    return status


def _note_unbounded(rotation: KinshipRotation, results: _Results, method: str) -> tuple[str, ...]:
    """Say where ML has no maximum."""
    if method != "ML":
        return ()
    touched = sum(
        len(b.traits) for b in rotation.blocks if KinshipEngine(b.design, False).unbounded
    )
    if not touched:
        return ()
    lost = int((results.status == Status.UNBOUNDED).sum())
    return (
        note(
            "K is singular and X takes up the directions without variance (a centred kinship and "
            "the intercept?), where the ML likelihood rises without bound towards h2 = 1: "
            f"{touched - lost} of {touched} traits have their local maximum, {lost} have none "
            "(status 'unbounded'). "
            "REML does not have this."
        ),
    )
