"""Summary statistics from any matrices X, Z and Y, in blocks of cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from flashmm.cells.origins import far_from_zero, varies
from flashmm.design.centring import centred, centring_of_cells, independent
from flashmm.design.from_groups import NO_CONSTANT
from flashmm.design.products import Matrix, gram, is_sparse
from flashmm.design.statistics import SummaryStatistics
from flashmm.kernels.random_covariance import find_pairs
from flashmm.kernels.rotation import constant_of
from flashmm.names import listed
from flashmm.options import InputError, checked, note

# Bytes of Y that are turned into float64 at a time.
_BLOCK_BYTES = 64 * 2**20


@checked
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
        Columns of each block of Z, K of them; 0 stands for the covariance of the two blocks before
        it, of equal sizes, such as intercepts and slopes of the same subjects.
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
    centring = centring_of_cells(fixed)
    fixed = centred(fixed, centring.matrix)
    size = _block_size(block, values)
    YtX, YtZ, yty, Y_sum = values.products(fixed, levels, size)
    XtX, X_sum = _dense(fixed.T @ fixed), np.asarray(fixed.sum(axis=0)).reshape(-1)
    far, mean = far_from_zero(Y_sum[None], yty[None], n)
    origin, notes = None, centring.notes(x_names)
    kept = independent(XtX, centring.matrix)
    if len(far) and constant_of(XtX, X_sum, n, kept) is None:
        notes.append(note(NO_CONSTANT.format(len(far))))
    elif len(far):
        products = values.differences(fixed, levels, far, mean, size)
        chosen = varies(products[2], n, mean)
        for whole, part in zip((YtX, YtZ, yty), products, strict=True):
            whole[far[chosen]] = part[chosen]
        origin = np.zeros(n_genes)
        origin[far[chosen]] = mean[chosen]
        origin = origin if chosen.any() else None
    return SummaryStatistics(
        XtX=XtX,
        YtX=YtX,
        ZtX=_dense(levels.T @ fixed),
        ZtZ=gram(levels.T @ levels),
        yty=yty,
        n_cells=n,
        X_sum=X_sum,
        Z_sum=np.asarray(levels.sum(axis=0)).reshape(-1),
        component_sizes=sizes,
        genes=pd.Index(_names(values.names, genes, n_genes, "gene", "genes"), dtype=object),
        coefficients=x_names,
        components=_names(None, components, len(sizes), "component", "components"),
        Z_levels=pd.Index(z_names, dtype=object),
        coefficient_columns=(frozenset(),) * len(x_names),
        products_YtZ=YtZ,
        notes=tuple(notes),
        origin=origin,
        centring=centring.matrix,
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
        if is_sparse(Y):
            Y = Y if Y.format in ("csr", "csc") else Y.tocsr()
        elif not hasattr(Y, "shape"):
            Y = np.asarray(Y)
        if len(Y.shape) != 2:
            raise InputError(f"Y is cells x genes; found an array of shape {tuple(Y.shape)}.")
        return cls(Y, names, is_sparse(Y) and Y.format == "csc")

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
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Y'X (genes, coefficients), Y'Z (genes, levels), y'y (genes,) and Y'1 (genes,)."""
        n_genes = self.shape[1]
        YtX, YtZ = (np.zeros((n_genes, M.shape[1])) for M in (X, Z))
        yty, total = np.zeros(n_genes), np.zeros(n_genes)
        with np.errstate(invalid="ignore", over="ignore"):
            for cells, genes, values in self.blocks(size):
                YtX[genes] += _dense(values.T @ X[cells])
                YtZ[genes] += _dense(values.T @ Z[cells])
                yty[genes] += np.asarray((values * values).sum(axis=0)).reshape(-1)
                total[genes] += np.asarray(values.sum(axis=0)).reshape(-1)
        if not np.isfinite(yty).all():
            raise InputError(self._complaint(size))
        return YtX, YtZ, yty, total

    def differences(
        self, X: Matrix, Z: Matrix, chosen: np.ndarray, mean: np.ndarray, size: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The products of some genes, of their differences from a constant of each."""
        YtX, YtZ = (np.zeros((len(chosen), M.shape[1])) for M in (X, Z))
        yty = np.zeros(len(chosen))
        for cells, genes, values in self.blocks(size):
            first, last, _ = genes.indices(self.shape[1])
            own = slice(*np.searchsorted(chosen, [first, last]))
            d = _dense(values[:, chosen[own] - first]) - mean[own]
            YtX[own] += _dense(d.T @ X[cells])
            YtZ[own] += _dense(d.T @ Z[cells])
            yty[own] += (d * d).sum(axis=0)
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
    if np.ma.is_masked(part):
        raise InputError(
            f"{name} is a masked array with {np.ma.count_masked(part)} masked values or more; "
            "give complete values: leave cells or genes with missing ones out, or fill them in."
        )
    part = part if is_sparse(part) else np.asarray(part)
    if part.dtype.kind not in "biuf":
        raise InputError(f"{name} holds values of type {part.dtype}; real numbers are needed.")
    if not is_sparse(part):
        return np.asarray(part, dtype=np.float64)
    kind = sp.csc_array if part.format == "csc" else sp.csr_array
    block = kind(part, dtype=np.float64, copy=True)
    block.sum_duplicates()
    return block


def _not_finite(values: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the values that are not finite, in the order of rows."""
    if not is_sparse(values):
        row, column = np.nonzero(~np.isfinite(values))
        return row, column
    entries = sp.csr_array(values).tocoo()
    bad = ~np.isfinite(entries.data)
    return entries.row[bad], entries.col[bad]


def _dense(product: Matrix) -> np.ndarray:
    return np.asarray(product.toarray() if is_sparse(product) else product)


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
        repeated = listed(index[index.duplicated()].unique(), 5)
        raise InputError(f"names of {what} occur more than once: {repeated}.")
    return names


def _sizes(component_sizes: Sequence[int] | int, q: int) -> tuple[int, ...]:
    given = np.atleast_1d(np.asarray(component_sizes))
    sizes = tuple(int(s) for s in given)
    if not sizes or min(sizes) < 0 or any(s != g for s, g in zip(sizes, given, strict=True)):
        raise InputError(f"component_sizes are whole numbers from 1 on; found {list(given)}.")
    try:
        find_pairs(sizes)
    except ValueError as error:
        raise InputError(
            f"component_sizes {list(sizes)}: {error}. A size of 0 is the covariance of the two "
            "components before it, of equal sizes, such as the intercepts and slopes of subjects."
        ) from error
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
