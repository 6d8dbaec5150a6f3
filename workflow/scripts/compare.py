from flashmm.workflow.start import start

start("compare", snakemake)
