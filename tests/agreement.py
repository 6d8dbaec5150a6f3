"""Whether two engines give the same fits and tests."""

from __future__ import annotations

import warnings

import numpy as np

import flashmm as fm
from flashmm import lmm
from flashmm.kernels.dense import DenseEngine
from flashmm.kernels.elimination import EliminationEngine

FIELDS = ("coef", "theta", "cov", "loglik", "fisher_information")


def statistics(Y, X, Z):
    sizes = [block.shape[1] for block in Z]
    return fm.summary_statistics_from_matrices(Y, X, np.hstack(Z), component_sizes=sizes)


def assert_close(ours, theirs, name=""):
    """Equal at 1e-8 of the largest value."""
    assert np.array_equal(np.isnan(ours), np.isnan(theirs)), name
    scale = np.abs(theirs[np.isfinite(theirs)]).max(initial=1e-300)
    np.testing.assert_allclose(ours / scale, theirs / scale, rtol=1e-8, atol=1e-8, err_msg=name)


def held_coefficients(fit):
    return lmm.held_coefficients(fit, fit.stats, fit.model)


def assert_same_fit(eliminated, dense):
    assert isinstance(eliminated.model.engine, EliminationEngine)
    assert isinstance(dense.model.engine, DenseEngine)
    assert (eliminated.status == dense.status).all()
    for name in FIELDS:
        assert_close(getattr(eliminated, name), getattr(dense, name), name)
    assert_close(eliminated.blup(), dense.blup(), "blup")
    fitted = eliminated.fitted
    assert_close(held_coefficients(eliminated)[fitted], dense.coef[fitted], "coefficients alone")
    assert np.abs(eliminated.score() - dense.score())[eliminated.fitted].max() < 1e-7


def assert_same_tests(eliminated, dense, contrasts=None):
    methods = ["satterthwaite", "residual"]
    methods += ["kenward-roger"] if eliminated.options.method == "REML" else []
    for ddf in methods:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fm.FlashmmWarning)
            ours, theirs = (
                fm.contrast_tests(fit, contrasts, ddf=ddf) for fit in (eliminated, dense)
            )
        for name in ("estimate", "std_error", "statistic", "df", "p_value"):
            a, b = getattr(ours, name), getattr(theirs, name)
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10, err_msg=f"{ddf} {name}")
