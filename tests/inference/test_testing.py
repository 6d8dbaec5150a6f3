"""contrast_tests: forms of contrasts, alternatives, adjustment, frames, replication."""

from __future__ import annotations

import numpy as np
import oracle
import pandas as pd
import pytest
from scipy import stats as distributions
from statsmodels.stats.multitest import multipletests

import flashmm as fm
from flashmm.inference.table import adjust_p_values

NAMES = [
    "Intercept",
    "log(libsize)",
    "type[B cells, naive]",
    "type[CD14+ M.]",
    "trt[T.stim]",
    "x:trt[T.stim]",
]


@pytest.fixture(scope="module", params=[1, 2], ids=["K1", "K2"])
def fit(request):
    Y, X, Z = oracle.problem(6, components=request.param)
    sizes = [z.shape[1] for z in Z]
    stats = fm.summary_statistics_from_matrices(
        Y, X, np.hstack(Z), component_sizes=sizes, coefficients=NAMES
    )
    return fm.fit_lmm(stats)


def test_every_coefficient_by_default(fit):
    table = fm.contrast_tests(fit)
    assert table.contrast_names == tuple(NAMES)
    assert table.ddf == "kenward-roger"
    np.testing.assert_allclose(table.estimate, fit.coef, rtol=1e-12)
    assert (table.std_error >= fit.std_error * (1 - 1e-12)).all()


def test_residual_df_is_the_plain_t_test(fit):
    table = fm.contrast_tests(fit, ddf="residual")
    np.testing.assert_allclose(table.std_error, fit.std_error, rtol=1e-9)
    assert (table.df == fit.df_residual).all()
    expected = 2 * distributions.t.sf(np.abs(fit.coef / fit.std_error), fit.df_residual)
    np.testing.assert_allclose(table.p_value, expected, rtol=1e-8)


def test_the_same_contrast_in_every_form(fit):
    weights = np.array([0, 0, 1.0, -0.5, 0, 0])
    forms = [
        {"c": "type[B cells, naive] - type[CD14+ M.]/2"},
        {"c": {"type[B cells, naive]": 1, "type[CD14+ M.]": -0.5}},
        {"c": weights},
        ["type[B cells, naive] - 0.5*type[CD14+ M.]"],
        weights[:, None],
        pd.DataFrame({"c": weights}, index=NAMES),
    ]
    tables = [fm.contrast_tests(fit, form) for form in forms]
    for table in tables[1:]:
        np.testing.assert_allclose(table.p_value, tables[0].p_value, rtol=1e-12)
    np.testing.assert_allclose(tables[0].estimate[:, 0], fit.coef @ weights, rtol=1e-10, atol=1e-12)


def test_alternatives(fit):
    two, less, greater = (
        fm.contrast_tests(fit, alternative=a).p_value for a in ("two-sided", "less", "greater")
    )
    np.testing.assert_allclose(less + greater, 1.0, rtol=1e-12)
    np.testing.assert_allclose(two, 2 * np.minimum(less, greater), rtol=1e-9)


@pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning")
@pytest.mark.parametrize("ddf", ["kenward-roger", "satterthwaite", "residual"])
def test_joint_test_of_one_row_is_the_squared_t(fit, ddf):
    single = fm.contrast_tests(fit, {"c": "trt[T.stim]"}, ddf=ddf)
    twice = fm.contrast_tests(fit, {"c": ["trt[T.stim]", "2*trt[T.stim]"]}, ddf=ddf)
    assert twice.df_num.tolist() == [1]
    np.testing.assert_allclose(twice.p_value, single.p_value, rtol=1e-9)


@pytest.mark.filterwarnings("ignore::flashmm.FlashmmWarning")
@pytest.mark.parametrize("ddf", ["kenward-roger", "satterthwaite", "residual"])
def test_joint_test_depends_on_the_span_only(fit, ddf):
    first = fm.contrast_tests(fit, {"c": ["trt[T.stim]", "x:trt[T.stim]"]}, ddf=ddf)
    second = fm.contrast_tests(
        fit,
        {"c": ["trt[T.stim] + 1000*x:trt[T.stim]", "x:trt[T.stim]", "trt[T.stim] - x:trt[T.stim]"]},
        ddf=ddf,
    )
    assert first.df_num.tolist() == second.df_num.tolist() == [2]
    for name in ("statistic", "df", "p_value"):
        np.testing.assert_allclose(getattr(second, name), getattr(first, name), rtol=1e-6)
    assert np.isnan(first.estimate).all() and np.isnan(first.std_error).all()
    assert "df_num" in first.to_frame().columns


