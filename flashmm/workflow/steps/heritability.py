"""Traits of known heritability, simulated and estimated again."""

from __future__ import annotations

from typing import Any

from flashmm.subject_level.heritability import recover_heritability
from flashmm.workflow.jobs import write_notes, write_tables


def run(job: Any) -> None:
    """Make the outputs of the job."""
    spec = job.params.spec
    result = recover_heritability(
        spec["individuals"],
        spec["traits"],
        spec["h2"],
        n_markers=spec["markers"],
        family_size=spec["family_size"],
        n_dense=spec["dense"],
        seed=job.params.seed,
    )
    names = ("estimates", "summary", "dense", "profiles")
    write_tables(job, {name: getattr(result, name) for name in names})
    write_notes(job.output.notes, result.notes)
