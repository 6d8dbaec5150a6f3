"""T and F tests of contrasts from the covariance that the model gives the estimates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from flashmm.design.contrasts import Contrast
from flashmm.inference.model_fit import FittedBlock, ModelFit
from flashmm.kernels import ddf as kernels
from flashmm.kernels.engine import VarianceForms
from flashmm.options import Status

# Options that take the Kenward-Roger variance; the last two need the subjects of the cells.
BY_SUBJECTS = ("kenward-roger-floor", "between-within")
# Degrees of freedom that allow for their own estimation, so that they depend on the level.
SECOND_ORDER = "kenward-roger-2"
KENWARD_ROGER = (SECOND_ORDER, "kenward-roger", *BY_SUBJECTS)
# Options that need nothing but a fit.
BY_FIT = (SECOND_ORDER, "kenward-roger", "satterthwaite", "residual")

# Degrees of freedom where none are asked for, by the likelihood.
DEFAULT_DDF = {"REML": "kenward-roger", "ML": "satterthwaite"}

# Step of a difference quotient, as a part of the standard error of a component.
STEP = 1e-6

# Variance of a contrast, relative to the one that the total variance would give it, that is none.
NO_VARIANCE = 1e-12


@dataclass(frozen=True, eq=False)
class _State:
    """A block of genes with the covariance of θ̂ that the degrees of freedom are made of."""

    block: FittedBlock
    coef: np.ndarray
    information: np.ndarray
    theta_cov: np.ndarray
    ddf: str

    @classmethod
    def of(cls, fit: ModelFit, block: FittedBlock, ddf: str) -> _State:
        """Satterthwaite needs the observed information, so the data once more."""
        if ddf == "satterthwaite":
            information = block.observed_information()
            theta_cov = kernels.free_theta_cov(information, block.theta)
        else:
            information = fit.fisher_information[block.index]
            theta_cov = kernels.invert_information(information)
        return cls(block, fit.coef[block.index], information, theta_cov, ddf)

    def estimate(self, rows: np.ndarray) -> np.ndarray:
        """Rows (C, p) times β̂, (block, C)."""
        kept = self.block.kept
        # gene by gene, so that a result does not depend on its block
        return (self.coef[:, None, kept] @ rows[:, kept].T)[:, 0]


def fill_wald(
    table: dict[str, Any],
    fit: ModelFit,
    contrasts: tuple[Contrast, ...],
    estimable: np.ndarray,
    ddf: str,
) -> None:
    """Fill estimate, std_error, statistic, df and status of a table.

    Parameters
    ----------
    table : dict of str to array
        Arrays of a `TestTable`, with its `df_num` and `between_df`; and `df_loss`, the slope in z²
        of the inverse of the df at the level of z, which is filled where the df depend on it.
    fit : ModelFit
        The fitted models.
    contrasts : tuple of Contrast
        What to test.
    estimable : (contrasts,) bool array
        Which of them can be tested.
    ddf : str
        Degrees of freedom: one of `KENWARD_ROGER`, "satterthwaite" or "residual".
    """
    for block in fit.test_blocks():
        _fill_block(table, contrasts, estimable, _State.of(fit, block, ddf))


def _fill_block(
    table: dict[str, Any],
    contrasts: tuple[Contrast, ...],
    estimable: np.ndarray,
    state: _State,
) -> None:
    """The same for one block of genes."""
    index, aliased = state.block.index, ~state.block.kept
    here = np.array([not (c.matrix[:, aliased] != 0).any() for c in contrasts])
    table["status"][np.ix_(index, ~here)] = Status.NOT_ESTIMABLE
    joint, estimable = table["df_num"] > 1, estimable & here
    columns = np.flatnonzero(estimable & ~joint)
    if len(columns):
        rows = np.vstack([contrasts[j].basis for j in columns])
        results, none = _t_tests(rows, state, table["between_df"][columns])
        for name, values in results.items():
            table[name][np.ix_(index, columns)] = values
        gene, contrast = np.nonzero(none)
        table["status"][index[gene], columns[contrast]] = Status.ZERO_VARIANCE
    for j in np.flatnonzero(estimable & joint):
        test, none = _f_test(contrasts[j].basis, state, table["between_df"][j])
        table["statistic"][index, j], table["df"][index, j] = test
        table["status"][index[none], j] = Status.ZERO_VARIANCE


def row_tests(fit: ModelFit, rows: np.ndarray, ddf: str) -> dict[str, np.ndarray]:
    """T tests of the rows (C, p) of a contrast matrix, without names and without words.

    Parameters
    ----------
    fit : ModelFit
        The fitted models.
    rows : (C, p) array
        Contrasts, zero where a coefficient is aliased.
    ddf : {"kenward-roger-2", "kenward-roger", "satterthwaite", "residual"}
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
        if ddf == SECOND_ORDER:
            first = (values["statistic"], values["df"], values["df_loss"])
            values["df"] = kernels.second_order_df(*first)
        for name in names:
            result[name][block.index] = values[name]
    return result


