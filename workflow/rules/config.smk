# Reads and checks the config, and says what there is to do: DATASETS, RUNS and the final targets.
# Wrong input ends here, in one line, before any rule runs.

import difflib
import json
import os
import re
import sys
import zlib
from pathlib import Path

import pandas as pd
import yaml
from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

# The package of this checkout, if there is one, serves the rules (scripts/job.py: and their jobs).
CHECKOUT = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parents[1]
if (CHECKOUT / "flashmm" / "__init__.py").is_file():
    sys.path.insert(0, str(CHECKOUT))

from flashmm.design.columns import formula_columns
from flashmm.formulas import read_model
from flashmm.options import FlashmmError
from flashmm.storage.provenance import source_digest

# Whether inputs and outputs lie in a storage (--default-storage-provider) instead of this folder.
BUCKET = workflow.storage_settings.default_storage_provider is not None


def stop(message):
    sys.exit(f"flashmm: {message}")


def validated(record, schema, where):
    """The record with the schema's defaults; stops with one line that says what is wrong where."""
    try:
        validate(record, workflow.source_path(f"../schemas/{schema}.schema.yaml"))
    except WorkflowError as error:
        stop(f"{where}: {explain(error.__context__)}")
    return record


def explain(error):
    """One line for an error of the JSON schema, with the closest names where a key is unknown."""
    place = "".join(f"{key!r}: " for key in error.absolute_path)
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        unknown = next(key for key in error.instance if key not in known)
        close = difflib.get_close_matches(str(unknown), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
        return f"{place}unknown key {unknown!r}; {hint}"
    if error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        return f"{place}{', '.join(map(repr, missing))} missing"
    expected = error.schema.get("description", error.message)
    return f"{place}{error.instance!r} is not allowed; expected {expected}"


def records(source, schema, what):
    """Name -> validated record, from the path of a tab-separated sheet or from a mapping in the config."""
    if isinstance(source, str):
        rows, where = read_sheet(source, schema), source
    else:
        rows = [{"name": name, **(row or {})} for name, row in source.items()]
        where = f"config: {what}"
    checked = {}
    for row in rows:
        name = row.get("name", "?")
        checked[name] = validated(row, schema, f"{where}: {name}")
        checked[name].pop("name")
    if len(checked) < len(rows):
        stop(f"{where}: a name is used twice; found {[row.get('name') for row in rows]}")
    return checked


def read_sheet(path, schema):
    """The rows of a sheet as mappings; an empty cell is left to its default."""
    if not Path(path).is_file():
        stop(f"{path}: no such file")
    sheet = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, comment="#")
    known = yaml.safe_load(
        Path(workflow.source_path(f"../schemas/{schema}.schema.yaml")).read_text()
    )["properties"]
    rows = sheet.to_dict("records")
    if not rows:
        stop(f"{path}: no rows")
    return [
        {
            key: typed(cell.strip(), known.get(key, {}))
            for key, cell in row.items()
            if cell.strip() or key == "name"
        }
        for row in rows
    ]


def require_file(path, where):
    """Stops where a local file is missing; what lies in a storage is looked up by its plugin."""
    if "://" in path:
        stored(path, where)
    elif not BUCKET and not Path(path).is_file():
        stop(f"{where}: {path}: no such file")


def stored(path, where="input"):
    """The path as an input of a rule: an address such as s3://... belongs to a storage plugin."""
    if "://" not in path:
        return path
    try:
        return storage(path)
    except WorkflowError as error:
        stop(f"{where}: {path}: {error}")


def typed(cell, column):
    """Text where the column holds text, else the number, list or truth value that the cell spells."""
    if column.get("type") == "string":
        return cell
    try:
        return json.loads(cell.lower() if cell.lower() in ("true", "false") else cell)
    except ValueError:
        return cell


def one_of(name, known, where, what="method"):
    """Stops unless the name is a known one."""
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
        stop(f"{where}: no {what} is called {name!r}; {hint}")


def methods_of(dataset, where):
    """The methods of a data set: all, some of them by name, or its own."""
    chosen = dataset.get("methods")
    if isinstance(chosen, dict):
        return records(chosen, "methods", where)
    for name in chosen or []:
        one_of(name, METHODS, where)
    return {name: METHODS[name] for name in chosen or METHODS}


def model(method, transform):
    """What a method does, sorted by the rule that it matters to."""
    random = method.get("random")
    if isinstance(random, str):
        random = [term.strip() for term in random.split(";")]
    try:
        read_model(method["fixed"], random)
    except FlashmmError as error:
        stop(f"methods: {error}")
    options = ("method", "nonnegative", "engine", "max_iter", "tol", "block_size")
    return {
        "transform": method.get("transform", transform),
        "formulas": {"fixed": method["fixed"], "random": random},
        "options": {key: method[key] for key in options if key in method},
        "ddf": method.get("ddf"),
    }


def dataset(counts, given, where, **more):
    """A data set with the settings of its own and, where it has none, those of the config."""
    keys = (
        "by",
        "covariates",
        "transform",
        "libsize",
        "layer",
        "missing",
        "test",
        "alternative",
    )
    settings = {key: given.get(key, config[key]) for key in keys}
    models = {
        name: model(method, settings["transform"])
        for name, method in methods_of(given, where).items()
    }
    return {"counts": counts, **settings, "methods": models, **more}


