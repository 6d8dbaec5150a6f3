import pandas as pd
from job import job, recipe

from flashmm.io import read_table, write_table


def named(run, frame):
    """The part of one run, led by the columns that name the run."""
    return pd.concat([pd.DataFrame([run] * len(frame), index=frame.index), frame], axis=1)


with job(snakemake):
    made = recipe(snakemake)
    for table, runs in snakemake.params.runs.items():
        parts = map(read_table, snakemake.input[table])
        whole = pd.concat(list(map(named, runs, parts)), ignore_index=True)
        tsv = f"results/evaluation/{table}.tsv"
        write_table(
            whole,
            f"results/evaluation/{table}.parquet",
            tsv if tsv in snakemake.output.tsv else None,
            made,
        )
