from flashmm.workflow.start import start

start("heritability", snakemake)
