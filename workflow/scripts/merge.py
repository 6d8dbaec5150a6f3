from job import job

from flashmm.io.groups import merge_files, write_groups

with job(snakemake):
    write_groups(merge_files(snakemake.input.parts), snakemake.output.groups)
