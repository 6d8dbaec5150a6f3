"""Seconds of the engines at the sizes of real studies.

    python benchmarks/engines.py            # all sizes
    python benchmarks/engines.py --genes 500
    python benchmarks/engines.py --size "one component"

Nested components: the fit, the tests, and the ratio to the dense engine. One component: CPU seconds
of one core, the tails of the t distribution apart. Crossed: subjects and batches, and cell types
within subjects; CPU and wall time per gene, and the ratio to the dense engine. Correlated slopes:
level by level, and the ratio to the dense engine. Dense: CPU per gene,
and wall time in one thread and in all. Tests: Kenward-Roger, Satterthwaite and their intervals
beside the fit, CPU time of one core, with the targets.

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
from scipy import sparse

import flashmm as fm
from flashmm.inference.table import adjust_p_values
from flashmm.kernels.tails import t_tail

# subjects, cell types, covariates, genes, cells, genes of the dense engine
SIZES = {
    "25 x 12": (25, 12, ("log(libsize)",), 6_000, 20_000, 30),
    "259 x 29": (259, 29, ("log(libsize)", "mito"), 11_596, 500_000, 0),
}

# subjects, cell types, genes, cells, fixed effects
ONE_COMPONENT = {
    "25 subjects": (25, 12, 6_000, 20_000, "~ 0 + log(libsize) + cell_type + cell_type:condition"),
    "1,000 subjects": (1_000, 1, 20_000, 200_000, "~ log(libsize) + condition"),
}
# subjects, batches, cell types (one: no subject × cell type), fixed coefficients, genes, genes of
# the dense engine
CROSSED = (
    (25, 20, 1, 25, 1_000, 50),
    (200, 30, 1, 3, 500, 10),
    (200, 30, 1, 25, 500, 10),
    (259, 46, 1, 60, 200, 10),
    (259, 46, 29, 60, 100, 0),
)
# subjects with an intercept and a slope in time, visits of each, genes, genes of the dense engine
SLOPES = ((30, 4, 1_000, 100), (100, 4, 1_000, 20), (300, 4, 500, 4))
# levels of the components, fixed coefficients, genes
DENSE = (
    ((25, 20), 25, 1_000),
    ((30, 20, 10), 25, 500),
    ((100, 50), 10, 200),
    ((25, 300), 25, 60),
)


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
    others = ("one component", "crossed", "correlated slopes", "dense", "tests")
    sections = {**SIZES, **dict.fromkeys(others)}
    parser.add_argument("--size", choices=sections, help="one size only")
    options = parser.parse_args()
    warnings.simplefilter("ignore", fm.FlashmmWarning)
    print(f"numba {numba.__version__}, {numba.get_num_threads()} threads")
    for name in [options.size] if options.size else sections:
        if name == "one component":
            for size in ONE_COMPONENT:
                measure_one_component(size, options.genes)
        elif name == "crossed":
            for crossed in CROSSED:
                measure_crossed(*crossed, options.genes)
        elif name == "correlated slopes":
            for slopes in SLOPES:
                measure_slopes(*slopes, options.genes)
        elif name == "dense":
            for levels, p, genes in DENSE:
                measure_dense(levels, p, options.genes or genes)
        elif name == "tests":
            measure_tests(options.genes or 1_000)
        else:
            measure(name, options.genes)


def cpu_seconds(call: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[float, Any]:
    """Least CPU time of three calls, and what the last one returned."""
    least = np.inf
    for _ in range(3):
        begin = time.process_time()
        result = call(*arguments, **options)
        least = min(least, time.process_time() - begin)
    return least, result


def measure_one_component(name: str, genes: int | None) -> None:
    """Print the CPU time of the fit and of all coefficients' tests on one core."""
    subjects, types, study_genes, cells, fixed = ONE_COMPONENT[name]
    groups = draw_groups(subjects, types, ("log(libsize)",), genes or study_genes, cells)
    stats = fm.summary_statistics(groups, fixed, ["subject"])
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    fit_time, fit = cpu_seconds(fm.fit_lmm, stats, engine="spectral")
    parts = {"fit": fit_time, "covariances": cpu_seconds(fit.covariance, fit.fitted)[0]}
    for ddf in ("kenward-roger", "satterthwaite"):
        whole, table = cpu_seconds(fm.contrast_tests, fit, ddf=ddf)
        tails, _ = cpu_seconds(p_values, table)
        parts[ddf] = whole - tails
    numba.set_num_threads(threads)
    print(
        f"one component, {name} (p = {len(stats.coefficients)}), {stats.n_genes} genes, one core: "
        f"{sum(parts.values()):.3f} CPU s ("
        + ", ".join(f"{part} {cpu:.3f}" for part, cpu in parts.items())
        + f"); p-values apart, {tails:.3f} CPU s, {1e6 * tails / table.df.size:.2f} µs each",
        flush=True,
    )


