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
ROUNDS = 4


def fastest(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Shortest wall time of each call, in rounds, so that all meet the same load."""
    times = {name: np.inf for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            times[name] = min(times[name], time.perf_counter() - begin)
    return times


def plan_of(mean: float, size: float, n_cells: int, n_genes: int) -> simulate._Plan:
    """Return a plan with this size for all genes, and this mean of all counts."""
    spec = SimulationSpec(n_genes=n_genes, n_cells=n_cells, n_de_genes=n_genes // 20)
    plan = simulate._plan(spec, seed=1)
    rise = np.exp(plan.offset).mean() * np.exp(spec.subject_variance / 2)
    plan.var["mean"], plan.var["dispersion"] = mean / rise, size
    return plan


def draw(plan: simulate._Plan, threads: int) -> list:
    with ThreadPoolExecutor(threads) as pool:
        return list(simulate._blocks(plan, pool, 16, progress=False))


def nanoseconds(mean: float, size: float, n_cells: int, n_genes: int) -> dict[str, float]:
    """Time per cell and gene of each way to draw."""
    rng, few = np.random.default_rng(1), (BLOCK_CELLS, n_genes // 10)
    p = np.full(few, size / (size + mean))
    log_mean, sizes = np.full((1, n_genes), np.log(mean)), np.full(n_genes, size)
    one_level = np.zeros(BLOCK_CELLS, np.int64)
    plan = plan_of(mean, size, n_cells, n_genes)
    times = fastest(
        {
            "numpy": lambda: rng.negative_binomial(size, p[0, 0], few),
            "numpy_arrays": lambda: rng.negative_binomial(sizes[: few[1]], p),
            "kernel": lambda: draw_block(rng, log_mean, sizes, one_level),
            "1_thread": lambda: draw(plan, 1),
            "2_threads": lambda: draw(plan, 2),
        }
    )
    drawn = [p.size, p.size, BLOCK_CELLS * n_genes, n_cells * n_genes, n_cells * n_genes]
    return {name: times[name] / n * 1e9 for name, n in zip(times, drawn, strict=True)}


def ratios(n_cells: int, n_genes: int) -> pd.DataFrame:
    """Nanoseconds, and how many times faster than numpy with one mean and size each of ours is."""
    rows = {}
    for mean in MEANS:
        for size in SIZES:
            took = nanoseconds(mean, size, n_cells, n_genes)
            rows[mean, size] = took | {
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

    took = fastest({"draw": lambda: draw(plan, 2), "write": write, "draw_and_write": both})
    stored = sum(block.nnz for block in blocks)
    return pd.Series(took | {"stored": stored, "write_ns_per_stored": took["write"] / stored * 1e9})


def main(n_cells: int = 2_560, n_genes: int = 20_000) -> None:
    begin = time.perf_counter()
    simulate_counts(SimulationSpec(n_genes=50, n_cells=50), seed=1)
    print(f"first call, with what had to be compiled: {time.perf_counter() - begin:.2f} s\n")
    print(ratios(n_cells, n_genes).round(1).to_string(), "\n")
    with tempfile.TemporaryDirectory() as folder:
        print(writing(n_cells, n_genes, Path(folder)).round(2).to_string())


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
