"""A million cells x 20,000 genes, from simulation to tested table: `make million`.

    python benchmarks/million.py --cells 50000 --folder /tmp/million    # a smaller trial
    python benchmarks/million.py --files 10                             # ten million cells
    python benchmarks/million.py --format zarr                          # the same from zarr

With several files there is the file of the simulation and copies of it, which are read as different
ones (`make million FILES=10`, 29 GB); each cell type then has a model of its own, with empirical
Bayes.

With `--format zarr` the same counts are then stored as zarr and go the same way once more, and the
groups and tables have to be the same to the last bit (`make million FORMAT=zarr`, with `FILES=10`
for ten stores).

Each step runs in a process of its own, and what it took is kept beside the files, so that a run
that was stopped goes on where it was; `--again` makes every step anew. `--docs` writes the table
into docs/performance.md.
"""

from __future__ import annotations

import argparse
import dataclasses
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
import pandas as pd
import scaling
import steps
import zarr

import flashmm as fm
from flashmm.storage.digests import ContentDigest, column_checksums
from flashmm.storage.files import atomic_path

PAGE = common.ROOT / "docs" / "performance.md"
RANDOM = ["subject", "subject:cell_type"]
MOST_MB = 2_000  # beyond the group statistics
MANY_MB, MANY_SECONDS = 4_000, 360.0  # the same of ten files, and the time from files to the table
BYTES_PER_VALUE = 3.0  # of the compressed file, more than it takes
SHARE = 0.05  # of values that are not zero
RATE = 0.018  # of the reference cells; gives about this share
ZARR_VALUES = 2**20  # of a chunk


@dataclass(frozen=True)
class Study:
    """Sizes and places of the run."""

    folder: Path
    n_cells: int
    n_genes: int
    n_subjects: int
    n_cell_types: int
    n_files: int = 1
    form: str = "h5ad"

    @property
    def cells(self) -> list[Path]:
        """The files of cells: that of the simulation, and copies of it; or zarr stores."""
        copies = [self.file(f"cells-{number}.{self.form}") for number in range(2, self.n_files + 1)]
        return [self.file(f"cells.{self.form}"), *copies]

    @property
    def n_groups(self) -> int:
        return self.n_subjects * self.n_cell_types

    @property
    def groups(self) -> str:
        """Name of the file of groups."""
        return self.result("groups" if self.n_files == 1 else "groups-of-files", "h5ad")

    @property
    def measures(self) -> str:
        """Name of the file of what the steps took."""
        return self.result("measures" if self.n_files == 1 else f"measures-{self.n_files}", "json")

    @property
    def groups_mb(self) -> float:
        """Sums of y, y², counts and log(libsize) y of each group and gene."""
        return 4 * 8e-6 * self.n_groups * self.n_genes

    def file(self, name: str) -> Path:
        return self.folder / name

    def result(self, name: str, ending: str) -> str:
        """Name of a result, which says whether it is from zarr."""
        return f"{name}.{ending}" if self.form == "h5ad" else f"{name}-{self.form}.{ending}"


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
        if first.is_dir():
            shutil.copytree(first, other, dirs_exist_ok=True)
            continue
        with atomic_path(other) as path:
            shutil.copyfile(first, path)
    return {"said": f"{len(others)} copies of the {'store' if first.is_dir() else 'file'}"}


def store(study: Study) -> dict[str, Any]:
    """Store the cells of the simulation as zarr, a chunk at a time."""
    root = zarr.open_group(str(study.cells[0]), mode="w", zarr_format=3)
    root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    with h5py.File(study.file("cells.h5ad")) as file:
        for name in ("obs", "var"):
            steps.ad.io.write_elem(root, name, steps.ad.io.read_elem(file[name]))
        matrix = root.create_group("X")
        shape = [int(length) for length in file["X"].attrs["shape"]]
        encoding = {"encoding-type": "csr_matrix", "encoding-version": "0.1.0"}
        matrix.attrs.update(encoding | {"shape": shape})
        for name, dataset in file["X"].items():
            chunks = (min(ZARR_VALUES, len(dataset)),)
            array = matrix.create_array(
                name, shape=dataset.shape, dtype=dataset.dtype, chunks=chunks
            )
            array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
            for start in range(0, len(dataset), ZARR_VALUES):
                array[start : start + ZARR_VALUES] = dataset[start : start + ZARR_VALUES]
    return {"said": f"format 3, zstd, chunks of {ZARR_VALUES:,} values"}


def read(study: Study) -> dict[str, Any]:
    steps.read_chunks(str(study.cells[0]))[""]()
    reader = "h5py" if study.form == "h5ad" else "zarr"
    return {"said": f"the yardstick: {reader} reads all chunks, nothing is made"}


def same_groups(study: Study) -> dict[str, Any]:
    """Compare the groups from zarr with those from HDF5; where files came from is no part."""
    files = study.groups, dataclasses.replace(study, form="h5ad").groups
    one, other = (content(fm.read_groups(study.file(name))) for name in files)
    if one != other:
        raise ValueError(f"{files[0]} and {files[1]} hold other numbers: {one}, {other}")
    return {"said": f"the groups are those from HDF5: {one[:12]}…"}


def content(groups: fm.GroupStatistics) -> str:
    """Digest of the groups, the genes and all sums."""
    digest = ContentDigest()
    digest.table("groups", groups.obs)
    digest.column("genes", groups.genes)
    for name, values in groups.gene_sums().items():
        digest.array(name, column_checksums(values))
    return digest.hexdigest()