def test_kenward_roger_f_against_its_classical_matrices(fit):
    """Two rows, from the dense covariance and its derivatives."""
    K = len(fit.components) - 1
    Y, X, Z = oracle.problem(6, components=K)
    table = fm.contrast_tests(fit, {"c": ["trt[T.stim]", "x:trt[T.stim]"]})
    L = np.eye(6)[4:]
    for g in range(Y.shape[1]):
        adjusted, Phi, D, W = oracle.kenward_roger(Y[:, g], X, Z, fit.theta[g])
        R = [np.linalg.solve(L @ Phi @ L.T, L @ Dk @ L.T) for Dk in D]
        k = range(len(D))
        A1 = sum(W[i, j] * np.trace(R[i]) * np.trace(R[j]) for i in k for j in k)
        A2 = sum(W[i, j] * np.trace(R[i] @ R[j]) for i in k for j in k)
        B = (A1 + 6 * A2) / 4
        gg = (3 * A1 - 6 * A2) / (4 * A2)
        den = 6 + 2 * (1 - gg)
        V0, V1, V2 = 1 + gg / den * B, 1 - (2 - gg) / den * B, 1 - (4 - gg) / den * B
        rho = ((1 - A2 / 2) / V1) ** 2 * V0 / (2 * V2)
        df = 4 + 4 / (2 * rho - 1)
        b = L @ fit.coef[g]
        F = df * (1 - A2 / 2) / (df - 2) * b @ np.linalg.solve(L @ adjusted @ L.T, b) / 2
        assert table.df[g, 0] == pytest.approx(df, rel=1e-7)
        assert table.statistic[g, 0] == pytest.approx(F, rel=1e-7)


def test_kenward_roger_does_not_count_cells_at_a_singular_fit():
    Y, X, Z = oracle.problem(0)  # gene 0 has no subject variance
    stats = fm.summary_statistics_from_matrices(
        Y[:, :1], X, Z[0], component_sizes=[8], coefficients=NAMES
    )
    fit = fm.fit_lmm(stats)
    assert fit.status.tolist() == ["boundary"]
    between = {"c": "trt[T.stim]"}
    assert fm.contrast_tests(fit, between).df[0, 0] < 60
    with pytest.warns(fm.FlashmmWarning, match="count cells"):
        table = fm.contrast_tests(fit, between, ddf="satterthwaite")
    assert table.df[0, 0] == pytest.approx(fit.df_residual)
    assert table.notes


def test_adjusted_p_values_leave_nan_out():
    p = np.array([0.01, np.nan, 0.04, 0.03, np.nan])
    adjusted = adjust_p_values(p)
    fine = ~np.isnan(p)
    np.testing.assert_allclose(adjusted[fine], multipletests(p[fine], method="fdr_bh")[1])
    assert np.isnan(adjusted[~fine]).all()
    assert np.isnan(adjust_p_values(np.full(3, np.nan))).all()


def test_frames(fit):
    table = fm.contrast_tests(fit, {"a": "trt[T.stim]", "b": "x:trt[T.stim]"})
    frame = table.to_frame()
    assert list(frame.columns) == (
        [
            "gene",
            "contrast",
            "estimate",
            "std_error",
            "statistic",
            "df",
            "p_value",
            "log10_p",
            "adj_p_value",
            "status",
        ]
    )
    assert len(frame) == 2 * fit.n_genes
    row = frame[(frame.gene == fit.genes[2]) & (frame.contrast == "b")].iloc[0]
    assert row.p_value == table.p_value[2, 1]
    pertpy = table.to_frame(names="pertpy")
    assert {"variable", "log_fc", "p_value", "adj_p_value", "contrast"} <= set(pertpy.columns)
    with pytest.raises(fm.InputError, match="names"):
        table.to_frame(names="scanpy")
    assert "2 contrasts" in repr(table)


def test_bad_options(fit):
    with pytest.raises(fm.InputError, match="ddf"):
        fm.contrast_tests(fit, ddf="welch")
    with pytest.raises(fm.InputError, match="alternative"):
        fm.contrast_tests(fit, alternative="both")
    with pytest.raises(fm.InputError, match="direction"):
        fm.contrast_tests(fit, {"c": ["trt[T.stim]", "Intercept"]}, alternative="less")
    with pytest.raises(fm.FormulaError, match="stim"):
        fm.contrast_tests(fit, "trt[T.ctrl]")


