import json
from pathlib import Path

from job import job, write_measured

from flashmm.io.fits import join_fits

with job(snakemake):
    join_fits(snakemake.input.fits, snakemake.output.fit)
    parts = [json.loads(Path(path).read_text()) for path in snakemake.input.measured]
    # the work is the sum of the jobs' seconds; the memory is what the largest of them needed
    write_measured(
        snakemake.output.measured,
        seconds=sum(part["seconds"] for part in parts),
        peak_memory_mib=max(part["peak_memory_mib"] for part in parts),
        genes=sum(part["genes"] for part in parts),
        cells=parts[0]["cells"],
    )
