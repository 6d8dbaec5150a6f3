"""Test contrasts of the fixed effects, with degrees of freedom that know about subjects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from flashmm.contrasts import Contrast, resolve_contrasts
from flashmm.crossproducts import SummaryStatistics
from flashmm.kernels import ddf as kernels
from flashmm.kernels.engine import VarianceForms
from flashmm.lmm import LMMFit
from flashmm.options import DesignError, FitOptions, InputError, Status, note
from flashmm.subjects import between_df, estimates_without, independent_subjects

JACKKNIFE = ("jackknife", "jackknife-refit")
DDF = ("kenward-roger", "satterthwaite", "residual", *JACKKNIFE)
ALTERNATIVES = ("two-sided", "less", "greater")

# Variance of a contrast, relative to the one that the total variance would give it, that is none.
NO_VARIANCE = 1e-12

# Names of the tidy columns in the words of pertpy's linear models.
PERTPY_NAMES = {"gene": "variable", "estimate": "log_fc", "std_error": "sd", "statistic": "t_value"}


class FittedBlock(Protocol):
    """Fitted genes that share a design, with what their tests need.

    Components θ end with the residual. Contrasts are rows (C, p) over all coefficients, zero where
    `kept` is not.
    """

    @property
    def index(self) -> np.ndarray:
        """Which genes of the fit, (block,) int."""

    @property
    def kept(self) -> np.ndarray:
        """Coefficients that the design can estimate, (p,) bool."""

    @property
    def df_residual(self) -> int:
        """Number of observations minus the rank of X."""

    @property
    def theta(self) -> np.ndarray:
        """Variance components, (block, k)."""

    def observed_information(self) -> np.ndarray:
        """Observed information of θ, (block, k, k)."""

    def variance_forms(self, left: np.ndarray, right: np.ndarray) -> VarianceForms:
        """Covariances of the rows of `left` and `right` times β̂, and derivatives in θ."""


class ModelFit(Protocol):
    """What a fit offers to be tested; `LMMFit` and `KinshipFit` do."""

    @property
    def genes(self) -> pd.Index:
        """Names of the genes."""

    @property
    def coefficients(self) -> tuple[str, ...]:
        """Names of the coefficients."""

    @property
    def coefficient_columns(self) -> tuple[frozenset[str], ...]:
        """Data columns that each coefficient holds; empty where they are not known."""

    @property
    def coef(self) -> np.ndarray:
        """Fixed effects, (genes, p)."""

    @property
    def fisher_information(self) -> np.ndarray:
        """Expected information of θ, (genes, k, k)."""

    @property
    def status(self) -> np.ndarray:
        """One `Status` per gene."""

    @property
    def fitted(self) -> np.ndarray:
        """Genes that can be tested, (genes,) bool."""

    @property
    def estimable(self) -> np.ndarray:
        """Coefficients that were estimated for any gene, (p,) bool."""

    @property
    def options(self) -> FitOptions:
        """How it was fitted."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided for the user."""

    @property
    def stats(self) -> SummaryStatistics | None:
        """Statistics of cells that stand behind the fit, if any."""

    def test_blocks(self) -> Iterator[FittedBlock]:
        """Fitted genes in blocks of bounded memory and one design."""


