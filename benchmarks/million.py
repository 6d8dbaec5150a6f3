"""A million cells x 20,000 genes, from simulation to tested table: `make million`.

    python benchmarks/million.py --cells 50000 --folder /tmp/million    # a smaller trial
    python benchmarks/million.py --files 10                             # ten million cells

With several files there is the file of the simulation and copies of it, which are read as different
ones (`make million FILES=10`, 29 GB); each cell type then has a model of its own, with empirical
Bayes.

Each step runs in a process of its own, and what it took is kept beside the files, so that a run
that was stopped goes on where it was; `--again` makes every step anew. `--docs` writes the table
into docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import h5py
import scaling
import steps

import flashmm as fm
from flashmm.storage.files import atomic_path

RANDOM = ["subject", "subject:cell_type"]
MOST_MB = 2_000  # beyond the group statistics
MANY_MB, MANY_SECONDS = 4_000, 360.0  # the same of ten files, and the time from files to the table
BYTES_PER_VALUE = 3.0  # of the compressed file, more than it takes
SHARE = 0.05  # of values that are not zero
RATE = 0.018  # of the reference cells; gives about this share


@dataclass(frozen=True)
class Study:
    """Sizes and places of the run."""

    folder: Path
    n_cells: int
    n_genes: int
    n_subjects: int
    n_cell_types: int
    n_files: int = 1

    @property
    def cells(self) -> list[Path]:
        """The files of cells: that of the simulation, and copies of it."""
        copies = [self.file(f"cells-{number}.h5ad") for number in range(2, self.n_files + 1)]
        return [self.file("cells.h5ad"), *copies]

    @property
    def n_groups(self) -> int:
        return self.n_subjects * self.n_cell_types

    @property
    def groups(self) -> str:
        """Name of the file of groups."""
        return "groups.h5ad" if self.n_files == 1 else "groups-of-files.h5ad"

    @property
    def groups_mb(self) -> float:
        """Sums of y, y², counts and log(libsize) y of each group and gene."""
        return 4 * 8e-6 * self.n_groups * self.n_genes

    def file(self, name: str) -> Path:
        return self.folder / name


# --- steps: each makes its file, and returns what is said of it -----------------------------------


def simulate(study: Study) -> dict[str, Any]:
    calls = steps.simulate_cells(
        str(study.file("cells.h5ad")),
        n_cells=study.n_cells,
        n_genes=study.n_genes,
        n_subjects=study.n_subjects,
        n_cell_types=study.n_cell_types,
        rate=RATE,
    )
    stored = calls[""]()["stored"]
    share = stored / study.n_cells / study.n_genes
    return {"stored": stored, "said": f"{share:.1%} of the values are not zero"}


def copy(study: Study) -> dict[str, Any]:
    first, *others = study.cells
    for other in others:
        with atomic_path(other) as path:
            shutil.copyfile(first, path)
    return {"said": f"{len(others)} copies of the file"}


def read(study: Study) -> dict[str, Any]:
    steps.read_chunks(str(study.file("cells.h5ad")))[""]()
    return {"said": "the yardstick: h5py reads all chunks, nothing is made"}


def summarise(study: Study) -> dict[str, Any]:
    groups = fm.summarise(study.cells, steps.BY, "log(libsize)", progress=False)
    begin, cpu = time.perf_counter(), time.process_time()
    fm.write_groups(groups, study.file(study.groups))
    writing = time.perf_counter() - begin
    return {
        "not_counted": writing,
        "not_counted_cpu": time.process_time() - cpu,
        "said": f"{len(groups.obs):,} groups, {study.groups_mb:,.0f} MB of statistics; "
        f"and {common.duration(writing)} to write them",
    }


def fit(study: Study) -> dict[str, Any]:
    groups = fm.read_groups(study.file("groups.h5ad"))
    stats = fm.summary_statistics(groups, steps.FIXED, RANDOM)
    begin = time.perf_counter()
    fitted = fm.fit_lmm(stats)
    fitting = common.duration(time.perf_counter() - begin)
    fm.write_fit(fitted, study.file("fit.h5ad"), study.file("groups.h5ad"))
    return {
        "said": f"p = {len(fitted.coefficients)}, {fitted.fitted.mean():.1%} of genes fitted; "
        f"{fitting} of it in `fit_lmm`"
    }


def within(study: Study) -> dict[str, Any]:
    """One model for each cell type, tests by empirical Bayes, and the table."""
    groups = fm.read_groups(study.file(study.groups))
    fits = fm.fit_within(groups, "cell_type", "~ log(libsize) + condition", ["subject"])
    tests = fm.contrast_tests(fits, "condition")
    frame = tests.to_frame()
    fm.write_table(frame, study.file("tests-within.parquet"))
    return {
        "said": f"{tests.ddf}, {len(frame):,} tests, {(frame['p_value'] > 0).sum():,} of them made"
    }


def test(study: Study) -> dict[str, Any]:
    tests = fm.contrast_tests(fm.read_fit(study.file("fit.h5ad")), "condition")
    fm.write_table(tests.to_frame(), study.file("tests.parquet"))
    return {"said": f"Kenward–Roger, {len(tests.contrasts)} contrasts of each gene"}


def evaluate(study: Study) -> dict[str, Any]:
    with h5py.File(study.file("cells.h5ad")) as file:
        truth = steps.ad.io.read_elem(file["uns/flashmm/truth"])
    found = fm.evaluate(fm.read_table(study.file("tests.parquet")), truth)
    with atomic_path(study.file("metrics.tsv")) as path:
        found.metrics.to_csv(path, sep="\t", index=False)
    whole = found.metrics[found.metrics["contrast"] == "all"].set_index(["metric", "level"])[
        "value"
    ]
    said = [
        f"area under the ROC curve {whole['auc'].iloc[0]:.3f}",
        f"genomic inflation of the null tests {whole['lambda_gc'].iloc[0]:.3f}",
        f"{whole['fpr', 0.01]:.2%} of them at p ≤ 0.01",
    ]
    return {"said": ", ".join(said)}


STEPS: dict[str, tuple[Callable[[Study], dict[str, Any]], str | None]] = {
    "simulate": (simulate, "cells.h5ad"),
    "read": (read, None),
    "summarise": (summarise, "groups.h5ad"),
    "fit": (fit, "fit.h5ad"),
    "test": (test, "tests.parquet"),
    "evaluate": (evaluate, "metrics.tsv"),
}
MANY: dict[str, tuple[Callable[[Study], dict[str, Any]], str | None]] = {
    "simulate": (simulate, "cells.h5ad"),
    "copy": (copy, "cells-2.h5ad"),
    "read": (read, None),
    "summarise": (summarise, "groups-of-files.h5ad"),
    "within": (within, "tests-within.parquet"),
}


def steps_of(study: Study) -> dict[str, tuple[Callable[[Study], dict[str, Any]], str | None]]:
    """The steps of one file, or of several."""
    return STEPS if study.n_files == 1 else MANY


# --- the run --------------------------------------------------------------------------------------


def check_room(study: Study) -> None:
    """Say before hours are lost that disk or memory will not do."""
    lacking = sum(not path.exists() for path in study.cells)
    of_file = 1e-9 * BYTES_PER_VALUE * SHARE * study.n_cells * study.n_genes
    needed = lacking * of_file + 1e-3 * study.groups_mb
    free = shutil.disk_usage(study.folder).free / 1e9
    if lacking and needed > free:
        sys.exit(f"{study.folder}: {needed:.1f} GB needed, {free:.1f} GB free; use --folder.")
    needed_mb = study.groups_mb + MOST_MB
    if needed_mb > common.free_memory_mb():
        sys.exit(f"{needed_mb:,.0f} MB of memory needed, fewer are free; use fewer --genes.")


def run(study: Study, again: bool) -> dict[str, dict[str, Any]]:
    """Make the steps that are not there yet; return what each took."""
    kept = study.file("measures.json" if study.n_files == 1 else f"measures-{study.n_files}.json")
    measures = json.loads(kept.read_text()) if kept.exists() and not again else {}
    if study.n_files > 1 and study.file("measures.json").exists():  # the simulation is that of one
        of_one = json.loads(study.file("measures.json").read_text())
        measures = {
            name: of_one[name] for name in ("simulate", "read") if name in of_one
        } | measures
    for name, (_, output) in steps_of(study).items():
        if name in measures and (output is None or study.file(output).exists()):
            print(f"{name}: there already ({measures[name]['seconds']:.1f} s)", flush=True)
            continue
        measures[name] = one(study, name)
        kept.write_text(json.dumps(measures, indent=1))
        print(f"{name}: {row(study, name, measures)}", flush=True)
    return measures


def one(study: Study, name: str) -> dict[str, Any]:
    """Make one step in a process of its own."""
    arguments = {field: str(value) for field, value in vars(study).items()}
    command = [sys.executable, __file__, "--step", name, json.dumps(arguments)]
    process = common.Process(command)
    reading = process.call()
    process.close()
    output = steps_of(study)[name][1]
    size = study.file(output).stat().st_size if output else 0
    return {
        "seconds": reading.seconds,
        "cpu": reading.cpu,
        "peak_mb": reading.peak_mb,
        "file_mb": size / 1e6,
        **reading.more,
    }


def serve_step(name: str, arguments: dict[str, str]) -> None:
    """The process of one step."""
    warnings.simplefilter("ignore")
    numbers = {key: int(value) for key, value in arguments.items() if key != "folder"}
    study = Study(folder=Path(arguments["folder"]), **numbers)
    steps.serve({"": lambda: steps_of(study)[name][0](study)})


def row(study: Study, name: str, measures: dict[str, dict[str, Any]]) -> list[str]:
    """One line of the table."""
    took = measures[name]
    of_all = study.n_files * measures["read"]["seconds"] if "read" in measures else float("nan")
    ratio = took["seconds"] / (of_all if name == "summarise" else of_all / study.n_files)
    return [
        name,
        common.duration(took["seconds"]),
        common.duration(took["cpu"]),
        f"{ratio:.2g}",
        f"{took['peak_mb']:,.0f} MB",
        f"{took['file_mb']:,.0f} MB" if took["file_mb"] else "",
        took["said"],
    ]


def report(study: Study, measures: dict[str, dict[str, Any]]) -> str:
    """The table, the targets, and what was found."""
    head = ["step", "time", "CPU time", "of the reading", "peak memory", "file", ""]
    table = common.markdown_table(head, [row(study, name, measures) for name in STEPS])
    beyond = {
        name: took["peak_mb"] - (study.groups_mb if name == "summarise" else 0)
        for name, took in measures.items()
        if name in ("simulate", "summarise")
    }
    memory = "; ".join(
        f"{name} {most:,.0f} MB ({'met' if most <= MOST_MB else '**MISSED**'})"
        for name, most in beyond.items()
    )
    ratio = measures["summarise"]["seconds"] / measures["read"]["seconds"]
    total = sum(took["seconds"] for name, took in measures.items() if name != "read")
    return (
        f"{study.n_cells:,} cells × {study.n_genes:,} genes, {study.n_subjects} subjects, "
        f"{study.n_cell_types} cell types, 2 conditions:\n\n{table}\n"
        f"Altogether {common.duration(total)}. Peak memory beyond the group statistics "
        f"(target: at most {MOST_MB:,} MB): {memory}. Summarise took {ratio:.2g} × the reading "
        f"(target: 0.6; {'met' if ratio <= 0.6 else '**MISSED**'}).\n\n"
        f"```text\n{common.machine()}\n```\n"
    )


def report_many(study: Study, measures: dict[str, dict[str, Any]]) -> str:
    """The table and the targets of several files."""
    head = ["step", "time", "CPU time", "of the reading", "peak memory", "file", ""]
    table = common.markdown_table(head, [row(study, name, measures) for name in MANY])
    made = [measures[name] for name in ("summarise", "within")]
    seconds = sum(took["seconds"] for took in made)
    beyond = max(took["peak_mb"] for took in made) - study.groups_mb
    met = {True: "met", False: "**MISSED**"}
    return (
        f"{study.n_files} files of {study.n_cells:,} cells × {study.n_genes:,} genes "
        f"({study.n_files * study.n_cells:,} cells: a simulation and its copies), "
        f"{study.n_subjects} subjects, {study.n_cell_types} cell types, a model for each of them "
        f"with empirical Bayes (reading is that of one file, for summarise of all):\n\n{table}\n"
        f"From the files to the table {common.duration(seconds)} (target for ten files: "
        f"{MANY_SECONDS:.0f} s; {met[seconds <= MANY_SECONDS]}), {beyond:,.0f} MB beyond the group "
        f"statistics (target: {MANY_MB:,} MB; {met[beyond <= MANY_MB]}).\n\n"
        f"```text\n{common.machine()}\n```\n"
    )


def main() -> None:
    """Run all steps and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--subjects", type=int, default=100)
    parser.add_argument("--types", type=int, default=12)
    parser.add_argument("--files", type=int, default=1, help="copies of the file, for ten million")
    parser.add_argument("--folder", type=Path, default=common.RESULTS / "million")
    parser.add_argument("--again", action="store_true", help="make every step anew")
    parser.add_argument("--docs", action="store_true", help="write docs/performance.md")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        serve_step(options.step[0], json.loads(options.step[1]))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    sizes = options.cells, options.genes, options.subjects, options.types, options.files
    study = Study(options.folder.resolve(), *sizes)
    check_room(study)
    measures = run(study, options.again)
    if study.n_files > 1:
        text = report_many(study, measures)
        print(f"\n{text}")
        if options.docs:
            common.write_between(common.ROOT / "docs" / "performance.md", "files", text)
        return
    text = report(study, measures)
    print(f"\n{text}")
    if options.docs:
        docs = common.ROOT / "docs"
        common.write_between(docs / "performance.md", "million", text)
        common.write_between(docs / "scaling.md", "throughput", scaling.measured(measures))
        common.write_between(docs / "scaling.md", "projection", scaling.projection(measures))


if __name__ == "__main__":
    main()
