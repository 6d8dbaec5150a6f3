from flashmm.workflow.start import start

start("kinship", snakemake)
