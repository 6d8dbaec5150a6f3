from job import job

from flashmm.report.run import write_report

with job(snakemake):
    given = snakemake.params
    # a storage puts the files into a folder of its own
    place = dict(zip(given.files, map(str, snakemake.input.files), strict=True))

    def here(value):
        """The value, a path where it lies for this job."""
        if isinstance(value, list):
            return [here(item) for item in value]
        if isinstance(value, dict):
            return {key: here(item) for key, item in value.items()}
        return place.get(value, value) if isinstance(value, str) else value

    write_report(
        snakemake.output.html,
        snakemake.output.figures,
        runs=here(given.runs),
        tables=here(given.tables),
        scenarios=given.scenarios,
        related=here(given.related),
        config=given.config,
    )
