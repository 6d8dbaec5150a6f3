"""Where the time goes: shares of wall time of the main steps, sampled by py-spy.

`python benchmarks/shares.py` runs each step under py-spy and counts, for every sample of the main
thread, the innermost function of the package; time in libraries belongs to the function that called
them, and compiled kernels to the one that calls the kernel.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import steps

SUBJECT, NESTED = ["subject"], ["subject", "subject:cell_type"]
FEW = {"covariates": ["log(libsize)"], "n_cells": 20_000, "n_genes": 6_000}
STUDY = {"n_subjects": 25, "n_cell_types": 12}
RATE = 250  # samples per second
SECONDS = 4.0  # of samples, about
LEAST = 0.04  # share that is still shown


def cases(path: str) -> dict[str, tuple[str, Callable[[], Any]]]:
    """What is profiled: its size, and a function that prepares it and returns the call."""

    def model(name: str, random: list[str]) -> Callable[[], Any]:
        def prepare() -> Any:
            calls = steps.model(contrasts=None, random=random, **FEW, **STUDY)
            calls["fit"]()
            return calls[name]

        return prepare

    genes = "6,000 genes, 25 subjects × 12 types, p = 25"
    return {
        "summarise": ("20,000 cells × 6,000 genes", lambda: steps.summarise(path)[""]),
        "fit, subject": (genes, model("fit", SUBJECT)),
        "KR tests of 25 coefficients, subject": (genes, model("kenward-roger", SUBJECT)),
        "fit, subject + subject:cell_type": (genes, model("fit", NESTED)),
        "KR tests of 25 coefficients, subject + subject:cell_type": (
            genes,
            model("kenward-roger", NESTED),
        ),
    }


def sampled(call: Callable[[], Any]) -> None:
    """Repeat a call for long enough; samples below this function are counted."""
    spent = 0.0
    while spent < SECONDS:
        spent += steps.timed(call)["seconds"]


def profile(name: str, path: str, folder: Path) -> Counter[str]:
    """Samples of each function of the package."""
    output = folder / "samples.txt"
    options = ["--idle", "--rate", str(RATE), "--format", "raw", "--output", str(output)]
    step = [sys.executable, __file__, "--sample", name, path]
    command = [py_spy(), "record", *options, "--", *step]
    # in one thread, or the work would be in others than the one that is looked at
    subprocess.run(command, check=True, capture_output=True, env=common.environment(threads=1))
    counts: Counter[str] = Counter()
    for line in output.read_text().splitlines():
        stack, n = line.rsplit(" ", 1)
        frames = stack.split(";")
        below = [i for i, frame in enumerate(frames) if frame.startswith("sampled (")]
        if below:
            counts[_place(frames[below[0] :])] += int(n)
    return counts


def _place(frames: list[str]) -> str:
    """The innermost function of the package, and the library that it calls or waits for."""
    inside = [i for i, frame in enumerate(frames) if "flashmm/" in frame]
    if not inside:
        return "the benchmark itself"
    function, file = re.match(r"(.*) \(.*?flashmm/(.*?)\.py", frames[inside[-1]]).groups()
    waits = any(re.match(r"wait \(.*threading", frame) for frame in frames[inside[-1] :])
    function = function.split(".<locals>")[0]
    return f"`{file.replace('/', '.')}.{function}`" + (", waiting for a thread" if waits else "")


def py_spy() -> str:
    """Path of py-spy, empty where it is not installed."""
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.exists() else shutil.which("py-spy") or ""


def shares() -> str:
    """The table of shares."""
    rows = []
    with tempfile.TemporaryDirectory() as place:
        path = str(Path(place) / "cells.h5ad")
        size = {"n_cells": 20_000, "n_genes": 6_000, **STUDY}
        common.run_step("simulate_cells", path=path, **size)
        for name, (text, _) in cases(path).items():
            counts = profile(name, path, Path(place))
            total = counts.total()
            most = [(what, n / total) for what, n in counts.most_common() if n >= LEAST * total]
            rest = 1 - sum(share for _, share in most)
            for what, share in [*most, (f"others, each below {LEAST:.0%}", rest)]:
                rows.append([name, text, what, f"{share:.0%}"])
                name = text = ""
    return common.markdown_table(["step", "size", "function", "share"], rows)


def main() -> None:
    """Print the table; with `--docs`, write it into docs/performance.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--docs", action="store_true")
    parser.add_argument("--sample", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.sample:
        warnings.simplefilter("ignore")
        name, path = options.sample
        call = cases(path)[name][1]()
        call()
        sampled(call)
        return
    if not py_spy():
        print("shares of functions: skipped, py-spy not installed.")
        return
    table = shares()
    print(table)
    if options.docs:
        common.write_between(common.ROOT / "docs" / "performance.md", "shares", table)


if __name__ == "__main__":
    main()
