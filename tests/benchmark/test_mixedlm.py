"""MixedLM against lme4, ordinary least squares and dense likelihoods; its failures as data."""

from __future__ import annotations

import json
import warnings
from types import SimpleNamespace

import anndata as ad
import numpy as np
import oracle
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from references import lme4_cases
from scipy import sparse, stats
from statsmodels.regression import mixed_linear_model

from flashmm.benchmark import mixedlm
from flashmm.benchmark.mixedlm import choose_genes, fit_mixedlm, peak_memory_mib
from flashmm.options import FlashmmWarning, InputError

FIXED = "~ 0 + log(libsize) + cell_type + cell_type:condition"
TEST_COLUMNS = [
    "gene", "contrast", "estimate", "std_error", "statistic", "df", "p_value", "log10_p",
    "adj_p_value", "status",
]  # fmt: skip


def small_counts(cells=300, genes=6, seed=0, subject_sd=0.4) -> ad.AnnData:
    """Counts of 6 subjects, 2 types, 2 conditions; the last gene has none."""
    rng = np.random.default_rng(seed)
    subject, kind = rng.integers(0, 6, cells), rng.integers(0, 2, cells)
    effects = rng.normal(0, subject_sd, (6, genes))
    counts = rng.poisson(np.exp(1 + effects[subject] + 0.3 * kind[:, None]))
    counts[:, -1] = 0
    obs = pd.DataFrame(
        {
            "subject": [f"S{i}" for i in subject],
            "cell_type": np.array(["A", "B"])[kind],
            "condition": np.array(["ctrl", "stim"])[subject % 2],
            "libsize": counts.sum(1).astype(float),
        },
        index=[f"cell{i}" for i in range(cells)],
    )
    X = sparse.csr_matrix(counts.astype(np.float32))
    return ad.AnnData(X, obs=obs, var=pd.DataFrame(index=[f"g{j}" for j in range(genes)]))


def one_response(y, obs: pd.DataFrame) -> ad.AnnData:
    obs = obs.set_axis([f"cell{i}" for i in range(len(obs))], axis=0)
    return ad.AnnData(np.asarray(y, float)[:, None], obs=obs, var=pd.DataFrame(index=["y"]))


