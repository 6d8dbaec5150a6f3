"""Pages for tests: what a run of the workflow leaves, made in memory and small."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from flashmm.benchmark import evaluate
from flashmm.cells.summary import summarise
from flashmm.inference.testing import contrast_tests
from flashmm.io.fits import write_fit
from flashmm.io.groups import write_groups
from flashmm.io.tables import write_table
from flashmm.options import FlashmmWarning
from flashmm.report import Inputs
from flashmm.within import fit_within

HOSTILE = "</script><img src=x onerror=alert(1)>"
#: names that have ended pages or figures elsewhere
AWKWARD = ("<b>bold</b>", r"$\foo$", "__proto__", "=1+1", "βγ 遺伝子")
METHODS = ("careful", "bold </script>", r"lost $\foo$")
CONFIG: dict[str, Any] = {
    "seed": 1,
    "test": "condition",
    "report": {"title": "A <title>", "top_genes": 60, "fdr": 0.05},
}


def counts(n: int = 240) -> ad.AnnData:
    """Six subjects, two types, two conditions; genes of hostile names, one without counts."""
    rng = np.random.default_rng(5)
    obs = pd.DataFrame(
        {
            "subject": [f"S{i % 6}" for i in range(n)],
            "condition": ["ctrl" if i % 6 < 3 else "treated" for i in range(n)],
            "cell_type": ["a" if (i // 6) % 2 else "b <c>, d+" for i in range(n)],
        },
        index=[f"cell{i}" for i in range(n)],
    )
    values = rng.poisson(2, size=(n, 40)).astype(np.float32)
    values[:, 1] = 0
    names = [HOSTILE, "zero", *AWKWARD]
    names += [f"gene{i}" for i in range(len(names), 40)]
    return ad.AnnData(sparse.csr_matrix(values), obs=obs, var=pd.DataFrame(index=names))


def typed_inputs(folder: Path) -> Inputs:
    """A run of models per cell type on real counts; the awkward genes differ between conditions."""
    cells = counts()
    changed = cells.X.tolil()
    treated = np.flatnonzero(cells.obs["condition"] == "treated")
    for j in range(2, 2 + len(AWKWARD)):
        changed[treated, j] = changed[treated, j].toarray() * 4 + 3
    cells.X = changed.tocsr().astype(np.float32)
    groups = summarise(cells, ["subject", "cell_type", "condition"])
    write_groups(groups, folder / "groups.h5ad")
    with warnings.catch_warnings():
        # what is noted of six subjects is not the question here
        warnings.simplefilter("ignore", FlashmmWarning)
        fits = fit_within(groups, "cell_type", "~ condition", ["subject"], size_factors="total")
        tests = contrast_tests(fits, "condition", "kenward-roger").to_frame()
    write_fit(fits, folder / "fit.h5ad", folder / "groups.h5ad")
    write_table(tests, folder / "tests.parquet")
    metrics = evaluate(tests).metrics.assign(dataset="mine", method="within")
    write_table(metrics, folder / "metrics.parquet")
    (folder / "notes.txt").write_text("")
    measured = {"seconds": 0.5, "genes": 40, "peak_memory_mib": 100.0}
    (folder / "measured.json").write_text(json.dumps(measured))
    model = {
        "transform": "log2p1",
        "formulas": {"fixed": "~ condition", "random": ["subject"]},
        "within": "cell_type",
        "size_factors": {"method": "total", "within": "cell_type"},
        "options": {"method": "REML", "nonnegative": True},
        "ddf": None,
    }
    files = {"groups": "groups.h5ad", "fit": "fit.h5ad", "tests": "tests.parquet"}
    files |= {"notes": "notes.txt", "measured": "measured.json"}
    run = {"dataset": "mine", "scenario": "mine", "replicate": None, "counts": ["mine.h5ad"]}
    run |= {"method": "within", "model": model}
    return Inputs.of(
        folder / "figures",
        runs=[run | {name: str(folder / file) for name, file in files.items()}],
        tables={"metrics": str(folder / "metrics.parquet")},
        scenarios={},
        config=CONFIG,
    )


# ----------------------------------------------------------------------------------------------
# A benchmark


def benchmark_inputs(folder: Path, replicates: int = 3) -> Inputs:
    """Evaluations of three methods on two scenarios: one keeps its level, one does not, one fails.

    The tables are those of a run; there are no fits, so that only sections on methods have content.
    """
    rng = np.random.default_rng(7)
    parts: dict[str, list[pd.DataFrame]] = {}
    costs, status = [], []
    for scenario in ("null", "effects"):
        for replicate in range(1, replicates + 1):
            named = {"dataset": f"{scenario}-{replicate}", "scenario": scenario}
            named["replicate"] = replicate
            for method in METHODS:
                failed = method == METHODS[2]
                status.append(named | {"method": method} | _status(failed))
                if failed:
                    continue
                found = _evaluation(rng, scenario == "effects", method == METHODS[0])
                for name, table in found.items():
                    labels = pd.DataFrame([named | {"method": method}] * len(table))
                    table = table.reset_index(drop=True)
                    parts.setdefault(name, []).append(pd.concat([labels, table], axis=1))
                costs += [named | row for row in _costs(method)]
            costs.append(named | _cost("", "summarise", 1.0, 200))
    tables = {name: pd.concat(found, ignore_index=True) for name, found in parts.items()}
    tables |= {"costs": pd.DataFrame(costs), "status": pd.DataFrame(status)}
    for name, table in tables.items():
        write_table(table, folder / f"{name}.parquet")
    return Inputs.of(
        folder / "figures",
        runs=[],
        tables={name: str(folder / f"{name}.parquet") for name in tables},
        scenarios={"null": {}, "effects": {}},
        config=CONFIG | {"benchmark": {"replicates": replicates}},
    )


def _evaluation(rng, effects: bool, careful: bool) -> dict[str, pd.DataFrame]:
    p = rng.random(600) if careful else rng.random(600) ** 1.8
    truth = pd.DataFrame({"gene": [f"g{i}" for i in range(60 * effects)]})
    p[: len(truth)] **= 6
    table = pd.DataFrame({"gene": [f"g{i}" for i in range(600)], "contrast": "a", "p_value": p})
    found = evaluate(table, truth.assign(cell_type="a"))
    return {"metrics": found.metrics, **found.curves}


def _status(failed: bool) -> dict[str, Any]:
    if not failed:
        return {"status": "ok", "message": "", "log": []}
    log = [f"line {i}" for i in range(30)] + ["Error: <b>no</b> such package"]
    return {"status": "failed", "message": "exit code 1 <b>", "log": log}


def _costs(method: str) -> list[dict[str, Any]]:
    if method == METHODS[0]:
        return [_cost(method, "fit", 2.0, 300), _cost(method, "test", 1.0, 250)]
    return [_cost(method, "method", 5.0, 900, genes=100)]


def _cost(method: str, step: str, seconds: float, peak: float, genes: int = 600) -> dict[str, Any]:
    cost = {"method": method, "step": step, "seconds": seconds, "cpu_seconds": seconds}
    cost |= {"peak_memory_mib": peak, "baseline_memory_mib": 100.0}
    return cost | {"genes": genes, "genes_total": 600}
