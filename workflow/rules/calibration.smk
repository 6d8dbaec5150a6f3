# How often tests are wrong: simulations, all methods on each of them, and a report of its own.
# A job tests a whole data set with every method, because many methods share a fit, and keeps only
# what it counts; values are drawn again where they are needed again.


rule simulate_groups:
    output:
        groups=temp("results/calibration/groups/{scenario}-{replicate}.h5ad"),
        truth="results/calibration/truth/{scenario}-{replicate}.tsv",
    log:
        "logs/calibration/simulate_groups/{scenario}-{replicate}.log",
    wildcard_constraints:
        scenario=only(PLAN.study.gaussian),
    conda:
        "../envs/flashmm.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        spec=lookup(dpath="{scenario}", within=PLAN.study.scenarios),
        seed=scenario_seed,
        version=code("simulate_groups"),
    script:
        "../scripts/simulate_groups.py"


use rule simulate as calibration_simulate with:
    input:
        [],
    output:
        counts=temp("results/calibration/simulations/{scenario}-{replicate}.h5ad"),
        truth="results/calibration/truth/{scenario}-{replicate}.tsv",
    log:
        "logs/calibration/simulate/{scenario}-{replicate}.log",
    wildcard_constraints:
        scenario=only(PLAN.study.counted),
    params:
        spec=lookup(dpath="{scenario}", within=PLAN.study.scenarios),
        seed=scenario_seed,
        version=code("simulate"),


use rule summarise as calibration_summarise with:
    input:
        counts="results/calibration/simulations/{scenario}-{replicate}.h5ad",
        obs=[],
    output:
        groups=temp("results/calibration/groups/{scenario}-{replicate}.h5ad"),
        measured=temp("results/calibration/benchmarks/summarise/{scenario}-{replicate}.json"),
    log:
        "logs/calibration/summarise/{scenario}-{replicate}.log",
    wildcard_constraints:
        scenario=only(PLAN.study.counted),
    params:
        shard=None,
        by=config["by"],
        covariates=config["covariates"],
        transform=config["transform"],
        layer=None,
        gene_names=None,
        duplicate_genes=None,
        libsize=config["libsize"],
        missing="error",
        version=code("summarise"),


rule calibrate:
    input:
        groups="results/calibration/groups/{scenario}-{replicate}.h5ad",
        truth="results/calibration/truth/{scenario}-{replicate}.tsv",
    output:
        metrics="results/calibration/metrics/{scenario}-{replicate}.parquet",
        measured="results/calibration/benchmarks/{scenario}-{replicate}.json",
    log:
        "logs/calibration/calibrate/{scenario}-{replicate}.log",
    conda:
        "../envs/flashmm.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(30),
    params:
        methods=PLAN.study.methods,
        fixed=lambda wildcards: PLAN.study.fixed_effects(wildcards.scenario),
        same_unit=lambda wildcards: wildcards.scenario in PLAN.study.gaussian,
        matching=lambda wildcards: PLAN.study.matching(wildcards.scenario),
        seed=config["seed"],
        version=code("calibrate"),
    script:
        "../scripts/calibrate.py"


rule calibration_report:
    input:
        metrics=[
            f"results/calibration/metrics/{scenario}-{replicate}.parquet"
            for scenario, replicate in PLAN.study.runs()
        ],
    output:
        html=report(
            "results/calibration/report.html",
            caption="../report/calibration.rst",
            category="Calibration",
        ),
        figures=directory("results/calibration/figures"),
        metrics="results/calibration/metrics.parquet",
        tsv="results/calibration/metrics.tsv",
        provenance="results/calibration/provenance.json",
    log:
        "logs/calibration/report.log",
    conda:
        "../envs/flashmm.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        runs=PLAN.study.runs(),
        scenarios=PLAN.study.scenarios,
        methods=PLAN.study.methods,
        config=config,
        version=code("calibration_report"),
    script:
        "../scripts/calibration_report.py"