def _scale(gradient: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Variance that contrasts would have if every component were the sum of all."""
    return np.abs(gradient).sum(-1) * np.abs(theta).sum(1)[:, None]


def _t_tests(
    rows: np.ndarray, state: _State, between: np.ndarray | float = np.nan
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """T tests of the rows (C, p) of a contrast matrix, and where they have no variance."""
    estimate = state.estimate(rows)
    forms = state.block.variance_forms(rows, rows)
    variance = forms.value
    if state.ddf in KENWARD_ROGER:
        variance = kernels.kenward_roger_variance(forms.value, forms.hessian, state.theta_cov)
    if state.ddf == "residual":
        df = np.full(estimate.shape, float(state.block.df_residual))
    else:
        df = kernels.satterthwaite_df(forms.value, forms.gradient, state.theta_cov)
    if state.ddf == "kenward-roger-floor":
        df = np.where(df < between, between, df)
    elif state.ddf == "between-within":
        df = np.where(between > 0, between, df)
    none = forms.value <= NO_VARIANCE * _scale(forms.gradient, state.block.theta)
    std_error = np.sqrt(np.where(none, np.nan, variance))
    results = {
        "estimate": estimate,
        "std_error": std_error,
        "statistic": estimate / std_error,
        "df": np.where(none, np.nan, df),
    }
    if state.ddf == SECOND_ORDER:
        results["df_loss"] = _df_loss(forms, state)
    return results, none


def _df_loss(forms: VarianceForms, state: _State) -> np.ndarray:
    """What the inverse df of each contrast lose per unit of z² - 1, (block, C)."""
    return kernels.df_loss(forms, state.theta_cov, _information_slopes(state))


def _information_slopes(state: _State) -> np.ndarray:
    """Derivative of the expected information along each component, (block, k, k, k)."""
    here, theta = state.information, state.block.theta
    slopes, left = np.zeros((*theta.shape, *here.shape[1:])), -2.0 * here
    variances = np.einsum("gkk->gk", state.theta_cov)
    steps = STEP * np.sqrt(np.where(variances > 0, variances, 0.0))
    gene, order = np.arange(len(theta)), np.argsort(theta, axis=1).T
    for k in order[:-1]:
        moved, step = theta.copy(), steps[gene, k]
        moved[gene, k] += step
        change = state.block.expected_information(moved) - here
        slopes[gene, k] = change / np.where(step > 0, step, np.inf)[:, None, None]
        left -= theta[gene, k][:, None, None] * slopes[gene, k]
    # I is homogeneous of degree -2 in θ, so that Σ θ_k ∂I/∂θ_k = -2I
    slopes[gene, order[-1]] = left / theta[gene, order[-1]][:, None, None]
    return slopes


def _f_test(rows: np.ndarray, state: _State, between: float) -> tuple[kernels.FTest, np.ndarray]:
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
            between,
        )
    return kernels.FTest(*result), ~fine


def _f_of(
    estimate: np.ndarray,
    forms: VarianceForms,
    theta_cov: np.ndarray,
    state: _State,
    between: float,
) -> kernels.FTest:
    """F test from the covariance (genes, n, n) of n estimates, and its derivatives."""
    covariance, gradient = forms.value, np.moveaxis(forms.gradient, 3, 1)
    if state.ddf in KENWARD_ROGER:
        adjusted = kernels.kenward_roger_variance(covariance, forms.hessian, theta_cov)
        test = kernels.kenward_roger_f(estimate, covariance, gradient, adjusted, theta_cov)
        if state.ddf not in BY_SUBJECTS or not between > 0:
            return test
        # the scale of F belongs to its df: where they are replaced it is one
        replaced = ~(test.df >= between) | (state.ddf == "between-within")
        return kernels.FTest(
            np.where(replaced, kernels.wald_f(estimate, adjusted), test.statistic),
            np.where(replaced, between, test.df),
        )
    if state.ddf == "satterthwaite":
        return kernels.satterthwaite_f(estimate, covariance, gradient, theta_cov)
    df = np.full(len(estimate), float(state.block.df_residual))
    return kernels.FTest(kernels.wald_f(estimate, covariance), df)
