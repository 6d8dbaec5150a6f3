"""Statuses, errors, notes and options: the words that every other module speaks."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from enum import StrEnum
from numbers import Integral, Real
from types import FrameType
from typing import TypeGuard


class FlashmmError(Exception):
    """Base of every error that flashmm raises on purpose."""


class InputError(FlashmmError, ValueError):
    """Data (a file, a matrix, a column) that cannot be used, and what to do."""


class FormulaError(FlashmmError, ValueError):
    """A formula, random term or contrast that cannot be read or is not allowed."""


class DesignError(FlashmmError, ValueError):
    """A design that cannot answer the question: constant subjects, no replicates, no columns."""


class UnavailableError(FlashmmError):
    """A program or package that is not here, and what to do."""


class FlashmmWarning(UserWarning):
    """Something was decided for the user, such as a column dropped, and is said once."""


def note(text: str) -> str:
    """Warn with `text` and return it, so that a record can keep what was said.

    Parameters
    ----------
    text : str
        One sentence: what was found and what was done about it.

    Returns
    -------
    str
        `text`, unchanged.
    """
    warnings.warn(text, FlashmmWarning, stacklevel=_frames_inside())
    return text


def _frames_inside() -> int:
    """Stack level, for a warning given by the caller, of the first frame outside the package."""
    frame: FrameType | None = sys._getframe(1)
    level = 1
    while frame is not None and _is_ours(frame):
        frame, level = frame.f_back, level + 1
    return level


def _is_ours(frame: FrameType) -> bool:
    """Whether code of the package runs in a frame; code that was compiled may have no name."""
    name = frame.f_globals.get("__name__")
    return isinstance(name, str) and name.partition(".")[0] == "flashmm"


class Status(StrEnum):
    """How the fit or the test of one gene ended; `sentence` says it in words."""

    OK = "ok"
    BOUNDARY = "boundary"
    NOT_CONVERGED = "not_converged"
    ALL_ZERO = "all_zero"
    PERFECT_FIT = "perfect_fit"
    NO_WITHIN_VARIANCE = "no_within_variance"
    NOT_POSITIVE_DEFINITE = "not_positive_definite"
    NOT_ESTIMABLE = "not_estimable"
    TOO_FEW_VALUES = "too_few_values"
    NOT_IDENTIFIABLE = "not_identifiable"
    UNBOUNDED = "unbounded"
    ZERO_VARIANCE = "zero_variance"
    TOO_FEW_SUBJECTS = "too_few_subjects"
    TOO_FEW_PERMUTATIONS = "too_few_permutations"
    LOW_EXPRESSION = "low_expression"
    NOT_REPORTED = "not_reported"
    OUT_OF_RANGE = "out_of_range"
    # the name that it had before
    TOO_FEW_RELABELLINGS = "too_few_permutations"

    @property
    def sentence(self) -> str:
        """The meaning of the status, one sentence."""
        return _SENTENCES[self]


_SENTENCES = {
    Status.OK: "The fit converged inside the parameter space.",
    Status.BOUNDARY: "The fit converged with at least one variance component at zero.",
    Status.NOT_CONVERGED: "The iterations ended before the decrement fell below the tolerance.",
    Status.ALL_ZERO: "Every cell has the value zero, so there is nothing to fit.",
    Status.PERFECT_FIT: "The fixed effects explain the gene exactly, to the digits that its sum of "
    "squares has, so no variance is left.",
    Status.NO_WITHIN_VARIANCE: "Cells of a level do not differ, so no residual variance is left.",
    Status.NOT_POSITIVE_DEFINITE: "A negative component makes the covariance of the cells "
    "indefinite; estimates are kept, their standard errors are not defined.",
    Status.NOT_ESTIMABLE: "The contrast needs a coefficient that the design cannot estimate, or "
    "cannot tell from another one.",
    Status.TOO_FEW_VALUES: "Too few individuals have a value for the coefficients and two "
    "variances.",
    Status.NOT_IDENTIFIABLE: "Individuals with a value are equally related, so that genetic and "
    "residual variance cannot be told apart.",
    Status.UNBOUNDED: "The kinship is singular and the likelihood has no maximum inside (ML; REML "
    "has one), or no value at the heritability 1 that was asked for.",
    Status.ZERO_VARIANCE: "The model gives the contrast no variance, so that it has no test "
    "(heritability 1 along a direction in which the kinship is singular).",
    Status.TOO_FEW_SUBJECTS: "Without one of its subjects the contrast cannot be estimated, or no "
    "degrees of freedom between subjects are left: there is an estimate and no test of it.",
    Status.TOO_FEW_PERMUTATIONS: "The labels can be given to the subjects in fewer than 20 ways, "
    "so that no permutation p-value can reach 0.05.",
    Status.LOW_EXPRESSION: "The gene is expressed too little in these cells for a difference to be "
    "found: it has no p-value and does not count in the adjustment of the others.",
    Status.NOT_REPORTED: "The method, which is not one of this package, gave no p-value.",
    Status.OUT_OF_RANGE: "The values are so large or so small that powers of their variance are no "
    "numbers any more (standard deviations below 1e-50 or above 1e50); rescale them.",
}


@dataclass(frozen=True)
class FitOptions:
    """Options of `fit_lmm`, kept with the fit that they made.

    Attributes
    ----------
    method : {"REML", "ML"}
        Restricted or full maximum likelihood.
    nonnegative : bool
        Whether variance components are bounded below by zero.
    engine : {"auto", "spectral", "eliminated", "nested", "dense"}
        The algorithm; "auto" takes the spectral engine for one component, the eliminating one for
        several of which one is the levels of a factor where they have more than 64 levels, else the
        dense one.
    start : tuple of float or None
        Start values of the components, residual last; None searches a shared grid.
    max_iter : int
        Limit of the iterations per gene.
    tol : float
        A gene has converged when its Newton decrement (log-likelihood units) is below `tol`.
    block_size : int or None
        Genes fitted together; None lets the engine choose by memory. Never changes a result.
    """

    method: str = "REML"
    nonnegative: bool = True
    engine: str = "auto"
    start: tuple[float, ...] | None = None
    max_iter: int = 100
    tol: float = 1e-16
    block_size: int | None = None

    def __post_init__(self) -> None:
        _one_of("method", self.method, ("REML", "ML"))
        _one_of("engine", self.engine, ("auto", "spectral", "eliminated", "nested", "dense"))
        for name, value in (("max_iter", self.max_iter), ("block_size", self.block_size)):
            if not (name == "block_size" and value is None) and not _is_count(value):
                raise InputError(f"{name} is a whole number from 1 on; found {value!r}.")
        if not is_number(self.tol) or not self.tol > 0:
            raise InputError(f"tol is a positive number; found {self.tol!r}.")


def is_number(value: object) -> TypeGuard[float]:
    """Whether an option is a real number; True and False are not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    """Whether an option is a whole number from 1 on."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def _one_of(argument: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{argument} must be one of {', '.join(allowed)}; found {value!r}.")
