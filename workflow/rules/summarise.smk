rule summarise:
    input:
        counts=setting("counts"),
    output:
        groups="results/groups/{dataset}{variant}.h5ad",
    log:
        "logs/summarise/{dataset}{variant}.log",
    conda:
        "../envs/flashmm.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        by=setting("by"),
        covariates=setting("covariates"),
        transform=lambda wildcards: wildcards.variant[1:]
        or DATASETS[wildcards.dataset]["transform"],
        layer=setting("layer"),
        libsize=setting("libsize"),
        missing=setting("missing"),
        version=VERSION,
    script:
        "../scripts/summarise.py"
