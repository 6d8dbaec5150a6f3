from flashmm.workflow.start import start

start("test", snakemake)
