"""Speed of the simulator against numpy's negative binomial draws, in one run.

`python benchmarks/simulate.py [cells] [genes]` prints, for genes of mean 0.1 and 1 and of some
sizes, the time per cell and gene of

- `Generator.negative_binomial`, in one call with one mean and size, and with arrays of them, as
  cells and genes that differ need;
- `draw_block`, the kernel, with one mean for all, on one thread;
- the whole drawing of `simulate_counts` (25 subjects with effects, library sizes, DE genes), on one
  thread and on two;

and the ratios; then seconds of drawing and of writing a file, each alone and together.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from flashmm import simulate
from flashmm.kernels.negative_binomial import draw_block
from flashmm.simulate import BLOCK_CELLS, SimulationSpec, simulate_counts

MEANS, SIZES = (0.1, 1.0), (0.5, 2.0)
REPEATS = 3


def seconds(call: Callable[[], object], repeats: int = REPEATS) -> float:
    """Shortest wall time of several calls."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times)


def plan_of(mean: float, size: float, n_cells: int, n_genes: int) -> simulate._Plan:
    """Return a plan with the means and sizes of all genes replaced."""
    spec = SimulationSpec(n_genes=n_genes, n_cells=n_cells, n_de_genes=n_genes // 20)
    plan = simulate._plan(spec, seed=1)
    plan.var["mean"], plan.var["dispersion"] = mean, size
    return plan


def draw(plan: simulate._Plan, threads: int) -> list:
    with ThreadPoolExecutor(threads) as pool:
        return list(simulate._blocks(plan, pool, 16, progress=False))


def nanoseconds(mean: float, size: float, n_cells: int, n_genes: int) -> dict[str, float]:
    """Time per cell and gene of each way to draw."""
    rng, few = np.random.default_rng(1), (BLOCK_CELLS, 2_000)
    p = np.full(few, size / (size + mean))
    log_mean, sizes = np.full((1, n_genes), np.log(mean)), np.full(n_genes, size)
    one_level = np.zeros(BLOCK_CELLS, np.int64)
    plan = plan_of(mean, size, n_cells, n_genes)
    all_of_it = n_cells * n_genes
    return {
        "numpy": seconds(lambda: rng.negative_binomial(size, p[0, 0], few)) / p.size,
        "numpy_arrays": seconds(lambda: rng.negative_binomial(np.full(few[1], size), p)) / p.size,
        "kernel": seconds(lambda: draw_block(rng, log_mean, sizes, one_level))
        / (BLOCK_CELLS * n_genes),
        "1_thread": seconds(lambda: draw(plan, 1)) / all_of_it,
        "2_threads": seconds(lambda: draw(plan, 2)) / all_of_it,
    }


def ratios(n_cells: int, n_genes: int) -> pd.DataFrame:
    """Nanoseconds, and how many times faster than numpy's faster way each of ours is."""
    rows = {}
    for mean in MEANS:
        for size in SIZES:
            took = nanoseconds(mean, size, n_cells, n_genes)
            rows[mean, size] = {name: value * 1e9 for name, value in took.items()} | {
                f"ratio_{name}": took["numpy"] / took[name]
                for name in ("kernel", "1_thread", "2_threads")
            }
    return pd.DataFrame(rows).T.rename_axis(["mean", "size"])


def writing(n_cells: int, n_genes: int, folder: Path) -> pd.Series:
    """Seconds of drawing and of writing, apart and together."""
    plan = plan_of(0.1, 1.0, n_cells, n_genes)
    blocks = draw(plan, 2)
    sheet = ad.AnnData(obs=plan.obs, var=plan.var)

    def write() -> None:
        with ThreadPoolExecutor(2) as pool:
            simulate._write(sheet, iter(blocks), pool, folder / "cells.h5ad").file.close()

    def both() -> None:
        with ThreadPoolExecutor(2) as pool:
            drawn = simulate._blocks(plan, pool, 16, progress=False)
            simulate._write(sheet, drawn, pool, folder / "cells.h5ad").file.close()

    stored = sum(block.nnz for block in blocks)
    took = {"draw": seconds(lambda: draw(plan, 2)), "write": seconds(write), "both": seconds(both)}
    return pd.Series(took | {"stored": stored, "write_ns_per_stored": took["write"] / stored * 1e9})


def main(n_cells: int = 5_120, n_genes: int = 20_000) -> None:
    begin = time.perf_counter()
    simulate_counts(SimulationSpec(n_genes=50, n_cells=50), seed=1)
    print(f"first call, with what had to be compiled: {time.perf_counter() - begin:.2f} s\n")
    print(ratios(n_cells, n_genes).round(1).to_string(), "\n")
    with tempfile.TemporaryDirectory() as folder:
        print(writing(n_cells, n_genes, Path(folder)).round(2).to_string())


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
