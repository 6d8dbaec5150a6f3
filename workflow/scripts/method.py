from flashmm.workflow.start import start

start("method", snakemake)
