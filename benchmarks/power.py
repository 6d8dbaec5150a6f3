"""Predicted against simulated power: counts of a pilot, and of studies that are then carried out.

python benchmarks/power.py                  # print the table
python benchmarks/power.py --studies 20     # with more studies
python benchmarks/power.py --docs           # and write it into docs/designs.md
"""

from __future__ import annotations

import argparse
import warnings

import common
import numpy as np

import flashmm as fm

PAGE = common.ROOT / "docs" / "designs.md"
TESTS = ("kenward-roger", "empirical-bayes")
CONTRAST = ("condition", "B", "A")
GENES, CELLS, CHANGED = 500, 40, 0.3
PILOTS, PILOT_SIZE = 3, 8


def fits(n: int, seed: int, log2_fc: float = 0.0) -> tuple[fm.Simulation, object]:
    """A study of n subjects per arm, and its fits."""
    spec = fm.SimulationSpec(
        n_genes=GENES,
        n_cells=2 * n * CELLS,
        n_subjects=2 * n,
        n_cell_types=1,
        nested=True,
        n_de_genes=round(CHANGED * GENES) if log2_fc else 0,
        min_log_fc=log2_fc * np.log(2) or 1.0,
        max_log_fc=log2_fc * np.log(2) or 1.0,
        subject_variance=0.1,
    )
    made = fm.simulate_counts(spec, seed=seed)
    by, covariates = ["subject", "condition", "cell_type"], ["log(libsize)"]
    groups = fm.summarise(made.adata, by, covariates=covariates, progress=False)
    formula = "~ log(libsize) + condition"
    found = fm.fit_within(
        groups, "cell_type", formula, ["subject"], min_counts=None, size_factors=None
    )
    return made, found


def simulated(n: int, log2_fc: float, studies: int) -> dict[str, list[float]]:
    """Share of the changed genes with p below 0.05, by test, in each study."""
    shares: dict[str, list[float]] = {ddf: [] for ddf in TESTS}
    for seed in range(100, 100 + studies):
        made, found = fits(n, seed, log2_fc)
        for ddf in TESTS:
            table = fm.contrast_tests(found, CONTRAST, ddf)
            p = table.p_value[table.genes.get_indexer(made.truth["gene"]), 0]
            shares[ddf].append(float((p[np.isfinite(p)] < 0.05).mean()))
    return shares


def rows(sizes: list[int], changes: list[float], studies: int) -> list[tuple[str, ...]]:
    """Predicted by several pilots, simulated with its standard error, and the difference."""
    pilots = [fits(PILOT_SIZE, seed)[1] for seed in range(1, 1 + PILOTS)]
    found = []
    for n in sizes:
        for log2_fc in changes:
            shares = simulated(n, log2_fc, studies)
            for ddf in TESTS:
                asked = {"log2_fc": log2_fc, "subjects": n, "cells": CELLS, "ddf": ddf}
                tables = (fm.power(pilot, CONTRAST, **asked) for pilot in pilots)
                predicted = np.mean([table.frame["power"].item() for table in tables])
                mean = np.mean(shares[ddf])
                error = np.std(shares[ddf], ddof=1) / np.sqrt(studies)
                numbers = f"{predicted:.1%}", f"{mean:.1%} ± {error:.1%}"
                gap = f"{100 * (predicted - mean):+.1f}"
                found.append((str(n), f"{log2_fc:g}", ddf, *numbers, gap))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", type=int, nargs="+", default=[5, 8])
    parser.add_argument("--log2-fc", type=float, nargs="+", default=[0.35, 0.6, 1.0])
    parser.add_argument("--studies", type=int, default=6, help="studies of each kind")
    parser.add_argument("--docs", action="store_true", help="write docs/designs.md")
    given = parser.parse_args()
    warnings.simplefilter("ignore", fm.FlashmmWarning)
    head = ("subjects per arm", "log2 FC", "test", "predicted", "simulated", "points")
    table = common.markdown_table(head, rows(given.subjects, given.log2_fc, given.studies))
    print(table)
    if given.docs:
        common.write_between(PAGE, "power", table)


if __name__ == "__main__":
    main()
