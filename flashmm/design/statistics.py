"""Cross-products of design and values: all that a linear mixed model needs to know of the cells.

With covariates x_0 = 1, x_1 .. x_m, a design on groups writes X = Σ_k D_k x_k and Z = Σ_k W_k x_k,
where D_k and W_k have one row per group. From the sums of each group over its cells,
m_kl = Σ x_k x_l and S_k = Σ x_k y, follow

    X'X = Σ_kl D_k' diag(m_kl) D_l        Y'X = Σ_k S_k' D_k
    Z'X = Σ_kl W_k' diag(m_kl) D_l        Y'Z = Σ_k S_k' W_k
    Z'Z = Σ_kl W_k' diag(m_kl) W_l        y'y = Σ Σ y²

`summary_statistics_from_matrices` makes the same numbers from any X, Z and Y in blocks of cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import scipy.sparse as sp

from flashmm.cells.effective_libsize import apply_size_factors, describe, libsize_columns
from flashmm.cells.size_factors import RECORD as SIZE_FACTORS
from flashmm.design.columns import GroupDesign, RandomComponent, group_design
from flashmm.options import InputError, note

if TYPE_CHECKING:
    from flashmm.cells.groups import GroupStatistics

Matrix = Any  # a NumPy array or a SciPy sparse array

# Columns of Z above which Z'Z is kept sparse.
MAX_DENSE_COLUMNS = 2_000
# Bytes of Y that are turned into float64 at a time.
_BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class SummaryStatistics:
    """Cross-products of fixed design X, random design Z and the values Y of all genes.

    Attributes
    ----------
    XtX : numpy.ndarray
        (coefficients, coefficients).
    YtX : numpy.ndarray
        (genes, coefficients).
    ZtX : numpy.ndarray
        (levels, coefficients).
    ZtZ : numpy.ndarray or scipy.sparse.csr_array
        (levels, levels); sparse above 2,000 levels.
    yty : numpy.ndarray
        (genes,) sums of squares.
    n_cells : int
        Number of cells.
    X_sum, Z_sum : numpy.ndarray or None
        (coefficients,) and (levels,) column sums; None where they were not given.
    component_sizes : tuple of int
        Levels of each random term.
    genes : pandas.Index
        (genes,).
    coefficients : tuple of str
        Names of the columns of X.
    components : tuple of str
        Names of the random terms, the residual not among them.
    Z_levels : pandas.Index
        (levels,) names of the columns of Z.
    coefficient_columns : tuple of frozenset of str
        The data columns that each coefficient holds; empty for matrices.
    products_YtZ : numpy.ndarray or None
        (genes, levels); None where they are made from `groups` when asked for.
    groups, design, fixed, random : optional
        The groups, the design on them and the formulas that made it.
    notes : tuple of str
        What was decided for the user.
    coefficient_terms : tuple of str
        The term of the formula that made each coefficient; empty for matrices.
    """

    XtX: np.ndarray
    YtX: np.ndarray
    ZtX: np.ndarray
    ZtZ: np.ndarray | sp.csr_array
    yty: np.ndarray
    n_cells: int
    X_sum: np.ndarray | None
    Z_sum: np.ndarray | None
    component_sizes: tuple[int, ...]
    genes: pd.Index
    coefficients: tuple[str, ...]
    components: tuple[str, ...]
    Z_levels: pd.Index
    coefficient_columns: tuple[frozenset[str], ...]
    products_YtZ: np.ndarray | None = None
    groups: GroupStatistics | None = None
    design: GroupDesign | None = None
    fixed: str | None = None
    random: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    coefficient_terms: tuple[str, ...] = ()

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return len(self.genes)

    @property
    def YtZ(self) -> np.ndarray:
        """(genes, levels), made from the groups where it is not stored."""
        return self.YtZ_block(0, self.n_genes)

    def YtZ_block(self, start: int, stop: int) -> np.ndarray:
        """Y'Z of the genes start .. stop - 1.

        Returns
        -------
        numpy.ndarray
            (stop - start, levels).
        """
        if self.products_YtZ is not None:
            return self.products_YtZ[start:stop]
        groups, design = cast(Any, self.groups), cast(Any, self.design)
        block = np.zeros(
            (len(self.Z_levels), len(range(*slice(start, stop).indices(self.n_genes))))
        )
        for k, weights in enumerate(_layers(design.random)):
            if weights is not None:
                block += weights.T @ groups.cross_sum(k)[:, start:stop]
        return block.T

    def __repr__(self) -> str:
        sizes = ", ".join(
            f"{n} ({size})" for n, size in zip(self.components, self.component_sizes, strict=True)
        )
        return (
            f"SummaryStatistics({self.n_genes} genes, {self.n_cells} cells, "
            f"{len(self.coefficients)} coefficients, random: {sizes})"
        )


# --------------------------------------------------------------------------------------------
# From groups
# --------------------------------------------------------------------------------------------


def summary_statistics(
    groups: GroupStatistics,
    fixed: str,
    random: str | Sequence[str] | None = None,
    size_factors: str | pd.Series | Sequence[float] | np.ndarray | None = None,
) -> SummaryStatistics:
    """Make the statistics of a model from groups of cells, without the cells.

    Parameters
    ----------
    groups : GroupStatistics
        Sums over the cells of each group.
    fixed : str
        Formula of the fixed effects, such as "~ 0 + log(libsize) + cell_type"; random terms may
        stand in it as in lme4, "(1 | subject)". See `flashmm.design.columns.group_design`.
    random : sequence of str, optional
        Random terms, such as ["subject", "subject:cell_type"].
    size_factors : {"tmm", "tmm-expressed", "total"}, column, pandas.Series or array, optional
        Factors by which the library sizes of each group are multiplied, so that log(libsize) does
        not follow the genes that change: a method of `flashmm.size_factors`, taken within the
        levels of `cell_type` where the groups have that column, or its result. None leaves the
        groups as they are.

    Returns
    -------
    SummaryStatistics
        Equal, up to rounding, to those of the design of the cells themselves; its `groups` are
        those with size factors.

    Raises
    ------
    FormulaError, InputError, DesignError
        As `flashmm.design.columns.group_design`, and `flashmm.cells.size_factors`.
    """
    groups = apply_size_factors(groups, size_factors)
    design = group_design(groups, fixed, random)
    X, Z = list(design.fixed), _layers(design.random)
    sizes = tuple(len(c.levels) for c in design.random)
    ones = np.ones((groups.n_groups, 1))
    XtX = _weighted(groups, X, X)
    return SummaryStatistics(
        XtX=(XtX + XtX.T) / 2,
        YtX=_cross(groups, design.fixed),
        ZtX=_weighted(groups, Z, X),
        ZtZ=_gram(_weighted(groups, Z, Z)),
        yty=groups.sumsq.sum(axis=0, dtype=np.float64),
        n_cells=groups.n_cells,
        X_sum=_weighted(groups, [ones], X)[0],
        Z_sum=_weighted(groups, Z, [ones])[:, 0],
        component_sizes=sizes,
        genes=groups.genes,
        coefficients=design.coefficients,
        components=tuple(c.name for c in design.random),
        Z_levels=pd.Index([v for c in design.random for v in c.levels], dtype=object),
        coefficient_columns=design.coefficient_columns,
        groups=groups,
        design=design,
        fixed=fixed,
        random=None if random is None else (random,) if isinstance(random, str) else tuple(random),
        notes=(*design.notes, *_notes_of_size_factors(groups, design)),
        coefficient_terms=design.coefficient_terms,
    )


def _notes_of_size_factors(groups: GroupStatistics, design: GroupDesign) -> list[str]:
    """Say which size factors the groups have, and where the formula does not hold them."""
    record = groups.provenance.get(SIZE_FACTORS)
    if record is None:
        return []
    names = libsize_columns(groups)
    used = any(columns & names for columns in design.coefficient_columns)
    if used or record["method"] == "total":
        return [describe(record)]
    return [note("Size factors change nothing: the formula has no log(libsize); add it.")]


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
        With the columns of the other terms; nothing is computed. It has no formula, so that a fit
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
    if len(stats.components) == 1:
        raise InputError(f"{name!r} is the only random term: without it, no mixed model is left.")
    rest = np.array([component != name for component in stats.components])
    columns = np.flatnonzero(np.repeat(rest, stats.component_sizes))
    design, stored = stats.design, stats.products_YtZ
    if design is not None:
        design = replace(design, random=tuple(c for c in design.random if c.name != name))
    return replace(
        stats,
        ZtX=stats.ZtX[columns],
        ZtZ=stats.ZtZ[columns][:, columns],
        Z_sum=None if stats.Z_sum is None else stats.Z_sum[columns],
        component_sizes=tuple(np.array(stats.component_sizes)[rest].tolist()),
        components=tuple(component for component in stats.components if component != name),
        Z_levels=stats.Z_levels[columns],
        products_YtZ=None if stored is None else stored[:, columns],
        design=design,
        fixed=None,
        random=None,
    )


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
    groups, design = cast(Any, stats.groups), cast(Any, stats.design)
    X, Z = list(fixed), _layers(design.random)
    changed = (fixed != design.fixed).any((0, 1))
    YtX = stats.YtX.copy()
    YtX[:, changed] = _cross(groups, fixed[:, :, changed])
    XtX = _weighted(groups, X, X)
    ones = np.ones((groups.n_groups, 1))
    return replace(
        stats,
        XtX=(XtX + XtX.T) / 2,
        YtX=YtX,
        ZtX=_weighted(groups, Z, X),
        X_sum=_weighted(groups, [ones], X)[0],
        design=replace(design, fixed=fixed),
        fixed=None,
        random=None,
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
    groups, design = cast(Any, stats.groups), cast(Any, stats.design)
    K = range(len(means))
    old = [groups.cross_sum(k) for k in K]
    # Σ x_k (y - μ) = S_k - Σ_l m_kl μ_l  and  Σ (y - μ)² = Σ y² - Σ_k μ_k (S_k + Σ x_k (y - μ))
    new = [old[k] - sum(groups.moment(k, j)[:, None] * means[j] for j in K) for k in K]
    sumsq = groups.sumsq - sum(means[k] * (old[k] + new[k]) for k in K)
    sums = groups.gene_sums() | {"sum": new[0], "sumsq": np.maximum(sumsq, 0.0)}
    sums |= {f"sum:{name}": new[k] for k, name in enumerate(groups.covariates, start=1)}
    groups = groups.with_sums(stats.genes, sums)
    yty = groups.sumsq.sum(axis=0, dtype=np.float64)
    YtX = _cross(groups, design.fixed)
    return replace(stats, groups=groups, YtX=YtX, yty=yty, products_YtZ=None)


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
    groups, design = cast(Any, stats.groups), cast(Any, stats.design)
    stay = sp.diags_array((~left).astype(np.float64))
    random = tuple(_without_rows(component, stay) for component in design.random)
    fixed = np.where(left[:, None], 0.0, design.fixed)
    X, Z, ones = list(fixed), _layers(random), (~left).astype(np.float64)[:, None]
    XtX = _weighted(groups, X, X)
    return replace(
        stats,
        XtX=(XtX + XtX.T) / 2,
        # what is left out is little, so it is taken away
        YtX=np.where(fixed.any((0, 1)), stats.YtX - _cross(groups, design.fixed, left), 0.0),
        ZtX=_weighted(groups, Z, X),
        ZtZ=_gram(_weighted(groups, Z, Z)),
        yty=stats.yty - groups.sumsq[left].sum(axis=0, dtype=np.float64),
        n_cells=stats.n_cells - int(groups.moment(0, 0)[left].sum()),
        X_sum=_weighted(groups, [ones], X)[0],
        Z_sum=_weighted(groups, Z, [ones])[:, 0],
        component_sizes=tuple(len(component.levels) for component in random),
        Z_levels=pd.Index([v for c in random for v in c.levels], dtype=object),
        design=replace(design, fixed=fixed, random=random),
        fixed=None,
        random=None,
    )


def take_genes(stats: SummaryStatistics, index: np.ndarray) -> SummaryStatistics:
    """Statistics of some of the genes, by their numbers."""
    groups, stored = stats.groups, stats.products_YtZ
    if groups is not None:
        sums = {name: values[:, index] for name, values in groups.gene_sums().items()}
        groups = groups.with_sums(stats.genes[index], sums)
    return replace(
        stats,
        YtX=stats.YtX[index],
        yty=stats.yty[index],
        genes=stats.genes[index],
        products_YtZ=None if stored is None else stored[index],
        groups=groups,
    )


def _cross(groups: GroupStatistics, fixed: np.ndarray, rows: Any = slice(None)) -> np.ndarray:
    """Σ_k S_k'D_k over some groups, (genes, coefficients)."""
    total = np.zeros((groups.n_genes, fixed.shape[2]))
    for k, D in enumerate(fixed):
        if D[rows].any():
            total += groups.cross_sum(k)[rows].T @ D[rows]
    return total


