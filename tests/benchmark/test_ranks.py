"""Ranks and ROC curves against SciPy's and scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from flashmm.benchmark.ranks import area_under_roc, average_ranks, partial_area, roc_curve


@pytest.fixture(params=["distinct", "tied", "all tied", "separated"])
def scored(request):
    """Truths and scores."""
    rng = np.random.default_rng(3)
    de = rng.random(300) < 0.3
    score = rng.normal(size=300) + de
    if request.param == "tied":
        score = np.round(score, 1)
        score[:2] = np.inf
    elif request.param == "all tied":
        score = np.ones(300)
    elif request.param == "separated":
        score = de + 0.1 * rng.random(300)
    return de, score


def test_ranks_are_those_of_scipy(scored):
    np.testing.assert_array_equal(average_ranks(scored[1]), stats.rankdata(scored[1]))


def test_curve_and_areas_are_those_of_scikit_learn(scored):
    de, score = scored[0], average_ranks(scored[1])
    fpr, tpr, _ = metrics.roc_curve(de, score)
    np.testing.assert_array_equal(roc_curve(de, score), [fpr, tpr])
    area = metrics.roc_auc_score(de, score)
    np.testing.assert_allclose(area_under_roc(de, score), area, rtol=1e-13)
    for most in (0.01, 0.1, 0.5):
        partial = metrics.roc_auc_score(de, score, max_fpr=most)
        np.testing.assert_allclose(partial_area(de, score, most), partial, rtol=1e-12)
