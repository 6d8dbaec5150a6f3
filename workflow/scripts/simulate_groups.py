from job import job

from flashmm.io.groups import write_groups
from flashmm.simulate import SimulationSpec, simulate_gaussian_groups
from flashmm.storage.files import atomic_path

with job(snakemake):
    spec = SimulationSpec(**snakemake.params.spec)
    simulation = simulate_gaussian_groups(spec, list(snakemake.params.seed))
    write_groups(simulation.groups, snakemake.output.groups)
    with atomic_path(snakemake.output.truth) as unfinished:
        simulation.truth.to_csv(unfinished, sep="\t", index=False)
