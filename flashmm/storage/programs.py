"""Other programs that read tables and write one, run with a time limit."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from flashmm.options import InputError


def find_program(name: str) -> str | None:
    """Path of a program; None where there is none of that name."""
    return shutil.which(name)


def run_on_tables(
    command: Sequence[str],
    tables: Mapping[str, pd.DataFrame],
    arguments: Sequence[str] = (),
    *,
    timeout: float = 600,
) -> pd.DataFrame:
    """Run a program on tables and read the table that it writes.

    Parameters
    ----------
    command : sequence of str
        The program and what comes before the tables.
    tables : mapping of str to DataFrame
        Written as tab-separated text without their index; their paths are arguments, in this order.
    arguments : sequence of str
        What comes after the tables; the path of the result is the last argument.
    timeout : float
        Seconds after which the program is stopped.

    Returns
    -------
    DataFrame
        The tab-separated table that the program wrote.

    Raises
    ------
    InputError
        The program fails, takes too long or writes nothing; the text has what it said.
    """
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{name}.tsv" for name in tables]
        for path, table in zip(paths, tables.values(), strict=True):
            table.to_csv(path, sep="\t", index=False)
        result = Path(folder) / "result.tsv"
        whole = [*command, *map(str, paths), *arguments, str(result)]
        try:
            done = subprocess.run(
                whole, capture_output=True, text=True, timeout=timeout, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InputError(f"{command[0]}: {error}") from None
        if done.returncode or not result.is_file():
            raise InputError(
                f"{command[0]} ended with code {done.returncode}: {_error_line(done.stderr)}"
            )
        return pd.read_csv(result, sep="\t", dtype={"gene": str})


def _error_line(said: str) -> str:
    """The first line that speaks of an error, with the one after it; else the last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    for i, line in enumerate(lines):
        if line.startswith("Error"):
            return " ".join(lines[i : i + 2])
    return lines[-1] if lines else "it wrote no table."
