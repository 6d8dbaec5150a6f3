"""The tests of a fit and the files that they leave, whichever job makes them."""

from job import recipe, write_notes

from flashmm.inference.testing import contrast_tests
from flashmm.io.tables import write_table
from flashmm.io.verdicts import write_status
from flashmm.within import FitsWithin


def write_tests(snakemake, fit):
    """Test the contrasts of a fit; write the outputs `table`, `tsv`, `notes` and `status`."""
    params, output = snakemake.params, snakemake.output
    tests = contrast_tests(
        fit, params.contrasts, ddf=params.ddf, alternative=params.alternative, lfc=params.lfc
    )
    of_design = () if isinstance(fit, FitsWithin) else fit.stats.notes
    write_notes(output.notes, (*of_design, *tests.notes))
    write_table(tests.to_frame(intervals=True), output.table, output.tsv, recipe(snakemake))
    write_status(output.status, genes=len(tests.genes))
