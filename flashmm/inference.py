"""Test contrasts of the fixed effects, with degrees of freedom that know about subjects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from flashmm.contrasts import Contrast, resolve_contrasts
from flashmm.kernels import ddf as kernels
from flashmm.kernels.engine import take
from flashmm.kernels.rotation import orthonormal_contrasts
from flashmm.lmm import LMMFit
from flashmm.options import DesignError, InputError, Status, note

DDF = ("kenward-roger", "satterthwaite", "residual")
ALTERNATIVES = ("two-sided", "less", "greater")

# Names of the tidy columns in the words of pertpy's linear models.
PERTPY_NAMES = {"gene": "variable", "estimate": "log_fc", "std_error": "sd", "statistic": "t_value"}


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
    fit: LMMFit,
    contrasts: Any = None,
    ddf: str | None = None,
    alternative: str = "two-sided",
) -> TestTable:
    """Test coefficients and contrasts of every gene.

    Parameters
    ----------
    fit : LMMFit
        The fitted models.
    contrasts : optional
        None tests every coefficient. A string is a column name (every coefficient whose term holds
        the column) or an expression in coefficient names; a list holds several; a dictionary maps
        names to expressions, to ``{coefficient: weight}``, or to lists of them for a joint F test;
        a matrix has R's shape, coefficients × contrasts.
    ddf : {"kenward-roger", "satterthwaite", "residual"}, optional
        Denominator degrees of freedom; default "kenward-roger" for REML, "satterthwaite" for ML.
        "residual" is n - rank(X) as in FLASHMM: with few subjects it rejects too often for
        effects between subjects.
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
    resolved = resolve_contrasts(contrasts, fit.coefficients, fit.stats.coefficient_columns)
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
    table["status"] = np.where(estimable, fit.status[:, None], str(Status.NOT_ESTIMABLE))
    for index, gamma, bounds in fit.blocks():
        state = _State.of(fit, index, gamma, bounds, ddf)
        _test_block(table, fit, resolved, estimable, state)
    _fill_p_values(table, alternative)
    notes = fit.notes + _note_cell_df(fit, table, ddf)
    if not everything:
        notes += _note_cells_as_replicates(fit, resolved)
    return TestTable(
        **table, genes=fit.genes, contrasts=resolved, ddf=ddf, alternative=alternative, notes=notes
    )


def _checked_ddf(fit: LMMFit, ddf: str | None, alternative: str) -> str:
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


def _unreplicated_columns(fit: LMMFit) -> dict[str, str]:
    """Columns between subjects with a level that one subject has -> that, in words."""
    design, groups = fit.stats.design, fit.stats.groups
    if design is None or groups is None:
        return {}
    subject = design.random[0].columns[0]
    found = {}
    for column in sorted(set().union(*fit.stats.coefficient_columns) & set(groups.obs.columns)):
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


def _columns_of(fit: LMMFit, contrast: Contrast) -> frozenset[str]:
    """Data columns that the coefficients of a contrast hold."""
    columns = fit.stats.coefficient_columns
    if not columns:
        return frozenset()
    used = np.flatnonzero((contrast.matrix != 0).any(0))
    return frozenset().union(*(columns[j] for j in used))


