from job import job

from flashmm.files import atomic_path
from flashmm.io import write_groups
from flashmm.simulate import SimulationSpec, simulate_gaussian_groups

with job(snakemake):
    spec = SimulationSpec(**snakemake.params.spec)
    simulation = simulate_gaussian_groups(spec, list(snakemake.params.seed))
    write_groups(simulation.groups, snakemake.output.groups)
    with atomic_path(snakemake.output.truth) as unfinished:
        simulation.truth.to_csv(unfinished, sep="\t", index=False)
