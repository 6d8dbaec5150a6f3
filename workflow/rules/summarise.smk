rule summarise:
    input:
        counts=counts_file,
        obs=cells_table,
    output:
        groups="results/groups/{dataset}{variant}.h5ad",
        measured="results/benchmarks/summarise/{dataset}{variant}.json",
    log:
        "logs/summarise/{dataset}{variant}.log",
    wildcard_constraints:
        dataset=only(PLAN.whole),
    conda:
        "../envs/flashmm.yaml"
    threads: 2
    resources:
        mem_mb=memory(2000, 0.1),
        runtime=minutes(10, 0.01),
    params:
        shard=shard,
        by=setting("by"),
        covariates=setting("covariates"),
        transform=lambda wildcards: wildcards.variant[1:]
        or PLAN.datasets[wildcards.dataset]["transform"],
        layer=setting("layer"),
        gene_names=setting("gene_names"),
        duplicate_genes=setting("duplicate_genes"),
        libsize=setting("libsize"),
        missing=setting("missing"),
        version=code("summarise"),
    script:
        "../scripts/summarise.py"


# A job per file and shard of its cells. It needs no other file, so that a storage fetches no other.
use rule summarise as summarise_shard with:
    output:
        groups="results/shards/groups/{dataset}{variant}/{file}.{scatteritem}.h5ad",
        measured="results/benchmarks/summarise/{dataset}{variant}/{file}.{scatteritem}.json",
    log:
        "logs/summarise/{dataset}{variant}/{file}.{scatteritem}.log",
    wildcard_constraints:
        dataset=only(PLAN.split),


rule merge:
    input:
        parts=shards_of_cells,
    output:
        groups="results/groups/{dataset}{variant}.h5ad",
        measured="results/benchmarks/summarise/{dataset}{variant}.json",
    log:
        "logs/merge/{dataset}{variant}.log",
    wildcard_constraints:
        dataset=only(PLAN.split),
    conda:
        "../envs/flashmm.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000, 10),
        runtime=minutes(10, 0.05),
    params:
        version=code("merge"),
    script:
        "../scripts/merge.py"
