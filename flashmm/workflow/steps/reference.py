"""MixedLM, fitted to some genes."""

from __future__ import annotations

from typing import Any

from flashmm.benchmark.data import DataSet, Request
from flashmm.benchmark.methods import Method
from flashmm.benchmark.mixedlm import choose_genes
from flashmm.io.groups import read_groups
from flashmm.io.tables import write_table
from flashmm.workflow.jobs import measured, recipe


def run(job: Any) -> None:
    """Make the outputs of the job."""
    params = job.params
    data = DataSet(read_groups(job.input.groups), cells=job.input.counts, layer=params.layer)
    genes = choose_genes(data.groups, params.genes, params.seed)
    names = ("random", "method", "transform", "optimisers")
    row = {name: params[name] for name in names} | {"name": "MixedLM", "genes": genes}
    method = Method.of(row | {"test": "mixedlm"})
    with measured(job.output.measured, genes=len(genes)):
        result = method.run(data, Request(params.fixed, contrasts=None))
    # measured times stay in results/benchmarks, so that the tables are the same in every run
    made = recipe(job)
    fits = result.tables["fits"].drop(columns=["seconds", "peak_memory_mib"])
    write_table(result.tests, job.output.tests, provenance=made)
    write_table(fits, job.output.fits, provenance=made)
    attempts = result.tables["attempts"].drop(columns=["seconds"])
    write_table(attempts, job.output.attempts, provenance=made)
