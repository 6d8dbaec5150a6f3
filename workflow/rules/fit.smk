rule fit:
    input:
        groups=groups_file,
    output:
        fit="results/fit/{dataset}/{method}.h5ad",
        measured="results/benchmarks/fit/{dataset}/{method}.json",
    log:
        "logs/fit/{dataset}/{method}.log",
    benchmark:
        "results/benchmarks/fit/{dataset}/{method}.jsonl"
    conda:
        "../envs/flashmm.yaml"
    threads: 1
    resources:
        mem_mb=4000,
    params:
        fixed=of_method("formulas/fixed"),
        random=of_method("formulas/random"),
        options=of_method("options"),
        version=VERSION,
    script:
        "../scripts/fit.py"
