from pathlib import Path

from job import job, recipe, write_notes

from flashmm.benchmark.donor_metrics import run_set
from flashmm.benchmark.donors import DonorSpec, SetName, donor_set
from flashmm.benchmark.methods import Method
from flashmm.io.tables import write_table

with job(snakemake):
    given, spec = snakemake.wildcards, DonorSpec(**snakemake.params.spec)
    name = SetName(int(given.per_side), given.kind, int(given.replicate))
    tests, notes = run_set(
        donor_set(snakemake.input.counts, spec, name),
        [Method.of(method) for method in snakemake.params.methods],
        min_counts=spec.min_counts,
        peers=Path(snakemake.input.peers[0]).parent,
        seed=spec.seed,
    )
    write_table(tests, snakemake.output.tests, provenance=recipe(snakemake))
    write_notes(snakemake.output.notes, notes)
