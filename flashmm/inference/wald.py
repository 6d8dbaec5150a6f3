"""t and F tests of contrasts from the covariance that the model gives the estimates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from flashmm.inference.model_fit import FittedBlock, ModelFit, covariance_pairs
from flashmm.inference.plan import T_TEST, TestPlan, Tests
from flashmm.inference.screening import Screened
from flashmm.kernels import ddf as kernels
from flashmm.kernels.engine import VarianceForms
from flashmm.lmm import FittedGenes
from flashmm.options import Status, note

# Step of a difference quotient, as a part of the standard error of a component.
STEP = 1e-6

# Variance of a contrast, relative to the one that the total variance would give it, that is none.
NO_VARIANCE = 1e-12

FAILURES = {"aliased": Status.NOT_ESTIMABLE, "no_variance": Status.ZERO_VARIANCE}


@dataclass(frozen=True)
class Wald:
    """Which variance and which degrees of freedom a test takes.

    Attributes
    ----------
    adjusted : bool
        Whether the variance is Kenward and Roger's, and F is scaled as theirs.
    information : {"expected", "observed", "none"}
        What the df are made of: the expected information of all components, the observed one of
        those that are not at zero, or none: n - rank(X).
    second_order : bool
        Whether the df of t tests allow for being estimated, and so depend on the level.
    between : {"no", "floor", "instead"}
        What the df between subjects do: nothing, raise lower ones, or replace them.
    """

    adjusted: bool = False
    information: str = "expected"
    second_order: bool = False
    between: str = "no"

    def test(self, plan: TestPlan, screened: Screened) -> Tests:
        """Test all contrasts; the plan is not needed, as these are tests by t and F.

        Parameters
        ----------
        plan : TestPlan
            Direction, level, minimum.
        screened : Screened
            The fit and its contrasts.

        Returns
        -------
        Tests
            With `df_loss` for df of the second order.
        """
        fit = screened.fit
        found = {name: np.full(screened.shape, np.nan) for name in T_TEST}
        found |= {name: np.zeros(screened.shape, dtype=bool) for name in FAILURES}
        if self.second_order:
            found["df_loss"] = np.zeros(screened.shape)

        def tests_of(block: FittedBlock) -> None:  # in threads: each has rows of its own
            for columns, values in _block_tests(_State.of(fit, block, self), screened):
                at = _place(block.index, columns)
                for name, array in values.items():
                    found[name][at] = array

        fit.over_blocks(tests_of)
        notes = _note_cell_df(fit, found["df"]) if self.information == "observed" else ()
        return Tests.collected(found, FAILURES, notes)

    def rows(self, fit: ModelFit, rows: np.ndarray) -> dict[str, np.ndarray]:
        """t tests of the rows (C, p) of a contrast matrix, without names and without words.

        Parameters
        ----------
        fit : ModelFit
            The fitted models.
        rows : (C, p) array
            Contrasts, zero where a coefficient is aliased.

        Returns
        -------
        dict of str to (genes, C) arrays
            estimate, std_error, statistic and df; NaN for genes without a fit.
        """
        result = {name: np.full((len(fit.genes), len(rows)), np.nan) for name in T_TEST}

        def tests_of(block: FittedBlock) -> None:
            values = _t_tests(rows, _State.of(fit, block, self))
            if self.second_order:
                first = (values["statistic"], values["df"], values["df_loss"])
                values["df"] = kernels.second_order_df(*first)
            for name in T_TEST:
                result[name][block.index] = values[name]

        fit.over_blocks(tests_of)
        return result


@dataclass(frozen=True, eq=False)
class _State:
    """A block of genes with the covariance of θ̂ that the degrees of freedom are made of."""

    block: FittedBlock
    coef: np.ndarray
    information: np.ndarray
    theta_cov: np.ndarray
    rule: Wald

    @classmethod
    def of(cls, fit: ModelFit, block: FittedBlock, rule: Wald) -> _State:
        """The observed information needs the data once more."""
        if rule.information == "observed":
            information = block.observed_information()
            pairs = covariance_pairs(fit)
            score = block.score() if isinstance(block, FittedGenes) and pairs else None
            theta_cov = kernels.free_theta_cov(information, block.theta, pairs, score)
        else:
            information = fit.fisher_information[block.index]
            theta_cov = kernels.invert_information(information)
        return cls(block, fit.coef[block.index], information, theta_cov, rule)

    def estimate(self, rows: np.ndarray) -> np.ndarray:
        """Rows (C, p) times β̂, (block, C)."""
        kept = self.block.kept
        # gene by gene, so that a result does not depend on its block
        return (self.coef[:, None, kept] @ rows[:, kept].T)[:, 0]


def _block_tests(
    state: _State, screened: Screened
) -> Iterator[tuple[np.ndarray, Mapping[str, np.ndarray | bool]]]:
    """Tests of one block of genes: numbers of some contrasts, and arrays (block, of these)."""
    contrasts, aliased = screened.contrasts, ~state.block.kept
    lost = np.array([(c.matrix[:, aliased] != 0).any() for c in contrasts]) & screened.testable
    here, joint = screened.testable & ~lost, screened.df_num > 1
    yield np.flatnonzero(lost), {"aliased": True}
    single = np.flatnonzero(here & ~joint)
    if len(single):
        rows = np.vstack([contrasts[j].basis for j in single])
        yield single, _t_tests(rows, state, screened.between_df[single])
    for j in np.flatnonzero(here & joint):
        test, none = _f_test(contrasts[j].basis, state, screened.between_df[j])
        columns = {"statistic": test.statistic, "df": test.df, "no_variance": none}
        yield np.array([j]), {name: values[:, None] for name, values in columns.items()}


def _place(genes: np.ndarray, contrasts: np.ndarray) -> tuple[np.ndarray | slice, ...]:
    """Where ascending genes meet contrasts; slices where they can be, which are filled faster."""
    if not (len(genes) and len(contrasts)):
        return np.ix_(genes, contrasts)
    ends = [(int(numbers[0]), int(numbers[-1]) + 1) for numbers in (genes, contrasts)]
    whole = all(
        stop - start == len(numbers)
        for (start, stop), numbers in zip(ends, (genes, contrasts), strict=True)
    )
    return tuple(slice(*bounds) for bounds in ends) if whole else np.ix_(genes, contrasts)


def _scale(gradient: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Variance that contrasts would have if every component were the sum of all."""
    return np.abs(gradient).sum(-1) * np.abs(theta).sum(1)[:, None]


