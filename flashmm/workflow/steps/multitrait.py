"""One model per gene for all its cell types together."""

from __future__ import annotations

from typing import Any

from flashmm.io.groups import read_groups
from flashmm.io.kinship import read_kinship_file
from flashmm.io.tables import read_table
from flashmm.subject_level.means import subject_means
from flashmm.subject_level.models import indicators, most_significant, multitrait_by_gene
from flashmm.workflow.jobs import write_notes, write_tables


def run(job: Any) -> None:
    """Make the outputs of the job."""
    given, files = job.params.settings, job.input
    means = subject_means(read_groups(files.groups), **given["means"])
    genes = given["genes"]
    if isinstance(genes, int) and files.get("tests"):
        genes = most_significant(read_table(files.tests), genes)
    elif isinstance(genes, int):
        genes = means.most_variable(genes)
    result = multitrait_by_gene(
        means,
        read_kinship_file(files.relatedness, given["kind"])
        if files.get("relatedness")
        else indicators(means.column(given["column"])),
        genes,
        **given["model"],
    )
    names = ("fits", "effects", "covariances")
    write_tables(job, {name: getattr(result, name) for name in names})
    write_notes(job.output.notes, result.notes)
