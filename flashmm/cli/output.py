"""What commands print: steps and notes for people on stderr, results on stdout, errors in flags."""

from __future__ import annotations

import functools
import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flashmm.options import DesignError, FlashmmError, FlashmmWarning

if TYPE_CHECKING:
    import pandas as pd

# Exit codes beside 0 and 2 (flags that are not known): a fault of the input, of the design.
FAULT, NO_ANSWER = 1, 3
# Arguments of the functions that are flags of another name.
FLAGS = {"by": "by", "log2_fc": "log2-fc", "missing": "missing", "n_genes": "genes"}
_P = ParamSpec("_P")
_R = TypeVar("_R")


def in_flags(text: str) -> str:
    """A message of the package in the words of the command line: layer='raw' is --layer raw."""

    def flag(match: re.Match[str]) -> str:
        name = FLAGS.get(match["name"], match["name"].replace("_", "-"))
        return f"--{name} {match['value']}" if match["value"] else f"--{name}"

    quoted = r"(?P<quote>['\"])(?P<value>[^'\"]*)(?P=quote)"
    text = re.sub(rf"\b(?P<name>{'|'.join(_ARGUMENTS)})={quoted}", flag, text)
    return re.sub(rf"\b(?P<name>{'|'.join(_ARGUMENTS)})=(?P<value>)(?![\w'\"\[(])", flag, text)


_ARGUMENTS = (
    *("layer", "transform", "subject", "condition", "within", "reference", "missing", "ddf"),
    *("genes", "effect", "cells", "subjects", "paired", "alpha", "log2_fc", "contrast", "by"),
    *("minimum_cells",),
    *(
        "obs",
        "covariate",
        "gene_names",
        "duplicate_genes",
        "kinship",
        "individual",
        "values",
        "layout",
    ),
)


def reported(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """Say warnings as notes and errors in one line, with their exit codes."""

    @functools.wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with warnings.catch_warnings():
            warnings.simplefilter("always", FlashmmWarning)
            warnings.showwarning = _notes()  # type: ignore[assignment]
            try:
                return command(*args, **kwargs)
            except (FlashmmError, OSError) as error:
                to_people().print(Text(f"Error: {in_flags(str(error))}", style="bold red"))
                code = NO_ANSWER if isinstance(error, DesignError) else FAULT
                raise typer.Exit(code) from None

    return run


def _notes() -> Callable[..., None]:
    """What shows warnings: notes of the package only, each once; others are for developers."""
    said: set[str] = set()

    def show(message: Any, category: type[Warning], *_: Any) -> None:
        text = in_flags(str(message))
        if issubclass(category, FlashmmWarning) and text not in said:
            said.add(text)
            to_people().print(Text(f"note: {text}", style="yellow"))

    return show


def to_people() -> Console:
    """Standard error, for words."""
    return Console(stderr=True, soft_wrap=True, highlight=False)


def step(text: str) -> None:
    """Say what is done next."""
    to_people().print(Text(text, style="dim"))


def say(lines: Iterable[str]) -> None:
    """Print sentences on standard output."""
    console = Console(soft_wrap=True, highlight=False)
    for line in lines:
        console.print(Text(in_flags(line)))


def show_table(frame: pd.DataFrame, title: str) -> None:
    """Print a table on standard output; names in it are never taken for markup."""
    import pandas as pd

    table = Table(title=Text(title), title_justify="left", header_style="bold")
    for column in frame:
        number = pd.api.types.is_numeric_dtype(frame[column])
        heading = str(column).replace("_", " ").replace("[", " [")
        table.add_column(
            Text(heading),
            justify="right" if number else "left",
            overflow="fold",
            min_width=min(16, max(map(len, heading.split()), default=1)),
        )
    for row in frame.itertuples(index=False):
        table.add_row(*(Text(_cell(value)) for value in row))
    Console(highlight=False).print(table)


def is_missing(value: Any) -> bool:
    """Whether a value of a table is none: None, NA or NaN."""
    import pandas as pd

    return value is None or value is pd.NA or bool(value != value)


def _cell(value: Any) -> str:
    if is_missing(value):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def show_json(found: Mapping[str, Any]) -> None:
    """Print a result for programs; what is missing is null."""
    print(json.dumps(_plain(found), indent=2, ensure_ascii=False))


def _plain(value: Any) -> Any:
    """Values as JSON has them."""
    if hasattr(value, "to_dict"):
        return [_plain(row) for row in value.to_dict(orient="records")]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if is_missing(value):
        return None
    return value.item() if hasattr(value, "item") else value
