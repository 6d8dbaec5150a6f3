from flashmm.workflow.start import start

start("join", snakemake)
