from job import job, measured

from flashmm.io import read_groups, write_table
from flashmm.mixedlm import choose_genes, fit_mixedlm

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
    write_table(result.tests, snakemake.output.tests)
    write_table(result.fits.drop(columns=["seconds", "peak_memory_mib"]), snakemake.output.fits)
    write_table(result.attempts.drop(columns=["seconds"]), snakemake.output.attempts)
