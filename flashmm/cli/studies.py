"""Commands of benchmarks: `simulate` and `evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flashmm import benchmark, io
from flashmm import simulate as simulation
from flashmm.cli import flags
from flashmm.cli.output import reported, say, show_json, show_table
from flashmm.options import InputError
from flashmm.storage.files import atomic_path, reading

if TYPE_CHECKING:
    import pandas as pd


@reported
def simulate(
    out: flags.File,
    genes: Annotated[int, typer.Option("--genes", help="Number of genes.")] = 1000,
    cells: Annotated[int, typer.Option("--cells", help="Number of cells.")] = 5000,
    subjects: Annotated[int, typer.Option("--subjects", help="Number of subjects.")] = 12,
    cell_types: Annotated[int, typer.Option("--cell-types", help="Number of cell types.")] = 4,
    changed: Annotated[
        int, typer.Option("--changed", help="Changed pairs of gene and type.")
    ] = 100,
    paired: Annotated[bool, typer.Option("--paired", help="Subjects in both conditions.")] = False,
    subject_variance: Annotated[float, typer.Option(help="Variance between subjects (log).")] = 0.1,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the random numbers.")] = 1,
    as_json: flags.Json = False,
) -> None:
    """Simulate counts of several subjects with a known truth.

    Leaves the truth (gene, cell_type, log_fc) beside the file, with the ending .truth.tsv.

    For example:

        flashmm simulate --subjects 12 --cells 5000 --genes 1000 -o cells.h5ad
    """
    spec = simulation.SimulationSpec(
        n_genes=genes,
        n_cells=cells,
        n_subjects=subjects,
        n_cell_types=cell_types,
        n_de_genes=changed,
        nested=not paired,
        subject_variance=subject_variance,
    )
    made = simulation.simulate_counts(spec, seed=seed, path=out)
    made.adata.file.close()
    truth = out.with_suffix(".truth.tsv")
    with atomic_path(truth) as unfinished:
        made.truth.to_csv(unfinished, sep="\t", index=False)
    if as_json:
        show_json({"cells": str(out), "truth": str(truth), "changed": len(made.truth)})
    else:
        say([f"{cells} cells x {genes} genes: {out}", f"{len(made.truth)} changed pairs: {truth}"])


@reported
def evaluate(
    tests: Annotated[Path, typer.Argument(help="Tests: .parquet or .tsv with gene, p_value ...")],
    truth: Annotated[
        Path | None, typer.Option("--truth", help="TSV with gene and cell_type of changed pairs.")
    ] = None,
    cell_type: Annotated[
        str, typer.Option("--cell-type", help="Column of the tests with the cell type.")
    ] = "cell_type",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the metrics there (.parquet).")
    ] = None,
    as_json: flags.Json = False,
) -> None:
    """Error rates and power of tests against a known truth.

    For example:

        flashmm evaluate out/tests.parquet --truth cells.truth.tsv
    """
    known = None if truth is None else _read_tsv(truth)
    table = io.read_table(tests) if tests.suffix == ".parquet" else _read_tsv(tests)
    metrics = benchmark.evaluate(table, known, cell_type=cell_type).metrics
    if out is not None:
        if out.suffix != ".parquet":
            raise InputError(f"--out {out}: the metrics are written as .parquet (and .tsv).")
        io.write_table(metrics, out, out.with_suffix(".tsv"))
    if as_json:
        show_json({"metrics": metrics})
        return
    whole = metrics[metrics["contrast"] == "all"]
    columns = ["metric", "level", "value", "std_error", "n"]
    show_table(whole[[c for c in columns if c in whole]], "All tests together")


def _read_tsv(path: Path) -> pd.DataFrame:
    import pandas as pd

    with reading(path):
        return pd.read_csv(path, sep="\t", dtype={"gene": str, "cell_type": str})
