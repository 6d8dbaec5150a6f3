"""Speed and memory as ratios within one run: `make bench`.

    python benchmarks/bench.py                     # every section
    python benchmarks/bench.py summarise peers     # some
    python benchmarks/bench.py --quick             # small sizes, two minutes
    python benchmarks/bench.py --docs              # and write docs/performance.md and the plots;
                                                   # of some sections only their part of it

Absolute seconds depend on the machine; ratios between two things measured side by side carry over.
A yardstick is what anyone can run: reading the same file with h5py, numpy's draws, one gene in
MixedLM or lme4, or the product of two 1,000 x 1,000 matrices on one core.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import curves
import shares
from common import (
    HERE,
    RESULTS,
    ROOT,
    Limit,
    Reading,
    Row,
    Table,
    busy,
    duration,
    environment,
    free_memory_mb,
    machine,
    python_has,
    r_has,
    r_step,
    rounds,
    run_step,
    step,
    write_between,
)
from quoted import quoted

PERFORMANCE = ROOT / "docs" / "performance.md"
SUBJECT, NESTED = ["subject"], ["subject", "subject:cell_type"]
PRODUCT = "two matrices multiplied"
ZARR = "format 3, zstd"
STUDY = "20,000 cells × 6,000 genes"
PEER_GENES, FLASHMM_GENES = 4, 200
ONE_DDF = {
    "kenward-roger": "Kenward–Roger",
    "kenward-roger-2": "Kenward–Roger to the second order",
    "satterthwaite": "Satterthwaite",
}
CROSSED_COVARIATES = ["log(libsize)", *(f"x{number}" for number in range(1, 23))]


@dataclass
class Run:
    """One run: its table, its files, and whether it is a quick one."""

    table: Table
    folder: Path
    quick: bool

    @property
    def n_rounds(self) -> int:
        return 2 if self.quick else 4

    def cells(self, n_cells: int, n_genes: int, n_subjects: int = 25, types: int = 12) -> Path:
        """A simulated file of cells, made when it is first asked for."""
        path = self.folder / f"{n_cells}x{n_genes}x{n_subjects}x{types}.h5ad"
        if not path.exists():
            size = {"n_cells": n_cells, "n_genes": n_genes, "n_subjects": n_subjects}
            run_step("simulate_cells", path=str(path), n_cell_types=types, **size)
        return path

    def study(self) -> Path:
        """The cells of the sections `summarise` and `peers`."""
        return self.cells(20_000, 6_000)


# --- sections -------------------------------------------------------------------------------------


def summarise(run: Run) -> None:
    """Summarise against merely reading the same file."""
    n_cells = 20_000 if run.quick else 100_000
    files = [(run.cells(n_cells, 6_000), n_cells, "CSR", "gzip", Limit("ratio", 0.6))]
    for layout, compression, most in (
        ("CSR", "gzip", 0.6),
        ("CSR", None, 2.0),
        ("CSR", "lzf", None),
        ("CSR", "lz4", None),
        ("CSR", "zstd", None),
        ("CSR", "zarr", None),
        ("CSC", "gzip", None),
        ("dense", "gzip", 1.5),
    ):
        limit = None if most is None else Limit("ratio", most)
        if compression in ("lz4", "zstd") and not python_has("hdf5plugin"):
            run.table.skip(f"summarise, {layout}, {compression}", "hdf5plugin is not installed")
        else:
            files.append((run.study(), 20_000, layout, compression, limit))
    for source, n_cells, layout, compression, limit in files:
        zarr = compression == "zarr"
        path = run.folder / (f"{layout}.zarr" if zarr else f"{layout}-{compression}.h5ad")
        run_step(
            "store", source=str(source), path=str(path), layout=layout, compression=compression
        )
        with step("summarise", path=str(path)) as ours, step("read_chunks", path=str(path)) as its:
            took = rounds(run.n_rounds, ours=(ours, ""), its=(its, ""))
        stored = f"zarr ({ZARR})" if zarr else compression or "not compressed"
        what = f"summarise, {layout}, {stored}"
        text = f"{n_cells:,} cells × 6,000 genes"
        yardstick = "zarr reads the store" if zarr else "h5py reads the file"
        run.table.add("summarise", what, text, took["ours"], yardstick, took["its"], limit)
        if zarr:
            shutil.rmtree(path)
        else:
            path.unlink()


def simulate(run: Run) -> None:
    """Draws against numpy's, per million; writing apart."""
    n_cells = 2_560 if run.quick else 10_240
    for mean, limit in ((0.1, Limit("ratio", 1 / 10)), (1.0, Limit("ratio", 1 / 3))):
        for size in (0.5, 2.0):
            with (
                step("numpy_draws", mean=mean, size=size) as its,
                step("our_draws", mean=mean, size=size, n_cells=n_cells) as ours,
            ):
                names = ("kernel", "1 thread", "2 threads")
                calls = {name: (ours, name) for name in names}
                took = rounds(run.n_rounds, its=(its, ""), **calls)
            for name in names:
                reading = took[name].times(1e6 / took[name].more["draws"])
                what = {"kernel": "draw 10⁶ counts, kernel"}.get(name, f"draw 10⁶ counts, {name}")
                text = f"mean {mean:g}, size {size:g}"
                row = (what, text, reading, "negative_binomial", took["its"])
                run.table.add("simulate", *row, limit if name == "2 threads" else None)
    size = {"n_cells": n_cells, "n_genes": 20_000, "n_subjects": 25, "n_cell_types": 12}
    path = run.folder / "simulated.h5ad"
    with (
        step("simulate_cells", path=str(path), **size) as ours,
        step("read_chunks", path=str(path)) as its,
    ):
        took = rounds(run.n_rounds, ours=(ours, ""), its=(its, ""))
    text = f"{n_cells:,} cells × 20,000 genes"
    what = "simulate and write a gzip file"
    run.table.add("simulate", what, text, took["ours"], "h5py reads the file", took["its"])
    path.unlink()


