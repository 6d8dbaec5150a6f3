from flashmm.workflow.start import start

start("simulate", snakemake)