@dataclass(frozen=True, eq=False)
class TestTable:
    """Tests of contrasts for every gene.

    Attributes
    ----------
    estimate, std_error : (genes, contrasts) arrays
        c'β̂ and its standard error (Kenward-Roger's where asked for); NaN for joint F tests.
    statistic : (genes, contrasts) array
        t, or F for joint tests.
    df : (genes, contrasts) array
        Denominator degrees of freedom.
    df_num : (contrasts,) array
        Numerator degrees of freedom; one for single contrasts.
    p_value, log10_p, adj_p_value : (genes, contrasts) arrays
        `log10_p` is finite where p underflows; adjusted per contrast by Benjamini-Hochberg.
    status : (genes, contrasts) array of str
        The gene's `Status`, or "not_estimable".
    genes : pandas.Index
        Names of the genes.
    contrasts : tuple of Contrast
        What was tested.
    ddf, alternative : str
        How it was tested.
    notes : tuple of str
        What was decided for the user.
    """

    __test__ = False  # the name begins with "Test": pytest must not collect it

    estimate: np.ndarray
    std_error: np.ndarray
    statistic: np.ndarray
    df: np.ndarray
    df_num: np.ndarray
    p_value: np.ndarray
    log10_p: np.ndarray
    adj_p_value: np.ndarray
    status: np.ndarray
    genes: pd.Index
    contrasts: tuple[Contrast, ...]
    ddf: str
    alternative: str
    notes: tuple[str, ...] = ()

    @property
    def contrast_names(self) -> tuple[str, ...]:
        """Names of the contrasts."""
        return tuple(contrast.name for contrast in self.contrasts)

    def to_frame(self, names: str = "flashmm") -> pd.DataFrame:
        """One row per contrast and gene.

        Parameters
        ----------
        names : {"flashmm", "pertpy"}
            Column names: the package's own, or those of pertpy's linear models.

        Returns
        -------
        pandas.DataFrame
            Columns gene, contrast, estimate, std_error, statistic, df, (df_num, if any test is
            joint,) p_value, log10_p, adj_p_value, status; contrasts one after another, genes in
            their order.
        """
        if names not in ("flashmm", "pertpy"):
            raise InputError(f"names must be 'flashmm' or 'pertpy'; found {names!r}.")
        G, C = self.p_value.shape
        columns: dict[str, Any] = {
            "gene": np.tile(np.asarray(self.genes, dtype=object), C),
            "contrast": np.repeat(np.array(self.contrast_names, dtype=object), G),
        }
        for name in ("estimate", "std_error", "statistic", "df"):
            columns[name] = getattr(self, name).T.ravel()
        if (self.df_num > 1).any():
            columns["df_num"] = np.repeat(self.df_num, G)
        for name in ("p_value", "log10_p", "adj_p_value", "status"):
            columns[name] = getattr(self, name).T.ravel()
        frame = pd.DataFrame(columns)
        return frame if names == "flashmm" else frame.rename(columns=PERTPY_NAMES)

    def __repr__(self) -> str:
        hits = int((self.adj_p_value < 0.05).sum())
        return (
            f"TestTable({len(self.genes)} genes × {len(self.contrasts)} contrasts, {self.ddf}, "
            f"{self.alternative}: {hits} with adjusted p < 0.05)"
        )


