from pathlib import Path

import pandas as pd
from job import job, recipe

from flashmm.benchmark.donor_metrics import judge
from flashmm.io.tables import read_table, write_table
from flashmm.report.donors import write_donor_report

with job(snakemake):
    params, out = snakemake.params, snakemake.output
    tests = pd.concat(map(read_table, snakemake.input.tests), ignore_index=True)
    metrics = judge(tests)
    write_table(metrics, out.metrics, out.tsv, recipe(snakemake))
    notes = [line for path in snakemake.input.notes for line in Path(path).read_text().splitlines()]
    write_donor_report(
        out.html,
        out.figures,
        metrics=metrics,
        methods=params.methods,
        notes=list(dict.fromkeys(notes)),
        config=params.config,
    )
