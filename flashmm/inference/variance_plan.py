"""What is asked of variance components, and what the model allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from flashmm.inference.model_fit import covariance_pairs
from flashmm.kernels.spectral import SpectralEngine
from flashmm.lmm import MAX_DENSE_COLUMNS, LMMFit
from flashmm.options import InputError, note

TESTS = ("lrt", "rlrt", "f", "z")
INTERVALS = ("wald", "profile", "exact")
# What needs the eigenvalues of a single component.
EXACT = ("rlrt", "f", "exact")
# Levels up to which the null is simulated unasked; with more it is slow, and the mixture is close.
FEW_LEVELS = 200


@dataclass(frozen=True, eq=False)
class VariancePlan:
    """What was asked for, checked."""

    positions: list[int]
    tests: tuple[str, ...]
    intervals: tuple[str, ...]
    level: float
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, fit: LMMFit, components: Any, tests: Any, intervals: Any, level: float
    ) -> VariancePlan:
        """Read the options of `variance_tests`."""
        if not 0 < level < 1:
            raise InputError(f"level must lie between 0 and 1, such as 0.95; found {level}.")
        reason = _no_exact(fit)
        exact = reason is None and isinstance(fit.model.engine, SpectralEngine)
        few = sum(fit.stats.component_sizes) <= FEW_LEVELS
        usual_tests = [t for t in TESTS if t not in EXACT or (exact and (few or t == "f"))]
        usual_intervals = ("exact",) if exact else ("wald",)
        names = _chosen("components", components, fit.components, fit.components)
        if not names:
            raise InputError(f"components names nothing; the components are {fit.components}.")
        plan = cls(
            [fit.components.index(name) for name in names],
            _chosen("tests", tests, TESTS, usual_tests),
            _chosen("intervals", intervals, INTERVALS, usual_intervals),
            level,
        )
        asked = [name for name in (*plan.tests, *plan.intervals) if name in EXACT]
        if asked and reason:
            raise InputError(f"{', '.join(map(repr, asked))}: {reason}")
        if "profile" in plan.intervals and not fit.options.nonnegative:
            raise InputError(
                "'profile' intervals are for components bounded below by zero; fit with "
                "nonnegative=True, or use 'wald'."
            )
        if "profile" in plan.intervals and covariance_pairs(fit):
            raise InputError("'profile' intervals are for models without covariances; use 'wald'.")
        return replace(plan, notes=_notes(fit, plan))


def _chosen(
    argument: str, given: Any, allowed: Sequence[str], usual: Sequence[str]
) -> tuple[str, ...]:
    names = usual if given is None else [given] if isinstance(given, str) else list(given)
    unknown = [name for name in names if name not in allowed]
    if unknown:
        raise InputError(
            f"{argument} must be among {', '.join(allowed)}; found {', '.join(map(repr, unknown))}."
        )
    return tuple(name for name in allowed if name in names)


def _no_exact(fit: LMMFit) -> str | None:
    """Why there is no exact test or interval; None where there is."""
    K, q = len(fit.components) - 1, sum(fit.stats.component_sizes)
    if K != 1:
        return (
            f"exact with one random component only, and this model has {K}; use 'lrt', 'profile'."
        )
    if not fit.options.nonnegative:
        return "for components bounded below by zero; fit with nonnegative=True, or use 'lrt', 'z'."
    if q > MAX_DENSE_COLUMNS:
        return f"needs the eigenvalues of {q} levels, and stops at {MAX_DENSE_COLUMNS}."
    return None


def _notes(fit: LMMFit, plan: VariancePlan) -> tuple[str, ...]:
    if fit.options.nonnegative or "lrt" not in plan.tests:
        return ()
    return (
        note(
            "The fit allows negative components, so the likelihood ratio is compared with χ² on "
            "one degree of freedom (two-sided) and not with the boundary mixture."
        ),
    )
