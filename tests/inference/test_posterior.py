"""Prior and posterior of the variance ratios of a gene, against a dense computation."""

from __future__ import annotations

import group_designs
import numpy as np
import pytest

import flashmm as fm
from flashmm.options import InputError

pytestmark = pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning")
EB = "empirical-bayes"


def groups(types=1, genes=60, **options):
    obs = group_designs.crossed(6, types, **options)
    return group_designs.groups_of(obs, genes=genes, sd=(0.3, 0.15), seed=5)


@pytest.fixture(scope="module", params=["subject", "subject and condition"])
def tested(request):
    random = ("subject", "subject:condition")[: 1 + ("and" in request.param)]
    g = groups(paired=len(random) > 1)
    fit = group_designs.fit_groups(g, "~ condition", random)
    return g, fit, fm.contrast_tests(fit, "condition", EB)


def dense_log_likelihood(g, gene, random, points):
    """-½ (ν log Q + log |V| + log |X'V⁻¹X|) from the means of groups and the cells about them."""
    obs, n = g.obs, g.obs["n_cells"].to_numpy(float)
    y = g.sum[:, gene] / n
    within = float((g.sumsq[:, gene] - g.sum[:, gene] ** 2 / n).sum())
    condition = obs["condition"].to_numpy()
    X = np.column_stack([np.ones(len(y)), condition == np.unique(condition)[1]]).astype(float)
    subject = obs["subject"].to_numpy()
    own = [(subject[:, None] == subject), (subject[:, None] == subject)]
    own[1] = own[1] & (condition[:, None] == condition)
    nu = n.sum() - 2
    found = []
    for gamma in points:
        # the mean of a group varies by 1/n for its cells; determinants of these do not depend on γ
        V = np.diag(1 / n) + sum(x * z for x, z in zip(gamma, own[: len(random)], strict=True))
        W = np.linalg.inv(V)
        H = X.T @ W @ X
        r = y - X @ np.linalg.solve(H, X.T @ W @ y)
        log_det = np.linalg.slogdet(V)[1] + np.linalg.slogdet(H)[1]
        found.append(-0.5 * (nu * np.log(within + r @ W @ r) + log_det))
    return np.array(found)


def test_it_is_bayes_rule_on_a_dense_likelihood(tested):
    g, fit, table = tested
    random = fit.components[:-1]
    for gene in (0, 17):
        found = fm.posterior_of(fit, table, g.genes[gene])
        points = found[[f"ratio:{name}" for name in random]].to_numpy()
        np.testing.assert_array_equal(points, table.prior.points)
        loglik = dense_log_likelihood(g, gene, random, points)
        np.testing.assert_allclose(found["loglik"], loglik - loglik.max(), atol=1e-6)
        prior = table.prior.weights[found["stratum"].iloc[0]]
        np.testing.assert_array_equal(found["prior"], prior)
        joint = prior * np.exp(loglik - loglik.max())
        np.testing.assert_allclose(found["posterior"], joint / joint.sum(), atol=1e-7)
        assert found["posterior"].sum() == pytest.approx(1)


def test_a_model_of_each_type():
    g = groups(types=2, genes=80)
    fits = fm.fit_within(
        g, "cell_type", "~ condition", ["subject"], size_factors=None, min_counts=None
    )
    table = fm.contrast_tests(fits, "condition")
    found = fm.posterior_of(fits, table, g.genes[3], "T1")
    assert set(found["level"]) == {"T1"}
    assert found["posterior"].sum() == pytest.approx(1)
    own = g.subset((g.obs["cell_type"] == "T1").to_numpy())
    alone = group_designs.fit_groups(own, "~ condition")
    again = fm.contrast_tests(alone, "condition", EB, prior=table.prior["T1"])
    same = fm.posterior_of(alone, again, g.genes[3])
    np.testing.assert_allclose(found["posterior"], same["posterior"], atol=1e-6)
    for level, words in ((None, "found None"), ("T3", "one of 'T0', 'T1' expected")):
        with pytest.raises(InputError, match=words):
            fm.posterior_of(fits, table, g.genes[3], level)


def test_what_has_no_posterior():
    g = groups()
    g.sum[:, 0], g.sumsq[:, 0] = 0.0, 0.0
    fit = group_designs.fit_groups(g, "~ condition")
    table = fm.contrast_tests(fit, "condition", EB)
    with pytest.raises(InputError, match=r"has no fit \(all_zero\)"):
        fm.posterior_of(fit, table, g.genes[0])
    with pytest.raises(InputError, match="gene: there is none named 'gene999'"):
        fm.posterior_of(fit, table, "gene999")
    with pytest.raises(InputError, match="level: this is one fit"):
        fm.posterior_of(fit, table, g.genes[1], "T0")
    plain = fm.contrast_tests(fit, "condition", "kenward-roger-2")
    with pytest.raises(InputError, match="those of ddf='kenward-roger-2' and have no prior"):
        fm.posterior_of(fit, plain, g.genes[1])
