import pandas as pd
from job import job, recipe

from flashmm.benchmark.agreement import compare_fits, fit_frame, pair_fits
from flashmm.inference.testing import contrast_tests
from flashmm.io.fits import read_fit
from flashmm.io.tables import read_table, write_table


def compared(fit, tests, fits, attempts):
    """The tables that a fit and MixedLM's make, by name."""
    # every coefficient; MixedLM has no degrees of freedom, residual ones are closest to its z tests
    ours = [contrast_tests(fit, ddf="residual").to_frame(), fit_frame(fit)]
    reference = [read_table(tests), read_table(fits)]
    return {
        "agreement": compare_fits(ours, reference),
        "pairs": pair_fits(ours, reference),
        "attempts": read_table(attempts),
    }


with job(snakemake):
    given, made = snakemake.input, recipe(snakemake)
    files = zip(
        snakemake.params.methods,
        given.groups,
        given.fits,
        zip(given.reference_tests, given.reference_fits, given.attempts, strict=True),
        strict=True,
    )
    methods = {
        method: compared(read_fit(fit, groups), *reference)
        for method, groups, fit, reference in files
    }
    for name, path in dict(snakemake.output.items()).items():
        parts = [tables[name].assign(method=method) for method, tables in methods.items()]
        whole = pd.concat(parts, ignore_index=True)
        whole.insert(0, "method", whole.pop("method"))
        write_table(whole, path, provenance=made)
