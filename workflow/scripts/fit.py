from job import job, measured, shard_range

from flashmm.crossproducts import summary_statistics
from flashmm.io import read_groups, write_fit
from flashmm.lmm import fit_lmm

with job(snakemake):
    source = snakemake.input.groups
    groups = read_groups(source, genes=shard_range(source, *snakemake.params.shard))
    stats = summary_statistics(groups, snakemake.params.fixed, snakemake.params.random)
    with measured(snakemake.output.measured, genes=stats.n_genes, cells=stats.n_cells):
        fit = fit_lmm(stats, **snakemake.params.options)
    write_fit(fit, snakemake.output.fit, source)
