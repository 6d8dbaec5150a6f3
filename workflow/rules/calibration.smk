# How often tests are wrong: simulations, all methods on each of them, and a report of its own.
# A job tests a whole data set with every method, because many methods share a fit, and keeps only
# what it counts; values are drawn again where they are needed again.

from flashmm.calibration import CalibrationMethod, scenario_table


def calibrated():
    """Name -> fields of the simulations of the study."""
    if "calibration" not in config:
        return {}
    where = "calibration: scenarios"
    scenarios = records(config["calibration"]["scenarios"], "scenarios", where)
    for name, spec in scenarios.items():
        for key in scenario_files(spec):
            stop(f"{where}: {name}: {key!r} belongs to scenarios of a benchmark")
    try:
        scenario_table(scenarios)
    except FlashmmError as error:
        stop(f"{where}: {error}")
    return scenarios


def calibration_methods():
    """Fields of the methods of the study, in their order."""
    if "calibration" not in config:
        return []
    where = "calibration: methods"
    found = records(config["calibration"]["methods"], "calibration_methods", where)
    methods = [{"name": name, **fields} for name, fields in found.items()]
    for method in methods:
        random = method.get("random", [])
        terms = random.split(";") if isinstance(random, str) else random
        method["random"] = [term.strip() for term in terms]
    try:
        for method in methods:
            CalibrationMethod(**method | {"random": tuple(method["random"])})
    except FlashmmError as error:
        stop(f"{where}: {error}")
    return methods


CALIBRATED = calibrated()
CALIBRATION_METHODS = calibration_methods()
GAUSSIAN = [name for name in CALIBRATED if CALIBRATED[name].get("distribution") == "gaussian"]
COUNTED = [name for name in CALIBRATED if name not in GAUSSIAN]


def calibration_runs():
    """Scenario and replicate of every data set of the study."""
    replicates = config.get("calibration", {}).get("replicates", 0)
    return [(name, number + 1) for name in CALIBRATED for number in range(replicates)]


def fixed_effects(wildcards):
    key = "fixed" if wildcards.scenario in GAUSSIAN else "fixed_counts"
    return config["calibration"][key]


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
