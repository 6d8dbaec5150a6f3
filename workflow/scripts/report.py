from job import job

from flashmm.report import Inputs, write_report

with job(snakemake):
    write_report(snakemake.output.html, Inputs.from_job(snakemake))
