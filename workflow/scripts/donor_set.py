from flashmm.workflow.start import start

start("donor_set", snakemake)
