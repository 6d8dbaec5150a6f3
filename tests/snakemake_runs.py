"""Runs of Snakemake in processes that are forked from one that has imported it.

Their jobs are done by a worker that is forked as well; that a run starts one by itself is asked in
`workflow/test_worker.py` and `workflow/test_shards.py`.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver, get_context
from pathlib import Path

import pytest

SERVER = get_context("forkserver")
SERVER.set_forkserver_preload(["snakemake_imports"])


def run_snakemake(
    folder: Path,
    arguments: Sequence[str],
    output: Path,
    environment: Mapping[str, str] | None = None,
) -> int | None:
    """Exit code of `snakemake` with these arguments; what it prints is in the file `output`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        forkserver.ensure_running()
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    process = SERVER.Process(target=_command, args=(folder, arguments, output, variables))
    process.start()
    process.join()
    return process.exitcode


def _command(
    folder: Path, arguments: Sequence[str], output: Path, variables: Mapping[str, str]
) -> None:
    """What the command `snakemake` does, in the folder, with these variables."""
    from snakemake.cli import main

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    if sys.platform == "linux":
        _fork_worker()
    sys.argv = ["snakemake", *arguments]
    main()


def _fork_worker() -> None:
    """Fork the worker of this run, which would start one at its first job, and say where it is."""
    from flashmm.workflow import handing_over, worker

    name, run = f"flashmm-test-{secrets.token_hex(8)}", os.getpid()
    os.environ[handing_over.VARIABLE] = f"{name} {run}"
    if os.fork() == 0:
        os._exit(worker.serve(name, run))
