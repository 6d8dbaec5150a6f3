"""From estimates to a table: variances moderated across genes, limits, p-values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from flashmm.design.contrasts import Contrast
from flashmm.inference.plan import T_TEST, Tails, TestPlan, Tests
from flashmm.kernels import ddf as kernels
from flashmm.kernels import moderation, student
from flashmm.kernels.tails import f_tail, t_tail
from flashmm.kernels.threads import by_parts
from flashmm.names import some_names
from flashmm.options import note

# Tests that a thread finishes at a time.
PART_TESTS = 2**14


def moderate_tests(plan: TestPlan, contrasts: tuple[Contrast, ...], tests: Tests) -> Tests:
    """Shrink the variances of each contrast across genes; df, statistic and std_error follow.

    Parameters
    ----------
    plan : TestPlan
        Whether to do so.
    contrasts : tuple of Contrast
        What is tested; for words only.
    tests : Tests
        Single contrasts.

    Returns
    -------
    Tests
        As they were, where moderation was not asked for or genes are too few.
    """
    if not plan.moderate:
        return tests
    tests = _at_one_level(plan, tests)
    std_error, statistic, df = (x.copy() for x in (tests.std_error, tests.statistic, tests.df))
    prior_df, prior_variance = (np.full(len(contrasts), np.nan) for _ in range(2))
    for j in range(len(contrasts)):
        variance = tests.std_error[:, j] ** 2
        prior = moderation.fit_prior(variance, df[:, j])
        if prior is None:
            continue
        prior_variance[j], prior_df[j] = prior
        variance, df[:, j] = moderation.posterior(variance, df[:, j], prior)
        std_error[:, j] = np.sqrt(variance)
        statistic[:, j] = tests.estimate[:, j] / std_error[:, j]
    few = [c.name for c, d in zip(contrasts, prior_df, strict=True) if np.isnan(d)]
    return replace(
        tests,
        std_error=std_error,
        statistic=statistic,
        df=df,
        prior_df=prior_df,
        prior_variance=prior_variance,
        notes=tests.notes + _note_few_genes(few),
    )


def _note_few_genes(few: list[str]) -> tuple[str, ...]:
    """Say which contrasts are not moderated."""
    if not few:
        return ()
    return (
        note(
            f"Fewer than {moderation.MIN_GENES} genes have a test of "
            f"{some_names(few)}: too few to moderate variances, which are left as "
            "they are."
        ),
    )


def _at_one_level(plan: TestPlan, tests: Tests) -> Tests:
    """df that depend on the level, at that of the intervals."""
    if tests.df_loss is None:
        return tests
    df = kernels.lowered_df(tests.df, tests.df_loss, plan.z2)
    return replace(tests, df=df, df_loss=None)


def finish(plan: TestPlan, tests: Tests, df_num: np.ndarray) -> Tests:
    """Give tests by t and F their p-values and limits; a method's own stay as they are.

    Parameters
    ----------
    plan : TestPlan
        Direction, level, minimum.
    tests : Tests
        Of any method.
    df_num : (contrasts,) array
        Numerator df; one for single contrasts.

    Returns
    -------
    Tests
        With `tails`; the statistic is that of the minimum effect where there is one, the df those
        of the p-values.
    """
    if tests.tails is not None:
        return tests
    if plan.lfc > 0:
        tests = _at_one_level(plan, tests)
    n_genes, n_contrasts = tests.df.shape

    def part(genes: slice) -> tuple[np.ndarray, ...]:
        return _finished(plan, _rows(tests, genes), df_num)

    found = by_parts(part, max(1, PART_TESTS // max(n_contrasts, 1)), n_genes)
    statistic, df, p, log10_p, low, high = found
    tails = Tails(p, log10_p, low, high)
    return replace(tests, statistic=statistic, df=df, df_loss=None, tails=tails)


def _rows(tests: Tests, genes: slice) -> Tests:
    """The t and F tests of some genes."""
    values = {name: getattr(tests, name)[genes] for name in T_TEST}
    loss = None if tests.df_loss is None else tests.df_loss[genes]
    return replace(tests, **values, df_loss=loss)


def _finished(plan: TestPlan, tests: Tests, df_num: np.ndarray) -> tuple[np.ndarray, ...]:
    """Statistic, df, p, log10 p and the two limits, (genes, contrasts) each."""
    single = df_num <= 1
    low, high = _limits(plan, tests, single)
    if tests.df_loss is not None:
        df = kernels.second_order_df(tests.statistic, tests.df, tests.df_loss)
        tests = replace(tests, df=df)
    statistic, p, log10_p = _p_values(plan, tests, single, df_num)
    return statistic, tests.df, p, log10_p, low, high


def _limits(plan: TestPlan, tests: Tests, single: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Confidence limits of single contrasts, (genes, contrasts) each."""
    loss = 0.0 if tests.df_loss is None else tests.df_loss[:, single]
    df = kernels.lowered_df(tests.df[:, single], loss, plan.z2)
    estimate, std_error = tests.estimate[:, single], tests.std_error[:, single]
    limits = np.full((2, *tests.df.shape), np.nan)
    limits[:, :, single] = student.confidence_limits(
        estimate, std_error, df, plan.level, plan.alternative
    )
    return limits[0], limits[1]


def _p_values(
    plan: TestPlan, tests: Tests, single: np.ndarray, df_num: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Statistic, p and log10 p of single contrasts by t, of joint ones by F."""
    statistic, joint = tests.statistic.copy(), ~single
    p, log10_p = (np.full(statistic.shape, np.nan) for _ in range(2))
    df = tests.df[:, single]
    if plan.lfc > 0:
        statistic[:, single], p[:, single], log10_p[:, single] = student.minimum_effect_test(
            tests.estimate[:, single], tests.std_error[:, single], df, plan.lfc, plan.alternative
        )
    else:
        p[:, single], log10_p[:, single] = t_tail(statistic[:, single], df, plan.alternative)
    p[:, joint], log10_p[:, joint] = f_tail(statistic[:, joint], df_num[joint], tests.df[:, joint])
    return statistic, p, log10_p