def contrast_tests(
    fit: ModelFit,
    contrasts: Any = None,
    ddf: str | None = None,
    alternative: str = "two-sided",
) -> TestTable:
    """Test coefficients and contrasts of every gene.

    Parameters
    ----------
    fit : LMMFit or KinshipFit
        The fitted models.
    contrasts : optional
        None tests every coefficient. A string is a column name (every coefficient whose term holds
        the column) or an expression in coefficient names; a list holds several; a dictionary maps
        names to expressions, to ``{coefficient: weight}``, or to lists of them for a joint F test;
        a matrix has R's shape, coefficients × contrasts.
    ddf : {"kenward-roger", "satterthwaite", "residual", "jackknife", ...}, optional
        Denominator degrees of freedom; default "kenward-roger" for REML, "satterthwaite" for ML.
        "residual" is n - rank(X) as in FLASHMM: with few subjects it rejects too often for
        effects between subjects. "jackknife" takes the variance from leaving out one subject at a
        time, components held (see `flashmm.jackknife`); "jackknife-refit" estimates them anew.
    alternative : {"two-sided", "less", "greater"}
        Direction of the alternative of single contrasts.

    Returns
    -------
    TestTable
        Estimates, standard errors, statistics, df, p-values and a status, genes × contrasts.

    Raises
    ------
    InputError
        An unknown option, Kenward-Roger for an ML fit, or a one-sided joint test.
    FormulaError
        A contrast that cannot be read.
    DesignError
        A contrast over a column with a level that only one subject has.

    Notes
    -----
    Kenward & Roger 1997 (as pbkrtest), Satterthwaite as lmerTest (Kuznetsova 2017). Kenward-Roger
    keeps components at zero in the information, so that a singular fit does not return to
    cell-level df.
    """
    ddf = _checked_ddf(fit, ddf, alternative)
    resolved = resolve_contrasts(contrasts, fit.coefficients, fit.coefficient_columns)
    if alternative != "two-sided" and any(len(c.matrix) > 1 for c in resolved):
        raise InputError(
            f"Joint F tests have no direction; alternative={alternative!r} was asked for."
        )
    everything = contrasts is None
    unreplicated = _unreplicated_columns(fit)
    _check_replication(fit, resolved, unreplicated, refuse=not everything)
    estimable = np.array(
        [_is_estimable(fit, c, unreplicated if everything else {}) for c in resolved]
    )

    table = _empty_table(fit, resolved)
    status = np.where(estimable, fit.status[:, None], str(Status.NOT_ESTIMABLE))
    table["status"] = status.astype(f"<U{max(map(len, Status))}")
    notes = fit.notes
    if ddf in JACKKNIFE:
        notes += _jackknife_tests(table, fit, resolved, estimable, ddf == "jackknife-refit")
    else:
        for block in fit.test_blocks():
            _test_block(table, fit, resolved, estimable, _State.of(fit, block, ddf))
    _fill_p_values(table, alternative)
    notes += _note_cell_df(fit, table, ddf)
    if not everything and ddf not in JACKKNIFE:
        notes += _note_cells_as_replicates(fit, resolved)
    return TestTable(
        **table, genes=fit.genes, contrasts=resolved, ddf=ddf, alternative=alternative, notes=notes
    )


def _checked_ddf(fit: ModelFit, ddf: str | None, alternative: str) -> str:
    reml = fit.options.method == "REML"
    ddf = ddf or ("kenward-roger" if reml else "satterthwaite")
    if ddf not in DDF:
        raise InputError(f"ddf must be one of {', '.join(DDF)}; found {ddf!r}.")
    if alternative not in ALTERNATIVES:
        raise InputError(
            f"alternative must be one of {', '.join(ALTERNATIVES)}; found {alternative!r}."
        )
    if ddf == "kenward-roger" and not reml:
        raise InputError(
            "ddf='kenward-roger' is defined for REML fits and this one is ML: fit with "
            "method='REML', or use ddf='satterthwaite'."
        )
    return ddf


def _unreplicated_columns(fit: ModelFit) -> dict[str, str]:
    """Columns between subjects with a level that one subject has -> that, in words."""
    stats = fit.stats
    if stats is None or stats.design is None or stats.groups is None:
        return {}
    design, groups = stats.design, stats.groups
    subject = design.random[0].columns[0]
    found = {}
    for column in sorted(set().union(*fit.coefficient_columns) & set(groups.obs.columns)):
        values = groups.obs[column]
        if column == subject or pd.api.types.is_numeric_dtype(values):
            continue
        pairs = groups.obs[[subject, column]].astype(str).drop_duplicates()
        if pairs[subject].duplicated().any():
            continue  # varies within subjects
        counts = pairs[column].value_counts(sort=False)
        if (counts == 1).any():
            levels = ", ".join(repr(level) for level in counts.index[counts == 1])
            found[column] = f"level {levels} of {column!r} has one {subject}"
    return found


def _columns_of(fit: ModelFit, contrast: Contrast) -> frozenset[str]:
    """Data columns that the coefficients of a contrast hold."""
    columns = fit.coefficient_columns
    if not columns:
        return frozenset()
    used = np.flatnonzero((contrast.matrix != 0).any(0))
    return frozenset().union(*(columns[j] for j in used))


