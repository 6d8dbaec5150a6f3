"""Statuses, errors, notes, options and arguments: the words that every other module speaks."""

from __future__ import annotations

import ast
import inspect
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from numbers import Integral, Real
from reprlib import Repr
from types import FrameType
from typing import Any, ParamSpec, TypeGuard, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")


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
        if not _is(self.nonnegative, _Type("bool")):
            raise InputError(f"nonnegative is True or False; found {self.nonnegative!r}.")
        if not is_number(self.tol) or not 0 < self.tol < math.inf:
            raise InputError(f"tol is a positive number; found {self.tol!r}.")


def check_seed(seed: object) -> None:
    """Raise an InputError where numpy takes no such seed."""
    if not isinstance(seed, Integral) or isinstance(seed, bool) or int(seed) < 0:
        raise InputError(f"seed must be a whole number from 0 on; found {seed!r}.")


def is_number(value: object) -> TypeGuard[float]:
    """Whether an option is a real number; True and False are not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    """Whether an option is a whole number from 1 on."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def _one_of(argument: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{argument} must be one of {', '.join(allowed)}; found {value!r}.")


# Types of arguments

# What annotations of the package call by a name of their own.
ALIASES = {
    # checked where they are opened, and where numpy takes them
    "Data": "Any",
    "Seed": "Any",
    "Sheet": "DataFrame | PathLike",
}
# How a type is said: one of it, and several.
_SAID = {
    "None": ("None", "None"),
    "bool": ("True or False", "True or False"),
    "int": ("a whole number", "whole numbers"),
    "float": ("a number", "numbers"),
    "str": ("a text", "texts"),
    "PathLike": ("a path", "paths"),
    "ModelFit": ("a fit of a mixed model", "fits"),
}
# What makes an object of a class, where one function does.
_MAKERS = {
    "GroupStatistics": "summarise",
    "SummaryStatistics": "summary_statistics",
    "LMMFit": "fit_lmm",
    "FitsWithin": "fit_within",
    "TestTable": "contrast_tests",
    "SubjectMeans": "subject_means",
    "KinshipFactor": "kinship_factor",
    "KinshipRotation": "rotate_by_kinship",
    "KinshipFit": "fit_kinship_lmm",
}
_NUMBERS: dict[str, type] = {"int": Integral, "float": Real}
_SEVERAL = ("Sequence", "Iterable", "Collection", "tuple")


@dataclass(frozen=True)
class _Type:
    """A type of an annotation, and the alternatives of each thing that it holds."""

    name: str
    holds: tuple[tuple[_Type, ...], ...] = ()


_PLAIN = {type(None), bool, int, float, str, bytes, list, tuple, dict, set}
_REPR = Repr()  # stops early in what is long
_REPR.maxstring = 60
_TEXTS = {_Type("Sequence", ((_Type("str"),),))}


def checked(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Refuse arguments that are of another type than their annotations say, before anything runs.

    Parameters
    ----------
    function : callable
        A function or a method. Its annotations are texts (``from __future__ import
        annotations``), made of None, bool, int, float, str, PathLike, names of classes and of
        `ALIASES`, and of Sequence, Iterable, Collection, tuple and Mapping of these; Any is not
        looked at.

    Returns
    -------
    callable
        The function; it raises an `InputError` that names the argument.
    """
    signature = inspect.signature(function)
    wanted = {
        name: _alternatives(ast.parse(parameter.annotation, mode="eval").body)
        for name, parameter in signature.parameters.items()
        if parameter.annotation is not parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }

    @wraps(function)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            given = signature.bind(*args, **kwargs)
        except TypeError:  # in Python's own words
            return function(*args, **kwargs)
        for name, types in wanted.items():
            value = given.arguments.get(name)
            if name in given.arguments and not _is_one_of(value, types):
                said = " or ".join(map(_said, types))
                raise InputError(f"{name} must be {said}; found {_found(value)}.")
            if _TEXTS.intersection(types) and not isinstance(value, str | list | tuple | None):
                given.arguments[name] = list(value)  # arrays have no truth value
        return function(*given.args, **given.kwargs)

    return checked


def _alternatives(node: ast.expr) -> tuple[_Type, ...]:
    """The alternatives of an annotation, aliases resolved and without names of modules."""
    if isinstance(node, ast.BinOp):
        return _alternatives(node.left) + _alternatives(node.right)
    if isinstance(node, ast.Subscript):
        (outer,) = _alternatives(node.value)
        inside = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        return (_Type(outer.name, tuple(map(_alternatives, inside))),)
    name = ast.unparse(node).rpartition(".")[2]
    if name in ALIASES:
        return _alternatives(ast.parse(ALIASES[name], mode="eval").body)
    return (_Type(name),)


def _is_one_of(value: Any, types: tuple[_Type, ...]) -> bool:
    return any(_is(value, one) for one in types)


def _is(value: Any, wanted: _Type) -> bool:
    """Whether a value is of a type; of what can be read only once, that it can be read."""
    name = wanted.name
    if name in _NUMBERS:
        # numpy has no whole numbers of more than 64 bits
        large = isinstance(value, Integral) and abs(int(value)) >= 2**63
        return isinstance(value, _NUMBERS[name]) and not (large or isinstance(value, bool))
    if name == "PathLike":
        return isinstance(value, str | os.PathLike) and str(value) != "" and "\0" not in str(value)
    if name == "Mapping":
        held = wanted.holds[1]
        return isinstance(value, Mapping) and all(_is_one_of(item, held) for item in value.values())
    if name in _SEVERAL:
        return _is_several(value, wanted)
    return {
        "Any": True,
        "None": value is None,
        # numpy's bool is called bool from version 2 on
        "bool": type(value).__name__ in ("bool", "bool_"),
        "str": isinstance(value, str),
        "ModelFit": hasattr(value, "test_blocks"),
    }.get(name) or any(base.__name__ == name for base in type(value).__mro__)


def _is_several(value: Any, wanted: _Type) -> bool:
    if not isinstance(value, Iterable) or isinstance(value, str | bytes | Mapping):
        return False
    if hasattr(value, "columns"):  # a table iterates over the names of its columns
        return False
    if not isinstance(value, Sized) or isinstance(value, Iterator):
        return wanted.name == "Iterable"
    if wanted.name == "tuple" and len(value) != len(wanted.holds):
        return False
    return all(_is_one_of(item, wanted.holds[0]) for item in value)


def _said(wanted: _Type) -> str:
    """A type in words."""
    name = wanted.name
    if not wanted.holds:
        article = "an" if name.startswith(("A", "LMM")) else "a"
        maker = f" (from {_MAKERS[name]})" if name in _MAKERS else ""
        return _SAID.get(name, (f"{article} {name}{maker}", ""))[0]
    if name == "tuple":
        return f"{len(wanted.holds)} {_plural(wanted.holds[0])}"
    return ("a dictionary of " if name == "Mapping" else "a list of ") + _plural(wanted.holds[-1])


def _plural(types: tuple[_Type, ...]) -> str:
    """Several of some types in words."""
    return " or ".join(
        f"lists of {_plural(one.holds[0])}"
        if one.name in _SEVERAL
        else _SAID.get(one.name, ("", "values" if one.name == "Any" else f"{one.name}s"))[1]
        for one in types
    )


def _found(value: Any) -> str:
    """A value of Python's own as it was given, shortened, and the type of any."""
    kind = type(value)
    return f"{_REPR.repr(value)} ({kind.__name__})" if kind in _PLAIN else f"a {kind.__name__}"