def p_values(table: fm.TestTable) -> None:
    """Tails of the t distribution and their adjustment, as `contrast_tests` makes them."""
    p, _ = t_tail(table.statistic, table.df, "two-sided")
    for column in p.T:
        adjust_p_values(column)


def draw_crossed(
    subjects: int, batches: int, types: int, p: int, genes: int, cells: int = 20_000
) -> fm.SummaryStatistics:
    """Cross-products of subjects, batches that cross them, and cell types within subjects."""
    rng = np.random.default_rng(0)
    subject, batch = rng.integers(0, subjects, cells), rng.integers(0, batches, cells)
    kind = rng.integers(0, types, cells)
    factors = [subject, batch] if types == 1 else [subject, subject * types + kind, batch]
    codes = [np.unique(factor, return_inverse=True)[1] for factor in factors]
    Z = [sparse.csr_array((np.ones(cells), (np.arange(cells), code))) for code in codes]
    treated = subject % 2
    X = [kind == k for k in range(types)] + [(kind == k) & (treated == 1) for k in range(types)]
    X = np.column_stack([*X, rng.normal(size=(cells, p - 2 * types))]).astype(float)
    Y = rng.normal(size=(cells, genes))
    for Zk in Z:
        Y += Zk @ (rng.normal(size=(Zk.shape[1], genes)) * rng.gamma(1.0, 0.5, size=genes))
    return fm.summary_statistics_from_matrices(
        Y, X, sparse.hstack(Z, format="csr"), component_sizes=[Zk.shape[1] for Zk in Z]
    )


def measure_crossed(
    subjects: int,
    batches: int,
    types: int,
    p: int,
    study_genes: int,
    dense_genes: int,
    genes: int | None,
) -> None:
    """Print the time of the eliminating engine, and its ratio to the dense engine."""
    genes = genes or study_genes
    stats = draw_crossed(subjects, batches, types, p, genes)
    cpu = time.process_time()
    wall, fit = seconds(fm.fit_lmm, stats, engine="eliminated")
    cpu = time.process_time() - cpu
    tests, _ = seconds(fm.contrast_tests, fit)
    sizes = " + ".join(str(size) for size in stats.component_sizes)
    print(
        f"crossed, {sizes} levels, p = {p}, {genes} genes: fit {1e3 * wall / genes:.2f} ms per "
        f"gene ({1e3 * cpu / genes:.2f} CPU ms, {fit.n_iter.mean():.1f} iterations), Kenward-Roger "
        f"of all coefficients {1e3 * tests / genes:.2f}; "
        f"{pd.Series(fit.status).value_counts().to_dict()}",
        flush=True,
    )
    if dense_genes:
        few = draw_crossed(subjects, batches, types, p, dense_genes)
        dense_cpu = time.process_time()
        dense = fm.fit_lmm(few, engine="dense")
        dense_cpu = time.process_time() - dense_cpu
        apart = np.abs(fm.fit_lmm(few, engine="eliminated").theta - dense.theta).max()
        print(
            f"    dense engine, {dense_genes} genes: {1e3 * dense_cpu / dense_genes:.1f} CPU ms "
            f"per gene, {dense_cpu / dense_genes / (cpu / genes):.0f} times as long; components "
            f"differ by {apart / np.abs(dense.theta).max():.0e} at most",
            flush=True,
        )


