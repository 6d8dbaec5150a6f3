# Reads and checks the scenarios and methods of a calibration study, if there is one.

from flashmm.benchmark.calibration import CalibrationMethod, scenario_table


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
            CalibrationMethod.of(method)
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


# the random terms that were simulated, by scenario
MATCHING = {row.scenario: list(row.matching) for row in scenario_table(CALIBRATED).itertuples()}
