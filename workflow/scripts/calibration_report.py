from flashmm.workflow.start import start

start("calibration_report", snakemake)
