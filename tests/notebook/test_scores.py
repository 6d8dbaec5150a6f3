"""Matrices and ranked lists of scores for other programs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from group_designs import crossed, groups_of
from scipy import special

import flashmm as fm


@pytest.fixture(scope="module")
def table():
    groups = groups_of(crossed(8, types=2), genes=12, sd=(0.3, 0.0))
    fits = fm.fit_within(
        groups, "cell_type", "~ condition", ["subject"], min_counts=None, size_factors=None
    )
    return fm.contrast_tests(fits, ("condition", "stim", "ctrl"), "kenward-roger")


def test_z_has_the_p_value_of_the_test(table):
    z = table.scores(missing=None)
    shown = np.isfinite(table.p_value).any(1)
    np.testing.assert_array_equal(z.columns, table.genes[shown])
    fine = np.isfinite(table.p_value.T[:, shown])
    np.testing.assert_allclose(
        2 * special.ndtr(-np.abs(z.to_numpy()[fine])), table.p_value.T[:, shown][fine], rtol=1e-9
    )
    np.testing.assert_array_equal(
        np.sign(z.to_numpy()[fine]), np.sign(table.estimate.T[:, shown][fine])
    )
    assert not table.scores().isna().any().any()


def test_other_scores(table):
    fine = np.isfinite(table.p_value).all(1)
    genes = table.genes[fine]
    np.testing.assert_array_equal(table.scores("t")[genes].to_numpy(), table.statistic[fine].T)
    np.testing.assert_array_equal(
        table.scores("estimate")[genes].to_numpy(), table.estimate[fine].T
    )


def test_genes_without_a_test_are_left_out_or_nothing(table):
    p, statistic = table.p_value.copy(), table.statistic.copy()
    p[0] = p[1, 0] = np.nan
    holed = replace(table, p_value=p, statistic=statistic)
    assert holed.genes[0] not in holed.scores("t").columns
    assert holed.scores("t")[holed.genes[1]].iloc[0] == 0.0
    assert np.isnan(holed.scores("t", missing=None)[holed.genes[1]].iloc[0])


def test_ranked_lists(table, tmp_path):
    files = table.write_ranks(tmp_path / "ranks", "t")
    assert len(files) == len(table.contrasts)
    ranked = pd.read_csv(files[0], sep="\t", header=None)
    assert (np.diff(ranked[1]) <= 0).all()
    expected = pd.Series(table.statistic[:, 0], table.genes).dropna()
    np.testing.assert_allclose(ranked.set_index(0)[1][expected.index], expected, rtol=1e-12)


def test_what_is_refused(table, tmp_path):
    with pytest.raises(fm.InputError, match="z, t, estimate"):
        table.scores("p")
    with pytest.raises(fm.InputError, match="two-sided"):
        replace(table, alternative="greater").scores()
    twice = replace(table, levels=("T 0", "T?0"))
    with pytest.raises(fm.InputError, match="same file"):
        twice.write_ranks(tmp_path)
