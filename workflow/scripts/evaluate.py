import pandas as pd
from job import job, recipe

from flashmm.benchmark.evaluation import evaluate
from flashmm.io.tables import read_table, write_table

with job(snakemake):
    path = snakemake.input.get("truth")
    truth = pd.read_csv(path, sep="\t", dtype={"gene": str, "cell_type": str}) if path else None
    evaluation = evaluate(
        read_table(snakemake.input.table),
        truth,
        cell_type=snakemake.params.within or "cell_type",
        levels=snakemake.params.levels,
        fdr=snakemake.params.fdr,
    )
    tables = {"metrics": evaluation.metrics, **evaluation.curves}
    made = recipe(snakemake)
    for table in dict(snakemake.output.items()):
        frame = tables.get(table, pd.DataFrame({"contrast": []}))
        write_table(frame, snakemake.output[table], provenance=made)
