from job import job

from flashmm.io import write_groups
from flashmm.summary import summarise

with job(snakemake):
    options = ("shard", "by", "covariates", "transform", "layer", "libsize", "missing")
    groups = summarise(snakemake.input.counts, **{key: snakemake.params[key] for key in options})
    write_groups(groups, snakemake.output.groups)
