import pandas as pd
from job import job

from flashmm.simulate import SimulationSpec, simulate_counts
from flashmm.storage.files import atomic_path

with job(snakemake):
    files = {key: str(path) for key, path in snakemake.input.items()}
    fields = dict(snakemake.params.spec) | files
    if "metadata" in fields:
        fields["metadata"] = pd.read_csv(fields["metadata"], sep="\t", index_col=0)
    simulation = simulate_counts(
        SimulationSpec(**fields),
        list(snakemake.params.seed),
        path=snakemake.output.counts,
        threads=snakemake.threads,
    )
    with atomic_path(snakemake.output.truth) as unfinished:
        simulation.truth.to_csv(unfinished, sep="\t", index=False)
