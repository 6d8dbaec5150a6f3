from job import job, write_measured

from flashmm.cells.summary import summarise
from flashmm.io.groups import write_groups

with job(snakemake):
    options = ("shard", "by", "covariates", "transform", "layer", "libsize", "missing")
    groups = summarise(snakemake.input.counts, **{key: snakemake.params[key] for key in options})
    write_groups(groups, snakemake.output.groups)
    write_measured(snakemake.output.measured, genes=groups.n_genes, cells=groups.n_cells)
