from job import job

from flashmm.groups import merge
from flashmm.io import read_groups, write_groups

with job(snakemake):
    write_groups(merge(map(read_groups, snakemake.input.parts)), snakemake.output.groups)
