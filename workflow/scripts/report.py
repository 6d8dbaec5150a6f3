from job import job

from flashmm.report.inputs import Inputs
from flashmm.report.run import write_report

with job(snakemake):
    write_report(snakemake.output.html, Inputs.from_job(snakemake))
