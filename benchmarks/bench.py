"""Measured times and memory, as ratios within one run: `make bench`.

Absolute seconds depend on the machine; ratios between two things measured side by side carry over.
Writes benchmarks/results.tsv and prints it.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import pandas as pd

import flashmm as fm

BY = ["subject", "cell_type", "condition"]
FIXED = "~ 0 + log(libsize) + cell_type + cell_type:condition"
MIXEDLM_GENES = 8


def best_of(times: int, call: Callable[[], object]) -> float:
    """Shortest wall time of several calls, in seconds."""
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def read_chunks(path: Path) -> None:
    """Merely read and inflate the counts with h5py, chunk by chunk."""
    with h5py.File(path) as file:
        for name in ("data", "indices"):
            data = file["X"][name]
            for start in range(0, data.shape[0], 2**21):
                data[start : start + 2**21]


def peak_memory() -> float:
    """Peak resident memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Table:
    """Rows of seconds beside a yardstick measured in the same run, printed as they come."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, ...]] = []

    def add(self, what: str, seconds: float, yardstick: str, reference: float) -> None:
        """Print and keep a row."""
        ratio = f"{seconds / reference:.3g}"
        row = (what, f"{seconds:.3g}", yardstick, f"{reference:.3g}", ratio)
        self.rows.append(row)
        print("\t".join(row), flush=True)

    def save(self, path: Path) -> None:
        """Write the rows as a tab-separated table."""
        columns = ["what", "seconds", "yardstick", "its_seconds", "ratio"]
        pd.DataFrame(self.rows, columns=columns).to_csv(path, sep="\t", index=False)


def time_fit(table: Table, groups: fm.GroupStatistics, random: list[str]) -> float:
    """Time statistics, fit and tests of one model; return the seconds of the fit per gene."""
    name = " + ".join(random)
    seconds = best_of(2, lambda: fm.summary_statistics(groups, FIXED, random))
    stats = fm.summary_statistics(groups, FIXED, random)
    fit = fm.fit_lmm(stats)  # compiles what is to be compiled
    fit_seconds = best_of(2, lambda: fm.fit_lmm(stats))
    table.add(f"fit {fit.n_genes} genes, {name}", fit_seconds, "its statistics", seconds)
    for ddf in ("kenward-roger", "satterthwaite"):
        seconds = best_of(2, lambda ddf=ddf: fm.contrast_tests(fit, ddf=ddf))
        what = f"test {len(fit.coefficients)} coefficients, {name}, {ddf}"
        table.add(what, seconds, "its fit", fit_seconds)
    return fit_seconds / fit.n_genes


def main() -> None:
    """Simulate one data set and time each step of the path against a yardstick."""
    table = Table()
    spec = fm.SimulationSpec(n_genes=2000, n_cells=20_000, n_subjects=25, n_cell_types=12)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cells.h5ad"
        sim = fm.simulate_counts(spec, seed=1, path=path)
        arguments = {"by": BY, "covariates": ["log(libsize)"], "progress": False}
        groups = fm.summarise(path, **arguments)
        seconds = best_of(3, lambda: fm.summarise(path, **arguments))
        read = best_of(3, lambda: read_chunks(path))
        table.add("summarise 20,000 cells x 2,000 genes", seconds, "h5py reads the file", read)
        per_gene = time_fit(table, groups, ["subject"])
        time_fit(table, groups, ["subject", "subject:cell_type"])
        genes = list(groups.genes[:: groups.n_genes // MIXEDLM_GENES][:MIXEDLM_GENES])
        mixedlm = best_of(1, lambda: fm.fit_mixedlm(sim.adata, genes, FIXED, ["subject"]))
        table.add("fit one gene, subject", per_gene, "MixedLM", mixedlm / MIXEDLM_GENES)
    table.save(Path(__file__).with_name("results.tsv"))
    print(f"peak memory of the whole run: {peak_memory():.0f} MB")


if __name__ == "__main__":
    warnings.simplefilter("ignore", fm.FlashmmWarning)
    sys.exit(main())