def _check_replication(
    fit: ModelFit, contrasts: tuple[Contrast, ...], unreplicated: dict[str, str], refuse: bool
) -> None:
    """Refuse (or, when every coefficient is tested, note) contrasts without replicate subjects."""
    for column, said in unreplicated.items():
        touched = [c.name for c in contrasts if column in _columns_of(fit, c)]
        if not touched:
            continue
        text = (
            f"{said}, and an effect between subjects needs at least two per level: "
            f"{', '.join(map(repr, touched[:3]))} cannot be tested. Leave that level's cells out, "
            "or test something else."
        )
        if refuse:
            raise DesignError(text)
        note(text)


def _is_estimable(fit: ModelFit, contrast: Contrast, unreplicated: dict[str, str]) -> bool:
    """Whether a contrast avoids aliased coefficients and unreplicated columns."""
    aliased = bool((contrast.matrix[:, ~fit.estimable] != 0).any())
    return not aliased and not (_columns_of(fit, contrast) & set(unreplicated))


def _empty_table(fit: ModelFit, contrasts: tuple[Contrast, ...]) -> dict[str, Any]:
    shape = (len(fit.genes), len(contrasts))
    names = ("estimate", "std_error", "statistic", "df", "p_value", "log10_p", "adj_p_value")
    table: dict[str, Any] = {name: np.full(shape, np.nan) for name in names}
    table["df_num"] = np.array([np.linalg.matrix_rank(c.matrix) for c in contrasts], dtype=float)
    return table


@dataclass(frozen=True, eq=False)
class _State:
    """A block of genes with the covariance of θ̂ that the degrees of freedom are made of."""

    block: FittedBlock
    coef: np.ndarray
    theta_cov: np.ndarray
    ddf: str

    @classmethod
    def of(cls, fit: ModelFit, block: FittedBlock, ddf: str) -> _State:
        """Satterthwaite needs the observed information, so the data once more."""
        if ddf == "satterthwaite":
            theta_cov = kernels.free_theta_cov(block.observed_information(), block.theta)
        else:
            theta_cov = kernels.invert_information(fit.fisher_information[block.index])
        return cls(block, fit.coef[block.index], theta_cov, ddf)

    def estimate(self, rows: np.ndarray) -> np.ndarray:
        """Rows (C, p) times β̂, (block, C)."""
        kept = self.block.kept
        # gene by gene, so that a result does not depend on its block
        return (self.coef[:, None, kept] @ rows[:, kept].T)[:, 0]


def _test_block(
    table: dict[str, Any],
    fit: ModelFit,
    contrasts: tuple[Contrast, ...],
    estimable: np.ndarray,
    state: _State,
) -> None:
    """Fill estimate, std_error, statistic and df of one block of genes."""
    index, aliased = state.block.index, ~state.block.kept
    here = np.array([not (c.matrix[:, aliased] != 0).any() for c in contrasts])
    table["status"][np.ix_(index, ~here)] = Status.NOT_ESTIMABLE
    joint, estimable = table["df_num"] > 1, estimable & here
    columns = np.flatnonzero(estimable & ~joint)
    if len(columns):
        rows = np.stack([_one_row(contrasts[j].matrix) for j in columns])
        results, none = _t_tests(rows, state)
        for name, values in results.items():
            table[name][np.ix_(index, columns)] = values
        gene, contrast = np.nonzero(none)
        table["status"][index[gene], columns[contrast]] = Status.ZERO_VARIANCE
    for j in np.flatnonzero(estimable & joint):
        test, none = _f_test(_independent_rows(contrasts[j].matrix), state)
        table["statistic"][index, j], table["df"][index, j] = test
        table["status"][index[none], j] = Status.ZERO_VARIANCE


