rule evaluate:
    input:
        table="results/tests/{dataset}/{method}.parquet",
        truth=lambda wildcards: PLAN.datasets[wildcards.dataset]["truth"] or [],
    output:
        metrics="results/evaluation/{dataset}/{method}/metrics.parquet",
        qq="results/evaluation/{dataset}/{method}/qq.parquet",
        p_histogram="results/evaluation/{dataset}/{method}/p_histogram.parquet",
        roc="results/evaluation/{dataset}/{method}/roc.parquet",
        fdp_tpr="results/evaluation/{dataset}/{method}/fdp_tpr.parquet",
    log:
        "logs/evaluate/{dataset}/{method}.log",
    conda:
        "../envs/flashmm.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    params:
        within=of_method("within"),
        levels=lookup(dpath="benchmark/levels", within=config, default=[0.05, 0.01, 0.001]),
        fdr=lookup(dpath="benchmark/fdr", within=config, default=[0.05, 0.1]),
        version=code("evaluate"),
    script:
        "../scripts/evaluate.py"


rule compare:
    input:
        fit="results/fit/{dataset}/{method}.h5ad",
        groups=groups_file,
        reference_tests="results/reference/{dataset}/{method}.tests.parquet",
        reference_fits="results/reference/{dataset}/{method}.fits.parquet",
        attempts="results/reference/{dataset}/{method}.attempts.parquet",
    output:
        agreement="results/evaluation/{dataset}/{method}/agreement.parquet",
        pairs="results/evaluation/{dataset}/{method}/pairs.parquet",
        attempts="results/evaluation/{dataset}/{method}/attempts.parquet",
    log:
        "logs/compare/{dataset}/{method}.log",
    conda:
        "../envs/flashmm.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(10),
    params:
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
