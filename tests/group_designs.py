"""Groups of cells made directly, without cells: the subjects, types and conditions are given."""

from __future__ import annotations

import numpy as np
import pandas as pd

import flashmm as fm


def groups_of(
    obs: pd.DataFrame, genes=4, seed=0, sd=(0.3, 0.0), cells=None, effect=None, residual=1.0
):
    """Gaussian groups with a subject variance and one of subject × cell type.

    Parameters
    ----------
    obs : DataFrame (groups, ...)
        With a column subject; the other columns define the groups too.
    genes, seed
        Number of genes and of the stream.
    sd : tuple of float
        Standard deviations of subjects and of groups.
    cells : (groups,) int array, optional
        Cells of each group; 20 to 80 at random by default.
    effect : (groups, genes) array, optional
        Added to the means.
    residual : float or (groups,) array
        Standard deviation of the cells of a group.
    """
    residual = np.broadcast_to(residual, len(obs))[:, None]
    rng = np.random.default_rng(seed)
    n = rng.integers(20, 80, len(obs)) if cells is None else np.asarray(cells)
    subject = pd.factorize(obs["subject"])[0]
    shape = (len(obs), genes)
    mean = sd[0] * rng.normal(size=(subject.max() + 1, genes))[subject]
    mean = (
        mean
        + sd[1] * rng.normal(size=shape)
        + rng.normal(size=shape) * residual / np.sqrt(n)[:, None]
    )
    mean += 0.0 if effect is None else effect
    inner = rng.chisquare(n[:, None] - 1, size=shape) * residual**2
    by = tuple(obs.columns)
    obs = obs.copy()
    for column in by:
        if not pd.api.types.is_numeric_dtype(obs[column]):
            obs[column] = pd.Categorical(obs[column])
    obs.index = pd.Index(obs.astype(str).agg("|".join, axis=1))
    obs["n_cells"] = n.astype(int)
    return fm.GroupStatistics(
        obs=obs,
        genes=pd.Index([f"g{j}" for j in range(genes)]),
        sum=n[:, None] * mean,
        sumsq=n[:, None] * mean**2 + inner,
        covariate_sums={},
        counts=None,
        by=by,
        covariates=(),
        transform="none",
        provenance={},
    )


def crossed(m, types=1, arms=("ctrl", "stim"), missing=(), paired=False):
    """Subjects (in arms by turns, or in all of them) × cell types, without the `missing` pairs."""
    rows = [
        {"subject": f"S{i:02d}", "cell_type": f"T{k}", "condition": arm}
        for i in range(m)
        for k in range(types)
        for arm in (arms if paired else [arms[i % len(arms)]])
        if (i, k) not in missing
    ]
    return pd.DataFrame(rows)


def fit_groups(groups, fixed, random=("subject",), **options):
    """Fit of a model to groups."""
    return fm.fit_lmm(fm.summary_statistics(groups, fixed, list(random)), **options)