def one(run: Run) -> None:
    """One component, all genes at once."""
    genes, many = (600, 2_000) if run.quick else (6_000, 20_000)
    small = model_size(25, 12, ["log(libsize)"], genes, 20_000, SUBJECT)
    with step("multiply") as its, step("model", threads=1, contrasts=None, **small) as ours:
        calls = {name: (ours, name) for name in ("fit", *ONE_DDF)}
        took = rounds(run.n_rounds, its=(its, ""), **calls, core=(ours, "all without tails"))
    text = f"{genes:,} genes, q = 25, p = 25"
    limit = Limit("seconds", 0.1 * genes / 6_000, pro_rata(genes, 6_000))
    each = Limit("seconds", 1.5e-6 * 25 * genes, "1.5 µs per gene and coefficient")
    for name, what, its_limit in (
        ("core", "fit, covariances, KR and Satterthwaite se and df, one core", limit),
        ("fit", "of this: fit", None),
        *(
            (ddf, f"tests of 25 coefficients, {words}, tails included", each)
            for ddf, words in ONE_DDF.items()
        ),
    ):
        run.table.add("one", what, text, took[name], PRODUCT, took["its"], its_limit)
    with step("multiply") as its, step("model", contrasts=None, **small) as ours:
        took = rounds(
            run.n_rounds, its=(its, ""), rows=(ours, "all without table"), all=(ours, "all")
        )
    for name, what in (
        ("rows", "fit, KR estimates, se and df of 25 coefficients, all cores"),
        ("all", "fit and table of KR tests of 25 coefficients, all cores"),
    ):
        run.table.add("one", what, text, took[name], PRODUCT, took["its"])
    size = model_size(1_000, 12, ["log(libsize)"], many, 200_000, SUBJECT)
    with step("multiply") as its, step("model", threads=1, contrasts=None, **size) as ours:
        took = rounds(1, its=(its, ""), ours=(ours, "all"))
    text = f"{many:,} genes, q = 1,000, p = 25"
    limit = Limit("seconds", 10.0 * many / 20_000, pro_rata(many, 20_000))
    run.table.add(
        "one",
        "fit and KR tests of 25 coefficients",
        text,
        took["ours"],
        PRODUCT,
        took["its"],
        limit,
    )


def nested(run: Run) -> None:
    """Two nested components: subject and subject x cell type."""
    for subjects, types, covariates, study_genes, cells, seconds in (
        (25, 12, ["log(libsize)"], 6_000, 20_000, (5.0, 5.0)),
        (259, 29, ["log(libsize)", "mito"], 11_596, 500_000, (120.0, 120.0)),
    ):
        genes = study_genes // 20 if run.quick else study_genes
        needed = 1_000 + 6 * 8e-6 * subjects * types * genes
        if needed > free_memory_mb():
            run.table.skip(
                f"nested, {subjects} × {types}", f"{needed:,.0f} MB of memory are not free"
            )
            continue
        size = model_size(subjects, types, covariates, genes, cells, NESTED)
        with step("multiply") as its, step("model", **size) as ours:
            took = rounds(1, its=(its, ""), fit=(ours, "fit"), kr=(ours, "kenward-roger"))
        p, contrasts = took["fit"].more["p"], took["kr"].more["contrasts"]
        text = f"{genes:,} genes, {subjects} subjects × {types} types, p = {p}"
        for name, what, most in zip(
            ("fit", "kr"), ("fit", f"KR tests of {contrasts} contrasts"), seconds, strict=True
        ):
            limit = Limit("seconds", most * genes / study_genes, pro_rata(genes, study_genes))
            run.table.add("nested", what, text, took[name], PRODUCT, took["its"], limit)


