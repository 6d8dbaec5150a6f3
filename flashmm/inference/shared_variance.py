"""Advice on effects within kinds of cells that share one variance.

The residual variance of a gene and its variance between subjects follow its mean, which differs by
cell type. One variance for all types is too small for those that express the gene: on real counts
with labels dealt at random, its tests reject 10 % at 0.05 and 1.5 % at 0.001. Nothing is said of
levels, such as visits, whose variances the cells show to be almost equal (`DIFFER`), where the
model has a random term for them.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from flashmm.cells.groups import GroupStatistics
from flashmm.design.contrasts import Contrast
from flashmm.design.differences import is_factor
from flashmm.design.records import GroupDesign
from flashmm.inference.between_subjects import SubjectDesign
from flashmm.inference.model_fit import ModelFit
from flashmm.inference.random_space import Block
from flashmm.inference.subjects import require_groups
from flashmm.options import note

# Ratio of the largest to the smallest variance of the levels, in the median gene, from which they
# differ; degrees of freedom that a level's variance has to have for that, and genes looked at.
DIFFER = 1.5
ENOUGH_DF = 100
LOOKED_AT = 500


def one_variance(
    fit: ModelFit, contrasts: tuple[Contrast, ...], design: SubjectDesign
) -> tuple[str, ...]:
    """Say in which columns effects are asked by level, with one variance for all levels."""
    groups, model = require_groups(fit.stats, "Advice")
    obs = groups.obs
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
    ratios = {kind: _variance_ratio(groups, kind) for kind in found}
    return tuple(
        note(_shared(kind, sorted(beside), subject, ratios[kind]))
        for kind, beside in found.items()
        if not (ratios[kind] < DIFFER and _is_grouping(kind, model))
    )


def _is_grouping(column: str, model: GroupDesign) -> bool:
    """Whether a random term tells the levels of a column apart, such as subject:visit."""
    return any(column in component.columns for component in model.random)


def _variance_ratio(groups: GroupStatistics, column: str) -> float:
    """Largest over smallest variance within groups of the levels of a column, in the median gene.

    NaN where there are not two levels with enough cells to say.
    """
    genes = np.linspace(0, groups.n_genes - 1, min(groups.n_genes, LOOKED_AT)).astype(int)
    n = groups.moment(0, 0)
    # Σ (y - mean of the group)²
    squares = groups.sumsq[:, genes] - groups.sum[:, genes] ** 2 / n[:, None]
    codes, levels = pd.factorize(groups.obs[column])
    total = np.zeros((len(levels), len(genes)))
    np.add.at(total, codes, np.maximum(squares, 0.0))
    df = np.bincount(codes, n - 1.0, minlength=len(levels))
    known = df >= ENOUGH_DF
    if known.sum() < 2:
        return np.nan
    variance = total[known] / df[known, None]
    variance = variance[:, variance.max(0) > 0]
    with np.errstate(divide="ignore"):
        return float(np.median(variance.max(0) / variance.min(0))) if variance.size else np.nan


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


def _shared(kind: str, tested: list[str], subject: str, ratio: float) -> str:
    here = f" (here {ratio:.1f} times in the median gene)" if np.isfinite(ratio) else ""
    return (
        f"The effect of {' and '.join(map(repr, tested))} is asked within levels of {kind!r} by a "
        "model with one variance for all of them. Where variances differ, as those of cell types "
        f"do{here}, it rejects too often, whatever the degrees of freedom: on real counts twice "
        f"too often at 0.05 and 15 times at 0.001. Fit a model for each level (within={kind!r} of "
        f"de, fit_within), or, for differences between levels, the random term '0 + {kind} || "
        f"{subject}'."
    )
