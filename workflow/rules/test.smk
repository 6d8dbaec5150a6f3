# The tests of a fit that shards of genes were joined into.
rule test:
    input:
        fit="results/fit/{dataset}/{method}.h5ad",
        groups=groups_file,
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
        measured="results/benchmarks/test/{dataset}/{method}.json",
    log:
        "logs/test/{dataset}/{method}.log",
    wildcard_constraints:
        dataset=only(PLAN.datasets if config["shards"]["genes"] > 1 else []),
        method=only(PLAN.others.models),
    conda:
        "../envs/flashmm.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000, 20),
        runtime=minutes(30, 0.2),
    params:
        contrasts=setting("test"),
        ddf=of_method("ddf"),
        alternative=of_method("alternative"),
        lfc=of_method("lfc"),
        moderate=of_method("moderate"),
        version=code("test"),
    script:
        "../scripts/test.py"


# Without shards one job fits and tests: it starts once, and reads the groups once.
use rule fit_shard as fit with:
    output:
        fit="results/fit/{dataset}/{method}.h5ad",
        measured="results/benchmarks/fit/{dataset}/{method}.json",
        table="results/tests/{dataset}/{method}.parquet",
        tsv=report(
            "results/tests/{dataset}/{method}.tsv",
            caption="../report/tests.rst",
            category="Tests",
            labels={"data set": "{dataset}", "method": "{method}", "format": "tsv"},
        ),
        notes="results/tests/{dataset}/{method}.notes.txt",
        status="results/status/{dataset}/{method}.json",
    log:
        "logs/fit/{dataset}/{method}.log",
    wildcard_constraints:
        dataset=only(PLAN.datasets if config["shards"]["genes"] == 1 else []),
        method=only(PLAN.others.models),
    params:
        contrasts=setting("test"),
        ddf=of_method("ddf"),
        alternative=of_method("alternative"),
        lfc=of_method("lfc"),
        moderate=of_method("moderate"),
