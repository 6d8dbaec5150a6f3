"""Advice on effects within kinds of cells that share one variance.

The residual variance of a gene and its variance between subjects follow its mean, which differs by
cell type. One variance for all types is too small for those that express the gene: on real counts
with labels dealt at random, its tests reject 10 % at 0.05 and 1.5 % at 0.001.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from flashmm.design.contrasts import Contrast
from flashmm.design.differences import is_factor
from flashmm.inference.between_subjects import SubjectDesign
from flashmm.inference.model_fit import ModelFit
from flashmm.inference.random_space import Block
from flashmm.inference.subjects import require_groups
from flashmm.options import note


def one_variance(
    fit: ModelFit, contrasts: tuple[Contrast, ...], design: SubjectDesign
) -> tuple[str, ...]:
    """Say in which columns effects are asked by level, with one variance for all levels."""
    obs = require_groups(fit.stats, "Advice")[0].obs
    kinds = [
        column
        for column in design.main.varying
        if is_factor(obs[column]) and not _own_variances(obs[column], design.blocks)
    ]
    found: dict[str, set[str]] = {}
    for contrast in contrasts if kinds else ():
        if design.of_groups(contrast.matrix):
            for kind, beside in _asked_within(fit, contrast, design, obs, kinds):
                found.setdefault(kind, set()).update(beside)
    subject = design.subjects.column
    return tuple(note(_shared(kind, sorted(beside), subject)) for kind, beside in found.items())


def _own_variances(values: pd.Series, blocks: tuple[Block, ...]) -> bool:
    """Whether each level of a column has a random term of its own, nonzero in its cells alone."""
    codes, levels = pd.factorize(values)
    own = [np.unique(codes[block.level >= 0]) for block in blocks]
    return {int(held[0]) for held in own if len(held) == 1} == set(range(len(levels)))


def _asked_within(
    fit: ModelFit, contrast: Contrast, design: SubjectDesign, obs: pd.DataFrame, kinds: list[str]
) -> list[tuple[str, set[str]]]:
    """Columns in one level of which a contrast of others is asked, or that stand beside them.

    Where cells of one level bear the contrast, it is asked within that level; else a column counts
    that stands in one coefficient with the tested one.
    """
    used = np.flatnonzero((contrast.matrix != 0).any(0))
    held = [fit.coefficient_columns[j] & set(obs.columns) for j in used]
    several = {c for columns in held for c in columns if obs[c].nunique() > 1}
    bearing = obs[design.main.support(contrast.matrix)]
    inside = [k for k in kinds if bearing[k].nunique() == 1]
    tested = {contrast.difference.column} if contrast.difference else several
    if inside:
        return [(k, tested - set(inside)) for k in inside if tested - set(inside)]
    beside = [
        (k, set().union(*(columns & several for columns in held if k in columns)) - {k})
        for k in kinds
        if contrast.difference is None or k != contrast.difference.column
    ]
    return [(kind, others) for kind, others in beside if others]


def _shared(kind: str, tested: list[str], subject: str) -> str:
    return (
        f"The effect of {' and '.join(map(repr, tested))} is asked within levels of {kind!r} by a "
        "model with one variance for all of them. Where variances differ, as those of cell types "
        "do, it rejects too often, whatever the degrees of freedom: on real counts twice too often "
        f"at 0.05 and 15 times at 0.001. Fit a model for each level (within={kind!r} of de, "
        f"fit_within), or, for differences between levels, the random term '0 + {kind} || "
        f"{subject}'."
    )
