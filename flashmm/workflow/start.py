"""How the script of a rule begins: ``start("fit", snakemake)``.

A job of a few milliseconds is not to wait seconds for imports. Where the run has a worker
(`flashmm.workflow.worker`), the job becomes a copy of that process; elsewhere it is done here.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from flashmm.workflow import handing_over


def start(step: str, job: Any) -> None:
    """Do a job and end this process if it fails.

    Parameters
    ----------
    step : str
        Name of the module of `flashmm.workflow.steps` that makes the outputs.
    job : object
        What Snakemake hands to a script: `rule, wildcards, input, output, params, log, threads`.

    Raises
    ------
    SystemExit
        The job failed; its log and the standard error say why.
    """
    code = handing_over.done_by_worker(step, job)
    if code is None:
        do(step, job)
    elif code:
        sys.exit(code)


def do(step: str, job: Any) -> None:
    """Do a job in this process."""
    module = import_module(f"flashmm.workflow.steps.{step}")
    with import_module("flashmm.workflow.jobs").recorded(job):
        module.run(job)
