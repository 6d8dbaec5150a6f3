from job import job

from flashmm.io import write_groups
from flashmm.summary import summarise

with job(snakemake):
    options = ("by", "covariates", "transform", "layer", "libsize", "missing")
    n = tuple(snakemake.params.shard)
    groups = summarise(
        snakemake.input.counts,
        **{key: snakemake.params[key] for key in options},
        **({} if n == (1, 1) else {"shard": n}),
    )
    write_groups(groups, snakemake.output.groups)
