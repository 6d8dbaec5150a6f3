"""The log-linear model of the raw counts behind a fit: exposure, columns, contrasts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from flashmm.cells.groups import N_CELLS, GroupStatistics, moment_name
from flashmm.cells.size_factors import GENES, LIBSIZE, RECORD, library_sizes
from flashmm.design.centring import centred, of_centred
from flashmm.design.contrasts import Contrast
from flashmm.design.records import GroupDesign
from flashmm.inference.model_fit import ModelFit
from flashmm.kernels import log_linear
from flashmm.names import some_names
from flashmm.options import InputError, note

# Weights that are rounding relative to the largest.
NOTHING = 1e-8


def exposures(groups: GroupStatistics) -> np.ndarray:
    """Library sizes, times size factors, added over the cells of each group: (groups,).

    The sum of `libsize` where it is a stored covariate; else the total of the raw counts times the
    size factor of the group, if it has one; for groups that were read for some of their genes only,
    what a log-normal distribution of the library sizes makes of the sums of log(libsize).

    Raises
    ------
    InputError
        Some of the genes, and no sums of library sizes or their logarithms.
    """
    stored = moment_name(LIBSIZE) in groups.obs  # with size factors, if the groups have any
    if GENES in groups.provenance and not stored:
        return _log_normal_sums(groups)
    sizes = library_sizes(groups)
    factors = groups.provenance.get(RECORD, {}).get("factors")
    if factors is None or stored:
        return sizes
    return sizes * groups.obs.index.map(factors).to_numpy(dtype=np.float64)


def _log_normal_sums(groups: GroupStatistics) -> np.ndarray:
    """Sums over cells of exp(x) from those of x and x²: n exp(m + s²/2)."""
    x = f"log({LIBSIZE})"
    if x not in groups.covariates:
        raise InputError(
            f"The library sizes of groups with some of the genes of a file need the covariate {x} "
            "or 'libsize'; give their sums as exposure."
        )
    k = groups.covariates.index(x) + 1
    n = groups.moment(0, 0)
    mean, square = groups.moment(k, 0) / n, groups.moment(k, k) / n
    return n * np.exp(mean + np.maximum(square - mean**2, 0.0) / 2)


def checked_exposure(groups: GroupStatistics, exposure: Any) -> np.ndarray:
    """Given sums of library sizes as an array (groups,), or an InputError that says what is not."""
    values = np.asarray(exposure, dtype=np.float64)
    if values.shape != (groups.n_groups,):
        raise InputError(
            f"exposure has one number per group, {groups.n_groups}; found the shape {values.shape}."
        )
    if not (np.isfinite(values) & (values > 0)).all():
        raise InputError(
            f"exposure is the positive sum of library sizes of each group; "
            f"{int((~(values > 0)).sum())} of {len(values)} are not positive."
        )
    return values


# ---- the model of counts ----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class CountModel:
    """The log-linear model: its groups, and where its columns come from.

    `basis` (coefficients, coefficients of the fit) has the fit's columns that are used, and zeros
    for a constant that had to be added. Its columns X are those less X `centring`.
    """

    design: log_linear.GroupDesign
    groups: np.ndarray
    kept: np.ndarray
    constant: np.ndarray
    centring: np.ndarray | None

    def contrast(self, row: np.ndarray) -> np.ndarray:
        """A contrast (p,) of the fit in the fit's columns that are used."""
        return of_centred(row[None, self.kept], self.centring)[0]


def count_model(
    groups: GroupStatistics,
    design: GroupDesign,
    estimable: np.ndarray,
    sizes: np.ndarray,
    subject: np.ndarray,
    centring: np.ndarray | None = None,
) -> CountModel:
    """Take the columns of X that are constant in groups, on the groups with counts.

    `centring` is that of the statistics.
    """
    kept = estimable & ~(design.fixed[1:] != 0).any((0, 1))
    used = np.flatnonzero(sizes > 0)
    centring = None if centring is None else centring[np.ix_(kept, kept)]
    X = centred(design.fixed[0][np.ix_(used, kept)], centring)
    ones = np.ones((len(used), 1))
    constant = np.linalg.lstsq(X, ones[:, 0], rcond=None)[0] if X.shape[1] else np.zeros(0)
    if not np.allclose(X @ constant, 1.0, atol=NOTHING):
        X, constant = np.hstack([X, ones]), np.zeros(X.shape[1])
    counted = groups.obs[N_CELLS].to_numpy(dtype=np.float64)[used]
    codes = np.unique(subject[used], return_inverse=True)[1]
    on_groups = log_linear.GroupDesign(X, sizes[used], counted, codes)
    return CountModel(on_groups, used, kept, constant, centring)


def rows_of(
    fit: ModelFit, contrasts: tuple[Contrast, ...], model: CountModel, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Contrasts of the columns of the count model, and which contrasts they are."""
    rows, found = [], []
    left_out: dict[str, list[str]] = {}
    for k, contrast in enumerate(contrasts):
        row = contrast.basis[0]
        why = _no_fold_change(contrast, row, fit, model)
        if why is None:
            extra = model.design.X.shape[1] - int(model.kept.sum())
            rows.append(np.append(model.contrast(row), np.zeros(extra)))
            found.append(k)
        elif why:
            left_out.setdefault(why, []).append(contrast.name)
    notes += [
        note(f"There is no fold change of {some_names(names)}: {why}.")
        for why, names in left_out.items()
    ]
    return np.array(rows), np.array(found, dtype=int)


def _no_fold_change(
    contrast: Contrast, row: np.ndarray, fit: ModelFit, model: CountModel
) -> str | None:
    """Why a contrast is no fold change; None where it is one, empty where its test says it."""
    X = model.design.X
    if len(contrast.basis) > 1:
        return "a joint test has no single one"
    if (row[~fit.estimable] != 0).any():
        return ""
    if (row[~model.kept] != 0).any():
        return "it holds a covariate that varies between cells"
    if np.linalg.matrix_rank(X / np.linalg.norm(X, axis=0)) < X.shape[1]:
        return "without groups that have no counts, the columns of the design are not independent"
    if len(model.constant):
        row = model.contrast(row)
        if abs(row @ model.constant) > NOTHING * np.abs(row).max():
            return "it is a mean, not a difference"
    return None
