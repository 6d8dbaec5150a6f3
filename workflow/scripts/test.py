from job import job, recipe, write_measured, write_notes

from flashmm.inference.testing import contrast_tests
from flashmm.io.fits import read_fit
from flashmm.io.tables import write_table
from flashmm.io.verdicts import write_status
from flashmm.within import FitsWithin

with job(snakemake):
    fit = read_fit(snakemake.input.fit, snakemake.input.groups)
    tests = contrast_tests(
        fit,
        snakemake.params.contrasts,
        ddf=snakemake.params.ddf,
        alternative=snakemake.params.alternative,
        lfc=snakemake.params.lfc,
    )
    of_design = () if isinstance(fit, FitsWithin) else fit.stats.notes
    write_notes(snakemake.output.notes, (*of_design, *tests.notes))
    frame = tests.to_frame(intervals=True)
    write_table(frame, snakemake.output.table, snakemake.output.tsv, recipe(snakemake))
    n_genes = len(tests.genes)
    write_status(snakemake.output.status, genes=n_genes)
    write_measured(snakemake.output.measured, genes=n_genes)
