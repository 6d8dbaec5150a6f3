from flashmm.workflow.start import start

start("report", snakemake)
