import pandas as pd
from job import job

from flashmm.evaluate import evaluate
from flashmm.io import read_table, write_table

with job(snakemake):
    path = snakemake.input.get("truth")
    truth = pd.read_csv(path, sep="\t", dtype={"gene": str, "cell_type": str}) if path else None
    evaluation = evaluate(
        read_table(snakemake.input.table),
        truth,
        levels=snakemake.params.levels,
        fdr=snakemake.params.fdr,
    )
    made = {"metrics": evaluation.metrics, **evaluation.curves}
    for table in dict(snakemake.output.items()):
        write_table(made.get(table, pd.DataFrame({"contrast": []})), snakemake.output[table])
