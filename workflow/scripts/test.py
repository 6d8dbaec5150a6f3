from job import job, recipe

from flashmm.files import atomic_path
from flashmm.inference import contrast_tests
from flashmm.io import read_fit, write_table

with job(snakemake):
    fit = read_fit(snakemake.input.fit, snakemake.input.groups)
    tests = contrast_tests(
        fit,
        snakemake.params.contrasts,
        ddf=snakemake.params.ddf,
        alternative=snakemake.params.alternative,
    )
    notes = dict.fromkeys((*fit.stats.notes, *tests.notes))
    with atomic_path(snakemake.output.notes) as unfinished:
        unfinished.write_text("".join(f"{note}\n" for note in notes))
    write_table(tests.to_frame(), snakemake.output.table, snakemake.output.tsv, recipe(snakemake))
