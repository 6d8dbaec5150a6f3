from flashmm.workflow.start import start

start("calibrate", snakemake)
