from flashmm.workflow.start import start

start("simulate_groups", snakemake)
