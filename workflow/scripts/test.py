from job import job, write_measured
from tests_of_fit import write_tests

from flashmm.io.fits import read_fit

with job(snakemake):
    fit = read_fit(snakemake.input.fit, snakemake.input.groups)
    write_tests(snakemake, fit)
    write_measured(snakemake.output.measured, genes=len(fit.genes))
