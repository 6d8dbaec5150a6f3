"""Gaussian cells of subjects, and the same cells as groups."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

import flashmm as fm
from flashmm.cells.groups import GroupStatistics

BY = ["subject", "batch", "kind", "condition", "dose"]


class Cells(NamedTuple):
    """Cells, their values (cells, genes), and the sums of their groups."""

    obs: pd.DataFrame
    Y: np.ndarray
    groups: GroupStatistics


def simulate(
    seed=0, subjects=8, treated=None, kinds=3, genes=5, cells=6, sd=(0.6, 0.3), kinds_of=None
) -> Cells:
    """Subjects with an effect of their own and one by kind of cell, without any other effect.

    `kinds_of` maps a kind to the subjects that have it.
    """
    rng = np.random.default_rng(seed)
    treated = subjects // 2 if treated is None else treated
    rows = []
    for s in range(subjects):
        for t in range(kinds):
            if s in (kinds_of or {}).get(t, range(subjects)):
                rows += [(s, t)] * int(rng.integers(2, 2 * cells))
    s, t = np.array(rows).T
    obs = pd.DataFrame(
        {
            "subject": pd.Categorical([f"S{i:02d}" for i in s]),
            "batch": pd.Categorical([f"B{i % 2}" for i in s]),
            "kind": pd.Categorical([f"K{i}" for i in t]),
            "condition": pd.Categorical(np.where(s < treated, "stim", "ctrl")),
            "dose": (s % 4).astype(float),
            "x": rng.normal(size=len(s)),
        }
    )
    Y = rng.normal(size=(len(s), genes)) + 0.3 * obs["x"].to_numpy()[:, None]
    Y += (rng.normal(size=(subjects, genes)) * sd[0])[s]
    Y += (rng.normal(size=(subjects * kinds, genes)) * sd[1])[s * kinds + t]
    return Cells(obs, Y, group(obs, Y))


def group(obs: pd.DataFrame, Y: np.ndarray) -> GroupStatistics:
    """Sums over the cells of each combination of `BY`."""
    by = obs.groupby(BY, observed=True, sort=True)
    code, x = by.ngroup().to_numpy(), obs["x"].to_numpy()
    rows = np.eye(code.max() + 1)[code].T
    table = by.size().reset_index(name="n_cells")
    table["sum:x"], table["sum:x*x"] = rows @ x, rows @ x**2
    table.index = ["|".join(map(str, row)) for row in table[BY].to_numpy()]
    return GroupStatistics(
        obs=table,
        genes=pd.Index([f"g{i}" for i in range(Y.shape[1])]),
        sum=rows @ Y,
        sumsq=rows @ Y**2,
        covariate_sums={"x": rows @ (x[:, None] * Y)},
        counts=None,
        by=tuple(BY),
        covariates=("x",),
        transform="identity",
        provenance={},
    )


def advised(random: Sequence[str]) -> AbstractContextManager[Any]:
    """Expects the advice on an effect asked within kinds, where no random term holds the kind."""
    if "subject:kind" in random:
        return nullcontext()
    return pytest.warns(fm.FlashmmWarning, match="asked within levels of 'kind'")
