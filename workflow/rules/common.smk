# Functions of wildcards that the rules share. What there is to do is read in config.smk.

# Part of the params of every rule, so that another version of the package computes again.
VERSION = source_digest()


wildcard_constraints:
    dataset=r"[A-Za-z0-9][A-Za-z0-9_-]*",
    scenario=r"[A-Za-z0-9][A-Za-z0-9_-]*",
    method=r"[A-Za-z0-9][A-Za-z0-9_-]*",
    replicate=r"\d+",
    variant=r"(\.(log2p1|log1p|log1p_cp10k|none))?",
    file=r"\d+",


# The shards come from the config, never from the number of jobs: the order in which sums are added
# depends on them, and tables are to be the same on any machine.
scattergather:
    cells=config["shards"]["cells"],
    genes=config["shards"]["genes"],


def only(names):
    """A wildcard constraint: one of these names."""
    return "|".join(map(re.escape, names)) or "(?!)"


# Data sets whose cells are summarised by several jobs; the others need no merge.
SPLIT = [name for name in DATASETS if len(DATASETS[name]["counts"]) * config["shards"]["cells"] > 1]
WHOLE = [name for name in DATASETS if name not in SPLIT]


def shard(wildcards):
    """The number of the shard and how many there are: [2, 4] for `2-of-4`; None for all at once."""
    item = wildcards.get("scatteritem")
    return None if item is None else [int(number) for number in item.split("-of-")]


def counts_file(wildcards):
    """The one file of counts that a job summarises."""
    counts = DATASETS[wildcards.dataset]["counts"]
    return stored(counts[int(wildcards.get("file", 1)) - 1])


def shards_of_cells(wildcards):
    """The parts of a data set, its files in the order of the config."""
    return [
        part
        for number, _ in enumerate(DATASETS[wildcards.dataset]["counts"], start=1)
        for part in gather.cells(
            f"results/shards/groups/{wildcards.dataset}{wildcards.variant}/"
            f"{number}.{{scatteritem}}.h5ad"
        )
    ]


def memory(base, per_mb=0):
    """Megabytes: a base and so many per megabyte of input, and as much again at every retry."""
    return lambda wildcards, input, attempt: attempt * (base + int(per_mb * input.size_mb))


def minutes(base, per_mb=0):
    """Minutes, in the same way."""
    return memory(base, per_mb)


def setting(key):
    """A setting of the data set, as a function of the wildcards."""
    return lookup(dpath=f"{{dataset}}/{key}", within=DATASETS)


def of_method(key):
    """A property of the method, as a function of the wildcards."""
    return lookup(dpath=f"{{dataset}}/methods/{{method}}/{key}", within=DATASETS)


def scenario_seed(wildcards):
    """Seeds do not depend on which other scenarios there are, nor on their order."""
    return [
        config["seed"],
        zlib.crc32(wildcards.scenario.encode()),
        int(wildcards.replicate),
    ]


def scenario_inputs(wildcards):
    """The files that a simulation is drawn from, by what they are."""
    files = scenario_files(SCENARIOS[wildcards.scenario])
    return {key: stored(path) for key, path in files.items()}


def groups_of(dataset, method):
    """Methods share the groups of a data set; another transform has groups of its own."""
    data = DATASETS[dataset]
    transform = data["methods"][method]["transform"]
    variant = "" if transform == data["transform"] else f".{transform}"
    return f"results/groups/{dataset}{variant}.h5ad"


def groups_file(wildcards):
    return groups_of(wildcards.dataset, wildcards.method)


EVALUATED = ("metrics", "qq", "p_histogram", "roc", "fdp_tpr")
COMPARED = ("agreement", "pairs", "attempts")
FOR_PEOPLE = ("metrics", "agreement")


def runs_with(table):
    """The runs that have such a table: all, or those that MixedLM was fitted to."""
    if table in EVALUATED:
        return RUNS
    return [run for run in RUNS if run[1] in DATASETS[run[0]]["compared"]]


def tables():
    """The tables of this config, each collected over its runs."""
    return [table for table in EVALUATED + COMPARED if runs_with(table)]


def parts(wildcards):
    """Table -> its parts, one per run."""
    return {
        table: [
            f"results/evaluation/{dataset}/{method}/{table}.parquet"
            for dataset, method in runs_with(table)
        ]
        for table in tables()
    }


def names_of(dataset, method):
    """The columns that tell runs apart in a collected table."""
    data = DATASETS[dataset]
    return {
        "dataset": dataset,
        "scenario": data["scenario"],
        "replicate": data.get("replicate", 1),
        "method": method,
    }


def report_runs():
    """What the report shows of each run: its names, its model and its files."""
    return [
        {
            "dataset": dataset,
            "scenario": DATASETS[dataset]["scenario"],
            "replicate": DATASETS[dataset].get("replicate"),
            "counts": DATASETS[dataset]["counts"],
            "method": method,
            "model": DATASETS[dataset]["methods"][method],
            "groups": groups_of(dataset, method),
            "fit": f"results/fit/{dataset}/{method}.h5ad",
            "tests": f"results/tests/{dataset}/{method}.parquet",
            "notes": f"results/tests/{dataset}/{method}.notes.txt",
            "measured": f"results/benchmarks/fit/{dataset}/{method}.json",
            "reference": (
                f"results/benchmarks/reference/{dataset}/{method}.json"
                if method in DATASETS[dataset]["compared"]
                else None
            ),
        }
        for dataset, method in RUNS
    ]


SUBJECT_TABLES = {
    "kinship": ("heritability", "tests", "profiles"),
    "multitrait": ("fits", "effects", "covariances"),
}


def fitted_to(section):
    """The data sets that a model between subjects is fitted to."""
    return SUBJECT_MODELS[section]["datasets"] if SUBJECT_MODELS[section] else []


def relatedness(section):
    """The file that says how subjects are related, where there is one."""
    model = SUBJECT_MODELS[section]
    return stored(model["file"]) if model and model["file"] else []


def settings_of(section):
    return SUBJECT_MODELS[section]["settings"] if SUBJECT_MODELS[section] else {}


def significant_tests(wildcards):
    """The tests that genes are chosen by, where they are chosen so."""
    method = SUBJECT_MODELS["multitrait"]["significant_in"]
    return f"results/tests/{wildcards.dataset}/{method}.parquet" if method else []


def related_results():
    """What the optional models left: section -> data set -> what -> file."""
    found = {
        section: {
            dataset: {name: f"results/{section}/{dataset}/{name}.parquet" for name in tables}
            | {"notes": f"results/{section}/{dataset}/notes.txt"}
            for dataset in fitted_to(section)
        }
        for section, tables in SUBJECT_TABLES.items()
    }
    if "heritability" in config:
        names = ("estimates", "summary", "dense", "profiles")
        found["heritability"] = {
            "simulated traits": {name: f"results/heritability/{name}.parquet" for name in names}
            | {"notes": "results/heritability/notes.txt"}
        }
    return {section: results for section, results in found.items() if results}


def report_files():
    """The files of a run that the report opens: what it left, the collected tables, simulations."""
    related = [
        path
        for results in RELATED.values()
        for files in results.values()
        for path in files.values()
    ]
    kept = ("groups", "fit", "tests", "notes", "measured", "reference")
    left = {run[key] for run in REPORTED for key in kept if run[key]}
    simulated = {path for data in DATASETS.values() if data["truth"] for path in data["counts"]}
    return [*sorted(left), *TABLES.values(), *sorted(simulated), *related]


REPORTED = report_runs()
RELATED = related_results()
TABLES = {table: f"results/evaluation/{table}.parquet" for table in tables()}
