"""All methods of a study on real donors on one set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flashmm.benchmark.donor_metrics import run_set
from flashmm.benchmark.donors import DonorSpec, SetName, donor_set
from flashmm.benchmark.methods import Method
from flashmm.io.tables import write_table
from flashmm.workflow.jobs import recipe, write_notes


def run(job: Any) -> None:
    """Make the outputs of the job."""
    given, spec = job.wildcards, DonorSpec(**job.params.spec)
    name = SetName(int(given.per_side), given.kind, int(given.replicate))
    tests, notes = run_set(
        donor_set(job.input.counts, spec, name),
        [Method.of(method) for method in job.params.methods],
        min_counts=spec.min_counts,
        peers=Path(job.input.peers[0]).parent,
        seed=spec.seed,
    )
    write_table(tests, job.output.tests, provenance=recipe(job))
    write_notes(job.output.notes, notes)
