"""Runs of Snakemake in processes that are forked from one that has imported it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path

SERVER = get_context("forkserver")
SERVER.set_forkserver_preload(["snakemake.cli", "flashmm.workflow.plan"])


def run_snakemake(
    folder: Path,
    arguments: Sequence[str],
    output: Path,
    environment: Mapping[str, str] | None = None,
) -> int | None:
    """Exit code of `snakemake` with these arguments; what it prints is in the file `output`."""
    given = (folder, arguments, output, dict(environment or {}))
    process = SERVER.Process(target=_command, args=given)
    process.start()
    process.join()
    return process.exitcode


def _command(
    folder: Path, arguments: Sequence[str], output: Path, environment: Mapping[str, str]
) -> None:
    """What the command `snakemake` does, in the folder, with one thread for BLAS."""
    from snakemake.cli import main

    os.chdir(folder)
    os.environ.update({"OMP_NUM_THREADS": "1", **environment})
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.argv = ["snakemake", *arguments]
    main()
