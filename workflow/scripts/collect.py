from flashmm.workflow.start import start

start("collect", snakemake)
