"""Tables of tests, made up or drawn, and their truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

TYPES = ("B cells", "T cells", "CD4, T [naive]")
CONTRASTS = tuple(f"cell_type[{name}]:condition[T.stim]" for name in TYPES)


def table_of(p, contrast=CONTRASTS[0], **columns) -> pd.DataFrame:
    """Tests of genes g0, g1, ... in one contrast."""
    genes = [f"g{i}" for i in range(len(p))]
    return pd.DataFrame({"gene": genes, "contrast": contrast, "p_value": p, **columns})


def truth_of(genes, cell_type=TYPES[0]) -> pd.DataFrame:
    return pd.DataFrame({"gene": list(genes), "cell_type": cell_type, "log_fc": 1.0})


def random_tests(seed=0, genes=60, effect=2.5):
    """Several contrasts with a tenth of the pairs shifted: (table, truth)."""
    rng = np.random.default_rng(seed)
    names = [f"g{i}" for i in range(genes)]
    pairs = [(g, t) for t in TYPES for g in rng.choice(names, genes // 10, replace=False)]
    truth = pd.DataFrame(pairs, columns=["gene", "cell_type"]).assign(log_fc=1.0)
    tables = []
    for contrast, name in zip(CONTRASTS, TYPES, strict=True):
        true = np.isin(names, truth.gene[truth.cell_type == name])
        z = rng.standard_normal(genes) + effect * true
        tables.append(table_of(2 * stats.norm.sf(np.abs(z)), contrast))
    return pd.concat(tables, ignore_index=True), truth
