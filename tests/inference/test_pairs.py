"""All pairs of levels against R, contrasts by hand and definitions."""

from __future__ import annotations

from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from group_designs import groups_of

import flashmm as fm

# six subjects in three conditions, two cells of each
Y = """4.6 4 6.9 6.7 8.2 9.7 5.8 6.4 4.8 4.2 6 5.1 7 7.8 7.2 7.1 9.3 8.4 7.3 5.2 7.6 7.6 7.7 7.4
       8.7 6.9 8.3 8.4 11.3 11.6 7.9 6.1 8.1 9 9.1 10.1"""

DOSES, TIMES = ["subject", "subject:cell_type:dose"], ["subject", "subject:cell_type:time"]


@pytest.fixture(scope="module")
def balanced():
    rows = [(f"S{s}", c) for s in range(6) for c in "abc" for _ in range(2)]
    obs = pd.DataFrame(rows, columns=["subject", "condition"])
    adata = ad.AnnData(
        np.array(Y.split(), dtype=float)[:, None], obs=obs.set_index(obs.index.astype(str))
    )
    groups = fm.summarise(adata, ["subject", "condition"], transform="none", progress=False)
    stats = fm.summary_statistics(groups, "~ condition", ["subject", "subject:condition"])
    return fm.fit_lmm(stats)


def groups(types=2, missing=None, subjects=6, genes=5):
    """Subjects at times 0 to 2 and in types; some groups left out."""
    rows = [
        {"subject": f"S{s}", "cell_type": f"T{k}", "dose": "xyz"[t], "time": 1.5 * t}
        for s in range(subjects)
        for k in range(types)
        for t in range(3)
    ]
    obs = pd.DataFrame(rows)
    if missing is not None:
        obs = obs[~missing(obs)].reset_index(drop=True)
    return groups_of(obs, genes=genes, seed=1, sd=(0.4, 0.2))


def test_numbers_that_stand_for_levels_are_places():
    """With C(time) the pairs of a factor have a family at each time, as with times of text."""
    data = groups()
    text = data.obs.assign(time=data.obs["time"].astype(str))
    tables = [
        fm.pairwise(
            fm.fit_lmm(fm.summary_statistics(one, f"~ cell_type * {time}", TIMES)), "cell_type"
        )
        for one, time in ((data, "C(time)"), (replace(data, obs=text), "time"))
    ]
    assert [name.split(":")[0] for name in tables[0].contrast_names] == [
        *("time[0.0]", "time[1.5]", "time[3.0]")
    ]
    assert tables[0].contrast_names == tables[1].contrast_names
    np.testing.assert_allclose(tables[0].p_value, tables[1].p_value, rtol=1e-9)


def test_a_balanced_design_is_tukeys(balanced):
    """R: TukeyHSD(aov(mean ~ condition + subject), "condition"), of the means of two cells."""
    table = fm.pairwise(balanced, "condition")
    assert table.contrast_names == ("condition[b vs a]", "condition[c vs a]", "condition[c vs b]")
    np.testing.assert_allclose(table.df, 10.0)
    np.testing.assert_allclose(table.estimate[0], [0.6833333333, 2.1833333333, 1.5], rtol=1e-9)
    expected = [0.525266802226, 0.012835909161, 0.079743167736]
    np.testing.assert_allclose(table.p_value[0], expected, rtol=1e-6)
    np.testing.assert_allclose(
        table.conf_low[0], [-0.992290191582, 0.507709808418, -0.175623524915], rtol=1e-6
    )
    np.testing.assert_allclose(table.conf_high[0, 0], 2.35895685825, rtol=1e-6)
    np.testing.assert_allclose(table.log10_p, np.log10(table.p_value))


def test_holm_is_by_its_definition(balanced):
    plain = fm.pairwise(balanced, "condition", adjust="none").p_value[0]
    order = np.argsort(plain)
    steps = np.maximum.accumulate(plain[order] * [3, 2, 1])
    found = fm.pairwise(balanced, "condition", adjust="holm").p_value[0]
    np.testing.assert_allclose(found[order], np.minimum(steps, 1.0))


def test_two_levels_need_no_adjustment():
    data = groups(missing=lambda obs: obs["dose"] == "z")
    fit = fm.fit_lmm(fm.summary_statistics(data, "~ dose + cell_type", DOSES))
    plain = fm.contrast_tests(fit, ("dose", "y", "x"))
    for adjust in ("tukey", "holm"):
        table = fm.pairwise(fit, "dose", adjust=adjust)
        np.testing.assert_allclose(table.p_value, plain.p_value, rtol=1e-8)
        np.testing.assert_allclose(table.conf_low, plain.conf_low, rtol=1e-8)


