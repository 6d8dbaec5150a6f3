from flashmm.workflow.start import start

start("summarise", snakemake)
