import pandas as pd
from job import job, recipe

from flashmm.benchmark.evaluation import evaluate
from flashmm.io.tables import read_table, write_table


def evaluated(method, path, truth, params):
    """The tables of a method by name, led by its name; none where it has no tests."""
    table = read_table(path)
    if not len(table):
        return {}
    evaluation = evaluate(
        table,
        truth,
        cell_type=params.within[method] or "cell_type",
        levels=params.levels,
        fdr=params.fdr,
    )
    tables = {"metrics": evaluation.metrics, **evaluation.curves}
    for frame in tables.values():
        frame.insert(0, "method", method)
    return tables


with job(snakemake):
    path, params = snakemake.input.get("truth"), snakemake.params
    truth = pd.read_csv(path, sep="\t", dtype={"gene": str, "cell_type": str}) if path else None
    methods = [
        evaluated(method, table, truth, params)
        for method, table in zip(params.within, snakemake.input.tables, strict=True)
    ]
    made = recipe(snakemake)
    for name, output in dict(snakemake.output.items()).items():
        parts = [tables[name] for tables in methods if name in tables]
        whole = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"method": []})
        write_table(whole, output, provenance=made)
