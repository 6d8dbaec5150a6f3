"""The part of a mixed model that genes share: the factored design, and the engine for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from flashmm.design.centring import from_centred, of_centred
from flashmm.design.statistics import SummaryStatistics
from flashmm.kernels.by_level import LevelEngine
from flashmm.kernels.dense import DenseEngine
from flashmm.kernels.elimination import EliminationEngine
from flashmm.kernels.engine import Engine
from flashmm.kernels.rotation import (
    Projection,
    original_basis,
    orthonormal_contrasts,
    project_design,
    rotate_projection,
)
from flashmm.kernels.spectral import SpectralEngine
from flashmm.kernels.structure import CovarianceStructure, Elimination
from flashmm.kernels.threads import in_threads
from flashmm.options import DesignError, FitOptions, InputError, note

Block = TypeVar("Block")
Result = TypeVar("Result")

# Columns of Z above which q × q systems are refused.
MAX_DENSE_COLUMNS = 10_000
# Columns of Z up to which nothing is eliminated: dense matrices are as fast for several components,
# and for one the eigenvalues that all genes share are worth their cost.
FEW_LEVELS = 64
MANY_LEVELS = 5_000
# Square of the ratio of a mean to a spread above which sums of squares lose half of their digits.
FAR = 1e8


@dataclass(frozen=True, eq=False)
class Model:
    """The part of the model that genes share, ready for the engine.

    Attributes
    ----------
    kept : (p,) bool array
        Independent columns of X.
    projection : Projection
        Factored design.
    engine : Engine
        The algorithm.
    constant : (p,) array or None
        R⁻ᵀX'1, a constant in the basis of X, for genes whose products are of y - origin.
    centring : (p, p) array or None
        C of the design X - XC that was factored, as `SummaryStatistics.centring`.
    """

    kept: np.ndarray
    projection: Projection
    engine: Engine[Any]
    constant: np.ndarray | None = None
    centring: np.ndarray | None = None

    def coefficients(self, values: np.ndarray) -> np.ndarray:
        """Coefficients of the kept columns of X, (genes, kept), from those of R⁻ᵀX'."""
        return from_centred(original_basis(self.projection, values), self._kept_centring)

    def contrasts(self, rows: np.ndarray) -> np.ndarray:
        """Contrasts (C, p) of X in the orthonormal basis of the design, (kept, C)."""
        rows = of_centred(rows[:, self.kept], self._kept_centring)
        return orthonormal_contrasts(self.projection, rows)

    @property
    def _kept_centring(self) -> np.ndarray | None:
        return None if self.centring is None else self.centring[np.ix_(self.kept, self.kept)]

    def gene_blocks(self, n_genes: int, options: FitOptions) -> Iterator[tuple[int, int]]:
        """First and one-past-last gene of each block."""
        size = options.block_size or self.engine.genes_per_block()
        for start in range(0, n_genes, size):
            yield start, min(start + size, n_genes)

    def over_blocks(
        self, function: Callable[[Block], Result], blocks: Iterable[Block]
    ) -> list[Result]:
        """What a function gives for each block, in order; BLAS must be limited to one thread."""
        if self.engine.small_blocks:
            return in_threads(function, list(blocks))
        return [function(block) for block in blocks]

    def responses(self, stats: SummaryStatistics, start: int, stop: int) -> Any:
        """The genes from `start` to `stop` in the engine's own form.

        Those whose products are not finite are zero here (`lmm` gives them a status).
        """
        YtX, YtZ = stats.YtX[start:stop][:, self.kept], stats.YtZ_block(start, stop)
        yty = stats.yty[start:stop]
        finite = np.isfinite(yty) & np.isfinite(YtX).all(1) & np.isfinite(YtZ).all(1)
        if not finite.all():
            YtX, YtZ = (np.where(finite[:, None], products, 0.0) for products in (YtX, YtZ))
            yty = np.where(finite, yty, 0.0)
        genes = self.engine.responses(YtX, YtZ, yty)
        if stats.origin is None or self.constant is None:
            return genes
        # X makes a constant, so that y and y - c differ in the span of X alone
        return genes._replace(xy=genes.xy + np.outer(stats.origin[start:stop], self.constant))


def prepare(stats: SummaryStatistics, options: FitOptions) -> Model:
    """Factor the design once for all genes.

    Parameters
    ----------
    stats : SummaryStatistics
        Cross-products.
    options : FitOptions
        Method, sign constraint and engine.

    Returns
    -------
    Model
        The shared part.

    Raises
    ------
    DesignError
        No column of X is estimable, no residual degrees of freedom, or the random effects are
        confounded with the fixed ones.
    """
    model = factor(stats, options)
    _check_confounding(model.projection, stats)
    _check_levels(model.engine, model.projection)
    return model


def factor(stats: SummaryStatistics, options: FitOptions) -> Model:
    """As `prepare`, but not asking whether variances can be estimated, which GLS does not need."""
    kept = stats.independent()
    if not kept.any() or stats.n_cells - kept.sum() < 1:
        raise DesignError(
            f"{stats.n_cells} cells and {kept.sum()} independent fixed coefficients leave nothing "
            "to estimate a variance from."
        )
    projection = project_design(
        stats.XtX[np.ix_(kept, kept)],
        stats.ZtX[:, kept],
        stats.ZtZ,
        stats.component_sizes,
        stats.n_cells,
    )
    return Model(
        kept,
        projection,
        _build_engine(projection, options),
        _constant(stats, projection),
        stats.centring,
    )


