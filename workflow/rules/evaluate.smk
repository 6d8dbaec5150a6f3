# All methods of a data set in one job: a table takes less time than the start of a job.


rule evaluate:
    input:
        tables=lambda wildcards: [
            f"results/tests/{wildcards.dataset}/{method}.parquet"
            for method in PLAN.methods_of(wildcards.dataset)
        ],
        truth=lambda wildcards: PLAN.datasets[wildcards.dataset]["truth"] or [],
    output:
        metrics="results/evaluation/{dataset}/metrics.parquet",
        qq="results/evaluation/{dataset}/qq.parquet",
        p_histogram="results/evaluation/{dataset}/p_histogram.parquet",
        roc="results/evaluation/{dataset}/roc.parquet",
        fdp_tpr="results/evaluation/{dataset}/fdp_tpr.parquet",
    log:
        "logs/evaluate/{dataset}.log",
    group:
        "evaluations"
    conda:
        "../envs/flashmm.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    params:
        within=lambda wildcards: {
            method: model.get("within")
            for method, model in PLAN.methods_of(wildcards.dataset).items()
        },
        levels=lookup(dpath="benchmark/levels", within=config, default=[0.05, 0.01, 0.001]),
        fdr=lookup(dpath="benchmark/fdr", within=config, default=[0.05, 0.1]),
        version=code("evaluate"),
    script:
        "../scripts/evaluate.py"


rule compare:
    input:
        groups=lambda wildcards: [
            PLAN.groups_of(wildcards.dataset, method) for method in compared(wildcards)
        ],
        fits=of_compared("results/fit/{dataset}/{method}.h5ad"),
        reference_tests=of_compared("results/reference/{dataset}/{method}.tests.parquet"),
        reference_fits=of_compared("results/reference/{dataset}/{method}.fits.parquet"),
        attempts=of_compared("results/reference/{dataset}/{method}.attempts.parquet"),
    output:
        agreement="results/evaluation/{dataset}/agreement.parquet",
        pairs="results/evaluation/{dataset}/pairs.parquet",
        attempts="results/evaluation/{dataset}/attempts.parquet",
    log:
        "logs/compare/{dataset}.log",
    group:
        "evaluations"
    conda:
        "../envs/flashmm.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
        methods=lambda wildcards: compared(wildcards),
        version=code("compare"),
    script:
        "../scripts/compare.py"


rule collect:
    input:
        unpack(lambda wildcards: PLAN.parts()),
    output:
        parquet=list(PLAN.tables().values()),
        tsv=report(
            PLAN.tables_for_people(),
            caption="../report/collected.rst",
            category="Evaluation",
        ),
    log:
        "logs/collect.log",
    conda:
        "../envs/flashmm.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    params:
        runs=PLAN.collected(),
        version=code("collect"),
    script:
        "../scripts/collect.py"
