# A job per shard of the genes; each reads its range of the groups only.
rule fit_shard:
    input:
        groups=groups_file,
    output:
        fit="results/shards/fit/{dataset}/{method}/{scatteritem}.h5ad",
        measured="results/benchmarks/fit/{dataset}/{method}/{scatteritem}.json",
    log:
        "logs/fit/{dataset}/{method}/{scatteritem}.log",
    wildcard_constraints:
        dataset=only(PLAN.datasets if config["shards"]["genes"] > 1 else []),
    group:
        "fits"
    conda:
        "../envs/flashmm.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000, 20),
        runtime=minutes(30, 0.2),
    params:
        shard=shard,
        fixed=of_method("formulas/fixed"),
        random=of_method("formulas/random"),
        within=of_method("within"),
        size_factors=of_method("size_factors"),
        min_counts=of_method("min_counts"),
        reference=setting("reference"),
        options=of_method("options"),
        version=code("fit"),
    script:
        "../scripts/fit.py"


rule join:
    input:
        groups=groups_file,
        fits=gather.genes("results/shards/fit/{{dataset}}/{{method}}/{scatteritem}.h5ad"),
        measured=gather.genes("results/benchmarks/fit/{{dataset}}/{{method}}/{scatteritem}.json"),
    output:
        fit="results/fit/{dataset}/{method}.h5ad",
        measured="results/benchmarks/fit/{dataset}/{method}.json",
    log:
        "logs/join/{dataset}/{method}.log",
    wildcard_constraints:
        dataset=only(PLAN.datasets if config["shards"]["genes"] > 1 else []),
    conda:
        "../envs/flashmm.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000, 20),
        runtime=minutes(10, 0.05),
    params:
        version=code("join"),
    script:
        "../scripts/join.py"
