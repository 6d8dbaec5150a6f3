"""Fits of shards of genes joined into one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flashmm.io.fits import join_fits
from flashmm.workflow.jobs import write_measured


def run(job: Any) -> None:
    """Make the outputs of the job."""
    join_fits(job.input.fits, job.output.fit)
    parts = [json.loads(Path(path).read_text()) for path in job.input.measured]
    # the work is the sum of the jobs' seconds; the memory is what the largest of them needed
    write_measured(
        job.output.measured,
        seconds=sum(part["seconds"] for part in parts),
        peak_memory_mib=max(part["peak_memory_mib"] for part in parts),
        genes=sum(part["genes"] for part in parts),
        cells=parts[0]["cells"],
    )
