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
import numpy as np
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


def main() -> None:
    """Simulate one data set and time each step against its yardstick."""
    rows = []

    def report(what: str, seconds: float, yardstick: str, reference: float) -> None:
        row = (what, f"{seconds:.3f}", yardstick, f"{reference:.3f}", f"{seconds / reference:.3g}")
        rows.append(row)
        print("\t".join(row), flush=True)

    spec = fm.SimulationSpec(n_genes=2000, n_cells=20_000, n_subjects=12, n_cell_types=6)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cells.h5ad"
        begin = time.perf_counter()
        sim = fm.simulate_counts(spec, seed=1, path=path)
        seconds = time.perf_counter() - begin
        rng, shape = np.random.default_rng(1), (2_000, 2_000)
        numpy = best_of(1, lambda: rng.negative_binomial(2.0, 0.5, shape)) * 10
        report("simulate and write 20,000 x 2,000", seconds, "numpy draws alone", numpy)

        arguments = {"by": BY, "covariates": ["log(libsize)"]}
        seconds = best_of(3, lambda: fm.summarise(path, progress=False, **arguments))
        report("summarise", seconds, "h5py reads the file", best_of(3, lambda: read_chunks(path)))
        groups = fm.summarise(path, progress=False, **arguments)

        per_gene = {}
        for name, random in (("K = 1", ["subject"]), ("K = 2", ["subject", "subject:cell_type"])):
            seconds = best_of(2, lambda random=random: fm.summary_statistics(groups, FIXED, random))
            stats = fm.summary_statistics(groups, FIXED, random)
            fit_seconds = best_of(2, lambda stats=stats: fm.fit_lmm(stats))
            fit = fm.fit_lmm(stats)
            report(f"fit {name}", fit_seconds, "its summary statistics", seconds)
            for ddf in ("kenward-roger", "satterthwaite"):
                seconds = best_of(2, lambda fit=fit, ddf=ddf: fm.contrast_tests(fit, ddf=ddf))
                report(
                    f"test {name}, {ddf}, {len(fit.coefficients)} coefficients",
                    seconds,
                    "its fit",
                    fit_seconds,
                )
            per_gene[name] = fit_seconds / fit.n_genes

        genes = list(groups.genes[:: groups.n_genes // MIXEDLM_GENES][:MIXEDLM_GENES])
        mixedlm = best_of(1, lambda: fm.fit_mixedlm(sim.adata, genes, FIXED, ["subject"]))
        report(
            "fit K = 1, per gene", per_gene["K = 1"], "statsmodels MixedLM", mixedlm / MIXEDLM_GENES
        )

    table = pd.DataFrame(rows, columns=["what", "seconds", "yardstick", "its_seconds", "ratio"])
    table.to_csv(Path(__file__).with_name("results.tsv"), sep="\t", index=False)
    print(f"peak memory of the whole run: {peak_memory():.0f} MB")


if __name__ == "__main__":
    warnings.simplefilter("ignore", fm.FlashmmWarning)
    sys.exit(main())
