from flashmm.workflow.start import start

start("merge", snakemake)