def balanced(between: float, seed=1, subjects=8, cells=12) -> ad.AnnData:
    """One response, balanced one-way layout; `between` = 0 makes equal subject means."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(subjects, cells))
    noise -= noise.mean(1, keepdims=True)
    y = 5 + noise + between * rng.normal(size=(subjects, 1))
    obs = pd.DataFrame({"subject": np.repeat([f"S{i}" for i in range(subjects)], cells)})
    return one_response(y.ravel(), obs)


def fit_one(data, fixed="~ 1", random=("subject",), **options):
    return fit_mixedlm(data, ["y"], fixed, list(random), transform="none", **options)


# --- against lme4 ------------------------------------------------------------------------------

LME4 = [
    ("longitudinal", "y", "~ day", ["subject"]),
    ("boundary", "y", "~ 1", ["batch"]),
    ("nested", "y", "~ 1", ["batch", "sample"]),
    ("crossed", "y", "~ 1", ["plate", "sample"]),
    # lme4's own, where they are beside the project
    ("sleepstudy", "Reaction", "~ Days", ["Subject"]),
    ("dyestuff2", "Yield", "~ 1", ["Batch"]),
    ("pastes", "strength", "~ 1", ["batch", "sample"]),
    ("penicillin", "diameter", "~ 1", ["plate", "sample"]),
]


@pytest.mark.parametrize("method", ["reml", "ml"])
@pytest.mark.parametrize(
    ("case", "response", "fixed", "random"), [case for case in LME4 if case[0] in lme4_cases()]
)
def test_lme4(case, response, fixed, random, method):
    folder = lme4_cases()[case]
    data = pd.read_csv(folder / "data.csv", dtype=dict.fromkeys(random, str))
    adata = one_response(data[response], data.drop(columns=response))
    result = fit_one(adata, fixed, random, reml=method == "reml")
    reference = json.loads((folder / "case.json").read_text())
    # the log-likelihood needs no conversion
    loglik = float(reference[f"logLik_{method}"])
    assert result.fits.loglik[0] == pytest.approx(loglik, abs=1e-6)
    fixef = pd.read_csv(folder / f"fixef_{method}.csv")
    np.testing.assert_allclose(result.coefficients.estimate, fixef.estimate, rtol=1e-6)
    np.testing.assert_allclose(result.coefficients.std_error, fixef.se, rtol=1e-4)
    np.testing.assert_allclose(result.coefficients.statistic, fixef.t, rtol=1e-4)
    variances = pd.read_csv(folder / f"varcomp_{method}.csv").set_index("group").variance
    ours = [result.fits[f"theta:{name}"][0] for name in (*random, "residual")]
    expected = variances[[*random, "Residual"]].to_numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-3 * expected.sum())


# --- against closed forms ----------------------------------------------------------------------


def test_balanced_layout_has_the_estimates_of_the_analysis_of_variance():
    data = balanced(between=0.8)
    y = data.X.reshape(8, 12)
    within = y.var(1, ddof=1).mean()
    means = y.mean(1).var(ddof=1)
    row = fit_one(data, optimisers=["powell"]).fits.iloc[0]
    assert row["theta:residual"] == pytest.approx(within, rel=1e-4)
    assert row["theta:subject"] == pytest.approx(means - within / 12, rel=1e-3)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("random", [["subject"], ["subject", "subject:cell_type"]])
def test_loglik_and_coefficients_are_those_of_the_dense_model_at_theta(random, reml):
    data = small_counts()
    result = fit_mixedlm(data, ["g0", "g1"], FIXED, random, reml=reml)
    obs = data.obs
    groupings = {"subject": obs.subject, "subject:cell_type": obs.subject + obs.cell_type}
    Z = [pd.get_dummies(groupings[name]).to_numpy(float) for name in random]
    kinds = pd.get_dummies(obs.cell_type).to_numpy(float)
    treated = (obs.condition == "stim").to_numpy(float)[:, None]
    X = np.column_stack([np.log(obs.libsize), kinds, kinds * treated])
    for gene, row in result.fits.set_index("gene").iterrows():
        y = np.log2(1 + data[:, gene].X.toarray().ravel().astype(float))
        theta = row[[f"theta:{name}" for name in (*random, "residual")]].to_numpy(float)
        V = oracle.covariance(Z, theta)
        assert row.loglik == pytest.approx(oracle.loglik(y, X, V, reml), abs=1e-6)
        beta, _ = oracle.gls(y, X, V)
        found = result.coefficients.query("gene == @gene").set_index("coefficient").estimate
        names = ["log(libsize)", "cell_type[A]", "cell_type[B]"]
        np.testing.assert_allclose(found[names], beta[:3], rtol=1e-7)
        np.testing.assert_allclose(found[list(found.index[3:])], beta[3:], rtol=1e-7)


def test_slope_alone_is_a_random_coefficient():
    rng = np.random.default_rng(3)
    subject, x = np.repeat(np.arange(9), 15), rng.normal(size=135)
    x[::7] = 0  # cells without a level
    y = 1 + x * rng.normal(1, 0.7, 9)[subject] + 0.3 * rng.normal(size=135)
    data = one_response(y, pd.DataFrame({"subject": [f"S{i}" for i in subject], "x": x}))
    row = fit_one(data, "~ x", ["0 + x || subject"]).fits.iloc[0]
    Z = [np.eye(9)[subject] * x[:, None]]
    theta = row.filter(like="theta:").to_numpy(float)
    X = np.column_stack([np.ones(135), x])
    expected = oracle.loglik(y, X, oracle.covariance(Z, theta), reml=True)
    assert row.loglik == pytest.approx(expected, abs=1e-6)
    assert row["theta:subject|x"] == pytest.approx(0.49, rel=0.7)


# --- failures are data -------------------------------------------------------------------------


def test_zero_component_fails_and_the_fallback_is_least_squares():
    data = balanced(between=0.0)
    result = fit_one(data)
    assert "lbfgs" in set(result.failures.optimiser)
    row = result.fits.iloc[0]
    assert (row.converged, row.status) == (True, "boundary")
    assert row.optimiser in ("bfgs", "powell")
    assert row.attempts == len(result.attempts) > 1
    assert row["theta:subject"] < 1e-6 * row["theta:residual"]
    y = data.X.ravel()
    coefficient = result.coefficients.iloc[0]
    assert coefficient.estimate == pytest.approx(y.mean())
    assert coefficient.std_error == pytest.approx(y.std(ddof=1) / np.sqrt(96), rel=1e-4)


def test_counts_of_failures_go_by_optimiser():
    result = fit_one(balanced(between=0.0), optimisers=["lbfgs", "bfgs", "powell", "nm"])
    counts = result.failure_counts.set_index("optimiser")
    assert list(counts.index) == ["lbfgs", "bfgs", "powell", "nm"]
    assert counts.tried.sum() == len(result.attempts)
    assert counts.failed.sum() == len(result.failures) == len(result.attempts) - 1
    assert counts.tried["nm"] == 0


def test_gene_without_counts_is_a_status():
    result = fit_mixedlm(small_counts(), ["g5", "g0"], FIXED, ["subject"])
    row = result.fits.set_index("gene").loc["g5"]
    assert (row.status, row.converged, row.attempts) == ("all_zero", False, 0)
    assert np.isnan(row.loglik) and np.isnan(row["theta:residual"])
    tests = result.tests.query("gene == 'g5'")
    assert tests.p_value.isna().all() and (tests.status == "all_zero").all()
    assert result.tests.query("gene == 'g0'").p_value.notna().all()
    assert list(result.fits.gene) == ["g5", "g0"]


class FakeModel:
    """Stands in for MixedLM: `outcomes` says per optimiser what its fit is, or raises."""

    outcomes: dict

    def __init__(self, y, X, **arguments):
        self.p = X.shape[1]

    def fit(self, reml, method):
        outcome = self.outcomes[method[0]]
        if isinstance(outcome, Exception):
            raise outcome
        warnings.warn(f"{method[0]} warns", stacklevel=1)
        base = {
            "converged": True,
            "llf": -10.0,
            "fe_params": np.ones(self.p),
            "cov_params": lambda: np.eye(self.p + 1),
            "cov_re": np.ones((1, 1)),
            "scale": 2.0,
        }
        return SimpleNamespace(**(base | outcome))


def fake_fit(monkeypatch, **outcomes):
    monkeypatch.setattr(FakeModel, "outcomes", outcomes, raising=False)
    monkeypatch.setattr(mixed_linear_model, "MixedLM", FakeModel)
    return fit_one(balanced(between=0.5), optimisers=list(outcomes))


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        ({"llf": np.inf}, "log-likelihood is not finite"),
        ({"llf": np.nan}, "log-likelihood is not finite"),
        ({"fe_params": np.array([np.nan])}, "estimates are not finite"),
        ({"scale": np.inf}, "estimates are not finite"),
        ({"cov_params": lambda: -np.eye(2)}, "standard errors are not defined"),
        ({"converged": False}, "not converged"),
        (np.linalg.LinAlgError("Singular matrix"), "LinAlgError: Singular matrix"),
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"),
    ],
)
def test_fits_that_cannot_be_used_are_failures_also_when_called_converged(
    monkeypatch, outcome, reason
):
    result = fake_fit(monkeypatch, lbfgs=outcome, powell={"llf": -12.0})
    assert result.failures.to_numpy().tolist() == [["y", "lbfgs", reason]]
    row = result.fits.iloc[0]
    assert (row.optimiser, row.loglik, row.converged) == ("powell", -12.0, True)


def test_warnings_are_kept_and_not_shown(monkeypatch):
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        result = fake_fit(monkeypatch, lbfgs={"converged": False}, bfgs={})
    # anndata sets an option that pandas 3 announces to remove
    assert not [w for w in shown if "infer_string" not in str(w.message)]
    assert result.attempts.warnings.tolist() == ["lbfgs warns", "bfgs warns"]


def test_best_likelihood_is_kept_when_no_optimiser_converges(monkeypatch):
    poor = {"converged": False, "llf": -30.0}
    better = {"converged": False, "llf": -20.0}
    result = fake_fit(monkeypatch, lbfgs=poor, bfgs=better, powell={"llf": np.nan})
    row = result.fits.iloc[0]
    assert (row.optimiser, row.loglik) == ("bfgs", -20.0)
    assert (row.converged, row.status) == (False, "not_converged")
    assert len(result.failures) == 3
    assert result.coefficients.estimate.notna().all()


def test_nothing_is_made_up_when_every_optimiser_breaks_down(monkeypatch):
    error = np.linalg.LinAlgError("Singular matrix")
    result = fake_fit(monkeypatch, lbfgs=error, powell=error)
    row = result.fits.iloc[0]
    assert (row.optimiser, row.converged, row.status) == ("", False, "not_converged")
    assert np.isnan(row.loglik)
    assert result.coefficients[["estimate", "std_error", "p_value"]].isna().all(axis=None)
    assert result.tests.log10_p.isna().all()


def test_programming_errors_are_not_taken_for_failures(monkeypatch):
    with pytest.raises(TypeError):
        fake_fit(monkeypatch, lbfgs=TypeError("wrong call"))


# --- design ------------------------------------------------------------------------------------


def test_crossed_components_are_one_group_and_nested_ones_many():
    subject = np.repeat(np.arange(4), 6)
    nested, crossed = subject * 2 + np.arange(24) % 2, np.arange(24) % 3
    Z = sparse.csr_array(np.hstack([np.eye(4)[subject], np.eye(8)[nested]]))
    groups = mixedlm._independent_groups(Z)
    assert len(np.unique(groups)) == 4
    assert (pd.crosstab(groups, subject) > 0).to_numpy().sum() == 4
    Z = sparse.csr_array(np.hstack([np.eye(4)[subject], np.eye(3)[crossed]]))
    assert set(mixedlm._independent_groups(Z)) == {0}


def test_dependent_columns_are_dropped_with_a_note_and_untestable():
    data = small_counts()
    data.obs["twice"] = 2 * np.log(data.obs.libsize)
    contrasts = {"twice": {"twice": 1.0}, "libsize": {"log(libsize)": 1.0}}
    with pytest.warns(FlashmmWarning, match="dropped: 'twice'"):
        result = fit_mixedlm(
            data, ["g0"], "~ log(libsize) + twice", ["subject"], contrasts=contrasts
        )
    tests = result.tests.set_index("contrast")
    assert tests.status["twice"] == "not_estimable" and np.isnan(tests.p_value["twice"])
    assert tests.status["libsize"] == "ok"
    assert result.coefficients.set_index("coefficient").estimate.isna().sum() == 1
    assert any("twice" in text for text in result.notes)


# --- tests of contrasts ------------------------------------------------------------------------


def test_every_coefficient_is_tested_by_z():
    result = fit_mixedlm(small_counts(), ["g0", "g1"], FIXED, ["subject"])
    tests, coefficients = result.tests, result.coefficients
    assert list(tests) == TEST_COLUMNS
    assert list(tests.contrast) == list(coefficients.coefficient)
    np.testing.assert_allclose(tests.statistic, tests.estimate / tests.std_error)
    np.testing.assert_allclose(tests.p_value, 2 * stats.norm.sf(np.abs(tests.statistic)))
    np.testing.assert_allclose(10**tests.log10_p, tests.p_value, rtol=1e-9)
    assert np.isinf(tests.df).all()
    pair = tests[tests.contrast == "log(libsize)"]
    np.testing.assert_allclose(
        pair.adj_p_value, stats.false_discovery_control(pair.p_value), rtol=1e-12
    )


def test_contrasts_are_combinations_and_joint_tests_are_walds():
    one, two = "cell_type[A]:condition[T.stim]", "cell_type[B]:condition[T.stim]"
    contrasts = {"difference": {one: 1.0, two: -1.0}, "both": [{one: 1.0}, {two: 1.0}]}
    result = fit_mixedlm(small_counts(), ["g0"], FIXED, ["subject"], contrasts=contrasts)
    beta = result.coefficients.set_index("coefficient").estimate
    tests = result.tests.set_index("contrast")
    assert tests.estimate["difference"] == pytest.approx(beta[one] - beta[two])
    assert tests.df_num.tolist() == [1, 2]
    assert np.isnan(tests.estimate["both"])
    expected = stats.chi2.sf(2 * tests.statistic["both"], 2)
    assert tests.p_value["both"] == pytest.approx(expected)
    # the joint test is at least as far out as either of its parts
    assert 2 * tests.statistic["both"] >= tests.statistic["difference"] ** 2 - 1e-9


# --- input, output, choice of genes ------------------------------------------------------------


@pytest.mark.parametrize("layout", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_file_and_memory_agree(tmp_path, layout):
    data = small_counts()
    expected = fit_mixedlm(data, ["g2", "g0"], FIXED, ["subject"])
    data.layers["counts"] = layout(data.X.toarray())
    data.X = sparse.csr_matrix(np.ones(data.shape, dtype=np.float32))
    data.write_h5ad(tmp_path / "counts.h5ad")
    found = fit_mixedlm(tmp_path / "counts.h5ad", ["g2", "g0"], FIXED, ["subject"], layer="counts")
    pd.testing.assert_frame_equal(found.coefficients, expected.coefficients)
    timed = ["seconds", "peak_memory_mib"]
    pd.testing.assert_frame_equal(found.fits.drop(columns=timed), expected.fits.drop(columns=timed))


def test_cost_is_recorded():
    result = fit_mixedlm(small_counts(), ["g0", "g1"], FIXED, ["subject"])
    assert (result.fits.seconds > 0).all()
    per_gene = result.attempts.groupby("gene").seconds.sum()
    assert (per_gene.to_numpy() <= result.fits.set_index("gene").seconds[per_gene.index]).all()
    assert (result.fits.peak_memory_mib >= 1).all()
    assert result.fits.peak_memory_mib.is_monotonic_increasing
    assert peak_memory_mib() >= result.fits.peak_memory_mib.max()
    assert result.options["statsmodels"] and result.options["optimisers"] == [
        "lbfgs",
        "bfgs",
        "powell",
    ]


@pytest.mark.parametrize(
    ("genes", "options", "message"),
    [
        ([], {}, "genes: none"),
        (["g0", "g0"], {}, "more than once"),
        (["nope"], {}, "nope"),
        (["g0"], {"optimisers": ["newton"]}, "newton.*powell"),
        (["g0"], {"optimisers": []}, "optimisers: none"),
        (["g0"], {"transform": "sqrt"}, "sqrt"),
    ],
)
def test_bad_requests_are_refused(genes, options, message):
    with pytest.raises(InputError, match=message):
        fit_mixedlm(small_counts(), genes, FIXED, ["subject"], **options)


def test_chosen_genes_are_spread_over_expression():
    mean = pd.Series(np.r_[0.0, 0.0, np.arange(1, 101)], index=[f"g{i}" for i in range(102)])
    shuffled = mean.sample(frac=1, random_state=1)
    chosen = choose_genes(shuffled, 10, seed=4)
    assert chosen == choose_genes(shuffled, 10, seed=4) != choose_genes(shuffled, 10, seed=5)
    assert sorted((mean[chosen] - 1) // 10) == list(range(10))
    assert chosen == [gene for gene in shuffled.index if gene in set(chosen)]


def test_chosen_genes_have_expression_and_are_at_most_all():
    mean = pd.Series([0.0, 3.0, 1.0], index=["zero", "high", "low"])
    assert choose_genes(mean, 5) == ["high", "low"]
    groups = SimpleNamespace(
        genes=pd.Index(["zero", "high", "low"]), sum=np.array([[0.0, 2.0, 1.0], [0.0, 1.0, 0.0]])
    )
    assert choose_genes(groups, 5) == ["high", "low"]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 1000))
def test_chosen_names_are_distinct_and_in_order(n, total, seed):
    names = [f"g{i}" for i in range(total)]
    chosen = choose_genes(names, n, seed)
    assert len(set(chosen)) == len(chosen) == min(n, total)
    assert [names.index(gene) for gene in chosen] == sorted(map(names.index, chosen))


def test_at_least_one_gene_must_be_asked_for():
    with pytest.raises(InputError, match="at least one"):
        choose_genes(["a"], 0)


def test_nothing_but_empty_genes_gives_empty_attempts():
    result = fit_mixedlm(small_counts(), ["g5"], FIXED, ["subject"])
    assert result.attempts.empty and result.failures.empty
    assert result.failure_counts.tried.tolist() == [0, 0, 0]
    assert result.fits.status.tolist() == ["all_zero"]
