from job import job, recipe

from flashmm.benchmark.agreement import compare_fits, fit_frame, pair_fits
from flashmm.inference.testing import contrast_tests
from flashmm.io.fits import read_fit
from flashmm.io.tables import read_table, write_table

with job(snakemake):
    given, made = snakemake.input, recipe(snakemake)
    fit = read_fit(given.fit, given.groups)
    # every coefficient; MixedLM has no degrees of freedom, residual ones are closest to its z tests
    ours = [contrast_tests(fit, ddf="residual").to_frame(), fit_frame(fit)]
    reference = [read_table(given.reference_tests), read_table(given.reference_fits)]
    write_table(compare_fits(ours, reference), snakemake.output.agreement, provenance=made)
    write_table(pair_fits(ours, reference), snakemake.output.pairs, provenance=made)
    write_table(read_table(given.attempts), snakemake.output.attempts, provenance=made)
