from job import job
from tests_of_fit import write_tests

from flashmm.io.fits import read_fit

with job(snakemake):
    write_tests(snakemake, read_fit(snakemake.input.fit, snakemake.input.groups))
