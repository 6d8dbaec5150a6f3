# How often tests are wrong on real donors: a job makes a set (labels permuted, or counts thinned),
# summarises it once and runs all methods; nothing but p-values is kept.


rule donor_set:
    input:
        counts=PLAN.sources.input(PLAN.donors.counts) if PLAN.donors.counts else [],
        peers=[
            workflow.source_path(f"../methods/{name}.R")
            for name in ("common", "edger", "voom", "deseq2")
        ],
    output:
        tests="results/donors/sets/{per_side}-{kind}-{replicate}.parquet",
        notes="results/donors/sets/{per_side}-{kind}-{replicate}.notes.txt",
    log:
        "logs/donors/{per_side}-{kind}-{replicate}.log",
    wildcard_constraints:
        per_side=r"\d+",
        kind="permuted|thinned",
    conda:
        "../envs/flashmm.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000, 10),
        runtime=minutes(60),
    params:
        spec=PLAN.donors.set_spec(),
        methods=PLAN.donors.methods,
        version=code("donor_set"),
    script:
        "../scripts/donor_set.py"


rule donor_report:
    input:
        tests=PLAN.donors.files("results/donors/sets/{}-{}-{}.parquet"),
        notes=PLAN.donors.files("results/donors/sets/{}-{}-{}.notes.txt"),
    output:
        html=report(
            "results/donors/report.html",
            caption="../report/donors.rst",
            category="Calibration",
        ),
        figures=directory("results/donors/figures"),
        metrics="results/donors/metrics.parquet",
        tsv="results/donors/metrics.tsv",
        provenance="results/donors/provenance.json",
    log:
        "logs/donors/report.log",
    conda:
        "../envs/flashmm.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000, 20),
        runtime=minutes(30),
    params:
        methods=PLAN.donors.methods,
        config=config,
        version=code("donor_report"),
    script:
        "../scripts/donor_report.py"
