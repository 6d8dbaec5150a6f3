"""Test many candidate columns against several traits, with the rotation of one fitted model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from tqdm.auto import tqdm

from flashmm.kernels.kronecker import (
    Evaluation,
    Tests,
    candidate_products,
    candidate_tests,
    covariates_beside,
)
from flashmm.kernels.tails import chi2_tail, f_tail
from flashmm.kernels.threads import single_blas_thread
from flashmm.multitrait.inputs import is_sparse, read_table, read_trait_design, row_order
from flashmm.multitrait.model import TraitModel
from flashmm.options import InputError, Status, note
from flashmm.shown import Shown

# Numbers held at a time for one block of candidates.
BLOCK_ELEMENTS = 4_000_000
# Part of a candidate's squared norm that X must leave, beyond rounding.
NOTHING_LEFT = 1e-10
TESTS = ("lrt", "f")


@dataclass(frozen=True, eq=False)
class TraitScan(Shown):
    """Effects of candidates on several traits, one model per candidate.

    The covariance K = C₀ ⊗ GG' + C₁ ⊗ I is the fitted one but for a factor s, which is estimated
    anew beside every candidate by maximum likelihood, s = r'K⁻¹r / (n·p).

    Attributes
    ----------
    coef : (candidates, coefficients) array
        Effects: columns of the trait design, for each the columns of the candidate. NaN where the
        candidate cannot be estimated.
    cov : (candidates, coefficients, coefficients) array
        Their covariance, s times what the fitted covariance gives.
    loglik : (candidates,) array
        ML log-likelihood with s at its best (also for a background fitted by REML, whose
        restricted likelihoods of different fixed effects cannot be compared).
    scale : (candidates,) array
        The factor s.
    statistic : (candidates,) array
        2(loglik - null_loglik), or F.
    p_value, log10_p : (candidates,) arrays
        From χ² with `df` degrees of freedom, or from F with (`df`, `df_residual`); `log10_p` is
        finite where p underflows.
    df, df_residual : int
        Coefficients per candidate, and n·p less all fixed effects.
    null_loglik, null_scale : float
        The same without a candidate.
    status : (candidates,) array of str
        "ok" or "not_estimable".
    candidates, coefficients : tuple of str
        Names.
    test : {"lrt", "f"}
        Which statistic.
    covariate_coef, covariate_std_error : (candidates, c, a) arrays or None
        Effects of X beside each candidate, if they were asked for.
    notes : tuple of str
        What was decided for the user.
    """

    coef: np.ndarray
    cov: np.ndarray
    loglik: np.ndarray
    scale: np.ndarray
    statistic: np.ndarray
    p_value: np.ndarray
    log10_p: np.ndarray
    df: int
    df_residual: int
    null_loglik: float
    null_scale: float
    status: np.ndarray
    candidates: tuple[str, ...]
    coefficients: tuple[str, ...]
    test: str
    covariate_coef: np.ndarray | None = None
    covariate_std_error: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    @property
    def std_error(self) -> np.ndarray:
        """Standard errors of the effects, (candidates, coefficients)."""
        return np.sqrt(np.einsum("nss->ns", self.cov))

    def to_frame(self) -> pd.DataFrame:
        """One row per candidate.

        Returns
        -------
        pandas.DataFrame
            Columns candidate, estimate and std_error of every coefficient, loglik, statistic, df,
            p_value, log10_p, status.
        """
        columns: dict[str, Any] = {"candidate": np.array(self.candidates, dtype=object)}
        for j, name in enumerate(self.coefficients):
            columns[f"estimate:{name}"] = self.coef[:, j]
            columns[f"std_error:{name}"] = self.std_error[:, j]
        for name in ("loglik", "statistic", "df", "p_value", "log10_p", "status"):
            columns[name] = getattr(self, name)
        return pd.DataFrame(columns)

    def __repr__(self) -> str:
        ok = self.status == Status.OK
        best = f", smallest p {np.nanmin(self.p_value):.3g}" if ok.any() else ""
        return (
            f"TraitScan({len(self.candidates)} candidates × {self.df} coefficients, {self.test}: "
            f"{ok.sum()} ok{best})"
        )


@dataclass(frozen=True, eq=False)
class _Columns:
    """Candidate columns, read in blocks."""

    values: Any
    rows: np.ndarray
    names: tuple[str, ...]
    size: int

    @classmethod
    def of(cls, model: TraitModel, candidates: Any, size: int) -> _Columns:
        """Check candidates and match their rows with the subjects of the model."""
        if isinstance(candidates, pd.Series):
            candidates = candidates.to_frame()
        values, names = candidates, _column_names(candidates)
        if is_sparse(candidates):
            values = sparse.csc_array(candidates)
        elif not isinstance(candidates, pd.DataFrame) and not _is_numeric_matrix(candidates):
            values = read_table("candidates", candidates, "candidate").values
            names = _column_names(values)
        total = values.shape[1]
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise InputError(
                f"columns_per_test must be a whole number of at least 1; found {size!r}."
            )
        if total == 0 or total % size:
            raise InputError(
                f"{total} candidate columns cannot be tested {size} at a time: columns_per_test "
                "must divide their number."
            )
        rows = _rows(model, candidates, values.shape[0])
        if size > 1:
            names = tuple(f"{names[j]}…{names[j + size - 1]}" for j in range(0, total, size))
        return cls(values, rows, names, size)

    def block(self, start: int, stop: int) -> np.ndarray:
        """Columns of the tests from `start` to `stop`, (n, columns)."""
        chosen = slice(start * self.size, stop * self.size)
        if isinstance(self.values, pd.DataFrame):
            block = read_table("candidates", self.values.iloc[:, chosen], "candidate").values
        elif is_sparse(self.values):
            block = self.values[:, chosen].toarray()
        else:
            block = self.values[:, chosen]
        return np.asarray(block[self.rows], dtype=np.float64)


def _is_numeric_matrix(values: Any) -> bool:
    """Whether blocks can be read as they are: genotypes in small integers stay small."""
    return isinstance(values, np.ndarray) and values.ndim == 2 and values.dtype.kind in "biuf"


def _column_names(values: Any) -> tuple[str, ...]:
    if isinstance(values, pd.DataFrame):
        return tuple(str(name) for name in values.columns)
    columns = np.shape(values)[1] if np.ndim(values) == 2 or is_sparse(values) else 1
    return tuple(f"candidate{j + 1}" for j in range(columns))


def _rows(model: TraitModel, candidates: Any, n: int) -> np.ndarray:
    """Rows of the candidates that belong to the subjects of the model, in their order."""
    inputs = model.inputs
    ids = candidates.index if isinstance(candidates, pd.DataFrame) else None
    if ids is not None and not isinstance(ids, pd.RangeIndex):
        if ids.has_duplicates:
            twice = ids[ids.duplicated()][0]
            raise InputError(f"candidates has more than one row named {twice!r}.")
        if not isinstance(inputs.subjects, pd.RangeIndex):
            return row_order("candidates", ids, inputs.subjects, "the fit")
    if n == len(inputs.used):
        return np.flatnonzero(inputs.used)
    if n == len(inputs.subjects):
        return np.arange(n)
    raise InputError(
        f"candidates have {n} rows; the model was fitted to {len(inputs.subjects)} subjects of "
        f"{len(inputs.used)} given. Each subject needs one row, in the order of Y."
    )


def scan(
    model: TraitModel,
    state: Evaluation,
    candidates: Any,
    A1: Any,
    *,
    columns_per_test: int,
    test: str,
    covariates: bool,
    progress: bool | None,
) -> TraitScan | dict[str, TraitScan]:
    """Scan candidates with one trait design, or with several by name; see `MultiTraitFit.scan`."""
    if test not in TESTS:
        raise InputError(f"test must be one of {', '.join(TESTS)}; found {test!r}.")
    several = isinstance(A1, Mapping)
    if several and not A1:
        raise InputError("A1 is an empty dictionary; give at least one trait design.")
    columns = _Columns.of(model, candidates, columns_per_test)
    designs = {
        str(name): _design(model, design) for name, design in (A1 if several else {"": A1}).items()
    }
    parts: dict[str, list[_Part]] = {name: [] for name in designs}
    missing = 0
    with single_blas_thread():
        for block, gaps in _blocks(model, columns, covariates, progress):
            missing += gaps
            products = candidate_products(state, model.T, block, columns.size)
            for name, (design, _) in designs.items():
                tests = candidate_tests(state, products, model.unit_design(design))
                parts[name].append(_Part.of(model, state, tests, covariates))
    notes: tuple[str, ...] = ()
    if missing:
        text = (
            f"{missing} candidate columns hold missing or infinite values: their results are NaN. "
            "Fill them (by the mean, say) to have them tested."
        )
        notes = (note(text),)
    results = {
        name: _assemble(model, state, parts[name], columns, names, test, notes)
        for name, (_, names) in designs.items()
    }
    return results if several else results[""]


def _design(model: TraitModel, A1: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """A trait design of candidates: None, the word "common", or a matrix."""
    traits = model.inputs.Y.names
    if isinstance(A1, str):
        if A1 not in ("any", "common"):
            raise InputError(
                f"A1 must be 'any' (one effect per trait), 'common' (one for all) or a matrix with "
                f"one row per trait; found {A1!r}."
            )
        return (
            (np.eye(len(traits)), traits)
            if A1 == "any"
            else (
                np.ones((len(traits), 1)),
                ("common",),
            )
        )
    return read_trait_design("A1", A1, traits)


def _blocks(
    model: TraitModel, columns: _Columns, covariates: bool, progress: bool | None
) -> Iterator[tuple[np.ndarray, int]]:
    """Blocks of candidates without what X explains of them, and how many columns have gaps."""
    total = len(columns.names)
    step = max(1, BLOCK_ELEMENTS // (model.n_subjects * columns.size))
    # (A₁ ⊗ x) can be replaced by its part beside A ⊗ X where A spans all traits
    project = model.A.shape[0] == model.A.shape[1] and not covariates
    disable = None if progress is None else not progress
    with tqdm(total=total, desc="scan", unit="candidates", disable=disable) as bar:
        for start in range(0, total, step):
            block = columns.block(start, min(start + step, total))
            gaps = ~np.isfinite(block).all(0)
            block[:, gaps] = 0.0
            if project:
                whole = np.einsum("ij,ij->j", block, block)
                block = block - model.X_unit @ (model.X_unit.T @ block)
                left = np.einsum("ij,ij->j", block, block)
                block[:, left <= NOTHING_LEFT * whole] = 0.0
            yield block, int(gaps.sum())
            bar.update(min(step, total - start))


@dataclass(frozen=True, eq=False)
class _Part:
    """Results of one block."""

    tests: Tests
    covariate_coef: np.ndarray | None
    covariate_variance: np.ndarray | None

    @classmethod
    def of(cls, model: TraitModel, state: Evaluation, tests: Tests, covariates: bool) -> _Part:
        """Keep what is asked for of a block."""
        if not covariates:
            return cls(tests._replace(pull=tests.pull[:0]), None, None)
        basis = model.coefficient_basis
        beside = covariates_beside(state, tests, basis)
        shift = basis @ model.B_shift.T.ravel()
        return cls(tests, beside.coef + shift, beside.variance)


def _assemble(
    model: TraitModel,
    state: Evaluation,
    parts: list[_Part],
    columns: _Columns,
    effects: tuple[str, ...],
    test: str,
    notes: tuple[str, ...],
) -> TraitScan:
    """Join blocks and turn reductions of the sum of squares into tests."""
    n, p = model.inputs.Y.values.shape
    reduction = np.concatenate([part.tests.reduction for part in parts])
    cov = np.concatenate([part.tests.cov for part in parts])
    df = cov.shape[1]
    df_residual = n * p - state.traits.n_coefficients - df
    if df_residual < 1:
        raise InputError(
            f"{n} subjects × {p} traits leave no degrees of freedom beside {df} coefficients of a "
            "candidate: test fewer columns at a time."
        )
    scale, loglik = model.rescaled(state, reduction)
    null_scale, null_loglik = model.rescaled(state)
    if test == "lrt":
        statistic = n * p * np.log(null_scale / scale)
        p_value, log10_p = chi2_tail(statistic, df)
    else:
        statistic = reduction / df / (n * p * scale / df_residual)
        p_value, log10_p = f_tail(statistic, np.array(float(df)), np.full(len(scale), df_residual))
    estimable = np.concatenate([part.tests.estimable for part in parts])
    return TraitScan(
        coef=np.concatenate([part.tests.coef for part in parts]),
        cov=cov * scale[:, None, None],
        loglik=loglik,
        scale=scale,
        statistic=statistic,
        p_value=p_value,
        log10_p=log10_p,
        df=df,
        df_residual=df_residual,
        null_loglik=float(null_loglik),
        null_scale=float(null_scale),
        status=np.where(estimable, str(Status.OK), str(Status.NOT_ESTIMABLE)),
        candidates=columns.names,
        coefficients=_coefficient_names(effects, columns.size),
        test=test,
        **_covariates(model, parts, scale),
        notes=notes,
    )


def _coefficient_names(effects: tuple[str, ...], size: int) -> tuple[str, ...]:
    if size == 1:
        return effects
    return tuple(f"{effect}[{j + 1}]" for effect in effects for j in range(size))


def _covariates(
    model: TraitModel, parts: list[_Part], scale: np.ndarray
) -> dict[str, np.ndarray | None]:
    """Effects of X beside the candidates as (candidates, c, a), NaN for aliased covariates."""
    if parts[0].covariate_coef is None:
        return {"covariate_coef": None, "covariate_std_error": None}
    coef = np.concatenate([part.covariate_coef for part in parts])
    variance = np.concatenate([part.covariate_variance for part in parts])
    shape = (len(coef), model.A.shape[1], len(model.kept))
    found = []
    for values in (coef, np.sqrt(variance * scale[:, None])):
        full = np.full(shape, np.nan)
        full[:, :, model.kept] = values.reshape(len(coef), model.A.shape[1], -1)
        found.append(full.swapaxes(1, 2))
    return {"covariate_coef": found[0], "covariate_std_error": found[1]}
