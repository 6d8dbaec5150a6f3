from job import job

from flashmm.report import write_report

with job(snakemake):
    write_report(
        snakemake.output.html,
        snakemake.output.figures,
        runs=snakemake.params.runs,
        tables=snakemake.params.tables,
        scenarios=snakemake.params.scenarios,
        config=snakemake.params.config,
    )
