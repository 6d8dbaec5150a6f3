"""The tests of a fit and the files that they leave, whichever job makes them."""

from __future__ import annotations

from typing import Any

from flashmm.inference.testing import contrast_tests
from flashmm.io.tables import write_table
from flashmm.io.verdicts import write_status
from flashmm.lmm import LMMFit
from flashmm.within import FitsWithin
from flashmm.workflow.jobs import recipe, write_notes


def write_tests(job: Any, fit: LMMFit | FitsWithin) -> None:
    """Test the contrasts of a fit; write the outputs `table`, `tsv`, `notes` and `status`."""
    params, output = job.params, job.output
    tests = contrast_tests(
        fit,
        params.contrasts,
        ddf=params.ddf,
        alternative=params.alternative,
        lfc=params.lfc,
        moderate=params.moderate,
    )
    of_design = () if isinstance(fit, FitsWithin) else fit.stats.notes
    write_notes(output.notes, (*of_design, *tests.notes))
    write_table(tests.to_frame(intervals=True), output.table, output.tsv, recipe(job))
    write_status(output.status, genes=len(tests.genes))