def _without_rows(component: RandomComponent, stay: sp.dia_array) -> RandomComponent:
    """The component with rows set to zero, and without the levels that this leaves empty."""
    weights = [None if w is None else sp.csr_array(stay @ w) for w in component.weights]
    found = sum(abs(w).sum(axis=0) for w in weights if w is not None)
    used = np.flatnonzero(np.asarray(found).reshape(-1))
    return replace(
        component,
        levels=component.levels[used],
        weights=tuple(None if w is None else sp.csr_array(w[:, used]) for w in weights),
    )


def _layers(components: Sequence[RandomComponent]) -> list[sp.csr_array | None]:
    """W_k of all components beside each other, for each k; None where all are zero."""
    rows = next(w.shape[0] for c in components for w in c.weights if w is not None)

    def side_by_side(weights: Sequence[sp.csr_array | None]) -> sp.csr_array | None:
        if all(w is None for w in weights):
            return None
        shapes = ((rows, len(c.levels)) for c in components)
        blocks = [sp.csr_array(s) if w is None else w for s, w in zip(shapes, weights, strict=True)]
        return sp.csr_array(sp.hstack(blocks, format="csr"))

    return [side_by_side(weights) for weights in zip(*(c.weights for c in components), strict=True)]


def _weighted(groups: GroupStatistics, left: Sequence[Any], right: Sequence[Any]) -> Any:
    """Σ_kl A_k' diag(m_kl) B_l; sparse if both sides are."""
    total: Any = None
    for k, A in enumerate(left):
        for j, B in enumerate(right):
            if A is None or B is None or not (_is_sparse(B) or B.any()):
                continue
            product = A.T @ (sp.diags_array(groups.moment(k, j)) @ B)
            total = product if total is None else total + product
    return total


