"""The steps that are timed, each in a process of its own.

They are started as `python steps.py NAME '{"argument": ...}'`. A step is a function that prepares
itself and returns its calls by name. The process then reads names from its standard input, one a
line, makes the call, and answers with a line of JSON: wall and CPU seconds, peak memory during the
call, memory before it. What a call returns as a dictionary is added to the answer; its
`not_counted` (wall) and `not_counted_cpu` seconds are subtracted.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import zarr
from engines import draw_groups
from scipy import sparse

import flashmm as fm
from flashmm.benchmark.mixedlm import choose_genes
from flashmm.cells.counts import read_genes
from flashmm.inference.ddf import row_tests
from flashmm.kernels.negative_binomial import draw_block
from flashmm.simulate.counts import draw_blocks
from flashmm.simulate.plan import BLOCK_CELLS, make_plan

Calls = dict[str, Callable[[], Any]]

BY = ["subject", "cell_type", "condition"]
FIXED = "~ 0 + log(libsize) + cell_type + cell_type:condition"
FIXED_R = "~ 0 + log_libsize + cell_type + cell_type:condition"
CHUNK_BYTES = 2**24

# --- cells ----------------------------------------------------------------------------------------


def reference_cells(rate: float, n_genes: int = 2_000, n_cells: int = 2_000) -> ad.AnnData:
    """Cells with the sparsity of droplet data: log-normal means around `rate` and library sizes."""
    rng = np.random.default_rng(0)
    mean = rate * rng.lognormal(-(1.5**2) / 2, 1.5, n_genes)
    size = rng.uniform(0.5, 2.0, n_genes)
    mu = mean * rng.lognormal(0.0, 0.5, (n_cells, 1))
    counts = rng.negative_binomial(size, size / (size + mu)).astype(np.float32)
    return ad.AnnData(sparse.csr_matrix(counts))


def simulate_cells(
    path: str,
    n_cells: int,
    n_genes: int,
    n_subjects: int,
    n_cell_types: int,
    rate: float = 0.04,
    seed: int = 1,
) -> Calls:
    """Simulate a gzip file of cells in compressed sparse rows."""
    spec = fm.SimulationSpec(
        reference=reference_cells(rate),
        n_genes=n_genes,
        n_cells=n_cells,
        n_subjects=n_subjects,
        n_cell_types=n_cell_types,
        n_de_genes=n_genes // 20,
        subject_cell_type_variance=0.05,
    )

    def call() -> dict[str, Any]:
        sim = fm.simulate_counts(spec, seed=seed, path=path, progress=False)
        sim.adata.file.close()
        with h5py.File(path) as file:
            stored = len(file["X/data"])
        return {"stored": stored, "file_mb": Path(path).stat().st_size / 1e6}

    return {"": call}


def store(source: str, path: str, layout: str, compression: str | None) -> Calls:
    """Write the cells of a file in another layout."""

    def call() -> None:
        adata = ad.read_h5ad(source)
        turn = {"CSR": sparse.csr_matrix, "CSC": sparse.csc_matrix, "dense": lambda x: x.toarray()}
        adata.X = turn[layout](adata.X)
        if compression == "zarr":
            ad.settings.zarr_write_format = 3
            adata.write_zarr(path)
        elif compression in ("lz4", "zstd"):
            from hdf5plugin import FILTERS

            adata.write_h5ad(path, compression=FILTERS[compression])
        else:
            adata.write_h5ad(path, compression=compression)

    return {"": call}


def read_chunks(path: str) -> Calls:
    """Merely read the counts with h5py or zarr, chunk by chunk."""
    with suppress(ImportError):
        import hdf5plugin  # noqa: F401 - makes its filters known to h5py

    def call() -> None:
        stored = Path(path).is_dir()
        with nullcontext(zarr.open_group(path, mode="r")) if stored else h5py.File(path) as file:
            matrix = file["X"]
            parts = (
                [matrix]
                if isinstance(matrix, h5py.Dataset)
                else [matrix["data"], matrix["indices"]]
            )
            for array in parts:
                width = array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=int))
                rows = array.chunks[0] if array.chunks else max(1, CHUNK_BYTES // width)
                for start in range(0, array.shape[0], rows):
                    array[start : start + rows]

    return {"": call}


def summarise(path: str) -> Calls:
    """Sum the cells by group."""

    def call() -> dict[str, Any]:
        groups = fm.summarise(path, BY, "log(libsize)", progress=False)
        sums = groups.gene_sums().values()
        return {"groups": len(groups.obs), "groups_mb": sum(each.nbytes for each in sums) / 1e6}

    return {"": call}


def whole_path(path: str, random: list[str]) -> Calls:
    """From a file of cells to the table of tests: each part, as a later one needs it."""
    made: dict[str, Any] = {}

    def summarise() -> None:
        made["groups"] = fm.summarise(path, BY, "log(libsize)", progress=False)

    def fit() -> dict[str, Any]:
        made["fit"] = fm.fit_lmm(fm.summary_statistics(made["groups"], FIXED, random))
        return {"genes": made["fit"].n_genes, "p": len(made["fit"].coefficients)}

    def test() -> None:
        fm.contrast_tests(made["fit"], "condition").to_frame()

    def everything() -> None:
        summarise(), fit(), test()

    return {"summarise": summarise, "fit": fit, "test": test, "all": everything}


# --- draws ----------------------------------------------------------------------------------------


def numpy_draws(mean: float, size: float) -> Calls:
    """Draw a million counts by numpy, one mean and size for all."""
    rng, p = np.random.default_rng(1), size / (size + mean)
    return {"": lambda: rng.negative_binomial(size, p, 1_000_000)}


def our_draws(mean: float, size: float, n_cells: int = 5_120, n_genes: int = 20_000) -> Calls:
    """Draw counts of cells that differ: the kernel, or all of `simulate_counts` but writing."""
    spec = fm.SimulationSpec(n_genes=n_genes, n_cells=n_cells, n_de_genes=n_genes // 20)
    plan = make_plan(spec, seed=1)
    rise = np.exp(plan.offset).mean() * np.exp(spec.subject_variance / 2)
    plan.var["mean"], plan.var["dispersion"] = mean / rise, size
    rng = np.random.default_rng(1)
    log_mean, sizes = np.full((1, n_genes), np.log(mean)), np.full(n_genes, size)
    level = np.zeros(BLOCK_CELLS, np.int64)

    def draw(threads: int) -> dict[str, Any]:
        with ThreadPoolExecutor(threads) as pool:
            for _ in draw_blocks(plan, pool, 16, progress=False):
                pass
        return {"draws": n_cells * n_genes}

    def kernel() -> dict[str, Any]:
        draw_block(rng, log_mean, sizes, level)
        return {"draws": len(level) * n_genes}

    return {"kernel": kernel, "1 thread": lambda: draw(1), "2 threads": lambda: draw(2)}


# --- models ---------------------------------------------------------------------------------------


def multiply(n: int = 1_000) -> Calls:
    """Multiply two matrices by numpy on one core: a yardstick of the machine."""
    left, right = np.random.default_rng(0).normal(size=(2, n, n))
    return {"": lambda: left @ right}


def drawn_statistics(
    n_subjects: int,
    n_cell_types: int,
    covariates: list[str],
    n_genes: int,
    n_cells: int,
    random: list[str],
    most_drawn: int = 1_000,
    fixed: str | None = None,
) -> fm.SummaryStatistics:
    """Statistics of a study, drawn from the model; beyond `most_drawn` genes they repeat.

    The engines share nothing between genes that happen to be equal, so that repeating them takes
    nothing from the work, while groups x genes would take more memory than the fit does.
    """
    groups = draw_groups(
        n_subjects, n_cell_types, tuple(covariates), min(n_genes, most_drawn), n_cells
    )
    full = "~ 0 + " + " + ".join([*covariates, "cell_type", "cell_type:condition"])
    return repeated(fm.summary_statistics(groups, fixed or full, random), n_genes)


def repeated(few: fm.SummaryStatistics, n_genes: int) -> fm.SummaryStatistics:
    """The same statistics over and over, for so many genes."""
    place = np.resize(np.arange(few.n_genes), n_genes)
    return dataclasses.replace(
        few,
        YtX=few.YtX[place],
        yty=few.yty[place],
        products_YtZ=few.YtZ[place],
        genes=pd.Index([f"gene{number}" for number in range(n_genes)]),
    )


def model(contrasts: str | None = "condition", **size: Any) -> Calls:
    """Fit drawn statistics; test contrasts of the fit."""
    stats = drawn_statistics(**size)
    made: dict[str, Any] = {}

    def fit() -> dict[str, Any]:
        made["fit"] = fit = fm.fit_lmm(stats)
        status = pd.Series(fit.status).value_counts().to_dict()
        return {"p": len(fit.coefficients), "q": len(stats.Z_levels), "status": status}

    def test(ddf: str) -> dict[str, Any]:
        return {"contrasts": len(fm.contrast_tests(made["fit"], contrasts, ddf=ddf).contrasts)}

    def no_tails() -> None:
        fit()
        _ = made["fit"].cov
        for ddf in ("kenward-roger", "satterthwaite"):
            row_tests(made["fit"], np.eye(len(stats.coefficients)), ddf)

    def no_table() -> None:
        fit()
        row_tests(made["fit"], np.eye(len(stats.coefficients)), "kenward-roger")

    def every() -> None:
        fit()
        test("kenward-roger")

    return {
        "fit": fit,
        "kenward-roger": lambda: test("kenward-roger"),
        "kenward-roger-2": lambda: test("kenward-roger-2"),
        "satterthwaite": lambda: test("satterthwaite"),
        "all": every,
        "all without tails": no_tails,
        "all without table": no_table,
    }


def guides(n_guides: int, n_batches: int, n_genes: int, most_drawn: int = 200) -> Calls:
    """Fit and test guides of a screen against one reference; genes repeat as above."""
    rng, n_groups = np.random.default_rng(0), n_guides * n_batches
    guide, batch = np.divmod(np.arange(n_groups), n_batches)
    n = np.where(guide == 0, 200, rng.integers(2, 12, n_groups))
    effects = 0.3 * rng.normal(size=(n_batches, min(n_genes, most_drawn)))
    mean = effects[batch] + rng.normal(size=(n_groups, effects.shape[1])) / np.sqrt(n)[:, None]
    left = rng.chisquare(np.maximum(n - 1, 1)[:, None], mean.shape)
    groups = fm.GroupStatistics(
        obs=pd.DataFrame(
            {
                "guide": pd.Categorical([f"guide{i:04d}" for i in guide]),
                "batch": pd.Categorical([f"batch{i:02d}" for i in batch]),
                "n_cells": n,
            }
        ),
        genes=pd.Index([f"gene{j}" for j in range(mean.shape[1])]),
        sum=mean * n[:, None],
        sumsq=mean**2 * n[:, None] + left,
        covariate_sums={},
        counts=None,
        by=("guide", "batch"),
        covariates=(),
        transform="none",
        provenance={},
    )
    stats = repeated(fm.summary_statistics(groups, "~ guide", ["batch"]), n_genes)

    def call() -> dict[str, Any]:
        tests = fm.contrast_tests(fm.fit_lmm(stats), "guide", ddf="kenward-roger-2")
        return {"contrasts": len(tests.contrasts)}

    return {"": call}


def bayes(genes: int, subjects: int = 25, types: int = 1, paired: bool = False) -> Calls:
    """Tests of Gaussian groups; the fit is made before."""
    size = {"n_genes": genes, "n_subjects": subjects, "n_cell_types": types}
    cells = 100 * types * subjects * (2 if paired else 1)
    spec = fm.SimulationSpec(
        distribution="gaussian", n_cells=cells, nested=not paired, ratio_spread=0.8, **size
    )
    groups = fm.simulate_gaussian_groups(spec, seed=1).groups
    fixed = "~ condition" if types == 1 else "~ 0 + cell_type + cell_type:condition"
    random = ["subject", "subject:condition"] if paired else ["subject"]
    fit = fm.fit_lmm(fm.summary_statistics(groups, fixed, random))
    contrasts = "condition" if types == 1 else None

    def test(ddf: str) -> dict[str, Any]:
        return {"contrasts": len(fm.contrast_tests(fit, contrasts, ddf=ddf).contrasts)}

    return {
        "kenward-roger": lambda: test("kenward-roger"),
        "empirical-bayes": lambda: test("empirical-bayes"),
    }


# --- peers ----------------------------------------------------------------------------------------


def spread_genes(path: str, n: int) -> list[str]:
    """Genes of a file, spread over the range of expression."""
    with h5py.File(path) as file:
        var = ad.io.read_elem(file["var"])
    return choose_genes(var["mean"], n, seed=1)


def mixedlm(path: str, n_genes: int, random: list[str]) -> Calls:
    """Fit statsmodels' MixedLM, gene by gene; seconds are those of the optimisers, per gene."""
    genes = spread_genes(path, n_genes)

    def call() -> dict[str, Any]:
        begin = time.perf_counter()
        fits = fm.fit_mixedlm(path, genes, FIXED, random).fits
        elapsed = time.perf_counter() - begin
        return {"not_counted": elapsed - fits["seconds"].sum() / len(genes)}

    return {"": call}


