import pandas as pd
from job import job, measured, recipe

from flashmm.benchmark.calibration import CalibrationMethod, calibrate
from flashmm.io.groups import read_groups
from flashmm.io.tables import write_table

with job(snakemake):
    params = snakemake.params
    groups = read_groups(snakemake.input.groups)
    truth = pd.read_csv(snakemake.input.truth, sep="\t", dtype={"gene": str, "cell_type": str})
    methods = [CalibrationMethod.of(method) for method in params.methods]
    with measured(snakemake.output.measured, genes=groups.n_genes, cells=groups.n_cells):
        metrics = calibrate(
            groups,
            truth,
            methods,
            params.fixed,
            same_unit=params.same_unit,
            matching=params.matching,
            seed=params.seed,
        )
    write_table(metrics, snakemake.output.metrics, provenance=recipe(snakemake))