def _gram(ZtZ: Matrix) -> np.ndarray | sp.csr_array:
    """Return Z'Z dense where it is small, else as CSR."""
    dense = ZtZ.shape[0] <= MAX_DENSE_COLUMNS
    return np.asarray(ZtZ.toarray()) if dense else sp.csr_array(ZtZ)


# --------------------------------------------------------------------------------------------
# From matrices
# --------------------------------------------------------------------------------------------


def summary_statistics_from_matrices(
    Y: Any,
    X: Any,
    Z: Any,
    component_sizes: Sequence[int] | int,
    *,
    genes: Sequence[str] | None = None,
    coefficients: Sequence[str] | None = None,
    components: Sequence[str] | None = None,
    block: int | None = None,
) -> SummaryStatistics:
    """Make the statistics of any linear mixed model y = Xβ + Z_1 b_1 + ... + Z_K b_K + e.

    Parameters
    ----------
    Y : array_like
        (cells, genes): a NumPy array, SciPy sparse matrix, DataFrame with genes as columns, or an
        array on disk that gives rows as `Y[start:stop]`. Any real dtype; sums are float64.
    X : array_like
        (cells, coefficients), dense, sparse or DataFrame.
    Z : array_like
        (cells, levels), the blocks Z_1 .. Z_K beside each other, dense, sparse or DataFrame.
    component_sizes : sequence of int
        Columns of each block of Z, K of them.
    genes, coefficients, components : sequence of str, optional
        Names; by default the columns of the DataFrames, or gene1 .., x1 .., component1 ...
    block : int, optional
        Cells (of CSC matrices: genes) read at a time; by default about 64 MB of values.

    Returns
    -------
    SummaryStatistics
        Without groups; Y'Z is stored.

    Raises
    ------
    InputError
        Where shapes or names do not fit, or a value is not a finite number.
    """
    values = _Values.of(Y)
    n, n_genes = values.shape
    fixed, x_names = _columns_of(X, "X", "x", coefficients)
    levels, z_names = _columns_of(Z, "Z", "level", None)
    sizes = _sizes(component_sizes, levels.shape[1])
    for name, matrix in (("X", fixed), ("Z", levels)):
        _check_rows(name, matrix, values.shape)
    YtX, YtZ, yty = values.products(fixed, levels, _block_size(block, values))
    return SummaryStatistics(
        XtX=_dense(fixed.T @ fixed),
        YtX=YtX,
        ZtX=_dense(levels.T @ fixed),
        ZtZ=_gram(levels.T @ levels),
        yty=yty,
        n_cells=n,
        X_sum=np.asarray(fixed.sum(axis=0)).reshape(-1),
        Z_sum=np.asarray(levels.sum(axis=0)).reshape(-1),
        component_sizes=sizes,
        genes=pd.Index(_names(values.names, genes, n_genes, "gene", "genes"), dtype=object),
        coefficients=x_names,
        components=_names(None, components, len(sizes), "component", "components"),
        Z_levels=pd.Index(z_names, dtype=object),
        coefficient_columns=(frozenset(),) * len(x_names),
        products_YtZ=YtZ,
    )