def export(path: str, table: str, n_genes: int) -> Calls:
    """Write some genes of all cells as the table that `peers.R` reads."""

    def call() -> None:
        obs, values = read_genes(path, spread_genes(path, n_genes))
        cells = obs[BY].assign(log_libsize=np.log(obs["libsize"]))
        for number, y in enumerate(values.T):
            cells[f"gene_{number}"] = y
        cells.to_csv(table, index=False)

    return {"": call}


def pseudobulk(path: str, table: str) -> Calls:
    """Write the sums of counts of each group as the table that `peers.R` reads."""

    def call() -> None:
        groups = fm.summarise(path, BY, progress=False)
        genes = [f"gene_{number}" for number in range(groups.n_genes)]
        counts = pd.DataFrame(groups.counts, groups.obs.index, genes)
        groups.obs[BY].join(counts).to_csv(table, index=False)

    return {"": call}


def pydeseq2(path: str) -> Calls:
    """Test one cell type by pydeseq2 on the sums of counts of each subject."""
    from pydeseq2.dds import DeseqDataSet
    from pydeseq2.ds import DeseqStats

    groups = fm.summarise(path, BY, progress=False)
    rows = (groups.obs["cell_type"] == groups.obs["cell_type"].iloc[0]).to_numpy()
    counts = pd.DataFrame(groups.counts[rows], groups.obs.index[rows], groups.genes).astype(int)
    counts = counts.loc[:, counts.sum() > 0]
    metadata = groups.obs.loc[rows, ["condition"]].astype(str)

    def call() -> dict[str, Any]:
        study = DeseqDataSet(counts=counts, metadata=metadata, design="~condition", quiet=True)
        study.deseq2()
        DeseqStats(study, contrast=["condition", "B", "A"], quiet=True).summary()
        return {"genes": counts.shape[1]}

    return {"": call}