def _jackknife_tests(
    table: dict[str, Any],
    fit: ModelFit,
    contrasts: tuple[Contrast, ...],
    estimable: np.ndarray,
    refits: bool,
) -> tuple[str, ...]:
    """Fill the table from the estimates without each subject; say which cannot be left out."""
    if not isinstance(fit, LMMFit):
        raise InputError(
            f"The jackknife leaves out subjects of a fit of fit_lmm; this is a "
            f"{type(fit).__name__}. Use ddf='kenward-roger'."
        )
    subjects = independent_subjects(fit.stats)
    df = between_df(fit.stats, fit.model.kept, subjects)
    columns = np.flatnonzero(estimable)
    blocks = [_jackknife_rows(contrasts[j].matrix) for j in columns]
    # an empty block first, so that there may be no contrast
    rows = np.vstack([np.zeros((0, len(fit.coefficients))), *blocks])
    ends = np.cumsum([len(block) for block in blocks])
    kept = fit.model.kept
    centre = fit.coef[:, kept] @ rows[:, kept].T
    spread = [np.zeros((fit.n_genes, len(block), len(block))) for block in blocks]
    lost: list[list[str]] = [[] for _ in blocks]
    without = estimates_without(fit, subjects, rows, refits)
    for name, (estimate, possible) in zip(subjects.names, without, strict=True):
        for at, (end, block) in enumerate(zip(ends, blocks, strict=True)):
            own = slice(end - len(block), end)
            change = estimate[:, own] - centre[:, own]
            spread[at] += change[:, :, None] * change[:, None, :]
            lost[at] += [] if possible[own].all() else [str(name)]
    m = len(subjects)
    for at, (j, end, block) in enumerate(zip(columns, ends, blocks, strict=True)):
        few = bool(lost[at]) or df < len(block)
        value = centre[:, end - len(block) : end]
        _fill_jackknife(table, int(j), value, (m - 1) / m * spread[at], df, few)
    said = {contrasts[j].name: who for j, who in zip(columns, lost, strict=True) if who}
    return _note_lost(said, subjects.column, df)


def _jackknife_rows(matrix: np.ndarray) -> np.ndarray:
    rows = _independent_rows(matrix)
    return rows if len(rows) > 1 else _one_row(matrix)[None]


def _fill_jackknife(
    table: dict[str, Any], j: int, centre: np.ndarray, spread: np.ndarray, df: int, few: bool
) -> None:
    """Fill one contrast: estimates (genes, r) and the jackknife covariance (genes, r, r)."""
    r, status = centre.shape[1], table["status"][:, j]
    fitted = np.isin(status, (Status.OK, Status.BOUNDARY))
    if r == 1:
        table["estimate"][:, j] = np.where(fitted, centre[:, 0], np.nan)
    if few:
        status[fitted] = Status.TOO_FEW_SUBJECTS
        return
    status[fitted & ~np.isfinite(spread).all((1, 2))] = Status.NOT_CONVERGED
    fine = fitted & np.isfinite(spread).all((1, 2))
    smallest = np.linalg.eigvalsh(spread[fine])[:, 0]
    none = smallest <= NO_VARIANCE * np.einsum("gaa->g", spread[fine])
    status[np.flatnonzero(fine)[none]] = Status.ZERO_VARIANCE
    fine[np.flatnonzero(fine)[none]] = False
    table["df"][fine, j] = df - r + 1
    if r == 1:
        table["std_error"][fine, j] = np.sqrt(spread[fine, 0, 0])
        table["statistic"][fine, j] = centre[fine, 0] / table["std_error"][fine, j]
        return
    # Hotelling: with V ~ Wishart on df, (df - r + 1)/(df r) b'V⁻¹b ~ F(r, df - r + 1)
    wald = np.linalg.solve(spread[fine], centre[fine][..., None])[..., 0]
    T2 = np.einsum("ga,ga->g", wald, centre[fine])
    table["statistic"][fine, j] = (df - r + 1) / (df * r) * T2


