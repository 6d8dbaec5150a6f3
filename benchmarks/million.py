"""A million cells x 20,000 genes, from simulation to tested table: `make million`.

    python benchmarks/million.py --cells 50000 --folder /tmp/million    # a smaller trial

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

    @property
    def n_groups(self) -> int:
        return self.n_subjects * self.n_cell_types

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


def read(study: Study) -> dict[str, Any]:
    steps.read_chunks(str(study.file("cells.h5ad")))[""]()
    return {"said": "the yardstick: h5py reads all chunks, nothing is made"}


def summarise(study: Study) -> dict[str, Any]:
    groups = fm.summarise(study.file("cells.h5ad"), steps.BY, "log(libsize)", progress=False)
    begin, cpu = time.perf_counter(), time.process_time()
    fm.write_groups(groups, study.file("groups.h5ad"))
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


# --- the run --------------------------------------------------------------------------------------


def check_room(study: Study) -> None:
    """Say before hours are lost that disk or memory will not do."""
    needed = 1e-9 * BYTES_PER_VALUE * SHARE * study.n_cells * study.n_genes + 1e-3 * study.groups_mb
    free = shutil.disk_usage(study.folder).free / 1e9
    if needed > free and not study.file("cells.h5ad").exists():
        sys.exit(f"{study.folder}: {needed:.1f} GB needed, {free:.1f} GB free; use --folder.")
    needed_mb = study.groups_mb + MOST_MB
    if needed_mb > common.free_memory_mb():
        sys.exit(f"{needed_mb:,.0f} MB of memory needed, fewer are free; use fewer --genes.")


def run(study: Study, again: bool) -> dict[str, dict[str, Any]]:
    """Make the steps that are not there yet; return what each took."""
    kept = study.file("measures.json")
    measures = json.loads(kept.read_text()) if kept.exists() and not again else {}
    for name, (_, output) in STEPS.items():
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
    output = STEPS[name][1]
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
    steps.serve({"": lambda: STEPS[name][0](study)})


def row(study: Study, name: str, measures: dict[str, dict[str, Any]]) -> list[str]:
    """One line of the table."""
    took = measures[name]
    ratio = took["seconds"] / measures["read"]["seconds"] if "read" in measures else float("nan")
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


def main() -> None:
    """Run all steps and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--subjects", type=int, default=100)
    parser.add_argument("--types", type=int, default=12)
    parser.add_argument("--folder", type=Path, default=common.RESULTS / "million")
    parser.add_argument("--again", action="store_true", help="make every step anew")
    parser.add_argument("--docs", action="store_true", help="write docs/performance.md")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        serve_step(options.step[0], json.loads(options.step[1]))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    study = Study(
        options.folder.resolve(), options.cells, options.genes, options.subjects, options.types
    )
    check_room(study)
    measures = run(study, options.again)
    text = report(study, measures)
    print(f"\n{text}")
    if options.docs:
        docs = common.ROOT / "docs"
        common.write_between(docs / "performance.md", "million", text)
        common.write_between(docs / "scaling.md", "throughput", scaling.measured(measures))
        common.write_between(docs / "scaling.md", "projection", scaling.projection(measures))


if __name__ == "__main__":
    main()
