"""Real donors in the place of a simulation: labels permuted, or counts thinned."""

from __future__ import annotations

from typing import Any

from flashmm.benchmark.donors import DonorSpec, SetName, donor_set, seed_of
from flashmm.io.cells import write_cells
from flashmm.storage.files import atomic_path, file_digest, package_version


def run(job: Any) -> None:
    """Make the outputs of the job."""
    source, seed = job.input.counts, list(job.params.seed)
    given = job.params.donors
    spec = DonorSpec(**given["spec"], seed=seed_of(seed))
    name = SetName(given["per_side"], given["kind"], int(job.wildcards.replicate))
    made = donor_set(source, spec, name)
    said = {
        "flashmm": package_version(),
        "seed": seed,
        "source": {"file": source, "sha256": file_digest(source)},
        **given,
    }
    write_cells(made.cells, job.output.counts, said)
    with atomic_path(job.output.truth) as unfinished:
        made.truth.to_csv(unfinished, sep="\t", index=False)
