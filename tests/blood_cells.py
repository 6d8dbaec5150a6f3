"""Counts that are simulated in the likeness of a real experiment."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

TYPES = ["B cells", "CD14+ Monocytes", "CD4 T cells", "CD8 T cells", "FCGR3A+ Monocytes"]


def blood_cells(n_cells: int = 1_000, n_genes: int = 400, seed: int = 5) -> ad.AnnData:
    """Unequal cells of 2 subjects, each in 2 conditions, of 5 types; the last gene never varies."""
    rng = np.random.default_rng(seed)
    subject, condition = (rng.random((2, n_cells)) > [[0.6], [0.45]]).astype(int)
    kind = rng.choice(len(TYPES), n_cells, p=[0.2, 0.25, 0.25, 0.1, 0.2])
    depth = rng.lognormal(0, 0.5, n_cells)
    mean = np.exp(rng.uniform(-1, 2, n_genes) + rng.normal(0, 0.3, (len(TYPES), n_genes)))[kind]
    mean *= np.exp(rng.normal(0, 0.2, (2, n_genes))[subject] + 0.1 * condition[:, None])
    counts = rng.poisson(depth[:, None] * mean * rng.gamma(0.7, 1 / 0.7, mean.shape))
    counts[:, -1] = 1
    obs = pd.DataFrame(
        {
            "subject": pd.Categorical(np.array(["101", "107"])[subject]),
            "condition": pd.Categorical(np.array(["ctrl", "stim"])[condition]),
            "cell_type": pd.Categorical(np.array(TYPES)[kind]),
            "libsize": counts.sum(axis=1).astype(float),
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"gene{j}" for j in range(n_genes)])
    return ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=var)
