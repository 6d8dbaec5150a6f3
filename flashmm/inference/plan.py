"""What is asked of a test, checked, and what a method answers: the records between the steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy import special

from flashmm.design.contrasts import Contrast
from flashmm.options import InputError, Status, is_number

ALTERNATIVES = ("two-sided", "less", "greater")
T_TEST = ("estimate", "std_error", "statistic", "df")


@dataclass(frozen=True)
class TestPlan:
    """How to test, as asked for: the options of `contrast_tests`.

    Raises
    ------
    InputError
        An option that is not known, or out of its range.
    """

    __test__ = False  # the name begins with "Test": pytest must not collect it

    alternative: str = "two-sided"
    level: float = 0.95
    lfc: float = 0.0
    moderate: bool = False
    prior: object | None = None

    def __post_init__(self) -> None:
        check_alternative(self.alternative)
        if not (is_number(self.level) and 0 < self.level < 1):
            raise InputError(
                f"level is a coverage between 0 and 1, such as 0.95; found {self.level!r}."
            )
        if not (is_number(self.lfc) and 0 <= self.lfc < np.inf):
            raise InputError(f"lfc is a minimum effect, zero or above; found {self.lfc!r}.")
        if not isinstance(self.moderate, bool):
            raise InputError(f"moderate is True or False; found {self.moderate!r}.")

    @property
    def z2(self) -> float:
        """Square of the normal quantile of the intervals."""
        sides = 2 if self.alternative == "two-sided" else 1
        return float(special.ndtri((1 - self.level) / sides) ** 2)

    def check_joint(self, contrasts: tuple[Contrast, ...]) -> None:
        """Joint F tests have no direction, no minimum and no single variance."""
        asked = {
            f"alternative={self.alternative!r}": self.alternative != "two-sided",
            f"lfc={self.lfc:g}": self.lfc > 0,
            "moderate=True": self.moderate,
        }
        joint = [c.name for c in contrasts if len(c.matrix) > 1]
        for option, is_asked in asked.items():
            if joint and is_asked:
                raise InputError(
                    f"Joint F tests have no direction, minimum effect or moderation; {option} was "
                    f"asked for, and {joint[0]!r} is one. Test its rows as contrasts of their own."
                )


def check_alternative(alternative: str) -> None:
    """Refuse a direction that there is not."""
    if alternative not in ALTERNATIVES:
        raise InputError(
            f"alternative must be one of {', '.join(ALTERNATIVES)}; found {alternative!r}."
        )


@dataclass(frozen=True, eq=False)
class Tails:
    """P-values and confidence limits, (genes, contrasts) each; limits of joint tests are NaN."""

    p_value: np.ndarray
    log10_p: np.ndarray
    conf_low: np.ndarray
    conf_high: np.ndarray


@dataclass(frozen=True, eq=False)
class Tests:
    """What a method gives for all contrasts; NaN where it has no test.

    Attributes
    ----------
    estimate, std_error : (genes, contrasts) arrays
        c'β̂ and its standard error; NaN for joint tests.
    statistic, df : (genes, contrasts) arrays
        t, or F for joint tests, of an effect other than zero, and denominator degrees of freedom.
    failures : mapping of Status to (genes, contrasts) bool array
        Why a contrast that could be tested has no test for a gene that has a fit.
    df_loss : (genes, contrasts) array, optional
        Slope in z² of the inverse of the df at the level of z, where they depend on it.
    tails : Tails, optional
        P-values and limits of a method that has its own; None where they are those of t, or F.
    prior_df, prior_variance : (contrasts,) arrays, optional
        Prior of moderated variances.
    prior : object, optional
        What a method has learnt of the genes together, kept in the table.
    notes : tuple of str
        What was decided for the user.
    """

    __test__ = False

    estimate: np.ndarray
    std_error: np.ndarray
    statistic: np.ndarray
    df: np.ndarray
    failures: Mapping[Status, np.ndarray] = field(default_factory=dict)
    df_loss: np.ndarray | None = None
    tails: Tails | None = None
    prior_df: np.ndarray | None = None
    prior_variance: np.ndarray | None = None
    prior: object | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def collected(
        cls,
        found: Mapping[str, np.ndarray],
        failures: Mapping[str, Status],
        notes: tuple[str, ...] = (),
    ) -> Tests:
        """Tests by t and F from arrays by name, those of the failures among them."""
        return cls(
            estimate=found["estimate"],
            std_error=found["std_error"],
            statistic=found["statistic"],
            df=found["df"],
            failures={status: found[name] for name, status in failures.items()},
            df_loss=found.get("df_loss"),
            notes=notes,
        )
