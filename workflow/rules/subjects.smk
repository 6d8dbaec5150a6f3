# Optional models with subjects as rows: they run where the config has their sections.


rule kinship:
    input:
        groups="results/groups/{dataset}.h5ad",
        relatedness=PLAN.relatedness("kinship"),
    output:
        heritability="results/kinship/{dataset}/heritability.parquet",
        tests="results/kinship/{dataset}/tests.parquet",
        profiles="results/kinship/{dataset}/profiles.parquet",
        tsv=report(
            expand(
                "results/kinship/{{dataset}}/{table}.tsv",
                table=["heritability", "tests"],
            ),
            caption="../report/subjects.rst",
            category="Subjects",
        ),
        notes="results/kinship/{dataset}/notes.txt",
    log:
        "logs/kinship/{dataset}.log",
    wildcard_constraints:
        dataset=only(PLAN.fitted_to("kinship")),
    conda:
        "../envs/flashmm.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000, 20),
        runtime=minutes(30, 0.2),
    params:
        settings=PLAN.settings_of("kinship"),
        version=code("kinship"),
    script:
        "../scripts/kinship.py"


rule multitrait:
    input:
        groups="results/groups/{dataset}.h5ad",
        relatedness=PLAN.relatedness("multitrait"),
        tests=lambda wildcards: PLAN.significant_tests(wildcards.dataset),
    output:
        fits="results/multitrait/{dataset}/fits.parquet",
        effects="results/multitrait/{dataset}/effects.parquet",
        covariances="results/multitrait/{dataset}/covariances.parquet",
        tsv=report(
            expand(
                "results/multitrait/{{dataset}}/{table}.tsv",
                table=["fits", "effects", "covariances"],
            ),
            caption="../report/subjects.rst",
            category="Subjects",
        ),
        notes="results/multitrait/{dataset}/notes.txt",
    log:
        "logs/multitrait/{dataset}.log",
    wildcard_constraints:
        dataset=only(PLAN.fitted_to("multitrait")),
    conda:
        "../envs/flashmm.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000, 20),
        runtime=minutes(30, 0.2),
    params:
        settings=PLAN.settings_of("multitrait"),
        version=code("multitrait"),
    script:
        "../scripts/multitrait.py"


rule heritability:
    output:
        estimates="results/heritability/estimates.parquet",
        summary="results/heritability/summary.parquet",
        dense="results/heritability/dense.parquet",
        profiles="results/heritability/profiles.parquet",
        tsv=report(
            expand("results/heritability/{table}.tsv", table=["estimates", "summary", "dense"]),
            caption="../report/heritability.rst",
            category="Heritability",
        ),
        notes="results/heritability/notes.txt",
    log:
        "logs/heritability.log",
    conda:
        "../envs/flashmm.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(60),
    params:
        spec=config.get("heritability"),
        seed=config["seed"],
        version=code("heritability"),
    script:
        "../scripts/heritability.py"
