"""Statistics of a model that is near to one whose statistics are there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import scipy.sparse as sp

from flashmm.design.centring import centred
from flashmm.design.columns import RandomComponent
from flashmm.design.products import cross, gram, layers, weighted
from flashmm.design.statistics import GroupSource, SummaryStatistics
from flashmm.kernels.random_covariance import find_pairs
from flashmm.options import InputError


def drop_component(stats: SummaryStatistics, name: str) -> SummaryStatistics:
    """Statistics of the same model without one of its random terms.

    Parameters
    ----------
    stats : SummaryStatistics
        Statistics with two random terms or more.
    name : str
        The term to leave out, one of `stats.components`.

    Returns
    -------
    SummaryStatistics
        With the columns of the other terms; nothing is computed. The covariance of a term goes with
        it. It has no formula, so that a fit
        of it cannot be written to a file.

    Raises
    ------
    InputError
        Where there is no such term, or no other.
    """
    if name not in stats.components:
        raise InputError(
            f"there is no random term {name!r}; the random terms are {list(stats.components)}."
        )
    dropped = _with_covariance(stats, name)
    if len(stats.components) == len(dropped):
        raise InputError(f"{name!r} is the only random term: without it, no mixed model is left.")
    rest = np.array([component not in dropped for component in stats.components])
    columns = np.flatnonzero(np.repeat(rest, stats.component_sizes))
    source, stored = stats.source, stats.products_YtZ
    if source is not None:
        random = tuple(c for c in source.design.random if c.name not in dropped)
        source = GroupSource(source.groups, replace(source.design, random=random))
    return replace(
        stats,
        ZtX=stats.ZtX[columns],
        ZtZ=stats.ZtZ[columns][:, columns],
        Z_sum=None if stats.Z_sum is None else stats.Z_sum[columns],
        component_sizes=tuple(np.array(stats.component_sizes)[rest].tolist()),
        components=tuple(c for c in stats.components if c not in dropped),
        Z_levels=stats.Z_levels[columns],
        products_YtZ=None if stored is None else stored[:, columns],
        source=source,
    )


def _with_covariance(stats: SummaryStatistics, name: str) -> set[str]:
    """Names of a random term and of the covariance that it has a part in."""
    position = stats.components.index(name)
    pairs = find_pairs(stats.component_sizes)
    return {name} | {stats.components[p.covariance] for p in pairs if position in p}


def replace_fixed(stats: SummaryStatistics, fixed: np.ndarray) -> SummaryStatistics:
    """Statistics of the same cells with other numbers in the fixed design.

    Parameters
    ----------
    stats : SummaryStatistics
        Statistics made from groups.
    fixed : (1 + m, groups, coefficients) array
        The design over groups, as `GroupDesign.fixed`; the coefficients keep their names.

    Returns
    -------
    SummaryStatistics
        Only columns that differ are multiplied with the genes. It has no formula.
    """
    groups, design = stats.require_source()
    columns, before = (centred(D, stats.centring) for D in (fixed, design.fixed))
    X, Z = list(columns), layers(design.random)
    changed = (columns != before).any((0, 1))
    YtX = stats.YtX.copy()
    YtX[:, changed] = cross(groups, columns[:, :, changed])
    XtX = weighted(groups, X, X)
    ones = np.ones((groups.n_groups, 1))
    return replace(
        stats,
        XtX=(XtX + XtX.T) / 2,
        YtX=YtX,
        ZtX=weighted(groups, Z, X),
        X_sum=weighted(groups, [ones], X)[0],
        source=GroupSource(groups, replace(design, fixed=fixed)),
    )


def subtract_means(stats: SummaryStatistics, means: np.ndarray) -> SummaryStatistics:
    """Statistics of y - μ, where μ = Σ_k means[k] x_k in the cells of a group.

    Parameters
    ----------
    stats : SummaryStatistics
        Statistics made from groups.
    means : (1 + m, groups, genes) array
        Coefficients of the stored covariates, the first of x_0 = 1.

    Returns
    -------
    SummaryStatistics
        Of the same model; the sums of the groups are new ones.
    """
    groups, design = stats.require_source()
    K = range(len(means))
    if stats.origin is not None:
        means = np.array(means)
        means[0] -= stats.origin  # the sums are of y - origin
    old = [groups.cross_sum(k) for k in K]
    # Σ x_k (y - μ) = S_k - Σ_l m_kl μ_l  and  Σ (y - μ)² = Σ y² - Σ_k μ_k (S_k + Σ x_k (y - μ))
    new = [old[k] - sum(groups.moment(k, j)[:, None] * means[j] for j in K) for k in K]
    sumsq = groups.sumsq - sum(means[k] * (old[k] + new[k]) for k in K)
    sums = groups.gene_sums() | {"sum": new[0], "sumsq": np.maximum(sumsq, 0.0)}
    sums |= {f"sum:{name}": new[k] for k, name in enumerate(groups.covariates, start=1)}
    groups = replace(groups.with_sums(stats.genes, sums), origin=None)
    yty = groups.sumsq.sum(axis=0, dtype=np.float64)
    YtX = cross(groups, centred(design.fixed, stats.centring))
    source = GroupSource(groups, design, stats.model)
    return replace(stats, source=source, YtX=YtX, yty=yty, products_YtZ=None, origin=None)


def leave_groups(stats: SummaryStatistics, left: np.ndarray) -> SummaryStatistics:
    """Statistics without the cells of some groups, in the same coefficients.

    Parameters
    ----------
    stats : SummaryStatistics
        Statistics made from groups.
    left : (groups,) bool array
        Groups to leave out.

    Returns
    -------
    SummaryStatistics
        Levels of random terms without a cell are dropped, columns of X that are zero now are kept.
        The gene sums of the groups are not copied: rows of the design are zero instead. It has no
        formula.
    """
    groups, design = stats.require_source()
    stay = sp.diags_array((~left).astype(np.float64))
    random = _without_rows(design.random, stay)
    fixed = np.where(left[:, None], 0.0, design.fixed)
    columns = centred(design.fixed, stats.centring)
    X, Z = list(np.where(left[:, None], 0.0, columns)), layers(random)
    ones = (~left).astype(np.float64)[:, None]
    XtX = weighted(groups, X, X)
    return replace(
        stats,
        XtX=(XtX + XtX.T) / 2,
        # what is left out is little, so it is taken away
        YtX=np.where(fixed.any((0, 1)), stats.YtX - cross(groups, columns, left), 0.0),
        ZtX=weighted(groups, Z, X),
        ZtZ=gram(weighted(groups, Z, Z)),
        yty=stats.yty - groups.sumsq[left].sum(axis=0, dtype=np.float64),
        n_cells=stats.n_cells - int(groups.moment(0, 0)[left].sum()),
        X_sum=weighted(groups, [ones], X)[0],
        Z_sum=weighted(groups, Z, [ones])[:, 0],
        component_sizes=tuple(len(component.levels) for component in random),
        Z_levels=pd.Index([v for c in random for v in c.levels], dtype=object),
        source=GroupSource(groups, replace(design, fixed=fixed, random=random)),
    )


def take_genes(stats: SummaryStatistics, index: np.ndarray) -> SummaryStatistics:
    """Statistics of some of the genes, by their numbers."""
    source, stored = stats.source, stats.products_YtZ
    if source is not None:
        sums = {name: values[:, index] for name, values in source.groups.gene_sums().items()}
        source = replace(source, groups=source.groups.with_sums(stats.genes[index], sums))
    return replace(
        stats,
        YtX=stats.YtX[index],
        yty=stats.yty[index],
        genes=stats.genes[index],
        origin=None if stats.origin is None else stats.origin[index],
        products_YtZ=None if stored is None else stored[index],
        source=source,
    )


def _without_rows(
    random: tuple[RandomComponent, ...], stay: sp.dia_array
) -> tuple[RandomComponent, ...]:
    """Random terms with rows set to zero, and without the levels that this leaves empty."""
    weights = [[None if w is None else sp.csr_array(stay @ w) for w in c.weights] for c in random]
    used = [_used(rows, len(c.levels)) for rows, c in zip(weights, random, strict=True)]
    for a, b, _ in find_pairs(tuple(len(c.levels) for c in random)):
        used[a] = used[b] = used[a] | used[b]
    return tuple(
        replace(
            c,
            levels=c.levels[kept],
            weights=tuple(None if w is None else sp.csr_array(w[:, kept]) for w in rows),
        )
        for c, rows, kept in zip(random, weights, used, strict=True)
    )


def _used(weights: list[sp.csr_array | None], n_levels: int) -> np.ndarray:
    """Levels of which a row is left, (levels,) bool."""
    found = np.zeros(n_levels)
    for w in weights:
        if w is not None:
            found += np.asarray(abs(w).sum(axis=0)).reshape(-1)
    return found > 0