def per_type(run: Run) -> None:
    """A variance for each cell type: the subjects, and their independent effects on types."""
    genes = 100 if run.quick else 1_000
    random = ["subject", "0 + cell_type || subject"]
    size = model_size(40, 4, ["log(libsize)"], genes, 40_000, random)
    with step("multiply") as its, step("model", **size) as ours:
        took = rounds(1, its=(its, ""), ours=(ours, "fit"))
    text = f"{genes:,} genes, 40 subjects × 4 types, 5 components"
    limit = Limit("seconds", genes / 1_000, pro_rata(genes, 1_000))
    what = "fit, a variance per type"
    run.table.add("per_type", what, text, took["ours"], PRODUCT, took["its"], limit)


def guides(run: Run) -> None:
    """Many perturbations against one reference, batches random."""
    n_guides, genes = (100, 400) if run.quick else (1_000, 8_000)
    with (
        step("multiply") as its,
        step("guides", n_guides=n_guides, n_batches=20, n_genes=genes) as ours,
    ):
        took = rounds(1, its=(its, ""), ours=(ours, ""))
    text = f"{genes:,} genes, {n_guides:,} guides, 20 batches"
    what = "fit and KR tests of every guide against one"
    limit = None if run.quick else Limit("seconds", 600.0)
    run.table.add("guides", what, text, took["ours"], PRODUCT, took["its"], limit)


def bayes(run: Run) -> None:
    """Empirical-Bayes tests, the prior included, beside Kenward–Roger's of the same fit."""
    genes = 1_200 if run.quick else 6_000
    for text, size, limit in (
        ("25 subjects, 24 contrasts, K = 1", {"types": 12}, Limit("ratio", 3.0)),
        (
            "6 pairs, K = 2",
            {"subjects": 6, "paired": True},
            Limit("seconds", 2.0 * genes / 6_000, pro_rata(genes, 6_000)),
        ),
    ):
        with step("bayes", genes=genes, **size) as ours:
            calls = {name: (ours, name) for name in ("kenward-roger", "empirical-bayes")}
            took = rounds(run.n_rounds, **calls)
        size_text = f"{genes:,} genes, {text}"
        its = ("Kenward–Roger tests", took["kenward-roger"])
        reading = took["empirical-bayes"]
        run.table.add("bayes", "empirical-Bayes tests, one core", size_text, reading, *its, limit)


def crossed(run: Run) -> None:
    """Two crossed components: subjects and batches (in the place of cell types)."""
    genes = 50 if run.quick else 500
    fixed = "~ 1 + " + " + ".join([*CROSSED_COVARIATES, "condition"])
    more = {"fixed": fixed, "most_drawn": 100}
    batches = {"few": (26, 46), "many": (259, 46), "flashmm": (200, 30)}
    with ExitStack() as stack:
        calls = {"its": (stack.enter_context(step("multiply")), "")}
        for name, (subjects, n_batches) in batches.items():
            size = model_size(
                subjects, n_batches, CROSSED_COVARIATES, genes, 100_000, ["subject", "cell_type"]
            )
            calls[name] = (stack.enter_context(step("model", **size, **more)), "fit")
        took = rounds(1, **calls)
    for name, yardstick, its, limit in (
        ("flashmm", PRODUCT, "its", Limit("seconds", 1e-3 * genes, "1 ms per gene")),
        ("many", "26 + 46 levels", "few", None),
    ):
        subjects, n_batches = batches[name]
        text = f"{genes:,} genes, {subjects} + {n_batches} levels, p = {took[name].more['p']}"
        run.table.add("crossed", "fit", text, took[name], yardstick, took[its], limit)


