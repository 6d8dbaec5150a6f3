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
        scenario=only(GAUSSIAN),
    conda:
        "../envs/flashmm.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500),
        runtime=minutes(10),
    params:
        spec=lookup(dpath="{scenario}", within=CALIBRATED),
        seed=scenario_seed,
        version=VERSION,
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
        scenario=only(COUNTED),
    params:
        spec=lookup(dpath="{scenario}", within=CALIBRATED),
        seed=scenario_seed,
        version=VERSION,


use rule summarise as calibration_summarise with:
    input:
        counts="results/calibration/simulations/{scenario}-{replicate}.h5ad",
    output:
        groups=temp("results/calibration/groups/{scenario}-{replicate}.h5ad"),
    log:
        "logs/calibration/summarise/{scenario}-{replicate}.log",
    wildcard_constraints:
        scenario=only(COUNTED),
    params:
        shard=None,
        by=config["by"],
        covariates=config["covariates"],
        transform=config["transform"],
        layer=None,
        libsize=config["libsize"],
        missing="error",
        version=VERSION,


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
        methods=CALIBRATION_METHODS,
        fixed=fixed_effects,
        same_unit=lambda wildcards: wildcards.scenario in GAUSSIAN,
        matching=lambda wildcards: MATCHING[wildcards.scenario],
        seed=config["seed"],
        version=VERSION,
    script:
        "../scripts/calibrate.py"


rule calibration_report:
    input:
        metrics=[
            f"results/calibration/metrics/{scenario}-{replicate}.parquet"
            for scenario, replicate in calibration_runs()
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
        runs=calibration_runs(),
        scenarios=CALIBRATED,
        methods=CALIBRATION_METHODS,
        config=config,
        version=source_digest(presentation=True),
    script:
        "../scripts/calibration_report.py"
