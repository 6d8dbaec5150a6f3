from job import job

from flashmm.report import write_report

with job(snakemake):
    given = snakemake.params
    # a storage puts the files into a folder of its own
    place = dict(zip(given.files, map(str, snakemake.input.files), strict=True))

    def here(value):
        """The value, a path where it lies for this job."""
        if isinstance(value, list):
            return [here(item) for item in value]
        return place.get(value, value) if isinstance(value, str) else value

    write_report(
        snakemake.output.html,
        snakemake.output.figures,
        runs=[{key: here(value) for key, value in run.items()} for run in given.runs],
        tables={table: here(path) for table, path in given.tables.items()},
        scenarios=given.scenarios,
        config=given.config,
    )