def peers(run: Run) -> None:
    """The same models in other programs, per gene."""
    path, table = run.study(), run.folder / "cells.csv"
    run_step("export", path=str(path), table=str(table), n_genes=PEER_GENES)
    tables = {"lme4": table, "FLASHMM": run.folder / "many.csv"}
    if r_has("FLASHMM"):  # what its genes share is little of the time with that many
        run_step("export", path=str(path), table=str(tables["FLASHMM"]), n_genes=FLASHMM_GENES)
        flashmm(run, tables["FLASHMM"])
    for random, words in ((SUBJECT, "subject"), (NESTED, "subject + subject:cell_type")):
        if run.quick and random == NESTED:
            continue
        few = 1 if random == NESTED else PEER_GENES
        with ExitStack() as stack:
            ours = stack.enter_context(step("whole_path", path=str(path), random=random))
            started = {"MixedLM": step("mixedlm", path=str(path), n_genes=few, random=random)}
            for package in ("lme4", "FLASHMM"):
                if r_has(package):
                    started[package] = r_step(package, str(tables[package]), r_formula(random))
                elif random == SUBJECT:
                    run.table.skip(f"R {package}", "not installed")
            calls = {name: (stack.enter_context(process), "") for name, process in started.items()}
            ours.call("all")
            took = rounds(1, ours=(ours, "all"), fit=(ours, "fit"), test=(ours, "test"), **calls)
        fitted = took["fit"].seconds + took["test"].seconds
        reading = Reading(fitted, took["fit"].cpu + took["test"].cpu, took["test"].peak_mb, 0.0, {})
        for name in calls:
            its = f"one gene in {name}"
            text = f"{STUDY}, {words}"
            per_gene = reading.times(1 / took["fit"].more["genes"])
            run.table.add("peers", "one gene, fit and KR tests", text, per_gene, its, took[name])
    deseq(run, took["ours"])
    edger(run, took["ours"])


def flashmm(run: Run, table: Path) -> None:
    """Fits of all genes from sums, ours with tests; FLASHMM works on one core."""
    genes = 600 if run.quick else 6_000
    size = model_size(25, 12, ["log(libsize)"], genes, 20_000, SUBJECT)
    with (
        step("model", contrasts=None, **size) as ours,
        r_step("FLASHMM-sums", str(table), r_formula(SUBJECT)) as its,
    ):
        took = rounds(run.n_rounds, ours=(ours, "all without table"), its=(its, ""))
    what = "fit, KR estimates, se and df of 25 coefficients, all cores"
    text = f"{genes:,} genes, q = 25, p = 25, from sums"
    yardstick = f"fits of as many in FLASHMM (of {FLASHMM_GENES})"
    limit = Limit("ratio", 1 / 150, "150 times as fast")
    row = ("peers", what, text, took["ours"], yardstick, took["its"].times(genes), limit)
    run.table.add(*row)


def edger(run: Run, ours: Reading) -> None:
    """Pseudobulk by edgeR, all cell types; its sums of counts are made before."""
    if not r_has("edgeR"):
        run.table.skip("R edgeR", "not installed")
        return
    table = run.folder / "pseudobulk.csv"
    run_step("pseudobulk", path=str(run.study()), table=str(table))
    with r_step("edgeR", str(table), "") as process:
        its = process.call()
    what, yardstick = "from the file to the tests of 12 cell types", "edgeR from sums, all types"
    run.table.add("peers", what, STUDY, ours, yardstick, its)


def deseq(run: Run, ours: Reading) -> None:
    """Pseudobulk by pydeseq2: one cell type, against all of them from the file by ours."""
    if not python_has("pydeseq2"):
        run.table.skip("pydeseq2 on the pseudobulk", "not installed")
        return
    its = run_step("pydeseq2", path=str(run.study()))
    yardstick = "pydeseq2, one cell type of 12"
    what = "from the file to the tests of 12 cell types"
    run.table.add("peers", what, STUDY, ours, yardstick, its)


SECTIONS: dict[str, Callable[[Run], None]] = {
    "summarise": summarise,
    "simulate": simulate,
    "one": one,
    "nested": nested,
    "per_type": per_type,
    "guides": guides,
    "bayes": bayes,
    "crossed": crossed,
    "peers": peers,
}
# Scripts of their own, with their arguments in a full and in a quick run: what they print is kept.
SCRIPTS: dict[str, tuple[list[str], list[str]]] = {
    "engines": (["--genes", "1000"], ["--genes", "100"]),
    "kinship": ([], []),
    "multitrait": ([], []),
}


# --- small helpers --------------------------------------------------------------------------------


def model_size(
    subjects: int, types: int, covariates: list[str], genes: int, cells: int, random: list[str]
) -> dict[str, object]:
    """Arguments of the step `model`."""
    return {
        "n_subjects": subjects,
        "n_cell_types": types,
        "covariates": covariates,
        "n_genes": genes,
        "n_cells": cells,
        "random": random,
    }