def _constant(stats: SummaryStatistics, projection: Projection) -> np.ndarray | None:
    """A constant in the basis of X, R a with Xa = 1, where products are not of y itself."""
    if stats.origin is None:
        return None
    a = stats.constant()
    if a is None:
        raise DesignError(
            "The products are of values from which a constant was taken, and this design has no "
            "intercept: add it, or make statistics of the values from zero (from_zero)."
        )
    return np.asarray(projection.R @ a[stats.independent()])


def _build_engine(projection: Projection, options: FitOptions) -> Engine[Any]:
    """The engine that was asked for, or the fastest that holds for the structure."""
    structure = CovarianceStructure.of(projection.ZtZ, projection.component_sizes)
    K, named = structure.n_components, options.engine
    if named == "spectral" and not SpectralEngine.takes(structure):
        raise InputError(
            f"engine='spectral' fits one random component; this model has {K}. Use engine='dense'."
        )
    reml, nonnegative = options.method == "REML", options.nonnegative
    if named in ("nested", "eliminated") or (named == "auto" and _better_eliminated(structure)):
        _check_elimination(structure, named)
        return EliminationEngine.build(projection, reml, nonnegative)
    if named == "auto" and LevelEngine.takes(structure):
        return LevelEngine.build(projection, reml, nonnegative)
    _check_columns(sum(structure.component_sizes), "random design has")
    spectral = named != "dense" and SpectralEngine.takes(structure)
    build = SpectralEngine.build if spectral else DenseEngine.build
    return build(rotate_projection(projection), reml, nonnegative)


def _better_eliminated(structure: CovarianceStructure) -> bool:
    """Whether elimination is possible, and faster than the other engines."""
    sizes = structure.component_sizes
    few = MANY_LEVELS if len(sizes) == 1 else FEW_LEVELS
    return sum(sizes) > few and structure.elimination is not None


def _check_elimination(structure: CovarianceStructure, named: str) -> None:
    """Refuse what the eliminating engine cannot take, by the name that it was asked for with."""
    found, K = structure.elimination, structure.n_components
    if named == "nested" and not (found and _is_nested(found)):
        raise InputError(
            "engine='nested' fits two random components of which one groups the levels of the "
            f"other, such as subject and subject:cell_type; this model has {K} component"
            f"{'s' if K > 1 else ''} without that structure. Use engine='auto'."
        )
    if found is None:
        raise InputError(
            "engine='eliminated' needs a random component with orthogonal columns, such as the "
            "levels of a factor; this model has none. Use engine='auto'."
        )
    rest = sum(structure.component_sizes[k] for k in found.rest)
    _check_columns(rest, "random components beside those that are eliminated have")


def _is_nested(found: Elimination) -> bool:
    """Whether there are two components, one within the other, and nothing else."""
    return found.outer is not None and len(found.inner) == 1 and not found.rest


def _check_columns(columns: int, which: str) -> None:
    """Refuse systems that are too large to be factored."""
    if columns > MAX_DENSE_COLUMNS:
        raise DesignError(
            f"The {which} {columns} columns; this engine factors a dense {columns} × {columns} "
            f"matrix and stops at {MAX_DENSE_COLUMNS}. Use fewer or coarser random terms."
        )


def _check_confounding(projection: Projection, stats: SummaryStatistics) -> None:
    """Refuse random components that the fixed effects leave nothing of."""
    left, whole = projection.S_diagonal, projection.ZtZ.diagonal()
    for name, block in zip(stats.components, projection.blocks, strict=True):
        # a covariance has no columns of its own
        if block.stop > block.start and left[block].sum() <= 1e-9 * float(whole[block].sum()):
            raise DesignError(
                f"The random component {name!r} is confounded with the fixed effects: nothing of "
                "it is left to estimate its variance from. If there is one subject per condition, "
                "nothing can tell the two apart: more subjects are needed. Otherwise remove the "
                "fixed columns that identify its levels, or the random term."
            )


def _check_levels(engine: Engine[Any], projection: Projection) -> None:
    """Refuse random effects that leave no residual degrees of freedom."""
    if engine.rank >= projection.df_residual:
        raise DesignError(
            "The random effects have as many independent levels as there are residual degrees of "
            f"freedom ({projection.df_residual}), so no residual variance can be estimated: every "
            "cell seems to be a level of its own. Check the random terms."
        )


def note_aliased(stats: SummaryStatistics, estimable: np.ndarray) -> tuple[str, ...]:
    """Name the columns of X that were dropped, and which of them rounding may have aliased."""
    if estimable.all():
        return ()
    names = np.array(stats.coefficients, dtype=object)
    return (
        note(
            f"{np.count_nonzero(~estimable)} of {len(names)} fixed coefficients are linear "
            "combinations of others in these cells and were dropped: "
            f"{', '.join(names[~estimable])}. Contrasts that need them are NaN."
        ),
    )