def _note_lost(lost: dict[str, list[str]], column: str, df: int) -> tuple[str, ...]:
    """Say which subjects a contrast cannot do without, or that there are too few of them."""
    if df < 1:
        text = f"There are as many fixed effects between {column}s as {column}s: no jackknife."
        return (note(text),)
    if not lost:
        return ()
    name, who = next(iter(lost.items()))
    return (
        note(
            f"{len(lost)} contrasts have no jackknife, because they cannot be estimated when one "
            f"{column} is left out: {name!r} not without {', '.join(map(repr, who[:3]))}."
        ),
    )


def row_tests(fit: ModelFit, rows: np.ndarray, ddf: str) -> dict[str, np.ndarray]:
    """T tests of the rows (C, p) of a contrast matrix, without names and without words.

    Parameters
    ----------
    fit : ModelFit
        The fitted models.
    rows : (C, p) array
        Contrasts, zero where a coefficient is aliased.
    ddf : {"kenward-roger", "satterthwaite", "residual"}
        Degrees of freedom.

    Returns
    -------
    dict of str to (genes, C) arrays
        estimate, std_error, statistic and df; NaN for genes without a fit.
    """
    shape = (len(fit.genes), len(rows))
    names = ("estimate", "std_error", "statistic", "df")
    result = {name: np.full(shape, np.nan) for name in names}
    for block in fit.test_blocks():
        values, _ = _t_tests(rows, _State.of(fit, block, ddf))
        for name in names:
            result[name][block.index] = values[name]
    return result


def _one_row(matrix: np.ndarray) -> np.ndarray:
    """The single row of a contrast, or the row that spans a joint one of rank one."""
    return matrix[np.abs(matrix).sum(1).argmax()]


def _independent_rows(matrix: np.ndarray) -> np.ndarray:
    """Orthonormal basis of the rows: an F test depends on their span only."""
    _, values, vectors = np.linalg.svd(matrix, full_matrices=False)
    return vectors[values > values[0] * 1e-10]