def simulated():
    """Name -> data set, one per scenario and replicate."""
    section = config.get("benchmark", {})
    for scenario in SCENARIOS:
        for replicate in range(1, section["replicates"] + 1):
            name = f"{scenario}-{replicate}"
            compared = replicate <= section["reference"]["replicates"]
            yield name, dataset(
                [f"results/simulations/{name}.h5ad"],
                {},
                "benchmark",
                truth=f"results/simulations/{name}.truth.tsv",
                scenario=scenario,
                replicate=replicate,
                compared=section["reference"]["methods"] if compared else [],
            )


def analysed():
    """Name -> data set, one per entry of `datasets`, or one for `counts`."""
    for name, given in named_datasets():
        counts = [given["counts"]] if isinstance(given["counts"], str) else given["counts"]
        counts = [path if "://" in path else os.path.expanduser(path) for path in counts]
        for path in counts:
            require_file(path, f"datasets: {name}")
        yield name, dataset(
            counts,
            given,
            f"datasets: {name}: methods",
            truth=None,
            scenario=name,
            compared=[],
        )


def named_datasets():
    if "counts" not in config:
        return config["datasets"].items()
    first = config["counts"] if isinstance(config["counts"], str) else config["counts"][0]
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(first).stem).lstrip("_-") or "counts"
    return [(name, {"counts": config["counts"]})]


def checked_scenarios():
    """Name -> fields of the simulation; the files that they name must be there."""
    if "benchmark" not in config:
        return {}
    scenarios = records(config["benchmark"]["scenarios"], "scenarios", "benchmark: scenarios")
    for name, spec in scenarios.items():
        if spec.get("distribution") == "gaussian":
            stop(f"benchmark: scenarios: {name}: 'gaussian' has no cells; put it into calibration")
        for path in scenario_files(spec).values():
            require_file(path, f"benchmark: scenarios: {name}")
    for name in config["benchmark"]["reference"]["methods"]:
        one_of(name, METHODS, "benchmark: reference: methods")
    return scenarios


def scenario_files(spec):
    return {key: spec[key] for key in ("reference", "metadata") if key in spec}


def all_datasets():
    found = [*simulated(), *analysed()]
    if not found and not config.keys() & {"heritability", "calibration"}:
        stop(
            "config: nothing to do; give counts (make report COUNTS=path/to/counts.h5ad), "
            "datasets or a benchmark section"
        )
    names = [name for name, _ in found]
    for name in names:
        if names.count(name) > 1:
            stop(f"datasets: {name!r} is also the name of a simulation; choose another one")
    return dict(found)


def subject_model(section):
    """Settings of a model between subjects, sorted by what they matter to; None without it."""
    given = config.get(section)
    if given is None:
        return None
    if ("file" in given) == ("column" in given):
        stop(
            f"{section}: what makes subjects alike? Give one of `file` (a kinship) and `column` "
            "(subjects of one family, batch or site)"
        )
    if "file" in given:
        given["file"] = os.path.expanduser(given["file"])
        require_file(given["file"], section)
    for name in given.get("datasets", []):
        one_of(name, DATASETS, f"{section}: datasets", "data set")
    names = given.get("datasets", list(DATASETS))
    if not names:
        stop(f"{section}: there is no data set to fit it to")
    for name in names:
        check_columns(section, given, name)
    options = ("rank", "scale")
    means = ("subject", "trait", "traits", "keep", "min_cells")
    return {
        "datasets": names,
        "file": given.get("file"),
        "settings": {
            "kind": given["kind"],
            "column": given.get("column"),
            "genes": given.get("genes"),
            "contrasts": given.get("test"),
            "means": {key: given[key] for key in means if key in given},
            "model": {"formula": given["covariates"], "method": given["method"]}
            | {key: given[key] for key in options if key in given},
        },
        "significant_in": given.get("significant_in"),
    }


def check_columns(section, given, name):
    """Stops where a model between subjects names a column or method that the data set lacks."""
    try:
        used = sorted(formula_columns(given["covariates"]))
    except FlashmmError as error:
        stop(f"{section}: covariates: {error}")
    used += [given["column"]] if "column" in given else []
    check_roles(section, given, used)
    for column in [given["subject"], given["trait"], *given["keep"], *used]:
        one_of(column, DATASETS[name]["by"], f"{section}: `by` of {name}", "column")
    if "significant_in" in given:
        one_of(given["significant_in"], DATASETS[name]["methods"], f"{section}: significant_in")


def check_roles(section, given, used):
    """Stops where one column is to do two things, or genes are chosen in two ways."""
    if given["subject"] == given["trait"]:
        stop(f"{section}: subject and trait are both {given['trait']!r}; they need a column each")
    roles = {given["subject"]: "tells the subjects apart", given["trait"]: "makes the traits"}
    for column in roles.keys() & set(used):
        stop(
            f"{section}: the column {column!r} {roles[column]}, so it can be neither a covariate "
            "nor what makes subjects alike"
        )
    if "significant_in" in given and isinstance(given["genes"], list):
        stop(f"{section}: genes are named, so significant_in has nothing to choose; leave it out")


validated(config, "config", "config")
HAS_DATA = "benchmark" in config or "counts" in config or bool(config["datasets"])
METHODS = records(config["methods"], "methods", "methods") if HAS_DATA else {}
SCENARIOS = checked_scenarios()
DATASETS = all_datasets()
SUBJECT_MODELS = {section: subject_model(section) for section in ("kinship", "multitrait")}
RUNS = [(name, method) for name, data in DATASETS.items() for method in data["methods"]]
