from flashmm.workflow.start import start

start("multitrait", snakemake)