def draw_slopes(subjects: int, visits: int, genes: int, cells: int = 20) -> fm.SummaryStatistics:
    """Cross-products of subjects with correlated intercepts and slopes in time."""
    rng = np.random.default_rng(0)
    subject, visit = np.divmod(np.arange(subjects * visits).repeat(cells), visits)
    Z = sparse.csr_array((np.ones(len(subject)), (np.arange(len(subject)), subject)))
    slopes = sparse.csr_array(sparse.diags_array(visit.astype(float)) @ Z)
    X = np.column_stack([np.ones(len(subject)), visit, subject % 2, visit * (subject % 2)])
    first, other = rng.normal(size=(2, subjects, genes))
    Y = rng.normal(size=(len(subject), genes)) + Z @ (0.5 * first)
    Y += slopes @ (0.1 * first + 0.1 * other)
    return fm.summary_statistics_from_matrices(
        Y, X, sparse.hstack([Z, slopes], format="csr"), component_sizes=[subjects, subjects, 0]
    )


def measure_slopes(
    subjects: int, visits: int, study_genes: int, dense_genes: int, genes: int | None
) -> None:
    """Print the time of the engine by levels, and its ratio to the dense engine."""
    few, stats = (draw_slopes(subjects, visits, n) for n in (dense_genes, genes or study_genes))
    by_level = fm.fit_lmm(few)  # compiled and warm
    cpu, fit = cpu_seconds(fm.fit_lmm, stats)
    begin = time.process_time()
    dense = fm.fit_lmm(few, engine="dense")
    ratio = (time.process_time() - begin) / dense_genes / (cpu / stats.n_genes)
    apart = np.abs(by_level.theta - dense.theta).max() / np.abs(dense.theta).max()
    print(
        f"correlated slopes, {subjects} subjects × {visits} visits, {stats.n_genes} genes: "
        f"{type(fit.model.engine).__name__} {1e3 * cpu / stats.n_genes:.2f} CPU ms per gene; dense "
        f"engine {ratio:.0f} times as long ({dense_genes} genes); components differ by {apart:.0e} "
        "at most",
        flush=True,
    )


def draw_dense(
    levels: tuple[int, ...], p: int, genes: int, cells: int = 3_000
) -> fm.SummaryStatistics:
    """Cross-products of crossed random components."""
    rng = np.random.default_rng(0)
    X = np.column_stack([np.ones(cells), rng.normal(size=(cells, p - 1))])
    Z = [np.eye(q)[np.r_[np.arange(q), rng.integers(0, q, cells - q)]] for q in levels]
    Y = rng.normal(size=(cells, genes))
    for Zk in Z:
        Y += Zk @ (rng.normal(size=(Zk.shape[1], genes)) * rng.gamma(1.0, 0.5, size=genes))
    return fm.summary_statistics_from_matrices(Y, X, np.hstack(Z), component_sizes=list(levels))


def measure_dense(levels: tuple[int, ...], p: int, genes: int, cells: int = 3_000) -> None:
    """Print the time of the dense engine with crossed random components."""
    stats = draw_dense(levels, p, genes, cells)
    threads, wall = numba.get_num_threads(), {}
    for count in (1, threads):
        numba.set_num_threads(count)
        cpu = time.process_time()
        wall[count], fit = seconds(fm.fit_lmm, stats, engine="dense")
        cpu = time.process_time() - cpu
    tests, _ = cpu_seconds(fm.contrast_tests, fit)
    print(
        f"dense, {' + '.join(map(str, levels))} levels, p = {p}, {genes} genes: "
        f"fit {1e3 * cpu / genes:.2f} CPU ms per gene, Kenward-Roger {1e3 * tests / genes:.2f}; "
        f"wall {wall[1]:.2f} s in one thread, {wall[threads]:.2f} s in {threads}; "
        f"{pd.Series(fit.status).value_counts().to_dict()}",
        flush=True,
    )