def same_tables(study: Study) -> dict[str, Any]:
    """Compare the tables of tests from zarr with those from HDF5."""
    name = "tests" if study.n_files == 1 else "tests-within"
    files = study.result(name, "parquet"), f"{name}.parquet"
    one, other = (fm.read_table(study.file(file)) for file in files)
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    return {"said": f"the {len(one):,} tests are those from HDF5, to the last bit"}


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
    groups = fm.read_groups(study.file(study.groups))
    stats = fm.summary_statistics(groups, steps.FIXED, RANDOM)
    begin = time.perf_counter()
    fitted = fm.fit_lmm(stats)
    fitting = common.duration(time.perf_counter() - begin)
    fm.write_fit(fitted, study.file(study.result("fit", "h5ad")), study.file(study.groups))
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
    fm.write_table(frame, study.file(study.result("tests-within", "parquet")))
    return {
        "said": f"{tests.ddf}, {len(frame):,} tests, {(frame['p_value'] > 0).sum():,} of them made"
    }


def test(study: Study) -> dict[str, Any]:
    fitted = fm.read_fit(study.file(study.result("fit", "h5ad")))
    tests = fm.contrast_tests(fitted, "condition")
    fm.write_table(tests.to_frame(), study.file(study.result("tests", "parquet")))
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


Steps = dict[str, tuple[Callable[[Study], dict[str, Any]], str | None]]
STEPS: Steps = {
    "simulate": (simulate, "cells.h5ad"),
    "read": (read, None),
    "summarise": (summarise, "groups.h5ad"),
    "fit": (fit, "fit.h5ad"),
    "test": (test, "tests.parquet"),
    "evaluate": (evaluate, "metrics.tsv"),
}
MANY: Steps = {
    "simulate": (simulate, "cells.h5ad"),
    "copy": (copy, "cells-2.h5ad"),
    "read": (read, None),
    "summarise": (summarise, "groups-of-files.h5ad"),
    "within": (within, "tests-within.parquet"),
}
# The same from zarr, after these.
ZARR: Steps = {
    "store": (store, "cells.zarr"),
    "read": (read, None),
    "summarise": (summarise, "groups-zarr.h5ad"),
    "same groups": (same_groups, None),
    "fit": (fit, "fit-zarr.h5ad"),
    "test": (test, "tests-zarr.parquet"),
    "same tables": (same_tables, None),
}
MANY_ZARR: Steps = {
    "store": (store, "cells.zarr"),
    "copy": (copy, "cells-2.zarr"),
    "read": (read, None),
    "summarise": (summarise, "groups-of-files-zarr.h5ad"),
    "same groups": (same_groups, None),
    "within": (within, "tests-within-zarr.parquet"),
    "same tables": (same_tables, None),
}


def steps_of(study: Study) -> Steps:
    """The steps of one file, or of several; from HDF5 or zarr."""
    if study.form == "zarr":
        return ZARR if study.n_files == 1 else MANY_ZARR
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
    kept, single = study.file(study.measures), study.file(study.result("measures", "json"))
    measures = json.loads(kept.read_text()) if kept.exists() and not again else {}
    if study.n_files > 1 and single.exists():  # the simulation is that of one
        of_one = json.loads(single.read_text())
        shared = {name: of_one[name] for name in ("simulate", "store", "read") if name in of_one}
        measures = shared | measures
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
    size = size_of(study.file(output)) if output else 0
    return {
        "seconds": reading.seconds,
        "cpu": reading.cpu,
        "peak_mb": reading.peak_mb,
        "file_mb": size / 1e6,
        **reading.more,
    }


def size_of(path: Path) -> int:
    """Bytes of a file, or of the files of a folder."""
    files = (file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def serve_step(name: str, arguments: dict[str, str]) -> None:
    """The process of one step."""
    warnings.simplefilter("ignore")
    folder, form = Path(arguments.pop("folder")), arguments.pop("form")
    numbers = {key: int(value) for key, value in arguments.items()}
    study = Study(folder=folder, form=form, **numbers)
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


def report_zarr(study: Study, measures: dict[str, dict[str, Any]]) -> str:
    """The table of what goes from zarr."""
    head = ["step", "time", "CPU time", "of the reading", "peak memory", "file", ""]
    rows = [row(study, name, measures) for name in steps_of(study)]
    what = "The store" if study.n_files == 1 else f"{study.n_files} stores"
    return (
        f"{what} of {study.n_cells:,} cells × {study.n_genes:,} genes, {study.n_subjects} "
        f"subjects, {study.n_cell_types} cell types, beside the same from HDF5:\n\n"
        f"{common.markdown_table(head, rows)}\n```text\n{common.machine()}\n```\n"
    )


def main() -> None:
    """Run all steps and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--subjects", type=int, default=100)
    parser.add_argument("--types", type=int, default=12)
    parser.add_argument("--files", type=int, default=1, help="copies of the file, for ten million")
    parser.add_argument("--format", choices=("h5ad", "zarr"), default="h5ad")
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
    of_files(study, measures, options.docs)
    if options.format == "zarr":
        stores = dataclasses.replace(study, form="zarr")
        check_room(stores)
        text = report_zarr(stores, run(stores, options.again))
        print(f"\n{text}")
        if options.docs:
            common.write_between(PAGE, "zarr", text)


def of_files(study: Study, measures: dict[str, dict[str, Any]], docs: bool) -> None:
    """Print what files of HDF5 took, and write it where that is asked for."""
    one = study.n_files == 1
    text = report(study, measures) if one else report_many(study, measures)
    print(f"\n{text}")
    if docs:
        common.write_between(PAGE, "million" if one else "files", text)
    if docs and one:
        page = common.ROOT / "docs" / "scaling.md"
        common.write_between(page, "throughput", scaling.measured(measures))
        common.write_between(page, "projection", scaling.projection(measures))


if __name__ == "__main__":
    main()
