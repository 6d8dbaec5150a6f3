"""Time against the number of cells and of subjects, ours and the peers': measured and drawn.

Part of `make bench` (section `curves`). The peers fit a few genes, and their time is scaled to all
genes; past the size where a gene takes too long their line goes on dashed, in the direction of its
last two points. Points go to results/curves.tsv, plots to docs/.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from common import RESULTS, ROOT, Process, Reading, r_has, r_step, rounds, run_step, step

mpl.use("svg")
import matplotlib.pyplot as plt

SUBJECT, NESTED = ["subject"], ["subject", "subject:cell_type"]
N_GENES = 2_000
CELLS = (10_000, 30_000, 100_000, 300_000, 1_000_000)
SUBJECTS = (10, 30, 100, 300, 1_000)
PEERS = {"lme4": "subject, lme4", "mixedlm": "subject, MixedLM"}
# color, marker of each line
STYLES = {
    "simulate, write the file": ("0.6", "o"),
    "summarise": ("#0072b2", "o"),
    "subject: fit": ("#009e73", "o"),
    "subject: KR tests": ("#009e73", "s"),
    "subject + subject:cell_type: fit": ("#cc79a7", "o"),
    "subject + subject:cell_type: KR tests": ("#cc79a7", "s"),
    "subject, lme4": ("#d55e00", "^"),
    "subject, MixedLM": ("#e69f00", "v"),
}


@dataclass(frozen=True)
class Point:
    """Seconds of something at one size; of peers scaled from `genes` genes."""

    along: str
    n: int
    what: str
    seconds: float
    peak_mb: float
    genes: int
    measured: bool = True


def measure(folder: Path, quick: bool) -> list[Point]:
    """Measure both curves."""
    points = []
    for along, sizes in (("cells", CELLS), ("subjects", SUBJECTS)):
        for place, n in enumerate(sizes[:3] if quick else sizes):
            size = {"n_cells": n, "n_subjects": 25, "n_cell_types": 12}
            if along == "subjects":
                size = {"n_cells": 50_000, "n_subjects": n, "n_cell_types": 4}
            # along the cells MixedLM takes seconds per gene from there on, lme4 a little later
            peers = {"lme4": 2, "mixedlm": 2}
            if along == "cells" and place > 1:
                peers = {"lme4": 2} if place == 2 else {}
            for point in at_size(folder, along, n, size, {} if quick and place else peers):
                print(f"{point.along} {n:,}: {point.what} {point.seconds:.3g} s", flush=True)
                points.append(point)
    return points


def at_size(
    folder: Path, along: str, n: int, size: dict[str, int], peers: dict[str, int]
) -> Iterator[Point]:
    """Everything at one size."""
    path, table = folder / "curve.h5ad", folder / "curve.csv"
    with ExitStack() as stack:

        def open_step(name: str, **arguments: object) -> Process:
            return stack.enter_context(step(name, path=str(path), **arguments))

        written = run_step("simulate_cells", path=str(path), n_genes=N_GENES, **size)
        yield point_of(along, n, "simulate, write the file", written)
        one, two = (open_step("whole_path", random=random) for random in (SUBJECT, NESTED))
        two.call("summarise")
        calls: dict[str, tuple[Process, str]] = {
            "summarise": (one, "summarise"),
            "subject: fit": (one, "fit"),
            "subject: KR tests": (one, "test"),
            "subject + subject:cell_type: fit": (two, "fit"),
            "subject + subject:cell_type: KR tests": (two, "test"),
        }
        for name, reading in rounds(1, **calls).items():
            yield point_of(along, n, name, reading)
        if "mixedlm" in peers:
            process = open_step("mixedlm", n_genes=peers["mixedlm"], random=SUBJECT)
            yield point_of(along, n, PEERS["mixedlm"], process.call(), peers["mixedlm"])
        if "lme4" in peers and r_has("lme4"):
            run_step("export", path=str(path), table=str(table), n_genes=peers["lme4"])
            formula = "~ 0 + log_libsize + cell_type + cell_type:condition + (1 | subject)"
            process = stack.enter_context(r_step("lme4", str(table), formula))
            yield point_of(along, n, PEERS["lme4"], process.call(), peers["lme4"])


def point_of(along: str, n: int, what: str, reading: Reading, genes: int = 0) -> Point:
    """A point of a curve; `genes` of a peer were fitted, its seconds are per gene."""
    factor = N_GENES if genes else 1
    return Point(along, n, what, reading.seconds * factor, reading.peak_mb, genes or N_GENES)


def extrapolate(line: list[Point], sizes: tuple[int, ...]) -> list[Point]:
    """Carry a line along the cells on from its last two points, straight in logarithms."""
    missing = [n for n in sizes if n > line[-1].n]
    if line[-1].along != "cells" or len(line) < 2 or not missing:
        return []
    a, b = line[-2:]
    slope = math.log(b.seconds / a.seconds) / math.log(b.n / a.n)
    return [
        Point(b.along, n, b.what, b.seconds * (n / b.n) ** slope, 0.0, b.genes, measured=False)
        for n in missing
    ]


def draw(points: list[Point], along: str, path: Path) -> None:
    """Draw one plot."""
    mine = [point for point in points if point.along == along]
    sizes = tuple(sorted({point.n for point in mine}))
    plt.rcParams.update({"svg.hashsalt": "flashmm", "font.size": 9, "svg.fonttype": "none"})
    figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    for what, (color, marker) in STYLES.items():
        line = [point for point in mine if point.what == what]
        if not line:
            continue
        axes.plot(*columns(line), color=color, marker=marker, markersize=4, lw=1.4, label=what)
        beyond = extrapolate(line, sizes)
        if beyond:
            axes.plot(*columns([line[-1], *beyond]), color=color, ls="--", lw=1.2)
    axes.set(xscale="log", yscale="log", xlabel=f"number of {along}", ylabel="seconds")
    axes.grid(alpha=0.25, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    held = "25 subjects, 12 cell types" if along == "cells" else "50,000 cells, 4 cell types"
    dashed = ", dashed: extrapolated" if along == "cells" else ""
    axes.set_title(
        f"{N_GENES:,} genes, {held}; peers: per gene × {N_GENES:,}{dashed}",
        fontsize=9,
        loc="left",
    )
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def columns(line: list[Point]) -> tuple[list[int], list[float]]:
    """Sizes and seconds."""
    return [point.n for point in line], [point.seconds for point in line]


def run(folder: Path, quick: bool, docs: bool) -> None:
    """Measure, keep the points, and draw."""
    points = measure(folder, quick)
    lines = ["along\tn\twhat\tseconds\tpeak_mb\tgenes"]
    lines += [
        f"{p.along}\t{p.n}\t{p.what}\t{p.seconds:.6g}\t{p.peak_mb:.0f}\t{p.genes}" for p in points
    ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "curves.tsv").write_text("\n".join(lines) + "\n")
    for along in ("cells", "subjects"):
        draw(points, along, (ROOT / "docs" if docs else RESULTS) / f"time-{along}.svg")
