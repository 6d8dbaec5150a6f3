"""Groups with awkward names and types, and cells, for tests of files."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd

from flashmm.cells.groups import GroupStatistics, moment_names

KEYS = {
    "subject": pd.Categorical(["S2", "S10", "S2"], ["S2", "S10"]),
    "batch": pd.Categorical([7, 1, 1], [7, 1], ordered=True),
    "site/lab": pd.Categorical(["a/b", "c", "c"]),
    "age": [47, 31, 31],
    "weight": [70.5, 81.25, 81.25],
    "treated": [True, False, True],
}


def make_groups(
    covariates: tuple[str, ...] = ("log(libsize / 10000)", "x"), counts: bool = True
) -> GroupStatistics:
    rng = np.random.default_rng(0)
    moments = {name: rng.normal(size=3) for name in moment_names(covariates)}
    obs = pd.DataFrame(KEYS | moments | {"n_cells": [3, 2**40, 1]})
    obs.index = pd.Index(["S2|7|a/b", "S10|1|c", "S2|1|c"])
    return GroupStatistics(
        obs=obs,
        genes=pd.Index(["HLA-A", "g/2", "MT-CO1", "x y"]),
        sum=rng.normal(size=(3, 4)),
        sumsq=rng.random((3, 4)) * 1e300,
        covariate_sums={x: rng.normal(size=(3, 4)) for x in covariates},
        counts=rng.poisson(5, (3, 4)).astype(float) if counts else None,
        by=tuple(KEYS),
        covariates=covariates,
        transform="log2p1",
        provenance={"flashmm": "1", "inputs": [{"file": "a.h5ad", "layer": None, "n_cells": 3}]},
        notes=("Levels differ.", "Two: 'α'.") if counts else (),
        expressing=rng.integers(0, 4, (3, 4)).astype(float) if counts else None,
    )


def assert_equal(a: GroupStatistics, b: GroupStatistics) -> None:
    pd.testing.assert_frame_equal(a.obs, b.obs, check_exact=True)
    pd.testing.assert_index_equal(a.genes, b.genes)
    assert list(a.gene_sums()) == list(b.gene_sums())
    for name, values in a.gene_sums().items():
        np.testing.assert_array_equal(values, b.gene_sums()[name], strict=True)
    for field in ("by", "covariates", "transform", "provenance", "notes"):
        assert getattr(a, field) == getattr(b, field), field


BY = ["subject", "condition"]


def cells(seed: int = 0) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame(
        {
            "subject": [f"S{i % 6}" for i in range(240)],
            "condition": ["a" if i % 6 < 3 else "b" for i in range(240)],
            "x": rng.normal(size=240),
        },
        index=[f"c{seed}_{i}" for i in range(240)],
    )
    counts = rng.poisson(np.exp(rng.normal(size=6))[np.arange(240) % 6, None], (240, 30))
    var = pd.DataFrame(index=[f"g{j}" for j in range(30)])
    return ad.AnnData(counts.astype(float), obs=obs, var=var)