def _check_replication(
    fit: LMMFit, contrasts: tuple[Contrast, ...], unreplicated: dict[str, str], refuse: bool
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


def _is_estimable(fit: LMMFit, contrast: Contrast, unreplicated: dict[str, str]) -> bool:
    """Whether a contrast avoids aliased coefficients and unreplicated columns."""
    aliased = bool((contrast.matrix[:, ~fit.estimable] != 0).any())
    return not aliased and not (_columns_of(fit, contrast) & set(unreplicated))


def _empty_table(fit: LMMFit, contrasts: tuple[Contrast, ...]) -> dict[str, Any]:
    shape = (fit.n_genes, len(contrasts))
    names = ("estimate", "std_error", "statistic", "df", "p_value", "log10_p", "adj_p_value")
    table: dict[str, Any] = {name: np.full(shape, np.nan) for name in names}
    table["df_num"] = np.array([np.linalg.matrix_rank(c.matrix) for c in contrasts], dtype=float)
    return table


@dataclass(frozen=True, eq=False)
class _State:
    """What the tests of one block of genes need besides the contrasts."""

    index: np.ndarray
    gamma: np.ndarray
    variance: np.ndarray
    coef: np.ndarray
    theta_cov: np.ndarray
    ddf: str

    @classmethod
    def of(
        cls, fit: LMMFit, index: np.ndarray, gamma: np.ndarray, bounds: tuple[int, int], ddf: str
    ) -> _State:
        """Gather a block; Satterthwaite needs the observed information, so the data once more."""
        variance = fit.theta[index, -1]
        if ddf == "satterthwaite":
            genes = take(fit.model.responses(fit.stats, *bounds), index - bounds[0])
            observed = fit.model.engine.information(gamma, variance, genes)[1]
            theta_cov = kernels.free_theta_cov(observed, fit.theta[index])
        else:
            theta_cov = kernels.invert_information(fit.fisher_information[index])
        return cls(index, gamma, variance, fit.coef[index], theta_cov, ddf)


def _test_block(
    table: dict[str, Any],
    fit: LMMFit,
    contrasts: tuple[Contrast, ...],
    estimable: np.ndarray,
    state: _State,
) -> None:
    """Fill estimate, std_error, statistic and df of one block of genes."""
    joint = table["df_num"] > 1
    columns = np.flatnonzero(estimable & ~joint)
    if len(columns):
        rows = np.stack([_one_row(contrasts[j].matrix) for j in columns])
        results = _t_tests(fit, rows, state)
        for name, values in results.items():
            table[name][np.ix_(state.index, columns)] = values
    for j in np.flatnonzero(estimable & joint):
        test = _f_test(fit, _independent_rows(contrasts[j].matrix), state)
        table["statistic"][state.index, j] = test.statistic
        table["df"][state.index, j] = test.df


def _one_row(matrix: np.ndarray) -> np.ndarray:
    """The single row of a contrast, or the row that spans a joint one of rank one."""
    return matrix[np.abs(matrix).sum(1).argmax()]


def _independent_rows(matrix: np.ndarray) -> np.ndarray:
    """Orthonormal basis of the rows: an F test depends on their span only."""
    _, values, vectors = np.linalg.svd(matrix, full_matrices=False)
    return vectors[values > values[0] * 1e-10]


def _t_tests(fit: LMMFit, rows: np.ndarray, state: _State) -> dict[str, np.ndarray]:
    """T tests of the rows (C, p) of a contrast matrix."""
    kept = fit.model.kept
    basis = orthonormal_contrasts(fit.model.projection, rows[:, kept])
    estimate = (state.coef[:, None, kept] @ rows[:, kept].T)[:, 0]
    forms = fit.model.engine.variance_forms(state.gamma, state.variance, basis, basis)
    variance = forms.value
    if state.ddf == "kenward-roger":
        variance = kernels.kenward_roger_variance(forms.value, forms.hessian, state.theta_cov)
    if state.ddf == "residual":
        df = np.full(estimate.shape, float(fit.df_residual))
    else:
        df = kernels.satterthwaite_df(forms.value, forms.gradient, state.theta_cov)
    std_error = np.sqrt(variance)
    return {
        "estimate": estimate,
        "std_error": std_error,
        "statistic": estimate / std_error,
        "df": df,
    }


def _f_test(fit: LMMFit, rows: np.ndarray, state: _State) -> kernels.FTest:
    """Joint F test of the rows (n, p) of one contrast."""
    kept, n = fit.model.kept, len(rows)
    basis = orthonormal_contrasts(fit.model.projection, rows[:, kept])
    left, right = np.tril_indices(n)
    forms = fit.model.engine.variance_forms(
        state.gamma, state.variance, basis[:, left], basis[:, right]
    )
    square = np.empty((n, n), dtype=int)
    square[left, right] = square[right, left] = np.arange(len(left))
    estimate = (state.coef[:, None, kept] @ rows[:, kept].T)[:, 0]
    covariance = forms.value[:, square]
    gradient = forms.gradient[:, square].transpose(0, 3, 1, 2)
    if state.ddf == "kenward-roger":
        adjusted = kernels.kenward_roger_variance(
            covariance, forms.hessian[:, square], state.theta_cov
        )
        return kernels.kenward_roger_f(estimate, covariance, gradient, adjusted, state.theta_cov)
    if state.ddf == "satterthwaite":
        return kernels.satterthwaite_f(estimate, covariance, gradient, state.theta_cov)
    wald = np.linalg.solve(covariance, estimate[..., None])[..., 0]
    statistic = np.einsum("ga,ga->g", estimate, wald) / n
    return kernels.FTest(statistic, np.full(len(estimate), float(fit.df_residual)))


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


def _note_cells_as_replicates(fit: LMMFit, contrasts: tuple[Contrast, ...]) -> tuple[str, ...]:
    """Tested columns that vary within subjects and that no random term holds."""
    design, groups = fit.stats.design, fit.stats.groups
    if design is None or groups is None:
        return ()
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


def _note_cell_df(fit: LMMFit, table: dict[str, Any], ddf: str) -> tuple[str, ...]:
    """Genes whose Satterthwaite degrees of freedom count cells."""
    if ddf != "satterthwaite" or not fit.fitted.any():
        return ()
    # n - rank(X) for REML, n for ML
    cells = (table["df"][fit.fitted] >= fit.df_residual * (1 - 1e-9)).any(1)
    if not cells.any():
        return ()
    return (
        note(
            f"{cells.sum()} of {fit.fitted.sum()} genes have Satterthwaite degrees of freedom "
            f"that count cells ({fit.df_residual} or more): their components are at zero, and "
            "tests between subjects are anti-conservative there. Kenward-Roger (REML) does not "
            "have this."
        ),
    )
