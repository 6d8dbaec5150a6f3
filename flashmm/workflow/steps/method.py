"""A method that is a command or a function."""

from __future__ import annotations

from typing import Any

from flashmm.io.tables import write_table
from flashmm.io.verdicts import write_status
from flashmm.workflow.jobs import recipe, write_measured, write_notes
from flashmm.workflow.other_methods import Job, run_method


def run(job: Any) -> None:
    """Make the outputs of the job."""
    given, made = job.input, recipe(job)
    outcome = run_method(
        Job(
            groups=str(given.groups),
            counts=list(map(str, given.get("counts", []))),
            truth=str(given.truth) if given.get("truth") else None,
            threads=job.threads,
            **job.params.job,
        )
    )
    verdict, genes = outcome.verdict, (outcome.genes, outcome.genes_total)
    print(*verdict.log, sep="\n")
    if verdict.message:
        print(f"{job.wildcards.method} is {verdict.status}: {verdict.message}")
    write_table(verdict.tests, job.output.table, job.output.tsv, made)
    write_notes(job.output.notes, verdict.notes)
    write_status(
        job.output.status,
        verdict.status,
        verdict.message,
        verdict.log,
        genes=genes[0],
        genes_total=genes[1],
    )
    write_measured(job.output.measured, **verdict.costs, genes=genes[0], genes_total=genes[1])
