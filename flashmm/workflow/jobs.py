"""What every job needs: a log, one line for an error, and the measured time and memory.

A job is what Snakemake hands to a script: `rule, wildcards, input, output, params, log, threads`.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import pandas as pd

from flashmm.io.tables import write_table
from flashmm.kernels.threads import limit_threads
from flashmm.options import FlashmmError, FlashmmWarning
from flashmm.storage.files import PathLike, atomic_path, file_digest
from flashmm.storage.usage import Clock, peak_memory_mib
from flashmm.workflow.wording import in_yaml


@contextmanager
def recorded(job: Any) -> Iterator[None]:
    """Send what is printed to the rule's log; end with one line and exit code 1 at an error.

    What the whole job took, from reading to writing, is added to the output `measured`.
    """
    clock = Clock.start()
    # the jobs of a run stand side by side: each keeps to the threads that it was given
    limit_threads(job.threads)
    terminal = sys.stderr
    with open(job.log[0], "w", buffering=1) as log:
        sys.stdout = sys.stderr = log
        warnings.showwarning = _log_warning
        try:
            yield
            _record(job.output.get("measured"), clock)
        except Exception as error:
            expected = isinstance(error, FlashmmError | OSError)
            text = in_yaml(str(error)) if expected else f"{type(error).__name__}: {error}"
            message = f"flashmm: {text} [{job.log[0]}]"
            if not expected:
                traceback.print_exc()
            for stream in (log, terminal):
                print(message, file=stream)
            sys.exit(1)
        finally:
            sys.stdout, sys.stderr = sys.__stdout__, terminal


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print one line per warning; those of other packages say where they come from."""
    ours = issubclass(category, FlashmmWarning)
    print(f"note: {message}" if ours else f"{filename}:{lineno}: {message}", file=sys.stderr)


def recipe(job: Any) -> dict[str, Any]:
    """What made a table: the rule, its parameters and the digests of the files that it read.

    Files go by their names in the rule: where they lie depends on the machine and the storage.
    """
    return {
        "rule": job.rule,
        "wildcards": dict(job.wildcards),
        "params": dict(job.params),
        "inputs": {name: _digests(files) for name, files in job.input.items()},
    }


def _digests(files: str | Iterable[str]) -> str | list[str]:
    """The digest of one file, or those of a list of files."""
    return file_digest(files) if isinstance(files, str) else [file_digest(path) for path in files]


@contextmanager
def measured(path: PathLike, **more: Any) -> Iterator[None]:
    """Write the seconds of the block and the peak memory of the process (MiB) as JSON."""
    start = time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    write_measured(path, seconds=seconds, peak_memory_mib=peak_memory_mib(), **more)


def _record(path: PathLike | None, clock: Clock) -> None:
    """Add to what was measured what the job as a whole took; a method has measured itself."""
    if path is None:
        return
    known = json.loads(Path(path).read_text()) if Path(path).exists() else {}
    if "cpu_seconds" not in known:
        write_measured(path, **known, job=clock.took())


def write_measured(path: PathLike, **numbers: Any) -> None:
    """Write what was measured as JSON."""
    with atomic_path(path) as unfinished:
        unfinished.write_text(json.dumps(numbers) + "\n")


def write_notes(path: PathLike, notes: Iterable[str]) -> None:
    """Write one note per line, each once."""
    with atomic_path(path) as unfinished:
        unfinished.write_text("".join(f"{note}\n" for note in dict.fromkeys(notes)))


def write_tables(job: Any, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write tables by the names of the outputs; those among `tsv` as text too."""
    made = recipe(job)
    texts = {Path(path).stem: path for path in job.output.tsv}
    for name, table in tables.items():
        write_table(table, job.output[name], texts.get(name), made)
