"""Groups of shards of cells added up."""

from __future__ import annotations

from typing import Any

from flashmm.io.groups import merge_files, write_groups


def run(job: Any) -> None:
    """Make the outputs of the job."""
    write_groups(merge_files(job.input.parts), job.output.groups)
