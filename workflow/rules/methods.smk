# Methods that are no model of this package: commands and built-in functions, a process each with
# limits of its own. Whatever a method does, the rule leaves a table and says how it ended.


rule method:
    input:
        groups=groups_file,
        counts=lambda wildcards: PLAN.cells_for(wildcards.dataset, wildcards.method),
        truth=lambda wildcards: PLAN.others.truth(wildcards.dataset, wildcards.method),
        files=of_method("files"),
    output:
        table="results/tests/{dataset}/{method}.parquet",
        tsv=report(
            "results/tests/{dataset}/{method}.tsv",
            caption="../report/tests.rst",
            category="Tests",
            labels={"data set": "{dataset}", "method": "{method}", "format": "tsv"},
        ),
        notes="results/tests/{dataset}/{method}.notes.txt",
        status="results/status/{dataset}/{method}.json",
        measured="results/benchmarks/method/{dataset}/{method}.json",
    log:
        "logs/method/{dataset}/{method}.log",
    wildcard_constraints:
        method=only(PLAN.others.names),
    conda:
        lambda wildcards: PLAN.others.model(wildcards.dataset, wildcards.method)["conda"]
        or ("../envs/flashmm.yaml")
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: attempt
        * PLAN.others.memory(wildcards.dataset, wildcards.method),
        runtime=lambda wildcards: PLAN.others.minutes(wildcards.dataset, wildcards.method),
    params:
        job=lambda wildcards: PLAN.others.job(wildcards.dataset, wildcards.method),
        version=code("method"),
    script:
        "../scripts/method.py"