# --- the process ----------------------------------------------------------------------------------

STEPS: dict[str, Callable[..., Calls]] = {
    each.__name__: each
    for each in (
        simulate_cells, store, read_chunks, summarise, whole_path, numpy_draws, our_draws, multiply,
        model, guides, bayes, mixedlm, export, pseudobulk, pydeseq2,
    )
}  # fmt: skip


def memory_mb(field: str) -> float:
    """Resident memory of this process, MB: `VmRSS` now, `VmHWM` at its peak."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # no such file on this system: the peak since the start is all there is
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6


def forget_peak() -> None:
    """Let the peak begin anew, so that what prepared the call is not counted."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def timed(call: Callable[[], Any]) -> dict[str, Any]:
    """Make a call; seconds, memory, and what it returned."""
    forget_peak()
    start_mb, cpu, begin = memory_mb("VmRSS"), time.process_time(), time.perf_counter()
    returned = call()
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    more = returned if isinstance(returned, dict) else {}
    return {
        "seconds": seconds - more.pop("not_counted", 0.0),
        "cpu": cpu - more.pop("not_counted_cpu", 0.0),
        "peak_mb": memory_mb("VmHWM"),
        "start_mb": start_mb,
    } | more


def serve(calls: Calls) -> None:
    """Answer the names that arrive."""
    print("{}", flush=True)
    for line in sys.stdin:
        print(json.dumps(timed(calls[line.strip()])), flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(serve(STEPS[sys.argv[1]](**json.loads(sys.argv[2]))))
