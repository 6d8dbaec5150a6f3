"""Cross-products over groups: weighted sums of designs with the sums of the groups.

With covariates x_0 = 1, x_1 .. x_m, a design on groups writes X = Σ_k D_k x_k and Z = Σ_k W_k x_k,
where D_k and W_k have one row per group. From the sums of each group over its cells,
m_kl = Σ x_k x_l and S_k = Σ x_k y, follow

    X'X = Σ_kl D_k' diag(m_kl) D_l        Y'X = Σ_k S_k' D_k
    Z'X = Σ_kl W_k' diag(m_kl) D_l        Y'Z = Σ_k S_k' W_k
    Z'Z = Σ_kl W_k' diag(m_kl) W_l        y'y = Σ Σ y²
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from flashmm.cells.groups import GroupStatistics
from flashmm.design.columns import RandomComponent

Matrix = Any  # a NumPy array or a SciPy sparse array

# Columns of Z above which Z'Z is kept sparse.
MAX_DENSE_COLUMNS = 2_000


def cross(groups: GroupStatistics, fixed: np.ndarray, rows: Any = slice(None)) -> np.ndarray:
    """Σ_k S_k'D_k over some groups, (genes, coefficients)."""
    total = np.zeros((groups.n_genes, fixed.shape[2]))
    for k, D in enumerate(fixed):
        if D[rows].any():
            total += groups.cross_sum(k)[rows].T @ D[rows]
    return total


def layers(components: Sequence[RandomComponent]) -> list[sp.csr_array | None]:
    """W_k of all components beside each other, for each k; None where all are zero."""
    rows = next(w.shape[0] for c in components for w in c.weights if w is not None)

    def side_by_side(weights: Sequence[sp.csr_array | None]) -> sp.csr_array | None:
        if all(w is None for w in weights):
            return None
        shapes = ((rows, len(c.levels)) for c in components)
        blocks = [sp.csr_array(s) if w is None else w for s, w in zip(shapes, weights, strict=True)]
        return sp.csr_array(sp.hstack(blocks, format="csr"))

    return [side_by_side(weights) for weights in zip(*(c.weights for c in components), strict=True)]


def weighted(groups: GroupStatistics, left: Sequence[Any], right: Sequence[Any]) -> Any:
    """Σ_kl A_k' diag(m_kl) B_l; sparse if both sides are."""
    total: Any = None
    for k, A in enumerate(left):
        for j, B in enumerate(right):
            if A is None or B is None or not (is_sparse(B) or B.any()):
                continue
            m = groups.moment(k, j)
            product = A.T @ (sp.diags_array(m) @ B if is_sparse(B) else m[:, None] * B)
            total = product if total is None else total + product
    return total


def gram(ZtZ: Matrix) -> np.ndarray | sp.csr_array:
    """Return Z'Z dense where it is small, else as CSR."""
    dense = ZtZ.shape[0] <= MAX_DENSE_COLUMNS
    return np.asarray(ZtZ.toarray()) if dense else sp.csr_array(ZtZ)


def is_sparse(matrix: Any) -> bool:
    """Whether a matrix is one of SciPy's sparse kinds."""
    return bool(sp.issparse(matrix))