def test_pairs_within_each_level_of_another_factor():
    fit = fm.fit_lmm(fm.summary_statistics(groups(), "~ 0 + cell_type + cell_type:dose", DOSES))
    table = fm.pairwise(fit, "dose", adjust="none")
    assert [c.family for c in table.contrasts] == ["cell_type[T0]:"] * 3 + ["cell_type[T1]:"] * 3
    assert table.contrast_names[4] == "cell_type[T1]:dose[z vs x]"
    by_hand = "cell_type[T1]:dose[T.z] - cell_type[T1]:dose[T.y]"
    np.testing.assert_allclose(
        table.statistic[:, 5], fm.contrast_tests(fit, by_hand).statistic[:, 0], rtol=1e-9
    )
    together = fm.pairwise(fit, "dose")
    assert (together.p_value >= table.p_value - 1e-12).all()


def test_numbers_are_compared_where_they_define_groups():
    fit = fm.fit_lmm(fm.summary_statistics(groups(), "~ poly(time, 2) + cell_type", TIMES))
    coded = fm.fit_lmm(fm.summary_statistics(groups(), "~ C(time) + cell_type", TIMES))
    parabola, levels = (fm.pairwise(f, "time") for f in (fit, coded))
    assert parabola.contrast_names == ("time[1.5 vs 0.0]", "time[3.0 vs 0.0]", "time[3.0 vs 1.5]")
    # three times and three coefficients: one model
    np.testing.assert_allclose(parabola.p_value, levels.p_value, rtol=1e-6)
    one = fm.contrast_tests(fit, ("time", "3.0", "0.0"))
    np.testing.assert_allclose(one.estimate[:, 0], levels.estimate[:, 1], rtol=1e-8)


def test_slopes_of_a_number_are_compared():
    fit = fm.fit_lmm(fm.summary_statistics(groups(), "~ 0 + cell_type + cell_type:time", TIMES))
    table = fm.pairwise(fit, "cell_type", adjust="none")
    assert table.contrast_names == ("cell_type[T1 vs T0]", "cell_type[T1 vs T0]:time")
    by_hand = fm.contrast_tests(fit, "cell_type[T1]:time - cell_type[T0]:time")
    np.testing.assert_allclose(table.estimate[:, 1], by_hand.estimate[:, 0], rtol=1e-9)


def test_one_model_per_level():
    data = groups(genes=60, missing=lambda o: (o["cell_type"] == "T1") & (o["dose"] == "z"))
    fits = fm.fit_within(
        data, "cell_type", "~ dose", ["subject", "subject:dose"], min_counts=None, size_factors=None
    )
    table = fm.pairwise(fits, "dose", "kenward-roger-2")
    alone = fm.pairwise(fits.fits["T0"], "dose", "kenward-roger-2")
    np.testing.assert_allclose(table.p_value[:, :3], alone.p_value)
    # without z, T1 has one pair, whose p-value stays
    plain = fm.pairwise(fits.fits["T1"], "dose", "kenward-roger-2", adjust="none")
    np.testing.assert_allclose(table.p_value[:, table.levels.index("T1")], plain.p_value[:, 0])
    with pytest.warns(fm.FlashmmWarning, match="from 60 genes"):
        assert fm.pairwise(fits, "dose").ddf == "empirical-bayes"
    with pytest.warns(fm.FlashmmWarning), pytest.raises(fm.InputError, match="mixtures"):
        fm.pairwise(fits, "dose", adjust="tukey")


def test_what_is_refused(balanced):
    with pytest.raises(fm.InputError, match=r"a fit .*; found a TestTable"):
        fm.pairwise(fm.contrast_tests(balanced, "condition"), "condition")
    with pytest.raises(fm.InputError, match="tukey, holm, none"):
        fm.pairwise(balanced, "condition", adjust="dunnett")
    with pytest.raises(fm.FormulaError, match="did you mean 'condition'"):
        fm.pairwise(balanced, "conditon")
    with pytest.raises(fm.FormulaError, match="no column of the groups"):
        fm.pairwise(balanced, "subject")
    rng = np.random.default_rng(0)
    Z = np.eye(4)[np.arange(40) % 4]
    matrices = fm.summary_statistics_from_matrices(
        rng.normal(size=(40, 1)), np.ones((40, 1)), Z, [4]
    )
    with pytest.raises(fm.FormulaError, match="need groups and a formula"):
        fm.pairwise(fm.fit_lmm(matrices), "condition")