def _scale(gradient: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Variance that contrasts would have if every component were the sum of all."""
    return np.abs(gradient).sum(-1) * np.abs(theta).sum(1)[:, None]


def _t_tests(rows: np.ndarray, state: _State) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """T tests of the rows (C, p) of a contrast matrix, and where they have no variance."""
    estimate = state.estimate(rows)
    forms = state.block.variance_forms(rows, rows)
    variance = forms.value
    if state.ddf == "kenward-roger":
        variance = kernels.kenward_roger_variance(forms.value, forms.hessian, state.theta_cov)
    if state.ddf == "residual":
        df = np.full(estimate.shape, float(state.block.df_residual))
    else:
        df = kernels.satterthwaite_df(forms.value, forms.gradient, state.theta_cov)
    none = forms.value <= NO_VARIANCE * _scale(forms.gradient, state.block.theta)
    std_error = np.sqrt(np.where(none, np.nan, variance))
    results = {
        "estimate": estimate,
        "std_error": std_error,
        "statistic": estimate / std_error,
        "df": np.where(none, np.nan, df),
    }
    return results, none


def _f_test(rows: np.ndarray, state: _State) -> tuple[kernels.FTest, np.ndarray]:
    """Joint F test of the rows (n, p) of one contrast, and where a row has no variance."""
    n = len(rows)
    left, right = np.tril_indices(n)
    forms = state.block.variance_forms(rows[left], rows[right])
    square = np.empty((n, n), dtype=int)
    square[left, right] = square[right, left] = np.arange(len(left))
    smallest = np.linalg.eigvalsh(forms.value[:, square])[:, 0]
    fine = smallest > NO_VARIANCE * _scale(forms.gradient, state.block.theta).max(1)
    result = np.full((2, len(fine)), np.nan)
    if fine.any():
        result[:, fine] = _f_of(
            state.estimate(rows)[fine],
            VarianceForms(*(part[fine][:, square] for part in forms)),
            state.theta_cov[fine],
            state,
        )
    return kernels.FTest(*result), ~fine


def _f_of(
    estimate: np.ndarray, forms: VarianceForms, theta_cov: np.ndarray, state: _State
) -> kernels.FTest:
    """F test from the covariance (genes, n, n) of n estimates, and its derivatives."""
    covariance, gradient = forms.value, np.moveaxis(forms.gradient, 3, 1)
    if state.ddf == "kenward-roger":
        adjusted = kernels.kenward_roger_variance(covariance, forms.hessian, theta_cov)
        return kernels.kenward_roger_f(estimate, covariance, gradient, adjusted, theta_cov)
    if state.ddf == "satterthwaite":
        return kernels.satterthwaite_f(estimate, covariance, gradient, theta_cov)
    wald = np.linalg.solve(covariance, estimate[..., None])[..., 0]
    statistic = np.einsum("ga,ga->g", estimate, wald) / estimate.shape[1]
    return kernels.FTest(statistic, np.full(len(estimate), float(state.block.df_residual)))


def _fill_p_values(table: dict[str, Any], alternative: str) -> None:
    joint = table["df_num"] > 1
    for columns, tail in (
        (np.flatnonzero(~joint), lambda t, d, _: kernels.t_tail(t, d, alternative)),
        (
            np.flatnonzero(joint),
            lambda f, d, num: kernels.f_tail(f, np.broadcast_to(num, f.shape), d),
        ),
    ):
        p, log10_p = tail(
            table["statistic"][:, columns], table["df"][:, columns], table["df_num"][columns]
        )
        table["p_value"][:, columns], table["log10_p"][:, columns] = p, log10_p
    table["adj_p_value"] = np.column_stack([adjust_p_values(p) for p in table["p_value"].T])


def adjust_p_values(p: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg adjusted p-values.

    Parameters
    ----------
    p : (tests,) array
        p-values; NaN are left out of the number of tests and stay NaN.

    Returns
    -------
    (tests,) array
        Adjusted p-values.
    """
    adjusted = np.full(len(p), np.nan)
    fine = np.isfinite(p)
    if fine.any():
        adjusted[fine] = multipletests(p[fine], method="fdr_bh")[1]
    return adjusted


def _note_cells_as_replicates(fit: ModelFit, contrasts: tuple[Contrast, ...]) -> tuple[str, ...]:
    """Tested columns that vary within subjects and that no random term holds."""
    stats = fit.stats
    if stats is None or stats.design is None or stats.groups is None:
        return ()
    design, groups = stats.design, stats.groups
    subject = design.random[0].columns[0]
    held = frozenset().union(*(component.columns for component in design.random))
    tested = frozenset().union(*(_columns_of(fit, contrast) for contrast in contrasts)) - held
    alone = [
        column
        for column in sorted(tested & set(groups.obs.columns))
        if not pd.api.types.is_numeric_dtype(groups.obs[column])
        and (groups.obs.groupby(subject, observed=True)[column].nunique() > 1).any()
    ]
    return tuple(
        note(
            f"{column!r} varies within {subject}s and no random term holds it, so its tests take "
            f"cells as replicates and reject too often where its effect differs between "
            f"{subject}s. A random term such as '{subject}:{column}' makes {subject}s the "
            "replicates."
        )
        for column in alone
    )


def _note_cell_df(fit: ModelFit, table: dict[str, Any], ddf: str) -> tuple[str, ...]:
    """Genes whose Satterthwaite degrees of freedom count cells."""
    if ddf != "satterthwaite" or not fit.fitted.any() or fit.stats is None:
        return ()
    # n - rank(X) for REML, n for ML
    df_residual = fit.stats.n_cells - int(fit.estimable.sum())
    cells = (table["df"][fit.fitted] >= df_residual * (1 - 1e-9)).any(1)
    if not cells.any():
        return ()
    return (
        note(
            f"{cells.sum()} of {fit.fitted.sum()} genes have Satterthwaite degrees of freedom "
            f"that count cells ({df_residual} or more): their components are at zero, and "
            "tests between subjects are anti-conservative there. Kenward-Roger (REML) does not "
            "have this."
        ),
    )
