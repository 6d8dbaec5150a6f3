from job import job

from flashmm.benchmark.donors import DonorSpec, SetName, donor_set, seed_of
from flashmm.io.cells import write_cells
from flashmm.storage.files import atomic_path, file_digest, package_version

with job(snakemake):
    source, seed = snakemake.input.counts, list(snakemake.params.seed)
    given = snakemake.params.donors
    spec = DonorSpec(**given["spec"], seed=seed_of(seed))
    name = SetName(given["per_side"], given["kind"], int(snakemake.wildcards.replicate))
    made = donor_set(source, spec, name)
    said = {
        "flashmm": package_version(),
        "seed": seed,
        "source": {"file": source, "sha256": file_digest(source)},
        **given,
    }
    write_cells(made.cells, snakemake.output.counts, said)
    with atomic_path(snakemake.output.truth) as unfinished:
        made.truth.to_csv(unfinished, sep="\t", index=False)
