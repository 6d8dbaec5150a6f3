from flashmm.workflow.start import start

start("reference", snakemake)
