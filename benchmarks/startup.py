"""What the start of a job of the workflow costs: fits of a grid, with a worker and without.

`python benchmarks/startup.py` simulates and summarises some small data sets, then fits few and
many of them in runs of their own. The difference in processor time between two runs, by fit, less
what the fits themselves took, is what a job costs beside its work: its process, its imports, and
Snakemake's share. Processor time of all processes counts, those of the worker among them. `--docs`
writes the figures into docs/deploy.md.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean

import common

# Linux: processes whose parent has ended become children of this one, which waits for them.
PR_SET_CHILD_SUBREAPER = 36
MODEL = {"fixed": "~ log(libsize) + condition", "random": "subject", "within": "cell_type"}
SCENARIO = {"n_genes": 60, "n_cells": 600, "n_subjects": 8, "n_cell_types": 2}
GRID = 1_000  # fits that the figures are scaled to


def config(datasets: int, methods: int) -> dict:
    """Small data sets, and methods of the same model under different names."""
    return {
        "seed": 1,
        "covariates": ["log(libsize)", "libsize"],
        "methods": {f"m{i}": MODEL for i in range(methods)},
        "benchmark": {"replicates": datasets, "scenarios": {"small": SCENARIO}},
    }


def run(folder: Path, targets: Sequence[str], worker: bool) -> tuple[float, float]:
    """Processor and wall-clock seconds of a run, until its last process has ended."""
    environment = common.environment(1) | {"FLASHMM_WORKER": "" if worker else "off"}
    command = [sys.executable, "-m", "snakemake", *targets]
    command += ["--snakefile", str(common.ROOT / "Snakefile")]
    command += ["--configfile", "config.json", "--cores", "2", "--quiet", "all"]
    before, start = _cpu_of_children(), time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, **common.QUIET)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    wall = time.perf_counter() - start
    with suppress(ChildProcessError):
        while True:
            os.wait()
    return _cpu_of_children() - before, wall


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def per_fit(folder: Path, fits: Sequence[str], few: int, worker: bool) -> dict[str, float]:
    """Processor seconds of a fit: beside its work, and its work; and what a run costs before."""
    readings = {}
    for n in (few, len(fits)):
        shutil.rmtree(folder / "results/tests", ignore_errors=True)
        shutil.rmtree(folder / "results/fit", ignore_errors=True)
        readings[n] = run(folder, [f"results/tests/{fit}.tsv" for fit in fits[:n]], worker)
    costs = [
        json.loads((folder / f"results/benchmarks/fit/{fit}.json").read_text()) for fit in fits
    ]
    work = fmean(cost["job"]["cpu_seconds"] for cost in costs)
    cpu, wall = ((readings[len(fits)][i] - readings[few][i]) / (len(fits) - few) for i in range(2))
    return {
        "fits": len(fits),
        "start": cpu - work,
        "work": work,
        "run": readings[few][0] - few * cpu,
        "wall": wall,
    }


def report(found: dict[str, dict[str, float]]) -> str:
    """A table of both ways, and what a grid would cost."""
    rows = [
        [
            name,
            f"{one['fits']:.0f}",
            f"{one['start']:.2f}",
            f"{one['work']:.2f}",
            f"{one['run']:.0f}",
            f"{(one['run'] + GRID * one['start']) / 60:.0f} min",
        ]
        for name, one in found.items()
    ]
    head = ("jobs", "fits", "start", "work", "run", f"start of {GRID:,} fits")
    return (
        f"Fits of {SCENARIO['n_genes']} genes in {SCENARIO['n_cells']} cells, in seconds of the "
        "processor (`python benchmarks/startup.py --docs`): what a job costs beside its work "
        "(Snakemake's share and the process included), its work, what a run costs once, and both "
        f"for {GRID:,} fits, which the cores share:\n\n"
        f"{common.markdown_table(head, rows)}\n\n```text\n{common.machine()}\n```\n"
    )


def main() -> None:
    """Measure both ways and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=int, default=10)
    parser.add_argument("--methods", type=int, default=10)
    parser.add_argument("--folder", type=Path, default=common.RESULTS / "startup")
    parser.add_argument("--docs", action="store_true", help="write docs/deploy.md")
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    (options.folder / "config.json").write_text(
        json.dumps(config(options.datasets, options.methods))
    )
    names = [f"small-{i + 1}" for i in range(options.datasets)]
    run(options.folder, [f"results/groups/{name}.h5ad" for name in names], True)
    fits = [f"{name}/m{i}" for name in names for i in range(options.methods)]
    few = max(2, len(fits) // 20)
    found = {"copies of a worker": per_fit(options.folder, fits, few, True)}
    found["processes that import"] = per_fit(options.folder, fits[: 3 * few], few, False)
    print(json.dumps(found, indent=2))
    print(text := report(found))
    if options.docs:
        common.write_between(common.ROOT / "docs/deploy.md", "startup", text)


if __name__ == "__main__":
    main()
