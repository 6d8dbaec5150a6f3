"""Methods of a benchmark: rows of a sheet, each a name, a test and the settings of that test.

`PROCEDURES` has a row for every test: its function, `flashmm.benchmark.procedures`, whose keyword
arguments are the settings that a sheet may name, what a data set has to hold, and the words that a
setting may be. To add a test, write such a function and give it a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from inspect import Parameter, signature
from typing import Any

import pandas as pd

from flashmm.benchmark import procedures
from flashmm.benchmark.data import DataSet, MethodResult, Request
from flashmm.benchmark.peers import PROGRAMS, peer
from flashmm.benchmark.truth import require_columns
from flashmm.inference.ddf import DDF
from flashmm.names import did_you_mean, listed
from flashmm.options import FitOptions, InputError

# Columns of a sheet that are options of `fit_lmm`, with their defaults.
FIT_OPTIONS = {f.name: f.default for f in fields(FitOptions) if f.name != "start"}


@dataclass(frozen=True, eq=False)
class Procedure:
    """The row of a test.

    Attributes
    ----------
    run : callable
        Takes a `DataSet`, a `Request` and the settings; returns the frame or a `MethodResult`.
    one_of : tuple of str
        Settings of which a method has to give at least one.
    requires : tuple of str
        What the data set has to hold, as in `DataSet.has`.
    words : mapping
        Setting to the words that it may hold.
    """

    run: Callable[..., pd.DataFrame | MethodResult]
    one_of: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def settings(self) -> tuple[str, ...]:
        """Names of the settings that the function takes."""
        given = signature(self.run).parameters.values()
        return tuple(p.name for p in given if p.kind is Parameter.KEYWORD_ONLY)


_MODEL = ("random", "fixed")
PROCEDURES: Mapping[str, Procedure] = {
    "mixed": Procedure(procedures.mixed, _MODEL, words={"ddf": DDF}),
    "within": Procedure(procedures.within, words={"ddf": DDF}),
    "permutation": Procedure(procedures.permutation, _MODEL),
    "pseudobulk": Procedure(procedures.pseudobulk),
    "pseudobulk_cpm": Procedure(procedures.pseudobulk_cpm, requires=("counts",)),
    "pseudobulk_tmm": Procedure(procedures.pseudobulk_tmm, requires=("counts",)),
    "peer": Procedure(
        peer, ("program",), requires=("counts", "peers"), words={"program": tuple(PROGRAMS)}
    ),
    "pooled": Procedure(procedures.pooled),
    "wilcoxon": Procedure(procedures.wilcoxon, requires=("cells",)),
    "pydeseq2": Procedure(procedures.pydeseq2, requires=("counts",)),
    "mixedlm": Procedure(procedures.mixedlm, _MODEL, requires=("cells",)),
    "truth": Procedure(procedures.positive_control, requires=("truth",)),
    "random": Procedure(procedures.negative_control),
    "permuted_labels": Procedure(procedures.permuted_labels, _MODEL, words={"ddf": DDF}),
}
"""Every test that a sheet may name: its function, its settings and what it needs of a data set."""


# ----------------------------------------------------------------------------------------------
# A row of a sheet


@dataclass(frozen=True, eq=False)
class Method:
    """A way of testing: a test and its settings, under a name.

    Attributes
    ----------
    name : str
        Name of the method.
    test : str
        A key of `PROCEDURES`.
    settings : mapping
        Those of the test that are not left to their defaults.
    transform : str or None
        Transform of the counts where it differs from that of the data set.

    Raises
    ------
    InputError
        The test is not known, lacks a setting or has none of that name, or a word is not allowed.
    """

    name: str
    test: str = "mixed"
    settings: Mapping[str, Any] = field(default_factory=dict)
    transform: str | None = None

    def __post_init__(self) -> None:
        """Check the settings against the row of the test."""
        if self.test not in PROCEDURES:
            raise InputError(
                f"{self.name}: test {self.test!r} is none of {listed(PROCEDURES, 20)}"
                f"{did_you_mean(str(self.test), PROCEDURES)}"
            )
        for setting, value in self.settings.items():
            self._check(setting, value)
        one_of = self.procedure.one_of
        if one_of and not any(self.settings.get(setting) for setting in one_of):
            needed = " or ".join(map(repr, one_of))
            raise InputError(f"{self.name}: the test {self.test!r} needs {needed}.")

    def _check(self, setting: str, value: Any) -> None:
        known = self.procedure.settings
        if setting not in known:
            raise InputError(
                f"{self.name}: the test {self.test!r} has no setting {setting!r}; its settings are "
                f"{listed(known)}."
            )
        words = self.procedure.words.get(setting)
        if words is not None and value is not None and value not in words:
            raise InputError(f"{self.name}: {setting} {value!r} is none of {listed(words, 20)}.")

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Method:
        """Make one from a row of a sheet, or from fields as JSON has them.

        Parameters
        ----------
        row : mapping
            `name`, perhaps `test` (default "mixed") and `transform`, options of `fit_lmm` by their
            names, and settings; random terms are a list, or text with semicolons between them. What
            is None, False or empty is left to its default.

        Returns
        -------
        Method
        """
        given = dict(row)
        chosen = {key: given.pop(key) for key in FIT_OPTIONS if key in given}
        options = {
            key: value for key, value in chosen.items() if value not in (None, FIT_OPTIONS[key])
        }
        own = {key: given.pop(key, None) for key in ("name", "test", "transform")}
        settings = given | {"options": options, "random": _terms(given.get("random"))}
        return cls(
            str(own["name"]),
            own["test"] or "mixed",
            {key: value for key, value in settings.items() if _is_given(value)},
            own["transform"],
        )

    @property
    def procedure(self) -> Procedure:
        """The row of its test."""
        return PROCEDURES[self.test]

    @property
    def random(self) -> tuple[str, ...]:
        """Its random terms; none where the test has none."""
        return tuple(self.settings.get("random", ()))

    def lacks(self, data: DataSet) -> list[str]:
        """What the test requires and the data set does not hold."""
        return [part for part in self.procedure.requires if not data.has(part)]

    def run(self, data: DataSet, request: Request) -> MethodResult:
        """Test a data set.

        Parameters
        ----------
        data : DataSet
            What is tested.
        request : Request
            What is asked.

        Returns
        -------
        MethodResult

        Raises
        ------
        InputError
            The data set lacks what the test requires, its groups have another transform than the
            method, or the tests lack a column.
        """
        if lacking := self.lacks(data):
            raise InputError(f"{self.name}: the data set has no {' and no '.join(lacking)}.")
        if self.transform not in (None, data.groups.transform):
            raise InputError(
                f"{self.name}: groups of the transform {self.transform!r} are needed; these are of "
                f"{data.groups.transform!r}."
            )
        found = self.procedure.run(data, request, **self.settings)
        result = found if isinstance(found, MethodResult) else MethodResult(found)
        require_columns(result.tests, ["gene", "contrast", "p_value"], f"tests of {self.name}")
        return result


def _terms(random: str | Sequence[str] | None) -> tuple[str, ...]:
    """Random terms as a sheet or JSON has them."""
    terms = random.split(";") if isinstance(random, str) else random or ()
    return tuple(term.strip() for term in terms if term.strip())


def _is_given(value: Any) -> bool:
    """Whether a cell of a sheet says anything."""
    return value is not None and value is not False and value not in ("", (), [], {})
