rule reference:
    input:
        counts="results/simulations/{dataset}.h5ad",
        groups=groups_file,
    output:
        tests="results/reference/{dataset}/{method}.tests.parquet",
        fits="results/reference/{dataset}/{method}.fits.parquet",
        attempts="results/reference/{dataset}/{method}.attempts.parquet",
        measured="results/benchmarks/reference/{dataset}/{method}.json",
    log:
        "logs/reference/{dataset}/{method}.log",
    conda:
        "../envs/flashmm.yaml"
    threads: 1
    resources:
        mem_mb=memory(4000, 1),
        runtime=minutes(60),
    params:
        fixed=of_method("formulas/fixed"),
        random=of_method("formulas/random"),
        transform=of_method("transform"),
        method=of_method("options/method"),
        layer=setting("layer"),
        genes=lookup(dpath="benchmark/reference/genes", within=config, default=None),
        optimisers=lookup(dpath="benchmark/reference/optimisers", within=config, default=None),
        seed=config["seed"],
        version=code("reference"),
    script:
        "../scripts/reference.py"
