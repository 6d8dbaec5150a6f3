from job import job

from flashmm.cells.summary import summarise
from flashmm.io.groups import write_groups

with job(snakemake):
    options = ("shard", "by", "covariates", "transform", "layer", "libsize", "missing")
    groups = summarise(snakemake.input.counts, **{key: snakemake.params[key] for key in options})
    write_groups(groups, snakemake.output.groups)