@dataclass(frozen=True, eq=False)
class _Values:
    """Y behind one way of reading it: blocks of cells, or of genes where it is stored by genes."""

    data: Any
    names: list[str] | None
    by_gene: bool

    @classmethod
    def of(cls, Y: Any) -> _Values:
        names = [str(c) for c in Y.columns] if isinstance(Y, pd.DataFrame) else None
        if _is_sparse(Y):
            Y = Y if Y.format in ("csr", "csc") else Y.tocsr()
        elif not hasattr(Y, "shape"):
            Y = np.asarray(Y)
        if len(Y.shape) != 2:
            raise InputError(f"Y is cells x genes; found an array of shape {tuple(Y.shape)}.")
        return cls(Y, names, _is_sparse(Y) and Y.format == "csc")

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.data.shape[0]), int(self.data.shape[1])

    def blocks(self, size: int) -> Iterator[tuple[slice, slice, Matrix]]:
        """Yield (cells, genes, values) of blocks as float64."""
        everything = slice(None)
        length = self.shape[1 if self.by_gene else 0]
        for part in (slice(s, min(s + size, length)) for s in range(0, length, size)):
            if self.by_gene:
                yield everything, part, _float64(self.data[:, part], "Y")
            elif isinstance(self.data, pd.DataFrame):
                yield part, everything, _float64(self.data.iloc[part].to_numpy(), "Y")
            else:
                yield part, everything, _float64(self.data[part], "Y")

    def products(
        self, X: Matrix, Z: Matrix, size: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Y'X (genes, coefficients), Y'Z (genes, levels) and y'y (genes,)."""
        n_genes = self.shape[1]
        YtX, YtZ = (np.zeros((n_genes, M.shape[1])) for M in (X, Z))
        yty = np.zeros(n_genes)
        with np.errstate(invalid="ignore", over="ignore"):
            for cells, genes, values in self.blocks(size):
                YtX[genes] += _dense(values.T @ X[cells])
                YtZ[genes] += _dense(values.T @ Z[cells])
                yty[genes] += np.asarray((values * values).sum(axis=0)).reshape(-1)
        if not np.isfinite(yty).all():
            raise InputError(self._complaint(size))
        return YtX, YtZ, yty

    def _complaint(self, size: int) -> str:
        """Say how many values are not finite, and where the first is."""
        count, first = 0, None
        for cells, genes, values in self.blocks(size):
            row, column = _not_finite(values)
            count += len(row)
            if first is None and len(row):
                first = ((cells.start or 0) + row[0], (genes.start or 0) + column[0])
        if first is None:
            return "Y holds values so large that their squares are not finite; rescale it."
        gene = first[1] if self.names is None else self.names[first[1]]
        where = f"the first in cell {first[0]}, gene {gene}"
        return f"Y holds {count} values that are not finite, {where}."


def _float64(part: Any, name: str) -> Matrix:
    """Return a block as float64, CSR or CSC where it is sparse."""
    part = part if _is_sparse(part) else np.asarray(part)
    if part.dtype.kind not in "biuf":
        raise InputError(f"{name} holds values of type {part.dtype}; real numbers are needed.")
    if not _is_sparse(part):
        return np.asarray(part, dtype=np.float64)
    kind = sp.csc_array if part.format == "csc" else sp.csr_array
    block = kind(part, dtype=np.float64, copy=True)
    block.sum_duplicates()
    return block


def _not_finite(values: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the values that are not finite, in the order of rows."""
    if not _is_sparse(values):
        row, column = np.nonzero(~np.isfinite(values))
        return row, column
    entries = sp.csr_array(values).tocoo()
    bad = ~np.isfinite(entries.data)
    return entries.row[bad], entries.col[bad]


def _is_sparse(matrix: Any) -> bool:
    return bool(sp.issparse(matrix))


def _dense(product: Matrix) -> np.ndarray:
    return np.asarray(product.toarray() if _is_sparse(product) else product)


def _columns_of(
    matrix: Any, name: str, prefix: str, given: Sequence[str] | None
) -> tuple[Any, tuple[str, ...]]:
    """Return a finite design matrix as float64 (Z as CSR) and the names of its columns."""
    names = [str(c) for c in matrix.columns] if isinstance(matrix, pd.DataFrame) else None
    if names and all(isinstance(dtype, pd.SparseDtype) for dtype in matrix.dtypes):
        matrix = matrix.sparse.to_coo()
    values = _float64(matrix, name)
    if values.ndim != 2:
        raise InputError(f"{name} has two axes; found an array of shape {values.shape}.")
    row, column = _not_finite(values)
    if len(row):
        where = column[0] if names is None else names[column[0]]
        raise InputError(
            f"{name} holds {len(row)} values that are not finite, the first in cell {row[0]}, "
            f"column {where}."
        )
    if name == "Z":  # levels of slopes repeat those of intercepts
        values = sp.csr_array(values)
        return values, tuple(names or (f"{prefix}{i + 1}" for i in range(values.shape[1])))
    return values, _names(names, given, values.shape[1], prefix, "coefficients")


def _names(
    found: Sequence[str] | None,
    given: Sequence[str] | None,
    size: int,
    prefix: str,
    what: str,
) -> tuple[str, ...]:
    """Names that are given, else found, else numbered; as many as needed and all different."""
    names = given if given is not None else found
    if names is None:
        return tuple(f"{prefix}{i + 1}" for i in range(size))
    names = tuple(map(str, names))
    if len(names) != size:
        raise InputError(f"{len(names)} names of {what} are given for {size}.")
    index = pd.Index(names)
    if index.has_duplicates:
        repeated = list(index[index.duplicated()].unique()[:5])
        raise InputError(f"names of {what} occur more than once: {repeated}.")
    return names


def _sizes(component_sizes: Sequence[int] | int, q: int) -> tuple[int, ...]:
    given = np.atleast_1d(np.asarray(component_sizes))
    sizes = tuple(int(s) for s in given)
    if not sizes or min(sizes) < 1 or any(s != g for s, g in zip(sizes, given, strict=True)):
        raise InputError(f"component_sizes are whole numbers from 1 on; found {list(given)}.")
    if sum(sizes) != q:
        raise InputError(
            f"component_sizes {list(sizes)} sum to {sum(sizes)}, but Z has {q} columns."
        )
    return sizes


def _check_rows(name: str, matrix: Any, shape: tuple[int, int]) -> None:
    if matrix.shape[0] != shape[0]:
        hint = " Y is cells x genes: transpose it." if matrix.shape[0] == shape[1] else ""
        raise InputError(f"Y has {shape[0]} cells (rows), {name} has {matrix.shape[0]} rows.{hint}")


def _block_size(block: int | None, values: _Values) -> int:
    if block is None:
        return max(1, _BLOCK_BYTES // (8 * max(1, values.shape[0 if values.by_gene else 1])))
    if block < 1:
        raise InputError(f"block is a number of cells from 1 on; found {block}.")
    return int(block)
