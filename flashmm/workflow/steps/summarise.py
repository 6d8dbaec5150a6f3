"""Sums over groups of cells."""

from __future__ import annotations

from typing import Any

from flashmm.cells.summary import summarise
from flashmm.io.groups import write_groups
from flashmm.workflow.datasets import READING
from flashmm.workflow.jobs import write_measured


def run(job: Any) -> None:
    """Make the outputs of the job."""
    options = ("shard", "by", "covariates", "transform", "libsize", "missing", *READING)
    asked = {key: job.params[key] for key in options}
    groups = summarise(job.input.counts, obs=job.input.obs or None, **asked)
    write_groups(groups, job.output.groups)
    write_measured(job.output.measured, genes=groups.n_genes, cells=groups.n_cells)
