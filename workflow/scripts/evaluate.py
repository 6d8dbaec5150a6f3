from flashmm.workflow.start import start

start("evaluate", snakemake)
