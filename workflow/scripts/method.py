from job import job, recipe, write_measured, write_notes

from flashmm.io.tables import write_table
from flashmm.io.verdicts import write_status
from flashmm.workflow.other_methods import Job, run_method

with job(snakemake):
    given, made = snakemake.input, recipe(snakemake)
    outcome = run_method(
        Job(
            groups=str(given.groups),
            counts=list(map(str, given.get("counts", []))),
            truth=str(given.truth) if given.get("truth") else None,
            threads=snakemake.threads,
            **snakemake.params.job,
        )
    )
    verdict, genes = outcome.verdict, (outcome.genes, outcome.genes_total)
    print(*verdict.log, sep="\n")
    if verdict.message:
        print(f"{snakemake.wildcards.method} is {verdict.status}: {verdict.message}")
    write_table(verdict.tests, snakemake.output.table, snakemake.output.tsv, made)
    write_notes(snakemake.output.notes, verdict.notes)
    write_status(
        snakemake.output.status,
        verdict.status,
        verdict.message,
        verdict.log,
        genes=genes[0],
        genes_total=genes[1],
    )
    write_measured(snakemake.output.measured, **verdict.costs, genes=genes[0], genes_total=genes[1])