class TestReplication:
    """Conditions between subjects need at least two subjects each."""

    def fit(self, subjects_per_condition):
        rng = np.random.default_rng(0)
        subject = rng.integers(0, sum(subjects_per_condition), 300)
        bounds = np.cumsum(subjects_per_condition)
        condition = np.searchsorted(bounds, subject, side="right")
        adata = self.adata(rng, subject, condition)
        groups = fm.summarise(adata, by=["subject", "condition", "batch"], covariates=[])
        stats = fm.summary_statistics(groups, "~ condition + batch", ["subject"])
        return fm.fit_lmm(stats)

    def adata(self, rng, subject, condition):
        import anndata

        obs = pd.DataFrame(
            {
                "subject": pd.Series(subject).map("S{}".format),
                "condition": pd.Series(condition).map("c{}".format),
                "batch": rng.choice(["b1", "b2"], len(subject)),
            }
        )
        obs.index = obs.index.astype(str)
        counts = rng.poisson(1.0, size=(len(subject), 5)).astype(float)
        return anndata.AnnData(counts, obs=obs)

    @pytest.mark.filterwarnings("ignore:.*(take cells as replicates|that count cells)")
    @pytest.mark.parametrize("ddf", ["kenward-roger", "satterthwaite", "jackknife"])
    def test_one_subject_has_words_and_a_status(self, ddf):
        fit = self.fit([4, 1])
        with pytest.warns(fm.FlashmmWarning, match=r"'c1' of 'condition' has one subject"):
            table = fm.contrast_tests(fit, ["condition", "batch"], ddf=ddf)
        assert table.status[:, 0].tolist() == ["too_few_subjects"] * 5
        np.testing.assert_array_equal(table.estimate[:, 0], fit.coef[:, 1])
        for name in ("std_error", "df", "p_value", "conf_low"):
            assert np.isnan(getattr(table, name)[:, 0]).all()
        assert np.isfinite(table.p_value[:, 1]).all()

    def test_contrasts_of_other_levels_are_tested(self):
        fit = self.fit([3, 3, 1])
        with pytest.warns(fm.FlashmmWarning, match=r"'c2' of 'condition' has one subject.*c1\]' c"):
            table = fm.contrast_tests(
                fit, ["condition", "condition[T.c2] - condition[T.c1]", "Intercept"]
            )
        assert np.isfinite(table.p_value).all(0).tolist() == [True, False, False, True]

    def test_one_subject_is_not_estimable_among_all_coefficients(self):
        fit = self.fit([4, 1])
        with pytest.warns(fm.FlashmmWarning, match="one subject"):
            table = fm.contrast_tests(fit)
        tested = dict(zip(table.contrast_names, np.isfinite(table.p_value).all(0), strict=True))
        assert tested == {"Intercept": True, "condition[T.c1]": False, "batch[T.b2]": True}

    def test_two_subjects_are_tested(self):
        fit = self.fit([3, 2])
        with pytest.warns(fm.FlashmmWarning, match="3 degrees of freedom between subjects"):
            table = fm.contrast_tests(fit, "condition")
        assert np.isfinite(table.p_value).all()
        assert (table.df < 20).all()


class TestCellsAsReplicates:
    """A condition within subjects needs a random term that holds it."""

    @pytest.fixture
    def groups(self):
        spec = fm.SimulationSpec(
            n_genes=20, n_cells=800, n_subjects=6, n_cell_types=2, nested=False, n_de_genes=0
        )
        adata = fm.simulate_counts(spec, seed=3).adata
        return fm.summarise(adata, by=["subject", "cell_type", "condition"])

    def table(self, groups, random):
        stats = fm.summary_statistics(groups, "~ cell_type + cell_type:condition", random)
        return fm.contrast_tests(fm.fit_lmm(stats), "condition")

    def test_is_said(self, groups):
        with pytest.warns(fm.FlashmmWarning, match="cells as replicates"):
            table = self.table(groups, ["subject", "subject:cell_type"])
        assert any("'subject:condition'" in text for text in table.notes)

    def test_is_not_said_where_subjects_are_the_replicates(self, groups):
        table = self.table(groups, ["subject", "subject:cell_type:condition"])
        assert not any("replicates" in text for text in table.notes)
        assert np.median(table.df) < 30
