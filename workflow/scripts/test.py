from job import job, recipe, write_notes

from flashmm.inference.testing import contrast_tests
from flashmm.io.fits import read_fit
from flashmm.io.tables import write_table
from flashmm.within import FitsWithin

with job(snakemake):
    fit = read_fit(snakemake.input.fit, snakemake.input.groups)
    tests = contrast_tests(
        fit,
        snakemake.params.contrasts,
        ddf=snakemake.params.ddf,
        alternative=snakemake.params.alternative,
    )
    of_design = () if isinstance(fit, FitsWithin) else fit.stats.notes
    write_notes(snakemake.output.notes, (*of_design, *tests.notes))
    frame = tests.to_frame(intervals=True)
    write_table(frame, snakemake.output.table, snakemake.output.tsv, recipe(snakemake))
