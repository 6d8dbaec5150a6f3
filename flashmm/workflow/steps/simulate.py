"""Counts with a known truth."""

from __future__ import annotations

from typing import Any

import pandas as pd

from flashmm.simulate import SimulationSpec, simulate_counts
from flashmm.storage.files import atomic_path


def run(job: Any) -> None:
    """Make the outputs of the job."""
    files = {key: str(path) for key, path in job.input.items()}
    fields = dict(job.params.spec) | files
    if "metadata" in fields:
        fields["metadata"] = pd.read_csv(fields["metadata"], sep="\t", index_col=0)
    simulation = simulate_counts(
        SimulationSpec(**fields),
        list(job.params.seed),
        path=job.output.counts,
        threads=job.threads,
    )
    with atomic_path(job.output.truth) as unfinished:
        simulation.truth.to_csv(unfinished, sep="\t", index=False)
