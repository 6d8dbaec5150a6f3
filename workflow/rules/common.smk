# Functions of wildcards that the rules share. What there is to do is read in config.smk.

import re
from pathlib import Path

from flashmm.storage.provenance import PACKAGE, source_digest


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


def code(step):
    """Part of the params of every rule: another version of the code behind it computes again."""
    path = PACKAGE / "workflow" / "steps" / f"{step}.py"
    return lambda wildcards: source_digest(path)


def only(names):
    """A wildcard constraint: one of these names."""
    return "|".join(map(re.escape, names)) or "(?!)"


def shard(wildcards):
    """The number of the shard and how many there are: [2, 4] for `2-of-4`; None for all at once."""
    item = wildcards.get("scatteritem")
    return None if item is None else [int(number) for number in item.split("-of-")]


def counts_file(wildcards):
    """The one file of counts that a job summarises."""
    return PLAN.counts_of(wildcards.dataset)[int(wildcards.get("file", 1)) - 1]


def cells_table(wildcards):
    """The table of the cells of this file, where the data set has one."""
    return PLAN.sheet_of(wildcards.dataset, int(wildcards.get("file", 1)) - 1)


def shards_of_cells(wildcards):
    """The parts of a data set, its files in the order of the config."""
    return [
        part
        for number, _ in enumerate(PLAN.datasets[wildcards.dataset]["counts"], start=1)
        for part in gather.cells(
            f"results/shards/groups/{wildcards.dataset}{wildcards.variant}/"
            f"{number}.{{scatteritem}}.h5ad"
        )
    ]


def memory(base, per_mb=0):
    """Megabytes: a base and so many per megabyte of input, and as much again at every retry."""
    if not per_mb:
        return lambda wildcards, attempt: attempt * base
    return lambda wildcards, input, attempt: attempt * (base + int(per_mb * megabytes(input)))


def megabytes(input):
    """The size of the inputs. Only of a storage is Snakemake asked, which it warns about in a report."""
    if any(file.is_storage for file in input):
        return input.size_mb
    return sum(Path(file).stat().st_size for file in input) / 2**20


def minutes(base, per_mb=0):
    """Minutes, in the same way."""
    return memory(base, per_mb)


def setting(key):
    """A setting of the data set, as a function of the wildcards."""
    return lookup(dpath=f"{{dataset}}/{key}", within=PLAN.datasets)


def of_method(key):
    """A property of the method, as a function of the wildcards."""
    return lookup(dpath=f"{{dataset}}/methods/{{method}}/{key}", within=PLAN.datasets)


def compared(wildcards):
    """The methods of a data set that MixedLM is compared with, in their order."""
    data = PLAN.datasets[wildcards.dataset]
    return [method for method in data["methods"] if method in data["compared"]]


def of_compared(pattern):
    """A file of each of these methods."""
    return lambda wildcards: [
        pattern.format(dataset=wildcards.dataset, method=method) for method in compared(wildcards)
    ]


def scenario_seed(wildcards):
    return PLAN.seed(wildcards.scenario, int(wildcards.replicate))


def groups_file(wildcards):
    return PLAN.groups_of(wildcards.dataset, wildcards.method)
