from flashmm.workflow.start import start

start("fit", snakemake)
