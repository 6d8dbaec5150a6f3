from pathlib import Path

import pandas as pd
from job import job, recipe

from flashmm.io.tables import read_table, write_table
from flashmm.io.verdicts import cost_table, status_table, summed_costs

READERS = {"costs": cost_table, "status": status_table}


def named(run, frame):
    """The part of one data set, led by the columns that name it."""
    return pd.concat([pd.DataFrame([run] * len(frame), index=frame.index), frame], axis=1)


with job(snakemake):
    made = recipe(snakemake)
    texts = {Path(path).stem: path for path in snakemake.output.tsv}
    for path in snakemake.output.parquet:
        table = Path(path).stem
        parts = map(READERS.get(table, read_table), snakemake.input[table])
        runs = snakemake.params.runs[table]
        whole = pd.concat(list(map(named, runs, parts)), ignore_index=True)
        whole = summed_costs(whole) if table == "costs" else whole
        write_table(whole, path, texts.get(table), made)
