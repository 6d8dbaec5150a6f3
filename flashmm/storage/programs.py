"""Programs that read files which are written for them, and write a table."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from flashmm.options import InputError
from flashmm.storage.processes import Ended, Limits, run_limited

#: What a file for a program may hold: a table, a sparse matrix, cells, a file that is there
#: already, or a folder of such things by name.
Content: TypeAlias = (
    "pd.DataFrame | sparse.csr_matrix | sparse.coo_matrix | ad.AnnData | Path | Mapping[str, Any]"
)

# Words for a missing number in the tables of programs.
MISSING = ("", "NA", "NaN", "nan", "None", "null", "NULL")
_MATRIX_HEAD = "%%MatrixMarket matrix coordinate integer general\n"
# Entries of a matrix that are made text at once.
_LINES_AT_ONCE = 2**20
_PROJECT = Path(__file__).resolve().parents[2]


def located(argument: str) -> str:
    """A file that a command names: in the working folder, else in the project.

    Parameters
    ----------
    argument : str
        An argument of a command.

    Returns
    -------
    str
        The argument as it is, or the path of a file of the project.
    """
    own = _PROJECT / argument
    if argument and not os.path.isabs(argument) and not Path(argument).exists() and own.is_file():
        return str(own)
    return argument


@dataclass(frozen=True, eq=False)
class Answer:
    """What came of a program.

    Attributes
    ----------
    ended : Ended
        How it ended and what it took.
    table : DataFrame or None
        What it wrote, every column of a text file as text; None where it wrote nothing.
    """

    ended: Ended
    table: pd.DataFrame | None


def run_on_files(
    command: Sequence[str] | Callable[[str], int],
    files: Mapping[str, Content],
    values: Mapping[str, str],
    limits: Limits | None = None,
    environment: Mapping[str, str] | None = None,
) -> Answer:
    """Write files for a program, run it, and read the table that it writes.

    Parameters
    ----------
    command : sequence of str
        The program and its arguments, in which ``{name}`` stands for the path of a file, a value,
        or ``{out}``, the path that the program writes to. A callable is given this path and
        gives an exit code; it runs in a copy of this process.
    files : mapping of str to Content
        What the files hold; a mapping makes a folder.
    values : mapping of str to str
        Other words of the command.
    limits : Limits, optional
        What the program may take.
    environment : mapping of str to str, optional
        Variables for it.

    Returns
    -------
    Answer

    Raises
    ------
    InputError
        What was written is no table.
    """
    with TemporaryDirectory(prefix="flashmm-") as place:
        folder = Path(place)
        temporary = folder / "tmp"
        temporary.mkdir()
        words = {name: str(_write(folder, name, content)) for name, content in files.items()}
        words |= {**values, "out": str(folder / "out.tsv")}
        ended = run_limited(
            partial(command, words["out"])
            if callable(command)
            else [_filled(argument, words) for argument in command],
            limits,
            folder=temporary,
            environment=environment,
        )
        # the folder has another name in every run
        ended = replace(ended, log=tuple(line.replace(f"{place}/", "") for line in ended.log))
        table = read_result(Path(words["out"])) if ended.code == 0 else None
    return Answer(ended, table)


def _filled(argument: str, words: Mapping[str, str]) -> str:
    """An argument with the words in place of their names; braces of other names stay."""
    for name, word in words.items():
        argument = argument.replace("{" + name + "}", word)
    return argument


def _write(folder: Path, name: str, content: Content) -> Path:
    """Write a file or folder, and say where."""
    if isinstance(content, Path):
        return content.resolve()
    if isinstance(content, Mapping):
        (folder / name).mkdir()
        for part, inner in content.items():
            _write(folder / name, part, inner)
        return folder / name
    if isinstance(content, ad.AnnData):
        path = folder / f"{name}.h5ad"
        content.write_h5ad(path)
        return path
    if isinstance(content, pd.DataFrame):
        path = folder / f"{name}.tsv"
        _write_text(path, content)
        return path
    path = folder / f"{name}.mtx"
    _write_matrix(path, sparse.coo_matrix(content))
    return path


def _write_text(path: Path, table: pd.DataFrame) -> None:
    """Write a table without quotes, which not all readers know."""
    try:
        table.to_csv(path, sep="\t", index=False, na_rep="NA", quoting=csv.QUOTE_NONE)
    except csv.Error:
        raise InputError(
            "A name of a gene, subject, cell type or condition holds a tab or a line break; give "
            "it another name, so that other programs can read it."
        ) from None


def _write_matrix(path: Path, matrix: sparse.coo_matrix) -> None:
    """Write whole numbers in the coordinate format of MatrixMarket, indices from 1."""
    rows, columns = matrix.shape
    with path.open("w") as file:
        file.write(f"{_MATRIX_HEAD}{rows} {columns} {matrix.nnz}\n")
        for first in range(0, matrix.nnz, _LINES_AT_ONCE):
            part = slice(first, first + _LINES_AT_ONCE)
            lines = {
                "row": matrix.row[part] + 1,
                "column": matrix.col[part] + 1,
                "value": matrix.data[part].astype(np.int64),
            }
            pd.DataFrame(lines).to_csv(file, sep=" ", header=False, index=False)


def read_result(path: Path) -> pd.DataFrame | None:
    """Read a table that a program wrote.

    Parameters
    ----------
    path : Path
        Parquet, or text with tabs, else with commas, between the columns; by its content.

    Returns
    -------
    DataFrame or None
        The columns of text as text, nothing in them missing; None where there is no such file.

    Raises
    ------
    InputError
        It is no table.
    """
    if not path.is_file():
        return None
    content = path.read_bytes()
    try:
        if content.startswith(b"PAR1"):
            return pd.read_parquet(path)
        text = content.decode("utf-8-sig")
        separator = "\t" if "\t" in text.partition("\n")[0] else ","
        return pd.read_csv(StringIO(text), sep=separator, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:
        reason = (str(error).strip().splitlines() or ["it is empty"])[0]
        raise InputError(f"what it wrote cannot be read as a table ({reason})") from None


def numbers(column: pd.Series) -> pd.Series:
    """A column of a table of a program as numbers.

    Parameters
    ----------
    column : Series
        Text or numbers; `MISSING` are words for a missing one.

    Returns
    -------
    Series of float

    Raises
    ------
    ValueError
        Something else is written there.
    """
    if not (pd.api.types.is_string_dtype(column) or column.dtype == object):
        return column.astype(float)
    text = column.astype("string").str.strip()
    return pd.to_numeric(text.mask(text.isin(MISSING))).astype(float)
