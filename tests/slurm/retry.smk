# A job that fails with the memory of its first attempt: does the second one get more from Slurm?
# It is the only one in the queue, which says what was asked for; jobs do not see SLURM_* themselves.
rule default:
    output:
        "enough.txt",
    resources:
        mem_mb=lambda wildcards, attempt: 100 * attempt,
        runtime=5,
    shell:
        "squeue --noheader --format=%m >> asked.txt; tail -n 1 asked.txt | grep 200M > {output}"
