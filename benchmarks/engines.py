"""Seconds of the nested engine at the sizes of real studies, and its ratio to the dense engine.

    python benchmarks/engines.py            # both sizes
    python benchmarks/engines.py --genes 500

Group statistics are drawn from the model itself, so that no cells are needed. The dense engine
fits a subset of the genes, and the fits of both are compared there.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pandas as pd

import flashmm as fm

# subjects, cell types, covariates, genes, cells, genes of the dense engine
SIZES = {
    "25 x 12": (25, 12, ("log(libsize)",), 6_000, 20_000, 30),
    "259 x 29": (259, 29, ("log(libsize)", "mito"), 11_596, 500_000, 0),
}


def draw_groups(
    subjects: int, types: int, covariates: tuple[str, ...], genes: int, cells: int, seed: int = 0
) -> fm.GroupStatistics:
    """Group statistics of a study with nested components, half of the subjects treated."""
    rng = np.random.default_rng(seed)
    index = np.array([(i, k) for i in range(subjects) for k in range(types)])
    share = rng.dirichlet(np.full(len(index), 2.0))
    index, n = index[share * cells >= 3], np.floor(share[share * cells >= 3] * cells)
    subject, kind = index.T
    obs = pd.DataFrame(
        {
            "subject": pd.Categorical([f"S{i}" for i in subject]),
            "cell_type": pd.Categorical([f"T{k:02d}" for k in kind]),
            "condition": pd.Categorical(np.where(subject % 2, "stim", "ctrl")),
            "n_cells": n.astype(int),
        }
    )
    obs.index = obs[["subject", "cell_type", "condition"]].astype(str).agg("|".join, axis=1)
    names = ["", *covariates]
    means = np.column_stack([np.ones(len(n)), rng.normal(size=(len(n), len(covariates)))])
    for k, left in enumerate(names[1:], 1):
        obs[f"sum:{left}"] = n * means[:, k]
    for k, left in enumerate(names[1:], 1):
        for m, right in enumerate(names[k:], k):
            obs[f"sum:{left}*{right}"] = n * (means[:, k] * means[:, m] + (k == m))
    scale = rng.gamma(1.0, 0.3, size=(2, genes))
    y = (
        rng.normal(size=(types, genes))[kind]
        + scale[0] * rng.normal(size=(subjects, genes))[subject]
    )
    y += (
        scale[1] * rng.normal(size=(len(n), genes)) + rng.normal(size=y.shape) / np.sqrt(n)[:, None]
    )
    sums = n[:, None] * y
    along = [rng.normal(size=y.shape) for _ in covariates]
    rest = rng.chisquare(np.maximum(n - 1 - len(covariates), 0.5)[:, None], size=y.shape)
    return fm.GroupStatistics(
        obs=obs,
        genes=pd.Index([f"G{g}" for g in range(genes)]),
        sum=sums,
        sumsq=sums * y + rest + sum(u**2 for u in along),
        covariate_sums={
            name: means[:, [k]] * sums + np.sqrt(n)[:, None] * u
            for k, (name, u) in enumerate(zip(covariates, along, strict=True), 1)
        },
        counts=None,
        by=("subject", "cell_type", "condition"),
        covariates=covariates,
        transform="none",
        provenance={},
    )


def seconds(call: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[float, Any]:
    """Wall time of one call, and what it returned."""
    begin = time.perf_counter()
    result = call(*arguments, **options)
    return time.perf_counter() - begin, result


def main() -> None:
    """Time the fit and the Kenward-Roger tests of the treatment in each cell type."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--genes", type=int, help="genes per size (default: those of the study)")
    parser.add_argument("--size", choices=SIZES, help="one size only")
    options = parser.parse_args()
    warnings.simplefilter("ignore", fm.FlashmmWarning)
    print(f"numba {numba.__version__}, {numba.get_num_threads()} threads")
    for name in [options.size] if options.size else SIZES:
        measure(name, options.genes)


def measure(name: str, genes: int | None) -> None:
    """Print the figures of one size."""
    subjects, types, covariates, study_genes, cells, dense_genes = SIZES[name]
    genes = genes or study_genes
    fixed = "~ 0 + " + " + ".join([*covariates, "cell_type", "cell_type:condition"])

    def statistics(genes: int) -> fm.SummaryStatistics:
        groups = draw_groups(subjects, types, covariates, genes, cells)
        return fm.summary_statistics(groups, fixed, ["subject", "subject:cell_type"])

    def tests(fit: fm.LMMFit) -> fm.TestTable:
        return fm.contrast_tests(fit, "condition")

    few, stats = statistics(max(dense_genes, 2)), statistics(genes)
    compiling, nested = seconds(fm.fit_lmm, few)
    tests(nested)
    cpu = time.process_time()
    fit_seconds, fit = seconds(fm.fit_lmm, stats)
    cpu = time.process_time() - cpu
    test_seconds, table = seconds(tests, fit)
    print(
        f"{name} (p = {len(stats.coefficients)}, q = {len(stats.Z_levels)}), {genes} genes: "
        f"fit {fit_seconds:.1f} s ({1e3 * fit_seconds / genes:.2f} ms per gene, {cpu:.1f} CPU s, "
        f"{fit.n_iter.mean():.1f} iterations), Kenward-Roger of {len(table.contrasts)} contrasts "
        f"{test_seconds:.1f} s; first call {compiling:.1f} s; "
        f"{pd.Series(fit.status).value_counts().to_dict()}",
        flush=True,
    )
    if dense_genes:
        dense_seconds, dense = seconds(fm.fit_lmm, few, engine="dense")
        apart = np.abs(nested.theta - dense.theta).max() / np.abs(dense.theta).max()
        ratio = (dense_seconds / dense_genes) / (fit_seconds / genes)
        print(
            f"    dense engine, {dense_genes} genes: {1e3 * dense_seconds / dense_genes:.0f} ms "
            f"per gene, {ratio:.0f} times as long; components differ by {apart:.0e} at most",
            flush=True,
        )


if __name__ == "__main__":
    main()
