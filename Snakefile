# Lets `snakemake` run from the project's root. The rule of its own is needed: a Snakefile that only
# includes another one has no default target, and nothing would run.
include: "workflow/Snakefile"


rule default:
    default_target: True
    input:
        rules.all.input,