def pro_rata(genes: int, study_genes: int) -> str:
    """What is said of a target that was set for more genes."""
    return "" if genes == study_genes else "pro rata"


def r_formula(random: list[str]) -> str:
    """The model in lme4's notation."""
    fixed = "~ 0 + log_libsize + cell_type + cell_type:condition"
    return fixed + "".join(f" + (1 | {term})" for term in random)


def times(row: Row) -> str:
    """How many times as long the yardstick takes, in two digits."""
    return f"{float(f'{1 / row.ratio:.2g}'):,.0f}"


def run_script(name: str, run: Run) -> str:
    """What one of the other scripts prints, as a block of the document."""
    path, (arguments, quick) = HERE / f"{name}.py", SCRIPTS[name]
    if not path.exists():
        return ""
    command = [sys.executable, str(path), *(quick if run.quick else arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment())
    print(done.stdout, flush=True)
    if done.returncode:
        run.table.skip(path.name, f"it failed (exit {done.returncode})")
        return ""
    return f"`{path.relative_to(ROOT)}`:\n\n```text\n{done.stdout.strip()}\n```\n"


def headline(rows: list[Row]) -> str:
    """The four figures of the README, from the rows of a run; empty where one is missing."""

    def find(section: str, text: str) -> Row | None:
        named = (row for row in rows if row.section == section)
        return next(
            (row for row in named if text in f"{row.what} {row.size} {row.yardstick}"), None
        )

    read, study = find("summarise", "CSR, gzip"), find("nested", "259 subjects")
    mixedlm, lme4 = find("peers", "MixedLM"), find("peers", "lme4")
    if not (read and study and mixedlm and lme4):
        return ""
    return (
        f"To summarise a gzip file takes {read.ratio:.2g} × the time that h5py needs merely to "
        f"read it. From there, a gene of {STUDY} is fitted and tested (Kenward–Roger) in "
        f"{duration(mixedlm.seconds)}; only to fit it takes statsmodels' MixedLM "
        f"{times(mixedlm)} times as long, and lme4 {times(lme4)} times. Subject "
        f"and subject × cell type, {study.size}, are fitted in {duration(study.seconds)}."
    )


def run_sections(names: list[str], run: Run, docs: bool) -> dict[str, str]:
    """Run sections in their order; return what is written between the marks of the document."""
    blocks, printed = {}, []
    for name in names:
        print(f"== {name}", flush=True)
        begin = time.perf_counter()
        if name in SECTIONS:
            SECTIONS[name](run)
        elif name in SCRIPTS:
            printed.append(run_script(name, run))
        elif name == "curves":
            curves.run(run.folder, run.quick, docs)
        elif shares.py_spy():
            blocks["shares"] = shares.shares()
            print(blocks["shares"], flush=True)
        else:
            blocks["shares"] = "Not measured: py-spy is not installed."
            print(blocks["shares"], flush=True)
        print(f"({time.perf_counter() - begin:.0f} s)", flush=True)
    if run.table.rows:
        blocks |= {"bench": run.table.markdown(), "quoted": quoted()}
    if printed:
        blocks["scripts"] = "\n".join(filter(None, printed))
    return blocks


def main() -> None:
    """Run the sections, print the table, and write it into the document if asked to."""
    names = [*SECTIONS, *SCRIPTS, "curves", "shares"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", metavar="section", help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="small sizes, no curves, no shares")
    parser.add_argument("--docs", action="store_true", help="write docs/performance.md and plots")
    options = parser.parse_args()
    unknown = set(options.sections) - set(names)
    if unknown:
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(names)}")

    table, about = Table(busy()), machine()
    print(about, flush=True)
    usual = [*SECTIONS, *SCRIPTS] if options.quick else names
    wanted = [name for name in names if name in (options.sections or usual)]
    with tempfile.TemporaryDirectory() as folder:
        blocks = run_sections(wanted, Run(table, Path(folder), options.quick), options.docs)
    if table.rows:
        table.save(RESULTS / ("bench.tsv" if options.docs else "part.tsv"))
        sizes = "\nsmall sizes: a quick run" if options.quick else ""
        blocks["machine"] = f"```text\n{about}{sizes}\n```"
        print(f"\n{table.verdict()}")
    if options.docs:
        for name, text in blocks.items():
            write_between(PERFORMANCE, name, text)
        if headline(table.rows):
            write_between(ROOT / "README.md", "fast", headline(table.rows))


if __name__ == "__main__":
    main()
