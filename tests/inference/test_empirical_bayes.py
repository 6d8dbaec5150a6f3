"""Empirical-Bayes tests through `contrast_tests`: reference numbers, priors, genes, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import group_designs
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import flashmm as fm
from flashmm.inference import empirical_bayes
from flashmm.inference.empirical_bayes import VarianceRatioPrior
from flashmm.options import InputError

pytestmark = pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning")
DATA = Path(__file__).resolve().parents[1] / "data" / "empirical_bayes"
EB = "empirical-bayes"
SAME = ("p_value", "log10_p", "estimate", "std_error", "conf_low", "conf_high")


def prior_of(points, weights, edges=()):
    """A prior from a grid and weights alone."""
    weights = np.atleast_2d(weights)
    nothing = np.full(len(weights), np.nan)
    return VarianceRatioPrior(
        components=tuple(f"c{k}" for k in range(np.asarray(points).shape[-1])),
        points=points,
        weights=weights,
        edges=np.asarray(edges, dtype=float),
        genes=pd.Index([]),
        stratum=np.zeros(0, dtype=int),
        n_genes=np.zeros(len(weights), dtype=int),
        loglik=nothing,
        gap=nothing,
    )


def statistics_of(known, rows):
    """Cross-products of some genes of a reference case as the package has them."""
    sizes, p = tuple(map(int, known["component_sizes"])), len(known["XtX"])
    return fm.SummaryStatistics(
        **{name: known[name] for name in ("XtX", "ZtX", "ZtZ")},
        **{name: known[name][rows] for name in ("YtX", "yty")},
        products_YtZ=known["YtZ"][rows],
        n_cells=int(known["n_cells"]),
        X_sum=None,
        Z_sum=None,
        component_sizes=sizes,
        genes=pd.Index([f"g{i}" for i in rows], dtype=object),
        coefficients=tuple(f"x{j}" for j in range(p)),
        components=tuple(f"c{k}" for k in range(len(sizes))),
        Z_levels=pd.Index([f"z{i}" for i in range(sum(sizes))], dtype=object),
        coefficient_columns=(frozenset(),) * p,
    )


CASES = [("k1", 0), ("k1", 1), ("k2_paired", 0)]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def case(request):
    """A fit of one stratum of a reference case, its prior and its numbers."""
    name, number = request.param
    known = dict(np.load(DATA / f"{name}.npz"))
    rows = np.flatnonzero(known["stratum"] == number)
    fit = fm.fit_lmm(statistics_of(known, rows))
    assert fit.fitted.all()
    return fit, prior_of(known["grid"], known["weights"][number]), known, rows


class TestReference:
    def test_p_values_and_limits(self, case):
        fit, prior, known, rows = case
        c = known["contrasts"][:, :1]
        for alternative in ("two-sided", "less", "greater"):
            table = fm.contrast_tests(fit, c, EB, alternative, prior=prior)
            expected = known[f"p_{alternative.replace('-', '_')}"][rows]
            np.testing.assert_allclose(table.p_value[:, 0], expected, rtol=1e-8)
        table = fm.contrast_tests(fit, c, EB, prior=prior)
        for name in ("estimate", "conf_low", "conf_high"):
            found = getattr(table, name)[:, 0]
            np.testing.assert_allclose(found, known[name][rows], rtol=0, atol=1e-8)

    @pytest.mark.parametrize("case", [("k2_paired", 0)], indirect=True)
    def test_joint(self, case):
        fit, prior, known, rows = case
        names = fit.coefficients
        terms = [dict(zip(names, c, strict=True)) for c in known["contrasts"].T]
        table = fm.contrast_tests(fit, {"all": terms}, EB, prior=prior)
        np.testing.assert_allclose(table.p_value[:, 0], known["p_joint"][rows], rtol=1e-8)

    def test_its_own_prior_is_at_least_as_likely(self, case, monkeypatch):
        """On the grid of the reference: another grid has another maximum."""
        fit, _, known, rows = case
        monkeypatch.setattr(empirical_bayes, "_grid", lambda fit, usable: known["grid"])
        prior = fm.contrast_tests(fit, known["contrasts"][:, :1], EB).prior
        stored = known["marginal_loglik"][rows].sum()
        assert prior.loglik.sum() >= stored - 1e-6
        assert (prior.gap < 1e-6).all()


def groups(m=8, types=1, genes=240, **options):
    obs = group_designs.crossed(m, types, **options)
    return group_designs.groups_of(obs, genes=genes, sd=(0.3, 0.15), seed=3)


DESIGNS = {
    "K1": (groups, {}, "~ condition", ("subject",)),
    "K2 nested": (
        groups,
        {"types": 2},
        "~ cell_type + condition",
        ("subject", "subject:cell_type"),
    ),
    "K2 paired": (groups, {"paired": True}, "~ condition", ("subject", "subject:condition")),
    "K3 crossed": (
        groups,
        {"types": 3},
        "~ condition",
        ("subject", "cell_type", "subject:cell_type"),
    ),
}


@pytest.fixture(scope="module", params=DESIGNS)
def fit(request):
    make, options, fixed, random = DESIGNS[request.param]
    return group_designs.fit_groups(make(**options), fixed, random)


@pytest.fixture(scope="module")
def simple():
    return group_designs.fit_groups(groups(), "~ condition")


def scaled(fit, factor):
    s = fit.stats
    g = replace(s.groups, sum=s.groups.sum * factor, sumsq=s.groups.sumsq * factor**2)
    return g


class TestTables:
    def test_every_gene_has_a_test(self, fit):
        table = fm.contrast_tests(fit, "condition", EB)
        assert table.ddf == EB and np.isfinite(table.p_value).all()
        assert table.prior.points.shape[1] == len(fit.components) - 1
        np.testing.assert_allclose(table.prior.weights.sum(1), 1.0, rtol=1e-9)
        # effects are null: the level holds, four standard errors wide
        share, n = (table.p_value < 0.05).mean(), table.p_value.size
        assert abs(share - 0.05) < 4 * np.sqrt(0.05 * 0.95 / n)

    def test_std_error_and_df_give_the_p_value(self, fit):
        table = fm.contrast_tests(fit, "condition", EB)
        has = np.isfinite(table.df)
        assert has.mean() > 0.5
        p = 2 * stats.t.sf(np.abs(table.statistic[has]), table.df[has])
        z, expected = (stats.norm.isf(x / 2) for x in (p, table.p_value[has]))
        # `effective_df`: within a twentieth of a normal deviate, and Wallace's approximation
        assert (np.abs(z - expected) <= 0.051 * np.maximum(expected, 1.0) + 0.02).all()

    def test_directions_and_minimum(self, simple):
        two, less, greater = (
            fm.contrast_tests(simple, "condition", EB, a) for a in ("two-sided", "less", "greater")
        )
        np.testing.assert_allclose(less.p_value + greater.p_value, 1.0, rtol=1e-10)
        smaller = np.minimum(less.p_value, greater.p_value)
        np.testing.assert_allclose(two.p_value, 2 * smaller, rtol=1e-10)
        far = fm.contrast_tests(simple, "condition", EB, lfc=0.2)
        assert (far.p_value >= two.p_value).all() and (far.p_value <= 1).all()
        np.testing.assert_array_equal(far.conf_low, two.conf_low)
        assert np.isneginf(less.conf_low).all() and np.isposinf(greater.conf_high).all()

    @pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
    def test_limits_are_where_the_p_value_is_that_of_the_level(self, simple, level):
        table = fm.contrast_tests(simple, "condition", EB, level=level)
        without = (table.conf_low > 0) | (table.conf_high < 0)
        np.testing.assert_array_equal(without, table.p_value < 1 - level)

    def test_scale_of_the_values(self, simple):
        found = fm.contrast_tests(simple, "condition", EB)
        other = group_designs.fit_groups(scaled(simple, 8.0), "~ condition")
        other = fm.contrast_tests(other, "condition", EB)
        np.testing.assert_allclose(other.p_value, found.p_value, rtol=1e-6)
        np.testing.assert_allclose(other.conf_low, 8.0 * found.conf_low, rtol=1e-6)

    def test_order_of_the_genes(self, simple):
        order = np.random.default_rng(0).permutation(simple.n_genes)
        g = simple.stats.groups
        mixed = replace(g, sum=g.sum[:, order], sumsq=g.sumsq[:, order], genes=g.genes[order])
        found = fm.contrast_tests(simple, "condition", EB)
        other = fm.contrast_tests(group_designs.fit_groups(mixed, "~ condition"), "condition", EB)
        np.testing.assert_allclose(other.p_value, found.p_value[order], rtol=1e-6)


class TestNumberOfGenes:
    def test_below_fifty(self):
        few = group_designs.fit_groups(groups(genes=49), "~ condition")
        table = fm.contrast_tests(few, "condition", EB)
        plain = fm.contrast_tests(few, "condition", "kenward-roger-2")
        for name in (*SAME, "df"):
            np.testing.assert_array_equal(getattr(table, name), getattr(plain, name))
        assert table.prior is None
        assert any("49 genes are too few" in words for words in table.notes)

    @pytest.mark.parametrize(("genes", "said"), [(50, True), (199, True), (200, False)])
    def test_few(self, genes, said):
        fit = group_designs.fit_groups(groups(genes=genes), "~ condition")
        table = fm.contrast_tests(fit, "condition", EB)
        assert table.prior.n_genes.sum() == genes
        assert any("estimated from" in words for words in table.notes) == said


class TestDegenerateGenes:
    def test_they_have_a_status_and_touch_no_other(self):
        plain = groups()
        total, square = plain.sum.copy(), plain.sumsq.copy()
        n = plain.obs["n_cells"].to_numpy(float)
        total[:, 0], square[:, 0] = 0.0, 0.0
        total[:, 1], square[:, 1] = 2.0 * n, 4.0 * n
        odd = group_designs.fit_groups(replace(plain, sum=total, sumsq=square), "~ condition")
        assert list(odd.status[:2]) == ["all_zero", "perfect_fit"]
        table = fm.contrast_tests(odd, "condition", EB)
        assert list(table.status[:2, 0]) == ["all_zero", "perfect_fit"]
        assert np.isnan(table.p_value[:2]).all() and (table.prior.stratum[:2] == -1).all()
        without = replace(
            plain, sum=plain.sum[:, 2:], sumsq=plain.sumsq[:, 2:], genes=plain.genes[2:]
        )
        rest = fm.contrast_tests(group_designs.fit_groups(without, "~ condition"), "condition", EB)
        np.testing.assert_allclose(table.p_value[2:], rest.p_value, rtol=1e-6)

    def test_rare_genes(self, simple):
        status = simple.status.astype("<U20")
        status[:3] = "low_expression"
        table = fm.contrast_tests(replace(simple, status=status), "condition", EB)
        assert (table.status[:3] == "low_expression").all() and np.isnan(table.p_value[:3]).all()
        assert table.prior.n_genes.sum() == simple.n_genes - 3


class TestGivenPriors:
    def test_of_these_genes(self, simple):
        found = fm.contrast_tests(simple, "condition", EB)
        for prior in (found, found.prior):
            again = fm.contrast_tests(simple, "condition", EB, prior=prior)
            for name in SAME:
                np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
        assert (again.prior.n_genes == 0).all() and np.isnan(again.prior.loglik).all()

    def test_of_another_study_for_few_genes(self, simple):
        prior = fm.contrast_tests(simple, "condition", EB).prior
        few = group_designs.fit_groups(groups(m=6, genes=5), "~ condition")
        table = fm.contrast_tests(few, "condition", EB, prior=prior)
        assert np.isfinite(table.p_value).all()
        assert list(table.prior.genes) == list(few.genes)

    def test_by_level(self):
        fits = fm.fit_within(
            groups(types=2),
            "cell_type",
            "~ condition",
            ["subject"],
            size_factors=None,
            min_counts=None,
        )
        table = fm.contrast_tests(fits, "condition")
        assert table.ddf == EB and set(table.prior) == {"T0", "T1"}
        again = fm.contrast_tests(fits, "condition", prior=table)
        np.testing.assert_array_equal(again.p_value, table.p_value)
        with pytest.raises(InputError, match="there is none for 'T1'"):
            fm.contrast_tests(fits, "condition", prior={"T0": table.prior["T0"]})

    @pytest.mark.parametrize(
        ("points", "weights", "words"),
        [
            (np.ones((2, 2)), [0.5, 0.5], "the model has 1 random terms"),
            (np.ones((2, 1)), [0.5, 0.4], "sum to one"),
            (np.ones((2, 1)), [1.5, -0.5], "probabilities"),
            (np.ones((2, 1)), [np.nan, 1.0], "probabilities"),
            (np.ones((3, 1)), [0.5, 0.5], "its grid has 3 points"),
            (np.array([[-1.0], [1.0]]), [0.5, 0.5], "not negative"),
            (np.array([[np.inf], [1.0]]), [0.5, 0.5], "finite"),
        ],
    )
    def test_wrong_ones(self, simple, points, weights, words):
        with pytest.raises(InputError, match=f"prior: .*{words}"):
            fm.contrast_tests(simple, "condition", EB, prior=prior_of(points, weights))

    @pytest.mark.parametrize("prior", [3.0, "k1", {"T0": 1}])
    def test_no_prior_at_all(self, simple, prior):
        with pytest.raises(InputError, match=r"found (float|str|dict)"):
            fm.contrast_tests(simple, "condition", EB, prior=prior)
        with pytest.raises(InputError, match="takes no prior"):
            fm.contrast_tests(simple, "condition", "residual", prior=prior)


class TestRefusals:
    def test_ml(self):
        ml = group_designs.fit_groups(groups(), "~ condition", method="ML")
        with pytest.raises(InputError, match="defined for REML fits"):
            fm.contrast_tests(ml, "condition", EB)

    def test_negative_components(self):
        free = group_designs.fit_groups(groups(), "~ condition", nonnegative=False)
        with pytest.raises(InputError, match="fit with nonnegative=True"):
            fm.contrast_tests(free, "condition", EB)

    def test_four_components(self):
        random = ("subject", "cell_type", "subject:cell_type", "subject:condition")
        g = groups(types=3, paired=True, genes=60)
        four = group_designs.fit_groups(g, "~ condition", random)
        with pytest.raises(InputError, match="this model has 4"):
            fm.contrast_tests(four, "condition", EB)

    def test_moderated(self, simple):
        with pytest.raises(InputError, match="moderate=True does not go"):
            fm.contrast_tests(simple, "condition", EB, moderate=True)


class TestKinship:
    def test_against_a_dense_computation(self):
        rng = np.random.default_rng(2)
        n, traits = 40, 60
        A = rng.normal(size=(n, 60))
        K = A @ A.T / 60
        X = np.column_stack([np.ones(n), rng.normal(size=n)])
        root = np.linalg.cholesky(K + 1e-9 * np.eye(n))
        Y = 0.7 * root @ rng.normal(size=(n, traits)) + rng.normal(size=(n, traits))
        fit = fm.fit_kinship_lmm(fm.rotate_by_kinship(K, Y, X))
        c = np.array([[0.0], [1.0]])
        table = fm.contrast_tests(fit, c, EB)
        points, weights = table.prior.points[:, 0], table.prior.weights[0]
        loglik, b, s = np.empty((3, traits, len(points)))
        for k, gamma in enumerate(points):
            V = np.linalg.inv(gamma * K + np.eye(n))
            H = X.T @ V @ X
            beta = np.linalg.solve(H, X.T @ V @ Y)
            Q = np.einsum("nt,nm,mt->t", Y - X @ beta, V, Y - X @ beta)
            log_det = np.linalg.slogdet(H)[1] - np.linalg.slogdet(V)[1]
            loglik[:, k] = -0.5 * ((n - 2) * np.log(Q) + log_det)
            b[:, k], s[:, k] = beta[1], np.sqrt(Q / (n - 2) * np.linalg.inv(H)[1, 1])
        w = weights * np.exp(loglik - loglik.max(1, keepdims=True))
        w /= w.sum(1, keepdims=True)
        upper = (w * stats.t.sf(b / s, n - 2)).sum(1)
        expected = 2 * np.minimum(upper, 1 - upper)
        np.testing.assert_allclose(table.estimate[:, 0], (w * b).sum(1), rtol=1e-6)
        np.testing.assert_allclose(table.p_value[:, 0], expected, rtol=1e-6)
