"""Gaussian groups with a known truth."""

from __future__ import annotations

from typing import Any

from flashmm.io.groups import write_groups
from flashmm.simulate import SimulationSpec, simulate_gaussian_groups
from flashmm.storage.files import atomic_path


def run(job: Any) -> None:
    """Make the outputs of the job."""
    spec = SimulationSpec(**job.params.spec)
    simulation = simulate_gaussian_groups(spec, list(job.params.seed))
    write_groups(simulation.groups, job.output.groups)
    with atomic_path(job.output.truth) as unfinished:
        simulation.truth.to_csv(unfinished, sep="\t", index=False)