def draw_nested(name: str, genes: int) -> fm.SummaryStatistics:
    """Cross-products of a study with subjects and cell types within them."""
    subjects, types, covariates, _, cells, _ = SIZES[name]
    fixed = "~ 0 + " + " + ".join([*covariates, "cell_type", "cell_type:condition"])
    groups = draw_groups(subjects, types, covariates, genes, cells)
    return fm.summary_statistics(groups, fixed, ["subject", "subject:cell_type"])


def measure_tests(genes: int) -> None:
    """Print what tests and intervals of all coefficients add to the fit, with the targets."""
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    for name, (subjects, types, _, cells, fixed) in ONE_COMPONENT.items():
        groups = draw_groups(subjects, types, ("log(libsize)",), genes, cells)
        stats = fm.summary_statistics(groups, fixed, ["subject"])
        print_tests(f"one component, {name}", stats, "spectral")
    few = max(genes // 10, 10)
    print_tests("nested, 25 x 12", draw_nested("25 x 12", genes), "nested")
    print_tests("nested, 259 x 29", draw_nested("259 x 29", few // 2), "nested")
    for levels, p, _ in DENSE[:3]:
        name = f"dense, {' + '.join(map(str, levels))} levels"
        print_tests(name, draw_dense(levels, p, 2 * few), "dense")
    numba.set_num_threads(threads)


def print_tests(name: str, stats: fm.SummaryStatistics, engine: str) -> None:
    """Print one line: a ratio to the fit, for one component also µs per test."""
    fit_time, fit = cpu_seconds(fm.fit_lmm, stats, engine=engine)
    times = {}
    for ddf in ("kenward-roger", "satterthwaite", "kenward-roger-2"):
        times[ddf], table = cpu_seconds(fm.contrast_tests, fit, ddf=ddf)
    each = {ddf: 1e6 * cpu / table.df.size for ddf, cpu in times.items()}
    second = times.pop("kenward-roger-2") / fit_time
    ratio = sum(times.values()) / fit_time
    said = f"{ratio:.2f} of the fit's CPU time the first two, {second:.2f} the last"
    said += "; target: 1.5 µs" if engine == "spectral" else " (target: below 1)"
    print(
        f"tests and intervals, {name} (p = {len(stats.coefficients)}), {stats.n_genes} genes: "
        + ", ".join(f"{ddf} {cost:.2f} µs" for ddf, cost in each.items())
        + f" per gene and coefficient; {said}",
        flush=True,
    )


def measure(name: str, genes: int | None) -> None:
    """Print the figures of one size."""
    *_, study_genes, _, dense_genes = SIZES[name]
    genes = genes or study_genes

    def tests(fit: fm.LMMFit) -> fm.TestTable:
        return fm.contrast_tests(fit, "condition")

    few, stats = draw_nested(name, max(dense_genes, 2)), draw_nested(name, genes)
    nested = fm.fit_lmm(few)
    tests(nested)
    cpu = time.process_time()
    fit_seconds, fit = seconds(fm.fit_lmm, stats)
    cpu = time.process_time() - cpu
    test_seconds, table = seconds(tests, fit)
    print(
        f"{name} (p = {len(stats.coefficients)}, q = {len(stats.Z_levels)}), {genes} genes: "
        f"fit {fit_seconds:.1f} s ({1e3 * fit_seconds / genes:.2f} ms per gene, {cpu:.1f} CPU s, "
        f"{fit.n_iter.mean():.1f} iterations), Kenward-Roger of {len(table.contrasts)} contrasts "
        f"{test_seconds:.1f} s; "
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
