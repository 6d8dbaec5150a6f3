from job import job, measured, recipe

from flashmm.benchmark.mixedlm import choose_genes, fit_mixedlm
from flashmm.io.files import read_groups, write_table

with job(snakemake):
    params = snakemake.params
    genes = choose_genes(read_groups(snakemake.input.groups), params.genes, params.seed)
    with measured(snakemake.output.measured, genes=len(genes)):
        result = fit_mixedlm(
            snakemake.input.counts,
            genes,
            params.fixed,
            params.random,
            transform=params.transform,
            reml=params.method == "REML",
            methods=params.optimisers,
            layer=params.layer,
        )
    # measured times stay in results/benchmarks, so that the tables are the same in every run
    made = recipe(snakemake)
    fits = result.fits.drop(columns=["seconds", "peak_memory_mib"])
    write_table(result.tests, snakemake.output.tests, provenance=made)
    write_table(fits, snakemake.output.fits, provenance=made)
    attempts = result.attempts.drop(columns=["seconds"])
    write_table(attempts, snakemake.output.attempts, provenance=made)
