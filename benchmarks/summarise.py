"""Time of summarise against that of merely reading the same file: `python benchmarks/summarise.py`.

20,000 cells x 5,000 genes, a fifth of them nonzero, as anndata writes them with gzip. Both are
timed in turn and the best of each is taken; the ratio carries over to other machines.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from scipy import sparse

import flashmm as fm

BY = ["subject", "cell_type", "condition"]
TARGET = 0.6


def write_cells(path: Path, n_cells: int, n_genes: int, seed: int = 0) -> int:
    """Write Poisson-gamma counts of 25 subjects and 12 cell types; return the nonzero values."""
    rng = np.random.default_rng(seed)
    rates = np.minimum(rng.gamma(0.5, 0.6, n_genes), 8.0)
    sizes = rng.lognormal(0.0, 0.4, (n_cells, 1))
    counts = sparse.vstack(
        [
            sparse.csr_matrix(rng.poisson(rows * rates).astype(np.float32))
            for rows in np.array_split(sizes, max(1, n_cells // 1000))
        ],
        format="csr",
    )
    subject = rng.integers(0, 25, n_cells)
    obs = pd.DataFrame(
        {
            "subject": pd.Categorical([f"S{s}" for s in subject]),
            "cell_type": pd.Categorical([f"T{t}" for t in rng.integers(0, 12, n_cells)]),
            "condition": pd.Categorical(np.where(subject % 2, "ctrl", "stim")),
            "libsize": np.asarray(counts.sum(axis=1), dtype=float).ravel(),
        },
        index=[f"c{i}" for i in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"g{j}" for j in range(n_genes)])
    ad.AnnData(counts, obs=obs, var=var).write_h5ad(path, compression="gzip")
    return counts.nnz


def read_chunks(path: Path) -> None:
    """Read values and positions with h5py, one chunk after another."""
    with h5py.File(path) as file:
        for name in ("X/data", "X/indices"):
            dataset = file[name]
            step = dataset.chunks[0]
            for start in range(0, len(dataset), step):
                dataset[start : start + step]


def timed(call: Callable[[], object]) -> float:
    """Wall time of one call, in seconds."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def main() -> None:
    """Write the file, time both, and print the ratio beside its target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--genes", type=int, default=5_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cells.h5ad"
        n_nonzero = write_cells(path, options.cells, options.genes)
        rounds = [
            (
                timed(lambda: read_chunks(path)),
                timed(lambda: fm.summarise(path, BY, "log(libsize)", progress=False)),
            )
            for _ in range(options.repeats)
        ]
        megabytes = path.stat().st_size / 1e6
    reading, summarising = map(min, zip(*rounds, strict=True))
    print(f"{options.cells} cells x {options.genes} genes, {n_nonzero} nonzero, {megabytes:.0f} MB")
    print(f"h5py reads the chunks\t{reading:.3f} s")
    print(f"summarise\t{summarising:.3f} s")
    print(f"ratio\t{summarising / reading:.2f}\ttarget {TARGET}")


if __name__ == "__main__":
    sys.exit(main())