def _t_tests(
    rows: np.ndarray, state: _State, between: np.ndarray | float = np.nan
) -> dict[str, np.ndarray]:
    """t tests (block, C) of the rows (C, p) of a contrast matrix."""
    rule = state.rule
    estimate = state.estimate(rows)
    forms = state.block.variance_forms(rows, rows)
    variance = forms.value
    if rule.adjusted:
        variance = kernels.kenward_roger_variance(forms.value, forms.hessian, state.theta_cov)
    if rule.information == "none":
        df = np.full(estimate.shape, float(state.block.df_residual))
    else:
        df = kernels.satterthwaite_df(forms.value, forms.gradient, state.theta_cov)
    if rule.between == "floor":
        df = np.where(df < between, between, df)
    elif rule.between == "instead":
        df = np.where(between > 0, between, df)
    none = forms.value <= NO_VARIANCE * _scale(forms.gradient, state.block.theta)
    std_error = np.sqrt(np.where(none, np.nan, variance))
    results = {
        "estimate": estimate,
        "std_error": std_error,
        "statistic": estimate / std_error,
        "df": np.where(none, np.nan, df),
        "no_variance": none,
    }
    if rule.second_order:
        results["df_loss"] = _df_loss(forms, state)
    return results


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
    rule = state.rule
    if rule.adjusted:
        adjusted = kernels.kenward_roger_variance(covariance, forms.hessian, theta_cov)
        test = kernels.kenward_roger_f(estimate, covariance, gradient, adjusted, theta_cov)
        if rule.between == "no" or not between > 0:
            return test
        # the scale of F belongs to its df: where they are replaced it is one
        replaced = ~(test.df >= between) | (rule.between == "instead")
        return kernels.FTest(
            np.where(replaced, kernels.wald_f(estimate, adjusted), test.statistic),
            np.where(replaced, between, test.df),
        )
    if rule.information == "observed":
        return kernels.satterthwaite_f(estimate, covariance, gradient, theta_cov)
    df = np.full(len(estimate), float(state.block.df_residual))
    return kernels.FTest(kernels.wald_f(estimate, covariance), df)


def _note_cell_df(fit: ModelFit, df: np.ndarray) -> tuple[str, ...]:
    """Genes whose df from the observed information (genes, contrasts) count cells."""
    if not fit.fitted.any() or fit.stats is None:
        return ()
    # n - rank(X) for REML, n for ML
    df_residual = fit.stats.n_cells - int(fit.estimable.sum())
    cells = (df[fit.fitted] >= df_residual * (1 - 1e-9)).any(1)
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
