"""Methods from elsewhere: a command that is run on files, and what is made of its table.

Whatever such a method does, it ends with a `Verdict`: its tests in the columns of all methods, or a
status that says why there are none.
"""

from __future__ import annotations

import shlex
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from flashmm.benchmark.comparison import CELL_TYPE, Comparison
from flashmm.benchmark.truth import adjust_per_contrast
from flashmm.inference.table import frame_columns
from flashmm.names import did_you_mean, listed
from flashmm.options import InputError, Status
from flashmm.storage.processes import SKIPPED_CODE, Ended, Limits
from flashmm.storage.programs import Answer, Content, numbers, run_on_files

#: What a command may name in braces, and what it gets there.
PLACEHOLDERS: Mapping[str, str] = {
    "groups": "folder with sums of counts: counts.tsv, groups.tsv",
    "cells": "AnnData file (.h5ad) of the counts",
    "matrix": "folder with the counts of the cells: matrix.mtx, genes.tsv, cells.tsv",
    "obs": "table of the cells",
    "design": "table of what is compared",
    "out": "where the table of tests is to be written",
    "threads": "number of threads",
    "seed": "seed of what is random",
}
#: Those that need the cells themselves, beside their sums.
OF_CELLS = ("cells", "matrix", "obs")
#: How a method ended.
STATUSES = ("ok", "failed", "timed-out", "out-of-memory", "invalid", "skipped")

_REQUIRED = ("gene", "p_value")
_NUMBERS = ("estimate", "std_error", "statistic", "df", "log2_fc", "p_value")


@dataclass(frozen=True, eq=False)
class Verdict:
    """How a method ended, and its tests.

    Attributes
    ----------
    status : str
        One of `STATUSES`.
    message : str
        Why there are no tests; empty where there are.
    tests : DataFrame
        Tidy tests; no rows where the status is not "ok".
    log : tuple of str
        Last lines that the method printed.
    notes : tuple of str
        What is to be known of the tests.
    costs : mapping
        `seconds, cpu_seconds, peak_memory_mib, baseline_memory_mib` (NaN of a command: nobody knows
        what it needs before it reads).
    """

    status: str
    message: str
    tests: pd.DataFrame
    log: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    costs: Mapping[str, float] = field(default_factory=dict)


def parse_command(text: str) -> tuple[str, ...]:
    """Split a command into arguments and check what it names in braces.

    Parameters
    ----------
    text : str
        A command as a sheet has it; quotes hold an argument with spaces together. It is not given
        to a shell.

    Returns
    -------
    tuple of str
        The program and its arguments.

    Raises
    ------
    InputError
        A quote or brace is not closed, a name in braces is not known, ``{out}`` is missing, or
        there is no program.
    """
    try:
        arguments = tuple(shlex.split(text))
    except ValueError as error:
        raise InputError(f"command: {text!r} cannot be split into arguments: {error}.") from None
    named = {name for argument in arguments for name in _named(argument)}
    for name in sorted(named - set(PLACEHOLDERS)):
        raise InputError(
            f"command: {{{name}}} is not known{did_you_mean(name, PLACEHOLDERS)} "
            f"A command may name {', '.join(f'{{{known}}}' for known in PLACEHOLDERS)}."
        )
    if not arguments or _named(arguments[0]):
        raise InputError("command: it begins with the program to run.")
    if "out" not in named:
        raise InputError(
            "command: it needs {out}, the path of the table that the method writes, as one of the "
            "arguments."
        )
    return arguments


def _named(argument: str) -> list[str]:
    """Names in braces in an argument."""
    try:
        parts = [part for _, part, _, _ in string.Formatter().parse(argument)]
    except ValueError:
        raise InputError(
            f"command: a brace of {argument!r} is not closed; names stand in braces, {{out}}."
        ) from None
    return [part for part in parts if part is not None]


def placeholders_of(command: Iterable[str]) -> tuple[str, ...]:
    """Names in braces that a command uses, in the order of `PLACEHOLDERS`."""
    used = {name for argument in command for name in _named(argument)}
    return tuple(name for name in PLACEHOLDERS if name in used)


# ----------------------------------------------------------------------------------------------
# Running


