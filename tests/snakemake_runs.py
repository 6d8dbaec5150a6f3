"""Runs of Snakemake in processes that are forked from one that has imported it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

SERVER = get_context("forkserver")
SERVER.set_forkserver_preload(["snakemake.cli", "flashmm.workflow.plan"])


def run_snakemake(folder: Path, arguments: Sequence[str], output: Path) -> int | None:
    """Exit code of `snakemake` with these arguments; what it prints is in the file `output`."""
    process = SERVER.Process(target=_command, args=(folder, arguments, output))
    process.start()
    process.join()
    return process.exitcode


def _command(folder: Path, arguments: Sequence[str], output: Path) -> None:
    """What the command `snakemake` does, in the folder, with one thread for BLAS."""
    from snakemake.cli import main

    os.chdir(folder)
    os.environ["OMP_NUM_THREADS"] = "1"
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.argv = ["snakemake", *arguments]
    main()