def run_command(
    command: Iterable[str],
    asked: Comparison,
    contents: Mapping[str, Callable[[], Content]],
    *,
    limits: Limits | None = None,
    seed: int = 0,
    genes_total: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Verdict:
    """Run a command and judge what it leaves.

    Parameters
    ----------
    command : iterable of str
        The program and its arguments, of `parse_command`.
    asked : Comparison
        What is tested.
    contents : mapping of str to callable
        Placeholder to what makes its content; only those that the command names are called.
    limits : Limits, optional
        Time, memory and threads of the command.
    seed : int
        What ``{seed}`` is.
    genes_total : int, optional
        Genes of the data, where it was given some of them only.
    environment : mapping of str to str, optional
        Variables for the program.

    Returns
    -------
    Verdict
    """
    arguments, limits = tuple(command), limits or Limits()
    used = placeholders_of(arguments)
    files = {name: contents[name]() for name in used if name in contents}
    values = {"threads": str(limits.threads), "seed": str(seed)}
    try:
        answer = run_on_files(arguments, files, values, limits, environment)
    except InputError as error:
        return Verdict("invalid", str(error), no_tests(asked))
    verdict = judged(answer, asked, limits)
    return replace(verdict, notes=(*verdict.notes, *_of_pace(verdict, asked, genes_total)))


def judged(answer: Answer, asked: Comparison, limits: Limits) -> Verdict:
    """Say how a command ended and check its table.

    Parameters
    ----------
    answer : Answer
        What came of it.
    asked : Comparison
        What it was asked.
    limits : Limits
        What it was allowed.

    Returns
    -------
    Verdict
    """
    ended = answer.ended
    costs = {
        "seconds": ended.seconds,
        "cpu_seconds": ended.cpu_seconds,
        "peak_memory_mib": ended.peak_memory_mib,
        "baseline_memory_mib": np.nan,
    }
    status, message = _ending(ended, limits)
    tests: pd.DataFrame = no_tests(asked)
    notes: tuple[str, ...] = ()
    if status == "ok":
        try:
            tests, notes = checked_tests(answer.table, asked)
        except InputError as error:
            status, message = "invalid", str(error)
    return Verdict(status, message, tests, ended.log, notes, costs)


def _ending(ended: Ended, limits: Limits) -> tuple[str, str]:
    """Status and message of a program by the way in which it ended."""
    last = ended.log[-1] if ended.log else "it printed nothing"
    if ended.stopped == "time":
        return "timed-out", f"stopped after {(limits.seconds or 0) / 60:g} minutes (timeout)"
    if ended.stopped == "memory":
        return "out-of-memory", f"stopped above {limits.memory_mib:g} MB (memory)"
    if ended.stopped == "output":
        return "failed", "stopped because it printed more than 256 MB"
    if ended.code is None:
        return "skipped", f"there is no such program ({last})"
    if ended.code == SKIPPED_CODE:
        return "skipped", last
    if ended.code < 0:
        return "failed", f"ended by signal {-ended.code}; {last}"
    return ("ok", "") if ended.code == 0 else ("failed", f"exit code {ended.code}; {last}")


def _of_pace(verdict: Verdict, asked: Comparison, total: int | None) -> tuple[str, ...]:
    """What all genes would take, where some were tested."""
    n = len(asked.genes)
    if verdict.status != "ok" or total is None or n >= total:
        return ()
    seconds = verdict.costs["seconds"] * total / n
    return (
        f"{n:,} of {total:,} genes were tested, spread evenly over the range of expression; all "
        f"would take about {seconds:,.0f} seconds at this pace.",
    )


# ----------------------------------------------------------------------------------------------
# The table


def no_tests(asked: Comparison) -> pd.DataFrame:
    """A table of tests without rows, with the columns of all methods."""
    columns = _columns(asked)
    frame = pd.DataFrame({column: pd.Series(dtype=float) for column in columns})
    texts = [column for column in columns if column in (*_keys(asked), "status")]
    return frame.astype(dict.fromkeys(texts, object))


def _columns(asked: Comparison) -> list[str]:
    shared = list(frame_columns(intervals=True))
    shared.insert(shared.index("p_value"), "log2_fc")
    return [*_keys(asked), *shared]


def _keys(asked: Comparison) -> list[str]:
    return ["gene", *([] if asked.cell_type is None else [asked.cell_type]), "contrast"]


def checked_tests(
    table: pd.DataFrame | None, asked: Comparison
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Check the table of a method from elsewhere and give it the columns of all methods.

    Parameters
    ----------
    table : DataFrame or None
        `gene`, `p_value`, where there are several cell types `cell_type`, where there are several
        contrasts `contrast`, and perhaps `estimate`, `std_error`, `statistic`, `df`, `log2_fc`;
        columns of text as text. Other columns are left out.
    asked : Comparison
        What was asked: all its genes get a row for each cell type and contrast.

    Returns
    -------
    tests : DataFrame
        Tidy, in the order of contrasts, cell types and genes. A test that the method did not give
        has the status "not_reported".
    notes : tuple of str
        How many these are.

    Raises
    ------
    InputError
        There is no table, a column is missing, a gene, cell type or contrast is not known or there
        twice, something is no number, or a p-value is outside [0, 1].
    """
    given = _required(table)
    _fill_in(given, asked)
    keys = _keys(asked)
    known: dict[str, Iterable[str]] = {"gene": asked.genes, "contrast": asked.contrasts}
    if asked.cell_type is not None:
        known[asked.cell_type] = asked.types
    for column in keys:
        _check_names(given[column], known[column])
    _check_once(given, keys)
    for column in _NUMBERS:
        given[column] = _checked_numbers(given, column)
    p = given["p_value"]
    if ((p < 0) | (p > 1)).any():
        bad = given[(p < 0) | (p > 1)].iloc[0]
        raise InputError(f"p_value: {bad['p_value']:g} of gene {bad['gene']!r} is outside [0, 1]")
    return _completed(given, asked)


def _required(table: pd.DataFrame | None) -> pd.DataFrame:
    """A copy of the table with its names of columns in order."""
    if table is None:
        raise InputError("it wrote no table to {out}")
    given = table.rename(columns=lambda name: str(name).strip())
    if not given.columns.is_unique:
        raise InputError("the table has two columns of one name")
    missing = [column for column in _REQUIRED if column not in given]
    if missing:
        raise InputError(
            f"the table has no column {listed(missing)}; its columns are {listed(given.columns)}"
        )
    if not len(given):
        raise InputError("the table has no rows")
    return given.reset_index(drop=True)


def _fill_in(given: pd.DataFrame, asked: Comparison) -> None:
    """Columns that the method may leave out where there is no choice, and those of other names."""
    own = asked.cell_type
    if own is not None:
        given_as = next((name for name in (CELL_TYPE, own) if name in given), None)
        if given_as is None and len(asked.types) > 1:
            raise InputError(
                f"the table has no column 'cell_type', and there are {len(asked.types)} cell types"
            )
        given[own] = asked.types[0] if given_as is None else given[given_as]
    if "contrast" not in given:
        if len(asked.contrasts) > 1:
            raise InputError(
                "the table has no column 'contrast', and there are "
                f"{len(asked.contrasts)}: {listed(asked.contrasts)}"
            )
        given["contrast"] = asked.contrasts[0]
    for column in _keys(asked):
        given[column] = given[column].astype(str)


def _check_names(given: pd.Series, known: Iterable[str]) -> None:
    unknown = given[~given.isin(list(known))]
    if len(unknown):
        first = str(unknown.iloc[0])
        raise InputError(
            f"{given.name}: {unknown.nunique()} are not in the data, for example {first!r}"
            f"{did_you_mean(first, known)}"
        )


def _check_once(given: pd.DataFrame, keys: list[str]) -> None:
    twice = given[given.duplicated(keys)]
    if len(twice):
        raise InputError(
            f"{len(twice)} rows are there twice, for example that of {listed(twice.iloc[0][keys])}"
        )


def _checked_numbers(given: pd.DataFrame, column: str) -> pd.Series:
    """A column of numbers; NaN where the table has none."""
    if column not in given:
        return pd.Series(np.nan, given.index)
    try:
        found = numbers(given[column])
    except (ValueError, TypeError):
        raise InputError(f"{column}: some values are no numbers") from None
    return found


def _completed(given: pd.DataFrame, asked: Comparison) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """All tests that were asked for, with adjusted p-values and statuses."""
    keys = _keys(asked)
    levels = {"contrast": asked.contrasts, asked.cell_type: asked.types, "gene": asked.genes}
    order = [key for key in ("contrast", asked.cell_type, "gene") if key is not None]
    grid = pd.MultiIndex.from_product([levels[key] for key in order], names=order)
    tests = given.set_index(order)[list(_NUMBERS)].reindex(grid).reset_index()
    p = tests["p_value"].to_numpy()
    with np.errstate(divide="ignore"):
        tests["log10_p"] = np.log10(p)
    families = tests.groupby([key for key in keys if key != "gene"], sort=False).ngroup()
    tests["adj_p_value"] = adjust_per_contrast(p, families)
    tests["status"] = np.where(np.isnan(p), str(Status.NOT_REPORTED), str(Status.OK))
    tests["conf_low"] = tests["conf_high"] = np.nan
    # the unit of an estimate is the method's own; a fold change is one on the log₂ scale
    tests["estimate"] = tests["estimate"].fillna(tests["log2_fc"])
    missing = int(np.isnan(p).sum())
    said = f"{missing:,} of {len(tests):,} tests were not reported by the method."
    return tests[_columns(asked)], (said,) if missing else ()
